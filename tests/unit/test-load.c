/* SPDX-License-Identifier: Apache-2.0 */

/* What is pure in the load tool: groups, chance, arrivals, timers, prompts, figures. */

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/macro.h"
#include "client/spark.h"
#include "tests/bench/load-group.h"
#include "tests/bench/load-random.h"
#include "tests/bench/load-stats.h"
#include "tests/bench/load-timer.h"
#include "tests/bench/load-words.h"

/* ---- groups ---- */

static void test_group_keys(void **state) {
        struct load_group g = LOAD_GROUP_DEFAULT;
        char error[160];

        assert_true(load_group_parse(&g, "desk-1:clients=15,priority=background,prompt=100-200,shared=64,text=9,tokens=7,"
                                         "requests=0,mode=closed,depth=3,think_ms=5-9,delay_ms=11,uid=1001-1008,read=20,"
                                         "window=8,cancel=25,cancel_after=3,turns=2", error, sizeof(error)));
        assert_string_equal(g.name, "desk-1");
        assert_int_equal(g.clients, 15);
        assert_int_equal(g.priority, 1);
        assert_true(g.prompt.low == 100 && g.prompt.high == 200 && g.shared == 64 && g.text == 9);
        assert_true(g.tokens.low == 7 && g.tokens.high == 7);
        assert_true(g.requests == 0 && g.mode == LOAD_CLOSED && g.depth == 3);
        assert_true(g.think_ms.low == 5 && g.think_ms.high == 9 && g.delay_ms == 11);
        assert_true(g.has_uid && g.uid.low == 1001 && g.uid.high == 1008);
        assert_true(g.read == 20 && g.window == 8 && g.cancel == 25 && g.cancel_after == 3 && g.turns == 2);

        g = LOAD_GROUP_DEFAULT;
        assert_true(load_group_parse(&g, "o:mode=open,rate=2.5,burst=4", error, sizeof(error)));
        assert_true(g.mode == LOAD_OPEN && g.rate == 2.5 && g.burst == 4);
        assert_int_equal(g.clients, 8); /* what is not named stays */

        g = LOAD_GROUP_DEFAULT;
        assert_true(load_group_parse(&g, "all", error, sizeof(error)));
        assert_true(load_group_parse(&g, "all:", error, sizeof(error)));
}

/* Each is refused with a sentence that names the key, and changes nothing. */
static void test_group_faults(void **state) {
        static const char *const bad[][2] = {
                { "", "name" },
                { ":clients=1", "name" },
                { "a b:clients=1", "name" },
                { "a\"b", "name" },
                { "0123456789012345678901234567890x", "name" },
                { "g:clients", "clients" },
                { "g:clients=", "clients" },
                { "g:clients=0", "clients" },
                { "g:clients=100001", "clients" },
                { "g:clients=-1", "clients" },
                { "g:clients=4294967297", "clients" },
                { "g:clients=18446744073709551617", "clients" },
                { "g:clients=1x", "clients" },
                { "g:clients= 1", "clients" },
                { "g:people=3", "people" },
                { "g:prompt=9-5", "prompt" },
                { "g:prompt=5-", "prompt" },
                { "g:prompt=-5", "prompt" },
                { "g:tokens=0", "tokens" },
                { "g:priority=urgent", "priority" },
                { "g:priority=", "priority" },
                { "g:mode=ajar", "mode" },
                { "g:mode=open", "rate" },
                { "g:mode=open,rate=0", "rate" },
                { "g:mode=open,rate=nan", "rate" },
                { "g:mode=open,rate=1e9", "rate" },
                { "g:mode=open,rate=1,depth=2", "depth" },
                { "g:mode=open,rate=1,think_ms=2", "think_ms" },
                { "g:mode=open,rate=1,turns=2,prompt=5", "turns" },
                { "g:rate=3", "rate" },
                { "g:burst=3", "burst" },
                { "g:cancel=101", "cancel" },
                { "g:shared=65,prompt=64", "shared" },
                { "g:shared=65,prompt=64-66", "shared" },
                { "g:turns=2", "turns" },
                { "g:text=1,prompt=9", "shared" },
                { "g:mix=calm", "mix" },
                { "g:uid=4294967295", "uid" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                struct load_group g = LOAD_GROUP_DEFAULT, before;
                char error[160] = "";

                memcpy(&before, &g, sizeof(g));
                if (load_group_parse(&g, bad[i][0], error, sizeof(error)) || !strstr(error, bad[i][1]))
                        fail_msg("'%s': \"%s\"", bad[i][0], error);
                assert_memory_equal(&g, &before, sizeof(g));
        }
}

static void test_mixes(void **state) {
        static const char *const names[] = { "chat", "long", "burst", "slow", "cancel" };
        struct load_group groups[LOAD_GROUPS_MAX], base = LOAD_GROUP_DEFAULT;
        char error[160];

        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                struct load_group g = LOAD_GROUP_DEFAULT;

                g.clients = 3;
                g.requests = 9;
                assert_true(load_group_set_mix(&g, names[i]));
                assert_true(load_group_check(&g, error, sizeof(error)));
                assert_true(g.clients == 3 && g.requests == 9);
                assert_true(g.prompt.high > 0);
        }
        assert_false(load_group_set_mix(&base, "mixed"));

        /* keys behind a mix hold over it, keys before it do not */
        assert_true(load_group_parse(&base, "x:tokens=5,mix=long,prompt=10", error, sizeof(error)));
        assert_true(base.prompt.low == 10 && base.tokens.low == 32);

        for (uint32_t clients = 1; clients < 200; clients += 7) {
                struct load_group all = LOAD_GROUP_DEFAULT;
                uint32_t sum = 0;
                size_t n;

                all.clients = clients;
                n = load_group_mixed(groups, &all);
                assert_int_equal(n, ARRAY_SIZE(names));
                for (size_t i = 0; i < n; i++) {
                        assert_string_equal(groups[i].name, names[i]);
                        assert_true(groups[i].clients >= 1);
                        sum += groups[i].clients;
                }
                assert_int_equal(sum, MAX(clients, (uint32_t)n));
        }
}

