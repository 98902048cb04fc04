#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes daemon/text/jinja/text-tables.c from Python's own str: case mapping and what repr() shows as itself."""

import sys

LIMIT = 0x110000


def ranges(predicate):
    out = []
    for c in range(LIMIT):
        if 0xD800 <= c < 0xE000 or not predicate(chr(c)):
            continue
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def mapping(fn):
    """Runs (first, last, stride, delta) of one-to-one mappings, and a list of those that become several."""
    runs, several = [], []
    for c in range(0x80, LIMIT):
        if 0xD800 <= c < 0xE000:
            continue
        m = fn(chr(c))
        if m == chr(c):
            continue
        if len(m) > 1:
            several.append((c, [ord(x) for x in m] + [0] * (3 - len(m))))
            continue
        delta = ord(m) - c
        if runs and runs[-1][3] == delta and (runs[-1][0] == runs[-1][1] or c - runs[-1][1] == runs[-1][2]) \
                and c - runs[-1][1] <= 2:
            if runs[-1][0] == runs[-1][1]:
                runs[-1][2] = c - runs[-1][1]
            runs[-1][1] = c
        else:
            runs.append([c, c, 1, delta])
    return runs, several


def rows(items, width):
    line, out = "", []
    for i in items:
        if len(line) + len(i) + 1 > width:
            out.append(line)
            line = ""
        line += (" " if line else "") + i
    return out + [line] if line else out


def write_ranges(name, r):
    print("const struct text_range text_%s[] = {" % name)
    for line in rows(["{ 0x%x, 0x%x }," % tuple(x) for x in r], 108):
        print("        " + line)
    print("};\nconst size_t text_n_%s = sizeof(text_%s) / sizeof(text_%s[0]);\n" % (name, name, name))


def write_mapping(name, fn):
    runs, several = mapping(fn)
    print("const struct text_run text_%s[] = {" % name)
    for line in rows(["{ 0x%x, 0x%x, %d, %d }," % tuple(x) for x in runs], 108):
        print("        " + line)
    print("};\nconst size_t text_n_%s = sizeof(text_%s) / sizeof(text_%s[0]);\n" % (name, name, name))
    print("const struct text_several text_%s_several[] = {" % name)
    for line in rows(["{ 0x%x, { %s } }," % (c, ", ".join("0x%x" % x for x in m)) for c, m in several], 108):
        print("        " + line)
    print("};\nconst size_t text_n_%s_several = sizeof(text_%s_several) / sizeof(text_%s_several[0]);\n"
          % (name, name, name))


def main():
    print("/* SPDX-License-Identifier: Apache-2.0 */\n")
    print("/* Made by tests/reference/make-text-tables.py (Python %d.%d). */\n" % sys.version_info[:2])
    print('#include "text-tables.h"\n')
    write_ranges("unprintable", ranges(lambda c: not c.isprintable()))
    write_ranges("alpha", ranges(str.isalpha))
    write_ranges("numeric", ranges(str.isnumeric))
    write_ranges("decimal", ranges(str.isdecimal))
    write_ranges("lower", ranges(str.islower))
    write_ranges("upper", ranges(str.isupper))
    write_mapping("to_upper", str.upper)
    write_mapping("to_title", str.title)
    write_mapping("to_lower", str.lower)


main()
