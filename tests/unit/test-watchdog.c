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
        for (unsigned i = 0; i < 500 && atomic_load(&asked) == 0; i++)
                pause_ms(10);
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
        struct watchdog *w = NULL;

        assert_int_equal(watchdog_new(&w, &without, 300, bite), 0);
        for (int i = 0; i < 8; i++) { /* together longer than the timeout */
                watchdog_begin(w, 1000, 1);
                pause_ms(50);
                watchdog_end(w);
        }
        pause_ms(500); /* nothing is in progress */
        assert_int_equal(atomic_load(&bites), 0);
        watchdog_begin(w, 0, 1); /* nobody knows how long it takes */
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
        assert_true(atomic_load(&asked) > 0);
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

/* Nothing to do: health is asked now and then, and a call is watched as before. */
static void test_idle(void **state) {
        struct watchdog *w = NULL;
        int before;

        assert_int_equal(watchdog_new(&w, &backend, 200, bite), 0);
        pause_ms(2500);
        before = atomic_load(&asked);
        pause_ms(11000);
        assert_in_range(atomic_load(&asked) - before, 1, 2);
        before = atomic_load(&asked);
        for (unsigned i = 0; i < 10; i++) {
                watchdog_begin(w, 1000, 1);
                pause_ms(100);
                watchdog_end(w);
        }
        assert_true(atomic_load(&asked) - before >= 3); /* five, if the machine has time */
        assert_int_equal(atomic_load(&bites), 0);
        pause_ms(2500);
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
                cmocka_unit_test_setup(test_no_timeout, setup),
                cmocka_unit_test_setup(test_lost_device, setup),
                cmocka_unit_test_setup(test_idle, setup),
                cmocka_unit_test(test_none),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
