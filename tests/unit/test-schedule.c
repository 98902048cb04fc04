/* SPDX-License-Identifier: Apache-2.0 */

/* The scheduler on numbers alone: fairness at every level and its bound, classes, limits, chunks, pace. */

#include "schedule-fixture.h"

/* --- fairness ----------------------------------------------------------------------------------------------------- */

static void test_users_share_alike(void **state) {
        static struct world w;
        uint64_t a, b;

        world_open(&w, &(struct schedule_config){ .max_running = 8, .max_rows = 64, .quantum = { 0, 2048, 2048, 0 } });
        for (unsigned i = 0; i < 100; i++) /* one with a hundred clients, one with two */
                come(&w, i, 1, i, SCHEDULE_NORMAL, 10, 100000);
        for (unsigned i = 100; i < 120; i++)
                come(&w, i, 2, i % 2, SCHEDULE_NORMAL, 10, 100000);
        for (unsigned i = 0; i < 20000; i++)
                step(&w);
        a = served_of(&w, 1);
        b = served_of(&w, 2);
        assert_true(a > 0 && b > 0);
        assert_true((a > b ? a - b : b - a) <= 2 * (2048 + schedule_step_max(&w.s)));
        world_close(&w);
}

static void test_weights(void **state) {
        static struct world w;
        double a, b;

        world_open(&w, &(struct schedule_config){ .max_running = 4, .max_rows = 4, .quantum = { 0, 2048, 2048, 0 } });
        for (unsigned i = 0; i < 40; i++) {
                struct item *item = &w.items[i];

                *item = (struct item){ .here = true, .output = 1000000 };
                item->who = (struct schedule_who){ .uid = i % 2, .client = i, .class = SCHEDULE_NORMAL, .weight = i % 2 ? 3 : 1 };
                assert_int_equal(schedule_add(&w.s, &item->r, &item->who), 0);
        }
        for (unsigned i = 0; i < 100000; i++)
                step(&w);
        a = (double)served_of(&w, 0);
        b = (double)served_of(&w, 1);
        assert_true(b / a > 2.8 && b / a < 3.2);
        world_close(&w);
}

/* The bound of schedule.h: between any two users, and any two clients of one, that have something waiting all the
 * while. A random load with an own mind about everything; whoever waits all the while is watched. */
static unsigned waiting_of_client(const struct world *w, uint32_t uid, uint64_t client, bool any_client) {
        unsigned n = 0;

        for (unsigned i = 0; i < MANY; i++) {
                const struct item *item = &w->items[i];

                n += item->here && item->r.state == SCHEDULE_WAITING && item->who.uid == uid &&
                     (any_client || item->who.client == client);
        }
        return n;
}

static void check_spread(const struct world *w, const struct schedule_node **nodes, size_t n, uint64_t quantum) {
        double least = 0, most = 0, step_max = (double)schedule_step_max(&w->s);

        for (size_t i = 0; i < n; i++) {
                double v = schedule_service(nodes[i]);

                least = i == 0 || v < least ? v : least;
                most = i == 0 || v > most ? v : most;
        }
        assert_true(n == 0 || most - least <= (double)quantum + step_max + 1);
}

static const struct schedule_node *node_above(const struct world *w, uint32_t uid, uint64_t client, unsigned levels,
                                              bool any_client) {
        for (unsigned i = 0; i < MANY; i++) {
                const struct item *item = &w->items[i];
                const struct schedule_node *n = &item->r.node;

                if (!item->here || item->who.uid != uid || (!any_client && item->who.client != client))
                        continue;
                for (unsigned l = 0; l < levels; l++)
                        n = schedule_parent(n);
                return n;
        }
        return NULL;
}

static void check_bounds(const struct world *w) {
        const struct schedule_node *nodes[8];
        size_t n = 0;

        for (uint32_t uid = 0; uid < 4; uid++)
                if (waiting_of_client(w, uid, 0, true))
                        nodes[n++] = node_above(w, uid, 0, 2, true);
        check_spread(w, nodes, n, w->s.config.quantum[SCHEDULE_USER]);
        for (uint32_t uid = 0; uid < 4; uid++) {
                n = 0;
                for (uint64_t client = 0; client < 3; client++)
                        if (waiting_of_client(w, uid, client, false))
                                nodes[n++] = node_above(w, uid, client, 1, false);
                check_spread(w, nodes, n, w->s.config.quantum[SCHEDULE_CLIENT]);
        }
}

