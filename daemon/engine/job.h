/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A request on its way through the engine's threads, and the frames that answer it. The IO thread makes a job for every
 * Submit and frees it when a frame comes back that ends it; between that one other thread at a time works on it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine.pb-c.h"
#include "request.h"

/* A packed message on its way to the socket. */
struct frame {
        struct frame *next;
        size_t size;
        uint8_t data[];
};

struct job {
        struct request request;
        Spark__Engine__V1__Submit *submit; /* owned by `message`; NULL once prepared; likewise: */
        const Spark__Engine__V1__Spill *spill;
        const Spark__Engine__V1__Restore *restore;
        ProtobufCMessage *message;
        int input_fd;
        int file_fd;             /* of a spill or a restore */
        uint64_t file_max;       /* bytes that a spill may write; 0 = no limit */
        size_t bytes;            /* charged to the link */
        struct frame *accepted;  /* to be sent when the engine takes it */
        struct job *next;        /* of the errands that wait */
};

struct job *job_new(void);
struct job *job_free(struct job *job);
DEFINE_CLEANUP(struct job *, job_free)
/* Lets go of the message, keeps the request. */
void job_drop_message(struct job *job);
static inline struct job *job_of(struct request *r) {
        return CONTAINER_OF(r, struct job, request);
}

/* Jobs by key: open addressing, for a number that is known beforehand. */
struct job_table {
        struct job **slots;
        size_t mask;
        size_t n;
        size_t max;
};

enum {
        JOB_E_FULL = 1,
        JOB_E_EXISTS = 2,
};

int job_table_init(struct job_table *t, size_t max); /* 0 or -ENOMEM */
void job_table_deinit(struct job_table *t); /* frees the jobs, too */
int job_table_add(struct job_table *t, struct job *job); /* 0 or JOB_E_* */
struct job *job_table_find(const struct job_table *t, uint64_t key);
void job_table_remove(struct job_table *t, struct job *job);

/* Packed frames; NULL without memory. */
struct frame *frame_new(const Spark__Engine__V1__EngineFrame *message);
struct frame *frame_new_failed(uint64_t key, const struct failure *f);
/* The same for one that ran: with what was done for it. */
struct frame *frame_new_ended(const struct request *r, const struct failure *f);
struct frame *frame_new_accepted(const struct request *r);
/* The answer to a Spill or a Restore (by the request's kind). */
struct frame *frame_new_errand(const struct request *r, uint32_t n_tokens, uint64_t bytes, const char *error);
