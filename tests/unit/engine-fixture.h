/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * An engine in the test's own process and what its requests gave, for the tests of the engine's core. On the CPU backend
 * the model is random and small but computed for real; on the null backend it is none, and a position's KV takes the 8
 * bytes that it has there. The vocabulary is of bytes.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/engine/engine.h"
#include "daemon/engine/fake.h"
#include "kernels/backend.h"

#define RESULT_TOKENS 512u

struct result {
        struct request request; /* first: events find their result by it */
        bool accepted, finished, failed;
        uint32_t n;
        uint32_t n_before; /* of them, from engines that are gone: request.generated */
        int32_t ids[RESULT_TOKENS];
        float logprobs[RESULT_TOKENS];
        size_t text_end[RESULT_TOKENS]; /* bytes of text after this chunk */
        char text[8192];
        size_t n_text;
        struct engine_done done;
        struct failure failure;
        unsigned n_progress;
};

static inline void on_accepted(void *userdata, struct request *r) {
        struct result *x = CONTAINER_OF(r, struct result, request);

        assert_false(x->accepted);
        x->accepted = true;
}

static inline void on_token(void *userdata, struct request *r, const struct output_chunk *c) {
        struct result *x = CONTAINER_OF(r, struct result, request);

        assert_true(x->accepted && !x->finished && !x->failed);
        assert_int_equal(c->index, x->n - x->n_before + r->n_generated);
        assert_true(x->n < RESULT_TOKENS && x->n_text + c->size <= sizeof(x->text));
        x->ids[x->n] = c->choice.token;
        x->logprobs[x->n] = c->choice.logprob;
        memcpy(x->text + x->n_text, c->text, c->size);
        x->n_text += c->size;
        x->text_end[x->n++] = x->n_text;
}

static inline void on_progress(void *userdata, struct request *r, uint64_t done, uint64_t total) {
        assert_true(done <= total);
        CONTAINER_OF(r, struct result, request)->n_progress++;
}

static inline void on_finished(void *userdata, struct request *r, const struct engine_done *done) {
        struct result *x = CONTAINER_OF(r, struct result, request);

        assert_false(x->finished || x->failed);
        x->finished = true;
        x->done = *done;
}

static inline void on_failed(void *userdata, struct request *r, const struct failure *f) {
        struct result *x = CONTAINER_OF(r, struct result, request);

        assert_false(x->finished || x->failed);
        x->failed = true;
        x->failure = *f;
}

static const struct engine_events result_events = {
        .accepted = on_accepted, .token = on_token, .progress = on_progress, .finished = on_finished, .failed = on_failed,
};

struct lab {
        struct backend *backend;
        struct fake_vocab vocab;
        struct tokenizer *tokenizer;
        struct lm *model;
        struct engine *engine;
};

static inline int lab_new_model(struct lab *l, const struct backend_ops *ops) {
        const struct model_shape shape = {
                .n_vocab = FAKE_VOCAB, .n_ctx = 512, .n_embd = 64, .n_layer = 2, .n_ff = 96, .n_head = 4, .n_head_kv = 2,
                .head_dim = 16, .n_rot = 16, .rope_kind = ROPE_NORM, .norm_eps = 1e-5f, .rope_base = 10000,
                .rope_linear = 1, .attn_scale = 0.25f,
        };
        struct model_error error;
        int r;

        if (!ops->fake)
                return model_new_synthetic(&l->model, l->backend, &shape, fmt_info(FMT_Q8_0), 7, &error);
        r = model_new_fake(&l->model, l->backend, FAKE_VOCAB, FAKE_LIKELY, 512);
        if (r == 0) {
                l->model->shape.n_layer = l->model->shape.n_head_kv = 1;
                l->model->shape.head_dim = 2;
        }
        return r;
}

/* Everything but the engine. */
static inline void lab_open_model(struct lab *l, const char *backend, unsigned threads) {
        const struct backend_config be = { .threads = threads, .isa = "auto" };
        struct backend_error error;
        struct tokenizer_def def;
        struct text_error text_error;

        memset(l, 0, sizeof(*l));
        assert_int_equal(backend_open(backend, &be, &l->backend, &error), 0);
        fake_vocab_init(&l->vocab, &def);
        assert_int_equal(tokenizer_new(&l->tokenizer, &def, &text_error), 0);
        assert_int_equal(lab_new_model(l, l->backend->ops), 0);
}

static inline void lab_start(struct lab *l, const struct engine_config *config) {
        struct failure f = { .text = "" };

        assert_int_equal(engine_new(&l->engine, l->model, l->tokenizer, config, &result_events, NULL, &f), 0);
}

static inline void lab_open(struct lab *l, const char *backend, const struct engine_config *config) {
        struct failure f = { .text = "" };

        lab_open_model(l, backend, 2);
        lab_start(l, config);
        assert_int_equal(engine_self_test(l->engine, &f), 0);
}

static inline uint64_t lab_page_bytes(const struct lab *l, enum kv_format format) {
        return ENGINE_PAGE_TOKENS * model_kv_bytes(&l->model->shape, format);
}

