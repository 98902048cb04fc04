/* SPDX-License-Identifier: Apache-2.0 */

/* What memory is given back next, and taken again: the order, no more than is needed, and sums that come out even. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/macro.h"
#include "daemon/control/memory/shed-plan.h"

#define N 3u

static struct shed_view model(uint64_t fixed, uint64_t kv, uint64_t used, uint64_t cached) {
        return (struct shed_view){ .there = true, .idle = true, .fixed = fixed, .kv = kv, .kv_limit = kv, .kv_least = kv / 8,
                                   .kv_used = used, .kv_cached = cached, .kv_resident = used + cached };
}

/* All of it at once, as shed.c does; how many actions. */
static unsigned take(struct shed_view *v, size_t n, uint64_t resident, uint64_t reserved, enum shed_step limit) {
        struct shed_gain want = { resident, reserved };
        struct shed_action action;
        static uint64_t order;
        enum shed_step last = SHED_NOTHING;
        unsigned actions = 0;

        while (shed_plan_take(v, n, &want, limit, &order, &action)) {
                assert_true(action.step >= last); /* never back to what costs less: that was taken whole */
                assert_true(action.step <= limit);
                last = action.step;
                assert_true(++actions < 100);
        }
        return actions;
}

static void test_order(void **state) {
        struct shed_view v[] = { model(1000, 400, 100, 200) };
        struct shed_gain want = { .resident = 1, .reserved = 0 };
        struct shed_action action;
        uint64_t order = 0;

        v[0].kv_sessions = 50;
        assert_true(shed_plan_take(v, 1, &want, SHED_WEIGHTS, &order, &action));
        assert_int_equal(action.step, SHED_CACHE);
        assert_int_equal(v[0].cache_gain.resident, 150); /* sessions' is not dropped yet */
        assert_false(shed_plan_take(v, 1, &want, SHED_WEIGHTS, &order, &action)); /* enough */
        want.resident = 151;
        assert_true(shed_plan_take(v, 1, &want, SHED_WEIGHTS, &order, &action));
        assert_int_equal(action.step, SHED_SESSIONS);
        want.resident = 220;
        assert_true(shed_plan_take(v, 1, &want, SHED_WEIGHTS, &order, &action));
        assert_int_equal(action.step, SHED_KV); /* below what runs, by just what is missing */
        assert_int_equal(action.kv_limit, 80);
        assert_int_equal(shed_plan_given(v, 1).resident, 220);
        want.resident = 300;
        assert_true(shed_plan_take(v, 1, &want, SHED_WEIGHTS, &order, &action));
        assert_int_equal(action.step, SHED_KV);
        assert_int_equal(action.kv_limit, 50); /* no less works */
        assert_true(shed_plan_take(v, 1, &want, SHED_WEIGHTS, &order, &action));
        assert_int_equal(action.step, SHED_WEIGHTS);
        assert_int_equal(shed_plan_given(v, 1).resident, 1300);
        want.resident = 1 << 20;
        assert_false(shed_plan_take(v, 1, &want, SHED_WEIGHTS, &order, &action)); /* nothing is left */
        assert_int_equal(shed_plan_step(v, 1), SHED_WEIGHTS);
}

static void test_limit(void **state) {
        struct shed_view v[] = { model(1000, 400, 0, 200) };

        assert_int_equal(take(v, 1, 100000, 100000, SHED_NOTHING), 0);
        assert_int_equal(take(v, 1, 100000, 100000, SHED_SESSIONS), 2);
        assert_int_equal(shed_plan_step(v, 1), SHED_SESSIONS);
        (void)take(v, 1, 100000, 100000, SHED_KV);
        assert_int_equal(shed_plan_step(v, 1), SHED_KV);
        assert_false(v[0].weights);
}

/* Idle before busy, unpinned before pinned, the least recently used first; no more than is needed. */
static void test_weights_in_order(void **state) {
        static const size_t expected[] = { 3, 1, 2, 0 };
        struct shed_view v[4];
        struct shed_gain want = { 0 };
        struct shed_action action;
        uint64_t order = 0;

        for (size_t i = 0; i < 4; i++)
                v[i] = model(1000, 0, 0, 0);
        v[0].idle = false;
        v[0].used_us = 1;
        v[1].used_us = 20;
        v[2].pinned = true;
        v[3].used_us = 10;
        for (size_t k = 0; k < 4; k++) {
                want.resident = 1000 * k + 1;
                assert_true(shed_plan_take(v, 4, &want, SHED_WEIGHTS, &order, &action));
                assert_int_equal(action.step, SHED_WEIGHTS);
                assert_int_equal(action.model, expected[k]);
                assert_false(shed_plan_take(v, 4, &want, SHED_WEIGHTS, &order, &action));
        }
        want.resident = 0;
        for (size_t k = 4; k-- > 0;) { /* and back the other way */
                assert_true(shed_plan_return(v, 4, &want, UINT64_MAX, &action));
                assert_int_equal(action.model, expected[k]);
        }
        assert_false(shed_plan_return(v, 4, &want, UINT64_MAX, &action));
}

