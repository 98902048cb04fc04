/* SPDX-License-Identifier: Apache-2.0 */

/* NEON with matrix products: Q2_K, Q3_K and IQ4_XS; see matmul-i8mm.c. */

#include "vec-i8mm.h"

#include "matmul-k-low-panels.h"
