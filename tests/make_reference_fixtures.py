#!/usr/bin/env python3
"""Makes tests/data/reference: tiny random models of a few families, and what Hugging Face transformers computes for them.

    pip install torch transformers safetensors
    python3 tests/make_reference_fixtures.py [--out tests/data/reference] [--seed 20261]

One folder a family: the model as save_pretrained() writes it (float32), and reference.safetensors with the values that
`check_reference FOLDER` compares (names below). The files are part of the project, so that a clone by itself can prove the
numbers; this script is only needed to make others. Sizes are chosen so that all of them stay well below 2 MiB.

    input_ids, labels        int64 [B, S]      -100: the token is not trained; labels are not shifted
    logits, logits_bf16      float32 [B, S, V] in float32, and by the same model run in bfloat16 (how large bf16's own error is)
    loss                     float32 [1]       mean over the trained tokens
    grad.NAME                float32           d loss / d parameter
    losses, grad_norms       float32 [K]       K steps of AdamW on this batch: loss before each, norm before clipping
    after.NAME               float32           parameters after the K steps
    generated                int64 [B, 8]      greedy continuation of the first 8 tokens
"""
import argparse
import pathlib

import torch
import transformers
from safetensors.torch import save_file

ROWS, LENGTH, VOCABULARY, STEPS, PROMPT, NEW = 2, 24, 96, 3, 8, 8
LEARNING_RATE, BETAS, EPSILON, DECAY, CLIP = 1e-3, (0.9, 0.95), 1e-8, 0.1, 1.0

COMMON = dict(
    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=64, initializer_range=0.1, bos_token_id=1, eos_token_id=2, pad_token_id=None)

# Each takes another way through the engine: grouped heads with scaled rope; biases with tied weights; norms of the heads with a
# head size of its own and a sliding window; fused projections with partial, long rope.
MODELS = {
    "llama": ("llama", dict(rms_norm_eps=1e-5, rope_parameters=dict(
        rope_type="llama3", rope_theta=50000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=16))),
    "qwen2": ("qwen2", dict(tie_word_embeddings=True, rms_norm_eps=1e-6)),
    "qwen3": ("qwen3", dict(head_dim=12, tie_word_embeddings=True)),
    "mistral": ("mistral", dict(num_key_value_heads=1, sliding_window=9)),
    "phi3": ("phi3", dict(
        num_key_value_heads=4, sliding_window=None, original_max_position_embeddings=16, max_position_embeddings=128,
        rope_parameters=dict(rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.75,
                             short_factor=[1.0, 1.1, 1.3], long_factor=[1.2, 1.9, 4.0]), partial_rotary_factor=0.75)),
}
WITH_PARAMETERS_AFTER = ("llama", "phi3")


def build(kind, options):
    config = transformers.AutoConfig.for_model(kind, **{**COMMON, **options})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():  # a norm of exactly 1 and a bias of exactly 0 would hide errors
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.uniform_(0.7, 1.4)
            elif name.endswith(".bias"):
                parameter.normal_(0, 0.15)
    return model


def logits_and_loss(model, ids, labels):
    logits = model(input_ids=ids, use_cache=False).logits.float()
    trained = labels[:, 1:] != -100
    picked = logits[:, :-1].log_softmax(-1).gather(-1, labels[:, 1:].clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return logits, -(picked * trained).sum() / trained.sum()


def greedy(model, prompt):
    ids = prompt
    with torch.no_grad():
        for _ in range(NEW):  # the whole prefix anew each time: no cache that could be wrong
            ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return ids[:, prompt.shape[1]:].contiguous()


def optimise(model, ids, labels):
    groups = [dict(params=[p for p in model.parameters() if p.dim() >= 2], weight_decay=DECAY),
              dict(params=[p for p in model.parameters() if p.dim() < 2], weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, foreach=False)
    losses, norms = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = logits_and_loss(model, ids, labels)[1]
        loss.backward()
        losses.append(loss.item())
        norms.append(torch.linalg.vector_norm(torch.stack([p.grad.double().norm() for p in model.parameters()])).item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
    return torch.tensor(losses), torch.tensor(norms)


def make(name, out, seed):
    kind, options = MODELS[name]
    torch.manual_seed(seed)
    model = build(kind, options)
    folder = out / name
    model.save_pretrained(folder)
    ids = torch.randint(3, VOCABULARY, (ROWS, LENGTH))
    labels = ids.clone()
    labels[0, :7] = -100
    labels[1, 10:14] = -100

    logits, loss = logits_and_loss(model, ids, labels)
    loss.backward()
    values = {"input_ids": ids, "labels": labels, "logits": logits.detach(), "loss": loss.detach().reshape(1)}
    values.update({f"grad.{n}": p.grad.clone() for n, p in model.named_parameters()})
    bf16 = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="eager")
    with torch.no_grad():
        values["logits_bf16"] = bf16(input_ids=ids, use_cache=False).logits.float()
    values["generated"] = greedy(model, ids[:, :PROMPT])
    values["losses"], values["grad_norms"] = optimise(model, ids, labels)
    if name in WITH_PARAMETERS_AFTER:
        values.update({f"after.{n}": p.detach() for n, p in model.named_parameters()})
    save_file({n: t.contiguous().clone() for n, t in values.items()}, folder / "reference.safetensors",
              metadata={"transformers": transformers.__version__, "torch": torch.__version__, "seed": str(seed)})
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name:8s} loss {values['losses'][0]:.4f} -> {values['losses'][-1]:.4f}, {size / 1024:.0f} KiB")
    return size


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "data" / "reference")
    parser.add_argument("--seed", type=int, default=20261)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    total = sum(make(name, arguments.out, arguments.seed + i) for i, name in enumerate(MODELS))
    print(f"together {total / 1024:.0f} KiB")
