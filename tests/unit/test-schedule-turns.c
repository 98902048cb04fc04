/* SPDX-License-Identifier: Apache-2.0 */

/* The scheduler on numbers alone: whose turn it is among those that come and go. */

#include "schedule-fixture.h"

/* --- requests of a client ------------------------------------------------------------------------------------------ */

/* Two users that keep six requests outstanding over one connection each, and three slots: the third one wanders to and
 * fro. What had to make way goes on before anything younger of its client's. */
static void test_parked_requests_go_on_first(void **state) {
        static struct world w;
        unsigned since[12] = { 0 }, parked = 0;

        world_open(&w, &(struct schedule_config){ .max_running = 3, .max_rows = 64, .quantum = { 0, 20, 20, 1000 } });
        for (unsigned i = 0; i < 5000; i++) {
                for (unsigned k = 0; k < 12; k++) {
                        if (!w.items[k].here) {
                                come(&w, k, k % 2, 7, SCHEDULE_NORMAL, 5, 20);
                                since[k] = i;
                        }
                        parked += w.items[k].r.state == SCHEDULE_WAITING && w.items[k].served > 0;
                        assert_true(i - since[k] < 2 * 6 * 21); /* six at a time share a slot and a half */
                }
                step(&w);
        }
        assert_true(parked > 100);
        world_close(&w);
}

/* A long one makes way after its quantum for those behind it, and is behind them then, not behind all that will come. */
static void test_long_requests_take_turns(void **state) {
        static struct world w;
        unsigned finished = 0, steps = 0;
        struct item *slow;

        world_open(&w, &(struct schedule_config){ .max_running = 1, .max_rows = 64, .quantum = { 0, 0, 0, 40 } });
        slow = come(&w, 0, 1, 7, SCHEDULE_NORMAL, 5, 100);
        for (; slow->here; steps++) {
                for (unsigned k = 1; k < 4; k++) {
                        if (w.items[k].here)
                                continue;
                        finished += steps > 0;
                        come(&w, k, 1, 7, SCHEDULE_NORMAL, 5, 10);
                }
                step(&w);
                assert_true(steps < 1000);
        }
        assert_in_range(finished, 9, 20); /* four turns between its five parts, of three others each */
        world_close(&w);
}

/* --- connections that come and go ---------------------------------------------------------------------------------- */

/* Of one user: six clients that keep their connections, and three (as they call themselves) that take a new one for every
 * request. All have one request at a time. */
static void test_new_connections_gain_nothing(void **state) {
        static struct world w;
        uint64_t got[9] = { 0 }, next = 100, kept = 0, churned = 0;
        uint32_t x = 3;

        world_open(&w, &(struct schedule_config){ .max_running = 2, .max_rows = 64, .quantum = { 0, 0, 500, 0 } });
        for (unsigned i = 0; i < 60000; i++) {
                for (unsigned k = 0; k < 9; k++) {
                        if (w.items[k].here)
                                continue;
                        got[k] += w.items[k].served;
                        come(&w, k, 1, k < 6 ? k : next++, SCHEDULE_NORMAL, 1 + random_next(&x) % 40, 1 + random_next(&x) % 20);
                }
                step(&w);
        }
        for (unsigned k = 0; k < 9; k++)
                *(k < 6 ? &kept : &churned) += got[k];
        assert_true(2 * churned < kept + kept / 10); /* three to six */
        assert_true(2 * churned > kept - kept / 10);
        for (unsigned k = 0; k < 6; k++)
                assert_in_range(got[k], kept / 6 - kept / 60, kept / 6 + kept / 60);
        world_close(&w);
}

/* ... and what one connection owes is taken over once. */
static void test_debts_are_taken_over_once(void **state) {
        static struct world w;
        struct item *a, *b;

        world_open(&w, &(struct schedule_config){ .max_running = 1, .max_rows = 64 });
        come(&w, 0, 1, 50, SCHEDULE_NORMAL, 60, 100);
        come(&w, 1, 1, 51, SCHEDULE_NORMAL, 60, 100);
        step(&w); /* 50 is served */
        assert_int_equal(w.items[0].served, 60);
        go(&w, &w.items[0]);
        a = come(&w, 2, 1, 52, SCHEDULE_NORMAL, 60, 100);
        b = come(&w, 3, 1, 53, SCHEDULE_NORMAL, 60, 100);
        assert_true(schedule_service(schedule_parent(&a->r.node)) == 60);
        assert_true(schedule_service(schedule_parent(&b->r.node)) == 0);
        /* one that is known keeps its own */
        go(&w, a);
        a = come(&w, 2, 1, 52, SCHEDULE_NORMAL, 60, 100);
        assert_true(schedule_service(schedule_parent(&a->r.node)) == 60);
        world_close(&w);
}

