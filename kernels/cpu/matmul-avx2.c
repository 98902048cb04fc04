/* SPDX-License-Identifier: Apache-2.0 */

/*
 * AVX2 with FMA: 8 rows in a tile, 4 of them at a time, whose sums take two of the 16 registers each; K-quants, which have
 * sums of 16 and of 32 bits, do half a panel after the other, so that both fit. On one core of a Zen 3
 * server that was also doing other things, 2048 inputs, 64 rows (`spark-bench kernels -t 1 -r 64`), GMAC/s of a peak of 161
 * for integers and 60 for floats: F32 45, F16 46, BF16 42, Q8_0 52, Q4_0 84, Q2_K 75, Q3_K 69, Q4_K 82, Q5_K 75, Q6_K 72,
 * IQ4_XS 55, MXFP4 76.
 *
 * Tried: 4 rows, each unpacking for itself: Q3_K 47, Q5_K 57, Q6_K 51. Additions left to the compiler, which keeps all
 * products of a block in memory: Q6_K a third slower. Additions in place by hand, of 16 bits too: Q4_0 69, Q8_0 47. K-quants with
 * whole panels: Q2_K 68, Q4_K 75, Q5_K 72, Q6_K 63, IQ4_XS 46. Half a panel (8 lanes) for 8 rows of every format: Q4_0 63 and
 * Q8_0 44.
 */

#include "vec-avx2.h"

#include "matmul-template.h"
