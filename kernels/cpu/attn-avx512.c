/* SPDX-License-Identifier: Apache-2.0 */

/*
 * AVX-512, 8 queries at a time (with GQA the heads of a group share K and V even for a single row). Nothing else was
 * tried, and speed was not measured by itself.
 */

#include "vec-avx512.h"

#include "attn-template.h"
