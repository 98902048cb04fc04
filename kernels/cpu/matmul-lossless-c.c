/* SPDX-License-Identifier: Apache-2.0 */

/* Plain C: one panel at a time, one row. Speed was not measured. */

#include "vec-c.h"

#include "lane-c.h"

#include "matmul-lossless-template.h"
