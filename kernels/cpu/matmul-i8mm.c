/* SPDX-License-Identifier: Apache-2.0 */

/*
 * NEON with matrix products: 4 rows of 4 registers each. Bits checked under emulation; speed not measured on hardware.
 */

#include "vec-i8mm.h"

#include "matmul-template.h"
