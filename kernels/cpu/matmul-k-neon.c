/* SPDX-License-Identifier: Apache-2.0 */

/* NEON: Q4_K, Q5_K and Q6_K; see matmul-neon.c. */

#include "vec-neon.h"

#include "matmul-k-panels.h"
