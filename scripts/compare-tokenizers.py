#!/usr/bin/env python3
"""Compares llmtrain's tokenizer with Hugging Face tokenizers over random strings: ids, and the text of ids.

    pip install tokenizers
    compare-tokenizers.py --tool build/tests/encode_lines FOLDER... [--count 100000] [--seed 1] [--text FILE...]

FOLDER holds tokenizer.json. The strings are drawn from random code points of many scripts, marks and controls, source code, white space, numbers,
very long words, added tokens inside text, and pieces of the files named by --text. Prints one line per folder and each difference (at most 10);
exits 1 if there is one.
"""
import argparse, json, os, random, subprocess, sys, tempfile

BLOCKS = [(0x20, 0x7E), (0x0, 0x1F), (0x7F, 0xFF), (0x100, 0x24F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x5FF), (0x600, 0x6FF),
          (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x1E00, 0x1EFF), (0x1F00, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x21FF), (0x2460, 0x24FF),
          (0x2580, 0x259F), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xE100), (0xFB00, 0xFB4F), (0xFE00, 0xFE0F),
          (0xFF00, 0xFFEF), (0x10000, 0x1FFFF), (0x1D400, 0x1D7FF), (0x1F300, 0x1FAFF), (0x20000, 0x2FFFF), (0xE0000, 0xE01EF), (0x0, 0x10FFFF)]
SPACES = " \t\n\r\u000b\u000c\u0085\u00a0\u1680\u2000\u2003\u2009\u2028\u2029\u202f\u205f\u3000\u200b\u200d\ufeff\u2581"
WORDS = """the of and to in is that it was for on are as with his they I at be this have from or one had by word but not what all were we when your can said
there use an each which she do how their if will up other about out many then them these so some her would make like him into time has look two more
write go see number no way could people my than first water been call who oil its now find long down day did get come made may part don't I'm you've
he'll she'd it's WE'RE can'T 'Tis o'clock naïve café über façade déjà Straße Привет мир как дела 你好 世界 我们 的 是 不 了 在 有 人 这 日本語 テスト カタカナ 안녕하세요
한국어 العربية مرحبا עברית ไทย हिन्दी নমস্কার Ελληνικά Tiếng Việt türkçe İstanbul 🎉 👩‍👩‍👧‍👦 👍🏽 🇩🇪 1234567890 3.14159 0xDEADBEEF 1e-5 2026-11-21 ½ Ⅷ ² ٣ ५""".split()
CODE = ["def f(x):\n    return x + 1\n", "for (int i = 0; i < n; ++i) {\n\t\ta[i] *= 2;\n\t}\n", "#include <vector>\r\n", "std::map<std::string, int>", "x->y.z", "&&", "||", "!=", "==",
        "/* comment */", "// TODO: fix", "\"quoted\\n\"", "'c'", "SELECT * FROM t WHERE a='b';", "<html><body class=\"x\">", "</div>", "{\"key\": [1, 2, null]}", "    ", "\t\t\t",
        "camelCaseName", "snake_case_name", "CONSTANT_NAME", "https://example.org/a?b=c&d=%20", "$\\frac{a}{b}$", "```python\n", "\n\n\n", "----", "====", "...", "->", "=>", "()", "[];"]


def code_point(rng, block):
    while True:
        c = rng.randint(*block)
        if not 0xD800 <= c <= 0xDFFF:
            return chr(c)