/* Whoever keeps the memory needs a promise, too: pools that nobody filled shrink for that, and nothing else has to go. */
static void test_reserved(void **state) {
        struct shed_view v[] = { model(1000, 800, 0, 0), model(1000, 800, 0, 0) };

        (void)take(v, 2, 0, 900, SHED_WEIGHTS);
        assert_int_equal(shed_plan_step(v, 2), SHED_KV);
        assert_int_equal(v[0].kv_limit + v[1].kv_limit, 700);
        assert_int_equal(shed_plan_given(v, 2).reserved, 900);
        assert_int_equal(shed_plan_given(v, 2).resident, 0);
        (void)take(v, 2, 900, 900, SHED_WEIGHTS); /* it is to be there at once: then weights go */
        assert_true(shed_plan_given(v, 2).resident >= 900);
        assert_int_equal(v[0].weights + v[1].weights, 1);
}

/* What comes back fits into the room, and what others need stays given. */
static void test_return(void **state) {
        struct shed_view v[] = { model(1000, 400, 100, 100) };
        struct shed_gain want = { 1300, 0 };
        struct shed_action action;

        (void)take(v, 1, 1150, 0, SHED_WEIGHTS);
        assert_true(v[0].weights);
        assert_false(shed_plan_return(v, 1, &want, UINT64_MAX, &action)); /* all of it is needed */
        want.resident = 0;
        assert_false(shed_plan_return(v, 1, &want, 1399, &action)); /* there is no room for model and pool */
        assert_true(shed_plan_return(v, 1, &want, 1400, &action));
        assert_int_equal(action.step, SHED_WEIGHTS);
        assert_int_equal(shed_plan_step(v, 1), SHED_NOTHING); /* its next engine begins anew */
        assert_int_equal(shed_plan_given(v, 1).resident, 0);
        assert_int_equal(shed_plan_given(v, 1).reserved, 0);

        (void)take(v, 1, 150, 0, SHED_KV);
        assert_int_equal(v[0].kv_limit, 50);
        want.resident = 0;
        assert_true(shed_plan_return(v, 1, &want, 200, &action)); /* a part of the pool */
        assert_int_equal(action.step, SHED_KV);
        assert_int_equal(action.kv_limit, 250);
        assert_false(shed_plan_return(v, 1, &want, 0, &action));
        assert_true(shed_plan_return(v, 1, &want, 1000, &action));
        assert_int_equal(action.kv_limit, 400);
        assert_true(shed_plan_return(v, 1, &want, 1000, &action));
        assert_int_equal(action.step, SHED_SESSIONS);
        assert_true(shed_plan_return(v, 1, &want, 1000, &action));
        assert_int_equal(action.step, SHED_CACHE);
        assert_int_equal(shed_plan_step(v, 1), SHED_NOTHING);
}

/* More is wanted than there is, as with every stall of a service that has cached nothing: what gained nothing stays taken as long
 * as that is so, else it would be taken and returned without end. */
static void test_nothing_to_gain(void **state) {
        struct shed_view v[] = { model(1000, 400, 0, 0) };
        struct shed_gain want = { 100, 0 };
        struct shed_action action;

        assert_int_equal(take(v, 1, 100, 0, SHED_SESSIONS), 2);
        assert_int_equal(shed_plan_given(v, 1).resident, 0);
        assert_int_equal(shed_plan_step(v, 1), SHED_SESSIONS);
        assert_false(shed_plan_return(v, 1, &want, UINT64_MAX, &action));
        assert_int_equal(take(v, 1, 100, 0, SHED_SESSIONS), 0);
        want.resident = 0;
        assert_true(shed_plan_return(v, 1, &want, UINT64_MAX, &action));
        assert_true(shed_plan_return(v, 1, &want, UINT64_MAX, &action));
        assert_int_equal(shed_plan_step(v, 1), SHED_NOTHING);
}

struct choice {
        uint64_t bytes[8];
        size_t n;
        uint64_t away, want, expected;
};

