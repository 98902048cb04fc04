/* SPDX-License-Identifier: Apache-2.0 */

/* The simulator: its draws and figures, the books it keeps on who was served, and its scenarios, small. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/macro.h"
#include "tests/bench/sim-report.h"

/* --- draws and figures --------------------------------------------------------------------------------------------- */

static void test_draws(void **state) {
        uint64_t sum = 0, below = 0, quarter = 0;
        uint32_t n = 20000;

        for (uint32_t i = 0; i < n; i++) {
                uint32_t length = sim_random_length(7, i, 3, 5, 200, 256, 1, 100000);
                uint64_t wait = sim_random_wait(7, i, 3, 4, 1000000);

                below += length < 200;
                quarter += length < 100;
                sum += wait;
                assert_int_equal(length, sim_random_length(7, i, 3, 5, 200, 256, 1, 100000));
        }
        assert_in_range(below, n / 2 - n / 50, n / 2 + n / 50);      /* the median */
        assert_in_range(quarter, n * 14 / 100, n * 18 / 100);       /* one deviation below: 15.9 % */
        assert_in_range(sum / n, 980000, 1020000);
        assert_int_equal(sim_random_length(7, 1, 3, 5, 200, 2560, 150, 160) / 10, 15);
        assert_true(sim_random(1, 2, 3, 4) != sim_random(1, 2, 4, 4) && sim_random(1, 2, 3, 4) != sim_random(2, 2, 3, 4));
        assert_int_equal(sim_random_wait(7, 1, 1, 1, 0), 0);
}

static void test_histogram(void **state) {
        static struct sim_histogram h, more;

        assert_int_equal(sim_histogram_quantile(&h, 500), 0);
        for (uint64_t i = 1; i <= 10000; i++)
                sim_histogram_add(i % 2 ? &h : &more, i * 1000);
        sim_histogram_merge(&h, &more);
        assert_in_range(sim_histogram_quantile(&h, 500), 5000000, 5080000);
        assert_in_range(sim_histogram_quantile(&h, 990), 9900000, 10000000);
        assert_int_equal(sim_histogram_quantile(&h, 1000), 10000000);
        memset(&h, 0, sizeof(h));
        for (uint64_t i = 0; i < 64; i++)
                sim_histogram_add(&h, i);
        assert_int_equal(sim_histogram_quantile(&h, 500), 31); /* exact where values are small */
        sim_histogram_add(&h, UINT64_MAX);
        assert_true(sim_histogram_quantile(&h, 1000) > 1ull << 40);
}

/* --- the books ----------------------------------------------------------------------------------------------------- */

/* First come, first served, of two that both have something waiting always: nine of ten are the one's. */
static void test_unfairness_is_seen(void **state) {
        struct fair_set s;
        struct fair_worst w;

        assert_int_equal(fair_init(&s, 3, 100, 10), 0);
        fair_wait(&s, 0);
        fair_wait(&s, 1);
        for (unsigned i = 0; i < 20; i++) {
                fair_serve(&s, i % 10 ? 0 : 1, 10);
                fair_step(&s);
        }
        assert_false(fair_exceeded(&s)); /* 160 apart, of 220 */
        for (unsigned i = 0; i < 20; i++) {
                fair_serve(&s, i % 10 ? 0 : 1, 10);
                fair_step(&s);
        }
        assert_true(fair_exceeded(&s));
        assert_true(fair_worst(&s, &w));
        assert_true(w.a == 1 && w.b == 0 && w.difference > 300 && w.bound == 220);
        assert_true(fair_jain(&s) == 0); /* the third one never had anything waiting */
        fair_deinit(&s);
}

/* What counts is any part of an interval, and only where both wait. */
static void test_parts_of_intervals(void **state) {
        struct fair_set s;
        struct fair_worst w;

        assert_int_equal(fair_init(&s, 2, 10, 5), 0);
        fair_wait(&s, 0);
        fair_serve(&s, 0, 1000); /* alone */
        fair_step(&s);
        fair_wait(&s, 1);
        assert_false(fair_worst(&s, &w));
        fair_serve(&s, 0, 20); /* one way, and the other: in the end they are even */
        fair_step(&s);
        fair_serve(&s, 1, 40);
        fair_step(&s);
        fair_serve(&s, 0, 20);
        fair_step(&s);
        assert_true(fair_worst(&s, &w) && w.difference == 40 && w.bound == 30);
        assert_true(fair_jain(&s) == 1);
        fair_unwait(&s, 0);
        fair_serve(&s, 1, 1000); /* alone again */
        fair_step(&s);
        fair_wait(&s, 0);
        fair_serve(&s, 1, 45);
        fair_step(&s);
        assert_true(fair_worst(&s, &w) && w.difference == 45);
        fair_deinit(&s);
}

