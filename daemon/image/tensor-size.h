/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The form of a tensor in an image and the bytes that it takes, for writer and reader alike. */

#include "kernels/lossless.h"

#include "image.h"

/* Matrices lie in panels; three dimensions are as many matrices as the last one says, of an expert each, every one in
 * whole panels. Vectors and biases (experts' have two dimensions) are rows of F32. Returns an enum weight_layout. */
uint32_t image_tensor_layout(const char *name, uint32_t n_dims);
/* False where format, layout and dimensions do not go together or a number would not fit. Of coded tensors *ret_size is what they
 * take without escapes, which nothing but their values decides. Looks at fmt, layout, n_dims and dims (unused ones must be 1). */
bool image_tensor_size(const struct image_tensor *t, uint64_t *ret_size, uint64_t *ret_elements);
/* Where a coded tensor's parts lie; false where it is not coded, or cannot be. */
bool image_tensor_parts(const struct image_tensor *t, struct lossless_parts *ret);
