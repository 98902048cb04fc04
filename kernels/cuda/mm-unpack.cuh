/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the formats' decoders share. A thread of a warp, lane = 4 g + t, decodes of a panel's step (32 elements of K) what it
 * holds as the A operand of two m16n8k16: panel rows 2g and 2g + 1 (the instruction's rows g and g + 8), and of either run
 * of 16 elements 4t to 4t + 3. Fields of a panel are [unit][row] (kernels/format-family.h), so these rows' units stand side by
 * side, and with units of 4 bytes one load has all of them: two rows, four elements each.
 *
 * Small integers become bfloat16 by way of their bytes: below an upper byte of 0x43 a byte of up to 127 is the number 128 +
 * byte, from which a fused multiply-add takes the 128 again, and whatever else there is to take. Table values are looked up with
 * byte permutations, an upper and a lower byte apart.
 */

#include "mm.h"
#include "ptx.cuh"

#define BF16X2_ONE 0x3f803f80u
#define BF16X2_MINUS_0 0x80008000u
#define BF16X2_MINUS_8 0xc100c100u
#define BF16X2_MINUS_12 0xc140c140u
#define BF16X2_MINUS_128 0xc300c300u
#define BF16X2_MINUS_160 0xc320c320u

/* Units of 4, 2 and 1 bytes of the rows 2g and 2g + 1, from a field's unit on. */
DEVICE uint2 unit4_rows(const uint8_t *field, uint32_t unit, uint32_t lane) {
        return *(const uint2 *)(field + 64 * unit + lane / 4 * 8);
}

DEVICE uint32_t unit2_rows(const uint8_t *field, uint32_t unit, uint32_t lane) {
        return *(const uint32_t *)(field + 32 * unit + lane / 4 * 4);
}

DEVICE uint32_t unit1_rows(const uint8_t *field, uint32_t unit, uint32_t lane) {
        return *(const uint16_t *)(field + 16 * unit + lane / 4 * 2);
}

/* Two units, one after the other: bytes are (first, row 2g), (first, 2g + 1), (second, 2g), (second, 2g + 1). */
DEVICE uint32_t unit1_rows_two(const uint8_t *field, uint32_t first, uint32_t second, uint32_t lane) {
        return unit1_rows(field, first, lane) | unit1_rows(field, second, lane) << 16;
}

DEVICE void f16_rows(float ret[2], const uint8_t *field, uint32_t unit, uint32_t lane) {
        uint32_t two = unit2_rows(field, unit, lane);

        ret[0] = f16_to_float((uint16_t)two);
        ret[1] = f16_to_float((uint16_t)(two >> 16));
}

DEVICE uint32_t byte_of(uint32_t bytes, uint32_t i) {
        return bytes >> 8 * i & 255u;
}

/* Right by n, modulo 32. Bits of a field that are at the same place in each byte come to any other place. */
DEVICE uint32_t rotate(uint32_t x, uint32_t n) {
        return x >> (n & 31) | x << (-n & 31);
}

/* Byte i twice, below an upper byte `top` each. */
DEVICE uint32_t byte_twice(uint32_t bytes, uint32_t i, uint32_t top) {
        return __byte_perm(bytes, top, 0x4040 | i | i << 8);
}

/* Four bytes below upper bytes `top`: elements 0 and 1, and 2 and 3. */
DEVICE uint32_t bytes_first(uint32_t bytes, uint32_t top) {
        return __byte_perm(bytes, top, 0x4140);
}

DEVICE uint32_t bytes_second(uint32_t bytes, uint32_t top) {
        return __byte_perm(bytes, top, 0x4342);
}

/* Four bytes as numbers into a row of a fragment; minus: twice the bfloat16 of -128, or of what else shall be subtracted. */
DEVICE void fragment_ints(uint32_t a[4], uint32_t row, uint32_t bytes, uint32_t minus) {
        a[row] = bf16x2_fma(bytes_first(bytes, 0x43), BF16X2_ONE, minus);
        a[row + 2] = bf16x2_fma(bytes_second(bytes, 0x43), BF16X2_ONE, minus);
}

/* The same of integers up to 7 in bits 4 to 6 of the bytes: below 0x41 they are 8 + integer. Times a factor, which is given
 * twice, with what the 8 (and an offset of the integers) gives: -8 times it (or more). */
DEVICE void fragment_scaled_ints(uint32_t a[4], uint32_t row, uint32_t bytes, uint32_t factor, uint32_t minus) {
        a[row] = bf16x2_fma(bytes_first(bytes, 0x41), factor, minus);
        a[row + 2] = bf16x2_fma(bytes_second(bytes, 0x41), factor, minus);
}

/* Lower (0) or upper (1) nibbles. */
DEVICE uint32_t nibbles(uint32_t bytes, uint32_t upper) {
        return bytes >> 4 * upper & 0x0f0f0f0fu;
}

/* The upper and the lower bytes of numbers of bfloat16, of 16 codes; or of 8, whose codes 8 to 15 are these with a sign. */
struct lut16 {
        uint32_t upper[4], lower[4];
};

struct lut8 {
        uint32_t upper[2], lower[2];
};

/* The bytes of four codes in the lower 16 bits: index has their lower three bits, half chooses by the upper one. */
DEVICE void lut_bytes(const lut16 &lut, uint32_t index, uint32_t half, uint32_t *ret_upper, uint32_t *ret_lower) {
        *ret_upper = __byte_perm(__byte_perm(lut.upper[0], lut.upper[1], index), __byte_perm(lut.upper[2], lut.upper[3], index), half);
        *ret_lower = __byte_perm(__byte_perm(lut.lower[0], lut.lower[1], index), __byte_perm(lut.lower[2], lut.lower[3], index), half);
}

DEVICE void lut_bytes(const lut8 &lut, uint32_t index, uint32_t half, uint32_t *ret_upper, uint32_t *ret_lower) {
        uint32_t upper = __byte_perm(lut.upper[0], lut.upper[1], index);

        *ret_upper = __byte_perm(upper, upper | 0x80808080u, half);
        *ret_lower = __byte_perm(lut.lower[0], lut.lower[1], index);
}

/* Of two bytes: the numbers of their lower nibbles, and of their upper ones. */
template <typename T> DEVICE void lut_pairs(const T &lut, uint32_t codes, uint32_t *ret_low, uint32_t *ret_high) {
        uint32_t upper, lower;

        lut_bytes(lut, codes & 0x7777u, and_or(codes >> 1, 0x4444u, 0x3210u), &upper, &lower);
        *ret_low = __byte_perm(lower, upper, 0x6240);
        *ret_high = __byte_perm(lower, upper, 0x7351);
}

/* Of four bytes: lower nibbles are a row of the first fragment, upper ones of the second. */
template <typename T> DEVICE void fragments_lut(uint32_t a[2][4], uint32_t row, const T &lut, uint32_t codes) {
        lut_pairs(lut, codes, &a[0][row], &a[1][row]);
        lut_pairs(lut, codes >> 16, &a[0][row + 2], &a[1][row + 2]);
}
