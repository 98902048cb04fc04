/* SPDX-License-Identifier: Apache-2.0 */

/*
 * AVX-512. Written straight down; nothing else was tried, and speed was not measured.
 */

#include "vec-avx512.h"

#include "rows-template.h"
