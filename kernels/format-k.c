/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The two-level formats: blocks of 256 elements in sub-blocks whose scales are small integers times a binary16 scale.
 *
 *   Q4_K  d, dmin, 12 bytes of scales, 128 bytes          w = d sc[j] q - dmin mn[j], j = 0..7 (32 elements each)
 *   Q5_K  d, dmin, 12 bytes of scales, 32 + 128 bytes     the same; bit j of byte l of the 32 is the fifth bit
 *   Q6_K  128 + 64 bytes, 16 x i8 scales, d               w = d sc[s] (q - 32), s = 0..15 (16 elements each)
 *
 * Q4_K, Q5_K: byte l of 32-byte chunk c holds element l of sub-block 2c low and of sub-block 2c + 1 high. The 6-bit sc
 * and mn: bytes 0-3 sc[0..3] with the upper 2 bits of sc[4..7] on top, bytes 4-7 the same of mn, bytes 8-11 the lower
 * 4 bits of sc[4..7] (low) and mn[4..7] (high).
 * Q6_K: of each half (128 elements), element 32 k + l has its low nibble in byte 32 (k & 1) + l, nibble k >> 1, of the
 * half's 64 bytes, and its upper two bits in bits 2k of byte l of the half's 32 bytes.
 */

#include "format-family.h"
#include "half.h"

#define BLOCK 256u
#define SUB_BLOCKS 8u

/* Q4_K is Q5_K without the fifth bits: these say where things are. */
struct shape {
        unsigned bytes;
        unsigned high; /* offset of the fifth bits, 0 = none */
        unsigned low;  /* offset of the nibbles */
        int limit;     /* largest quant */
};

static const struct shape Q4_K = { 144, 0, 16, 15 }, Q5_K = { 176, 16, 48, 31 };

static void scales_get(const uint8_t *s, unsigned j, unsigned *ret_sc, unsigned *ret_mn) {
        if (j < 4) {
                *ret_sc = s[j] & 63u;
                *ret_mn = s[j + 4] & 63u;
        } else {
                *ret_sc = (s[j + 4] & 15u) | (unsigned)(s[j - 4] >> 6) << 4;
                *ret_mn = (unsigned)(s[j + 4] >> 4) | (unsigned)(s[j] >> 6) << 4;
        }
}

static void scales_put(uint8_t *s, unsigned j, unsigned sc, unsigned mn) {
        if (j < 4) {
                s[j] |= (uint8_t)sc;
                s[j + 4] |= (uint8_t)mn;
        } else {
                s[j + 4] |= (uint8_t)((sc & 15u) | (mn & 15u) << 4);
                s[j - 4] |= (uint8_t)((sc >> 4) << 6);
                s[j] |= (uint8_t)((mn >> 4) << 6);
        }
}

static void min_decode(const struct shape *f, const void *src, size_t n_blocks, float *dst) {
        const uint8_t *p = src;

        for (size_t i = 0; i < n_blocks; i++, p += f->bytes)
                for (unsigned j = 0; j < SUB_BLOCKS; j++, dst += 32) {
                        const uint8_t *low = p + f->low + j / 2 * 32;
                        unsigned sc, mn;
                        float d, m;

                        scales_get(p + 4, j, &sc, &mn);
                        d = load_f16(p) * (float)sc;
                        m = load_f16(p + 2) * (float)mn;
                        for (unsigned l = 0; l < 32; l++) {
                                unsigned q = (unsigned)low[l] >> (j & 1 ? 4 : 0) & 15u;

                                if (f->high)
                                        q |= ((unsigned)p[f->high + l] >> j & 1u) << 4;
                                dst[l] = d * (float)q - m;
                        }
                }
}

/* Step and depth of each sub-block: its values reach from -mn to limit * sc - mn. */
static void sub_block_ranges(const struct shape *f, const float *x, float *sc, float *mn) {
        for (unsigned j = 0; j < SUB_BLOCKS; j++, x += 32) {
                float min = 0.0f, max = x[0];

                for (unsigned l = 0; l < 32; l++) {
                        min = fminf(min, x[l]);
                        max = fmaxf(max, x[l]);
                }
                sc[j] = (max - min) / (float)f->limit;
                mn[j] = -min;
        }
}

static void min_encode(const struct shape *f, const float *x, size_t n_blocks, void *dst) {
        uint8_t *p = dst;

        for (size_t i = 0; i < n_blocks; i++, p += f->bytes) {
                float sc[SUB_BLOCKS], mn[SUB_BLOCKS], top_sc = 0.0f, top_mn = 0.0f, d, dmin;

                sub_block_ranges(f, x, sc, mn);
                for (unsigned j = 0; j < SUB_BLOCKS; j++) {
                        top_sc = fmaxf(top_sc, sc[j]);
                        top_mn = fmaxf(top_mn, mn[j]);
                }
                memset(p, 0, f->bytes);
                store_f16(p, top_sc / 63.0f);
                store_f16(p + 2, top_mn / 63.0f);
                d = load_f16(p);
                dmin = load_f16(p + 2);
                for (unsigned j = 0; j < SUB_BLOCKS; j++, x += 32) {
                        int s = fmt_quant(sc[j], fmt_inverse(d), 0.0f, 0, 63);
                        int m = fmt_quant(mn[j], fmt_inverse(dmin), 0.0f, 0, 63);
                        float step = d * (float)s, inverse = fmt_inverse(step);

                        scales_put(p + 4, j, (unsigned)s, (unsigned)m);
                        for (unsigned l = 0; l < 32; l++) {
                                int q = fmt_quant(x[l] + dmin * (float)m, inverse, 0.0f, 0, f->limit);

                                p[f->low + j / 2 * 32 + l] |= (uint8_t)((q & 15) << (j & 1 ? 4 : 0));
                                if (f->high)
                                        p[f->high + l] |= (uint8_t)((q >> 4) << j);
                        }
                }
        }
}

