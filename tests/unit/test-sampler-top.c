/* SPDX-License-Identifier: Apache-2.0 */

/* Choosing from the best logits gives what choosing from the whole row gives, bit for bit, for all mixtures of parameters and
 * all kinds of rows; and it mostly does choose. An engine on a backend that finds the best logits serves the same tokens as on
 * one that doesn't. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/macro.h"
#include "daemon/engine/sampler.h"
#include "engine-fixture.h"

#define N 3000u
#define K SAMPLER_TOP_MAX

static uint64_t rng = 1;

static float uniform(void) {
        rng = rng * 6364136223846793005u + 1442695040888963407u;
        return (float)(rng >> 40) * 0x1p-24f;
}

static size_t pick(size_t n) {
        return (size_t)(uniform() * (float)n);
}

static float normal(void) {
        return sqrtf(-2 * logf(1 - uniform())) * cosf(6.2831853f * uniform());
}

static int best_first(const void *a, const void *b) {
        const struct sampler_candidate *x = a, *y = b;

        return x->logit > y->logit ? -1 : x->logit < y->logit ? 1 : (x->id > y->id) - (x->id < y->id);
}

/* What a backend's top() says of a row, by sorting. The sum goes by another order than the sampler's own. */
static void host_top(const float *logits, uint32_t n, uint32_t k, struct backend_top *top, float *values, int32_t *ids) {
        struct sampler_candidate *all = calloc(n, sizeof(*all));

        assert_non_null(all);
        *top = (struct backend_top){ .largest = -INFINITY };
        for (uint32_t i = 0; i < n; i++) {
                all[i] = (struct sampler_candidate){ logits[i], (int32_t)i };
                if (!(logits[i] < INFINITY))
                        top->bad = true;
        }
        if (!top->bad) {
                qsort(all, n, sizeof(*all), best_first);
                top->largest = all[0].logit;
                top->bad = top->largest == -INFINITY;
                for (uint32_t i = n; i-- > 0;)
                        top->sum += exp((double)all[i].logit - (double)top->largest);
        }
        for (uint32_t i = 0; i < k; i++) {
                values[i] = all[i].logit;
                ids[i] = all[i].id;
        }
        free(all);
}

/* --- rows and parameters -------------------------------------------------------------------------------------------- */

enum { ROW_NORMAL, ROW_PEAKED, ROW_FLAT, ROW_TIES, ROW_HOLES, ROW_FEW, ROWS };

static void make_row(unsigned kind, uint32_t n, float *logits) {
        float spread = kind == ROW_PEAKED ? 6 : kind == ROW_FLAT ? 0.01f : 2.5f;

        for (uint32_t i = 0; i < n; i++) {
                logits[i] = spread * normal();
                if (kind == ROW_TIES)
                        logits[i] = rintf(logits[i]);
                if ((kind == ROW_HOLES && uniform() < 0.5f) || (kind == ROW_FEW && i % 300 != 0))
                        logits[i] = -INFINITY;
        }
}

static struct sampler_params make_params(void) {
        static const float temperatures[] = { 0, 0.05f, 0.5f, 0.8f, 1, 1, 1.3f, 5 };
        static const float top_ps[] = { 1, 1, 0.05f, 0.5f, 0.9f, 0.95f, 0.999f };
        static const float min_ps[] = { 0, 0, 0.001f, 0.05f, 1 };
        static const uint32_t top_ks[] = { 0, 0, 1, 2, 40, 255, 256, 257, N, N + 1 };
        static const uint32_t logprobs[] = { 0, 0, 1, 5, 21 };

#define ANY(list) list[pick(ARRAY_SIZE(list))]
        return (struct sampler_params){
                .temperature = ANY(temperatures),
                .top_k = ANY(top_ks),
                .top_p = ANY(top_ps),
                .min_p = ANY(min_ps),
                .repetition_penalty = 1,
                .penalty_window = 64,
                .seed = rng,
                .logprobs = ANY(logprobs),
        };
#undef ANY
}

