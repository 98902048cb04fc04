/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Decoders of the formats whose codes are looked up (kernels/format-lut.c; offsets: its lists of fields).
 *
 *   IQ4_NL  v[q] in the fragments, d
 *   IQ4_XS  the same, d (sc[j] - 32) for each step
 *   MXFP4   E2M1 in the fragments, the block's power of two as scale; 255 makes it, and all sums, not-a-number
 *   NVFP4   E2M1 times the scale of 16 elements in the fragments: that is exact
 */

#include "mm-format.cuh"
#include "mm-unpack.cuh"

/* The codes of a step whose units of 4 bytes begin with `unit`: lower nibbles are its first run of 16, upper its second. */
template <typename T> DEVICE void lut_decode(const T &lut, const uint8_t *codes, uint32_t unit, uint32_t lane, uint32_t a[2][4]) {
        uint2 w = unit4_rows(codes, unit + lane % 4, lane);

        fragments_lut(a, 0, lut, w.x);
        fragments_lut(a, 1, lut, w.y);
}

/* --- IQ4_NL, IQ4_XS --- */

/* fmt_iq4_values */
DEVICE lut16 iq4_lut(void) {
        return { { 0xc2c2c2c2u, 0xc1c1c2c2u, 0x4241413fu, 0x42424242u }, { 0x82a6d0feu, 0x20b00c44u, 0x18c85080u, 0xe2b28a54u } };
}

DEVICE void iq4_nl_decode(const uint8_t *column, uint32_t lane, uint32_t a[2][4]) {
        lut_decode(iq4_lut(), column + 32, 0, lane, a);
}

DEVICE void iq4_xs_decode(const uint8_t *column, uint32_t j, uint32_t lane, uint32_t a[2][4]) {
        lut_decode(iq4_lut(), column + 128, 4 * j, lane, a);
}

DEVICE void iq4_xs_decode_scales(const uint8_t *column, uint32_t j, uint32_t lane, float scale[2]) {
        uint32_t low = unit1_rows(column + 64, j / 2, lane) >> j % 2 * 4;
        uint32_t high = unit2_rows(column, 1, lane) >> 2 * j;
        float d[2];

        f16_rows(d, column, 0, lane);
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
                uint32_t sc = (low >> 8 * i & 15u) | (high >> 16 * i & 3u) << 4;

                scale[i] = d[i] * (float)((int)sc - 32);
        }
}

/* --- MXFP4, NVFP4 --- */

DEVICE lut8 e2m1_lut(void) {
        return { { 0x3f3f3f00u, 0x40404040u }, { 0xc0800000u, 0xc0804000u } };
}

DEVICE void mxfp4_decode(const uint8_t *column, uint32_t lane, uint32_t a[2][4]) {
        lut_decode(e2m1_lut(), column + 16, 0, lane, a);
}

/* Exponents are those of float, whose 0 is 2^-127 as well when the mantissa's upper bit is set; 255 is infinity there. */
DEVICE void mxfp4_decode_scales(const uint8_t *column, uint32_t lane, float scale[2]) {
        uint32_t bytes = unit1_rows(column, 0, lane);

#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
                uint32_t e = byte_of(bytes, i);

                scale[i] = __uint_as_float(e == 255 ? 0x7fc00000u : e > 0 ? e << 23 : 0x00400000u);
        }
}

/* A UE4M3, whose upper bit is not looked at and whose 0x7f is 0, twice as bfloat16. */
DEVICE uint32_t ue4m3_twice(uint32_t code) {
        uint32_t c = code & 0x7fu;
        float f = c == 0x7fu ? 0.0f : __uint_as_float(c << 20) * 0x1p120f;

        return bf16x2(f, f);
}

/* Byte i of a sub-block's 8 has element i in its lower and i + 8 in its upper nibble; the step's two sub-blocks are brought
 * into the form that the other formats have. */
DEVICE uint32_t nvfp4_codes(uint32_t first, uint32_t second, uint32_t upper) {
        return and_or(upper ? second : second << 4, 0xf0f0f0f0u, nibbles(first, upper));
}

/* half: step of the column, which has two. */
DEVICE void nvfp4_decode(const uint8_t *column, uint32_t half, uint32_t lane, uint32_t a[2][4]) {
        uint32_t upper = lane % 4 / 2, sc = unit1_rows_two(column, 2 * half, 2 * half + 1, lane);
        uint2 first = unit4_rows(column + 64, 4 * half + lane % 2, lane);
        uint2 second = unit4_rows(column + 64, 4 * half + 2 + lane % 2, lane);

        fragments_lut(a, 0, e2m1_lut(), nvfp4_codes(first.x, second.x, upper));
        fragments_lut(a, 1, e2m1_lut(), nvfp4_codes(first.y, second.y, upper));
#pragma unroll
        for (uint32_t h = 0; h < 2; h++)
#pragma unroll
                for (uint32_t i = 0; i < 2; i++) {
                        uint32_t factor = ue4m3_twice(byte_of(sc, 2 * h + i));

                        a[h][i] = bf16x2_fma(a[h][i], factor, BF16X2_MINUS_0);
                        a[h][i + 2] = bf16x2_fma(a[h][i + 2], factor, BF16X2_MINUS_0);
                }
}

/* --- what the product knows of them --- */

template <> struct mm_format<FMT_IQ4_NL> : mm_format_base<32, 288, 256, 32, 0> {
        static constexpr bool many = true;

        static __device__ __forceinline__ void load(const uint8_t *chunk, uint32_t step, uint32_t lane, struct mm_step &s) {
                iq4_nl_decode(chunk + step * column, lane, s.a);
                f16_rows(s.scale[0], chunk + step * column, 0, lane);
        }
};

template <> struct mm_format<FMT_IQ4_XS> : mm_format_base<256, 2176, 256, 32, 0> {
        static __device__ __forceinline__ void load(const uint8_t *chunk, uint32_t step, uint32_t lane, struct mm_step &s) {
                iq4_xs_decode(chunk, step, lane, s.a);
                iq4_xs_decode_scales(chunk, step, lane, s.scale[0]);
        }
};

template <> struct mm_format<FMT_MXFP4> : mm_format_base<32, 272, 256, 32, 0> {
        static constexpr bool many = true;

        static __device__ __forceinline__ void load(const uint8_t *chunk, uint32_t step, uint32_t lane, struct mm_step &s) {
                mxfp4_decode(chunk + step * column, lane, s.a);
                mxfp4_decode_scales(chunk + step * column, lane, s.scale[0]);
        }
};

template <> struct mm_format<FMT_NVFP4> : mm_format_base<64, 576, 256, 0, 0> {
        static constexpr bool many = true;

        static __device__ __forceinline__ void load(const uint8_t *chunk, uint32_t step, uint32_t lane, struct mm_step &s) {
                nvfp4_decode(chunk + step / 2 * column, step % 2, lane, s.a);
        }
};
