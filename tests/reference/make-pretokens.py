#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/reference/pretokens.txt: how the published expressions cut texts, by the PyPI module `regex`.

    tests/reference/make-pretokens.py > tests/reference/pretokens.txt

Each line: name of the pre-tokenizer, the text in hexadecimal UTF-8, the lengths of its words in bytes. Characters are
drawn from those that Unicode 12 already had, so that the version of `regex` does not matter.
"""
import random

import regex

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
FOLD = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
WIDE = r"(?:'[sS\u017f]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PREFIX = r"[^\r\n\p{L}\p{N}]?"
SCHEMES = {
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
    "gpt-2": [GPT2],
    "starcoder": [r"\p{N}", GPT2],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]"],
    "llama-bpe": [rf"{FOLD}|{PREFIX}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{TAIL}"],
    "qwen2": [rf"{FOLD}|{PREFIX}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{TAIL}"],
    "qwen35": [rf"{FOLD}|{PREFIX}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{TAIL}"],
    "gpt-4o": [rf"{PREFIX}{UPPER}*{LOWER}+{WIDE}?|{PREFIX}{UPPER}+{LOWER}*{WIDE}?|\p{{N}}{{1,3}}"
               rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{TAIL}"],
    "tekken": [rf"{PREFIX}{UPPER}*{LOWER}+|{PREFIX}{UPPER}+{LOWER}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{TAIL}"],
    "deepseek-v3": [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
                    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
                    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{TAIL}"],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"(?:(?!\s)[一-龥ࠀ-一가-퟿])+", r"\p{N}"],
    "seed-coder": [rf"{FOLD}|{PREFIX}\p{{L}}+|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{TAIL}"],
    "bailingmoe": [r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
                   r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"],
    "ufakzeka": [rf"{PREFIX}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{TAIL}"],
    "laguna": [r"[^\n]+|[\n]+", rf"{FOLD}|{PREFIX}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{TAIL}"],
    "minicpm5": [r"\p{N}{1,3}", rf"{FOLD}|{PREFIX}\p{{L}}+|\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{TAIL}"],
    "kimi-k2": [rf"\p{{Han}}+|{PREFIX}(?:(?!\p{{Han}}){UPPER})*(?:(?!\p{{Han}}){LOWER})+{WIDE}?"
                rf"|{PREFIX}(?:(?!\p{{Han}}){UPPER})+(?:(?!\p{{Han}}){LOWER})*{WIDE}?|\p{{N}}{{1,3}}"
                rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{TAIL}"],
    "youtu": ["[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+",
              rf"{PREFIX}{UPPER}*{LOWER}+{WIDE}?|{PREFIX}{UPPER}+{LOWER}*{WIDE}?|\p{{N}}"
              rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{TAIL}"],
    "spark2_5": [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
                 r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
                 r"| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+", r"\p{N}"],
    "tiny_aya": [r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",
                 rf"{PREFIX}{UPPER}*{LOWER}+{WIDE}?|{PREFIX}{UPPER}+{LOWER}*{WIDE}?|\p{{N}}{{1,3}}"
                 rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{TAIL}"],
    "afmoe": [r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",
              "[一-鿿㐀-䶿\uf900-\ufaff぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿\u0e80-\u0effក-\u17ffက-႟ꩠ-ꩿꧠ-\ua9ff가-\ud7afᄀ-ᇿ]+",
              r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
              rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{TAIL}"],
    "exaone-moe": [rf"{FOLD}|{PREFIX}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
                   r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"],
    "gemma4": [r"[^\n]+|[\n]+"],
    "bloom": [" ?[^(\\s|.,!?…。，、।۔،)]+"],
    "viking": [" ?[^(\\s|.,!?…。，、।۔،)]+", r"\p{N}"],
}
ALPHABET = ["a", "b", "T", "Z", "s", "S", "'", "'s", "'LL", "'ve", "'ſ", "ſ", "1", "23", "4567", "٣", "½", "Ⅷ",
            " ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", "\u00a0", "\u3000", "\u0085", "\u2028", ".", "!?",
            "//", "(", "$", "+", "`", "|", "€", "é", "É", "ß", "ǅ", "ʰ", "ª", "ك", "ह", "ि", "e\u0301",
            "\u0301", "\u20dd", "漢", "字", "ひ", "カ", "한", "국", "𝒜", "😁", "👩\u200d👧", "\ufe0f", "\u200b",
            "\ufeff", "\0", "\x7f", "।", "、", "…", "！", "ㄅ", "ㄱ", "々", "〇",
            "ก", "ေ", "\uf900", "\U00020000", "8901234"]


def split(text, expressions):
    words = [text]
    for expression in expressions:
        compiled, cut = regex.compile(expression, regex.V0), []
        for word in words:
            end = 0
            for m in compiled.finditer(word):
                if m.start() > end:
                    cut.append(word[end:m.start()])
                cut.append(m.group())
                end = m.end()
            if end < len(word):
                cut.append(word[end:])
        words = [w for w in cut if w]
    return words


def main():
    rng = random.Random(20260101)
    texts = ["I'll SAY it's 1234567 o'clock,\r\n  y'all!  ", "HelloWORLDfooBAR'S don'T",
             "\n \n\n\t x = y_z//3;\n", "  \n  ", "a  ", "ÀÉÎõüñ ÀÉ漢ÎO'd"]
    texts += ["".join(rng.choice(ALPHABET) for _ in range(rng.randint(1, 24))) for _ in range(120)]
    for name, expressions in SCHEMES.items():
        for text in texts:
            words = split(text, expressions)
            assert "".join(words) == text
            print(name, text.encode().hex(), ",".join(str(len(w.encode())) for w in words))


if __name__ == "__main__":
    main()
