# SPDX-License-Identifier: Apache-2.0
"""Measures a training's checkpoint on the test side of the split, which training never saw: per kind of request the share
of right greedy answers, and the perplexity of answers. evaluate.py DIR|MODEL.gguf [--count N] [--wrong] [--json FILE]."""

import argparse
import json
import math
import os
import random

import torch

import bpe
import corpus
import gguf
from network import Network, Shape
from train import Rows

BATCH = 32


def load(folder):
    """(network, tokenizer, tokens it was trained on) of a training or of an exported file."""
    if folder.endswith(".gguf"):
        return *gguf.load(folder)[:2], None
    state = torch.load(os.path.join(folder, "checkpoint.pt"), map_location="cpu", weights_only=False)
    network = Network(Shape(**state["shape"]))
    network.load_state_dict(state["network"])
    return network.eval(), bpe.load(os.path.join(folder, "tokenizer.json")), state["tokens"]


@torch.no_grad()
def answers(network, prompts, limit):
    """Greedy continuations of several prompts of one length."""
    ids, done = torch.tensor(prompts), [False] * len(prompts)
    start, past, new = ids.shape[1], [[] for _ in network.blk], ids
    while ids.shape[1] < start + limit and not all(done):
        token = network.logits(network.hidden(new, past)[:, -1]).argmax(-1)
        new = token[:, None]
        done = [d or int(t) == bpe.END for d, t in zip(done, token)]
        ids = torch.cat((ids, new), dim=1)
    out = []
    for row in ids[:, start:].tolist():
        out.append((row[:row.index(bpe.END)], True) if bpe.END in row else (row, False))
    return out


def right(turn, text, ended):
    if not ended or not text:
        return False
    for expect in turn.expect:
        if not (expect(text) if callable(expect) else expect.lower() in text.lower()):
            return False
    return True


def ask_all(network, tokenizer, turns, limit):
    """Prompts of one length go together, so that there is no padding."""
    by_length, result = {}, {}
    for i, (ask, _) in enumerate(turns):
        prompt = tokenizer.chat([("user", ask)])[0] + [bpe.ASSISTANT]
        by_length.setdefault(len(prompt), []).append((i, prompt))
    for group in by_length.values():
        for at in range(0, len(group), BATCH):
            part = group[at:at + BATCH]
            for (i, _), (ids, ended) in zip(part, answers(network, [p for _, p in part], limit)):
                result[i] = (tokenizer.decode(ids), ended)
    return [result[i] for i in range(len(turns))]


def measure(network, tokenizer, function, count, show_wrong):
    rng, turns = random.Random(f"test {function.__name__}"), []
    while len(turns) < count:
        turn = corpus.pick(rng, ((function, 1),), test=True)
        if turn is None:
            return None  # nothing held back
        turns.append((corpus.style(rng, turn.ask, turn.exact), turn))
    good = 0
    for (ask, turn), (text, ended) in zip(turns, ask_all(network, tokenizer, turns, 200)):
        ok = right(turn, text, ended)
        good += ok
        if show_wrong and not ok:
            print(f"    {ask!r} -> {text!r} (should be like {turn.answer!r})")
    return good / count


@torch.no_grad()
def perplexity(network, tokenizer, rows=32):
    source, total, n = Rows(tokenizer, 20000, test=True), 0.0, 0
    for _ in range(rows // 8):
        ids, targets, scored = source.batch(8, 256)
        k = int(scored.sum())
        total += float(network.loss(ids, targets, scored)) * k
        n += k
    return math.exp(total / n), n


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dir")
    parser.add_argument("--count", type=int, default=64, help="questions per kind")
    parser.add_argument("--only", help="one kind")
    parser.add_argument("--wrong", action="store_true", help="print wrong answers")
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.set_num_threads(2)
    network, tokenizer, seen = load(options.dir)
    value, n = perplexity(network, tokenizer)
    print(f"perplexity of answers {value:.3f} ({n} tokens)" + (f", trained on {seen} tokens" if seen else ""))
    result = {}
    for function, _ in corpus.TASKS:
        if not options.only or function.__name__ == options.only:
            share = measure(network, tokenizer, function, options.count, options.wrong)
            if share is None:
                continue
            result[function.__name__] = share
            print(f"{function.__name__:20} {100 * share:5.1f} %", flush=True)
    print(f"{'mean':20} {100 * sum(result.values()) / len(result):5.1f} %")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as f:
            json.dump(dict(perplexity=value, tokens=n, count=options.count, accuracy=result), f, indent=1)


if __name__ == "__main__":
    main()
