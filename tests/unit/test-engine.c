/* SPDX-License-Identifier: Apache-2.0 */

/* The engine's core: company, chunking, credit, cancelling, pages, replay, on the CPU backend. */

#include <math.h>

#include "engine-fixture.h"

#define N 9u /* requests of a mixture */

static const uint32_t prompt_sizes[N] = { 1, 2, 33, 64, 100, 17, 5, 200, 31 };
static const uint32_t output_sizes[N] = { 20, 1, 9, 33, 14, 40, 2, 8, 25 };

/* Each request alone, in an engine of its own settings. */
static void run_alone(struct result *alone) {
        const struct engine_config config = { .max_rows = 512, .max_sequences = 1 };
        struct lab l;

        lab_open(&l, "cpu", &config);
        for (uint32_t i = 0; i < N; i++) {
                result_init(&alone[i], i + 1, prompt_sizes[i], output_sizes[i], i);
                assert_int_equal(engine_submit(l.engine, &alone[i].request), 0);
                lab_run(&l);
                assert_true(alone[i].finished);
                assert_int_equal(alone[i].n, output_sizes[i]);
                assert_int_equal(alone[i].done.prompt_tokens, prompt_sizes[i]);
                assert_int_equal(alone[i].done.reason, SPARK__V1__FINISH_REASON__LENGTH);
        }
        lab_close(&l);
}

/* A model that always says the same would pass every comparison. */
static void assert_varied(const struct result *x) {
        uint32_t changes = 0;

        for (uint32_t i = 1; i < x->n; i++)
                changes += x->ids[i] != x->ids[i - 1];
        assert_true(changes > x->n / 2);
}

/* The same requests in this engine, arriving a few steps apart. */
static void run_together(const struct engine_config *config, unsigned apart, const struct result *alone) {
        static struct result x[N];
        struct lab l;

        lab_open(&l, "cpu", config);
        for (uint32_t i = 0; i < N; i++) {
                uint32_t k = (i * 4 + apart) % N;

                result_init(&x[k], k + 1, prompt_sizes[k], output_sizes[k], k);
                assert_int_equal(engine_submit(l.engine, &x[k].request), 0);
                for (unsigned s = 0; s < apart; s++)
                        assert_true(engine_step(l.engine) >= 0);
        }
        lab_run(&l);
        for (uint32_t i = 0; i < N; i++) {
                assert_true(x[i].finished);
                assert_same_output(&x[i], &alone[i]);
                result_deinit(&x[i]);
        }
        lab_close(&l);
}

static void test_same_in_any_company(void **state) {
        static const struct {
                uint32_t max_rows, max_sequences, pages;
                unsigned apart;
        } ways[] = {
                { 512, 64, 0, 0 }, { 512, 64, 0, 1 }, { 7, 7, 0, 0 }, { 33, 3, 0, 2 }, { 64, 8, 16, 1 }, { 16, 16, 0, 3 },
        };
        static struct result alone[N];

        run_alone(alone);
        assert_varied(&alone[3]);
        assert_varied(&alone[5]);
        for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
                struct engine_config config = { .max_rows = ways[i].max_rows, .max_sequences = ways[i].max_sequences };

                /* 2 layers, 2 heads of 16, K and V, half precision: 256 bytes a token */
                config.kv_bytes = (uint64_t)ways[i].pages * ENGINE_PAGE_TOKENS * 256;
                run_together(&config, ways[i].apart, alone);
        }
        for (uint32_t i = 0; i < N; i++)
                result_deinit(&alone[i]);
}

/* Open-ended requests in a pool that cannot hold them all grow, give up their pages, and come to the same end. */
static void test_giving_up_pages(void **state) {
        struct engine_config config = { .max_rows = 64, .max_sequences = 4 };
        static struct result x[4], alone;
        struct lab l;

        config.kv_bytes = 20ull * ENGINE_PAGE_TOKENS * 256; /* 640 tokens: one of them needs 512 */
        lab_open(&l, "cpu", &config);
        result_init(&alone, 9, 300, REQUEST_ENDLESS, 1);
        assert_int_equal(engine_submit(l.engine, &alone.request), 0);
        lab_run(&l);
        assert_true(alone.finished);
        assert_int_equal(alone.n, 512 - 300);
        for (uint32_t i = 0; i < 4; i++) {
                result_init(&x[i], i + 1, 300, REQUEST_ENDLESS, i == 2 ? 1 : i);
                assert_int_equal(engine_submit(l.engine, &x[i].request), 0);
        }
        lab_run(&l);
        for (uint32_t i = 0; i < 4; i++) {
                assert_true(x[i].finished);
                assert_int_equal(x[i].n, 212);
        }
        assert_same_output(&x[2], &alone);
        for (uint32_t i = 0; i < 4; i++)
                result_deinit(&x[i]);
        result_deinit(&alone);
        lab_close(&l);
}

