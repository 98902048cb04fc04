/* SPDX-License-Identifier: Apache-2.0 */

/* Vectors of 32 bytes. */

#define LANES 32u

#include "lossless-template.h"

static bool usable(void) {
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt");
}

const struct lossless_kernels lossless_avx2 = {
        .name = "avx2", .usable = usable, .count = count, .encode = encode, .decode = decode, .decode_row = decode_row
};
