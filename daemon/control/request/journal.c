/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "journal.h"
#include "message.h"

#define TOKENS_MAX ((size_t)1 << 28)

static int journal_charge(struct journal *j, uint64_t bytes) {
        if (user_charge(j->user, USER_BYTES, bytes))
                return JOURNAL_E_QUOTA;
        j->charged += bytes;
        return 0;
}

int journal_init(struct journal *j, struct user *user, bool generation, const void *frame, size_t size) {
        int r;

        *j = (struct journal){ .user = user, .generation = generation, .awaiting = true };
        r = journal_charge(j, size);
        if (r)
                return r;
        j->frame = malloc(size ? size : 1);
        if (!j->frame) {
                journal_deinit(j);
                return -ENOMEM;
        }
        memcpy(j->frame, frame, size);
        j->frame_size = size;
        return 0;
}

int journal_restore(struct journal *j, struct user *user, const struct journal_kept *kept) {
        size_t n = kept->n_prompt + kept->n_generated;
        bool accepted = kept->accepted && kept->generation;

        *j = (struct journal){ .user = user, .generation = kept->generation, .awaiting = true };
        j->charged = kept->frame_size + (accepted ? (uint64_t)n * sizeof(*j->tokens) : 0);
        user_charge_found(user, USER_BYTES, j->charged);
        j->frame = malloc(kept->frame_size + 1);
        if (accepted && n > 0)
                j->tokens = reallocarray(NULL, n, sizeof(*j->tokens));
        if (!j->frame || (accepted && n > 0 && !j->tokens)) {
                journal_deinit(j);
                return -ENOMEM;
        }
        memcpy(j->frame, kept->frame, kept->frame_size);
        j->frame_size = kept->frame_size;
        if (!accepted)
                return 0;
        if (n > 0)
                memcpy(j->tokens, kept->tokens, n * sizeof(*j->tokens));
        j->cap = n;
        j->n_prompt = kept->n_prompt;
        j->n_generated = kept->n_generated;
        j->seed = kept->seed;
        j->accepted = true;
        return 0;
}

void journal_deinit(struct journal *j) {
        if (j->user)
                user_release(j->user, USER_BYTES, j->charged);
        free(j->frame);
        free(j->tokens);
        *j = (struct journal){ 0 };
}

/* Room for n further tokens; the charge comes first and doubles with the array. */
static int journal_reserve(struct journal *j, size_t n) {
        size_t used = j->n_prompt + j->n_generated, cap = j->cap ? j->cap : 64;
        uint32_t *p;
        int r;

        if (n > TOKENS_MAX || used > TOKENS_MAX - n)
                return JOURNAL_E_QUOTA;
        if (used + n <= j->cap)
                return 0;
        while (cap < used + n)
                cap *= 2;
        r = journal_charge(j, (uint64_t)(cap - j->cap) * sizeof(*p));
        if (r)
                return r;
        p = reallocarray(j->tokens, cap, sizeof(*p));
        if (!p) {
                uint64_t back = (uint64_t)(cap - j->cap) * sizeof(*p);

                user_release(j->user, USER_BYTES, back);
                j->charged -= back;
                return -ENOMEM;
        }
        j->tokens = p;
        j->cap = cap;
        return 0;
}

int journal_accept(struct journal *j, const uint32_t *prompt, size_t n_prompt, uint64_t seed) {
        int r;

        if (!j->awaiting)
                return JOURNAL_E_ORDER;
        j->awaiting = false;
        if (j->accepted)
                return 0;
        r = journal_reserve(j, n_prompt);
        if (r)
                return r;
        if (n_prompt)
                memcpy(j->tokens, prompt, n_prompt * sizeof(*prompt));
        j->n_prompt = n_prompt;
        j->seed = seed;
        j->accepted = true;
        return 0;
}

void journal_lost(struct journal *j) {
        j->awaiting = true;
        if (!j->generation) {
                j->accepted = false;
                j->n_prompt = 0;
        }
}

int journal_append(struct journal *j, const uint32_t *ids, size_t n) {
        int r;

        if (!j->accepted || j->awaiting || n == 0)
                return JOURNAL_E_ORDER;
        r = journal_reserve(j, n);
        if (r)
                return r;
        memcpy(j->tokens + j->n_prompt + j->n_generated, ids, n * sizeof(*ids));
        j->n_generated += n;
        return 0;
}

uint32_t *journal_take_tokens(struct journal *j, size_t *ret_n, uint64_t *ret_charged) {
        uint64_t charged = (uint64_t)j->cap * sizeof(*j->tokens);
        size_t n = j->n_prompt + j->n_generated;

        if (!j->accepted || n == 0)
                return NULL;
        *ret_n = n;
        *ret_charged = charged;
        j->charged -= charged;
        j->n_prompt = j->n_generated = j->cap = 0;
        return steal_ptr(&j->tokens);
}