static void test_credit(void **state) {
        const struct engine_config config = { 0 };
        static struct result x, y;
        struct lab l;

        lab_open(&l, "cpu", &config);
        result_init(&x, 1, 40, 30, 3);
        result_init(&y, 2, 40, 30, 3);
        atomic_store(&x.request.granted, 0);
        assert_int_equal(engine_submit(l.engine, &x.request), 0);
        assert_int_equal(engine_submit(l.engine, &y.request), 0);
        lab_run(&l);
        assert_true(y.finished);
        assert_int_equal(x.n, 0);
        for (uint32_t granted = 1; granted <= 30; granted += granted < 5 ? 1 : 5) {
                assert_false(x.finished);
                atomic_store(&x.request.granted, granted);
                engine_notice(l.engine);
                lab_run(&l);
                assert_int_equal(x.n, granted);
        }
        assert_true(x.finished);
        assert_same_output(&x, &y);
        result_deinit(&x);
        result_deinit(&y);
        lab_close(&l);
}

static void test_cancel(void **state) {
        const struct engine_config config = { .max_sequences = 2, .max_rows = 32 };
        static struct result x[4];
        struct engine_stats stats;
        struct lab l;

        lab_open(&l, "cpu", &config);
        for (uint32_t i = 0; i < 4; i++) {
                result_init(&x[i], i + 1, 200, 50, i);
                assert_int_equal(engine_submit(l.engine, &x[i].request), 0);
        }
        assert_int_equal(engine_step(l.engine), 1);
        atomic_store(&x[0].request.cancelled, true); /* in the middle of its prompt */
        atomic_store(&x[3].request.cancelled, true); /* still waiting */
        engine_notice(l.engine);
        assert_int_equal(engine_step(l.engine), 1);
        assert_true(x[0].failed && x[3].failed);
        assert_int_equal(x[0].failure.code, SPARK__V1__ERROR_CODE__CANCELLED);
        engine_get_stats(l.engine, &stats);
        assert_int_equal(stats.queued, 0);
        while (x[1].n < 5)
                assert_int_equal(engine_step(l.engine), 1);
        atomic_store(&x[1].request.cancelled, true); /* while it generates */
        engine_notice(l.engine);
        lab_run(&l);
        assert_true(x[1].failed && x[2].finished);
        assert_int_equal(x[2].n, 50);
        for (uint32_t i = 0; i < 4; i++)
                result_deinit(&x[i]);
        lab_close(&l);
}

static void test_limits(void **state) {
        const struct engine_config config = { .max_queued = 2, .context = 64 };
        static struct result x[4];
        struct lab l;

        lab_open(&l, "cpu", &config);
        result_init(&x[0], 1, 64, 1, 0);
        assert_int_equal(engine_submit(l.engine, &x[0].request), 0);
        assert_true(x[0].failed && !x[0].accepted);
        assert_int_equal(x[0].failure.code, SPARK__V1__ERROR_CODE__CONTEXT_OVERFLOW);
        assert_int_equal(x[0].failure.have, 65);
        assert_int_equal(x[0].failure.max, 64);
        result_deinit(&x[0]);
        result_init(&x[0], 1, 60, 100, 0); /* more than there is room for: ends with the context */
        result_init(&x[1], 2, 60, 100, 0);
        result_init(&x[2], 3, 60, 100, 0);
        for (unsigned i = 0; i < 3; i++)
                assert_int_equal(engine_submit(l.engine, &x[i].request), 0);
        assert_true(x[2].failed);
        assert_int_equal(x[2].failure.code, SPARK__V1__ERROR_CODE__BUSY);
        assert_true(x[2].failure.retry_after_ms > 0);
        lab_run(&l);
        assert_true(x[0].finished && x[1].finished);
        assert_int_equal(x[0].n, 4);
        assert_int_equal(x[0].done.reason, SPARK__V1__FINISH_REASON__LENGTH);
        for (unsigned i = 0; i < 3; i++)
                result_deinit(&x[i]);
        lab_close(&l);
}

