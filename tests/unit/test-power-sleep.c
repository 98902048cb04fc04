/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Going to sleep and waking, with a clock of the test's own: what is done in which state, the limit that holds whatever hangs,
 * announcements that come twice, in the middle of each other, or not at all.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/macro.h"
#include "daemon/control/power/power-sleep.h"

#define SECOND 1000000ull

struct world {
        struct sleeper s;
        uint64_t now_us;
        bool parked, awake;
        bool held, in_time; /* the inhibitor */
        char log[64];       /* a letter for each operation */
};

static void note(struct world *w, char letter) {
        size_t n = strlen(w->log);

        assert_true(n + 1 < sizeof(w->log));
        w->log[n] = letter;
        w->log[n + 1] = 0;
}

static void on_park(void *userdata) {
        note(userdata, 'p');
}

static bool is_parked(void *userdata) {
        return ((struct world *)userdata)->parked;
}

static void on_release(void *userdata, bool in_time) {
        struct world *w = userdata;

        note(w, 'r');
        w->held = false;
        w->in_time = in_time;
}

static void on_wake(void *userdata) {
        struct world *w = userdata;

        note(w, 'w');
        w->held = true;
}

static bool is_awake(void *userdata) {
        return ((struct world *)userdata)->awake;
}

static void on_go_on(void *userdata) {
        note(userdata, 'g');
}

static void on_ask(void *userdata) {
        note(userdata, 'a');
}

static const struct sleep_ops ops = { on_park, is_parked, on_release, on_wake, is_awake, on_go_on, on_ask };

static struct world *begin(struct world *w) {
        *w = (struct world){ .now_us = 5 * SECOND, .held = true };
        sleeper_init(&w->s, &ops, w);
        return w;
}

/* Lets time pass in steps as the timer takes them. */
static void pass(struct world *w, uint64_t us) {
        for (uint64_t end = w->now_us + us; w->now_us < end;) {
                w->now_us += MIN(end - w->now_us, (uint64_t)10000);
                (void)sleeper_step(&w->s, w->now_us);
        }
}

static void test_cycle(void **state) {
        struct world w;

        begin(&w);
        assert_false(sleeper_step(&w.s, w.now_us)); /* nothing to do */
        sleeper_prepare(&w.s, w.now_us);
        assert_true(sleeper_step(&w.s, w.now_us));
        pass(&w, SECOND / 2);
        assert_true(w.held);
        w.parked = true;
        pass(&w, SECOND / 100);
        assert_false(w.held);
        assert_true(w.in_time);
        assert_int_equal(w.s.state, SLEEP_ASLEEP);
        assert_in_range(w.s.sleep_ms, 500, 520);
        pass(&w, 10 * SECOND); /* a long way to sleep */
        assert_string_equal(w.log, "pr");
        sleeper_wake(&w.s, w.now_us);
        assert_true(w.held);
        pass(&w, SECOND);
        assert_int_equal(w.s.state, SLEEP_RESUMING);
        w.awake = true;
        pass(&w, SECOND / 100);
        assert_int_equal(w.s.state, SLEEP_AWAKE);
        assert_in_range(w.s.resume_ms, 1000, 1020);
        assert_int_equal(w.s.sleeps, 1);
        assert_string_equal(w.log, "prwg");
}

static void test_limit(void **state) {
        struct world w;

        begin(&w);
        sleeper_prepare(&w.s, w.now_us);
        pass(&w, SLEEP_LIMIT_US - 10000);
        assert_true(w.held);
        pass(&w, 20000);
        assert_false(w.held);
        assert_false(w.in_time);
        assert_true(w.s.late);
        assert_true(w.s.sleep_ms < 3000);
        w.parked = w.awake = true; /* the next time it is in order */
        sleeper_wake(&w.s, w.now_us);
        pass(&w, 20000);
        sleeper_prepare(&w.s, w.now_us);
        pass(&w, 20000);
        assert_false(w.s.late);
        assert_string_equal(w.log, "prwgpr");
}

