/* SPDX-License-Identifier: Apache-2.0 */

/* NOTES */

#include "vec-neon.h"

#include "lane-neon.h"

#include "matmul-lossless-template.h"
