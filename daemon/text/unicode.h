/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What kind of character a code point is, from a two-stage table that tools/make-unicode.py makes. */

#include <stdint.h>

#define UNICODE_BLOCK_BITS 6
#define UNICODE_BLOCK (1u << UNICODE_BLOCK_BITS)

enum {
        UNICODE_LETTER = 1u << 0,      /* L */
        UNICODE_NUMBER = 1u << 1,      /* N */
        UNICODE_PUNCTUATION = 1u << 2, /* P */
        UNICODE_SYMBOL = 1u << 3,      /* S */
        UNICODE_MARK = 1u << 4,        /* M */
        UNICODE_SPACE = 1u << 5,       /* White_Space */
        UNICODE_UPPER = 1u << 6,       /* Lu, Lt */
        UNICODE_LOWER = 1u << 7,       /* Ll */
};

extern const uint16_t unicode_stage1[0x110000 / UNICODE_BLOCK];
extern const uint8_t unicode_stage2[];

/* The classes of a code point; 0 for one that is in none of them or past U+10FFFF. */
static inline uint8_t unicode_class(uint32_t c) {
        if (c > 0x10ffff)
                return 0;
        return unicode_stage2[(uint32_t)unicode_stage1[c >> UNICODE_BLOCK_BITS] << UNICODE_BLOCK_BITS |
                              (c & (UNICODE_BLOCK - 1))];
}
