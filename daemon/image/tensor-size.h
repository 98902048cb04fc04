/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The bytes a tensor takes in an image, for writer and reader alike. */

#include "image.h"

/* False where format, layout and dimensions do not go together or a number would not fit. Looks at fmt, layout, n_dims
 * and dims (unused ones must be 1). */
bool image_tensor_size(const struct image_tensor *t, uint64_t *ret_size, uint64_t *ret_elements);