/* Of several that have gone, it's the one that was furthest ahead. */
static void test_most_is_taken_over_first(void **state) {
        static const uint32_t prompts[] = { 10, 30, 20, 24 }, owed[] = { 30, 24, 20, 10, 0 };
        static struct world w;

        world_open(&w, &(struct schedule_config){ .max_running = 4, .max_rows = 84 });
        for (unsigned i = 0; i < 4; i++)
                come(&w, i, 1, i, SCHEDULE_NORMAL, prompts[i], 10);
        come(&w, 4, 1, 4, SCHEDULE_NORMAL, 10, 10);
        step(&w);
        for (unsigned i = 0; i < 4; i++)
                go(&w, &w.items[i]);
        for (unsigned i = 0; i < 5; i++) {
                struct item *item = come(&w, 10 + i, 1, 10 + i, SCHEDULE_NORMAL, 10, 10);

                assert_true(schedule_service(schedule_parent(&item->r.node)) == owed[i]);
        }
        world_close(&w);
}

/* Who comes new waits behind those at the same v: as many as may come, the old ones' turn comes. */
static void test_newcomers_do_not_push_in(void **state) {
        static struct world w;
        struct item *old;
        unsigned steps = 0;

        world_open(&w, &(struct schedule_config){ .max_running = 1, .max_rows = 64 });
        come(&w, 0, 1, 1, SCHEDULE_NORMAL, 1, 3);
        for (unsigned i = 0; i < 3; i++)
                step(&w);
        old = come(&w, 1, 1, 2, SCHEDULE_NORMAL, 1, 3);
        for (uint64_t client = 10; old->here; steps++) {
                for (unsigned k = 2; k < 6; k++)
                        if (!w.items[k].here)
                                come(&w, k, 1, client++, SCHEDULE_NORMAL, 1, 3);
                step(&w);
                assert_true(steps < 20);
        }
        world_close(&w);
}

/* --- who makes way ------------------------------------------------------------------------------------------------- */

/* Of a user that has to make way, it's the client that is furthest ahead that does. */
static void test_furthest_ahead_makes_way(void **state) {
        static struct world w;

        world_open(&w, &(struct schedule_config){ .max_running = 3, .max_rows = 64, .quantum = { 0, 50, 5000, 0 } });
        come(&w, 0, 1, 10, SCHEDULE_NORMAL, 1, 1000);
        come(&w, 1, 1, 11, SCHEDULE_NORMAL, 40, 1000);
        step(&w);
        come(&w, 2, 2, 20, SCHEDULE_NORMAL, 1, 1000);
        come(&w, 3, 2, 21, SCHEDULE_NORMAL, 1, 1000);
        while (w.items[3].r.state == SCHEDULE_WAITING)
                step(&w);
        assert_int_equal(w.items[0].r.state, SCHEDULE_RUNNING);
        assert_int_equal(w.items[1].r.state, SCHEDULE_WAITING);
        world_close(&w);
}

/* What was put aside for want of memory doesn't come back at another one's expense. */
static void test_parked_is_not_fresh(void **state) {
        static struct world w;
        struct schedule_request *victim, *next;

        world_open(&w, &(struct schedule_config){ .max_running = 3, .max_rows = 64 });
        come(&w, 0, 1, 10, SCHEDULE_NORMAL, 5, 1000);
        step(&w);
        come(&w, 1, 2, 20, SCHEDULE_NORMAL, 50, 1000);
        come(&w, 2, 2, 21, SCHEDULE_NORMAL, 50, 1000);
        step(&w);
        assert_int_equal(w.s.n_running, 3);
        schedule_park(&w.s, &w.items[0].r);
        assert_false(schedule_swap(&w.s, &victim, &next));
        come(&w, 3, 3, 30, SCHEDULE_NORMAL, 50, 1000);
        assert_true(schedule_swap(&w.s, &victim, &next)); /* unlike who has come */
        world_close(&w);
}

/* Of one client's requests the younger one is the first to be put aside, however little it has had. */
static void test_youngest_is_worst(void **state) {
        static struct world w;

        world_open(&w, &(struct schedule_config){ .max_running = 3, .max_rows = 64 });
        come(&w, 0, 1, 10, SCHEDULE_NORMAL, 5, 1000);
        for (unsigned i = 0; i < 10; i++)
                step(&w);
        come(&w, 1, 1, 10, SCHEDULE_NORMAL, 50, 1000);
        step(&w);
        assert_ptr_equal(schedule_worst(&w.s, NULL), &w.items[1].r);
        world_close(&w);
}

