"""Writes random_values.inc: make_random_values.py OUT. Needs numpy, torch and datasets; the product and its tests do not.

What LLaMA-Factory's choice and order of rows come from: train_test_split and interleave_datasets of Hugging Face datasets, numpy's permutation and choice after
numpy.random.seed, torch.randperm of a seeded generator. Long lists are given by their first numbers and a sum that their order enters.
"""
import sys

import datasets
import numpy as np
import torch


def line(kind, n, seed, numbers):
    total = 0
    for x in numbers:
        total = (total * 31 + x + 1) % 2**64
    return '{"%s", %du, %du, {%s}, %du},\n' % (kind, n, seed, ", ".join(str(x) for x in numbers[:10]), total)


out = []
for seed in (0, 1, 42, 2**32 + 5):
    for n in (1, 2, 3, 26, 1000, 70001):
        generator = torch.Generator()
        generator.manual_seed(seed)
        out.append(line("torch", n, seed, torch.randperm(n, generator=generator).tolist()))
        out.append(line("numpy", n, seed, np.random.default_rng(seed).permutation(n).tolist()))
for seed in (0, 42, 2**32 - 1):
    for n in (1, 5, 26, 1000):
        np.random.seed(seed)
        first = np.random.permutation(n).tolist()
        out.append(line("legacy", n, seed, first + np.random.choice(n, 13).tolist() + np.random.permutation(n).tolist()))
for seed in (3, 42):
    rows = datasets.Dataset.from_dict({"i": list(range(40))})
    parts = rows.train_test_split(test_size=0.11, seed=seed)
    out.append(line("split", 40, seed, list(parts["test"]["i"]) + list(parts["train"]["i"])))
    sets = [datasets.Dataset.from_dict({"i": [100000 * d + i for i in range(n)]}) for d, n in enumerate((9, 20, 5))]
    for name, way in (("under", "first_exhausted"), ("over", "all_exhausted")):
        mixed = datasets.interleave_datasets(sets, probabilities=[0.3, 0.6, 0.1], seed=seed, stopping_strategy=way)
        out.append(line(name, len(mixed), seed, list(mixed["i"])))
with open(sys.argv[1], "w") as file:
    file.write("// By numpy %s, torch %s and datasets %s (make_random_values.py): kind, how many, seed, the first numbers, the sum.\n" % (np.__version__, torch.__version__, datasets.__version__))
    file.writelines(out)