static void test_bound(void **state) {
        static const struct schedule_config configs[] = {
                { .max_running = 8, .max_rows = 64, .quantum = { 0, 100, 60, 200 } },
                { .max_running = 3, .max_rows = 512 },
                { .max_running = 1, .max_rows = 1, .quantum = { 0, 10, 10, 10 } },
                { .max_running = 16, .max_rows = 16, .quantum = { 0, 1, 1, 1 } },
        };
        static struct world w;

        for (size_t c = 0; c < ARRAY_SIZE(configs); c++) {
                uint32_t x = 7 + (uint32_t)c;

                world_open(&w, &configs[c]);
                for (unsigned i = 0; i < 6000; i++) {
                        unsigned k = random_next(&x) % MANY;
                        struct item *item = &w.items[k];

                        switch (random_next(&x) % 8) {
                        case 0:
                        case 1:
                        case 2:
                                if (!item->here) /* user 3 comes in floods */
                                        come(&w, k, k % 2 ? 3 : k % 4, k % 3, SCHEDULE_NORMAL, 1 + random_next(&x) % 300,
                                             1 + random_next(&x) % 200);
                                break;
                        case 3:
                                if (item->here && random_next(&x) % 4 == 0)
                                        go(&w, item);
                                break;
                        case 4:
                                if (item->here && item->r.state == SCHEDULE_IDLE)
                                        schedule_wake(&w.s, &item->r);
                                else if (item->here && random_next(&x) % 4 == 0)
                                        schedule_pause(&w.s, &item->r);
                                break;
                        default:
                                step(&w);
                                check_bounds(&w);
                        }
                }
                world_close(&w);
        }
}

/* Who comes late does not inherit a claim on what was served before, nor a debt. */
static void test_nobody_saves_up(void **state) {
        static struct world w;
        uint64_t before, a, b;

        world_open(&w, &(struct schedule_config){ .max_running = 2, .max_rows = 2, .quantum = { 0, 10, 10, 10 } });
        for (unsigned i = 0; i < 10; i++)
                come(&w, i, 1, i, SCHEDULE_NORMAL, 1, 1000000);
        for (unsigned i = 0; i < 5000; i++)
                step(&w);
        before = served_of(&w, 1);
        for (unsigned i = 10; i < 20; i++)
                come(&w, i, 2, i, SCHEDULE_NORMAL, 1, 1000000);
        for (unsigned i = 0; i < 1000; i++)
                step(&w);
        a = served_of(&w, 1) - before;
        b = served_of(&w, 2);
        assert_true((a > b ? a - b : b - a) <= 2 * (10 + schedule_step_max(&w.s)));
        world_close(&w);
}

/* A user without anything running gets a slot in the very next step, from the one who has several. */
static void test_newcomer_gets_a_slot(void **state) {
        static struct world w;
        struct item *late;

        world_open(&w, &(struct schedule_config){ .max_running = 4, .max_rows = 64 });
        for (unsigned i = 0; i < 50; i++)
                come(&w, i, 1, i, SCHEDULE_NORMAL, 1, 1000000);
        for (unsigned i = 0; i < 10; i++)
                step(&w);
        late = come(&w, 60, 2, 60, SCHEDULE_NORMAL, 20, 10);
        step(&w);
        assert_int_equal(late->r.state, SCHEDULE_RUNNING);
        assert_int_equal(late->served, 20);
        world_close(&w);
}

/* --- classes ------------------------------------------------------------------------------------------------------ */

static void test_higher_class_comes_first(void **state) {
        static struct world w;
        struct item *now;

        world_open(&w, &(struct schedule_config){ .max_running = 4, .max_rows = 64 });
        for (unsigned i = 0; i < 50; i++)
                come(&w, i, 1, i, SCHEDULE_BACKGROUND, 30, 1000000);
        for (unsigned i = 0; i < 100; i++)
                step(&w);
        for (unsigned round = 0; round < 20; round++) {
                now = come(&w, 60, 1, 60, round % 2 ? SCHEDULE_INTERACTIVE : SCHEDULE_NORMAL, 60, 10);
                step(&w);
                assert_int_equal(now->prompt, 0); /* read in the very next step */
                for (unsigned i = 0; i < 10; i++)
                        step(&w);
                assert_false(now->here);
        }
        world_close(&w);
}

static void test_lower_class_does_not_starve(void **state) {
        static struct world w;
        uint64_t high, middle, low;

        world_open(&w, &(struct schedule_config){ .max_running = 4, .max_rows = 4 });
        for (unsigned i = 0; i < 60; i++)
                come(&w, i, 1 + i % 3, i, (enum schedule_class)(i % 3), 50, 1000000);
        for (unsigned i = 0; i < 50000; i++)
                step(&w);
        low = served_of(&w, 1);
        middle = served_of(&w, 2);
        high = served_of(&w, 3);
        assert_true(low > 0 && middle > 6 * low && middle < 10 * low); /* 2 : 16 : 64 */
        assert_true(high > 3 * middle && high < 5 * middle);
        world_close(&w);
}

/* --- limits ------------------------------------------------------------------------------------------------------- */

