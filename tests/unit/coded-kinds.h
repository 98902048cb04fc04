/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Numbers of every kind for coded matrices. They take noise() from the fixture that is included before. */

#include "coded-weight.h"

/* About normally distributed, as trained weights are. */
static inline uint16_t trained(uint32_t matrix, uint32_t row, uint32_t k) {
        return bf16_from_float((noise() + noise() + noise() + noise()) * 0.02f * (float)(matrix + 1));
}

static inline uint16_t zero(uint32_t matrix, uint32_t row, uint32_t k) {
        return k % 3 ? 0 : 0x8000;
}

static inline uint16_t any_bits(uint32_t matrix, uint32_t row, uint32_t k) {
        return (uint16_t)(int32_t)(noise() * 32768.0f);
}

/* All patterns there are, in turn. */
static inline uint16_t in_turn(uint32_t matrix, uint32_t row, uint32_t k) {
        return (uint16_t)(row * 4099 + k * 16);
}

/* Every other number is zero: half of a line are escapes. */
static inline uint16_t sparse(uint32_t matrix, uint32_t row, uint32_t k) {
        return (row + k) % 2 ? trained(matrix, row, k) : 0;
}

/* Exponents in two crowds, 12 apart: escapes of four bits, and as many as can be. */
static inline uint16_t two_crowds(uint32_t matrix, uint32_t row, uint32_t k) {
        return (uint16_t)((noise() < 0.5f ? 100u : 112u) << 7 | (k & 0x7f) | (row & 1) << 15);
}

/* Lines of all escapes among lines of none, and one that is no number. */
static inline uint16_t lines(uint32_t matrix, uint32_t row, uint32_t k) {
        if (row == 3 && k == 67)
                return 0x7fc1;
        return (uint16_t)((k / 4 % 7 == 5 ? 104u : 117u + k % 3) << 7 | (row & 0x7f));
}

static inline uint16_t few_infinite(uint32_t matrix, uint32_t row, uint32_t k) {
        return k % 61 == 7 && row % 5 == 2 ? (uint16_t)(0x7f80 | row << 15) : trained(matrix, row, k);
}

/* The exponents at the ends: of numbers below the normal ones, and the largest. */
static inline uint16_t ends(uint32_t matrix, uint32_t row, uint32_t k) {
        return (uint16_t)((k / 256 % 2 ? 248u + (k + row) % 8 : (k + row) % 5) << 7 | (k & 0x7f));
}

/* Escapes of four bits of all kinds, more than half of what a column can have. */
static inline uint16_t scattered(uint32_t matrix, uint32_t row, uint32_t k) {
        uint32_t spread = (uint32_t)((noise() + 1.0f) * 6.49f), exponent = noise() < 0.2f ? 118 + spread % 7 : 105 + spread;

        return (uint16_t)(exponent << 7 | (k & 0x7f) | (row & 1) << 15);
}

static const struct kind {
        const char *name;
        number_fn number;
        bool wide, escapes; /* there must be some */
} kinds[] = {
        { "trained", trained, false, true },     { "zero", zero, false, false },         { "any bits", any_bits, true, true },
        { "in turn", in_turn, true, true },      { "sparse", sparse, false, true },      { "two crowds", two_crowds, false, true },
        { "lines", lines, true, true },          { "few infinite", few_infinite, true, true }, { "ends", ends, false, false },
        { "scattered", scattered, false, true },
};
