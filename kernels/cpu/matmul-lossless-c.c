/* SPDX-License-Identifier: Apache-2.0 */

/* NOTES */

#include "vec-c.h"

#include "lane-c.h"

#include "matmul-lossless-template.h"
