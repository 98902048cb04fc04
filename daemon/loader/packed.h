/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Packed images (pack.h) as a model's file. Tables are read and checked as the engine checks them before anything else is believed;
 * then segments are read to where they belong, and every tensor's checksum is compared.
 */

#include "copy.h"

struct packed {
        struct source *source;
        char *tables;
        struct image image; /* tables alone */
        struct copy_piece pieces[IMAGE_SEGMENTS_MAX];
};

/* Whether the file begins as images do. 0, LOADER_E_IO, or -ENOMEM. */
int packed_probe(struct source *s, bool *ret, struct loader_error *error);
/* Fills the plan, which points into this. 0, LOADER_E_*, or -ENOMEM; deinit in any case. */
int packed_plan(struct packed *p, struct source *s, struct image_plan *plan, struct loader_error *error);
void packed_deinit(struct packed *p);
/* copy is made for this source alone. */
int packed_write(struct packed *p, struct copy *copy, struct image_plan *plan, void *const *segments,
                 const struct copy_progress *progress, struct loader_error *error);
