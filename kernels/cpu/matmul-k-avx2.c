/* SPDX-License-Identifier: Apache-2.0 */

/* AVX2: Q4_K, Q5_K and Q6_K; see matmul-avx2.c. */

#include "vec-avx2.h"

#include "matmul-k-panels.h"
