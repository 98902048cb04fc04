#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/reference/hf/: small tokenizer.json of every kind that we read, and what they make of texts.

    tests/reference/make-hf-tokenizers.py     (needs the PyPI module `tokenizers`)

NAME.json is a tokenizer; cases.txt has lines "NAME HEX IDS IDS": a text, its ids, and its ids with what the tokenizer
adds around a prompt. Special tokens are recognised in both.
"""
import json
import pathlib
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

FOLD, FOLD_2 = "(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'(?i:[sdmt]|ll|ve|re)"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER, PREFIX = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[^\r\n\p{L}\p{N}]?"


def cased(also):
    return f"{PREFIX}{UPPER}*{LOWER}+{also}|{PREFIX}{UPPER}+{LOWER}*{also}"


LLAMA3 = rf"{FOLD}|{PREFIX}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{TAIL}"
CL100K = rf"{FOLD_2}|[^\r\n\p{{L}}\p{{N}}]?+\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")
QWEN35 = (rf"{FOLD}|{PREFIX}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{TAIL}")
O200K = cased(FOLD + "?") + rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{TAIL}"
TEKKEN = cased("") + rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{TAIL}"
DEEPSEEK3 = ("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
             "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+")


def split(expression, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(expression), behavior, invert)


def byte_level(use_regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def sequence(*steps):
    return pre_tokenizers.Sequence(list(steps))


BYTE_LEVEL = {
    "gpt-2": byte_level(True),
    "starcoder": sequence(pre_tokenizers.Digits(True), byte_level(True)),
    "llama-bpe": sequence(split(LLAMA3), byte_level()),
    "cl100k": sequence(split(CL100K, "removed", True), byte_level()),
    "qwen2": sequence(split(QWEN2), byte_level()),
    "qwen35": sequence(split(QWEN35), byte_level()),
    "o200k": sequence(split(O200K, "removed", True), byte_level()),
    "tekken": sequence(split(TEKKEN), byte_level()),
    "deepseek-v3": sequence(split(r"\p{N}{1,3}"), split("[一-龥\u3040-ゟ゠-ヿ]+"), split(DEEPSEEK3), byte_level()),
    "deepseek-coder": sequence(split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"),
                               split("[一-龥ࠀ-一가-\ud7ff]+"), pre_tokenizers.Digits(True), byte_level()),
    "falcon": sequence(pre_tokenizers.Punctuation("contiguous"), byte_level(True), pre_tokenizers.Digits(False),
                       split("[0-9][0-9][0-9]")),
}
NFC = {"qwen2", "qwen35", "starcoder"}
WORDS = ["the", "world", "hello", "don't", "We'LL", "naïve", "e\u0301te\u0301", "été", "Ünïcode", "漢字", "ひらがな", "カタカナ", "한국어",
         "हिन्दी", "नमस्ते", "العربية", "ไทย", "😁", "👩\u200d👧", "1234567", "42", "x=y+1;", "//", "...", "!?", "\n", "\n\n", "\t",
         "  ", "    ", " ", " ", "\u00a0", "\u3000", "\r\n", "a\u0323\u0307", "a\u0307\u0323", "ǅ", "ﬁ", "ΑΒΓ", "Straße", "\u1100\u1161\u11a8",
         "각", "\u0958", "Å", "½", "Ⅷ", "٣٤", "it's", "I'M", "he'd", "ＡＢ", "。", "、", "_", "<", ">", "|", "`", "$", "foo_bar", "CamelCase",
         "\u0301", "\ufeff", "\0", "\x7f", "ſ"]
SPECIAL = ["<s>", "</s>", "<|im_end|>", "<tool>", "<lr>", "word"]


def text_of(rng, n, special=False):
    words = WORDS + (SPECIAL if special else [])
    return "".join(rng.choice(words) + rng.choice(["", "", " "]) for _ in range(n))


def add_tokens(t, special, user):
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    t.add_tokens([AddedToken(s, normalized=False, **options) for s, options in user])


USER = [("<tool>", {}), ("<lr>", {"lstrip": True, "rstrip": True}), ("word", {"single_word": True})]


def byte_level_tokenizer(name, rng):
    t = Tokenizer(models.BPE(ignore_merges=name == "llama-bpe"))
    if name in NFC:
        t.normalizer = normalizers.NFC()
    t.pre_tokenizer = BYTE_LEVEL[name]
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                  show_progress=False)
    t.train_from_iterator([text_of(rng, 30) for _ in range(200)], trainer)
    add_tokens(t, ["<s>", "</s>", "<|im_end|>"], USER)
    if name == "llama-bpe":
        t.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", t.token_to_id("<s>"))])])
    return t


def raw_tokenizer(name, rng):
    """Characters, spaces as U+2581, byte fallback: the way of Llama 2 and Gemma."""
    t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if name == "llama":
        t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif name == "gemma":
        t.normalizer = normalizers.Replace(" ", "▁")
        t.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        scheme, cut = name.removeprefix("metaspace-").split("-")
        t.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=cut == "split")
    alphabet = ["▁", *"abcdehilnorstuvwxyz'.ABCTW0123456789é漢字\n"]
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, limit_alphabet=50, show_progress=False,
                                  special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))])
    saved, t.pre_tokenizer = t.pre_tokenizer, pre_tokenizers.Metaspace("▁", prepend_scheme="never", split=True)
    t.train_from_iterator([text_of(rng, 30) for _ in range(200)], trainer)
    spec = json.loads(t.to_str())
    spec["added_tokens"] = [a for a in spec["added_tokens"] if not a["content"].startswith("<0x")]
    t = Tokenizer.from_str(json.dumps(spec))
    t.pre_tokenizer = saved
    add_tokens(t, [], USER)
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if name == "llama" else "<s> $A",
        special_tokens=[("<s>", t.token_to_id("<s>")), ("</s>", t.token_to_id("</s>"))])
    return t


RAW = ["llama", "gemma", "metaspace-first-whole", "metaspace-always-whole", "metaspace-never-split", "metaspace-always-split"]


def added_tokenizer(kind, rng):
    """Added tokens that overlap and strip each other, and no merges."""
    normalizer, pre_tokenizer, letters = ADDED[kind]
    if pre_tokenizer:
        t = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate("▁ab-é<")}, merges=[]))
    else:
        t = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[]))
    t.normalizer, t.pre_tokenizer = normalizer, pre_tokenizer or byte_level(True)
    seen = set()
    while len(seen) < 7:
        text = "".join(rng.choice(letters) for _ in range(rng.randint(1, 5)))
        seen_as = normalizer.normalize_str(text) if normalizer else text
        if seen_as not in seen:
            seen.add(seen_as)
            options = {k: rng.random() < 0.2 for k in ("lstrip", "rstrip", "single_word")}
            normalized = kind != "plain" and rng.random() < 0.6
            t.add_tokens([AddedToken(text, normalized=normalized, special=len(text) > 1 and rng.random() < 0.5, **options)])
    return t


NO_CUT = pre_tokenizers.Split(" ", "merged_with_previous")
ADDED = {
    "plain": (None, None, "aaabb- "),
    "late": (None, None, "aaabb- "),
    "nfc": (normalizers.NFC(), None, "aab- é\u0301\u0323<\u0338"),
    "replace": (normalizers.Replace(" ", "▁"), NO_CUT, "aab- ▁"),
    "prepend": (normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), NO_CUT, "aaab-  ▁"),
    "first": (None, pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False), "aaab-  ▁"),
    "always": (None, pre_tokenizers.Metaspace("▁", prepend_scheme="always", split=True), "aaab-  ▁"),
}


def added_cases(folder, out):
    rng = random.Random(3)
    for kind, (_, _, letters) in ADDED.items():
        for i in range(2):
            t = added_tokenizer(kind, rng)
            write_tokenizer(folder, f"added-{kind}-{i}", json.loads(t.to_str()))
            for _ in range(60):
                write_case(out, f"added-{kind}-{i}", t, "".join(rng.choice(letters) for _ in range(rng.randint(0, 24))))


def write_tokenizer(folder, name, spec):
    (folder / f"{name}.json").write_text(json.dumps(spec, ensure_ascii=False, separators=(",", ":")) + "\n")


def write_case(out, name, t, text):
    ids, full = (t.encode(text, add_special_tokens=b).ids for b in (False, True))
    out.write(f"{name} {text.encode().hex() or '-'} {','.join(map(str, ids)) or '-'} {','.join(map(str, full)) or '-'}\n")


def main():
    rng = random.Random(7)
    folder = pathlib.Path(__file__).parent / "hf"
    folder.mkdir(exist_ok=True)
    n_cases = int(sys.argv[1]) if len(sys.argv) > 1 else 26
    with open(folder / "cases.txt", "w", encoding="ascii") as out:
        for name in [*BYTE_LEVEL, *RAW]:
            t = byte_level_tokenizer(name, rng) if name in BYTE_LEVEL else raw_tokenizer(name, rng)
            spec = json.loads(t.to_str())
            if name in ("qwen2", "llama"):  # older files write merges as text
                spec["model"]["merges"] = [" ".join(m) for m in spec["model"]["merges"]]
            write_tokenizer(folder, name, spec)
            texts = ["", " ", "word", "sword word words", " a <lr> b", "<s>x", "a</s> b<tool>  c"]
            texts += [text_of(rng, rng.randint(1, 12), True) for _ in range(n_cases)]
            for text in texts:
                write_case(out, name, t, text)
        added_cases(folder, out)


if __name__ == "__main__":
    main()
