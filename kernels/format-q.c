/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The plain quantized formats: blocks of 32 elements with one binary16 scale d (and, in the _1 formats, a minimum m).
 *
 *   Q8_0  d, 32 x i8                          w = d q
 *   Q4_0  d, 16 bytes                         w = d (q - 8)
 *   Q4_1  d, m, 16 bytes                      w = d q + m
 *   Q5_0  d, u32 fifth bits, 16 bytes         w = d (q - 16)
 *   Q5_1  d, m, u32 fifth bits, 16 bytes      w = d q + m
 *
 * Byte j of the 16 holds element j in its low and element j + 16 in its high nibble; bit e of the u32 is element e's.
 */

#include <math.h>

#include "format-family.h"
#include "half.h"

#define BLOCK 32u

/* Four of the five formats are the same but for these. */
struct shape {
        unsigned bits;    /* 4 or 5 */
        bool has_min;
        unsigned bytes;   /* of a block */
};

static const struct shape Q4_0 = { 4, false, 18 }, Q4_1 = { 4, true, 20 };
static const struct shape Q5_0 = { 5, false, 22 }, Q5_1 = { 5, true, 24 };

static void nibbles_decode(const struct shape *s, const void *src, size_t n_blocks, float *dst) {
        const uint8_t *p = src;

        for (size_t i = 0; i < n_blocks; i++, p += s->bytes, dst += BLOCK) {
                float d = load_f16(p), m = s->has_min ? load_f16(p + 2) : 0.0f;
                const uint8_t *high = p + (s->has_min ? 4 : 2), *qs = high + (s->bits == 5 ? 4 : 0);
                uint32_t fifth = s->bits == 5 ? load_u32(high) : 0;
                int offset = s->has_min ? 0 : 1 << (s->bits - 1);

                for (unsigned e = 0; e < BLOCK; e++) {
                        unsigned q = (e < 16 ? qs[e] & 15u : qs[e - 16] >> 4) | (fifth >> e & 1u) << 4;

                        dst[e] = d * (float)((int)q - offset) + m;
                }
        }
}

/* The range of a block: scale and minimum (or, without one, a scale that maps the largest magnitude to the lowest
 * quant, since there is one more below zero than above). */
static void block_range(const struct shape *s, const float *x, float *ret_d, float *ret_m) {
        float min = x[0], max = x[0], top = x[0];

        for (unsigned e = 1; e < BLOCK; e++) {
                min = fminf(min, x[e]);
                max = fmaxf(max, x[e]);
                top = fabsf(x[e]) > fabsf(top) ? x[e] : top;
        }
        *ret_d = s->has_min ? (max - min) / (float)((1 << s->bits) - 1) : top / (float)-(1 << (s->bits - 1));
        *ret_m = s->has_min ? min : 0.0f;
}

static void nibbles_encode(const struct shape *s, const float *x, size_t n_blocks, void *dst) {
        uint8_t *p = dst;
        int limit = (1 << s->bits) - 1;

        for (size_t i = 0; i < n_blocks; i++, p += s->bytes, x += BLOCK) {
                float d, m, inverse, shift = s->has_min ? 0.5f : (float)(1 << (s->bits - 1)) + 0.5f;
                uint8_t *high = p + (s->has_min ? 4 : 2), *qs = high + (s->bits == 5 ? 4 : 0);
                uint32_t fifth = 0;

                block_range(s, x, &d, &m);
                inverse = d != 0.0f ? 1.0f / d : 0.0f;
                memset(p, 0, s->bytes);
                store_f16(p, d);
                if (s->has_min)
                        store_f16(p + 2, m);
                for (unsigned e = 0; e < BLOCK; e++) {
                        float v = fminf(fmaxf((x[e] - m) * inverse + shift, 0.0f), (float)limit);
                        unsigned q = (unsigned)v;

                        qs[e % 16] |= (uint8_t)((q & 15u) << (e < 16 ? 0 : 4));
                        fifth |= (uint32_t)(q >> 4) << e;
                }
                if (s->bits == 5)
                        store_u32(high, fifth);
        }
}

static void q8_0_decode(const void *src, size_t n_blocks, float *dst) {
        const uint8_t *p = src;

        for (size_t i = 0; i < n_blocks; i++, p += 34, dst += BLOCK) {
                float d = load_f16(p);

                for (unsigned e = 0; e < BLOCK; e++)
                        dst[e] = d * (float)(int8_t)p[2 + e];
        }
}

static void q8_0_encode(const float *x, size_t n_blocks, void *dst) {
        uint8_t *p = dst;

        for (size_t i = 0; i < n_blocks; i++, p += 34, x += BLOCK) {
                float amax = 0.0f, d, inverse;

                for (unsigned e = 0; e < BLOCK; e++)
                        amax = fmaxf(amax, fabsf(x[e]));
                d = amax / 127.0f;
                inverse = d != 0.0f ? 1.0f / d : 0.0f;
                store_f16(p, d);
                for (unsigned e = 0; e < BLOCK; e++)
                        p[2 + e] = (uint8_t)(int8_t)fminf(fmaxf(roundf(x[e] * inverse), -127.0f), 127.0f);
        }
}

#define NIBBLE_FORMAT(name, shape)                                                              \
        static void name##_decode(const void *src, size_t n_blocks, float *dst) {               \
                nibbles_decode(&shape, src, n_blocks, dst);                                     \
        }                                                                                       \
        static void name##_encode(const float *src, size_t n_blocks, void *dst) {               \
                nibbles_encode(&shape, src, n_blocks, dst);                                     \
        }

NIBBLE_FORMAT(q4_0, Q4_0)
NIBBLE_FORMAT(q4_1, Q4_1)
NIBBLE_FORMAT(q5_0, Q5_0)
NIBBLE_FORMAT(q5_1, Q5_1)

const struct fmt_family fmt_families_q[5] = {
        { { FMT_Q4_0, "Q4_0", 32, 18, 288 }, q4_0_decode, q4_0_encode, { FMT_UNITS(0, 1, 2), FMT_UNITS(2, 4, 4) } },
        { { FMT_Q4_1, "Q4_1", 32, 20, 320 }, q4_1_decode, q4_1_encode, { FMT_UNITS(0, 2, 2), FMT_UNITS(4, 4, 4) } },
        { { FMT_Q5_0, "Q5_0", 32, 22, 352 }, q5_0_decode, q5_0_encode, { FMT_UNITS(0, 1, 2), FMT_FIFTH_BITS(2), FMT_UNITS(6, 4, 4) } },
        { { FMT_Q5_1, "Q5_1", 32, 24, 384 }, q5_1_decode, q5_1_encode, { FMT_UNITS(0, 2, 2), FMT_FIFTH_BITS(4), FMT_UNITS(8, 4, 4) } },
        { { FMT_Q8_0, "Q8_0", 32, 34, 544 }, q8_0_decode, q8_0_encode, { FMT_UNITS(0, 1, 2), FMT_UNITS(2, 8, 4) } },
};
