/* SPDX-License-Identifier: Apache-2.0 */

/* Vectors of 16 bytes, which every x86-64 and aarch64 has. */

#define LANES 16u

#include "lossless-template.h"

static bool usable(void) {
        return true;
}

const struct lossless_kernels lossless_vec = {
        .name = "16 bytes", .usable = usable, .count = count, .encode = encode, .decode = decode, .decode_row = decode_row
};
