#!/usr/bin/env python3
"""The peer on one GPU: transformers' model, compiled by PyTorch, without a sharding wrapper; trains on random tokens as `llmtrain bench` does.

    python3 peer_torch.py MODEL_FOLDER_WITH_CONFIG_JSON --seq 1024 --micro-batch 32 [--states bfloat16|mixed|float32] [--seconds 120] [--device cuda|cpu]

Random weights and tokens from --seed; every token is trained; AdamW (fused), weight decay 0.1, clipping at 1.0; accumulation 1.
--states: bfloat16 = weights, gradients and both moments in bf16 (8 bytes a parameter); mixed = fp32 weights computed in bf16 by autocast with fp32
moments, which is the nearest that torch's own AdamW offers (16 bytes); float32 likewise. No stochastic rounding exists there.
Prints a JSON object on one line after --steps steps or when --seconds are over, whichever comes first, so that a slow start still leaves a figure:
tokens a second (median step after --warmup), seconds a step with their spread, peak memory of the device, versions. Exit code 77 without torch,
transformers or a GPU.
"""
import argparse, json, statistics, sys, time

started = time.perf_counter()
ap = argparse.ArgumentParser()
ap.add_argument("model")
ap.add_argument("--seq", type=int, default=1024)
ap.add_argument("--micro-batch", type=int, default=4)
ap.add_argument("--steps", type=int, default=34)
ap.add_argument("--warmup", type=int, default=4)
ap.add_argument("--seconds", type=float, default=120, help="stop after so long, the start and compiling included")
ap.add_argument("--states", default="bfloat16", choices=["bfloat16", "mixed", "float32"])
ap.add_argument("--recompute", action="store_true", help="recompute every layer (gradient checkpointing)")
ap.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
ap.add_argument("--no-compile", action="store_true")
ap.add_argument("--seed", type=int, default=7)
a = ap.parse_args()

try:
    import torch, transformers
    from transformers import AutoConfig, AutoModelForCausalLM
except ImportError as e:
    print(f"SKIPPED: peer_torch\t{e}")
    sys.exit(77)
if a.device == "cuda" and not torch.cuda.is_available():
    print("SKIPPED: peer_torch\ttorch sees no GPU")
    sys.exit(77)

torch.manual_seed(a.seed)
device = torch.device(a.device)
config = AutoConfig.from_pretrained(a.model)
kind = torch.bfloat16 if a.states == "bfloat16" else torch.float32
with device:
    try:
        model = AutoModelForCausalLM.from_config(config, dtype=kind, attn_implementation="sdpa")
    except TypeError:  # before transformers 4.56
        model = AutoModelForCausalLM.from_config(config, torch_dtype=kind, attn_implementation="sdpa")
model.train()
if a.recompute:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
parameters = sum(p.numel() for p in model.parameters())
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
step_model = model if a.no_compile else torch.compile(model)
generator = torch.Generator(device=device).manual_seed(a.seed)


def synchronize():
    if a.device == "cuda":
        torch.cuda.synchronize()


def step():
    ids = torch.randint(0, config.vocab_size, (a.micro_batch, a.seq), generator=generator, device=device)
    with torch.autocast(a.device, dtype=torch.bfloat16, enabled=a.states != "bfloat16"):
        loss = step_model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss


times, losses = [], []
for _ in range(a.steps):
    begin = time.perf_counter()
    loss = step()
    synchronize()
    times.append(time.perf_counter() - begin)
    losses.append(round(float(loss), 4))
    if time.perf_counter() - started > a.seconds:
        break
measured = times[a.warmup:] or times[-1:]
median = statistics.median(measured)
print(json.dumps(dict(
    peer="pytorch" + ("" if a.no_compile else ", compiled"), torch=torch.__version__, transformers=transformers.__version__, params=parameters,
    states=a.states, seq=a.seq, micro_batch=a.micro_batch, steps=len(times), measured_steps=len(measured), warmed_up=len(times) > a.warmup,
    seconds_per_step=round(median, 5), fastest_step=round(min(measured), 5), slowest_step=round(max(measured), 5),
    tokens_per_second=round(a.micro_batch * a.seq / median, 1), seconds_until_first_step_done=round(times[0], 1),
    peak_device_mib=torch.cuda.max_memory_reserved() // 2**20 if a.device == "cuda" else None, losses=losses)), flush=True)
