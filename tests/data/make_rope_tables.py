#!/usr/bin/env python3
"""Writes tests/data/rope_tables.json: rotary frequencies as Hugging Face transformers computes them, for configurations of every kind.

    pip install torch transformers
    python tests/data/make_rope_tables.py > tests/data/rope_tables.json

Each case: config (a config.json), sequence_length, inv_freq (float32, printed exactly), attention_scaling.
"""
import copy, json
import torch
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
import importlib

BASE = dict(vocab_size=320, hidden_size=128, num_hidden_layers=1, intermediate_size=112, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=256)
N = 16  # half of the head size
SHORT, LONG = [1.0 + 0.05 * i for i in range(N)], [1.0 + 0.6 * i for i in range(N)]


def new(kind, theta, **more):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=theta, **more))


def old(kind, theta, key="type", **more):
    return dict(rope_theta=theta, rope_scaling={key: kind, **more})


CASES = [
    ("llama", dict(rope_theta=500000.0), [0]),
    ("llama", new("default", 10000.0), [0]),
    ("llama", new("linear", 10000.0, factor=4.0), [0]),
    ("llama", old("dynamic", 10000.0, factor=2.0), [0, 256, 257, 1000]),
    ("llama", new("dynamic", 500000.0, factor=3.0), [300]),
    ("llama", old("llama3", 500000.0, key="rope_type", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64), [0]),
    ("llama", new("llama3", 500000.0, factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192), [0]),
    ("qwen2", old("yarn", 1000000.0, factor=4.0, original_max_position_embeddings=32768), [0]),
    ("qwen2", new("yarn", 1000000.0, factor=4.0, original_max_position_embeddings=64, beta_fast=24, beta_slow=2), [0]),
    ("qwen3", {**new("yarn", 1000000.0, factor=2.5, original_max_position_embeddings=4096, truncate=False), "head_dim": 64}, [0]),
    ("llama", new("yarn", 10000.0, factor=40.0, original_max_position_embeddings=4096, mscale=1.0, mscale_all_dim=0.707), [0]),
    ("llama", new("yarn", 10000.0, factor=8.0, original_max_position_embeddings=4096, attention_factor=1.25), [0]),
    ("llama", old("yarn", 10000.0, factor=8.0), [0]),
    ("phi3", {**old("longrope", 10000.0, short_factor=SHORT, long_factor=LONG), "original_max_position_embeddings": 64}, [0, 64, 65]),
    ("phi3", {**new("longrope", 10000.0, short_factor=SHORT, long_factor=LONG), "max_position_embeddings": 131072}, [0, 4097]),
    ("phi3", {**new("longrope", 10000.0, short_factor=SHORT[:12], long_factor=LONG[:12], attention_factor=1.5, partial_rotary_factor=0.75),
              "partial_rotary_factor": 0.75, "original_max_position_embeddings": 64}, [64, 100]),
    ("phi3", {**old("longrope", 250000.0, short_factor=SHORT[:12], long_factor=LONG[:12]), "partial_rotary_factor": 0.75,
              "original_max_position_embeddings": 64}, [0]),
    ("phi3", dict(rope_theta=250000.0, partial_rotary_factor=0.5), [0]),
    ("mistral", dict(rope_theta=1000000.0, head_dim=64), [0]),
]


def frequencies(config, length):
    module = importlib.import_module(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__module__)
    rotary = next(getattr(module, n) for n in dir(module) if n.endswith("RotaryEmbedding"))(config)
    if length:
        rotary(torch.zeros(1, 1, 4), torch.arange(length)[None])
    return rotary.inv_freq.tolist(), float(rotary.attention_scaling)


cases = []
for model_type, over, lengths in CASES:
    raw = {"model_type": model_type, **BASE, **over}
    for length in lengths:
        keys = copy.deepcopy(raw)
        keys.pop("model_type")
        inv_freq, scaling = frequencies(AutoConfig.for_model(model_type, **keys), length)
        cases.append(dict(config=raw, sequence_length=length, inv_freq=inv_freq, attention_scaling=scaling))
print("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]")
