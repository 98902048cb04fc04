/* SPDX-License-Identifier: Apache-2.0 */

/* F32, F16 and BF16: blocks of one element. */

#include "format-family.h"
#include "half.h"

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

const struct fmt_family fmt_families_float[3] = {
        { { FMT_F32, "F32", 1, 4, 64 }, f32_decode, f32_encode, { FMT_UNITS(0, 1, 4) } },
        { { FMT_F16, "F16", 1, 2, 32 }, f16_decode, f16_encode, { FMT_UNITS(0, 1, 2) } },
        { { FMT_BF16, "BF16", 1, 2, 32 }, bf16_decode, bf16_encode, { FMT_UNITS(0, 1, 2) } },
};
