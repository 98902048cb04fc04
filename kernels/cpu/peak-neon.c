/* SPDX-License-Identifier: Apache-2.0 */

/* NEON: peak rates. */

#include "vec-neon.h"

#include "peak-template.h"