static void test_running_limit(void **state) {
        static struct world w;

        world_open(&w, &(struct schedule_config){ .max_running = 8, .max_rows = 64 });
        for (unsigned i = 0; i < 40; i++) {
                struct item *item = &w.items[i];

                *item = (struct item){ .here = true, .prompt = 5, .output = 30 };
                item->who = (struct schedule_who){ .uid = i % 2, .client = i, .class = (enum schedule_class)(i % 3), .running_limit = i % 2 ? 3 : 0 };
                assert_int_equal(schedule_add(&w.s, &item->r, &item->who), 0);
        }
        for (unsigned i = 0; i < 300; i++) {
                const struct schedule_user *user = schedule_find_user(&w.s, 1);

                step(&w);
                assert_true(!user || schedule_find_user(&w.s, 1) != user || user->n_running <= 3);
        }
        assert_int_equal(w.s.n_running + w.s.n_waiting, 0); /* all were served in the end */
        assert_null(schedule_find_user(&w.s, 1));
        world_close(&w);
}

static void test_hold(void **state) {
        static struct world w;

        world_open(&w, &(struct schedule_config){ .max_running = 8, .max_rows = 64 });
        come(&w, 0, 1, 0, SCHEDULE_NORMAL, 5, 5);
        come(&w, 1, 2, 0, SCHEDULE_NORMAL, 5, 5);
        schedule_hold(&w.s, w.items[0].r.user, true);
        assert_ptr_equal(schedule_next(&w.s), &w.items[1].r);
        step(&w);
        assert_int_equal(w.items[0].served, 0);
        schedule_hold(&w.s, w.items[0].r.user, false);
        step(&w);
        assert_int_equal(w.items[0].served, 5);
        world_close(&w);
}

static void test_pause(void **state) {
        static struct world w;

        world_open(&w, &(struct schedule_config){ .max_running = 1, .max_rows = 64 });
        come(&w, 0, 1, 0, SCHEDULE_NORMAL, 5, 1000);
        come(&w, 1, 1, 1, SCHEDULE_NORMAL, 5, 1000);
        step(&w);
        schedule_pause(&w.s, &w.items[0].r);
        step(&w);
        assert_int_equal(w.items[1].r.state, SCHEDULE_RUNNING); /* a paused one holds no slot */
        schedule_wake(&w.s, &w.items[0].r);
        assert_int_equal(w.items[0].r.state, SCHEDULE_WAITING);
        world_close(&w);
}

static void test_worst(void **state) {
        static struct world w;

        world_open(&w, &(struct schedule_config){ .max_running = 4, .max_rows = 64 });
        come(&w, 0, 1, 0, SCHEDULE_NORMAL, 1, 100);
        come(&w, 1, 1, 1, SCHEDULE_NORMAL, 50, 100);
        come(&w, 2, 2, 2, SCHEDULE_NORMAL, 20, 100);
        assert_null(schedule_worst(&w.s, NULL));
        step(&w);
        assert_ptr_equal(schedule_worst(&w.s, NULL), &w.items[1].r); /* user 1 has had 51, user 2 has had 20 */
        assert_ptr_equal(schedule_worst(&w.s, w.items[2].r.user), &w.items[2].r);
        world_close(&w);
}

/* --- rows --------------------------------------------------------------------------------------------------------- */

static void test_decoding_comes_first(void **state) {
        static struct world w;

        world_open(&w, &(struct schedule_config){ .max_running = 8, .max_rows = 16 });
        for (unsigned i = 0; i < 4; i++)
                come(&w, i, 1, i, SCHEDULE_NORMAL, 1, 1000);
        step(&w);
        come(&w, 4, 1, 4, SCHEDULE_NORMAL, 1000, 1000);
        for (unsigned i = 0; i < 20; i++) {
                assert_int_equal(step(&w), 16);
                assert_int_equal(w.items[4].r.rows, 12);
                for (unsigned k = 0; k < 4; k++)
                        assert_int_equal(w.items[k].r.rows, 1);
        }
        world_close(&w);
}

static void test_logits_limit(void **state) {
        static struct world w;

        world_open(&w, &(struct schedule_config){ .max_running = 8, .max_rows = 64 });
        w.limits.max_logits = 8;
        for (unsigned i = 0; i < 3; i++)
                come(&w, i, i, i, SCHEDULE_NORMAL, 1, 1000);
        come(&w, 3, 3, 3, SCHEDULE_NORMAL, 40, 1)->r.all_logits = true;
        step(&w);
        assert_int_equal(w.items[0].r.rows + w.items[1].r.rows + w.items[2].r.rows + w.items[3].r.rows, 8);
        for (unsigned i = 0; i < 12; i++)
                step(&w);
        assert_false(w.items[3].here);
        world_close(&w);
}

