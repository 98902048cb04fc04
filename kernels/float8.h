/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Numbers of 4 and 8 bits, as block formats use them for weights and scales. To float is exact.
 *
 *   E4M3  sign, 4 bits of exponent (bias 7), 3 of mantissa; up to 448, no infinity, 0x7f and 0xff are not a number
 *         ("FP8 Formats for Deep Learning", Micikevicius et al. 2022, section 3)
 *   UE4M3 the same without a sign
 *   E8M0  a power of two: 2^(e - 127), 255 is not a number (OCP Microscaling Formats 1.0, section 5.4.1)
 *   E2M1  sign, 2 bits of exponent (bias 1), 1 of mantissa: 0 0.5 1 1.5 2 3 4 6 (the same, section 5.3.3)
 */

#include <math.h>
#include <stdint.h>

#include "half.h"

#define E4M3_MAX 448.0f
#define E4M3_NAN 0x7fu
#define E2M1_MAX 6.0f

static inline float e4m3_to_float(uint8_t c) {
        /* As a binary32 the same fields have a bias of 127; the product also normalizes subnormals. */
        float magnitude = float_from_bits((uint32_t)(c & 0x7fu) << 20) * 0x1p120f;

        if ((c & 0x7fu) == E4M3_NAN)
                return NAN;
        return c & 0x80u ? -magnitude : magnitude;
}

/* To nearest, ties to even; what is larger than E4M3_MAX becomes that. */
static inline uint8_t e4m3_from_float(float f) {
        uint8_t sign = signbit(f) ? 0x80u : 0;
        float x = fabsf(f);
        uint32_t u;

        if (isnan(x))
                return (uint8_t)(sign | E4M3_NAN);
        if (x >= E4M3_MAX)
                return (uint8_t)(sign | 0x7eu);
        if (x < 0x1p-6f) /* subnormal: 2^14 has their spacing, let the addition round */
                return (uint8_t)(sign | (float_bits(x + 0x1p14f) - float_bits(0x1p14f)));
        u = float_bits(x);
        u += 0x7ffffu + (u >> 20 & 1u);
        return (uint8_t)(sign | ((u >> 20) - (120u << 3)));
}

static inline float e8m0_to_float(uint8_t e) {
        if (e == 255)
                return NAN;
        return float_from_bits(e > 0 ? (uint32_t)e << 23 : 0x00400000u);
}

/* The largest power of two of which E2M1 still reaches x without more than its own rounding: floor(log2 x) - 2. */
static inline uint8_t e8m0_for_e2m1(float x) {
        int e;

        if (!(x > 0.0f) || !isfinite(x))
                return 0;
        (void)frexpf(x, &e); /* x = m 2^e, m in [0.5, 1) */
        e += 127 - 3;
        return (uint8_t)(e < 0 ? 0 : e > 254 ? 254 : e);
}
