/* SPDX-License-Identifier: Apache-2.0 */

/* AVX-512: peak rates. */

#include "vec-avx512.h"

#include "peak-template.h"
