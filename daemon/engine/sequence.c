/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "sequence.h"

#define GROWTH 32u /* tokens that a sequence gets room for beyond those it has */

static int too_much_kv(uint64_t have, uint64_t kv_tokens, struct failure *f) {
        (void)failure_set(f, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                          "the request needs KV for %llu tokens, your user may have it for %llu",
                          (unsigned long long)have, (unsigned long long)kv_tokens);
        f->have = have;
        f->max = kv_tokens;
        return REQUEST_E_FAILED;
}

static int check_score(struct request *r, uint32_t context, uint64_t kv_tokens, size_t n_opening,
                       struct failure *f) {
        size_t least = MAX(n_opening, 1u) + 1, most = r->n_tokens + MAX(n_opening, 1u);

        if (r->window > context) {
                (void)failure_set(f, SPARK__V1__ERROR_CODE__CONTEXT_OVERFLOW,
                                  "context is %u tokens, the model has room for %u", r->window, context);
                f->have = r->window;
                f->max = context;
                return REQUEST_E_FAILED;
        }
        if (r->window == 0)
                r->window = context;
        if (r->window < least)
                return failure_set(f, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "context must be at least %zu tokens", least);
        if (r->n_tokens + n_opening < 2)
                return failure_set(f, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                   "the text has %zu tokens, too few to score any", r->n_tokens);
        if (MIN((size_t)r->window, most) > kv_tokens)
                return too_much_kv(MIN((size_t)r->window, most), kv_tokens, f);
        return 0;
}

/* least: tokens that must fit behind the prompt. */
static int check_prompt(const struct request *r, uint32_t context, uint32_t least, struct failure *f) {
        if (r->n_tokens == 0)
                return failure_set(f, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                   "prompt is empty, and the model has no token to begin with");
        if (r->n_tokens + least > context) {
                (void)failure_set(f, SPARK__V1__ERROR_CODE__CONTEXT_OVERFLOW,
                                  "the prompt has %zu tokens, and %s the context of %u", r->n_tokens,
                                  least ? "one more must fit in" : "must fit in", context);
                f->have = r->n_tokens + least;
                f->max = context;
                return REQUEST_E_FAILED;
        }
        return 0;
}

static int check_generate(const struct request *r, uint32_t context, uint64_t kv_tokens, struct failure *f) {
        uint64_t most;
        int c;

        c = check_prompt(r, context, 1, f);
        if (c != 0)
                return c;
        most = r->max_tokens == REQUEST_ENDLESS ? 1 : MIN((size_t)r->max_tokens, context - r->n_tokens);
        if (r->n_tokens + most > kv_tokens)
                return too_much_kv(r->n_tokens + most, kv_tokens, f);
        if (r->n_generated > MIN((size_t)r->max_tokens, context - r->n_tokens))
                return failure_set(f, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                   "generated has %zu tokens, more than the request may give", r->n_generated);
        return 0;
}

static int check_prewarm(const struct request *r, uint32_t context, uint64_t kv_tokens, struct failure *f) {
        int c = check_prompt(r, context, 0, f);

        return c == 0 && r->n_tokens > kv_tokens ? too_much_kv(r->n_tokens, kv_tokens, f) : c;
}

int sequence_new(struct sequence **ret, struct request *r, uint32_t context, uint64_t kv_tokens, size_t n_opening,
                 struct failure *f) {
        struct sequence *s;
        int c;

        if (r->kind == REQUEST_SCORE)
                c = check_score(r, context, kv_tokens, n_opening, f);
        else if (r->kind == REQUEST_PREWARM)
                c = check_prewarm(r, context, kv_tokens, f);
        else
                c = check_generate(r, context, kv_tokens, f);
        if (c != 0)
                return c;
        s = calloc(1, sizeof(*s));
        if (!s)
                return -ENOMEM;
        list_init(&s->link);
        s->request = r;
        s->n_opening = n_opening;
        if (r->kind != REQUEST_SCORE)
                s->n_prompt = (uint32_t)r->n_tokens;
        if (r->kind == REQUEST_GENERATE) {
                s->n_replay = (uint32_t)r->n_generated;
                /* An open end is where the context ends, or what the user may have. */
                s->limit = MIN(r->max_tokens, context - s->n_prompt);
                s->limit = (uint32_t)MIN((uint64_t)s->limit, kv_tokens - s->n_prompt);
        }
        *ret = s;
        return 0;
}