static void test_weights_in_the_books(void **state) {
        struct fair_set s;
        struct fair_worst w;

        assert_int_equal(fair_init(&s, 2, 100, 40), 0);
        s.nodes[1].weight = 4;
        fair_wait(&s, 0);
        fair_wait(&s, 1);
        for (unsigned i = 0; i < 100; i++) {
                fair_serve(&s, 0, 10);
                fair_serve(&s, 1, 40);
                fair_step(&s);
        }
        assert_false(fair_worst(&s, &w)); /* never apart at all */
        assert_true(fair_bound(&s, 1, 0) == 2 * 100 + 40 + 10);
        assert_true(fair_jain(&s) == 1);
        fair_deinit(&s);
}

/* --- scenarios ----------------------------------------------------------------------------------------------------- */

static struct sim_config config;
static struct sim_result result;
static struct sim_verdict verdict;

static const struct sim_scenario *choose(const char *scenario, const char *machine, uint32_t clients, uint64_t requests) {
        const struct sim_scenario *s = sim_scenario_find(scenario);

        assert_non_null(s);
        assert_non_null(sim_machine_find(machine));
        memset(&config, 0, sizeof(config));
        config.machine = *sim_machine_find(machine);
        config.requests = requests;
        config.seed = 11;
        s->fill(&config, clients);
        return s;
}

static void judge(const struct sim_scenario *s) {
        uint64_t done = 0;

        assert_int_equal(sim_judge(s, &config, &result, &verdict), 0);
        for (uint32_t i = 0; i < verdict.n_faults; i++)
                print_message("%s\n", verdict.faults[i]);
        for (uint32_t i = 0; i < config.n_groups; i++)
                done += result.accounts[i].done;
        assert_true(done == result.done && done >= config.requests && done < config.requests + config.machine.slots);
        assert_int_equal(result.pages_lost, 0);
}

static void test_flood(void **state) {
        judge(choose("flood", "laptop-8b", 1000, 4000));
        assert_int_equal(verdict.n_faults, 0);
        assert_true(fair_jain(&result.users[SCHEDULE_NORMAL].fair) >= 0.97);
        assert_true(result.users[SCHEDULE_NORMAL].fair.n_together > result.steps / 2);
        sim_result_deinit(&result);
}

/* The same without a scheduler: it has to be seen that it is unfair. */
static void test_flood_first_come_first_served(void **state) {
        const struct sim_scenario *s = choose("flood", "laptop-8b", 1000, 4000);
        unsigned bound = 0, jain = 0;

        config.fifo = true;
        judge(s);
        for (uint32_t i = 0; i < verdict.n_faults; i++) {
                bound += strstr(verdict.faults[i], "bound") != NULL;
                jain += strstr(verdict.faults[i], "Jain") != NULL;
        }
        assert_true(bound > 0 && jain > 0);
        sim_result_deinit(&result);
}

static void test_priorities(void **state) {
        judge(choose("priorities", "laptop-8b", 200, 3000));
        assert_int_equal(verdict.n_faults, 0);
        assert_true(result.accounts[0].done >= 100);
        assert_true(verdict.alone_p99 > 0 && verdict.ttft_p99 <= 2 * verdict.alone_p99 + result.longest_step_ns / 1000);
        sim_result_deinit(&result);
}

/* Nobody is interactive: that is seen, too. */
static void test_priorities_without_priority(void **state) {
        const struct sim_scenario *s = choose("priorities", "laptop-8b", 200, 3000);

        config.groups[0].class = SCHEDULE_BACKGROUND;
        judge(s);
        assert_true(verdict.n_faults > 0);
        sim_result_deinit(&result);
}

static void test_weights(void **state) {
        double first, last;

        judge(choose("weights", "laptop-8b", 200, 4000));
        assert_int_equal(verdict.n_faults, 0);
        first = (double)result.users[SCHEDULE_NORMAL].fair.nodes[0].together;
        last = (double)result.users[SCHEDULE_NORMAL].fair.nodes[7].together;
        assert_true(last > 7 * first && last < 9 * first);
        sim_result_deinit(&result);
}