static void check_equal(const struct sampler_choice *a, const struct sampler_choice *b) {
        assert_int_equal(a->token, b->token);
        assert_memory_equal(&a->logprob, &b->logprob, sizeof(a->logprob));
        assert_int_equal(a->n_top, b->n_top);
        assert_memory_equal(a->top_ids, b->top_ids, a->n_top * sizeof(*a->top_ids));
        assert_memory_equal(a->top_logprobs, b->top_logprobs, a->n_top * sizeof(*a->top_logprobs));
}

struct counts {
        unsigned asked, chosen; /* rows for which candidates may do, and did */
};

/* off: relative error of the backend's sum. */
static void check_both_ways(struct sampler *s, const struct sampler_params *p, const float *logits, double off,
                            struct counts *counts) {
        float copy[N], values[K];
        uint32_t k = sampler_top(p, s->n_vocab);
        struct sampler_choice whole = { 0 }, best = { 0 };
        struct backend_top top;
        int32_t ids[K];
        int r;

        assert_true(k <= K && k <= s->n_vocab);
        if (k == 0)
                return;
        host_top(logits, s->n_vocab, k, &top, values, ids);
        top.sum *= 1 + off;
        counts->asked++;
        memcpy(copy, logits, s->n_vocab * sizeof(*copy));
        assert_int_equal(sampler_choose(s, p, copy, &top, NULL, 0, 7, &whole), 0);
        r = sampler_choose_top(s, p, &top, values, ids, 7, &best);
        if (r == SAMPLER_E_MORE)
                return;
        assert_int_equal(r, 0);
        counts->chosen++;
        check_equal(&whole, &best);
}

/* An emulator takes twenty times as long, and there is nothing of the processor's in it. */
static unsigned rounds(unsigned n) {
        return getenv("SPARK_TEST_EMULATED") ? n / 5 : n;
}

static void test_mixtures(void **state) {
        const unsigned many = rounds(1500);
        static const double offs[] = { 0, 1e-9, -1e-9, 1e-7, -1e-7 };
        static const uint32_t sizes[] = { 1, 2, 31, 256, 257, 1000, N };
        float logits[N];

        for (size_t n = 0; n < ARRAY_SIZE(sizes); n++) {
                struct counts counts = { 0 };
                struct sampler s;

                assert_int_equal(sampler_init(&s, sizes[n]), 0);
                for (unsigned i = 0; i < many; i++) {
                        struct sampler_params p = make_params();

                        make_row(i % ROWS, sizes[n], logits);
                        logits[0] = MAX(logits[0], -8.0f); /* something is possible */
                        check_both_ways(&s, &p, logits, offs[i % ARRAY_SIZE(offs)], &counts);
                }
                sampler_deinit(&s);
                print_message("%u tokens: %u of %u rows without the rest\n", sizes[n], counts.chosen, counts.asked);
                assert_true(counts.asked > many * 7 / 15);
                assert_true(counts.chosen > counts.asked * 6 / 10);
                if (sizes[n] <= K) /* all is there; but a prefix may hold just what is asked for, give or take a last bit */
                        assert_true(counts.chosen >= counts.asked * 99 / 100);
        }
}

/* What people mostly ask for is decided by candidates, on rows as models give them. */
static void test_usual_parameters(void **state) {
        const struct sampler_params usual[] = {
                { .temperature = 0, .top_p = 1 },
                { .temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f },
                { .temperature = 0.7f, .top_p = 0.9f, .logprobs = 5 },
                { .temperature = 1, .top_p = 0.95f },
                { .temperature = 1, .top_p = 1, .min_p = 0.1f },
        };
        const unsigned many = rounds(300);
        float logits[N];
        struct sampler s;

        assert_int_equal(sampler_init(&s, N), 0);
        for (size_t i = 0; i < ARRAY_SIZE(usual); i++) {
                struct counts counts = { 0 };

                for (unsigned j = 0; j < many; j++) {
                        struct sampler_params p = usual[i];

                        p.repetition_penalty = 1;
                        p.seed = j;
                        make_row(ROW_PEAKED, N, logits);
                        check_both_ways(&s, &p, logits, 0, &counts);
                }
                assert_int_equal(counts.asked, many);
                assert_true(counts.chosen >= many * 29 / 30);
        }
        sampler_deinit(&s);
}

