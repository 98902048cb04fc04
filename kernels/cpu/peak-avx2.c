/* SPDX-License-Identifier: Apache-2.0 */

/* AVX2: peak rates. */

#include "vec-avx2.h"

#include "peak-template.h"