/* As many slots as there are: all that come to an idle engine get one each before anybody gets a second one. */
static void test_slots_go_round(void **state) {
        static struct world w;

        world_open(&w, &(struct schedule_config){ .max_running = 8, .max_rows = 64 });
        for (unsigned i = 0; i < 40; i++)
                come(&w, i, 1 + i / 10, i / 5, SCHEDULE_NORMAL, 5, 1000);
        fill_slots(&w);
        for (unsigned i = 0; i < 40; i++)
                assert_int_equal(w.items[i].r.state, i % 5 == 0 ? SCHEDULE_RUNNING : SCHEDULE_WAITING);
        world_close(&w);
}

/* Three clients that have something waiting always, and four slots: as requests end, one of them has two slots or none, and
 * nobody has to make way for that. */
static void test_who_had_something_waits(void **state) {
        static struct world w;
        unsigned parked = 0;
        uint32_t x = 5;

        world_open(&w, &(struct schedule_config){ .max_running = 4, .max_rows = 64, .quantum = { 0, 1000, 1000, 0 } });
        for (unsigned i = 0; i < 5000; i++) {
                for (unsigned k = 0; k < 15; k++)
                        if (!w.items[k].here)
                                come(&w, k, 1, k % 3, SCHEDULE_NORMAL, 1 + random_next(&x) % 40, 1 + random_next(&x) % 20);
                step(&w);
                for (unsigned k = 0; k < 15; k++)
                        parked += w.items[k].here && w.items[k].r.state == SCHEDULE_WAITING && w.items[k].served > 0;
        }
        assert_int_equal(parked, 0);
        world_close(&w);
}

/* Who made way for a higher class was not ahead of anybody: it goes on in that slot, before others that have had less. */
static void test_suspended_go_on_first(void **state) {
        static struct world w;

        world_open(&w, &(struct schedule_config){ .max_running = 4, .max_rows = 64 });
        for (unsigned i = 0; i < 20; i++)
                come(&w, i, 1 + i % 2, i, SCHEDULE_BACKGROUND, 5, 100000);
        for (unsigned round = 0; round < 50; round++) {
                bool ran[20];

                for (unsigned i = 0; i < 5; i++)
                        step(&w);
                for (unsigned i = 0; i < 20; i++)
                        ran[i] = w.items[i].r.state == SCHEDULE_RUNNING;
                come(&w, 30, 9, 30, SCHEDULE_INTERACTIVE, 5, 3);
                come(&w, 31, 9, 31, SCHEDULE_INTERACTIVE, 5, 3);
                step(&w);
                assert_int_equal(w.items[31].prompt, 0);
                while (w.items[30].here || w.items[31].here)
                        step(&w);
                step(&w);
                for (unsigned i = 0; i < 20; i++)
                        assert_int_equal(ran[i], w.items[i].r.state == SCHEDULE_RUNNING);
        }
        world_close(&w);
}

/* ... unless it has gone, wants nothing, or its user may not: then another one gets the slot. */
static void test_suspended_that_cannot_go_on(void **state) {
        for (unsigned how = 0; how < 3; how++) {
                static struct world w;
                struct item *suspended = &w.items[0], *now;

                world_open(&w, &(struct schedule_config){ .max_running = 1, .max_rows = 64 });
                come(&w, 0, 1, 0, SCHEDULE_BACKGROUND, 5, 1000);
                step(&w);
                come(&w, 1, 2, 1, SCHEDULE_BACKGROUND, 5, 1000);
                now = come(&w, 2, 3, 2, SCHEDULE_INTERACTIVE, 5, 3);
                step(&w);
                assert_int_equal(suspended->r.state, SCHEDULE_WAITING);
                if (how == 0)
                        go(&w, suspended);
                else if (how == 1)
                        schedule_pause(&w.s, &suspended->r);
                else
                        schedule_hold(&w.s, suspended->r.user, true);
                while (now->here)
                        step(&w);
                step(&w);
                assert_int_equal(w.items[1].r.state, SCHEDULE_RUNNING);
                if (how == 2)
                        schedule_hold(&w.s, suspended->r.user, false);
                world_close(&w);
        }
}

