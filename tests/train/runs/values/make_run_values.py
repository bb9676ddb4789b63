"""Writes run_values.json: make_run_values.py COMPAT OUT. Needs LLaMA-Factory (pip install llamafactory==0.9.5) and a copy of shared/compat in which tokenizer
files are no links; the product and its tests do not.

Short runs that LLaMA-Factory itself does on a CPU with one process, each with keys that the golden runs of shared/compat leave out: what it logs, which keys stand in
each line of trainer_log.jsonl, and its results. As in those runs the gradient norm is taken in float64.
"""
import json
import os
import pathlib
import sys
import tempfile

os.environ.update(DISABLE_VERSION_CHECK="1", CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

BASE = dict(
    stage="sft", do_train=True, finetuning_type="full", model_name_or_path="models/tiny-llama", template="llama2", dataset_dir="llamafactory/data",
    dataset="identity", max_samples=14, cutoff_len=96, overwrite_cache=True, preprocessing_num_workers=1, per_device_train_batch_size=3, learning_rate=1e-3,
    num_train_epochs=1.0, lr_scheduler_type="cosine", warmup_ratio=0.1, logging_steps=1, save_strategy="no", overwrite_output_dir=True, report_to="none",
    use_cpu=True, disable_shuffling=True)
# Datasets with num_samples; a test writes the same file.
DRAWN = {"seven": {"file_name": "../llamafactory/data/identity.json", "num_samples": 7},
         "more": {"file_name": "five.json", "num_samples": 8},
         "five": {"file_name": "five.json", "num_samples": 5}}
CASES = {
    "shuffled": dict(disable_shuffling=False, num_train_epochs=2.0, gradient_accumulation_steps=2),
    "data_seed": dict(disable_shuffling=False, seed=7, data_seed=123, num_train_epochs=1.4),
    "val_fraction": dict(val_size=0.3, seed=5, eval_strategy="steps", eval_steps=0.4, eval_on_start=True, per_device_eval_batch_size=2),
    "val_count_delayed": dict(val_size=3, eval_strategy="epoch", eval_delay=2, num_train_epochs=2.0, per_device_eval_batch_size=2),
    "val_packed": dict(val_size=0.2, neat_packing=True, max_samples=30, dataset="identity,alpaca_en_demo", eval_strategy="epoch", max_steps=5),
    "pt_evaluated": dict(stage="pt", dataset="c4_demo", max_samples=3, val_size=0.4, cutoff_len=64, eval_strategy="steps", eval_steps=2, max_steps=2),
    "interleaved": dict(dataset="identity,alpaca_en_demo", mix_strategy="interleave_over", interleave_probs="0.3,0.7", max_samples=6),
    "interleaved_under": dict(dataset="identity,alpaca_en_demo", mix_strategy="interleave_under", interleave_probs="0.6,0.4", max_samples=9),
    "num_samples": dict(dataset="seven,more", eval_dataset="five", dataset_dir="drawn", max_samples=None, eval_strategy="epoch"),
    "drop_last": dict(dataloader_drop_last=True, num_train_epochs=2.0, gradient_accumulation_steps=3, eval_dataset="alpaca_en_demo", eval_strategy="epoch",
                      per_device_eval_batch_size=4),
    "each_dataset": dict(eval_dataset="identity,alpaca_en_demo", max_samples=7, eval_on_each_dataset=True, eval_strategy="epoch", per_device_eval_batch_size=4),
    "stable_decay": dict(lr_scheduler_type="warmup_stable_decay", lr_scheduler_kwargs=dict(min_lr_ratio=0.1), warmup_steps=1, num_train_epochs=2.0),
    "padded_tokens": dict(include_num_input_tokens_seen=True, gradient_accumulation_steps=2, train_sampling_strategy="sequential", disable_shuffling=False),
    "freeze_first": dict(finetuning_type="freeze", freeze_trainable_layers=-1, freeze_trainable_modules="self_attn,input_layernorm", freeze_extra_modules="norm",
                         weight_decay=0.5, adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-3, max_grad_norm=0.1),
    "phi3_workers": dict(model_name_or_path="models/tiny-phi3", template="phi", neat_packing=True, max_samples=30, dataset="alpaca_en_demo",
                         preprocessing_num_workers=3, preprocessing_batch_size=7, cutoff_len=128),
}
NOT_COMPARED = ("runtime", "per_second", "total_flos", "model_preparation_time")


def float64_clipping():
    import torch

    def clip(parameters, max_norm, *_, **__):
        with_gradient = [p for p in parameters if p.grad is not None]
        total = torch.sqrt(sum((p.grad.double() ** 2).sum() for p in with_gradient))
        for p in with_gradient:
            p.grad.mul_(torch.clamp(max_norm / (total + 1e-6), max=1.0).to(p.grad.dtype))
        return total

    torch.nn.utils.clip_grad_norm_ = clip


def compared(entry):
    return {k: v for k, v in entry.items() if not any(part in k for part in NOT_COMPARED)}


def run(options, out):
    from llamafactory.train.tuner import run_exp

    child = os.fork()  # a process of its own: LLaMA-Factory changes its templates in place
    if child == 0:
        run_exp({k: v for k, v in {**BASE, **options, "output_dir": out}.items() if v is not None})
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        sys.exit("LLaMA-Factory failed")
    folder = pathlib.Path(out)
    state = json.loads((folder / "trainer_state.json").read_text())
    results = json.loads((folder / "all_results.json").read_text())
    return dict(
        options=options, max_steps=state["max_steps"], num_train_epochs=state["num_train_epochs"], log_history=[compared(h) for h in state["log_history"]],
        log_lines=[sorted(json.loads(line)) for line in (folder / "trainer_log.jsonl").read_text().splitlines()], results=compared(results))


if __name__ == "__main__":
    out = os.path.abspath(sys.argv[2])
    os.chdir(sys.argv[1])
    os.makedirs("drawn", exist_ok=True)
    json.dump(DRAWN, open("drawn/dataset_info.json", "w"))
    json.dump(json.load(open("llamafactory/data/alpaca_en_demo.json"))[:5], open("drawn/five.json", "w"))
    import torch
    torch.set_num_threads(1)
    float64_clipping()
    import llamafactory.train.tuner
    cases = {}
    for name, options in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            cases[name] = run(options, folder)
    with open(out, "w") as file:
        file.write('{"base": %s,\n"cases": {\n' % json.dumps(BASE))
        file.write(",\n".join('"%s": %s' % (name, json.dumps(case)) for name, case in cases.items()) + "}}\n")
