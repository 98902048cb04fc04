/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Products with 16-bit and 8-bit floats (kernels/format-float.c).
 *
 *   BF16     as it is
 *   F16      as two numbers of bfloat16: its upper eight significant bits, and the rest of up to three (infinity has none: its
 *            rest, and what it is multiplied with, become not-a-number)
 *   F8_E4M3  as bfloat16, with d as scale
 *
 * Panels are [k][row], while fragments want k side by side: ldmatrix transposes, also pairs of bytes.
 */

#include "mm-kernel.cuh"

#define BF16X2_2_120 0x7b807b80u
#define BF16X2_MINUS_0 0x80008000u
#define F8_CODES 64u /* where the codes begin in a column */

/* 16 bytes are half a k: without the swizzle, four of the eight addresses of a matrix would be in the same banks. */
DEVICE uint32_t swizzle_16_bit(uint32_t at) {
        return at ^ (at >> 7 & 1) << 4 ^ (at >> 8 & 1) << 6;
}

/* Lane 8 j + i points at row i of matrix j: panel's rows 0-7 and 8-15 of slots 2t, 2t + 1, then the same of 2t + 8, 2t + 9. */
DEVICE void load_16_bit(uint32_t a[4], const uint8_t *chunk, uint32_t k, uint32_t lane) {
        uint32_t j = lane / 8, i = lane % 8, own = i / 2 * 4 + j / 2 * 2 + i % 2;

        ldmatrix_x4_trans(a, chunk + k * 32 + swizzle_16_bit(own * 32 + j % 2 * 16)); /* k is a multiple of 16 */
}

struct mm_format_16_bit : mm_format_base<1, 32, 64, 0, 0> {
        static constexpr bool pairs = false;

        static __device__ __forceinline__ uint32_t swizzle(uint32_t at) {
                return swizzle_16_bit(at);
        }
};

template <> struct mm_format<FMT_BF16> : mm_format_16_bit {
        static __device__ __forceinline__ void load(const uint8_t *chunk, uint32_t step, uint32_t lane, struct mm_step &s) {
                load_16_bit(s.a[0], chunk, step * 32, lane);
                load_16_bit(s.a[1], chunk, step * 32 + 16, lane);
        }
};

DEVICE float upper_bf16(float f) {
        return __uint_as_float(__float_as_uint(f) & 0xffff0000u);
}

/* The upper halves of two floats. */
DEVICE uint32_t upper_two(float lo, float hi) {
        return __byte_perm(__float_as_uint(lo), __float_as_uint(hi), 0x7632);
}

template <> struct mm_format<FMT_F16> : mm_format_16_bit {
        static constexpr bool low = true;

        static __device__ __forceinline__ void load(const uint8_t *chunk, uint32_t step, uint32_t lane, struct mm_step &s) {
#pragma unroll
                for (uint32_t h = 0; h < 2; h++) {
                        uint32_t half[4];

                        load_16_bit(half, chunk, step * 32 + 16 * h, lane);
#pragma unroll
                        for (uint32_t i = 0; i < 4; i++) {
                                float f0 = f16_to_float((uint16_t)half[i]), f1 = f16_to_float((uint16_t)(half[i] >> 16));

                                s.a[h][i] = upper_two(f0, f1);
                                s.low[h][i] = upper_two(f0 - upper_bf16(f0), f1 - upper_bf16(f1));
                        }
                }
        }
};

/* Two codes of E4M3 in the upper bytes of 16 bits each. Under bfloat16's exponent, which is 120 less, the product with 2^120 also
 * normalizes what is subnormal. */
DEVICE uint32_t e4m3_two(uint32_t codes) {
        uint32_t magnitude = codes >> 4 & 0x07f007f0u;

        return bf16x2_fma(and_or(codes, 0x80008000u, magnitude), BF16X2_2_120, BF16X2_MINUS_0);
}

/* What is or-ed to the result where a code is not-a-number, which came out as 480, the number that would follow 448. */
DEVICE uint32_t e4m3_nan(uint32_t codes) {
        uint32_t carry = ((codes >> 8 & 0x007f007fu) + 0x00010001u) & 0x00800080u;

        return (carry << 8) - carry;
}

template <> struct mm_format<FMT_F8_E4M3> : mm_format_base<128, 2112, 128, 32, 0> {
        static __device__ __forceinline__ uint32_t swizzle(uint32_t at) {
                return at ^ (at >> 7 & 1) << 5;
        }

        /* The 16 rows of a k are eight pairs of bytes. Matrix j: run of 16 j / 2, slots as above j % 2. */
        static __device__ __forceinline__ void load(const uint8_t *chunk, uint32_t step, uint32_t lane, struct mm_step &s) {
                uint32_t j = lane / 8, i = lane % 8, own = j / 2 * 16 + i / 2 * 4 + j % 2 * 2 + i % 2, codes[4], none = 0;
                float2 d = *(const float2 *)(chunk + lane / 4 * 8);

                ldmatrix_x4_trans(codes, chunk + step * 512 + swizzle(F8_CODES + own * 16));
                s.scale[0][0] = d.x;
                s.scale[0][1] = d.y;
#pragma unroll
                for (uint32_t m = 0; m < 4; m++) {
                        s.a[m / 2][m % 2 * 2] = e4m3_two(codes[m] << 8);
                        s.a[m / 2][m % 2 * 2 + 1] = e4m3_two(codes[m]);
                        none |= (codes[m] & 0x7f7f7f7fu) + 0x01010101u;
                }
                if ((none & 0x80808080u) == 0)
                        return;
#pragma unroll
                for (uint32_t m = 0; m < 4; m++) {
                        s.a[m / 2][m % 2 * 2] |= e4m3_nan(codes[m] << 8);
                        s.a[m / 2][m % 2 * 2 + 1] |= e4m3_nan(codes[m]);
                }
        }
};

MM_FORMAT(mm_bf16, FMT_BF16)
MM_FORMAT(mm_f16, FMT_F16)
MM_FORMAT(mm_f8_e4m3, FMT_F8_E4M3)
