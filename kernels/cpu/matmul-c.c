/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Plain C: the reference, and the last resort. One row at a time and not unrolled: with tiles of 4 rows and all loops
 * unrolled this file alone took nine minutes to compile. Speed was not measured.
 */

#include "vec-c.h"

#include "matmul-template.h"
