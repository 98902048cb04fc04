/* SPDX-License-Identifier: Apache-2.0 */

/*
 * AVX2. Written straight down; nothing else was tried, and speed was not measured.
 */

#include "vec-avx2.h"

#include "rows-template.h"
