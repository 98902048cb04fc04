/* SPDX-License-Identifier: Apache-2.0 */

/* AVX-512: Q4_K, Q5_K and Q6_K; see matmul-avx512.c. */

#include "vec-avx512.h"

#include "matmul-k-panels.h"
