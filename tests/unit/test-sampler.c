/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/macro.h"
#include "daemon/engine/sampler.h"

#define N 1000u

static uint64_t rng = 1;

static float uniform(void) {
        rng = rng * 6364136223846793005u + 1442695040888963407u;
        return (float)(rng >> 40) * 0x1p-24f;
}

static struct sampler_params plain(void) {
        return (struct sampler_params){
                .temperature = 1, .top_p = 1, .repetition_penalty = 1, .penalty_window = 64, .seed = 42,
        };
}

static int32_t choose(const struct sampler_params *p, const float *logits, uint32_t n, uint32_t index) {
        struct sampler s;
        struct sampler_choice c = { .token = -1 };
        float copy[N];
        int r;

        memcpy(copy, logits, n * sizeof(*copy));
        assert_int_equal(sampler_init(&s, n), 0);
        r = sampler_choose(&s, p, copy, NULL, NULL, 0, index, &c);
        for (uint32_t i = 0; i < n; i++)
                assert_int_equal(s.counts[i], 0);
        sampler_deinit(&s);
        return r == 0 ? c.token : -r;
}

/* Random123's known answers for philox4x32-10. */
static void test_philox(void **state) {
        static const struct {
                uint32_t counter[4], key[2], out[4];
        } known[] = {
                { { 0, 0, 0, 0 }, { 0, 0 }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
                { { ~0u, ~0u, ~0u, ~0u }, { ~0u, ~0u }, { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
                { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 }, { 0xa4093822, 0x299f31d0 },
                  { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
        };

        for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
                uint32_t out[4];

                sampler_philox(known[i].key, known[i].counter, out);
                assert_memory_equal(out, known[i].out, sizeof(out));
        }
}

static void test_greedy(void **state) {
        float logits[7] = { 0, 3, -1, 3, 2, -INFINITY, 3 };
        struct sampler_params p = plain();

        p.temperature = 0;
        assert_int_equal(choose(&p, logits, 7, 0), 1); /* the lowest of equal ones */
        logits[1] = -INFINITY;
        assert_int_equal(choose(&p, logits, 7, 9), 3);
        assert_int_equal(choose(&p, logits, 1, 0), 0);
}

static void test_bad_logits(void **state) {
        static const float bad[] = { NAN, -NAN, INFINITY };
        struct sampler_params p = plain();
        float logits[4] = { 1, 2, 3, 4 };

        for (unsigned t = 0; t < 2; t++) {
                p.temperature = (float)t;
                for (size_t b = 0; b < ARRAY_SIZE(bad); b++)
                        for (unsigned at = 0; at < 4; at++) {
                                float v = logits[at];

                                logits[at] = bad[b];
                                assert_int_equal(choose(&p, logits, 4, 0), -SAMPLER_E_LOGITS);
                                logits[at] = v;
                        }
        }
        for (unsigned i = 0; i < 4; i++)
                logits[i] = -INFINITY;
        assert_int_equal(choose(&p, logits, 4, 0), -SAMPLER_E_LOGITS);
}

/* What remains after truncation, by sorting everything: the sampler must never give anything else, and all of it. */
struct sorted {
        float logit;
        int32_t id;
};

static int compare(const void *a, const void *b) {
        const struct sorted *x = a, *y = b;

        return x->logit > y->logit ? -1 : x->logit < y->logit ? 1 : x->id - y->id;
}

static size_t reference(const struct sampler_params *p, const float *logits, uint32_t n, int32_t *ids, double *prob) {
        struct sorted all[N] = { 0 };
        double sum = 0, kept = 0;
        size_t k = 0, m = 0;

        for (uint32_t i = 0; i < n; i++)
                all[i] = (struct sorted){ logits[i], (int32_t)i };
        qsort(all, n, sizeof(*all), compare);
        if (p->top_k > 0 && p->top_k < n)
                n = p->top_k;
        for (uint32_t i = 0; i < n; i++)
                sum += exp((double)(all[i].logit - all[0].logit) / (double)p->temperature);
        for (uint32_t i = 0; i < n && (i == 0 || kept < (double)p->top_p * sum); i++, k++)
                kept += exp((double)(all[i].logit - all[0].logit) / (double)p->temperature);
        sum = 0;
        for (size_t i = 0; i < k; i++) {
                double w = exp((double)(all[i].logit - all[0].logit) / (double)p->temperature);

                if (w < (double)p->min_p)
                        continue;
                ids[m] = all[i].id;
                prob[m++] = w;
                sum += w;
        }
        for (size_t i = 0; i < m; i++)
                prob[i] /= sum;
        return m;
}

static void check_distribution(const struct sampler_params *p, uint32_t n) {
        static int32_t ids[N];
        static double prob[N], count[N];
        float logits[N];
        unsigned draws = 4000;
        size_t m;

        for (uint32_t i = 0; i < n; i++)
                logits[i] = uniform() * 8 - (i % 7 == 0 ? 4 : 0);
        m = reference(p, logits, n, ids, prob);
        memset(count, 0, sizeof(count));
        for (unsigned d = 0; d < draws; d++)
                count[choose(p, logits, n, d)]++;
        for (size_t i = 0; i < m; i++) {
                double expected = prob[i] * draws, off = fabs(count[ids[i]] - expected);

                assert_true(off <= 5 * sqrt(expected) + 3);
                count[ids[i]] = 0;
        }
        for (uint32_t i = 0; i < n; i++)
                assert_true(count[i] == 0); /* nothing that should have been cut */
}

static void test_truncation(void **state) {
        static const struct {
                uint32_t n, top_k;
                float temperature, top_p, min_p;
        } ways[] = {
                { 50, 0, 1, 1, 0 },          { 50, 5, 1, 1, 0 },        { 50, 1, 1, 1, 0 },       { 50, 0, 1, 0.9f, 0 },
                { 50, 0, 0.5f, 0.5f, 0 },    { 50, 0, 1, 1, 0.2f },     { 50, 20, 2, 0.9f, 0.1f }, { 50, 50, 1, 0.8f, 0 },
                { 50, 4000, 1, 1, 0.3f },    { 1, 40, 1, 0.9f, 0.05f }, { 333, 0, 3, 0.7f, 0 },    { 50, 0, 1, 1e-6f, 0 },
                { 50, 0, 1e-30f, 0.9f, 0 },  { 333, 40, 0.8f, 0.95f, 0.05f }, { 50, 0, 1, 1, 1 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
                struct sampler_params p = plain();

                p.top_k = ways[i].top_k;
                p.temperature = ways[i].temperature;
                p.top_p = ways[i].top_p;
                p.min_p = ways[i].min_p;
                check_distribution(&p, ways[i].n);
        }
}

/* Equal logits at the border of top-k go to lower ids. */
static void test_ties(void **state) {
        struct sampler_params p = plain();
        float logits[100];
        bool seen[100] = { false };

        for (unsigned i = 0; i < 100; i++)
                logits[i] = i % 10 == 0 ? 1 : 0;
        p.top_k = 12;
        for (unsigned d = 0; d < 3000; d++)
                seen[choose(&p, logits, 100, d)] = true;
        for (unsigned i = 0; i < 100; i++)
                assert_int_equal(seen[i], i % 10 == 0 || i < 3);
}

static void test_draws_depend_on_seed_and_index_alone(void **state) {
        struct sampler_params p = plain();
        float logits[64] = { 0 };
        unsigned same = 0;
        int32_t first;

        first = choose(&p, logits, 64, 5);
        assert_int_equal(choose(&p, logits, 64, 5), first);
        for (uint32_t i = 0; i < 200; i++) {
                struct sampler_params q = p;

                q.seed += 1ull << 32;
                same += choose(&p, logits, 64, i) == choose(&q, logits, 64, i);
        }
        assert_in_range(same, 0, 20);
}

static void test_penalties(void **state) {
        const int32_t history[] = { 3, 1, 1, 2, 1, 0 };
        float logits[4] = { 1, 2, -1, 5 };
        struct sampler_params p = plain();
        struct sampler_choice c;
        struct sampler s;

        assert_int_equal(sampler_init(&s, 4), 0);
        p.temperature = 0;
        p.repetition_penalty = 2;
        p.presence_penalty = 0.5f;
        p.frequency_penalty = 0.25f;
        p.penalty_window = 5; /* the 3 in front is out of it */
        assert_int_equal(sampler_choose(&s, &p, logits, NULL, history, 6, 0, &c), 0);
        assert_int_equal(c.token, 3);
        assert_true(logits[0] == 0.5f - 0.25f - 0.5f);
        assert_true(logits[1] == 1 - 0.75f - 0.5f);
        assert_true(logits[2] == -2 - 0.25f - 0.5f);
        assert_true(logits[3] == 5);
        p.penalty_window = 0;
        logits[3] = -9;
        logits[2] = 7;
        assert_int_equal(sampler_choose(&s, &p, logits, NULL, history, 6, 0, &c), 0);
        assert_int_equal(c.token, 2);
        assert_true(logits[2] == 7);
        /* extreme, but not the model's fault */
        p.penalty_window = 64;
        p.repetition_penalty = FLT_MIN;
        logits[2] = 1e30f;
        assert_int_equal(sampler_choose(&s, &p, logits, NULL, history, 6, 0, &c), 0);
        assert_int_equal(c.token, 2);
        sampler_deinit(&s);
}

static void test_bias(void **state) {
        const struct logit_bias bias[] = { { 2, -INFINITY }, { 0, 3 }, { 0, 3 }, { 1, FLT_MAX }, { 1, FLT_MAX }, { 1, -INFINITY } };
        float logits[4] = { 1, 9, 50, 5 };
        struct sampler_params p = plain();

        p.bias = bias;
        p.n_bias = ARRAY_SIZE(bias);
        p.temperature = 0;
        assert_int_equal(choose(&p, logits, 4, 0), 0); /* 7 against 5 */
        p.temperature = 100;
        for (unsigned i = 0; i < 100; i++) {
                int32_t id = choose(&p, logits, 4, i);

                assert_true(id == 0 || id == 3);
        }
        logits[1] = NAN;
        assert_int_equal(choose(&p, logits, 4, 0), -SAMPLER_E_LOGITS);
}

static void test_logprobs(void **state) {
        float logits[5] = { 1, 4, 2, 4, -INFINITY };
        double z = exp(1) + 2 * exp(4) + exp(2);
        struct sampler_params p = plain();
        struct sampler_choice c;
        struct sampler s;

        assert_int_equal(sampler_init(&s, 5), 0);
        p.temperature = 0;
        p.logprobs = 3;
        assert_int_equal(sampler_choose(&s, &p, logits, NULL, NULL, 0, 0, &c), 0);
        assert_int_equal(c.token, 1);
        assert_true(fabs((double)c.logprob - (4 - log(z))) < 1e-6);
        assert_int_equal(c.n_top, 2);
        assert_int_equal(c.top_ids[0], 3);
        assert_int_equal(c.top_ids[1], 2);
        assert_true(fabs((double)c.top_logprobs[1] - (2 - log(z))) < 1e-6);
        p.logprobs = 21; /* more than there are */
        assert_int_equal(sampler_choose(&s, &p, logits, NULL, NULL, 0, 0, &c), 0);
        assert_int_equal(c.n_top, 3);
        p.logprobs = 1;
        assert_int_equal(sampler_choose(&s, &p, logits, NULL, NULL, 0, 0, &c), 0);
        assert_int_equal(c.n_top, 0);
        assert_true(c.logprob < 0);
        assert_true(fabs(sampler_nll(logits, 5, 2) - (log(z) - 2)) < 1e-9);
        logits[0] = NAN;
        assert_true(isnan(sampler_nll(logits, 5, 2)));
        sampler_deinit(&s);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_philox),     cmocka_unit_test(test_greedy),
                cmocka_unit_test(test_bad_logits), cmocka_unit_test(test_truncation),
                cmocka_unit_test(test_ties),       cmocka_unit_test(test_draws_depend_on_seed_and_index_alone),
                cmocka_unit_test(test_penalties),  cmocka_unit_test(test_bias),
                cmocka_unit_test(test_logprobs),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
