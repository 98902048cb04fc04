/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The formats whose 4-bit codes stand for the entries of a table, v[code].
 *
 *   IQ4_NL  32 elements: d, 16 bytes                                      w = d v[q]
 *   IQ4_XS  256 in 8 sub-blocks: d, u16, 4 bytes, 128 bytes               w = d (sc[j] - 32) v[q], j = 0..7
 *   MXFP4   32: an E8M0 scale e, 16 bytes                                 w = 2^(e - 127) v[q]
 *   NVFP4   64 in 4 sub-blocks: 4 x UE4M3 scales, 32 bytes                w = sc[j] v[q], j = 0..3
 *
 * IQ4's table has steps that grow outwards, the other two use the values of E2M1 (float8.h). Of 32 elements, byte i of
 * 16 holds element i in its low and i + 16 in its high nibble; NVFP4 has the same with 16 elements in 8 bytes. The
 * 6-bit scales of IQ4_XS: the lower 4 bits in nibble j of the 4 bytes, the upper 2 in bits 2j of the u16.
 *
 * Codes of scales that mean no number: an E8M0 of 255 makes its block not-a-number. A UE4M3 of 0x7f is 0, and its upper
 * bit is ignored: that is how GGUF's NVFP4 is defined. A matrix in NVFP4 may have one more scale (struct weight).
 */

#include "float8.h"
#include "format-family.h"
#include "half.h"

#define SUPER_BLOCK 256u /* of IQ4_XS */
#define XS_BYTES 136u
#define XS_LOW 8u

const int8_t fmt_iq4_values[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };
/* E2M1, doubled. */
static const int8_t e2m1_values[16] = { 0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12 };

/* 2 n elements from n bytes. */
static void codes_decode(const int8_t *values, float d, const uint8_t *qs, unsigned n, float *dst) {
        for (unsigned i = 0; i < n; i++) {
                dst[i] = d * (float)values[qs[i] & 15u];
                dst[i + n] = d * (float)values[qs[i] >> 4];
        }
}

/* The code of the nearest value, the first one of two that are as near. */
static unsigned nearest(const int8_t *values, float x) {
        float best = fabsf(x - (float)values[0]);
        unsigned code = 0;

        for (unsigned q = 1; q < 16; q++)
                if (fabsf(x - (float)values[q]) < best) {
                        best = fabsf(x - (float)values[q]);
                        code = q;
                }
        return code;
}

static void codes_encode(const int8_t *values, float d, const float *x, unsigned n, uint8_t *qs) {
        for (unsigned i = 0; i < n; i++)
                qs[i] = (uint8_t)(nearest(values, d != 0.0f ? x[i] / d : 0.0f) |
                                  nearest(values, d != 0.0f ? x[i + n] / d : 0.0f) << 4);
}

static void iq4_nl_decode(const void *src, size_t n_blocks, float *dst) {
        const uint8_t *p = src;

        for (size_t i = 0; i < n_blocks; i++, p += 18, dst += 32)
                codes_decode(fmt_iq4_values, load_f16(p), p + 2, 16, dst);
}

static void iq4_nl_encode(const float *x, size_t n_blocks, void *dst) {
        uint8_t *p = dst;

        for (size_t i = 0; i < n_blocks; i++, p += 18, x += 32) {
                store_f16(p, fmt_extreme(x, 32) / (float)fmt_iq4_values[0]);
                codes_encode(fmt_iq4_values, load_f16(p), x, 16, p + 2);
        }
}

static int xs_scale_get(const uint8_t *p, unsigned j) {
        unsigned low = (unsigned)p[4 + j / 2] >> j % 2 * 4 & 15u;

        return (int)(low | ((unsigned)load_u16(p + 2) >> 2 * j & 3u) << 4) - 32;
}

static void xs_scale_put(uint8_t *p, unsigned j, int scale) {
        unsigned sc = (unsigned)(scale + 32);

        p[4 + j / 2] |= (uint8_t)((sc & 15u) << j % 2 * 4);
        store_u16(p + 2, (uint16_t)(load_u16(p + 2) | (sc >> 4) << 2 * j));
}