/* Enough, of that the fewest bytes, of equal ones the last; never the first, which has the tables. */
static void test_choose(void **state) {
        static const struct choice table[] = {
                { { 9, 5, 5, 5 }, 4, 0, 0, 0 },
                { { 9, 5, 5, 5 }, 4, 0, 1, 8 },
                { { 9, 5, 5, 5 }, 4, 0, 5, 8 },
                { { 9, 5, 5, 5 }, 4, 0, 6, 8 | 4 },
                { { 9, 5, 5, 5 }, 4, 0, 15, 8 | 4 | 2 },
                { { 9, 5, 5, 5 }, 4, 0, 16, SHED_WHOLE },
                { { 9, 5, 5, 5 }, 4, 8, 5, 4 },
                { { 9, 5, 5, 5 }, 4, 8 | 2, 6, SHED_WHOLE },
                { { 9, 5, 5, 2 }, 4, 0, 1, 8 },          /* the smallest that will do */
                { { 9, 5, 5, 2 }, 4, 0, 3, 4 },
                { { 9, 5, 5, 2 }, 4, 0, 7, 4 | 8 },      /* a large one, and the small one for the rest */
                { { 9, 5, 5, 2 }, 4, 0, 8, 4 | 2 },
                { { 9, 40, 5, 5, 5 }, 5, 0, 14, 4 | 8 | 16 }, /* three are less than a large one, */
                { { 9, 40, 5, 5, 5 }, 5, 0, 16, 2 },     /* but if they are not enough it goes alone */
                { { 9, 3, 5, 6 }, 4, 0, 8, 8 | 2 },
                { { 9 }, 1, 0, 1, SHED_WHOLE },
                { { 9 }, 1, 0, 0, 0 },
                { { 0 }, 0, 0, 1, SHED_WHOLE },
        };

        for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
                const struct choice *c = &table[i];
                uint64_t got = shed_plan_choose(c->bytes, c->n, c->away, c->want);

                if (got != c->expected)
                        fail_msg("row %zu: %llx, not %llx", i, (unsigned long long)got, (unsigned long long)c->expected);
        }
}

/* An engine of 100, a pool of 400 and ten segments of 100: what is wanted, in parts. */
static void test_parts(void **state) {
        static const uint64_t bytes[] = { 100, 100, 100, 100, 100, 100, 100, 100, 100, 100 };
        struct shed_view v[] = { model(1100, 400, 0, 0), model(500, 0, 0, 0) };
        struct shed_gain want = { 0 };
        struct shed_action action;
        uint64_t order = 0;

        v[0].image = 1000;
        v[0].segment_bytes = bytes;
        v[0].n_segments = 10;
        v[1].used_us = 5;
        want = (struct shed_gain){ 250, 250 };
        while (shed_plan_take(v, 2, &want, SHED_WEIGHTS, &order, &action))
                ;
        assert_int_equal(action.step, SHED_WEIGHTS);
        assert_int_equal(action.segments, 1 << 9 | 1 << 8);
        assert_int_equal(v[0].away, 1 << 9 | 1 << 8);
        assert_int_equal(v[0].weights_gain.resident, 300); /* with the engine */
        want = (struct shed_gain){ 650, 650 }; /* more: of the one that cannot serve anyway */
        assert_true(shed_plan_take(v, 2, &want, SHED_WEIGHTS, &order, &action));
        assert_int_equal(action.model, 0);
        assert_int_equal(action.segments, 1 << 7 | 1 << 6 | 1 << 5 | 1 << 4);
        assert_false(v[1].weights);
        assert_false(shed_plan_take(v, 2, &want, SHED_WEIGHTS, &order, &action));
        want = (struct shed_gain){ 1050, 1050 }; /* the tables' segment goes when the others are not enough */
        assert_true(shed_plan_take(v, 2, &want, SHED_WEIGHTS, &order, &action));
        assert_true(action.segments == SHED_WHOLE);
        assert_int_equal(v[0].weights_gain.resident, 1100);
        assert_false(shed_plan_take(v, 2, &want, SHED_WEIGHTS, &order, &action));
        want = (struct shed_gain){ 1101, 1101 };
        assert_true(shed_plan_take(v, 2, &want, SHED_WEIGHTS, &order, &action));
        assert_int_equal(action.model, 1);
        want = (struct shed_gain){ 1000, 1000 }; /* a part of what it gave is not taken back: it could not serve with that */
        assert_true(shed_plan_return(v, 2, &want, UINT64_MAX, &action));
        assert_int_equal(action.model, 1);
        want = (struct shed_gain){ 1, 1 };
        assert_false(shed_plan_return(v, 2, &want, UINT64_MAX, &action));
        want = (struct shed_gain){ 0 };
        assert_true(shed_plan_return(v, 2, &want, UINT64_MAX, &action));
        assert_int_equal(action.model, 0);
        assert_int_equal(v[0].away, 0);
        assert_int_equal(v[0].image_gain, 0);
}

