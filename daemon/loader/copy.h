/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Moves tensor data from the model file into the image: deep asynchronous reads into a pool of aligned buffers, and the
 * transformation (repacking of matrices, conversion of vectors to F32) by this thread and its helpers while further
 * reads are under way. Helpers and ring are made early, before the process gives up the right to make them.
 */

#include <pthread.h>
#include <stdbool.h>

#include "daemon/image/plan.h"

#include "gguf.h"
#include "ring.h"
#include "source.h"

#define COPY_SLOTS 16u
#define COPY_HELPERS_MAX 3u

/* Rows of one tensor that are read and transformed together. */
struct copy_chunk {
        uint32_t tensor; /* number in gguf and plan alike */
        uint32_t row, n_rows;
        uint64_t offset; /* in the file */
        uint64_t size;
};

struct copy_slot {
        struct copy_chunk chunk;
        char *buf;
        uint64_t start; /* aligned offset of buf's first byte in the file */
        size_t len;     /* bytes asked for */
        size_t need;    /* bytes that must come */
};

struct copy {
        struct ring ring;
        pthread_t helpers[COPY_HELPERS_MAX];
        unsigned n_helpers;

        /* fixed during a run */
        struct source *source;
        const struct gguf *gguf;
        const struct image_plan *plan;
        void *const *segments;
        char *pool;
        size_t buf_size;
        unsigned n_slots;
        struct copy_slot slots[COPY_SLOTS];

        /* only the running thread */
        struct copy_chunk next; /* not handed out yet; tensor == n_tensors: none left */

        pthread_mutex_t lock;
        pthread_cond_t work; /* a slot is ready, or stop */
        pthread_cond_t idle; /* a slot was given back */
        unsigned ready[COPY_SLOTS], n_ready;
        unsigned free[COPY_SLOTS], n_free;
        unsigned n_packing;
        uint64_t done; /* bytes of the file's tensor data that are in place */
        bool stop;
};

struct copy_progress {
        void (*fn)(void *arg, uint64_t done, uint64_t total);
        void *arg;
};

/* Makes ring and helpers for this file; fewer or none where the system refuses. 0 or -errno. */
int copy_init(struct copy *c, struct source *source);
void copy_deinit(struct copy *c);
/* Copies all tensors. segments are mapped writable as the plan lays them out. 0, LOADER_E_IO, or -errno. */
int copy_run(struct copy *c, const struct gguf *gguf, const struct image_plan *plan, void *const *segments,
             const struct copy_progress *progress, struct loader_error *error);
/* Bytes of tensor data in the file. */
uint64_t copy_total(const struct gguf *gguf);
