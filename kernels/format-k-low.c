/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The two-level formats of 2 and 3 bits: blocks of 256 elements in 16 sub-blocks of 16, whose scales are small integers
 * times a binary16 scale.
 *
 *   Q2_K  16 bytes of scales, 64 bytes, d, dmin           w = d (sc[s] & 15) q - dmin (sc[s] >> 4)
 *   Q3_K  32 + 64 bytes, 12 bytes of scales, d            w = d (sc[s] - 32) (q - 4)
 *
 * s = 0..15. In both, of each half (128 elements), element 32 k + l has its lower two bits in bits 2k of byte l of the
 * half's 32 bytes. Q3_K: bit 4 half + k of byte l of the first 32 is its third bit. The 6-bit scales: sc[s] has its
 * lower 4 bits in byte s % 8 of the 12, low for s < 8 and high for the others, and its upper 2 in bits 2 (s / 4) of byte
 * 8 + s % 4.
 */

#include "format-family.h"
#include "half.h"

#define BLOCK 256u
#define SUB_BLOCKS 16u
#define SUB_BLOCK 16u

#define Q2_K_BYTES 84u
#define Q2_K_LOW 16u
#define Q2_K_D 80u

#define Q3_K_BYTES 110u
#define Q3_K_LOW 32u
#define Q3_K_SCALES 96u
#define Q3_K_D 108u

static unsigned low_get(const uint8_t *low, unsigned e) {
        return (unsigned)low[e / 128 * 32 + e % 32] >> e / 32 % 4 * 2 & 3u;
}

static void low_put(uint8_t *low, unsigned e, unsigned q) {
        low[e / 128 * 32 + e % 32] |= (uint8_t)((q & 3u) << e / 32 % 4 * 2);
}

static void q2_k_decode(const void *src, size_t n_blocks, float *dst) {
        const uint8_t *p = src;

        for (size_t i = 0; i < n_blocks; i++, p += Q2_K_BYTES, dst += BLOCK) {
                float d = load_f16(p + Q2_K_D), dmin = load_f16(p + Q2_K_D + 2);

                for (unsigned e = 0; e < BLOCK; e++) {
                        unsigned sc = p[e / SUB_BLOCK];

                        dst[e] = d * (float)(sc & 15u) * (float)low_get(p + Q2_K_LOW, e) - dmin * (float)(sc >> 4);
                }
        }
}

/* Step and depth of each sub-block: its values reach from -depth to 3 * step - depth. The largest of either. */
static void q2_k_ranges(const float *x, float *step, float *depth, float *ret_step, float *ret_depth) {
        *ret_step = *ret_depth = 0.0f;
        for (unsigned s = 0; s < SUB_BLOCKS; s++, x += SUB_BLOCK) {
                float min = 0.0f, max = x[0];

                for (unsigned l = 0; l < SUB_BLOCK; l++) {
                        min = fminf(min, x[l]);
                        max = fmaxf(max, x[l]);
                }
                step[s] = (max - min) / 3.0f;
                depth[s] = -min;
                *ret_step = fmaxf(*ret_step, step[s]);
                *ret_depth = fmaxf(*ret_depth, depth[s]);
        }
}

static void q2_k_encode(const float *x, size_t n_blocks, void *dst) {
        uint8_t *p = dst;

        for (size_t i = 0; i < n_blocks; i++, p += Q2_K_BYTES, x += BLOCK) {
                float step[SUB_BLOCKS], depth[SUB_BLOCKS], top_step, top_depth, d, dmin;

                q2_k_ranges(x, step, depth, &top_step, &top_depth);
                memset(p, 0, Q2_K_BYTES);
                store_f16(p + Q2_K_D, top_step / 15.0f);
                store_f16(p + Q2_K_D + 2, top_depth / 15.0f);
                d = load_f16(p + Q2_K_D);
                dmin = load_f16(p + Q2_K_D + 2);
                for (unsigned s = 0; s < SUB_BLOCKS; s++) {
                        int sc = fmt_quant(step[s], fmt_inverse(d), 0.0f, 0, 15);
                        int mn = fmt_quant(depth[s], fmt_inverse(dmin), 0.0f, 0, 15);
                        float inverse = fmt_inverse(d * (float)sc);

                        p[s] = (uint8_t)(sc | mn << 4);
                        for (unsigned e = s * SUB_BLOCK; e < (s + 1) * SUB_BLOCK; e++)
                                low_put(p + Q2_K_LOW, e, (unsigned)fmt_quant(x[e] + dmin * (float)mn, inverse, 0.0f, 0, 3));
                }
        }
}

