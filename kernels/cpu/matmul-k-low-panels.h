/* SPDX-License-Identifier: Apache-2.0 */

/* Panel products of Q2_K, Q3_K and IQ4_XS. matmul-k-low-ISA.c is this and a vec-ISA.h. */

#include "matmul-panels.h"

#include "matmul-quant-template.h"
#include "matmul-k-template.h"

PANELS(q2_k, k, FMT_Q2_K)
PANELS(q3_k, k, FMT_Q3_K)
PANELS(iq4_xs, k, FMT_IQ4_XS)
