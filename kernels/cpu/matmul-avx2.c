/* SPDX-License-Identifier: Apache-2.0 */

/*
 * AVX2 with FMA: 16 registers hold the sums of 4 rows (two registers each). 8 rows spilled all of them.
 */

#include "vec-avx2.h"

#include "matmul-template.h"