/* A Generate whose prompt is what the engine had made of the request, whatever that was. */
static void submit_fill_replay(struct journal_submit *s, const struct journal *j) {
        const Spark__V1__ClientFrame *f = s->frame;
        const Spark__V1__Sampling *sampling;

        s->generate = (Spark__V1__Generate)SPARK__V1__GENERATE__INIT;
        if (f->body_case == SPARK__V1__CLIENT_FRAME__BODY_GENERATE) {
                sampling = f->generate->sampling;
                s->generate.raw_bytes = f->generate->raw_bytes;
        } else {
                sampling = f->chat->sampling;
        }
        s->sampling = (Spark__V1__Sampling)SPARK__V1__SAMPLING__INIT;
        if (sampling)
                s->sampling = *sampling;
        s->sampling.has_seed = true;
        s->sampling.seed = j->seed;
        s->generate.sampling = &s->sampling;
        s->generate.prompt_tokens = j->tokens;
        s->generate.n_prompt_tokens = j->n_prompt;
        s->submit.request_case = SPARK__ENGINE__V1__SUBMIT__REQUEST_GENERATE;
        s->submit.generate = &s->generate;
        s->submit.replay = true;
        if (j->n_generated) {
                s->submit.generated = j->tokens + j->n_prompt;
                s->submit.n_generated = j->n_generated;
        }
}

/* To the engine, adding to a session is reading ahead, behind what the session has come to. */
static void submit_fill_append(struct journal_submit *s, const Spark__V1__SessionAppend *a) {
        s->prewarm = (Spark__V1__Prewarm)SPARK__V1__PREWARM__INIT;
        s->prewarm.text = a->text;
        s->prewarm.input_fd = a->input_fd;
        s->prewarm.tokens = a->tokens;
        s->prewarm.n_tokens = a->n_tokens;
        s->prewarm.special = a->special;
        s->prewarm.no_bos = a->no_bos;
        s->prewarm.priority = a->priority;
        s->submit.request_case = SPARK__ENGINE__V1__SUBMIT__REQUEST_PREWARM;
        s->submit.prewarm = &s->prewarm;
}

static int submit_fill_original(struct journal_submit *s) {
        Spark__V1__ClientFrame *f = s->frame;

        switch (f->body_case) {
        case SPARK__V1__CLIENT_FRAME__BODY_GENERATE:
                s->submit.request_case = SPARK__ENGINE__V1__SUBMIT__REQUEST_GENERATE;
                s->submit.generate = f->generate;
                return 0;
        case SPARK__V1__CLIENT_FRAME__BODY_CHAT:
                s->submit.request_case = SPARK__ENGINE__V1__SUBMIT__REQUEST_CHAT;
                s->submit.chat = f->chat;
                return 0;
        case SPARK__V1__CLIENT_FRAME__BODY_TOKENIZE:
                s->submit.request_case = SPARK__ENGINE__V1__SUBMIT__REQUEST_TOKENIZE;
                s->submit.tokenize = f->tokenize;
                return 0;
        case SPARK__V1__CLIENT_FRAME__BODY_DETOKENIZE:
                s->submit.request_case = SPARK__ENGINE__V1__SUBMIT__REQUEST_DETOKENIZE;
                s->submit.detokenize = f->detokenize;
                return 0;
        case SPARK__V1__CLIENT_FRAME__BODY_SCORE:
                s->submit.request_case = SPARK__ENGINE__V1__SUBMIT__REQUEST_SCORE;
                s->submit.score = f->score;
                return 0;
        case SPARK__V1__CLIENT_FRAME__BODY_PREWARM:
                s->submit.request_case = SPARK__ENGINE__V1__SUBMIT__REQUEST_PREWARM;
                s->submit.prewarm = f->prewarm;
                return 0;
        case SPARK__V1__CLIENT_FRAME__BODY_SESSION_APPEND:
                submit_fill_append(s, f->session_append);
                return 0;
        default:
                return -EINVAL;
        }
}

int journal_submit_init(struct journal_submit *s, const struct journal *j) {
        ProtobufCMessage *m;
        int r;

        s->frame = NULL;
        s->submit = (Spark__Engine__V1__Submit)SPARK__ENGINE__V1__SUBMIT__INIT;
        r = message_unpack(&spark__v1__client_frame__descriptor, j->frame, j->frame_size, &m, NULL);
        if (r) /* it was unpacked when it came, so this is memory */
                return r < 0 ? r : -EBADMSG;
        s->frame = (Spark__V1__ClientFrame *)m;
        if (j->accepted && j->generation) {
                submit_fill_replay(s, j);
                return 0;
        }
        s->submit.prefix = (uint32_t *)j->prefix;
        s->submit.n_prefix = j->n_prefix;
        r = submit_fill_original(s);
        if (r < 0)
                journal_submit_deinit(s);
        return r;
}

void journal_submit_deinit(struct journal_submit *s) {
        if (s->frame)
                (void)message_free(&s->frame->base);
        s->frame = NULL;
}

bool journal_needs_input(const struct journal *j) {
        return !j->accepted || !j->generation;
}
