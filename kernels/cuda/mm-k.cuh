/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Decoders of the two-level formats, blocks of 256 (kernels/format-k.c, format-k-low.c; offsets: their lists of fields).
 *
 *   Q4_K, Q5_K  q in the fragments, d sc[j] and dmin mn[j] for each step
 *   Q6_K        q - 32 in the fragments, d sc[s] for each half of a step
 *   Q2_K        sc[s] q in the fragments, d; dmin mn[s] for each half
 *   Q3_K        (sc[s] - 32) (q - 4) in the fragments, d
 *
 * All of what is in the fragments has at most eight significant bits.
 */

#include "mm-format.cuh"
#include "mm-unpack.cuh"

/* --- Q4_K, Q5_K --- */

/* Of step j, with the scales' field at `field`: bytes (sc, row 2g), (sc, 2g + 1), (mn, 2g), (mn, 2g + 1). */
DEVICE uint32_t k_scales_and_mins(const uint8_t *field, uint32_t j, uint32_t lane) {
        uint32_t top = unit1_rows_two(field, j & 3, (j & 3) + 4, lane), low;

        if (j < 4)
                return top & 0x3f3f3f3fu;
        low = unit1_rows(field, j + 4, lane);
        low = (low & 0x0f0fu) | (low & 0xf0f0u) << 12;
        return and_or(top >> 2, 0x30303030u, low);
}

DEVICE void k_decode_scales(const uint8_t *column, uint32_t j, uint32_t lane, float scale[2], float min[2]) {
        uint32_t bytes = k_scales_and_mins(column + 64, j, lane);
        float d[2], dmin[2];

        f16_rows(d, column, 0, lane);
        f16_rows(dmin, column, 1, lane);
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
                scale[i] = d[i] * (float)byte_of(bytes, i);
                min[i] = dmin[i] * (float)byte_of(bytes, 2 + i);
        }
}

DEVICE void q4_k_decode(const uint8_t *column, uint32_t j, uint32_t lane, uint32_t a[2][4]) {
#pragma unroll
        for (uint32_t h = 0; h < 2; h++) {
                uint2 w = unit4_rows(column + 256, j / 2 * 8 + 4 * h + lane % 4, lane);

                fragment_ints(a[h], 0, nibbles(w.x, j % 2), BF16X2_MINUS_128);
                fragment_ints(a[h], 1, nibbles(w.y, j % 2), BF16X2_MINUS_128);
        }
}

DEVICE uint32_t q5_k_ints(uint32_t low, uint32_t fifth, uint32_t j) {
        return and_or(rotate(fifth, j - 4), 0x10101010u, nibbles(low, j % 2));
}

DEVICE void q5_k_decode(const uint8_t *column, uint32_t j, uint32_t lane, uint32_t a[2][4]) {
#pragma unroll
        for (uint32_t h = 0; h < 2; h++) {
                uint2 fifth = unit4_rows(column + 256, 4 * h + lane % 4, lane);
                uint2 w = unit4_rows(column + 768, j / 2 * 8 + 4 * h + lane % 4, lane);

                fragment_ints(a[h], 0, q5_k_ints(w.x, fifth.x, j), BF16X2_MINUS_128);
                fragment_ints(a[h], 1, q5_k_ints(w.y, fifth.y, j), BF16X2_MINUS_128);
        }
}

/* --- Q6_K --- */

DEVICE void q6_k_decode_scales(const uint8_t *column, uint32_t j, uint32_t lane, float scale[2][2]) {
        uint32_t bytes = unit1_rows_two(column + 32, 2 * j, 2 * j + 1, lane);
        float d[2];

        f16_rows(d, column, 0, lane);
#pragma unroll
        for (uint32_t h = 0; h < 2; h++)
#pragma unroll
                for (uint32_t i = 0; i < 2; i++)
                        scale[h][i] = d[i] * (float)(int8_t)byte_of(bytes, 2 * h + i);
}

/* The upper two bits are in bits 2 (j % 4), and belong in bits 4. */
DEVICE uint32_t q6_k_ints(uint32_t low, uint32_t high, uint32_t j) {
        return and_or(rotate(high, j % 4 * 2 - 4), 0x30303030u, nibbles(low, j % 4 / 2));
}

DEVICE void q6_k_decode(const uint8_t *column, uint32_t j, uint32_t lane, uint32_t a[2][4]) {
        const uint8_t *bits = column + 288 + j / 4 * 1536;

#pragma unroll
        for (uint32_t h = 0; h < 2; h++) { /* of a group of four elements: units of nibbles, of other nibbles, of upper bits */
                uint32_t unit = 3 * (4 * h + lane % 4);
                uint2 low = unit4_rows(bits, unit + j % 2, lane), high = unit4_rows(bits, unit + 2, lane);

                fragment_ints(a[h], 0, q6_k_ints(low.x, high.x, j), BF16X2_MINUS_160);
                fragment_ints(a[h], 1, q6_k_ints(low.y, high.y, j), BF16X2_MINUS_160);
        }
}

/* --- Q2_K, Q3_K --- */

/* The lower two bits of element 32 k + l of a half are in bits 2k of byte l: into bits 4. */
DEVICE uint32_t k_low_bits(uint32_t w, uint32_t j) {
        return rotate(w, j % 4 * 2 - 4) & 0x30303030u;
}

