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

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_parked_requests_go_on_first),
                cmocka_unit_test(test_long_requests_take_turns),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
