/* SPDX-License-Identifier: Apache-2.0 */

/* NEON: one panel at a time, for i8mm as well. Bits checked under emulation; speed not measured on hardware. */

#include "vec-neon.h"

#include "lane-neon.h"

#include "matmul-lossless-template.h"