/* ---- chance ---- */

static void test_random_streams(void **state) {
        struct load_random a, b, c;
        bool differs = false;

        load_random_init(&a, 7, 1, 2, 3);
        load_random_init(&b, 7, 1, 2, 3);
        load_random_init(&c, 7, 1, 3, 2);
        for (unsigned i = 0; i < 100; i++) {
                uint64_t x = load_random_next(&a);

                assert_true(x == load_random_next(&b));
                differs = differs || x != load_random_next(&c);
        }
        assert_true(differs);
}

static void test_random_ranges(void **state) {
        unsigned seen[7] = { 0 };
        struct load_random r;
        double sum = 0;

        load_random_init(&r, 1, 0, 0, 0);
        for (unsigned i = 0; i < 70000; i++)
                seen[load_random_in(&r, (struct load_range){ 3, 9 }) - 3]++;
        for (unsigned i = 0; i < ARRAY_SIZE(seen); i++)
                assert_in_range(seen[i], 9500, 10500);
        assert_int_equal(load_random_in(&r, (struct load_range){ 5, 5 }), 5);
        (void)load_random_in(&r, (struct load_range){ 0, UINT32_MAX });
        for (unsigned i = 0; i < 100000; i++)
                sum += load_random_exponential(&r, 2);
        assert_true(sum / 100000 > 1.95 && sum / 100000 < 2.05);
}

/* The same seed gives the same arrivals; they keep the rate, and their gaps vary as a Poisson process's do. */
static void test_arrivals(void **state) {
        struct load_arrivals a, b, bursts;
        struct load_random r;
        double last = 0, at = 0, sum = 0, squares = 0;
        const unsigned n = 50000;

        load_random_init(&r, 3, 0, 0, 0);
        load_arrivals_init(&a, &r, 100, 1);
        load_arrivals_init(&b, &r, 100, 1);
        for (unsigned i = 0; i < n; i++) {
                at = load_arrivals_next(&a);
                assert_true(at == load_arrivals_next(&b));
                assert_true(at >= last);
                sum += at - last;
                squares += (at - last) * (at - last);
                last = at;
        }
        assert_true(at / n > 9700 && at / n < 10300); /* 100 per second: 10,000 us apart */
        /* of an exponential distribution the variance is the square of the mean */
        squares = squares / n - (sum / n) * (sum / n);
        assert_true(squares / (sum / n) / (sum / n) > 0.95 && squares / (sum / n) / (sum / n) < 1.05);

        load_arrivals_init(&bursts, &r, 100, 5);
        for (unsigned i = 0; i < n / 5; i++) {
                at = load_arrivals_next(&bursts);
                for (unsigned k = 1; k < 5; k++)
                        assert_true(load_arrivals_next(&bursts) == at);
        }
        assert_true(at / n > 9500 && at / n < 10500);
}

/* ---- timers ---- */

static void on_timer(struct load_timer *t, double now_us) {
}