static void iq4_xs_decode(const void *src, size_t n_blocks, float *dst) {
        const uint8_t *p = src;

        for (size_t i = 0; i < n_blocks; i++, p += XS_BYTES)
                for (unsigned j = 0; j < 8; j++, dst += 32)
                        codes_decode(fmt_iq4_values, load_f16(p) * (float)xs_scale_get(p, j), p + XS_LOW + 16 * j, 16, dst);
}

static void iq4_xs_encode(const float *x, size_t n_blocks, void *dst) {
        uint8_t *p = dst;

        for (size_t i = 0; i < n_blocks; i++, p += XS_BYTES, x += SUPER_BLOCK) {
                float step[8], d;

                for (unsigned j = 0; j < 8; j++)
                        step[j] = fmt_extreme(x + 32 * j, 32) / (float)fmt_iq4_values[0];
                memset(p, 0, XS_BYTES);
                store_f16(p, fmt_extreme(step, 8) / -32.0f);
                d = load_f16(p);
                for (unsigned j = 0; j < 8; j++) {
                        int sc = fmt_quant(step[j], fmt_inverse(d), 0.0f, -32, 31);

                        xs_scale_put(p, j, sc);
                        codes_encode(fmt_iq4_values, d * (float)sc, x + 32 * j, 16, p + XS_LOW + 16 * j);
                }
        }
}

static void mxfp4_decode(const void *src, size_t n_blocks, float *dst) {
        const uint8_t *p = src;

        for (size_t i = 0; i < n_blocks; i++, p += 17, dst += 32)
                codes_decode(e2m1_values, 0.5f * e8m0_to_float(p[0]), p + 1, 16, dst);
}

static void mxfp4_encode(const float *x, size_t n_blocks, void *dst) {
        uint8_t *p = dst;

        for (size_t i = 0; i < n_blocks; i++, p += 17, x += 32) {
                p[0] = e8m0_for_e2m1(fabsf(fmt_extreme(x, 32)));
                codes_encode(e2m1_values, 0.5f * e8m0_to_float(p[0]), x, 16, p + 1);
        }
}

static float nvfp4_scale(uint8_t c) {
        return (c & 0x7fu) == E4M3_NAN ? 0.0f : 0.5f * e4m3_to_float(c & 0x7fu);
}

static void nvfp4_decode(const void *src, size_t n_blocks, float *dst) {
        const uint8_t *p = src;

        for (size_t i = 0; i < n_blocks; i++, p += 36)
                for (unsigned j = 0; j < 4; j++, dst += 16)
                        codes_decode(e2m1_values, nvfp4_scale(p[j]), p + 4 + 8 * j, 8, dst);
}

static void nvfp4_encode(const float *x, size_t n_blocks, void *dst) {
        uint8_t *p = dst;

        for (size_t i = 0; i < n_blocks; i++, p += 36)
                for (unsigned j = 0; j < 4; j++, x += 16) {
                        p[j] = e4m3_from_float(fabsf(fmt_extreme(x, 16)) / E2M1_MAX);
                        codes_encode(e2m1_values, nvfp4_scale(p[j]), x, 8, p + 4 + 8 * j);
                }
}

const struct fmt_family fmt_families_lut[4] = {
        { { FMT_IQ4_NL, "IQ4_NL", 32, 18, 288 }, iq4_nl_decode, iq4_nl_encode, { FMT_UNITS(0, 1, 2), FMT_UNITS(2, 4, 4) } },
        { { FMT_IQ4_XS, "IQ4_XS", SUPER_BLOCK, XS_BYTES, 2176 },
          iq4_xs_decode, iq4_xs_encode,
          { FMT_UNITS(0, 2, 2), FMT_UNITS(4, 4, 1), FMT_UNITS(XS_LOW, 32, 4) } },
        { { FMT_MXFP4, "MXFP4", 32, 17, 272 }, mxfp4_decode, mxfp4_encode, { FMT_UNITS(0, 1, 1), FMT_UNITS(1, 4, 4) } },
        { { FMT_NVFP4, "NVFP4", 64, 36, 576 }, nvfp4_decode, nvfp4_encode, { FMT_UNITS(0, 4, 1), FMT_UNITS(4, 8, 4) } },
};
