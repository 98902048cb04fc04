/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Spills and restores: a text's KV to a file and back, piece by piece. Two threads take turns with an errand: the step
 * thread moves pages between the cache and the errand's buffer, between two steps, some milliseconds at a time; the file
 * thread moves the buffer to or from the file, however long that takes. Between pieces nothing is held: what has left the
 * cache meanwhile ends the errand where it is. One errand is under way at a time, the others wait.
 */

#include <stdbool.h>
#include <stdint.h>

#include "engine.h"
#include "job.h"
#include "kvfile.h"

struct errand {
        struct job *job;
        const struct kvfile_kind *kind; /* borrowed */
        uint64_t pages_offset;
        uint32_t n_pages; /* of the text; Restore: that the file has of it, once that is known */
        uint32_t done;
        uint32_t n_piece, cap; /* pages in `piece`, and that it has room for */
        bool opened;     /* Restore: the header was read */
        bool last;       /* nothing comes after this piece */
        bool finished;   /* the answer is due */
        int error;       /* -errno */
        struct kvfile_fault fault; /* text "": none */
        uint8_t piece[]; /* cap pages */
};

/* Takes what the job says; the job stays whose it is. 0 or -ENOMEM. */
int errand_new(struct errand **ret, struct job *job, const struct kvfile_kind *kind);
struct errand *errand_free(struct errand *errand);
DEFINE_CLEANUP(struct errand *, errand_free)

/* On the step thread. True where the file thread is to go on with it; false: it is finished. Negative is the backend's
 * loss, in *ret_lost. */
bool errand_step(struct errand *errand, struct engine *e, int *ret_lost);
/* On the file thread; may block. */
void errand_file(struct errand *errand);
/* The answer, once it is finished. NULL without memory. */
struct frame *errand_answer(const struct errand *errand);
