/* SPDX-License-Identifier: Apache-2.0 */

/* NOTES */

#include "vec-avx2.h"

#include "lane-avx2.h"

#include "matmul-lossless-template.h"
