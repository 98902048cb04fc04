/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A load of some segments of an image only, where the others are there still. Sets of segments are bits: bit i is segment i.
 * The plan is made as for the whole image, so that it can be compared with the one before; then whatever is for other
 * segments is left out.
 */

#include <stdbool.h>

#include "copy.h"

static inline bool segments_has(uint64_t segments, size_t i) {
        return segments >> i & 1;
}

/* Keeps the pieces that are for tensors in these segments, in their order, and returns how many. */
size_t segments_choose(struct copy_piece *pieces, size_t n, const struct image_plan *plan, uint64_t segments);
/* Bytes of these segments. */
uint64_t segments_size(const struct image_plan *plan, uint64_t segments);