static void test_timers(void **state) {
        struct load_timer t[200] = { 0 };
        struct load_timers heap = { 0 };
        struct load_random r;

        load_random_init(&r, 5, 0, 0, 0);
        for (unsigned round = 0; round < 50; round++) {
                double last = -1;
                uint64_t order = 0;
                size_t set = 0, out = 0;

                for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
                        t[i].fn = on_timer;
                        /* few different times: those that are equal keep their order */
                        assert_int_equal(load_timers_set(&heap, &t[i], load_random_below(&r, 20)), 0);
                }
                for (size_t i = 0; i < ARRAY_SIZE(t); i += 3)
                        load_timers_clear(&heap, &t[i]);
                for (size_t i = 0; i < ARRAY_SIZE(t); i += 7) /* some are moved, some come back */
                        assert_int_equal(load_timers_set(&heap, &t[i], load_random_below(&r, 20)), 0);
                load_timers_clear(&heap, &t[3]);
                load_timers_clear(&heap, &t[3]);
                for (size_t i = 0; i < ARRAY_SIZE(t); i++)
                        set += t[i].place != 0;
                for (struct load_timer *first; (first = load_timers_first(&heap)); out++) {
                        assert_true(first->at_us > last || (first->at_us == last && first->order > order));
                        last = first->at_us;
                        order = first->order;
                        load_timers_clear(&heap, first);
                        assert_int_equal(first->place, 0);
                }
                assert_int_equal(out, set);
        }
        assert_int_equal(load_timers_set(&heap, &t[0], 1), 0);
        load_timers_deinit(&heap);
        assert_int_equal(t[0].place, 0);
}

/* ---- prompts ---- */

static uint32_t count_tokens(const struct load_words *w, const char *text) {
        char copy[1 << 16], *state = NULL;
        uint32_t n = w->first;

        assert_true(strlen(text) < sizeof(copy));
        (void)strcpy(copy, text);
        assert_string_equal(strtok_r(copy, " ", &state), load_words_first);
        for (char *word = strtok_r(NULL, " ", &state); word; word = strtok_r(NULL, " ", &state)) {
                uint32_t cost = 0;

                for (size_t i = 0; i < LOAD_WORDS; i++)
                        if (strcmp(load_words_all[i], word) == 0)
                                cost = w->cost[i];
                assert_true(cost > 0);
                n += cost;
        }
        return n;
}

static void make_words(struct load_words *w, uint32_t first, uint32_t most) {
        uint32_t with[LOAD_WORDS];

        for (uint32_t i = 0; i < LOAD_WORDS; i++)
                with[i] = first + 1 + i % most;
        assert_true(load_words_init(w, first, with));
}

static void test_prompt_sizes(void **state) {
        struct buf text = BUF_NULL((size_t)1 << 20);
        struct load_random common, own;
        struct load_words w;

        for (uint32_t most = 1; most <= 3; most++) {
                make_words(&w, 2, most);
                for (uint32_t tokens = 2; tokens < 600; tokens += 13) {
                        load_random_init(&common, 1, 0, 0, 0);
                        load_random_init(&own, 1, 0, 0, tokens);
                        assert_int_equal(load_words_prompt(&w, &text, common, &own, 0, tokens), 0);
                        assert_int_equal(count_tokens(&w, text.data), tokens);
                }
        }
        /* words of two tokens only: as near as can be, and not beyond */
        for (size_t i = 0; i < LOAD_WORDS; i++)
                w.cost[i] = 2;
        assert_int_equal(load_words_prompt(&w, &text, common, &own, 0, 9), 0);
        assert_int_equal(count_tokens(&w, text.data), 8);
        buf_deinit(&text);

        text = BUF_NULL(100);
        assert_int_equal(load_words_prompt(&w, &text, common, &own, 0, 1000), BUF_E_LIMIT);
        buf_deinit(&text);
}

/* Prompts of a group share what they shall share, and go apart right behind it. */
static void test_shared_prefix(void **state) {
        struct buf a = BUF_NULL((size_t)1 << 20), b = BUF_NULL((size_t)1 << 20), prefix = BUF_NULL((size_t)1 << 20);
        struct load_random common, one, two, none;
        struct load_words w;
        size_t same = 0;

        make_words(&w, 1, 1);
        load_random_init(&common, 1, 0, 0, 0);
        load_random_init(&one, 1, 0, 0, 1);
        load_random_init(&two, 1, 0, 0, 2);
        load_random_init(&none, 1, 0, 0, 3);
        assert_int_equal(load_words_prompt(&w, &a, common, &one, 100, 150), 0);
        assert_int_equal(load_words_prompt(&w, &b, common, &two, 100, 150), 0);
        assert_int_equal(load_words_prompt(&w, &prefix, common, &none, 100, 100), 0);
        while (a.data[same] == b.data[same])
                same++;
        assert_true(same >= prefix.len && same < prefix.len + 40);
        assert_memory_equal(a.data, prefix.data, prefix.len);
        assert_int_equal(count_tokens(&w, a.data), 150);

        assert_int_equal(load_words_append(&w, &a, &one, 7, NULL), 7);
        assert_int_equal(count_tokens(&w, a.data), 157);
        buf_deinit(&a);
        buf_deinit(&b);
        buf_deinit(&prefix);
}

