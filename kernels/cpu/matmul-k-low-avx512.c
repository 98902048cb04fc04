/* SPDX-License-Identifier: Apache-2.0 */

/* AVX-512: Q2_K, Q3_K and IQ4_XS; see matmul-avx512.c. */

#include "vec-avx512.h"

#include "matmul-k-low-panels.h"
