/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Memory for segments that are being written, taken in huge pages just before the first byte of each block is written, by whichever
 * thread comes there first. Segments end on ordinary pages: nothing is taken beyond them. Owned by the loader, for one run.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/image/image.h"

/* What a block costs. Huge pages free an image a hundred times faster, but a load is not to wait for them: where free memory is in
 * pieces the kernel moves others' pages about first, and a load took two to four times as long. */
struct ground_cost {
        uint64_t plain_us; /* in ordinary pages: the first one; 0 = not known yet */
        uint64_t huge_us;  /* in huge ones: of those of late */
        unsigned n;        /* of them */
};

struct ground {
        pthread_mutex_t lock;
        pthread_cond_t taken;
        uint8_t *states[IMAGE_SEGMENTS_MAX]; /* by block */
        void *const *maps;
        const uint64_t *sizes;
        struct ground_cost cost;
        unsigned failures; /* in a row */
        bool ready, off, measured;
};

#define GROUND_NULL ((struct ground){ .off = true })

/* maps: by huge_map(), NULL where a segment is not written; sizes in bytes; both are borrowed. 0 or -ENOMEM. */
int ground_init(struct ground *g, void *const *maps, const uint64_t *sizes, size_t n);
void ground_deinit(struct ground *g);
/* These bytes of a segment are about to be written. Where huge pages cannot be had they are taken as they are written. g may be
 * NULL. */
void ground_take(struct ground *g, size_t segment, uint64_t offset, uint64_t bytes);
/* Another block has been taken in huge pages. False where they cost too much by now to go on with them. */
bool ground_cost_add(struct ground_cost *c, uint64_t us);
