/* SPDX-License-Identifier: Apache-2.0 */

/*
 * AVX-512 with VNNI, 8 rows and (float formats) 2 panels at a time. On one core of a Zen 4 server that was also doing
 * other things, 512 x 2048 weights, 128 rows, best of 20: Q8_0 311, Q4_0 314, Q4_K 283, Q5_K 259, Q6_K 277, F16 93,
 * F32 102 GOP/s. One row with the weights in the cache: 34 (Q5_K) to 69 GB/s (Q8_0), where memory gives at most 30.
 * One row of F16, four panels at a time instead of two: 29 instead of 50 GB/s in the cache; F32 58 either way.
 * Q6_K with its bits in separate runs: a quarter of the speed from memory; asking for the next column ahead of time
 * (1 to 4 columns) did not help, reading in order did. These figures are from before K-quants had activations in blocks of 256;
 * what came with them (matmul-k-template.h, vi_pairs_* in vec-avx512.h) compiles and has not run on such a machine.
 */

#include "vec-avx512.h"

#include "matmul-template.h"
