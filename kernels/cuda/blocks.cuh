/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * One element of a block of each format, in either layout: for rows of a matrix that are looked up, where simple matters more
 * than fast. The formats are described in kernels/format-*.c, and each value is what decode there makes, bit for bit.
 *
 * A format is a struct of its sizes and two functions: place() says where a panel's column (pack.c) has byte `off` of the block
 * of one of its 16 rows, value() computes element e from the bytes of a block.
 */

#include <ptx.cuh>

#include "kernels/format.h"

template <typename F, enum weight_layout layout> struct block {
        const uint8_t *p; /* the block, or the panel's column */
        uint32_t row;     /* of the panel */
};

template <typename F, enum weight_layout layout> DEVICE uint32_t block_u8(struct block<F, layout> b, uint32_t off) {
        return b.p[layout == WEIGHT_ROWS ? off : F::place(off, b.row)];
}

template <typename B> DEVICE uint32_t block_u16(B b, uint32_t off) {
        return block_u8(b, off) | block_u8(b, off + 1) << 8;
}

template <typename B> DEVICE uint32_t block_u32(B b, uint32_t off) {
        return block_u16(b, off) | block_u16(b, off + 2) << 16;
}

template <typename B> DEVICE float block_f16(B b, uint32_t off) {
        return f16_to_float((uint16_t)block_u16(b, off));
}

/* Bit e of a u32 of fifth bits; panels have it spread (pack.c). */
template <typename F, enum weight_layout layout> DEVICE uint32_t block_fifth(struct block<F, layout> b, uint32_t off, uint32_t e) {
        return layout == WEIGHT_ROWS ? block_u8(b, off + e / 8) >> e % 8 & 1u : block_u8(b, off + e % 4) >> e / 4 & 1u;
}

/* Byte off of a field whose column has `before` bytes per row in front of it, in units of `unit` bytes. */
DEVICE uint32_t field_place(uint32_t before, uint32_t unit, uint32_t off, uint32_t row) {
        return WEIGHT_PANEL * before + (off / unit * WEIGHT_PANEL + row) * unit + off % unit;
}

/* Fields in the order of the file: units of u0 bytes up to end0, of u1 up to end1, then of u2. */
template <uint32_t u0, uint32_t end0, uint32_t u1, uint32_t end1, uint32_t u2> struct fields {
        DEVICE uint32_t place(uint32_t off, uint32_t row) {
                return off < end0 ? field_place(0, u0, off, row)
                       : off < end1 ? field_place(end0, u1, off - end0, row)
                                    : field_place(end1, u2, off - end1, row);
        }
};

/* --- floats --- */

struct f32_block : fields<4, 4, 4, 4, 4> {
        static constexpr uint32_t elements = 1, bytes = 4;
        template <typename B> DEVICE float value(B b, uint32_t e) {
                return __uint_as_float(block_u32(b, 0));
        }
};

struct f16_block : fields<2, 2, 2, 2, 2> {
        static constexpr uint32_t elements = 1, bytes = 2;
        template <typename B> DEVICE float value(B b, uint32_t e) {
                return block_f16(b, 0);
        }
};

struct bf16_block : fields<2, 2, 2, 2, 2> {
        static constexpr uint32_t elements = 1, bytes = 2;
        template <typename B> DEVICE float value(B b, uint32_t e) {
                return __uint_as_float(block_u16(b, 0) << 16);
        }
};

/* The same fields as a binary32 have a bias of 127 instead of 7; the product also normalizes subnormals. */
DEVICE float e4m3_value(uint32_t code) {
        float magnitude = __uint_as_float((code & 0x7fu) << 20) * 0x1p120f;

        if ((code & 0x7fu) == 0x7fu)
                return __uint_as_float(0x7fc00000u);
        return code & 0x80u ? -magnitude : magnitude;
}

struct f8_block : fields<4, 4, 1, 132, 1> {
        static constexpr uint32_t elements = 128, bytes = 132;
        template <typename B> DEVICE float value(B b, uint32_t e) {
                return __uint_as_float(block_u32(b, 0)) * e4m3_value(block_u8(b, 4 + e));
        }
};

