#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes daemon/text/nfc-table.c: what normalization form C (UAX #15) needs to know of characters.

    tools/make-nfc.py > daemon/text/nfc-table.c

Takes the data from the module unicodedata2 where it is installed, else from the interpreter's own unicodedata. Hangul
syllables are left out: they follow a formula.
"""
import sys

try:
    import unicodedata2 as unicodedata
except ImportError:
    import unicodedata

HANGUL = range(0xAC00, 0xD7A4)


def write_table(out, declaration, rows):
    out.write(f"\n{declaration} = {{\n")
    line = "       "
    for row in rows:
        text = " { " + ", ".join(f"0x{v:x}" for v in row) + " },"
        if len(line) + len(text) > 120:
            out.write(line + "\n")
            line = "       "
        line += text
    out.write(line + "\n};\n")


def main():
    classes, parts, pairs = [], [], []
    for c in range(0x110000):
        char = chr(c)
        order, parted = unicodedata.combining(char), unicodedata.decomposition(char)
        if order and classes and classes[-1][1:] == [c - 1, order]:
            classes[-1][1] = c
        elif order:
            classes.append([c, c, order])
        if not parted or parted.startswith("<") or c in HANGUL:
            continue
        codes = [int(part, 16) for part in parted.split()]
        parts.append([c, *codes, *[0] * (2 - len(codes))])
        if unicodedata.normalize("NFC", char) == char and len(codes) == 2:
            pairs.append([*codes, c])
    out = sys.stdout
    out.write(f"""/* SPDX-License-Identifier: Apache-2.0 */

/* Made by tools/make-nfc.py from Unicode {unicodedata.unidata_version}. Do not edit. */

#include "nfc-table.h"
""")
    write_table(out, "const struct nfc_class nfc_classes[]", classes)
    write_table(out, "const struct nfc_parts nfc_parts[]", parts)
    write_table(out, "const struct nfc_pair nfc_pairs[]", sorted(pairs))
    out.write(f"""
const size_t nfc_n_classes = {len(classes)};
const size_t nfc_n_parts = {len(parts)};
const size_t nfc_n_pairs = {len(pairs)};
""")


if __name__ == "__main__":
    main()
