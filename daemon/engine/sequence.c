/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "sequence.h"

static int check_score(struct request *r, uint32_t context, bool has_bos, struct failure *f) {
        if (r->window > context) {
                (void)failure_set(f, SPARK__V1__ERROR_CODE__CONTEXT_OVERFLOW,
                                  "context is %u tokens, the model has room for %u", r->window, context);
                f->have = r->window;
                f->max = context;
                return REQUEST_E_FAILED;
        }
        if (r->window == 0)
                r->window = context;
        if (r->window < 2)
                return failure_set(f, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "context must be at least 2 tokens");
        if (r->n_tokens + has_bos < 2)
                return failure_set(f, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                   "the text has %zu tokens, too few to score any", r->n_tokens);
        return 0;
}

static int check_generate(const struct request *r, uint32_t context, struct failure *f) {
        if (r->n_tokens == 0)
                return failure_set(f, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                   "prompt is empty, and the model has no token to begin with");
        if (r->n_tokens >= context) {
                (void)failure_set(f, SPARK__V1__ERROR_CODE__CONTEXT_OVERFLOW,
                                  "the prompt has %zu tokens, and one more must fit in the context of %u", r->n_tokens,
                                  context);
                f->have = r->n_tokens + 1;
                f->max = context;
                return REQUEST_E_FAILED;
        }
        if (r->n_generated > MIN((size_t)r->max_tokens, context - r->n_tokens))
                return failure_set(f, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                   "generated has %zu tokens, more than the request may give", r->n_generated);
        return 0;
}

int sequence_new(struct sequence **ret, struct request *r, uint32_t context, bool has_bos, struct failure *f) {
        struct sequence *s;
        int c;

        c = r->kind == REQUEST_SCORE ? check_score(r, context, has_bos, f) : check_generate(r, context, f);
        if (c != 0)
                return c;
        s = calloc(1, sizeof(*s));
        if (!s)
                return -ENOMEM;
        list_init(&s->link);
        s->request = r;
        if (r->kind == REQUEST_GENERATE) {
                s->n_prompt = (uint32_t)r->n_tokens;
                s->n_replay = (uint32_t)r->n_generated;
                s->limit = MIN(r->max_tokens, context - s->n_prompt);
        }
        *ret = s;
        return 0;
}

struct sequence *sequence_free(struct sequence *s, struct kv_pool *pool) {
        if (!s)
                return NULL;
        kv_table_release(pool, &s->kv);
        output_deinit(&s->output);
        free(s->tokens);
        free(s);
        return NULL;
}

uint64_t sequence_first_reservation(const struct sequence *s, uint32_t context) {
        const struct request *r = s->request;
        uint64_t n;

        if (r->kind == REQUEST_SCORE)
                return MIN(r->n_tokens + 1, (uint64_t)r->window);
        if (r->max_tokens != REQUEST_ENDLESS)
                return (uint64_t)s->n_prompt + s->limit;
        n = MAX(s->n_tokens, (size_t)s->n_prompt + s->n_replay);
        return MIN(n + SEQUENCE_GROWTH, (uint64_t)context);
}

bool sequence_has_room(struct sequence *s, struct kv_pool *pool, uint32_t context) {
        uint32_t has = s->kv.n + s->kv.reserved, target;

        if (kv_pages_for(pool, s->n_tokens) <= has)
                return true;
        /* Never past the context, so that a sequence which is alone always gets what it asks for. */
        target = kv_pages_for(pool, MIN(s->n_tokens + SEQUENCE_GROWTH, (size_t)context));
        return kv_table_reserve(pool, &s->kv, (uint64_t)(target - has) * pool->page_tokens) == 0;
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
        int c;

        s->started = true;
        if (r->kind == REQUEST_SCORE)
                return reserve_tokens(s, MIN((size_t)r->window, r->n_tokens + 1));
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

bool sequence_next_window(struct sequence *s, int32_t bos) {
        const struct request *r = s->request;
        size_t n_bos = bos >= 0, n = MIN(r->window - n_bos, r->n_tokens - s->next);

        /* A rest of one token has nothing before it to be scored by. */
        if (n + n_bos < 2 || n == 0 || n + n_bos > s->cap)
                return false;
        if (n_bos)
                s->tokens[0] = bos;
        memcpy(s->tokens + n_bos, r->tokens + s->next, n * sizeof(*s->tokens));
        s->n_tokens = n + n_bos;
        s->next += n;
        s->n_past = 0;
        return true;
}

bool sequence_has_credit(const struct sequence *s) {
        return s->request->kind == REQUEST_SCORE ||
               s->sent < atomic_load_explicit(&s->request->granted, memory_order_relaxed);
}

uint32_t sequence_want(const struct sequence *s) {
        uint32_t left = (uint32_t)s->n_tokens - s->n_past;

        if (s->n_outbox > s->outbox_pos || !sequence_has_credit(s))
                return 0;
        return s->request->kind == REQUEST_SCORE ? left - 1 : left;
}
