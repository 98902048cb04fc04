/* SPDX-License-Identifier: Apache-2.0 */

/* The watchdog bites what hangs and what is lost, and nothing else. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "daemon/engine/watchdog.h"

static atomic_int health, asked;
static atomic_int bites;
static const char *_Atomic bitten;

static atomic_bool stuck;

static void pause_ms(unsigned ms) {
        const struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L };

        (void)nanosleep(&ts, NULL);
}

static int fake_health(struct backend *be) {
        atomic_fetch_add(&asked, 1);
        while (atomic_load(&stuck))
                pause_ms(5);
        return atomic_load(&health);
}

static const struct backend_ops ops = { .name = "fake", .health = fake_health };
static const struct backend_ops ops_without = { .name = "fake" };
static struct backend backend = { &ops }, without = { &ops_without };

/* The real one ends the process; this one leaves the watchdog in its loop. */
static void bite(const char *why) {
        atomic_store(&bitten, why);
        atomic_fetch_add(&bites, 1);
}

static bool bites_within(unsigned ms) {
        for (unsigned i = 0; i < ms / 10 && atomic_load(&bites) == 0; i++)
                pause_ms(10);
        return atomic_load(&bites) > 0;
}

static bool asked_within(unsigned ms) {
        for (unsigned i = 0; i < ms / 10 && atomic_load(&asked) == 0; i++)
                pause_ms(10);
        return atomic_load(&asked) > 0;
}

static uint64_t now_ms(void) {
        struct timespec ts;

        (void)clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * 1000u + (uint64_t)ts.tv_nsec / 1000000u;
}

/* A call of so long. False where the machine, busy with others, made it longer than the watchdog bears: it may bite then. */
static bool call(struct watchdog *w, unsigned ms, unsigned patience_ms) {
        uint64_t began = now_ms();

        watchdog_begin(w, 1000, 1);
        pause_ms(ms);
        watchdog_end(w);
        return now_ms() - began < patience_ms;
}

static int setup(void **state) {
        atomic_store(&health, 0);
        atomic_store(&asked, 0);
        atomic_store(&stuck, false);
        atomic_store(&bites, 0);
        atomic_store(&bitten, "");
        return 0;
}

static void test_patience(void **state) {
        /* one decoded token: within two seconds, with the default timeout, where a step takes 50 ms */
        assert_true(watchdog_patience_us(50000, 1) == 200000);
        assert_true(watchdog_patience_us(0, 1) == 30000000);
        assert_true(watchdog_patience_us(1000, 512) == 4000 + 5120000);
        assert_true(watchdog_patience_us(1e300, 1) == 3600000000u);
}

static void test_hang(void **state) {
        struct watchdog *w = NULL;

        assert_int_equal(watchdog_new(&w, &backend, 200, bite), 0);
        watchdog_begin(w, 1000, 1);
        assert_true(bites_within(5000));
        assert_non_null(strstr(atomic_load(&bitten), "does not come to an end"));
        watchdog_end(w);
        w = watchdog_free(w);
        assert_null(w);
}

/* The driver does not even say how the device is. */
static void test_hang_with_health(void **state) {
        struct watchdog *w = NULL;

        atomic_store(&stuck, true);
        assert_int_equal(watchdog_new(&w, &backend, 200, bite), 0);
        assert_true(asked_within(5000));
        assert_int_equal(atomic_load(&asked), 1);
        watchdog_begin(w, 1000, 1);
        assert_true(bites_within(5000));
        assert_non_null(strstr(atomic_load(&bitten), "does not come to an end"));
        atomic_store(&stuck, false);
        atomic_store(&health, -5);
        pause_ms(500);
        assert_int_equal(atomic_load(&bites), 1); /* once is enough */
        (void)watchdog_free(w);
}

