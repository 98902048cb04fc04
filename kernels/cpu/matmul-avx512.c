/* SPDX-License-Identifier: Apache-2.0 */

/*
 * AVX-512 with VNNI, 8 rows and (float formats) 2 panels at a time. On one Zen 4 core, 2048 inputs, 128 rows: Q8_0 311,
 * Q4_0 314, Q4_K 283, Q6_K 277, F16 93, F32 102 GOP/s; one row out of the cache 38 to 69 GB/s, twice what memory gives.
 * Four panels at a time for one row of floats: slower (four streams 64 KiB apart); one panel: bound by the chain of
 * additions.
 */

#include "vec-avx512.h"

#include "matmul-template.h"
