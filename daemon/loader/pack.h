/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * An image as a file: segments one after another, every tensor and the tables with their checksums. It is written through mappings,
 * since the engine of copies writes to places in memory; what is whole is brought to the disk and dropped from memory behind it.
 * Tables and, last of all, the header are written when everything else is on the disk: a file that is torn has no header.
 */

#include <stdbool.h>

#include "daemon/image/plan.h"

#include "error.h"

struct pack {
        int fd; /* borrowed */
        struct image_plan *plan;
        struct loader_error *error;
        void *maps[IMAGE_SEGMENTS_MAX];
        uint64_t base[IMAGE_SEGMENTS_MAX]; /* where segments begin in the file */
};

/* Bytes that an image takes as a file. */
uint64_t pack_size(const struct image_plan *plan);
/* Maps the file, which has this size and gets its blocks now: no room on its disk is found here, and not by a signal later. 0,
 * LOADER_E_IO, or -errno. Deinit in any case. */
int pack_init(struct pack *p, struct image_plan *plan, int fd, struct loader_error *error);
void pack_deinit(struct pack *p);
/* For struct sums: a tensor is whole. */
void pack_tensor(void *arg, const struct image_tensor *t);
/* When all tensors are: writes tables and header. 0, LOADER_E_IO, or -ENOMEM. */
int pack_finish(struct pack *p);