static void test_words_that_make_no_sense(void **state) {
        uint32_t with[LOAD_WORDS];
        struct load_words w;

        for (size_t i = 0; i < LOAD_WORDS; i++)
                with[i] = 3;
        assert_true(load_words_init(&w, 2, with));
        assert_false(load_words_init(&w, 3, with));
        with[LOAD_WORDS - 1] = 1;
        assert_false(load_words_init(&w, 2, with));
        assert_false(load_words_init(&w, 0, with));
}

/* ---- figures ---- */

static void test_quantiles(void **state) {
        struct samples s = { 0 };

        assert_true(samples_quantile(&s, 0.5) == 0);
        for (unsigned i = 100; i > 0; i--)
                assert_int_equal(samples_add(&s, i), 0);
        assert_true(samples_quantile(&s, 0.50) == 50);
        assert_true(samples_quantile(&s, 0.95) == 95);
        assert_true(samples_quantile(&s, 0.99) == 99);
        assert_true(samples_quantile(&s, 0.991) == 100);
        assert_true(samples_quantile(&s, 1) == 100);
        assert_true(samples_quantile(&s, 0) == 1);
        samples_deinit(&s);

        assert_int_equal(samples_add(&s, 4), 0);
        assert_true(samples_quantile(&s, 0.01) == 4 && samples_quantile(&s, 0.99) == 4);
        assert_int_equal(samples_add(&s, 2), 0);
        assert_true(samples_quantile(&s, 0.5) == 2 && samples_quantile(&s, 0.51) == 4);
        samples_deinit(&s);
}

static void test_jain(void **state) {
        const double equal[] = { 3, 3, 3, 3 }, one[] = { 0, 5, 0, 0 }, half[] = { 1, 1, 0, 0 }, zero[] = { 0, 0 };

        assert_true(load_jain(equal, 4) == 1);
        assert_true(load_jain(one, 4) == 0.25);
        assert_true(load_jain(half, 4) == 0.5);
        assert_true(load_jain(zero, 2) == 0);
        assert_true(load_jain(NULL, 0) == 0);
}

static void test_stats(void **state) {
        struct load_stats a = { 0 }, sum = { 0 };

        assert_string_equal(load_error_name(load_error_place(SPARK_BUSY)), "BUSY");
        assert_string_equal(load_error_name(load_error_place(SPARK_PROTOCOL)), spark_code_name(SPARK_PROTOCOL));
        assert_int_equal(load_error_place(4711), 0);
        assert_int_equal(load_error_place(0), 0);

        a.requests = 5;
        a.tokens = 100;
        a.prompt_tokens = 50;
        a.cached_tokens = 20;
        load_stats_count_error(&a, SPARK_BUSY);
        load_stats_count_error(&a, SPARK_BUSY);
        load_stats_count_error(&a, 4711);
        assert_int_equal(samples_add(&a.ttft, 1), 0);
        assert_int_equal(samples_add(&a.connect, 2), 0);
        assert_int_equal(load_stats_add(&sum, &a), 0);
        assert_int_equal(load_stats_add(&sum, &a), 0);
        assert_true(sum.requests == 10 && sum.failed == 6 && load_stats_served(&sum) == 260);
        assert_true(sum.errors[load_error_place(SPARK_BUSY)] == 4 && sum.errors[0] == 2);
        assert_true(sum.ttft.n == 2 && sum.connect.n == 2);

        load_stats_reset(&sum);
        assert_true(sum.requests == 0 && sum.failed == 0 && sum.ttft.n == 0 && sum.connect.n == 2);
        load_stats_deinit(&sum);
        load_stats_deinit(&a);
}

/* The sum does not know the order, but everything else. */
static void test_asked(void **state) {
        struct load_stats a = { 0 }, b = { 0 }, c = { 0 };

        load_stats_count_asked(&a, "one", 3, 5);
        load_stats_count_asked(&a, "two", 3, 6);
        load_stats_count_asked(&b, "two", 3, 6);
        load_stats_count_asked(&b, "one", 3, 5);
        load_stats_count_asked(&c, "one", 3, 6);
        load_stats_count_asked(&c, "two", 3, 5);
        assert_true(a.asked == b.asked && a.asked != c.asked);
        load_stats_count_asked(&b, "", 0, 5);
        assert_true(a.asked != b.asked);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_group_keys),     cmocka_unit_test(test_group_faults),
                cmocka_unit_test(test_mixes),          cmocka_unit_test(test_random_streams),
                cmocka_unit_test(test_random_ranges),  cmocka_unit_test(test_arrivals),
                cmocka_unit_test(test_timers),         cmocka_unit_test(test_prompt_sizes),
                cmocka_unit_test(test_shared_prefix),  cmocka_unit_test(test_words_that_make_no_sense),
                cmocka_unit_test(test_quantiles),      cmocka_unit_test(test_jain),
                cmocka_unit_test(test_stats),          cmocka_unit_test(test_asked),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
