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

struct ground {
        pthread_mutex_t lock;
        pthread_cond_t taken;
        uint8_t *states[IMAGE_SEGMENTS_MAX]; /* by block */
        void *const *maps;
        const uint64_t *sizes;
        unsigned failures; /* in a row */
        bool ready, off;
};

#define GROUND_NULL ((struct ground){ .off = true })

/* maps: by huge_map(), NULL where a segment is not written; sizes in bytes; both are borrowed. 0 or -ENOMEM. */
int ground_init(struct ground *g, void *const *maps, const uint64_t *sizes, size_t n);
void ground_deinit(struct ground *g);
/* These bytes of a segment are about to be written. Where huge pages cannot be had they are taken as they are written. g may be
 * NULL. */
void ground_take(struct ground *g, size_t segment, uint64_t offset, uint64_t bytes);
