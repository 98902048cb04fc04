/* SPDX-License-Identifier: Apache-2.0 */

/* Plain C: Q4_K, Q5_K and Q6_K; see matmul-c.c. */

#include "vec-c.h"

#include "matmul-k-panels.h"