/* A prefix that ends where the bounds of the rest leave it open is not guessed. */
static void test_undecided(void **state) {
        struct sampler_params p = { .temperature = 1, .top_p = 0.5f, .repetition_penalty = 1 };
        struct sampler_choice c;
        struct backend_top top;
        float logits[N], values[K];
        struct sampler s;
        int32_t ids[K];

        for (uint32_t i = 0; i < N; i++)
                logits[i] = 0;
        assert_int_equal(sampler_init(&s, N), 0);
        host_top(logits, N, K, &top, values, ids);
        assert_int_equal(sampler_choose_top(&s, &p, &top, values, ids, 0, &c), SAMPLER_E_MORE);
        p.top_p = 1;
        p.min_p = 0.5f; /* all of them stay */
        assert_int_equal(sampler_choose_top(&s, &p, &top, values, ids, 0, &c), SAMPLER_E_MORE);
        p.min_p = 0;
        p.top_p = 0.05f; /* 150 of them hold that: whether it is 149 or 151 hangs on the last bits */
        p.temperature = 2;
        assert_int_equal(sampler_choose_top(&s, &p, &top, values, ids, 0, &c), SAMPLER_E_MORE);
        sampler_deinit(&s);
}

static void test_what_needs_all(void **state) {
        const struct logit_bias bias = { 1, 2 };
        struct sampler_params p = { .temperature = 0, .top_p = 1, .repetition_penalty = 1 };

        assert_int_equal(sampler_top(&p, N), 1);
        p.logprobs = 21;
        assert_int_equal(sampler_top(&p, N), 21);
        assert_int_equal(sampler_top(&p, 5), 5);
        p.bias = &bias;
        p.n_bias = 1;
        assert_int_equal(sampler_top(&p, N), 0);
        p.n_bias = 0;
        p.repetition_penalty = 1.1f;
        assert_int_equal(sampler_top(&p, N), 0);
        p.repetition_penalty = 1;
        p.frequency_penalty = 0.1f;
        assert_int_equal(sampler_top(&p, N), 0);
        p.frequency_penalty = 0;
        p.temperature = 1;
        assert_int_equal(sampler_top(&p, N), 0); /* nothing is cut off */
        p.top_k = 257;
        assert_int_equal(sampler_top(&p, N), 0);
        p.top_k = 7;
        assert_int_equal(sampler_top(&p, N), 21);
        p.top_k = 0;
        p.top_p = 0.5f;
        assert_int_equal(sampler_top(&p, N), K);
}

static void test_bad_rows(void **state) {
        static const float bad[] = { NAN, INFINITY };
        struct sampler_params p = { .temperature = 0, .top_p = 1, .repetition_penalty = 1 };
        struct sampler_choice c;
        struct backend_top top;
        float logits[4] = { 1, 2, 3, 4 }, values[4];
        struct sampler s;
        int32_t ids[4];

        assert_int_equal(sampler_init(&s, 4), 0);
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                logits[i] = bad[i];
                host_top(logits, 4, 1, &top, values, ids);
                assert_int_equal(sampler_choose_top(&s, &p, &top, values, ids, 0, &c), SAMPLER_E_LOGITS);
                logits[i] = 0;
        }
        for (size_t i = 0; i < 4; i++)
                logits[i] = -INFINITY;
        host_top(logits, 4, 1, &top, values, ids);
        assert_int_equal(sampler_choose_top(&s, &p, &top, values, ids, 0, &c), SAMPLER_E_LOGITS);
        sampler_deinit(&s);
}

/* --- an engine ------------------------------------------------------------------------------------------------------ */

static unsigned topped; /* rows that top() was asked for */
static uint64_t downloaded; /* bytes */

