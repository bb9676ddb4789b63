#!/usr/bin/env python3
"""Makes tests/data/fixtures/tokenizers.json: small tokenizers of every kind that llmtrain reads, with the ids and texts that
Hugging Face tokenizers gives. Needs `pip install tokenizers` (made with 0.23.3). Deterministic: run it again and the file is the same."""
import json, os, random, sys

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
TEXT = """The house stands on a hill above the sea, and the wind that comes in from the water is never quite still. In the morning the fishermen
walk down to the harbour; they're talking about the weather, about the price of diesel (it's 1.87 now, it was 1.54 in 2019), about nothing.
"Don't forget the nets," she'd say, and he'll answer: "I haven't forgotten anything since 1987." They've said it 10,000 times.
    def walk(self, steps=100):
        for i in range(steps):
            self.position += self.direction * 0.5
        return self.position  # where we're now
Das Straßencafé öffnet um 8 Uhr; die Gäste trinken Kaffee, lesen Zeitung und schweigen. L'été, la façade est déjà chaude à neuf heures.
Утром рыбаки идут к гавани, и ветер с моря никогда не утихает. 早上渔民们走到港口，海上的风从来没有停过。房子在海边的山上。
朝、漁師たちは港へ歩いていく。海からの風は決して止まない。아침에 어부들은 항구로 걸어간다. الصيادون يمشون إلى الميناء في الصباح
सुबह मछुआरे बंदरगाह तक चलते हैं। ตอนเช้าชาวประมงเดินไปที่ท่าเรือ 🎣🌊 🎣🌊👩‍👩‍👧
int main() { std::vector<int> a{1, 2, 3}; for (auto& x : a) { x *= 2; } return 0; }   //   three   blanks
<p class="note">a &lt; b &amp;&amp; c</p>    {"key": [1, 2, null], "other": "text"}
"""
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
U, L = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
S, TAIL = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?", r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = U + "*" + L + "+" + S + "|" + U + "+" + L + "*" + S + r"|\p{N}{1,3}" + TAIL
TEKKEN = U + "*" + L + "+|" + U + "+" + L + r"*|\p{N}" + TAIL

WRITTEN = ["", " ", "  ", "\n", "Hello world", " Hello", "  two  blanks  ", "a", "\u2581", "\u2581\u2581a \u2581b", "it's IT'S don'T we'Ve 'Tis 'x '\u017f'\u017fa l'l'll",
           "tabs\tand\r\nlines\n\n  \n x", "1234567 12 3 1.5e-10 \u0663\u0664\u0665 \u2167\u00bd\u00b2", "CamelCaseWORDsAndÉcoleÀÉa\u01c5x", "//a/b\n/\n//\n", "e\u0301\u0316 \u1e9b\u0323 \u212b \ufb01 \uac01 \u1100\u1161\u11a8 \u0958",
           "a\u0316\u0301\u0345\u0334b", "mark\u0301s \u0301x !\u0301A !!\u0301a \u0301AB", "\x00\x01\x7f\u0085\u00a0\u2028\u3000z", "海上的风从来没有停过。房子在海边", "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f4\U000e0067",
           "<a>x <a> <b>y  <b>  z<c>c <c> <d> the <e> thethe the", "x<long><longer><long", " <b> ", "\n<b>\t<b>\n", "é<b>é<é> <e\u0301>", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
           "\U000105c0\u1c89\u1c8a \U00010d41 \u0897 \U0001fbf3 \u32ff \u2460 \U00011935\U00011930", "<0x41><0x0A>", "\u4e00\u4e01\u9fa5 \u4e00", "the the\u2581the thé"]


def random_texts(rng, count):
    blocks = [(0x20, 0x7E), (0x20, 0x7E), (0, 0x17F), (0x300, 0x345), (0x400, 0x4FF), (0x900, 0x97F), (0x2000, 0x206F), (0x3040, 0x30FF), (0x4E00, 0x4E40), (0xAC00, 0xAC80), (0x1F300, 0x1F64F)]
    for _ in range(count):
        out = ""
        for _ in range(rng.randint(1, 5)):
            if rng.random() < 0.5:
                at = rng.randrange(len(TEXT))
                out += TEXT[at : at + rng.randint(1, 24)]
            else:
                block = rng.choice(blocks)
                out += "".join(chr(rng.randint(*block)) for _ in range(rng.randint(1, 6)))
        yield out


