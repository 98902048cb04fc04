/* SPDX-License-Identifier: Apache-2.0 */

/*
 * AVX2. Rows are bound by memory and the exponential; nothing else was tried.
 */

#include "vec-avx2.h"

#include "rows-template.h"