DEVICE uint2 k_low_rows(const uint8_t *field, uint32_t j, uint32_t h, uint32_t lane) {
        return unit4_rows(field, j / 4 * 8 + 4 * h + lane % 4, lane);
}

DEVICE void q2_k_decode_scales(const uint8_t *column, uint32_t j, uint32_t lane, float scale[2], float min[2][2]) {
        uint32_t bytes = unit1_rows_two(column + 64, 2 * j, 2 * j + 1, lane);
        float dmin[2];

        f16_rows(scale, column, 0, lane);
        f16_rows(dmin, column, 1, lane);
#pragma unroll
        for (uint32_t h = 0; h < 2; h++)
#pragma unroll
                for (uint32_t i = 0; i < 2; i++)
                        min[h][i] = dmin[i] * (float)(byte_of(bytes, 2 * h + i) >> 4);
}

DEVICE void q2_k_decode(const uint8_t *column, uint32_t j, uint32_t lane, uint32_t a[2][4]) {
        uint32_t sc = unit1_rows_two(column + 64, 2 * j, 2 * j + 1, lane) & 0x0f0f0f0fu;

#pragma unroll
        for (uint32_t h = 0; h < 2; h++) {
                uint2 w = k_low_rows(column + 320, j, h, lane);

#pragma unroll
                for (uint32_t i = 0; i < 2; i++) {
                        uint32_t factor = bf16x2_fma(byte_twice(sc, 2 * h + i, 0x43), BF16X2_ONE, BF16X2_MINUS_128);

                        fragment_scaled_ints(a[h], i, k_low_bits(i ? w.y : w.x, j), factor,
                                             bf16x2_fma(factor, BF16X2_MINUS_8, BF16X2_MINUS_0));
                }
        }
}

/* sc[s] of both halves of a step, 0 to 63, bytes as of unit1_rows_two(). */
DEVICE uint32_t q3_k_scales(const uint8_t *field, uint32_t j, uint32_t lane) {
        uint32_t s = 2 * j, low = unit1_rows_two(field, s % 8, s % 8 + 1, lane);
        uint32_t top = unit1_rows_two(field, 8 + s % 4, 9 + s % 4, lane);

        return and_or(rotate(top, j / 2 * 2 - 4), 0x30303030u, nibbles(low, j / 4));
}

DEVICE void q3_k_decode(const uint8_t *column, uint32_t j, uint32_t lane, uint32_t a[2][4]) {
        uint32_t sc = q3_k_scales(column + 32, j, lane);

#pragma unroll
        for (uint32_t h = 0; h < 2; h++) {
                uint2 third = unit4_rows(column + 224, 4 * h + lane % 4, lane), w = k_low_rows(column + 736, j, h, lane);

#pragma unroll
                for (uint32_t i = 0; i < 2; i++) {
                        uint32_t factor = bf16x2_fma(byte_twice(sc, 2 * h + i, 0x43), BF16X2_ONE, BF16X2_MINUS_160);
                        uint32_t bits = and_or(rotate(i ? third.y : third.x, j - 6), 0x40404040u,
                                               k_low_bits(i ? w.y : w.x, j));

                        fragment_scaled_ints(a[h], i, bits, factor, bf16x2_fma(factor, BF16X2_MINUS_12, BF16X2_MINUS_0));
                }
        }
}

/* --- what the product knows of them --- */

template <> struct mm_format<FMT_Q4_K> : mm_format_base<256, 2304, 256, 32, 32> {
        static __device__ __forceinline__ void load(const uint8_t *chunk, uint32_t step, uint32_t lane, struct mm_step &s) {
                q4_k_decode(chunk, step, lane, s.a);
                k_decode_scales(chunk, step, lane, s.scale[0], s.min[0]);
        }
};

template <> struct mm_format<FMT_Q5_K> : mm_format_base<256, 2816, 256, 32, 32> {
        static __device__ __forceinline__ void load(const uint8_t *chunk, uint32_t step, uint32_t lane, struct mm_step &s) {
                q5_k_decode(chunk, step, lane, s.a);
                k_decode_scales(chunk, step, lane, s.scale[0], s.min[0]);
        }
};

template <> struct mm_format<FMT_Q6_K> : mm_format_base<256, 3360, 256, 16, 0> {
        static constexpr bool many = true;

        static __device__ __forceinline__ void load(const uint8_t *chunk, uint32_t step, uint32_t lane, struct mm_step &s) {
                q6_k_decode(chunk, step, lane, s.a);
                q6_k_decode_scales(chunk, step, lane, s.scale);
        }
};

template <> struct mm_format<FMT_Q2_K> : mm_format_base<256, 1344, 256, 32, 16> {
        static __device__ __forceinline__ void load(const uint8_t *chunk, uint32_t step, uint32_t lane, struct mm_step &s) {
                q2_k_decode(chunk, step, lane, s.a);
                q2_k_decode_scales(chunk, step, lane, s.scale[0], s.min);
        }
};

template <> struct mm_format<FMT_Q3_K> : mm_format_base<256, 1760, 256, 32, 0> {
        static __device__ __forceinline__ void load(const uint8_t *chunk, uint32_t step, uint32_t lane, struct mm_step &s) {
                q3_k_decode(chunk, step, lane, s.a);
                f16_rows(s.scale[0], chunk, 0, lane);
        }
};
