/* SPDX-License-Identifier: Apache-2.0 */

/*
 * NEON, 4 queries at a time. Bits checked under emulation; speed not measured on hardware.
 */

#include "vec-neon.h"

#include "attn-template.h"
