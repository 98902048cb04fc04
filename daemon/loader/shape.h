/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Plans without a file. */

#include "daemon/image/plan.h"
#include "error.h"

/* The plan (zero-initialised) of a model of this shape (daemon/image/shapes.h), with its matrices in this format and without
 * a vocabulary. *ret_estimated: what the format takes depends on values, so that this is an estimate. 0, LOADER_E_* or -errno. */
int shape_plan(struct image_plan *plan, const char *shape, const char *format, uint64_t segment_max,
               bool *ret_estimated, struct loader_error *error);