/* --- blocks of 32 --- */

/* Element e of 2 n in n bytes. */
template <typename B> DEVICE uint32_t block_nibble(B b, uint32_t off, uint32_t e, uint32_t n) {
        return e < n ? block_u8(b, off + e) & 15u : block_u8(b, off + e - n) >> 4;
}

/* d (q - offset) + m; without minimum plus 0, which makes a zero positive. */
template <uint32_t bits, bool has_min> struct nibbles_block : fields<2, has_min ? 4 : 2, 4, has_min ? 8 : 6, 4> {
        static constexpr uint32_t elements = 32, high = has_min ? 4 : 2, low = high + (bits == 5 ? 4 : 0), bytes = low + 16;
        template <typename B> DEVICE float value(B b, uint32_t e) {
                uint32_t q = block_nibble(b, low, e, 16) | (bits == 5 ? block_fifth(b, high, e) << 4 : 0);

                return block_f16(b, 0) * (float)((int)q - (has_min ? 0 : 1 << (bits - 1))) + (has_min ? block_f16(b, 2) : 0.0f);
        }
};

struct q8_0_block : fields<2, 2, 4, 34, 4> {
        static constexpr uint32_t elements = 32, bytes = 34;
        template <typename B> DEVICE float value(B b, uint32_t e) {
                return block_f16(b, 0) * (float)(int8_t)block_u8(b, 2 + e);
        }
};

/* --- two levels --- */

template <uint32_t bits> struct k_min_block : fields<2, 4, 1, 16, 4> {
        static constexpr uint32_t elements = 256, high = 16, low = bits == 5 ? 48 : 16, bytes = low + 128;
        template <typename B> DEVICE float value(B b, uint32_t e) {
                uint32_t j = e / 32, l = e % 32, sc, mn, q = block_u8(b, low + j / 2 * 32 + l) >> j % 2 * 4 & 15u;
                float d, m;

                if (bits == 5)
                        q |= (block_u8(b, high + l) >> j & 1u) << 4;
                if (j < 4) {
                        sc = block_u8(b, 4 + j) & 63u;
                        mn = block_u8(b, 8 + j) & 63u;
                } else {
                        sc = (block_u8(b, 8 + j) & 15u) | block_u8(b, j) >> 6 << 4;
                        mn = block_u8(b, 8 + j) >> 4 | block_u8(b, 4 + j) >> 6 << 4;
                }
                d = block_f16(b, 0) * (float)sc;
                m = block_f16(b, 2) * (float)mn;
                return d * (float)q - m;
        }
};

struct q6_k_block {
        static constexpr uint32_t elements = 256, bytes = 210;
        /* Groups of 4 bytes of either run of nibbles and of the upper bits, one after the other. */
        DEVICE uint32_t place(uint32_t off, uint32_t row) {
                uint32_t half = off < 128 ? off / 64 : (off - 128) / 32, part = off < 128 ? off % 64 / 32 : 2;

                if (off >= 208)
                        return field_place(0, 2, off - 208, row);
                if (off >= 192)
                        return field_place(2, 1, off - 192, row);
                return field_place(18 + 96 * half, 4, (off % 32 / 4 * 3 + part) * 4 + off % 4, row);
        }
        template <typename B> DEVICE float value(B b, uint32_t e) {
                uint32_t half = e / 128, k = e / 32 % 4, l = e % 32;
                uint32_t low = block_u8(b, 64 * half + 32 * (k & 1) + l) >> (k >> 1) * 4 & 15u;
                uint32_t high = block_u8(b, 128 + 32 * half + l) >> 2 * k & 3u;

                return block_f16(b, 208) * (float)(int8_t)block_u8(b, 192 + e / 16) * (float)((int)(low | high << 4) - 32);
        }
};

/* The lower two bits of Q2_K's and Q3_K's elements. */
template <typename B> DEVICE uint32_t block_low(B b, uint32_t off, uint32_t e) {
        return block_u8(b, off + e / 128 * 32 + e % 32) >> e / 32 % 4 * 2 & 3u;
}

