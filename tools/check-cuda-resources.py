#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What each CUDA kernel takes of an SM, from what ptxas said when it was compiled (the logs beside the objects).

    tools/check-cuda-resources.py [--record FILE] [--table FILE] LOG...

Fails where a kernel spills registers or keeps arrays on a stack (both mean trips to memory that decoding has no time for; a
prompt's large tiles may spill a little), where it has shared memory of its own (all of ours is asked for at the launch), or where not every kernel is there for every GPU.
--table writes down what every kernel takes.
"""

import argparse
import collections
import pathlib
import re
import shutil
import subprocess
import sys

# Kernels for more rows than a step of decoding has. Their tiles use all registers there are, and the few that are over are
# spilled once per tile: by expressions for demangled names.
MANY_ROWS = re.compile(r"attn_many_kernel<|mm_kernel<.*, mm_shape<(8u, 1u, 1u, 8u|4u, 2u, 2u, 8u),")
MANY_ROWS_SPILL = 96  # bytes of stores and loads that these may have

ENTRY = re.compile(r"^ptxas info\s+: Compiling entry function '(\S+)' for '(\S+)'")
FRAME = re.compile(r"^\s+(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"^ptxas info\s+: Used (\d+) registers(.*)")
SHARED = re.compile(r", (\d+) bytes smem")


class Use:
    """What one kernel takes on one GPU."""

    def __init__(self):
        self.registers = None
        self.stack = self.spilled = self.shared = 0

    def cell(self):
        if self.registers is None:
            return "?"
        text = str(self.registers)
        if self.stack or self.spilled:
            text += f" !{self.stack}/{self.spilled}"
        return text + (f" s{self.shared}" if self.shared else "")


def read_log(path, kernels):
    """Adds to kernels[mangled name][GPU]. Properties of functions that were not inlined belong to no entry."""
    use = None
    for line in path.read_text(errors="replace").splitlines():
        if found := ENTRY.match(line):
            use = kernels[found[1]][found[2]] = Use()
        elif use and (found := FRAME.match(line)):
            use.stack += int(found[1])
            use.spilled += int(found[2]) + int(found[3])
        elif use and (found := USED.match(line)):
            use.registers = int(found[1])
            if found := SHARED.search(found[2]):
                use.shared = int(found[1])


def demangle(names):
    """{mangled: readable}, without return types and arguments."""
    if not names or not shutil.which("c++filt"):
        return {name: name for name in names}
    done = subprocess.run(["c++filt"], input="\n".join(names), stdout=subprocess.PIPE, text=True, check=True)
    readable = {}
    for name, text in zip(names, done.stdout.splitlines()):
        text = re.sub(r"\(anonymous namespace\)::", "", text)
        text = re.sub(r"\((unsigned )?(int|bool|short|char|[a-z_]+)\)(?=\d|-)", "", text)  # (int)4 of template arguments
        text = re.sub(r"^void ", "", text)
        readable[name] = text[:text.rfind("(")] if text.endswith(")") else text
    return readable


def faults(name, uses, gpus):
    """Sentences about one kernel. One for a family's members ("sm_120f") is there for these alone."""
    family = any(gpu.endswith("f") for gpu in uses)
    for gpu in (gpu for gpu in gpus if gpu.endswith("f") == family):
        use = uses.get(gpu)
        if use is None or use.registers is None:
            yield f"{name}: not compiled for {gpu}, which others are"
            continue
        little = MANY_ROWS.match(name) and use.stack <= use.spilled <= MANY_ROWS_SPILL
        if (use.stack or use.spilled) and not little:
            yield f"{name}: {use.stack} bytes of stack and {use.spilled} of spills on {gpu}, with {use.registers} registers"
        if use.shared:
            yield f"{name}: {use.shared} bytes of static shared memory on {gpu}"


def table(kernels, readable, gpus):
    width = max(len(name) for name in readable.values())
    yield f"{'registers !stack/spilled s(static shared) bytes':{width}}" + "".join(f" {gpu:>12}" for gpu in gpus)
    for mangled in sorted(kernels, key=readable.get):
        uses = kernels[mangled]
        yield f"{readable[mangled]:{width}}" + "".join(f" {uses[gpu].cell() if gpu in uses else '-':>12}" for gpu in gpus)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--record", help="append the counts to this file")
    parser.add_argument("--table", type=pathlib.Path)
    parser.add_argument("log", nargs="+", type=pathlib.Path)
    options = parser.parse_args()

    kernels = collections.defaultdict(dict)
    for path in options.log:
        read_log(path, kernels)
    if not kernels:
        print("there is no kernel in these logs", file=sys.stderr)
        return 1
    readable = demangle(sorted(kernels))
    gpus = sorted({gpu for uses in kernels.values() for gpu in uses}, key=lambda gpu: int(re.sub(r"\D", "", gpu)))
    if options.table:
        options.table.write_text("".join(f"{line}\n" for line in table(kernels, readable, gpus)))

    failed = 0
    for mangled in sorted(kernels, key=readable.get):
        found = list(faults(readable[mangled], kernels[mangled], gpus))
        failed += bool(found)
        for sentence in found:
            print(f"  FAIL {sentence}")
    passed = len(kernels) - failed
    print(f"  {len(kernels)} kernels for {', '.join(gpus)}, {passed} keep what they must in registers")
    if options.record:
        with open(options.record, "a", encoding="ascii") as file:
            file.write(f"{passed} {failed} 0\n")
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