static int q3_k_scale_get(const uint8_t *scales, unsigned s) {
        unsigned low = (unsigned)scales[s % 8] >> (s < 8 ? 0 : 4) & 15u;

        return (int)(low | ((unsigned)scales[8 + s % 4] >> s / 4 * 2 & 3u) << 4) - 32;
}

static void q3_k_scale_put(uint8_t *scales, unsigned s, int scale) {
        unsigned sc = (unsigned)(scale + 32);

        scales[s % 8] |= (uint8_t)((sc & 15u) << (s < 8 ? 0 : 4));
        scales[8 + s % 4] |= (uint8_t)((sc >> 4) << s / 4 * 2);
}

static void q3_k_decode(const void *src, size_t n_blocks, float *dst) {
        const uint8_t *p = src;

        for (size_t i = 0; i < n_blocks; i++, p += Q3_K_BYTES, dst += BLOCK) {
                float d = load_f16(p + Q3_K_D);

                for (unsigned e = 0; e < BLOCK; e++) {
                        unsigned q = low_get(p + Q3_K_LOW, e) | ((unsigned)p[e % 32] >> e / 32 & 1u) << 2;

                        dst[e] = d * (float)q3_k_scale_get(p + Q3_K_SCALES, e / SUB_BLOCK) * (float)((int)q - 4);
                }
        }
}

static void q3_k_encode(const float *x, size_t n_blocks, void *dst) {
        uint8_t *p = dst;

        for (size_t i = 0; i < n_blocks; i++, p += Q3_K_BYTES, x += BLOCK) {
                float step[SUB_BLOCKS], d;

                for (unsigned s = 0; s < SUB_BLOCKS; s++)
                        step[s] = fmt_extreme(x + s * SUB_BLOCK, SUB_BLOCK) / -4.0f;
                memset(p, 0, Q3_K_BYTES);
                store_f16(p + Q3_K_D, fmt_extreme(step, SUB_BLOCKS) / -32.0f);
                d = load_f16(p + Q3_K_D);
                for (unsigned s = 0; s < SUB_BLOCKS; s++) {
                        int sc = fmt_quant(step[s], fmt_inverse(d), 0.0f, -32, 31);
                        float inverse = fmt_inverse(d * (float)sc);

                        q3_k_scale_put(p + Q3_K_SCALES, s, sc);
                        for (unsigned e = s * SUB_BLOCK; e < (s + 1) * SUB_BLOCK; e++) {
                                unsigned q = (unsigned)fmt_quant(x[e], inverse, 4.0f, 0, 7);

                                low_put(p + Q3_K_LOW, e, q);
                                p[e % 32] |= (uint8_t)((q >> 2) << e / 32);
                        }
                }
        }
}

const struct fmt_family fmt_families_k_low[2] = {
        { { FMT_Q2_K, "Q2_K", BLOCK, Q2_K_BYTES, 1344 },
          q2_k_decode, q2_k_encode,
          { FMT_UNITS(Q2_K_D, 2, 2), FMT_UNITS(0, 16, 1), FMT_UNITS(Q2_K_LOW, 16, 4) } },
        { { FMT_Q3_K, "Q3_K", BLOCK, Q3_K_BYTES, 1760 },
          q3_k_decode, q3_k_encode,
          { FMT_UNITS(Q3_K_D, 1, 2), FMT_UNITS(Q3_K_SCALES, 12, 1), FMT_UNITS(0, 8, 4), FMT_UNITS(Q3_K_LOW, 16, 4) } },
};