static inline struct engine_stats lab_stats(const struct lab *l) {
        struct engine_stats stats;

        engine_get_stats(l->engine, &stats);
        return stats;
}

static inline void lab_close_model(struct lab *l) {
        (void)model_free(l->model);
        (void)tokenizer_free(l->tokenizer);
        (void)l->backend->ops->close(l->backend);
}

static inline void lab_close(struct lab *l) {
        struct engine_stats stats = lab_stats(l);

        assert_int_equal(stats.kv_used_bytes, 0); /* every page came back */
        assert_int_equal(stats.running + stats.queued + stats.paused, 0);
        (void)engine_free(l->engine);
        lab_close_model(l);
}

/* A request of these tokens, which are copied. */
static inline void result_init_tokens(struct result *x, uint64_t key, const int32_t *tokens, uint32_t n,
                                      uint32_t max_tokens, uint32_t salt) {
        struct failure f;

        memset(x, 0, sizeof(*x));
        assert_int_equal(request_set_sampling(&x->request, NULL, FAKE_VOCAB, salt, &f), 0);
        x->request.key = key;
        x->request.client = key % 3;
        x->request.weight = 1;
        x->request.max_tokens = max_tokens;
        x->request.ignore_eos = true;
        x->request.sampling.temperature = salt % 2 ? 0.9f : 0;
        x->request.sampling.logprobs = 1;
        x->request.sampling.repetition_penalty = 1.1f;
        x->request.tokens = calloc(n, sizeof(int32_t));
        assert_non_null(x->request.tokens);
        x->request.n_tokens = n;
        memcpy(x->request.tokens, tokens, n * sizeof(*tokens));
        atomic_store(&x->request.granted, 1000000);
}

/* A prompt of n bytes that differ with `salt`; BOS in front. */
static inline void result_init(struct result *x, uint64_t key, uint32_t n_prompt, uint32_t max_tokens, uint32_t salt) {
        int32_t tokens[RESULT_TOKENS] = { FAKE_BOS };

        assert_true(n_prompt <= RESULT_TOKENS);
        for (uint32_t i = 1; i < n_prompt; i++)
                tokens[i] = (int32_t)((i * 7 + salt * 31 + (salt * i) % 5) % 95);
        result_init_tokens(x, key, tokens, n_prompt, max_tokens, salt);
}

/* As if it had not been submitted. */
static inline void result_reset(struct result *x) {
        memset((char *)x + sizeof(x->request), 0, sizeof(*x) - sizeof(x->request));
}

static inline void result_deinit(struct result *x) {
        request_deinit(&x->request);
}

static inline bool result_ended(const struct result *x) {
        return x->finished || x->failed;
}

static inline void lab_submit(struct lab *l, struct result *x) {
        assert_int_equal(engine_submit(l->engine, &x->request), 0);
}

static inline void lab_cancel(struct lab *l, struct result *x) {
        atomic_store(&x->request.cancelled, true);
        engine_notice(l->engine);
}

static inline void lab_grant(struct lab *l, struct result *x, uint64_t tokens) {
        atomic_fetch_add(&x->request.granted, tokens);
        engine_notice_credit(l->engine);
}

/* Steps until there is nothing to do: then nothing may be left that could run. */
static inline void lab_run(struct lab *l) {
        struct engine_stats stats;
        int r;

        while ((r = engine_step(l->engine)) > 0)
                ;
        assert_int_equal(r, 0);
        stats = lab_stats(l);
        assert_int_equal(stats.running + stats.queued, 0);
}

/* By itself: nothing is known of anything when it comes. */
static inline void lab_run_alone(struct lab *l, struct result *x) {
        struct engine_stats stats = lab_stats(l);

        assert_int_equal(stats.running + stats.queued + stats.paused, 0);
        engine_forget_all(l->engine);
        lab_submit(l, x);
        lab_run(l);
        assert_true(x->finished);
        assert_int_equal(x->done.cached_tokens, 0);
        engine_forget_all(l->engine);
}

/* What the engine says of a user; zeros where it says nothing. */
static inline struct engine_user lab_user(const struct lab *l, uint32_t uid) {
        struct engine_user users[64];
        size_t n = engine_list_users(l->engine, users, 64);

        assert_true(n < 64);
        for (size_t i = 0; i < n; i++)
                if (users[i].uid == uid)
                        return users[i];
        return (struct engine_user){ .uid = uid };
}

static inline void assert_same_output(const struct result *a, const struct result *b) {
        assert_int_equal(a->n, b->n);
        assert_memory_equal(a->ids, b->ids, a->n * sizeof(*a->ids));
        assert_memory_equal(a->logprobs, b->logprobs, a->n * sizeof(*a->logprobs));
        assert_memory_equal(a->text_end, b->text_end, a->n * sizeof(*a->text_end));
        assert_int_equal(a->n_text, b->n_text);
        assert_memory_equal(a->text, b->text, a->n_text);
        assert_int_equal(a->done.reason, b->done.reason);
        assert_int_equal(a->done.completion_tokens, b->done.completion_tokens);
}
