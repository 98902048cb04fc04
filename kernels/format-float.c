/* SPDX-License-Identifier: Apache-2.0 */

/*
 * F32, F16 and BF16: blocks of one element. F8_E4M3: 128 codes of E4M3 (float8.h) with a binary32 scale d in front,
 * w = d e4m3(code). Model files have such scales per matrix, per row or per 128 x 128 elements; all of them fit here.
 */

#include "float8.h"
#include "format-family.h"
#include "half.h"

#define F8_BLOCK 128u
#define F8_BYTES 132u

static void f32_decode(const void *src, size_t n_blocks, float *dst) {
        memcpy(dst, src, n_blocks * sizeof(float));
}

static void f32_encode(const float *src, size_t n_blocks, void *dst) {
        memcpy(dst, src, n_blocks * sizeof(float));
}

static void f16_decode(const void *src, size_t n_blocks, float *dst) {
        const uint8_t *p = src;

        for (size_t i = 0; i < n_blocks; i++)
                dst[i] = load_f16(p + 2 * i);
}

static void f16_encode(const float *src, size_t n_blocks, void *dst) {
        uint8_t *p = dst;

        for (size_t i = 0; i < n_blocks; i++)
                store_f16(p + 2 * i, src[i]);
}

static void bf16_decode(const void *src, size_t n_blocks, float *dst) {
        const uint8_t *p = src;

        for (size_t i = 0; i < n_blocks; i++)
                dst[i] = bf16_to_float(load_u16(p + 2 * i));
}

static void bf16_encode(const float *src, size_t n_blocks, void *dst) {
        uint8_t *p = dst;

        for (size_t i = 0; i < n_blocks; i++)
                store_u16(p + 2 * i, bf16_from_float(src[i]));
}

static void f8_decode(const void *src, size_t n_blocks, float *dst) {
        const uint8_t *p = src;

        for (size_t i = 0; i < n_blocks; i++, p += F8_BYTES, dst += F8_BLOCK)
                for (unsigned e = 0; e < F8_BLOCK; e++)
                        dst[e] = load_f32(p) * e4m3_to_float(p[4 + e]);
}

static void f8_encode(const float *src, size_t n_blocks, void *dst) {
        uint8_t *p = dst;

        for (size_t i = 0; i < n_blocks; i++, p += F8_BYTES, src += F8_BLOCK) {
                float d = fabsf(fmt_extreme(src, F8_BLOCK)) / E4M3_MAX;

                store_u32(p, float_bits(d));
                for (unsigned e = 0; e < F8_BLOCK; e++)
                        p[4 + e] = e4m3_from_float(d > 0.0f ? src[e] / d : 0.0f);
        }
}

const struct fmt_family fmt_families_float[4] = {
        { { FMT_F32, "F32", 1, 4, 64 }, f32_decode, f32_encode, { FMT_UNITS(0, 1, 4) } },
        { { FMT_F16, "F16", 1, 2, 32 }, f16_decode, f16_encode, { FMT_UNITS(0, 1, 2) } },
        { { FMT_BF16, "BF16", 1, 2, 32 }, bf16_decode, bf16_encode, { FMT_UNITS(0, 1, 2) } },
        { { FMT_F8_E4M3, "F8_E4M3", F8_BLOCK, F8_BYTES, 2112 },
          f8_decode, f8_encode,
          { FMT_UNITS(0, 1, 4), FMT_UNITS(4, 128, 1) } },
};
