#!/usr/bin/env python3
"""The peer on one GPU: transformers' model, compiled by PyTorch, without a sharding wrapper; trains on random tokens as `llmtrain bench` does.

    python3 peer_torch.py MODEL_FOLDER_WITH_CONFIG_JSON --seq 1024 --micro-batch 32 [--states bfloat16|mixed|float32] [--seconds 120] [--device cuda|cpu]

Random weights and tokens from --seed; every token is trained; AdamW (fused), weight decay 0.1, clipping at 1.0; accumulation 1; attention through
PyTorch's scaled_dot_product_attention with no mask but the causal one, so that its flash kernels run.
--states: bfloat16 = weights, gradients and both moments in bf16 (8 bytes a parameter); mixed = fp32 weights computed in bf16 by autocast with fp32
moments, which is the nearest that torch's own AdamW offers (16 bytes); float32 likewise. No stochastic rounding exists there.

Compiling the whole model takes minutes for a deep one, so --seconds is divided: a few steps as they come, then the compiled ones. A JSON object on one
line is printed after the former and, anew, as the latter go on; the last line counts, and a run that is ended early has left one. Where memory ends, half
the micro-batch is tried, and `out_of_memory_at` names the largest that did not fit. A line: tokens a second (median step after --warmup), seconds a step
with their spread, peak memory of the device as PyTorch reserved it and as tensors took it, versions. Exit code 77 without torch, transformers or a GPU.
"""
import argparse, gc, json, statistics, sys, time

started = time.perf_counter()
ap = argparse.ArgumentParser()
ap.add_argument("model")
ap.add_argument("--seq", type=int, default=1024)
ap.add_argument("--micro-batch", type=int, default=4)
ap.add_argument("--steps", type=int, default=34, help="compiled steps, the warm-up included")
ap.add_argument("--warmup", type=int, default=4)
ap.add_argument("--eager-steps", type=int, default=6, help="steps before, not compiled")
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
generator = torch.Generator(device=device).manual_seed(a.seed)
out_of_memory_at = None


def synchronize():
    if a.device == "cuda":
        torch.cuda.synchronize()


def step(forward, micro_batch):
    ids = torch.randint(0, config.vocab_size, (micro_batch, a.seq), generator=generator, device=device)
    with torch.autocast(a.device, dtype=torch.bfloat16, enabled=a.states != "bfloat16"):
        loss = forward(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def report(compiled, micro_batch, times, losses, warmup):
    measured = times[warmup:] or times[-1:]
    median = statistics.median(measured)
    memory = {}
    if a.device == "cuda":
        memory = dict(peak_device_mib=torch.cuda.max_memory_reserved() // 2**20, peak_allocated_mib=torch.cuda.max_memory_allocated() // 2**20)
    if out_of_memory_at:
        memory["out_of_memory_at"] = out_of_memory_at
    print(json.dumps(dict(
        peer="pytorch", compiled=compiled, torch=torch.__version__, transformers=transformers.__version__, params=parameters, states=a.states,
        recompute="full" if a.recompute else "none", seq=a.seq, micro_batch=micro_batch, steps=len(times), measured_steps=len(measured),
        warmed_up=len(times) > warmup, seconds_per_step=round(median, 5), fastest_step=round(min(measured), 5), slowest_step=round(max(measured), 5),
        tokens_per_second=round(micro_batch * a.seq / median, 1), seconds_of_first_step=round(times[0], 1), **memory, losses=losses)), flush=True)


def train(forward, compiled, micro_batch, steps, warmup, until):
    """Steps until `steps` or `until` seconds since the start; prints a line now and then, the last one at the end."""
    times, losses, printed = [], [], time.perf_counter()
    for _ in range(steps):
        begin = time.perf_counter()
        loss = step(forward, micro_batch)
        synchronize()
        now = time.perf_counter()
        times.append(now - begin)
        losses.append(round(float(loss), 4))
        following = times[-1] if len(times) > 1 else 0  # the first compiles: it says nothing about the next
        if now - started + following > until:
            break
        if len(times) > warmup and now - printed > 5:
            report(compiled, micro_batch, times, losses, warmup)
            printed = now
    # A compiled step that was cut off in its warm-up says less than the line before it.
    if len(times) > warmup or not compiled:
        report(compiled, micro_batch, times, losses, warmup)


def train_what_fits(forward, compiled, micro_batch, *limits):
    """The micro-batch that fitted: that one, or half as large ones."""
    global out_of_memory_at
    while True:
        try:
            train(forward, compiled, micro_batch, *limits)
            return micro_batch
        except torch.cuda.OutOfMemoryError:
            if micro_batch == 1:
                raise
        out_of_memory_at = out_of_memory_at or micro_batch
        micro_batch //= 2
        optimizer.zero_grad()
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


if a.no_compile:
    train_what_fits(model, False, a.micro_batch, a.steps, a.warmup, a.seconds)
    sys.exit(0)
# As it comes: half the micro-batch is no loss here, the compiled run starts from the whole one again (it keeps less).
train_what_fits(model, False, a.micro_batch, a.eager_steps, 2, a.seconds / 4)
out_of_memory_at = None
if a.device == "cuda":
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
train_what_fits(torch.compile(model, dynamic=False), True, a.micro_batch, a.steps, a.warmup, a.seconds)