/* The engine alone is enough: nothing has to be read to have it back. */
static void test_engine_alone(void **state) {
        static const uint64_t bytes[] = { 100, 100 };
        struct shed_view v[] = { model(260, 0, 0, 0) };
        struct shed_gain want = { 60, 60 };
        struct shed_action action;
        uint64_t order = 0;

        v[0].image = 200;
        v[0].segment_bytes = bytes;
        v[0].n_segments = 2;
        while (shed_plan_take(v, 1, &want, SHED_WEIGHTS, &order, &action))
                ;
        assert_true(v[0].weights);
        assert_int_equal(action.segments, 0);
        assert_int_equal(v[0].weights_gain.resident, 60);
        assert_int_equal(shed_plan_step(v, 1), SHED_WEIGHTS);
}

static uint64_t draw(unsigned *seed, uint64_t n) {
        *seed = *seed * 1103515245u + 12345u;
        return (*seed >> 8) % n;
}

static uint64_t sum_of(const struct shed_view *v, bool reserved) {
        uint64_t sum = 0;

        for (size_t i = 0; i < N; i++)
                sum += reserved ? v[i].cache_gain.reserved + v[i].sessions_gain.reserved + v[i].kv_gain.reserved +
                                          v[i].weights_gain.reserved
                                : v[i].cache_gain.resident + v[i].sessions_gain.resident + v[i].kv_gain.resident +
                                          v[i].weights_gain.resident;
        return sum;
}

/* Many wants come and go in any order: what is given covers them as far as there is anything, never more than there was, and
 * nothing is left given when nobody wants anything. */
static void test_random(void **state) {
        static uint64_t bytes[N][SHED_SEGMENTS_MAX];
        unsigned seed = 7;

        for (unsigned round = 0; round < 2000; round++) {
                struct shed_view v[N], before[N];
                uint64_t all_resident = 0, all_reserved = 0, order = 0;
                struct shed_gain want = { 0 };
                struct shed_action action;

                for (size_t i = 0; i < N; i++) {
                        uint64_t kv = draw(&seed, 1000), used = draw(&seed, kv + 1), cached = draw(&seed, kv - used + 1);

                        v[i] = model(draw(&seed, 2000), kv, used, cached);
                        v[i].segment_bytes = bytes[i];
                        v[i].n_segments = draw(&seed, 2) ? draw(&seed, SHED_SEGMENTS_MAX + 1) : 0;
                        for (size_t s = 0; s < v[i].n_segments; s++)
                                v[i].image += bytes[i][s] = 1 + draw(&seed, 100);
                        v[i].fixed += v[i].image;
                        v[i].idle = draw(&seed, 2);
                        v[i].pinned = draw(&seed, 2);
                        v[i].used_us = draw(&seed, 100);
                        v[i].kv_sessions = draw(&seed, cached + 1);
                        all_resident += v[i].fixed + v[i].kv_resident;
                        all_reserved += v[i].fixed + v[i].kv;
                }
                memcpy(before, v, sizeof(v));
                for (unsigned step = 0; step < 20; step++) {
                        want.resident = draw(&seed, 12000);
                        want.reserved = draw(&seed, 2) ? want.resident : 0;
                        while (shed_plan_take(v, N, &want, SHED_WEIGHTS, &order, &action))
                                ;
                        assert_true(sum_of(v, false) >= MIN(want.resident, all_resident));
                        assert_true(sum_of(v, true) >= MIN(want.reserved, all_reserved));
                        while (shed_plan_return(v, N, &want, UINT64_MAX, &action))
                                ;
                        assert_true(sum_of(v, false) >= MIN(want.resident, all_resident));
                        assert_true(sum_of(v, true) >= MIN(want.reserved, all_reserved));
                        assert_true(sum_of(v, false) <= all_resident);
                        assert_true(sum_of(v, true) <= all_reserved);
                        assert_int_equal(shed_plan_given(v, N).resident, sum_of(v, false));
                }
                want = (struct shed_gain){ 0 };
                while (shed_plan_return(v, N, &want, UINT64_MAX, &action))
                        ;
                for (size_t i = 0; i < N; i++) {
                        assert_true(v[i].kv_limit == before[i].kv);
                        assert_false(v[i].cache || v[i].sessions || v[i].weights || v[i].away || v[i].image_gain);
                }
                assert_int_equal(sum_of(v, false) + sum_of(v, true), 0);
        }
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_order),
                cmocka_unit_test(test_limit),
                cmocka_unit_test(test_weights_in_order),
                cmocka_unit_test(test_reserved),
                cmocka_unit_test(test_return),
                cmocka_unit_test(test_nothing_to_gain),
                cmocka_unit_test(test_choose),
                cmocka_unit_test(test_parts),
                cmocka_unit_test(test_engine_alone),
                cmocka_unit_test(test_random),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
