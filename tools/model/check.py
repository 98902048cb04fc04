# SPDX-License-Identifier: Apache-2.0
"""Asks an exported model every example and says which answers are right: check.py MODEL.gguf EXAMPLES.json [--show].
With --against DIR the answers of the training's checkpoint are compared, too (they differ where rounding decides)."""

import argparse
import json
import re
import sys

import torch

import bpe
import evaluate
import gguf


def prompt(tokenizer, example):
    """The tokens that the chat template, or plain text, makes of an example."""
    if "prompt" in example:
        return [bpe.BEGIN] + tokenizer.encode(example["prompt"])
    return tokenizer.chat([(m["role"], m["content"]) for m in example["messages"]])[0] + [bpe.ASSISTANT]


def answer(network, tokenizer, example):
    ids, ended = evaluate.answers(network, [prompt(tokenizer, example)], example.get("max_tokens", 200))[0]
    return tokenizer.decode(ids), ended


def right(example, text, ended):
    return (ended or "max_tokens" in example) and all(re.search(e, text, re.S) for e in example["expect"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("examples")
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--against")
    options = parser.parse_args()
    torch.set_num_threads(2)
    network, tokenizer, _ = gguf.load(options.model)
    other = evaluate.load(options.against)[0] if options.against else None
    with open(options.examples, encoding="utf-8") as f:
        examples = json.load(f)["examples"]
    good = same = 0
    for example in examples:
        text, ended = answer(network, tokenizer, example)
        ok = right(example, text, ended)
        good += ok
        same += other is not None and answer(other, tokenizer, example)[0] == text
        if options.show or not ok:
            print(f"{'ok   ' if ok else 'WRONG'} {example.get('prompt') or example['messages'][-1]['content']!r} -> {text!r}")
    print(f"{good} of {len(examples)} right" + (f", {same} the same as the checkpoint's" if other else ""))
    sys.exit(good != len(examples))


if __name__ == "__main__":
    main()
