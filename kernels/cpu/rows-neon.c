/* SPDX-License-Identifier: Apache-2.0 */

/*
 * NEON. Bits checked under emulation; speed not measured on hardware.
 */

#include "vec-neon.h"

#include "rows-template.h"
