/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * From a Submit to a request the step thread can run, or straight to an answer: checks every field, renders chats,
 * tokenizes. Pure but for reading a passed memfd; runs on a thread of its own, so that a prompt of megabytes delays
 * nobody's stream.
 */

#include "chat.h"
#include "channel.h"
#include "daemon/text/tokenizer.h"
#include "job.h"

#define PREP_INPUT_MAX (64ull << 20) /* bytes of a memfd */

enum {
        PREP_E_FAILED = REQUEST_E_FAILED, /* see struct failure */
        PREP_E_ANSWERED = 2,              /* nothing to run: *ret_answer ends it */
};

struct prep {
        const struct tokenizer *tokenizer; /* borrowed */
        struct chat *chat;                 /* borrowed; NULL: the model has no template */
        const char *chat_fault;            /* why there is none, a sentence */
        uint32_t n_vocab;
        uint32_t context;
        bool vocabulary_only;
};

/* 0 = job->request is ready for engine_submit() and job->accepted is packed, PREP_E_*, or negative. */
int prep_job(const struct prep *p, struct job *job, struct frame **ret_answer, struct failure *f);
