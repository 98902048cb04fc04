/* SPDX-License-Identifier: Apache-2.0 */

/* NEON with matrix products: Q4_K, Q5_K and Q6_K; see matmul-i8mm.c. */

#include "vec-i8mm.h"

#include "matmul-k-panels.h"
