/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Moves tensor data from the model's files into the image: deep asynchronous reads into a pool of aligned buffers, and the
 * transformation (repacking of matrices, conversion of vectors to F32, or what a piece brings along) by this thread and its
 * helpers while further reads are under way. Helpers and ring are made early, before the process gives up the right to make
 * them.
 */

#include <pthread.h>
#include <stdbool.h>

#include "daemon/image/plan.h"

#include "coder.h"
#include "ground.h"
#include "ring.h"
#include "source.h"
#include "sums.h"

#define COPY_SLOTS 16u
#define COPY_HELPERS_MAX 3u

enum copy_transform {
        COPY_PACK = 0,   /* matrix rows, in the format that the image has, into panels */
        COPY_DECODE = 1, /* rows of any format to rows of F32 */
        COPY_CONVERT = 2, /* rows become such of the image's format by the piece's function, and are packed */
        COPY_PLACE = 3,   /* the piece's function does it all */
        COPY_SEGMENT = 4, /* bytes of an image, read to where they belong: rows are pages, and `tensor` is the segment */
};

/* Takes n rows of a piece, from its row'th on, that lie at src as in the file. COPY_CONVERT: dst gets the rows in the image's
 * format; COPY_PLACE: dst is where the whole tensor's data begins. Called in several threads at once, for different rows. */
typedef void copy_fn(const void *arg, uint64_t row, uint64_t n, const char *src, void *dst);

/* A run of whole rows that lie together in one file and belong together in one tensor. */
struct copy_piece {
        uint32_t source; /* number of the file */
        uint32_t tensor; /* number in the plan */
        uint32_t fmt;    /* enum fmt, in the file */
        enum copy_transform transform;
        uint64_t offset, size; /* in the file */
        uint64_t first_row, n_rows; /* of the tensor, those of all its matrices one after another; packed ones: a piece begins
                                     * with a panel and ends with one or with its matrix */
        uint64_t matrix_rows; /* of one matrix */
        copy_fn *fn;          /* COPY_CONVERT, COPY_PLACE */
        coder_gather *gather; /* COPY_PLACE, where rows are columns of a matrix: how to take rows from them */
        const void *arg;
        bool aside;    /* COPY_PLACE: what is read goes nowhere in the image */
        bool has_twin; /* another tensor of this form and these rows is made of the same bytes */
        uint32_t twin;
        const void *twin_arg;
};

/* Rows of one piece that are read and transformed together. */
struct copy_chunk {
        size_t piece;
        uint64_t row, n_rows; /* of the tensor */
        uint64_t offset;      /* in the file */
        uint64_t size;
};

struct copy_slot {
        struct copy_chunk chunk;
        char *buf;      /* own, or a place in the image */
        char *own;
        char *rows;     /* converted ones */
        uint64_t start; /* aligned offset of buf's first byte in the file */
        size_t len;     /* bytes asked for */
        size_t need;    /* bytes that must come */
};

/* What a thread found wrong, in what becomes (or is) this tensor. */
struct copy_fault {
        enum coder_fault coder;
        enum sums_fault sums;
        uint32_t tensor;
        uint32_t source;
};

struct copy {
        struct ring ring;
        pthread_t helpers[COPY_HELPERS_MAX];
        unsigned n_helpers;

        /* fixed during a run */
        struct source *sources;
        size_t n_sources;
        const struct copy_piece *pieces;
        size_t n_pieces;
        const struct image_plan *plan;
        void *const *segments; /* NULL = weights are only looked through, for the coder */
        char *pool; /* kept from run to run */
        size_t pool_size;
        unsigned n_slots;
        struct copy_slot slots[COPY_SLOTS];

        /* set by the owner between runs */
        struct coder *coder; /* which tensors are coded, or measured; NULL = none */
        struct sums *sums;   /* NULL = no checksums */
        struct ground *ground; /* that segments stand on; NULL = memory is taken as they are written */

        /* only the running thread */
        struct copy_chunk next; /* not handed out yet; piece == n_pieces: none left */

        pthread_mutex_t lock;
        pthread_cond_t work; /* a slot is ready, or stop */
        pthread_cond_t idle; /* a slot was given back */
        unsigned ready[COPY_SLOTS], n_ready;
        unsigned free[COPY_SLOTS], n_free;
        unsigned n_packing;
        uint64_t done; /* bytes of the files' tensor data that are in place */
        uint64_t *left; /* by tensor: bytes in the files that are not in place yet; NULL = nobody asks */
        size_t arrived; /* tensors before the first of which some are left */
        bool stop;
        struct copy_fault fault; /* the first one ends the run */
};

struct copy_progress {
        void (*fn)(void *arg, uint64_t done, uint64_t total);
        void *arg;
};

/* Makes ring and helpers for these files; fewer or none where the system refuses. 0 or -errno. */
int copy_init(struct copy *c, struct source *sources, size_t n_sources);
void copy_deinit(struct copy *c);
/* Copies all pieces. segments are mapped writable as the plan lays them out; without any, what the coder has is measured. 0,
 * LOADER_E_*, or -errno. */
int copy_run(struct copy *c, const struct copy_piece *pieces, size_t n_pieces, const struct image_plan *plan,
             void *const *segments, const struct copy_progress *progress, struct loader_error *error);
/* From here on runs keep account of which tensors are in place; pieces are all that there will be, in whatever runs. 0 or -ENOMEM. */
int copy_expect(struct copy *c, const struct copy_piece *pieces, size_t n_pieces, size_t n_tensors);
/* The number of first tensors that are in place; for any thread. 0 without copy_expect(). */
size_t copy_arrived(struct copy *c);
/* Bytes of tensor data in the files. */
uint64_t copy_total(const struct copy_piece *pieces, size_t n_pieces);
