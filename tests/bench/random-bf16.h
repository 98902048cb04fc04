/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Gaussian numbers in BF16, the same ones in every run. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/half.h"

static inline double random_uniform(uint64_t *state) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        return ((double)(*state * 0x2545f4914f6cdd1dull >> 11) + 0.5) * 0x1p-53;
}

/* Box and Muller's; n is even. */
static inline void random_bf16(uint16_t *dst, size_t n, double sigma) {
        uint64_t state = 88172645463325252ull;

        for (size_t i = 0; i < n; i += 2) {
                double r = sigma * sqrt(-2.0 * log(random_uniform(&state))), a = 2.0 * M_PI * random_uniform(&state);

                dst[i] = bf16_from_float((float)(r * cos(a)));
                dst[i + 1] = bf16_from_float((float)(r * sin(a)));
        }
}