static void test_calls_that_end(void **state) {
        bool in_time = false;

        for (unsigned turn = 0; turn < 20 && !in_time; turn++) {
                struct watchdog *w = NULL;

                (void)setup(state);
                assert_int_equal(watchdog_new(&w, &without, 300, bite), 0);
                in_time = true;
                for (int i = 0; i < 8; i++) /* together longer than the timeout */
                        in_time = call(w, 50, 300) && in_time;
                pause_ms(500); /* nothing is in progress */
                assert_true(atomic_load(&bites) == 0 || !in_time);
                (void)watchdog_free(w);
        }
        assert_true(in_time);
}

/* Nobody knows how long it takes. */
static void test_first_call(void **state) {
        struct watchdog *w = NULL;

        assert_int_equal(watchdog_new(&w, &without, 300, bite), 0);
        watchdog_begin(w, 0, 1);
        pause_ms(600);
        assert_int_equal(atomic_load(&bites), 0);
        (void)watchdog_free(w);
}

static void test_no_timeout(void **state) {
        struct watchdog *w = NULL;

        assert_int_equal(watchdog_new(&w, &backend, 0, bite), 0);
        watchdog_begin(w, 1, 1);
        pause_ms(400);
        assert_int_equal(atomic_load(&bites), 0);
        assert_true(asked_within(5000));
        (void)watchdog_free(w);
}

static void test_lost_device(void **state) {
        struct watchdog *w = NULL;

        assert_int_equal(watchdog_new(&w, &backend, 0, bite), 0);
        pause_ms(300);
        assert_int_equal(atomic_load(&bites), 0);
        atomic_store(&health, -5);
        assert_true(bites_within(2000));
        assert_non_null(strstr(atomic_load(&bitten), "lost"));
        (void)watchdog_free(w);
}

/* Until nobody has asked for a second. */
static void wait_for_rest(void) {
        int before;

        for (unsigned i = 0; i < 20; i++) {
                before = atomic_load(&asked);
                pause_ms(1000);
                if (atomic_load(&asked) == before)
                        return;
        }
        fail_msg("health is asked all the time");
}

/* Nothing to do: health is asked now and then, and a call is watched as before. */
static void test_idle(void **state) {
        struct watchdog *w = NULL;
        bool in_time = true;
        uint64_t began;
        int before;

        assert_int_equal(watchdog_new(&w, &backend, 1000, bite), 0);
        pause_ms(1500);
        wait_for_rest();
        before = atomic_load(&asked);
        began = now_ms();
        pause_ms(11000);
        assert_in_range(atomic_load(&asked) - before, 1, (now_ms() - began) / 10000 + 1);
        before = atomic_load(&asked);
        for (unsigned i = 0; i < 10 || (i < 100 && atomic_load(&asked) - before < 3); i++)
                in_time = call(w, 100, 1000) && in_time;
        assert_true(atomic_load(&asked) - before >= 3); /* five in ten, if the machine has time */
        assert_true(atomic_load(&bites) == 0 || !in_time);
        wait_for_rest();
        (void)watchdog_free(w);
        assert_int_equal(watchdog_new(&w, &backend, 200, bite), 0);
        (void)setup(state);
        wait_for_rest();
        watchdog_begin(w, 1000, 1);
        assert_true(bites_within(5000));
        assert_non_null(strstr(atomic_load(&bitten), "does not come to an end"));
        (void)watchdog_free(w);
}

static void test_none(void **state) {
        watchdog_begin(NULL, 1, 1);
        watchdog_end(NULL);
        assert_null(watchdog_free(NULL));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_patience),
                cmocka_unit_test_setup(test_hang, setup),
                cmocka_unit_test_setup(test_hang_with_health, setup),
                cmocka_unit_test_setup(test_calls_that_end, setup),
                cmocka_unit_test_setup(test_first_call, setup),
                cmocka_unit_test_setup(test_no_timeout, setup),
                cmocka_unit_test_setup(test_lost_device, setup),
                cmocka_unit_test_setup(test_idle, setup),
                cmocka_unit_test(test_none),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