def model_of(tokenizer):
    m = json.loads(tokenizer.to_str())["model"]
    return {"vocab": m["vocab"], "merges": [" ".join(x) if isinstance(x, list) else x for x in m["merges"]]}


def byte_model():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return model_of(t)


def marker_model():
    """Characters, byte tokens, and merges over whole lines, so that some tokens hold the marker inside."""
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.Replace(" ", "\u2581")
    t.train_from_iterator(TEXT.split("\n") * 2, trainers.BpeTrainer(vocab_size=600, show_progress=False, max_token_length=8))
    m = model_of(t)
    texts = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)] + [x for x in m["vocab"]]
    return {"vocab": {x: i for i, x in enumerate(dict.fromkeys(texts))}, "merges": m["merges"]}


def added(id_, content, **flags):
    return dict(dict(id=id_, content=content, single_word=False, lstrip=False, rstrip=False, normalized=False, special=False), **flags)


def main():
    bases = {"byte": byte_model(), "marker": marker_model()}
    split = lambda regex: {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    level = lambda prefix=False, regex=False: {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}
    pre = lambda *parts: {"type": "Sequence", "pretokenizers": list(parts)}
    space = lambda scheme, cut: {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": cut}
    prepend, replace = {"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    norm = lambda *parts: {"type": "Sequence", "normalizers": list(parts)}
    fallback = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
                                                 {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    flags = lambda n: [added(n, "<a>", special=True), added(n + 1, "<b>", lstrip=True, rstrip=True, special=True), added(n + 2, "<c>", single_word=True), added(n + 3, "<d>", lstrip=True),
                       added(n + 4, "<long>"), added(n + 5, "<longer>", rstrip=True), added(n + 6, "<e>", normalized=True), added(n + 7, "<é>", normalized=True)]
    nb, nm = len(bases["byte"]["vocab"]), len(bases["marker"]["vocab"])
    full = dict(byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    byte_dec = level(True, True)
    special = [added(0, "<unk>", special=True), added(1, "<s>", special=True), added(2, "</s>", special=True, rstrip=True)]
    cases = [
        ("gpt2", "byte", {}, None, level(False, True), byte_dec, []),
        ("gpt2 with a space in front", "byte", {}, None, level(True, True), byte_dec, flags(nb)),
        ("llama3", "byte", {"ignore_merges": True}, None, pre(split(LLAMA3), level()), byte_dec, flags(nb)),
        ("qwen2", "byte", {}, {"type": "NFC"}, pre(split(QWEN2), level()), byte_dec, flags(nb)),
        ("cl100k, possessive", "byte", {}, None, pre(split(CL100K), level()), byte_dec, []),
        ("o200k", "byte", {}, None, pre(split(O200K), level()), byte_dec, []),
        ("tekken", "byte", {}, None, pre(split(TEKKEN), level()), byte_dec, []),
        ("digits", "byte", {}, None, pre({"type": "Digits", "individual_digits": True}, level(False, True)), byte_dec, []),
        ("numbers, NFKC", "byte", {}, {"type": "NFKC"}, pre({"type": "Digits", "individual_digits": False}, level(False, True)), byte_dec, flags(nb)),
        ("NFD", "byte", {}, {"type": "NFD"}, pre(split(LLAMA3), level()), byte_dec, []),
        ("NFKD", "byte", {}, {"type": "NFKD"}, pre(split(LLAMA3), level()), None, []),
        ("no regular expression", "byte", {}, None, level(False, False), byte_dec, []),
        ("bytes missing, unknown token", "byte-missing", {"unk_token": "s"}, None, level(False, True), byte_dec, []),
        ("llama2", "marker", full, norm(prepend, replace), None, fallback, special),
        ("llama2 with flags", "marker", full, norm(prepend, replace), None, fallback, special + flags(nm)),
        ("metaspace first", "marker", full, None, space("first", False), fallback, special + flags(nm)),
        ("metaspace always, cut", "marker", full, None, space("always", True), space("always", True), special),
        ("metaspace never", "marker", full, None, space("never", True), space("never", False), []),
        ("replace only", "marker", full, replace, None, fallback, special + [added(nm, "the", normalized=True), added(nm + 1, "a\u2581b", normalized=True)]),
        ("normalizer and metaspace", "marker", full, norm(prepend, replace), space("always", False), fallback, []),
        ("fused unknown", "marker", dict(full, byte_fallback=False), norm(prepend, replace), None, fallback, special),
        ("unknown one by one", "marker", dict(full, byte_fallback=False, fuse_unk=False), norm(prepend, replace), None, fallback, special),
        ("unknown dropped", "marker", dict(byte_fallback=False, fuse_unk=False, unk_token=None), replace, None, fallback, []),
        ("some bytes missing", "marker-missing", full, norm(prepend, replace), None, fallback, []),
        ("other normalizers", "marker", full, norm({"type": "NFC"}, {"type": "Prepend", "prepend": "x "}, {"type": "Replace", "pattern": {"String": "a"}, "content": " b"}), None, fallback, []),
        ("merges of byte tokens", "marker-bytes", full, norm(prepend, replace), None, fallback, []),
    ]
    drop = lambda base, gone: {"vocab": {k: i for i, k in enumerate(x for x in base["vocab"] if x not in gone)}, "merges": [m for m in base["merges"] if not set(m.split(" ")) & set(gone)
                                                                                                                          and m.replace(" ", "") not in gone]}
    byte_gone = [x for x in bases["byte"]["vocab"] if set(x) & set("ĠeÃ")]
    bases["byte-missing"] = drop(bases["byte"], byte_gone)
    bases["marker-missing"] = drop(bases["marker"], ["<0x%02X>" % b for b in range(0x80, 0xA0)])
    with_bytes = {"vocab": dict(bases["marker"]["vocab"]), "merges": list(bases["marker"]["merges"])}
    for left, right in [("<0x09>", "<0x0A>"), ("<0x00>", "a"), ("\u2581", "<0x00>"), ("<0x09>", "<0x09>")]:
        with_bytes["vocab"].setdefault(left + right, len(with_bytes["vocab"]))
        with_bytes["merges"].insert(0, left + " " + right)
    bases["marker-bytes"] = with_bytes

    rng = random.Random(20261121)
    texts = WRITTEN + list(random_texts(rng, 30)) + ["\t\n\t\t\x00a \x00"]
    out = []
    for name, base, options, normalizer, pre_tokenizer, decoder, tokens in cases:
        model = dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None, fuse_unk=False, byte_fallback=False, ignore_merges=False)
        model.update(options)
        parts = dict(version="1.0", truncation=None, padding=None, added_tokens=tokens, normalizer=normalizer, pre_tokenizer=pre_tokenizer, post_processor=None, decoder=decoder)
        t = Tokenizer.from_str(json.dumps(dict(parts, model=dict(model, **bases[base]))))
        for token in tokens:
            assert t.token_to_id(token["content"]) == token["id"], (name, token, t.token_to_id(token["content"]))
        ids = [t.encode(x, add_special_tokens=False).ids for x in texts]
        lists = [[x["id"] for x in tokens], [ids[5][0]] + [x["id"] for x in tokens]] if tokens else []
        lists += [ids[k] for k in rng.sample(range(len(ids)), 6)] + [[rng.randrange(t.get_vocab_size()) for _ in range(8)] for _ in range(4)]
        decoded = [[x, t.decode(x, skip_special_tokens=s), s] for x in lists for s in (False, True)]
        out.append({"name": name, "base": base, "parts": parts, "model": model, "ids": ids, "decoded": decoded})
    path = os.path.join(HERE, "fixtures", "tokenizers.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump({"bases": bases, "texts": texts, "cases": out}, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")
    print(path, os.path.getsize(path), "bytes")


if __name__ == "__main__":
    sys.exit(main())
