/* SPDX-License-Identifier: Apache-2.0 */

/* AVX2: Q2_K, Q3_K and IQ4_XS; see matmul-avx2.c. */

#include "vec-avx2.h"

#include "matmul-k-low-panels.h"
