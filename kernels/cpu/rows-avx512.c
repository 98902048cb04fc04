/* SPDX-License-Identifier: Apache-2.0 */

/*
 * AVX-512. Rows are bound by memory and the exponential; nothing else was tried.
 */

#include "vec-avx512.h"

#include "rows-template.h"