static void test_churn(void **state) {
        judge(choose("churn", "laptop-8b", 160, 4000));
        assert_int_equal(verdict.n_faults, 0);
        assert_true(verdict.churn_gain > 0.9 && verdict.churn_gain < 1.1);
        sim_result_deinit(&result);
}

static void test_equal(void **state) {
        judge(choose("equal", "gb10-70b", 160, 3000));
        assert_int_equal(verdict.n_faults, 0);
        for (uint32_t i = 0; i < config.n_groups; i++)
                assert_true(result.accounts[i].client_jain > 0.9);
        sim_result_deinit(&result);
}

/* Short of memory, a user in floods of long prompts, quanta shorter than those: all goes on, and all keeps to its bound. */
static void test_short_of_memory(void **state) {
        choose("flood", "laptop-8b", 500, 2500);
        config.machine.kv_tokens = 26000;
        config.quantum[SCHEDULE_USER] = config.quantum[SCHEDULE_CLIENT] = 2048;
        config.groups[7].mix[SIM_LONG] = 1;
        judge(NULL);
        assert_int_equal(verdict.n_faults, 0);
        assert_true(result.parks > 0 && result.again > 0);
        assert_true(result.accounts[7].done > 0);
        sim_result_deinit(&result);
}

/* --- anything ------------------------------------------------------------------------------------------------------ */

static uint64_t below(uint64_t *x, uint64_t n) {
        return sim_random(99, 0, 0, ++*x) % n;
}

static struct sim_group any_group(uint64_t *x) {
        struct sim_group g = {
                .uid = 1 + (uint32_t)below(x, 4), .class = (enum schedule_class)below(x, 3),
                .clients = 1 + (uint32_t)below(x, 12), .arrivals = (enum sim_arrivals)below(x, 3),
                .outstanding = 1 + (uint32_t)below(x, 5), .mean_ns = 1 + below(x, 3000000000), .churn = below(x, 4) == 0,
                .start_ns = below(x, 2) ? 0 : below(x, 20000000000),
        };

        g.mix[below(x, 3)] = 1;
        g.mix[SIM_SHORT]++;
        g.weight = 1 + g.uid * g.uid % 7;
        return g;
}

/* Whatever the machine, the quanta and who wants what: nothing is stuck, nothing lost, and nobody gets further ahead of one
 * who waits than the bound says. */
static void test_anything(void **state) {
        uint64_t x = 0, watched = 0;

        for (unsigned round = 0; round < 150; round++) {
                struct fair_worst w;

                memset(&config, 0, sizeof(config));
                config.machine = (struct sim_machine){
                        .name = "any", .base_ns = below(&x, 50000000), .row_ns = 1 + below(&x, 1000000),
                        .slots = 1 + (uint32_t)below(&x, 20), .kv_tokens = 8000 + below(&x, 60000),
                        .target_us = (uint32_t)below(&x, 200000),
                };
                config.machine.rows = config.machine.slots + (uint32_t)below(&x, 600);
                config.requests = 150;
                config.seed = round;
                for (int level = SCHEDULE_CLASS; level < SCHEDULE_LEVELS; level++)
                        config.quantum[level] = below(&x, 2) ? 0 : 1 + below(&x, 4000);
                config.n_groups = 1 + (uint32_t)below(&x, 8);
                for (uint32_t i = 0; i < config.n_groups; i++)
                        config.groups[i] = any_group(&x);
                judge(NULL);
                assert_int_equal(verdict.n_faults, 0);
                for (int i = 0; i < SCHEDULE_CLASSES; i++)
                        watched += fair_worst(&result.users[i].fair, &w);
                for (uint32_t i = 0; i < result.n_client_sets; i++)
                        watched += fair_worst(&result.clients[i].fair, &w);
                sim_result_deinit(&result);
        }
        assert_true(watched > 150);
}

static char *report_of(const struct sim_scenario *s, bool json, bool markdown) {
        char *text = NULL;
        size_t size = 0;
        FILE *f = open_memstream(&text, &size);

        assert_non_null(f);
        judge(s);
        if (json)
                assert_int_equal(sim_report_json(f, &config, &result, &verdict, 0), 0);
        else
                assert_int_equal(sim_report_tables(f, &config, &result, &verdict, 0, markdown), 0);
        sim_result_deinit(&result);
        assert_int_equal(fclose(f), 0);
        return text;
}