def piece(rng, added, corpus):
    kind = rng.random()
    if kind < 0.22:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 12)))
    if kind < 0.32:
        return "".join(rng.choice(CODE) for _ in range(rng.randint(1, 5)))
    if kind < 0.50:
        block = rng.choice(BLOCKS)
        return "".join(code_point(rng, block) for _ in range(rng.randint(1, 12)))
    if kind < 0.60:
        return "".join(code_point(rng, rng.choice(BLOCKS)) for _ in range(rng.randint(1, 12)))
    if kind < 0.70:
        return "".join(rng.choice(SPACES) for _ in range(rng.randint(1, 6)))
    if kind < 0.76:
        return "".join(rng.choice("0123456789.,-+eE") for _ in range(rng.randint(1, 14)))
    if kind < 0.86 and added:
        token = rng.choice(added)
        if rng.random() < 0.3:
            token = token[: rng.randint(0, len(token))]
        return rng.choice(["", "", " ", "\n", "a", "  "]) + token + rng.choice(["", "", " ", "\n", "a", "\t "])
    if kind < 0.88:
        unit = "".join(code_point(rng, rng.choice(BLOCKS)) for _ in range(rng.randint(1, 3)))
        return unit * rng.randint(1, 3000 // (len(unit) * rng.choice([1, 1, 10, 100])))
    if kind < 0.90:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyzABC") for _ in range(rng.randint(1, rng.choice([20, 100, 4000]))))
    if kind < 0.93:
        return "".join(rng.choice("aeiou\u0301\u0308\u0323\u0327\u0345\u0316\u093c\u05b0\u1100\u1161\u11a8\uac00") for _ in range(rng.randint(1, 16)))
    if corpus and kind < 0.99:
        at = rng.randrange(len(corpus))
        return corpus[at : at + rng.randint(1, 200)]
    return rng.choice("'\u2019") + rng.choice(["s", "T", "re", "VE", "m", "Ll", "d", "\u017f", "x", "l", "v"]) + rng.choice(["", "a", " "])


def strings(rng, count, added, corpus):
    for _ in range(count):
        yield "".join(piece(rng, added, corpus) for _ in range(rng.choice([1, 1, 2, 3, 5, 8])))


def ours(tool, folder, mode, lines):
    with tempfile.TemporaryFile("w+", encoding="utf-8") as f:
        for line in lines:
            f.write(line + "\n")
        f.seek(0)
        done = subprocess.run([tool, folder] + mode, stdin=f, stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in done.stdout.decode("utf-8").split("\n")[:-1]]


def compare(folder, a, corpus):
    from tokenizers import Tokenizer

    theirs = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    theirs.no_truncation()
    theirs.no_padding()
    added = [t.content for t in theirs.get_added_tokens_decoder().values()]
    rng = random.Random(a.seed)
    texts = list(strings(rng, a.count, added, corpus))
    size = sum(len(t.encode()) for t in texts)
    wrong = 0
    for begin in range(0, len(texts), 20000):
        block = texts[begin : begin + 20000]
        expected = [e.ids for e in theirs.encode_batch(block, add_special_tokens=False)]
        got = ours(a.tool, folder, [], [json.dumps(t) for t in block])
        assert len(got) == len(block), "the tool printed %d lines for %d" % (len(got), len(block))
        for text, e, g in zip(block, expected, got):
            if e != g:
                wrong += 1
                if wrong <= 10:
                    at = next((i for i, (x, y) in enumerate(zip(e, g)) if x != y), min(len(e), len(g)))
                    print("  ids differ at %d: %r\n    expected …%s\n    got      …%s" % (at, text[:200], e[at : at + 8], g[at : at + 8]))
        rows = expected[:: max(1, len(expected) // 2000)]
        rows += [[rng.randrange(theirs.get_vocab_size()) for _ in range(rng.randint(1, 12))] for _ in range(2000)]
        for row, text in zip(rows, ours(a.tool, folder, ["--decode"], [json.dumps(r) for r in rows])):
            expected_text = theirs.decode(row, skip_special_tokens=False)
            if expected_text != text:
                wrong += 1
                if wrong <= 10:
                    print("  texts differ: %s\n    expected %r\n    got      %r" % (row[:20], expected_text[:200], text[:200]))
    print("%s: %d strings, %.1f MB, seed %d: %s" % (folder, len(texts), size / 1e6, a.seed, "%d DIFFER" % wrong if wrong else "all equal"))
    return wrong


ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("folders", nargs="+")
ap.add_argument("--tool", required=True, help="the program encode_lines of the build")
ap.add_argument("--count", type=int, default=100000)
ap.add_argument("--seed", type=int, default=1)
ap.add_argument("--text", nargs="*", default=[], help="files whose text is mixed in")
a = ap.parse_args()
corpus = "".join(open(f, encoding="utf-8").read() for f in a.text)
sys.exit(1 if sum(compare(folder, a, corpus) for folder in a.folders) else 0)