/* The string of a request's own output from byte `from`, as its stop string. */
static void set_stop(struct result *x, const struct result *from, size_t at, uint16_t size) {
        free(x->request.stop_text);
        x->request.stop_text = malloc(size);
        assert_non_null(x->request.stop_text);
        memcpy(x->request.stop_text, from->text + at, size);
        x->request.stop[0] = (struct stop_string){ .text = x->request.stop_text, .size = size };
        x->request.n_stop = 1;
}

static size_t find(const char *text, size_t n, const char *what, size_t size) {
        const char *at = memmem(text, n, what, size);

        return at ? (size_t)(at - text) : n;
}

/* What is left of `whole` after its first k tokens were delivered must come out of a replay, and nothing else. */
static void replay_from(struct lab *l, const struct result *whole, uint32_t k, uint32_t prompt, uint32_t max,
                        uint32_t salt, uint16_t stop_size) {
        static struct result x;
        size_t sent = k > 0 ? whole->text_end[k - 1] : 0;

        result_init(&x, 100 + k, prompt, max, salt);
        if (stop_size > 0) {
                free(x.request.stop_text);
                x.request.stop_text = malloc(stop_size);
                assert_non_null(x.request.stop_text);
                memcpy(x.request.stop_text, whole->request.stop_text, stop_size);
                x.request.stop[0] = (struct stop_string){ .text = x.request.stop_text, .size = stop_size };
                x.request.n_stop = 1;
        }
        x.request.generated = calloc(k + 1, sizeof(int32_t));
        assert_non_null(x.request.generated);
        memcpy(x.request.generated, whole->ids, k * sizeof(int32_t));
        x.request.n_generated = k;
        assert_int_equal(engine_submit(l->engine, &x.request), 0);
        lab_run(l);
        assert_true(x.finished);
        assert_int_equal(x.n, whole->n - k);
        assert_memory_equal(x.ids, whole->ids + k, x.n * sizeof(int32_t));
        assert_memory_equal(x.logprobs, whole->logprobs + k, x.n * sizeof(float));
        assert_int_equal(x.n_text, whole->n_text - sent);
        assert_memory_equal(x.text, whole->text + sent, x.n_text);
        assert_int_equal(x.done.reason, whole->done.reason);
        assert_int_equal(x.done.completion_tokens, whole->done.completion_tokens);
        result_deinit(&x);
}

static void test_replay(void **state) {
        const struct engine_config config = { 0 };
        static struct result whole, stopped;
        struct lab l;

        lab_open(&l, "cpu", &config);
        for (uint32_t salt = 0; salt < 2; salt++) {
                result_init(&whole, 1, 30, 40, salt);
                assert_int_equal(engine_submit(l.engine, &whole.request), 0);
                lab_run(&l);
                assert_int_equal(whole.n, 40);
                for (uint32_t k = 0; k <= whole.n; k++)
                        replay_from(&l, &whole, k, 30, 40, salt, 0);
                /* a stop string out of its own text, so that text is held back on the way */
                result_init(&stopped, 2, 30, 40, salt);
                set_stop(&stopped, &whole, whole.n_text / 2, 4);
                assert_int_equal(engine_submit(l.engine, &stopped.request), 0);
                lab_run(&l);
                assert_int_equal(stopped.done.reason, SPARK__V1__FINISH_REASON__STOP_STRING);
                assert_int_equal(stopped.n_text, find(whole.text, whole.n_text, stopped.request.stop_text, 4));
                assert_memory_equal(stopped.text, whole.text, stopped.n_text);
                for (uint32_t k = 0; k <= stopped.n; k++)
                        replay_from(&l, &stopped, k, 30, 40, salt, 4);
                result_deinit(&whole);
                result_deinit(&stopped);
        }
        lab_close(&l);
}

/* The model ends its answer where a bias makes it: the end is not reported. */
static void test_end_of_sequence(void **state) {
        const struct engine_config config = { 0 };
        const struct logit_bias bias = { .token = FAKE_EOS, .bias = 1000 };
        static struct result x;
        struct lab l;

        lab_open(&l, "null", &config);
        result_init(&x, 1, 5, 10, 0);
        x.request.ignore_eos = false;
        x.request.sampling.bias = &bias;
        x.request.sampling.n_bias = 1;
        assert_int_equal(engine_submit(l.engine, &x.request), 0);
        lab_run(&l);
        assert_true(x.finished);
        assert_int_equal(x.n, 0);
        assert_int_equal(x.done.completion_tokens, 0);
        assert_int_equal(x.done.reason, SPARK__V1__FINISH_REASON__STOP);
        result_deinit(&x);
        lab_close(&l);
}

