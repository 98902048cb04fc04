/* SPDX-License-Identifier: Apache-2.0 */

/* Plain C: Q2_K, Q3_K and IQ4_XS; see matmul-c.c. */

#include "vec-c.h"

#include "matmul-k-low-panels.h"
