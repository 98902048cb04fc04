# SPDX-License-Identifier: Apache-2.0
"""Byte-level BPE as GGUF's tokenizer model "gpt2" with the pre-tokenizer "qwen2" has it: training, encoding, decoding.
Run as a program it makes tokenizer.json: bpe.py OUT [SIZE [SEED]]. Standard library only."""

import collections
import json
import re
import sys

SPECIAL = ("<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|pad|>")
BEGIN, END, SYSTEM, USER, ASSISTANT, PAD = range(len(SPECIAL))

# qwen2's pattern, with \p{L} and \p{N} in the terms of Python's re.
PRE = re.compile(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|(?:(?![\r\n]|[^\W_]).)?[^\W\d_]+|\d| ?(?:(?!\s|[^\W_]).)+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", re.S)


def byte_alphabet():
    """GPT-2's printable stand-in for every byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, n = {b: chr(b) for b in shown}, 0
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + n)
            n += 1
    return table


ALPHABET = byte_alphabet()
BYTES = {c: b for b, c in ALPHABET.items()}


def show(data):
    return "".join(ALPHABET[b] for b in data)


class Tokenizer:
    """Ids: the special tokens, the 256 bytes, then one per merge."""

    def __init__(self, merges):
        self.merges = [tuple(m) for m in merges]
        self.rank = {m: i for i, m in enumerate(self.merges)}
        self.tokens = list(SPECIAL) + [ALPHABET[b] for b in range(256)] + [a + b for a, b in self.merges]
        self.ids = {t: i for i, t in enumerate(self.tokens)}
        assert len(self.ids) == len(self.tokens)
        self.cache = {}

    def piece(self, text):
        if text in self.cache:
            return self.cache[text]
        parts = [ALPHABET[b] for b in text.encode()]
        while len(parts) > 1:
            best = min(zip(parts, parts[1:]), key=lambda p: self.rank.get(p, len(self.rank)))
            if best not in self.rank:
                break
            parts = merged(parts, best)
        self.cache[text] = ids = [self.ids[p] for p in parts]
        return ids

    def encode(self, text):
        return [i for m in PRE.finditer(text) for i in self.piece(m.group())]

    def decode(self, ids):
        data = bytearray()
        for i in ids:
            data += self.tokens[i].encode() if i < len(SPECIAL) else bytes(BYTES[c] for c in self.tokens[i])
        return data.decode(errors="replace")

    def chat(self, turns):
        """(ids, scored): the prompt's tokens and whether each is the model's to learn."""
        ids, scored = [BEGIN], [False]
        for role, text in turns:
            body = self.encode(text)
            if role == "text":
                ids += body + [END]
                scored += [True] * (len(body) + 1)
                continue
            ids += [{"system": SYSTEM, "user": USER, "assistant": ASSISTANT}[role], *body, END]
            scored += [False] + [role == "assistant"] * (len(body) + 1)
        return ids, scored


def merged(parts, pair):
    out, i = [], 0
    while i < len(parts):
        if i + 1 < len(parts) and (parts[i], parts[i + 1]) == pair:
            out.append(pair[0] + pair[1])
            i += 2
        else:
            out.append(parts[i])
            i += 1
    return out


def train(text_counts, n_merges):
    """The commonest pair becomes a token, again and again; ties go to the smaller pair, so that the result is fixed."""
    parts = {w: [ALPHABET[b] for b in w.encode()] for w in text_counts}
    count, where = collections.Counter(), collections.defaultdict(set)
    for word, p in parts.items():
        for pair in zip(p, p[1:]):
            count[pair] += text_counts[word]
            where[pair].add(word)
    merges, seen = [], set(ALPHABET.values())
    while len(merges) < n_merges:
        pair = min(((p, n) for p, n in count.items()), key=lambda item: (-item[1], item[0]))[0]
        if count[pair] < 2:
            break
        for word in where.pop(pair):
            old = parts[word]
            new = merged(old, pair)
            for p in zip(old, old[1:]):
                count[p] -= text_counts[word]
            for p in zip(new, new[1:]):
                count[p] += text_counts[word]
                where[p].add(word)
            parts[word] = new
        del count[pair]
        if pair[0] + pair[1] not in seen:  # two ways to one token: the second would be a merge without a new id
            seen.add(pair[0] + pair[1])
            merges.append(pair)
    return merges


def load(path):
    with open(path, encoding="utf-8") as f:
        return Tokenizer([m.split(" ") for m in json.load(f)["merges"]])


def main():
    import itertools

    import corpus

    size, seed = int(sys.argv[2]) if len(sys.argv) > 2 else 2048, int(sys.argv[3]) if len(sys.argv) > 3 else 1
    counts = collections.Counter()
    for turns in itertools.islice(corpus.documents(seed), 40000):
        for _, text in turns:
            counts.update(m.group() for m in PRE.finditer(text))
    merges = train(counts, size - 256 - len(SPECIAL))
    with open(sys.argv[1], "w", encoding="utf-8") as f:
        json.dump({"merges": [f"{a} {b}" for a, b in merges]}, f, ensure_ascii=False, indent=0)
    tokenizer = Tokenizer(merges)
    n = sum(len(tokenizer.piece(w)) * c for w, c in counts.items())
    print(f"{len(tokenizer.tokens)} tokens, {sum(len(w) * c for w, c in counts.items()) / n:.2f} characters per token")


if __name__ == "__main__":
    main()
