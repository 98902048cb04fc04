#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts instructions of the kernels of a PTX file on standard input: of the last loop where there is one, else of all of the
kernel without its parameters. Memory accesses (which include those of shared memory), shuffles and votes are said apart."""

import re
import sys


def main():
    for name, body in re.findall(r"\.entry (\w+)\(.*?\n\{\n(.*?)\n\}", sys.stdin.read(), re.S):
        lines = [line.strip() for line in body.split("\n")]
        labels = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
        first, last = 0, len(lines)
        for i, line in enumerate(lines):
            target = re.search(r"bra(?:\.uni)?\s+(\S+);", line)
            if target and labels[target.group(1)] < i:
                first, last = labels[target.group(1)], i + 1
        part = [line for line in lines[first:last] if line.endswith(";") and not line.startswith(".")]
        part = [line for line in part if not re.match(r"ld\.param|cvta|ret", line)]
        memory = sum(bool(re.match(r"ld\.|st\.", line)) for line in part)
        warp = sum(bool(re.search(r"shfl|vote|match", line)) for line in part)
        print(f"{name}: {'loop of ' if first else ''}{len(part)} instructions, {memory} of them memory, {warp} shuffles or votes")


main()