struct q2_k_block {
        static constexpr uint32_t elements = 256, bytes = 84;
        DEVICE uint32_t place(uint32_t off, uint32_t row) {
                return off >= 80 ? field_place(0, 2, off - 80, row)
                       : off < 16 ? field_place(4, 1, off, row)
                                  : field_place(20, 4, off - 16, row);
        }
        template <typename B> DEVICE float value(B b, uint32_t e) {
                uint32_t sc = block_u8(b, e / 16);

                return block_f16(b, 80) * (float)(sc & 15u) * (float)block_low(b, 16, e) - block_f16(b, 82) * (float)(sc >> 4);
        }
};

struct q3_k_block {
        static constexpr uint32_t elements = 256, bytes = 110;
        DEVICE uint32_t place(uint32_t off, uint32_t row) {
                return off >= 108 ? field_place(0, 2, off - 108, row)
                       : off >= 96 ? field_place(2, 1, off - 96, row)
                                   : field_place(14, 4, off, row);
        }
        template <typename B> DEVICE float value(B b, uint32_t e) {
                uint32_t s = e / 16, q = block_low(b, 32, e) | (block_u8(b, e % 32) >> e / 32 & 1u) << 2;
                uint32_t sc = (block_u8(b, 96 + s % 8) >> s / 8 * 4 & 15u) | (block_u8(b, 104 + s % 4) >> s / 4 * 2 & 3u) << 4;

                return block_f16(b, 108) * (float)((int)sc - 32) * (float)((int)q - 4);
        }
};

/* --- tables --- */

/* Four bytes of a table in a word each, so that it needs no memory. */
DEVICE float iq4_value(uint32_t code) {
        const uint32_t w = code < 8 ? code < 4 ? 0xbfad9881u : 0xf6eaddcfu : code < 12 ? 0x26190d01u : 0x71594535u;

        return (float)(int8_t)(w >> code % 4 * 8);
}

/* E2M1, doubled: a negative zero is none. */
DEVICE float e2m1_value(uint32_t code) {
        int v = (int)((code & 4u ? 0x0c080604u : 0x03020100u) >> code % 4 * 8 & 255u);

        return (float)(code & 8u ? -v : v);
}

struct iq4_nl_block : fields<2, 2, 4, 18, 4> {
        static constexpr uint32_t elements = 32, bytes = 18;
        template <typename B> DEVICE float value(B b, uint32_t e) {
                return block_f16(b, 0) * iq4_value(block_nibble(b, 2, e, 16));
        }
};

struct iq4_xs_block : fields<2, 4, 1, 8, 4> {
        static constexpr uint32_t elements = 256, bytes = 136;
        template <typename B> DEVICE float value(B b, uint32_t e) {
                uint32_t j = e / 32, sc = (block_u8(b, 4 + j / 2) >> j % 2 * 4 & 15u) | (block_u16(b, 2) >> 2 * j & 3u) << 4;

                return block_f16(b, 0) * (float)((int)sc - 32) * iq4_value(block_nibble(b, 8 + 16 * j, e % 32, 16));
        }
};

struct mxfp4_block : fields<1, 1, 4, 17, 4> {
        static constexpr uint32_t elements = 32, bytes = 17;
        template <typename B> DEVICE float value(B b, uint32_t e) {
                uint32_t s = block_u8(b, 0);
                float d = __uint_as_float(s == 255 ? 0x7fc00000u : s > 0 ? s << 23 : 0x00400000u);

                return 0.5f * d * e2m1_value(block_nibble(b, 1, e, 16));
        }
};

struct nvfp4_block : fields<1, 4, 4, 36, 4> {
        static constexpr uint32_t elements = 64, bytes = 36;
        template <typename B> DEVICE float value(B b, uint32_t e) {
                uint32_t j = e / 16, s = block_u8(b, j) & 0x7fu;
                float d = s == 0x7fu ? 0.0f : 0.5f * e4m3_value(s);

                return d * e2m1_value(block_nibble(b, 4 + 8 * j, e % 16, 8));
        }
};
