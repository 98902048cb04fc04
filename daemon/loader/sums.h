/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Checksums of tensors as they get whole: each is reckoned by the thread that brings its last bytes, while they are still in memory,
 * and noted in the plan or compared with what stands there. Threads may add at once.
 */

#include <stdatomic.h>
#include <stdbool.h>

#include "daemon/image/plan.h"

enum sums_fault {
        SUMS_OK = 0,
        SUMS_DAMAGED,  /* not the checksum that the plan has */
        SUMS_MISLEADS, /* a coded tensor's index leads out of it: nobody may compute with it */
};

struct sums {
        struct image_plan *plan;
        void *const *segments;
        _Atomic uint64_t *left; /* of each tensor, in units that add and expect agree on */
        bool compare;
        /* A tensor is whole and has its checksum; NULL = nobody wants to know. */
        void (*whole)(void *arg, const struct image_tensor *t);
        void *arg;
};

#define SUMS_NULL ((struct sums){ 0 })

/* 0 or -ENOMEM. */
int sums_init(struct sums *s, struct image_plan *plan, void *const *segments, bool compare);
void sums_deinit(struct sums *s);
/* So much of tensor i is to come; before anything is added. */
void sums_expect(struct sums *s, uint32_t i, uint64_t n);
/* So much has come. */
enum sums_fault sums_add(struct sums *s, uint32_t i, uint64_t n);
/* Bytes of a segment have come, of whatever tensors lie there; their units are bytes then. *ret_tensor: the one at fault. */
enum sums_fault sums_add_bytes(struct sums *s, uint32_t segment, uint64_t offset, uint64_t n, uint32_t *ret_tensor);
/* Those of which nothing was expected, since they are computed. Not for comparing. */
void sums_finish(struct sums *s);
