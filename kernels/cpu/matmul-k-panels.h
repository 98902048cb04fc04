/* SPDX-License-Identifier: Apache-2.0 */

/* Panel products of Q4_K, Q5_K and Q6_K. matmul-k-ISA.c is this and a vec-ISA.h. */

#include "matmul-panels.h"

#include "matmul-quant-template.h"
#include "matmul-k-template.h"

PANELS(q4_k, k, FMT_Q4_K)
PANELS(q5_k, k, FMT_Q5_K)
PANELS(q6_k, k, FMT_Q6_K)