static void test_same_seed_same_run(void **state) {
        char *a, *b, *c;
        const struct sim_scenario *s = choose("flood", "tiny", 300, 800);

        a = report_of(s, true, false);
        b = report_of(s, true, false);
        config.seed++;
        c = report_of(s, true, false);
        assert_string_equal(a, b);
        assert_string_not_equal(a, c);
        free(a);
        free(b);
        free(c);
}

static void test_reports(void **state) {
        const struct sim_scenario *s = choose("priorities", "laptop-8b", 200, 3000);
        char *text;
        int depth = 0;

        text = report_of(s, true, false);
        for (const char *p = text; *p; p++) {
                depth += (*p == '{' || *p == '[') - (*p == '}' || *p == ']');
                assert_true(depth > 0 || p[1] == '\n' || *p == '\n');
        }
        assert_int_equal(depth, 0);
        assert_non_null(strstr(text, "\"classes\":[{\"class\":\"interactive\""));
        assert_non_null(strstr(text, "\"failed\":[]}"));
        free(text);
        text = report_of(s, false, true);
        assert_non_null(strstr(text, "### priorities on laptop-8b"));
        assert_non_null(strstr(text, "\n| 1000 | 1 | interactive | 4 | "));
        assert_non_null(strstr(text, "on an idle machine"));
        free(text);
        text = report_of(s, false, false);
        assert_null(strchr(text, '|'));
        free(text);
}

static void test_groups_in_words(void **state) {
        static const char *const bad[] = {
                "user", "user=", "user=x", "user=1;clients=2", "class=urgent", "flood=1x", "colour=2", "clients=99999999999",
        };

        memset(&config, 0, sizeof(config));
        assert_true(sim_group_parse(&config, "user=7,class=interactive,clients=3,think-ms=50,weight=2,short=1,churn=1"));
        assert_true(sim_group_parse(&config, "flood=4,start-ms=10"));
        assert_true(sim_group_parse(&config, "every-ms=9,class=background"));
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
                assert_false(sim_group_parse(&config, bad[i]));
        assert_int_equal(config.n_groups, 3);
        assert_true(config.groups[0].uid == 7 && config.groups[0].class == SCHEDULE_INTERACTIVE);
        assert_true(config.groups[0].clients == 3 && config.groups[0].mean_ns == 50000000 && config.groups[0].churn);
        assert_true(config.groups[0].weight == 2 && config.groups[0].mix[SIM_SHORT] == 1);
        assert_true(config.groups[1].arrivals == SIM_FLOOD && config.groups[1].outstanding == 4);
        assert_true(config.groups[2].arrivals == SIM_OPEN && config.groups[2].mean_ns == 9000000);
}

static void test_nonsense(void **state) {
        const struct sim_scenario *s = choose("equal", "tiny", 80, 100);
        struct sim_config good = config;

        config.machine.slots = 0;
        assert_int_equal(sim_judge(s, &config, &result, &verdict), -EINVAL);
        config = good;
        config.machine.rows = config.machine.slots - 1;
        assert_int_equal(sim_run(&config, &result), -EINVAL);
        config = good;
        config.groups[0].outstanding = 0;
        assert_int_equal(sim_run(&config, &result), -EINVAL);
        config = good;
        config.n_groups = 0;
        assert_int_equal(sim_run(&config, &result), -EINVAL);
        config = good;
        config.machine.kv_tokens = 10;
        assert_int_equal(sim_run(&config, &result), -EINVAL);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_draws),
                cmocka_unit_test(test_histogram),
                cmocka_unit_test(test_unfairness_is_seen),
                cmocka_unit_test(test_parts_of_intervals),
                cmocka_unit_test(test_weights_in_the_books),
                cmocka_unit_test(test_flood),
                cmocka_unit_test(test_flood_first_come_first_served),
                cmocka_unit_test(test_priorities),
                cmocka_unit_test(test_priorities_without_priority),
                cmocka_unit_test(test_weights),
                cmocka_unit_test(test_churn),
                cmocka_unit_test(test_equal),
                cmocka_unit_test(test_short_of_memory),
                cmocka_unit_test(test_anything),
                cmocka_unit_test(test_same_seed_same_run),
                cmocka_unit_test(test_reports),
                cmocka_unit_test(test_groups_in_words),
                cmocka_unit_test(test_nonsense),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