static int cpu_top(struct backend *be, const float *logits, uint32_t n, uint32_t dim, uint32_t k, struct backend_top *rows,
                   float *values, int32_t *ids) {
        for (uint32_t i = 0; i < n; i++)
                host_top(logits + (size_t)i * dim, dim, k, &rows[i], values + (size_t)i * k, ids + (size_t)i * k);
        topped += n;
        return 0;
}

static int cpu_download(struct backend *be, void *host, const void *dev, size_t bytes) {
        downloaded += bytes;
        return backend_cpu.download(be, host, dev, bytes);
}

/* Requests of all kinds together; their answers. */
static void serve(struct lab *l, struct result *results, size_t n) {
        static const int32_t prompt[] = { 5, 9, 200, 31, 77, 8, 120, 64 };

        for (size_t i = 0; i < n; i++) {
                struct sampler_params *p = &results[i].request.sampling;

                result_init_tokens(&results[i], i + 1, prompt, 3 + (uint32_t)i % 5, 12, (uint32_t)i);
                p->temperature = i % 3 ? 0.9f : 0;
                p->top_k = i % 4 == 1 ? 20 : 0;
                p->top_p = i % 4 == 2 ? 0.8f : 1;
                p->min_p = i % 5 == 4 ? 0.1f : 0;
                p->logprobs = (uint32_t)i % 4;
                p->repetition_penalty = i % 6 == 5 ? 1.3f : 1;
                lab_submit(l, &results[i]);
        }
        lab_run(l);
}

static void test_engine(void **state) {
        enum { REQUESTS = 24 };
        static struct result with[REQUESTS], without[REQUESTS];
        struct backend_ops ops = backend_cpu;
        const struct engine_config config = { .max_sequences = 16, .max_rows = 64 };
        struct failure f = { .text = "" };
        struct lab l;

        lab_open(&l, "cpu", &config);
        serve(&l, without, REQUESTS);
        lab_close(&l);

        ops.top = cpu_top;
        ops.download = cpu_download;
        lab_open_model(&l, "cpu", 2);
        l.backend->ops = &ops;
        lab_start(&l, &config);
        assert_int_equal(engine_self_test(l.engine, &f), 0);
        topped = 0;
        downloaded = 0;
        serve(&l, with, REQUESTS);
        assert_true(topped > REQUESTS);
        print_message("%llu KiB of logits fetched\n", (unsigned long long)downloaded >> 10);
        assert_true(downloaded > 0); /* penalties, pure sampling */
        assert_true(downloaded < (uint64_t)REQUESTS * 12 * FAKE_VOCAB * sizeof(float) * 7 / 10);
        lab_close(&l);
        for (size_t i = 0; i < REQUESTS; i++) {
                assert_same_output(&with[i], &without[i]);
                result_deinit(&with[i]);
                result_deinit(&without[i]);
        }
}

/* The self-test sees a backend whose best token isn't. */
static int wrong_top(struct backend *be, const float *logits, uint32_t n, uint32_t dim, uint32_t k, struct backend_top *rows,
                     float *values, int32_t *ids) {
        (void)cpu_top(be, logits, n, dim, k, rows, values, ids);
        ids[0] = (ids[0] + 1) % (int32_t)dim;
        return 0;
}

static void test_self_test(void **state) {
        struct backend_ops ops = backend_cpu;
        const struct engine_config config = { .max_sequences = 2, .max_rows = 8 };
        struct failure f = { .text = "" };
        struct lab l;

        ops.top = wrong_top;
        lab_open_model(&l, "cpu", 1);
        l.backend->ops = &ops;
        lab_start(&l, &config);
        assert_int_equal(engine_self_test(l.engine, &f), ENGINE_E_FAILED);
        assert_non_null(strstr(f.text, "is not the best one"));
        lab_close(&l);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_mixtures),
                cmocka_unit_test(test_usual_parameters),
                cmocka_unit_test(test_undecided),
                cmocka_unit_test(test_what_needs_all),
                cmocka_unit_test(test_bad_rows),
                cmocka_unit_test(test_engine),
                cmocka_unit_test(test_self_test),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
