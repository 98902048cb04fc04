#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes daemon/text/unicode-table.c: the character classes that pre-tokenizers ask for, as a two-stage table.

    tools/make-unicode.py > daemon/text/unicode-table.c

Takes the data from the module unicodedata2 where it is installed (it follows newer versions of Unicode than the
interpreter does), else from the interpreter's own unicodedata. The version is written into the table.
"""
import sys

try:
    import unicodedata2 as unicodedata
except ImportError:
    import unicodedata

BLOCK = 64  # characters a block: keep in step with UNICODE_BLOCK_BITS of unicode.h
LETTER, NUMBER, PUNCTUATION, SYMBOL, MARK, SPACE, UPPER, LOWER = (1 << i for i in range(8))
MAJOR = {"L": LETTER, "N": NUMBER, "P": PUNCTUATION, "S": SYMBOL, "M": MARK}
CASE = {"Lu": UPPER, "Lt": UPPER, "Ll": LOWER}
# White_Space of PropList.txt
WHITE_SPACE = {*range(0x9, 0xE), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F,
               0x3000}


def char_class(c):
    category = unicodedata.category(chr(c))
    return MAJOR.get(category[0], 0) | CASE.get(category, 0) | (SPACE if c in WHITE_SPACE else 0)


def write_array(out, declaration, values):
    out.write(f"{declaration} = {{\n")
    line = "       "
    for v in values:
        if len(line) + len(str(v)) + 2 > 120:
            out.write(line + "\n")
            line = "       "
        line += f" {v},"
    out.write(line + "\n};\n")


def main(out):
    blocks, first = {}, []
    for start in range(0, 0x110000, BLOCK):
        block = tuple(char_class(c) for c in range(start, start + BLOCK))
        first.append(blocks.setdefault(block, len(blocks)))
    out.write("/* SPDX-License-Identifier: Apache-2.0 */\n\n")
    out.write(f"/* Made by tools/make-unicode.py from Unicode {unicodedata.unidata_version}. Do not edit. */\n\n")
    out.write('#include "unicode.h"\n\n')
    write_array(out, "const uint16_t unicode_stage1[0x110000 / UNICODE_BLOCK]", first)
    out.write("\n")
    write_array(out, f"const uint8_t unicode_stage2[{len(blocks)} * UNICODE_BLOCK]",
                [v for block in blocks for v in block])


if __name__ == "__main__":
    main(sys.stdout)
