/* SPDX-License-Identifier: Apache-2.0 */

/* Plain C: peak rates. */

#include "vec-c.h"

#include "peak-template.h"