static void q6_k_decode(const void *src, size_t n_blocks, float *dst) {
        const uint8_t *p = src;

        for (size_t i = 0; i < n_blocks; i++, p += 210, dst += BLOCK) {
                float d = load_f16(p + 208);

                for (unsigned e = 0; e < BLOCK; e++) {
                        unsigned half = e / 128, k = e / 32 % 4, l = e % 32;
                        unsigned low = (unsigned)p[64 * half + 32 * (k & 1) + l] >> (k >> 1 ? 4 : 0) & 15u;
                        unsigned high = (unsigned)p[128 + 32 * half + l] >> 2 * k & 3u;

                        dst[e] = d * (float)(int8_t)p[192 + e / 16] * (float)((int)(low | high << 4) - 32);
                }
        }
}

static void q6_k_put(uint8_t *p, unsigned e, unsigned q) {
        unsigned half = e / 128, k = e / 32 % 4, l = e % 32;

        p[64 * half + 32 * (k & 1) + l] |= (uint8_t)((q & 15u) << (k >> 1 ? 4 : 0));
        p[128 + 32 * half + l] |= (uint8_t)((q >> 4) << 2 * k);
}

static void q6_k_encode(const float *x, size_t n_blocks, void *dst) {
        uint8_t *p = dst;

        for (size_t i = 0; i < n_blocks; i++, p += 210, x += BLOCK) {
                float step[16], top = 0.0f, d;

                for (unsigned s = 0; s < 16; s++) {
                        step[s] = fmt_extreme(x + 16 * s, 16) / -32.0f;
                        top = fabsf(step[s]) > fabsf(top) ? step[s] : top;
                }
                memset(p, 0, 210);
                store_f16(p + 208, top / -128.0f);
                d = load_f16(p + 208);
                for (unsigned s = 0; s < 16; s++) {
                        int sc = fmt_quant(step[s], fmt_inverse(d), 0.0f, -128, 127);
                        float w = d * (float)sc, inverse = fmt_inverse(w);

                        p[192 + s] = (uint8_t)(int8_t)sc;
                        for (unsigned l = 0; l < 16; l++)
                                q6_k_put(p, 16 * s + l, (unsigned)fmt_quant(x[16 * s + l], inverse, 32.0f, 0, 63));
                }
        }
}

#define MIN_FORMAT(name, shape)                                                                 \
        static void name##_decode(const void *src, size_t n_blocks, float *dst) {               \
                min_decode(&shape, src, n_blocks, dst);                                         \
        }                                                                                       \
        static void name##_encode(const float *src, size_t n_blocks, void *dst) {               \
                min_encode(&shape, src, n_blocks, dst);                                         \
        }

MIN_FORMAT(q4_k, Q4_K)
MIN_FORMAT(q5_k, Q5_K)

/* Q6_K's bits stand in a panel as the kernels read them, a group of 4 bytes of either nibble run and of the upper bits
 * after the other. (Field after field made the kernels jump back and forth, which reads memory at a quarter of its
 * speed.) */
#define Q6_K_GROUP(half, g)                          \
        FMT_UNITS(64 * (half) + 4 * (g), 1, 4),      \
        FMT_UNITS(64 * (half) + 32 + 4 * (g), 1, 4), \
        FMT_UNITS(128 + 32 * (half) + 4 * (g), 1, 4)
#define Q6_K_HALF(half)                                                                              \
        Q6_K_GROUP(half, 0), Q6_K_GROUP(half, 1), Q6_K_GROUP(half, 2), Q6_K_GROUP(half, 3),          \
        Q6_K_GROUP(half, 4), Q6_K_GROUP(half, 5), Q6_K_GROUP(half, 6), Q6_K_GROUP(half, 7)

const struct fmt_family fmt_families_k[3] = {
        { { FMT_Q4_K, "Q4_K", BLOCK, 144, 2304 },
          q4_k_decode, q4_k_encode,
          { FMT_UNITS(0, 2, 2), FMT_UNITS(4, 12, 1), FMT_UNITS(16, 32, 4) } },
        { { FMT_Q5_K, "Q5_K", BLOCK, 176, 2816 },
          q5_k_decode, q5_k_encode,
          { FMT_UNITS(0, 2, 2), FMT_UNITS(4, 12, 1), FMT_UNITS(16, 8, 4), FMT_UNITS(48, 32, 4) } },
        { { FMT_Q6_K, "Q6_K", BLOCK, 210, 3360 },
          q6_k_decode, q6_k_encode,
          { FMT_UNITS(208, 1, 2), FMT_UNITS(192, 16, 1), Q6_K_HALF(0), Q6_K_HALF(1) } },
};