/* Three classes that flood: each has its part by weight in slots that it keeps, not in slots that wander. */
static void test_classes_keep_their_slots(void **state) {
        static struct world w;
        unsigned parked = 0;
        uint64_t high, middle, low;

        world_open(&w, &(struct schedule_config){ .max_running = 16, .max_rows = 64, .quantum = { 64, 0, 0, 0 } });
        for (unsigned i = 0; i < 120; i++)
                come(&w, i, 1 + i % 3, i, (enum schedule_class)(i % 3), 5, 1000000);
        for (unsigned i = 0; i < 20000; i++) {
                bool ran[120];

                for (unsigned k = 0; k < 120; k++)
                        ran[k] = w.items[k].r.state == SCHEDULE_RUNNING;
                step(&w);
                for (unsigned k = 0; k < 120; k++)
                        parked += ran[k] && w.items[k].r.state != SCHEDULE_RUNNING;
        }
        low = served_of(&w, 1);
        middle = served_of(&w, 2);
        high = served_of(&w, 3);
        assert_true(middle > 7 * low && middle < 9 * low);
        assert_true(high > 7 * middle / 2 && high < 9 * middle / 2);
        assert_true(parked < 20000 / 16);
        world_close(&w);
}

/* A class that is a little behind stands first in line, and has slots enough for that; a higher one behind it is seen all the
 * same. */
static void test_every_class_is_asked(void **state) {
        static const enum schedule_class classes[] = { SCHEDULE_INTERACTIVE, SCHEDULE_NORMAL, SCHEDULE_BACKGROUND,
                                                       SCHEDULE_BACKGROUND, SCHEDULE_BACKGROUND, SCHEDULE_BACKGROUND };
        static struct world w;
        struct schedule_request *victim, *next;

        world_open(&w, &(struct schedule_config){ .max_running = 5, .max_rows = 64, .quantum = { 64, 0, 0, 0 } });
        for (unsigned i = 0; i < 6; i++)
                come(&w, i, 1, 1, classes[i], 10, 10);
        fill_slots(&w);
        assert_int_equal(w.items[5].r.state, SCHEDULE_WAITING); /* background stands at 128 */
        schedule_charge(&w.s, &w.items[0].r, 138 * 64);
        schedule_charge(&w.s, &w.items[1].r, 109 * 16);
        assert_false(schedule_swap(&w.s, &victim, &next));
        come(&w, 6, 1, 1, SCHEDULE_INTERACTIVE, 10, 10); /* at 138; normal at 64 + 109 */
        assert_true(schedule_swap(&w.s, &victim, &next));
        assert_ptr_equal(victim, &w.items[1].r);
        assert_ptr_equal(next, &w.items[6].r);
        world_close(&w);
}

/* Whatever the weight, nothing is lost in the division. */
static void test_weights_are_exact(void **state) {
        static struct world w;
        struct item *item = &w.items[0];
        const struct schedule_node *user;

        world_open(&w, &(struct schedule_config){ .max_running = 1, .max_rows = 64 });
        *item = (struct item){ .here = true, .prompt = 300000, .output = 1 };
        item->who = (struct schedule_who){ .uid = 1, .class = SCHEDULE_NORMAL, .weight = 3 };
        assert_int_equal(schedule_add(&w.s, &item->r, &item->who), 0);
        schedule_start(&w.s, schedule_next(&w.s));
        for (unsigned i = 0; i < 300000; i++)
                schedule_charge(&w.s, &item->r, 1);
        user = schedule_parent(schedule_parent(&item->r.node));
        assert_true(schedule_service(user) == 100000);
        world_close(&w);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_parked_requests_go_on_first),
                cmocka_unit_test(test_long_requests_take_turns),
                cmocka_unit_test(test_new_connections_gain_nothing),
                cmocka_unit_test(test_debts_are_taken_over_once),
                cmocka_unit_test(test_most_is_taken_over_first),
                cmocka_unit_test(test_newcomers_do_not_push_in),
                cmocka_unit_test(test_furthest_ahead_makes_way),
                cmocka_unit_test(test_parked_is_not_fresh),
                cmocka_unit_test(test_youngest_is_worst),
                cmocka_unit_test(test_slots_go_round),
                cmocka_unit_test(test_who_had_something_waits),
                cmocka_unit_test(test_suspended_go_on_first),
                cmocka_unit_test(test_suspended_that_cannot_go_on),
                cmocka_unit_test(test_classes_keep_their_slots),
                cmocka_unit_test(test_every_class_is_asked),
                cmocka_unit_test(test_weights_are_exact),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
