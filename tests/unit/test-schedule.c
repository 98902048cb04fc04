/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/macro.h"
#include "daemon/engine/schedule.h"

#define MANY 40u

static const struct schedule_limits wide = { .max_rows = 512, .max_logits = 512, .prefill_rows = 512 };

static void test_decoding_comes_first(void **state) {
        struct schedule_entry e[] = { { .want = 1000 }, { .want = 1 }, { .want = 0 }, { .want = 1 }, { .want = 1 } };
        const struct schedule_limits limits = { .max_rows = 16, .max_logits = 16, .prefill_rows = 16 };

        for (size_t first = 0; first < 10; first++) {
                assert_int_equal(schedule_rows(e, ARRAY_SIZE(e), first, &limits), 16);
                assert_int_equal(e[0].rows, 13);
                assert_int_equal(e[2].rows, 0);
                assert_true(e[1].rows == 1 && e[3].rows == 1 && e[4].rows == 1);
        }
}

static void test_prompts_share(void **state) {
        struct schedule_entry e[] = { { .want = 1000 }, { .want = 10 }, { .want = 1000 } };
        const struct schedule_limits limits = { .max_rows = 90, .max_logits = 90, .prefill_rows = 90 };

        assert_int_equal(schedule_rows(e, 3, 0, &limits), 90);
        assert_int_equal(e[1].rows, 10);
        assert_true(e[0].rows >= 30 && e[2].rows >= 30);
        assert_int_equal(e[0].rows + e[1].rows + e[2].rows, 90);
}

/* Whatever the mixture: no limit is passed, and where there is a row for everybody nobody starves. */
static void check_mixture(uint32_t seed, const struct schedule_limits *limits) {
        struct schedule_entry e[MANY];
        uint32_t want[MANY], unserved[MANY] = { 0 }, x = seed;
        bool room = limits->max_rows >= MANY && limits->max_logits >= MANY;

        for (unsigned i = 0; i < MANY; i++) {
                x = x * 1664525u + 1013904223u;
                want[i] = x >> 28 < 5 ? 1 : x >> 28 < 7 ? 0 : 1 + (x >> 8) % 300;
                e[i] = (struct schedule_entry){ .all_logits = want[i] > 1 && x % 5 == 0 };
        }
        for (size_t step = 0; step < 200; step++) {
                uint32_t sum = 0, logits = 0, prompts = 0, n;

                for (unsigned i = 0; i < MANY; i++)
                        e[i].want = want[i];
                n = schedule_rows(e, MANY, step, limits);
                for (unsigned i = 0; i < MANY; i++) {
                        assert_true(e[i].rows <= e[i].want);
                        sum += e[i].rows;
                        prompts += e[i].want > 1 ? e[i].rows : 0;
                        logits += e[i].all_logits ? e[i].rows : e[i].rows > 0 && e[i].rows == e[i].want;
                        unserved[i] = e[i].rows || !want[i] ? 0 : unserved[i] + 1;
                        assert_true(unserved[i] <= 2 * MANY || !room);
                        if (want[i] > 1)
                                want[i] -= e[i].rows == want[i] ? want[i] - 1 : e[i].rows;
                }
                assert_int_equal(n, sum);
                assert_true(sum <= limits->max_rows && logits <= limits->max_logits);
                assert_true(prompts <= MAX(limits->prefill_rows, 1u));
        }
        for (unsigned i = 0; i < MANY && room && limits->prefill_rows > MANY; i++)
                assert_true(want[i] <= 1 || e[i].all_logits);
}

static void test_mixtures(void **state) {
        static const struct schedule_limits limits[] = {
                { 512, 512, 512 }, { 64, 8, 32 }, { 7, 7, 7 }, { 1, 1, 1 }, { 40, 40, 3 }, { 100, 1, 100 },
                { 64, 40, 64 }, { 400, 60, 50 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(limits); i++)
                for (uint32_t seed = 1; seed < 20; seed++)
                        check_mixture(seed, &limits[i]);
}

static void test_nothing(void **state) {
        struct schedule_entry e[2] = { { .want = 0, .rows = 9 }, { .want = 0, .rows = 9 } };

        assert_int_equal(schedule_rows(e, 2, 3, &wide), 0);
        assert_int_equal(e[0].rows, 0);
        assert_int_equal(schedule_rows(e, 0, 3, &wide), 0);
}

static void test_next(void **state) {
        const struct schedule_waiting w[] = { { 7, 1 }, { 7, 1 }, { 8, 1 }, { 9, 4 } };
        const uint64_t one_runs_three[] = { 7, 7, 8, 9, 9, 9 };

        assert_int_equal(schedule_next(w, 4, NULL, 0), 0); /* first come */
        assert_int_equal(schedule_next(w, 4, one_runs_three, 1), 2);
        assert_int_equal(schedule_next(w, 2, one_runs_three, 2), 0);
        assert_int_equal(schedule_next(w, 4, one_runs_three, 6), 3); /* 3 of weight 4 are fewer than 1 of weight 1 */
}

static void test_prefill_rows(void **state) {
        assert_int_equal(schedule_prefill_rows(0, 0, 512), 512);
        assert_int_equal(schedule_prefill_rows(0, 1000, 512), 32);
        assert_int_equal(schedule_prefill_rows(0, 1000, 8), 8);
        assert_int_equal(schedule_prefill_rows(10, 1000, 512), 100);
        assert_int_equal(schedule_prefill_rows(1e9, 1000, 512), 32);
        assert_int_equal(schedule_prefill_rows(1e-9, 1000, 512), 512);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_decoding_comes_first), cmocka_unit_test(test_prompts_share),
                cmocka_unit_test(test_mixtures),             cmocka_unit_test(test_nothing),
                cmocka_unit_test(test_next),                 cmocka_unit_test(test_prefill_rows),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
