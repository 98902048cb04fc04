#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes blocks of random bytes and what they decode to, for tests/unit/test-format-blocks.c.

    make-format-vectors.py > tests/unit/format-vectors.h

Needs numpy and gguf (the reference of the GGUF formats); F8_E4M3, which that does not know, is decoded here by its
definition. Scales are such that all values are finite: what other codes mean is tested by hand.
"""
import sys

import numpy as np
from gguf import GGMLQuantizationType, quants

# name: (elements per block, bytes per block, blocks, offsets of binary16 scales, offsets of bytes never above 254)
FORMATS = {
    "Q2_K": (256, 84, 1, (80, 82), ()),
    "Q3_K": (256, 110, 1, (108,), ()),
    "IQ4_NL": (32, 18, 2, (0,), ()),
    "IQ4_XS": (256, 136, 1, (0,), ()),
    "MXFP4": (32, 17, 3, (), (0,)),
    "NVFP4": (64, 36, 2, (), ()),
    "F8_E4M3": (128, 132, 1, (), ()),
}


def e4m3(code):
    code = int(code)
    sign, exponent, mantissa = -1.0 if code & 0x80 else 1.0, code >> 3 & 15, code & 7
    if exponent == 0:
        return sign * mantissa / 8 * 2.0**-6
    return sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)


def random_blocks(rng, name):
    _, size, n, halves, below_255 = FORMATS[name]
    blocks = np.frombuffer(rng.bytes(n * size), np.uint8).reshape(n, size).copy()
    for at in halves:
        blocks[:, at:at + 2] = rng.uniform(-0.1, 0.1, (n, 1)).astype("<f2").view(np.uint8)
    for at in below_255:
        blocks[:, at] = np.minimum(blocks[:, at], 254)
    if name == "F8_E4M3":
        blocks[:, 0:4] = rng.uniform(0.001, 0.01, (n, 1)).astype("<f4").view(np.uint8)
        blocks[:, 4:][blocks[:, 4:] & 0x7F == 0x7F] ^= 1
    return blocks


def decode(name, blocks):
    if name == "F8_E4M3":
        scale = blocks[:, 0:4].copy().view("<f4")
        return scale * np.vectorize(e4m3)(blocks[:, 4:]).astype("<f4")
    return quants.dequantize(blocks, GGMLQuantizationType[name])


def table(kind, name, values, form, per_line):
    print("static const %s %s[] = {" % (kind, name))
    for i in range(0, len(values), per_line):
        print("        " + " ".join(form % v + "," for v in values[i:i + per_line]))
    print("};\n")


def main():
    rng = np.random.default_rng(20)
    print("/* SPDX-License-Identifier: Apache-2.0 */\n#pragma once\n")
    print("/* Made by tests/reference/make-format-vectors.py: blocks, and the bits of the floats they decode to. */\n")
    print("#include <stdint.h>\n\n#include \"kernels/format.h\"\n")
    for name in FORMATS:
        blocks = random_blocks(rng, name)
        floats = np.ascontiguousarray(decode(name, blocks).astype("<f4")).reshape(-1)
        assert np.isfinite(floats).all(), name
        table("uint8_t", name.lower() + "_blocks", blocks.reshape(-1).tolist(), "%u", 28)
        table("uint32_t", name.lower() + "_floats", floats.view("<u4").tolist(), "0x%08x", 10)
    print("static const struct {\n        enum fmt fmt;\n        const uint8_t *blocks;\n        const uint32_t *floats;\n"
          "        size_t n;\n} format_vectors[] = {")
    for name, (block, _, n, _, _) in FORMATS.items():
        print("        { FMT_%s, %s_blocks, %s_floats, %u }," % (name, name.lower(), name.lower(), block * n))
    print("};")
    return 0


if __name__ == "__main__":
    sys.exit(main())