/* Where anything decodes, prompts take what the target leaves; else twice that; never less than some. */
static void test_target(void **state) {
        static struct world w;

        world_open(&w, &(struct schedule_config){ .max_running = 8, .max_rows = 512 });
        for (unsigned i = 1; i < 30; i++) /* 1000 us and 100 for a row */
                schedule_pace_learn(&w.pace, i * 5 % 64, 1000 + 100 * (i * 5 % 64));
        w.limits.target_us = 11000;
        come(&w, 0, 1, 0, SCHEDULE_NORMAL, 100000, 1);
        step(&w);
        assert_in_range(w.items[0].r.rows, 205, 215);
        come(&w, 1, 2, 1, SCHEDULE_NORMAL, 1, 100000);
        step(&w);
        step(&w);
        assert_int_equal(w.items[1].r.rows, 1);
        assert_in_range(w.items[0].r.rows, 95, 105);
        w.limits.target_us = 10;
        step(&w);
        assert_int_equal(w.items[0].r.rows, 16);
        world_close(&w);
}

/* A model so large that a step takes longer than the target whatever is in it: prompts get rows all the same. */
static void test_target_out_of_reach(void **state) {
        static struct world w;

        world_open(&w, &(struct schedule_config){ .max_running = 8, .max_rows = 512 });
        for (unsigned i = 1; i < 30; i++) /* 400 ms, and 0.65 for a row */
                schedule_pace_learn(&w.pace, i * 17 % 300, 400000 + 650 * (i * 17 % 300));
        w.limits.target_us = 100000;
        come(&w, 0, 1, 0, SCHEDULE_NORMAL, 100000, 1);
        step(&w);
        assert_int_equal(w.items[0].r.rows, 512);
        come(&w, 1, 2, 1, SCHEDULE_NORMAL, 1, 100000);
        step(&w);
        step(&w);
        assert_int_equal(w.items[1].r.rows, 1);
        assert_in_range(w.items[0].r.rows, 300, 315);
        world_close(&w);
}

/* While an interactive request reads its prompt, background decoding hardly lengthens the step; then it rides along. */
static void test_riders(void **state) {
        static struct world w;
        unsigned riding;

        world_open(&w, &(struct schedule_config){ .max_running = 32, .max_rows = 512 });
        for (unsigned i = 1; i < 30; i++)
                schedule_pace_learn(&w.pace, i * 5 % 64, 10 + 100 * (i * 5 % 64));
        for (unsigned i = 0; i < 20; i++)
                come(&w, i, 1, i, SCHEDULE_BACKGROUND, 1, 1000000);
        for (unsigned i = 0; i < 5; i++)
                step(&w);
        come(&w, 30, 2, 30, SCHEDULE_INTERACTIVE, 20, 1000);
        step(&w);
        riding = 0;
        for (unsigned i = 0; i < 20; i++)
                riding += w.items[i].r.rows;
        assert_int_equal(w.items[30].prompt, 0);
        assert_in_range(riding, 1, 6);
        assert_int_equal(step(&w), 21);
        world_close(&w);
}

static void test_pace(void **state) {
        struct schedule_pace p = { 0 };

        assert_int_equal(schedule_pace_rows(&p, 1000, 16, 512), 16);
        assert_true(schedule_pace_predict(&p, 10) == 0);
        for (unsigned i = 0; i < 20; i++)
                schedule_pace_learn(&p, 10, 1000); /* all alike: 100 a row is all there is to say */
        assert_in_range((uint32_t)schedule_pace_predict(&p, 20), 1900, 2100);
        for (unsigned i = 0; i < 50; i++)
                schedule_pace_learn(&p, 1 + i % 30, 5000 + 20.0 * (1 + i % 30));
        assert_in_range((uint32_t)schedule_pace_predict(&p, 100), 6500, 7500);
        assert_int_equal(schedule_pace_rows(&p, 1e9, 16, 512), 512);
        assert_int_equal(schedule_pace_rows(&p, 1, 16, 512), 16);
        assert_int_equal(schedule_pace_rows(&p, 1, 16, 8), 8);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_users_share_alike),       cmocka_unit_test(test_weights),
                cmocka_unit_test(test_bound),                   cmocka_unit_test(test_nobody_saves_up),
                cmocka_unit_test(test_newcomer_gets_a_slot),    cmocka_unit_test(test_higher_class_comes_first),
                cmocka_unit_test(test_lower_class_does_not_starve), cmocka_unit_test(test_running_limit),
                cmocka_unit_test(test_hold),                    cmocka_unit_test(test_pause),
                cmocka_unit_test(test_worst),                   cmocka_unit_test(test_decoding_comes_first),
                cmocka_unit_test(test_logits_limit),            cmocka_unit_test(test_target),
                cmocka_unit_test(test_target_out_of_reach),
                cmocka_unit_test(test_riders),                  cmocka_unit_test(test_pace),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
