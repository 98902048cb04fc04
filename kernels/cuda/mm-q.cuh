/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Decoders of the plain quantized formats, blocks of 32 (kernels/format-q.c; offsets: its list of fields).
 *
 *   Q8_0        q, d
 *   Q4_0, Q5_0  q - 8 and q - 16, d
 *   Q4_1, Q5_1  q, d, minus m as minimum
 */

#include "mm-format.cuh"
#include "mm-unpack.cuh"

#define BF16X2_MINUS_136 0xc308c308u
#define BF16X2_MINUS_144 0xc310c310u

/* Four signed bytes: 128 + the lower seven bits, minus 128 or, below 0xc3 as well, where the sign is set, 256. */
DEVICE void fragment_signed(uint32_t a[4], uint32_t row, uint32_t bytes) {
        uint32_t low = bytes & 0x7f7f7f7fu, sign = bytes & 0x80808080u;

        a[row] = bf16x2_fma(bytes_first(low, 0x43), BF16X2_ONE, bytes_first(sign, 0xc3));
        a[row + 2] = bf16x2_fma(bytes_second(low, 0x43), BF16X2_ONE, bytes_second(sign, 0xc3));
}

template <> struct mm_format<FMT_Q8_0> : mm_format_base<32, 544, 128, 32, 0> {
        static __device__ __forceinline__ void load(const uint8_t *chunk, uint32_t step, uint32_t lane, struct mm_step &s) {
                const uint8_t *p = chunk + step * column;

                f16_rows(s.scale[0], p, 0, lane);
#pragma unroll
                for (uint32_t h = 0; h < 2; h++) {
                        uint2 w = unit4_rows(p + 32, 4 * h + lane % 4, lane);

                        fragment_signed(s.a[h], 0, w.x);
                        fragment_signed(s.a[h], 1, w.y);
                }
        }
};

/* Four bits, and a fifth one where `bits` is 5 (bits of the group of four elements that the bytes are, see FMT_FIFTH_BITS). */
template <uint32_t bits> DEVICE void fragments_nibbles(struct mm_step &s, uint32_t row, uint32_t w, uint32_t fifth, uint32_t lane,
                                                       uint32_t minus) {
        uint32_t low = nibbles(w, 0), high = nibbles(w, 1);

        if (bits == 5) {
                low = and_or(fifth << (4 - lane % 4), 0x10101010u, low);
                high = and_or(fifth >> lane % 4, 0x10101010u, high);
        }
        fragment_ints(s.a[0], row, low, minus);
        fragment_ints(s.a[1], row, high, minus);
}

template <uint32_t bits, uint32_t minimum> struct mm_format_nibbles
        : mm_format_base<32, 16 * (16 + 2 + (minimum ? 2 : 0) + (bits == 5 ? 4 : 0)), 256, 32, minimum> {
        static __device__ __forceinline__ void load(const uint8_t *chunk, uint32_t step, uint32_t lane, struct mm_step &s) {
                constexpr uint32_t at = minimum ? 64 : 32, column = 16 * (16 + 2 + (minimum ? 2 : 0) + (bits == 5 ? 4 : 0));
                constexpr uint32_t minus = minimum ? BF16X2_MINUS_128 : bits == 5 ? BF16X2_MINUS_144 : BF16X2_MINUS_136;
                const uint8_t *p = chunk + step * column;
                uint2 w = unit4_rows(p + at + (bits == 5 ? 64 : 0), lane % 4, lane), fifth = make_uint2(0, 0);

                f16_rows(s.scale[0], p, 0, lane);
                if (minimum) {
                        f16_rows(s.min[0], p, 1, lane);
                        s.min[0][0] = -s.min[0][0];
                        s.min[0][1] = -s.min[0][1];
                }
                if (bits == 5)
                        fifth = unit4_rows(p + at, 0, lane);
                fragments_nibbles<bits>(s, 0, w.x, fifth.x, lane, minus);
                fragments_nibbles<bits>(s, 1, w.y, fifth.y, lane, minus);
        }
};

template <> struct mm_format<FMT_Q4_0> : mm_format_nibbles<4, 0> {};
template <> struct mm_format<FMT_Q4_1> : mm_format_nibbles<4, 32> {};
template <> struct mm_format<FMT_Q5_0> : mm_format_nibbles<5, 0> {};
template <> struct mm_format<FMT_Q5_1> : mm_format_nibbles<5, 32> {};
