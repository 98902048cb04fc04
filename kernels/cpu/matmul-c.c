/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Plain C: the reference, and the last resort. Unrolled like the others it took minutes to compile and was no faster, so
 * it takes one row at a time.
 */

#include "vec-c.h"

#include "matmul-template.h"