struct sequence *sequence_free(struct sequence *s) {
        if (!s)
                return NULL;
        output_deinit(&s->output);
        free(s->tokens);
        free(s);
        return NULL;
}

static int reserve_tokens(struct sequence *s, size_t n) {
        int32_t *tokens;

        if (n <= s->cap)
                return 0;
        n = MAX(n, s->cap + s->cap / 2 + 64);
        tokens = reallocarray(s->tokens, n, sizeof(*tokens));
        if (!tokens)
                return -ENOMEM;
        s->tokens = tokens;
        s->cap = n;
        return 0;
}

int sequence_append(struct sequence *s, int32_t token) {
        int r = reserve_tokens(s, s->n_tokens + 1);

        if (r == 0)
                s->tokens[s->n_tokens++] = token;
        return r;
}

/* Pushes what was delivered before through the output again: nothing of it is sent, but detokenizer and stop strings
 * stand where they stood, and an end that was reached is found again. */
static int replay(struct sequence *s) {
        const struct request *r = s->request;
        struct output_chunk chunks[OUTPUT_CHUNKS_MAX];

        for (uint32_t i = 0; i < s->n_replay; i++) {
                const struct sampler_choice choice = { .token = r->generated[i] };

                if (output_push(&s->output, &choice, i + 1 == s->limit, chunks) < 0)
                        return -EINVAL;
                if (s->output.stopped)
                        s->reason = SPARK__V1__FINISH_REASON__STOP_STRING;
                else if (i + 1 == s->limit)
                        s->reason = SPARK__V1__FINISH_REASON__LENGTH;
                if (s->reason)
                        break;
        }
        return 0;
}

int sequence_start(struct sequence *s, const struct tokenizer *t) {
        const struct request *r = s->request;
        size_t most = r->n_tokens + MAX(s->n_opening, 1u);
        int c;

        s->started = true;
        if (r->kind == REQUEST_SCORE)
                return reserve_tokens(s, MIN((size_t)r->window, most));
        c = reserve_tokens(s, r->n_tokens + r->n_generated + 1);
        if (c < 0)
                return c;
        memcpy(s->tokens, r->tokens, r->n_tokens * sizeof(*s->tokens));
        if (r->n_generated > 0)
                memcpy(s->tokens + r->n_tokens, r->generated, r->n_generated * sizeof(*s->tokens));
        s->n_tokens = r->n_tokens + r->n_generated;
        c = output_init(&s->output, t, r->raw_bytes, r->stop, r->n_stop);
        if (c < 0)
                return c;
        return replay(s);
}

bool sequence_next_window(struct sequence *s, const int32_t *opening) {
        const struct request *r = s->request;
        size_t n_opening = s->n_opening, n = MIN(r->window - n_opening, r->n_tokens - s->next);

        /* A rest of one token has nothing before it to be scored by. */
        if (n + n_opening < 2 || n == 0 || n + n_opening > s->cap)
                return false;
        memcpy(s->tokens, opening, n_opening * sizeof(*s->tokens));
        memcpy(s->tokens + n_opening, r->tokens + s->next, n * sizeof(*s->tokens));
        s->n_tokens = n + n_opening;
        s->next += n;
        s->n_past = s->n_computed = 0;
        s->window_scored = n_opening > 1 ? (uint32_t)n_opening - 1 : 0; /* what every text begins with is no text */
        return true;
}

bool sequence_has_credit(const struct sequence *s) {
        return s->request->kind != REQUEST_GENERATE ||
               s->sent < atomic_load_explicit(&s->request->granted, memory_order_relaxed);
}

bool sequence_is_stalled(const struct sequence *s) {
        return s->n_outbox > s->outbox_pos || !sequence_has_credit(s);
}

uint32_t sequence_want(const struct sequence *s) {
        uint32_t left = (uint32_t)s->n_tokens - s->n_past;

        return s->request->kind == REQUEST_SCORE ? left - 1 : left;
}

uint64_t sequence_room(const struct sequence *s) {
        const struct request *r = s->request;

        if (r->kind == REQUEST_SCORE)
                return MIN(r->n_tokens + 1, (uint64_t)r->window);
        return MIN((uint64_t)s->n_tokens + GROWTH, (uint64_t)s->n_prompt + s->limit);
}
