/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What tells one model from another without reading all of it: hyper-parameters, vocabulary, names, shapes and formats of
 * all tensors, and samples of each one's data. Training, merging or quantizing anew changes nearly every weight, and so
 * the fingerprint. Not made against malice.
 */

#include "image.h"

#define IMAGE_FINGERPRINT_BYTES 16u

/* variant: 0, or which of several things that the image can stand for is computed with it. */
void image_fingerprint(const struct image *image, uint32_t variant, uint8_t ret[IMAGE_FINGERPRINT_BYTES]);