/* Where the machine waits for less time, it is given back before that; for more, all the same. */
static void test_hurry(void **state) {
        struct world w;

        begin(&w);
        sleeper_hurry(&w.s, SECOND);
        sleeper_prepare(&w.s, w.now_us);
        pass(&w, SECOND - 10000);
        assert_false(w.held);
        assert_true(w.s.late);
        sleeper_hurry(&w.s, 30 * SECOND);
        assert_int_equal(w.s.limit_us, SLEEP_LIMIT_US);
        sleeper_hurry(&w.s, 5 * SECOND);
        assert_int_equal(w.s.limit_us, SLEEP_LIMIT_US);
        sleeper_hurry(&w.s, 0);
        assert_int_equal(w.s.limit_us, SLEEP_LIMIT_MIN_US);
        sleeper_hurry(&w.s, UINT64_MAX);
        assert_int_equal(w.s.limit_us, SLEEP_LIMIT_US);
}

static void test_said_twice(void **state) {
        struct world w;

        begin(&w);
        sleeper_wake(&w.s, w.now_us); /* it was never asleep */
        assert_string_equal(w.log, "");
        sleeper_prepare(&w.s, w.now_us);
        pass(&w, SECOND);
        sleeper_prepare(&w.s, w.now_us); /* does not give it more time */
        pass(&w, SLEEP_LIMIT_US - SECOND + 10000);
        assert_int_equal(w.s.state, SLEEP_ASLEEP);
        sleeper_prepare(&w.s, w.now_us);
        sleeper_wake(&w.s, w.now_us);
        sleeper_wake(&w.s, w.now_us);
        w.awake = true;
        pass(&w, 20000);
        assert_string_equal(w.log, "prwg");
}

/* Somebody changes their mind. */
static void test_given_up(void **state) {
        struct world w;

        begin(&w);
        sleeper_prepare(&w.s, w.now_us);
        pass(&w, SECOND);
        sleeper_wake(&w.s, w.now_us); /* before we were ready */
        assert_int_equal(w.s.state, SLEEP_RESUMING);
        pass(&w, SECOND);
        sleeper_prepare(&w.s, w.now_us); /* while engines are tested */
        assert_int_equal(w.s.state, SLEEP_PREPARING);
        w.parked = w.awake = true;
        pass(&w, 10000);
        sleeper_wake(&w.s, w.now_us);
        pass(&w, 10000);
        assert_int_equal(w.s.state, SLEEP_AWAKE);
        assert_string_equal(w.log, "pwprwg");
        assert_int_equal(w.s.sleeps, 1); /* the first was none */
}

/* Whoever announced it is gone: we find out instead of sleeping for ever. */
static void test_doubt(void **state) {
        struct world w;

        begin(&w);
        w.parked = true;
        sleeper_prepare(&w.s, w.now_us);
        pass(&w, 10000);
        pass(&w, SLEEP_DOUBT_US - 20000);
        assert_string_equal(w.log, "pr");
        pass(&w, 30000);
        assert_string_equal(w.log, "pra");
        pass(&w, SLEEP_DOUBT_US + 20000);
        assert_string_equal(w.log, "praa");
        assert_string_equal(sleep_state_name(w.s.state), "asleep");
}

/* What ended in its sleep may be noticed only when everybody is awake again; what ends later is another matter. */
static void test_explains_loss(void **state) {
        struct world w;

        (void)begin(&w);
        w.now_us = SECOND / 2;
        assert_false(sleeper_explains_loss(&w.s, w.now_us)); /* it has never slept */
        sleeper_prepare(&w.s, w.now_us);
        assert_true(sleeper_explains_loss(&w.s, w.now_us));
        w.parked = true;
        (void)sleeper_step(&w.s, w.now_us);
        w.now_us += 100 * SECOND;
        assert_true(sleeper_explains_loss(&w.s, w.now_us));
        sleeper_wake(&w.s, w.now_us);
        assert_true(sleeper_explains_loss(&w.s, w.now_us));
        w.awake = true;
        w.now_us += 5 * SECOND;
        (void)sleeper_step(&w.s, w.now_us);
        assert_int_equal(w.s.state, SLEEP_AWAKE);
        assert_true(sleeper_explains_loss(&w.s, w.now_us + SECOND / 2));
        assert_false(sleeper_explains_loss(&w.s, w.now_us + SECOND));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_cycle),      cmocka_unit_test(test_limit),    cmocka_unit_test(test_hurry),
                cmocka_unit_test(test_said_twice), cmocka_unit_test(test_given_up), cmocka_unit_test(test_doubt),
                cmocka_unit_test(test_explains_loss),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
