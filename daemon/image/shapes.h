/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Shapes of well-known models, for planning and for measuring without a file. */

#include <stddef.h>

#include "hparams.h"

/* Hyper-parameters of a shape, with what its architecture implies; *ret_tied: embedding and output are one matrix. False
 * where there is none of this name. */
bool image_shape_find(const char *name, struct image_hparams *ret, bool *ret_tied);
/* The name of shape i, NULL behind the last. */
const char *image_shape_name(size_t i);
/* All names, ", " between them, as far as they fit; returns out. */
const char *image_shape_names(char *out, size_t size);
