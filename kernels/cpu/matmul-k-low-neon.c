/* SPDX-License-Identifier: Apache-2.0 */

/* NEON: Q2_K, Q3_K and IQ4_XS; see matmul-neon.c. */

#include "vec-neon.h"

#include "matmul-k-low-panels.h"
