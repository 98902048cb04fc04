/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What is kept of a request so that it survives the loss of an engine: the request as it came, the prompt's token ids
 * and the seed as the engine reported them, and every token delivered since. By promise 1 of the design that is all
 * that is needed for the stream to go on with the token that was due. Every byte is charged to the user who asked.
 * Embedded in struct request.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine.pb-c.h"
#include "users/user.h"

enum {
        JOURNAL_E_QUOTA = 1,   /* more than the user may have kept */
        JOURNAL_E_ORDER = 2,   /* accepted twice, or tokens before that: the engine's fault */
};

struct journal {
        struct user *user; /* charged; borrowed */
        uint8_t *frame;    /* spark.v1.ClientFrame as it came */
        size_t frame_size;
        uint32_t *tokens;  /* the prompt's, then the generated ones */
        size_t n_prompt, n_generated, cap;
        uint64_t seed;
        bool generation; /* Generate or Chat: goes on where it was; anything else is asked again */
        bool accepted;   /* prompt and seed are known */
        bool awaiting;   /* the engine that has it now has not accepted it yet */
        uint64_t charged;
        const uint32_t *prefix; /* [n_prefix], borrowed: a session's text, which the engine puts in front of the prompt */
        size_t n_prefix;
};

/* Copies the frame. generation: it is a Generate or a Chat. 0, JOURNAL_E_QUOTA, or -ENOMEM. */
int journal_init(struct journal *j, struct user *user, bool generation, const void *frame, size_t size);
/* What of a journal outlives its process. */
struct journal_kept {
        const void *frame;
        size_t frame_size;
        bool generation, accepted;
        const uint32_t *tokens; /* [n_prompt + n_generated] */
        size_t n_prompt, n_generated;
        uint64_t seed;
};
/* Goes on with it; what it takes is charged whatever the limit. 0, or -ENOMEM. */
int journal_restore(struct journal *j, struct user *user, const struct journal_kept *kept);
void journal_deinit(struct journal *j);
/* The engine understood the request; what it says about a replay is known already. 0, JOURNAL_E_*, or -ENOMEM. */
int journal_accept(struct journal *j, const uint32_t *prompt, size_t n_prompt, uint64_t seed);
/* The engine was lost: another one will be asked and will accept. */
void journal_lost(struct journal *j);
/* Tokens that are about to be delivered. 0, JOURNAL_E_*, or -ENOMEM. */
int journal_append(struct journal *j, const uint32_t *ids, size_t n);

/* The prompt and all tokens, out of the journal: from malloc(), with *ret_charged bytes that stay on the user. It keeps
 * none of them. NULL where the request was not accepted or has no token at all. */
uint32_t *journal_take_tokens(struct journal *j, size_t *ret_n, uint64_t *ret_charged);

/* What a Submit made from a journal points into. */
struct journal_submit {
        Spark__Engine__V1__Submit submit;
        Spark__V1__ClientFrame *frame;
        Spark__V1__Generate generate;
        Spark__V1__Sampling sampling;
        Spark__V1__Prewarm prewarm;
};

/* Fills s->submit's request: as it came, or, once the engine had accepted a Generate or Chat, as a replay of the tokens
 * so far. The submit borrows from the journal; journal_submit_deinit() when it is packed. 0 or -errno. */
int journal_submit_init(struct journal_submit *s, const struct journal *j);
void journal_submit_deinit(struct journal_submit *s);
/* True when a Submit of this journal needs the input that came as a descriptor. */
bool journal_needs_input(const struct journal *j);