/* Windows of any size add up to the same mean as scoring by hand, and chunking changes no bit. */
static int sum_nll(void *userdata, size_t pos, const float *logits) {
        void **u = userdata;
        const struct request *r = u[0];
        double *sum = u[1];

        if (pos + 1 < r->n_tokens)
                *sum += sampler_nll(logits, FAKE_VOCAB, r->tokens[pos + 1]);
        return 0;
}

static double score(uint32_t max_rows, uint32_t window, uint64_t *ret_n, double *ret_by_hand) {
        const struct engine_config config = { .max_rows = max_rows, .max_sequences = 4 };
        static struct result x;
        void *userdata[2] = { &x.request, ret_by_hand };
        struct failure f;
        struct lab l;

        lab_open(&l, "cpu", &config);
        result_init(&x, 1, 100, 0, 5);
        *ret_by_hand = 0;
        assert_int_equal(engine_run_logits(l.engine, x.request.tokens, 100, sum_nll, userdata, &f), 0);
        *ret_by_hand /= 99;
        memmove(x.request.tokens, x.request.tokens + 1, 99 * sizeof(int32_t)); /* each window gets its own BOS */
        x.request.n_tokens = 99;
        x.request.kind = REQUEST_SCORE;
        x.request.window = window;
        atomic_store(&x.request.granted, 0); /* needs none */
        assert_int_equal(engine_submit(l.engine, &x.request), 0);
        lab_run(&l);
        assert_true(x.finished);
        assert_true(x.n_progress > 0);
        *ret_n = x.done.scored;
        result_deinit(&x);
        lab_close(&l);
        return x.done.nll;
}

static void test_score(void **state) {
        double by_hand, nll, other;
        uint64_t n;

        nll = score(512, 0, &n, &by_hand);
        assert_int_equal(n, 99);
        assert_true(nll == by_hand);
        other = score(4, 0, &n, &by_hand);
        assert_true(other == nll);
        other = score(64, 11, &n, &by_hand);
        assert_int_equal(n, 99); /* 9 windows of 10, one of 9 */
        assert_true(other != nll && other > 0);
}

/* A text that begins with several tokens of the model's: none of them is scored, and all of the text is. */
static void test_score_opening(void **state) {
        static const struct tokenizer_around opening = { 3, { FAKE_BOS, FAKE_EOS, FAKE_BOS } };
        const struct engine_config config = { .max_rows = 16, .max_sequences = 4 };
        static struct result x;
        struct tokenizer_def def;
        struct text_error error;
        struct failure f;
        struct lab l;
        double rest = 0, first[2] = { 0 };
        void *userdata[2] = { &x.request, &rest };

        lab_open_model(&l, "cpu", 2);
        (void)tokenizer_free(l.tokenizer);
        fake_vocab_init(&l.vocab, &def);
        def.opening = opening;
        assert_int_equal(tokenizer_new(&l.tokenizer, &def, &error), 0);
        lab_start(&l, &config);
        result_init(&x, 1, 40, 0, 5);
        memcpy(x.request.tokens, opening.ids, sizeof(x.request.tokens[0]) * 3);
        assert_int_equal(engine_run_logits(l.engine, x.request.tokens, 40, sum_nll, userdata, &f), 0);
        for (size_t n = 2; n <= 3; n++) { /* what the opening's own tokens add to it */
                userdata[1] = &first[n - 2];
                x.request.n_tokens = n;
                assert_int_equal(engine_run_logits(l.engine, x.request.tokens, n, sum_nll, userdata, &f), 0);
        }
        memmove(x.request.tokens, x.request.tokens + 3, 37 * sizeof(int32_t));
        x.request.n_tokens = 37;
        x.request.kind = REQUEST_SCORE;
        x.request.window = 40;
        atomic_store(&x.request.granted, 0);
        assert_int_equal(engine_submit(l.engine, &x.request), 0);
        lab_run(&l);
        assert_true(x.finished && x.done.scored == 37);
        assert_true(first[1] > first[0] && fabs(x.done.nll - (rest - first[1]) / 37) < 1e-9);
        result_deinit(&x);
        lab_close(&l);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_same_in_any_company), cmocka_unit_test(test_giving_up_pages),
                cmocka_unit_test(test_credit),              cmocka_unit_test(test_cancel),
                cmocka_unit_test(test_limits),              cmocka_unit_test(test_replay),
                cmocka_unit_test(test_end_of_sequence),     cmocka_unit_test(test_score), cmocka_unit_test(test_score_opening),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
