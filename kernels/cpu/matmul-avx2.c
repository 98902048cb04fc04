/* SPDX-License-Identifier: Apache-2.0 */

/*
 * AVX2 with FMA: 4 rows, whose sums take two of the 16 registers each. Other numbers of rows were not tried, and speed
 * was not measured.
 */

#include "vec-avx2.h"

#include "matmul-template.h"
