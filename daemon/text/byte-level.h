/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Byte-level BPE writes every byte as one printable character, so that vocabularies are text: printable Latin-1 bytes
 * stand for themselves, the other 68 bytes are U+0100 and what follows, in order.
 */

#include <stdbool.h>
#include <stdint.h>

static inline bool byte_level_is_printable(unsigned b) {
        return (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad);
}

/* The character that stands for a byte. */
static inline uint32_t byte_level_char(unsigned char b) {
        if (byte_level_is_printable(b))
                return b;
        if (b <= 0x20)
                return 0x100u + b;
        if (b <= 0xa0)
                return 0x121u + (b - 0x7fu);
        return 0x143;
}

/* The byte that a character stands for, or -1. */
static inline int byte_level_byte(uint32_t c) {
        if (c < 0x100)
                return byte_level_is_printable(c) ? (int)c : -1;
        if (c <= 0x120)
                return (int)(c - 0x100);
        if (c <= 0x142)
                return (int)(c - 0x121 + 0x7f);
        return c == 0x143 ? 0xad : -1;
}
