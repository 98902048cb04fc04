/* SPDX-License-Identifier: Apache-2.0 */

/* The CPU backend's workers: each item once, awake and asleep; fewer of them, and more again; what all of them are to do. */

#include "kernels-fixture.h"

#include <stdatomic.h>
#include <unistd.h>

#include "kernels/cpu/pool.h"

struct count {
        unsigned char done[1000];
        atomic_uint inside[4];
        atomic_uint clashes;
};

static void count_item(void *context, uint32_t item, unsigned worker) {
        struct count *c = context;

        if (atomic_fetch_add(&c->inside[worker], 1) != 0)
                atomic_fetch_add(&c->clashes, 1);
        c->done[item]++;
        atomic_fetch_sub(&c->inside[worker], 1);
}

/* Many jobs, awake and asleep: each item once, no two at a time with the same worker number. */
static void test_pool(void **unused) {
        static struct count c;
        struct pool *pool = NULL;

        assert_int_equal(pool_new(4, &pool), 0);
        assert_int_equal(pool_threads(pool), 4);
        for (unsigned round = 0; round < 300; round++) {
                uint32_t n = round * 37 % 1000;

                memset(c.done, 0, sizeof(c.done));
                if (round % 10 == 0)
                        pool_busy(pool);
                pool_run(pool, n, count_item, &c);
                for (uint32_t i = 0; i < 1000; i++)
                        assert_int_equal(c.done[i], i < n);
                if (round % 10 == 5) {
                        pool_idle(pool);
                        usleep(500);
                }
        }
        assert_int_equal(c.clashes, 0);
        assert_null(pool_free(pool));
        assert_null(pool_free(NULL));
}

struct census {
        atomic_uint jobs[4]; /* by worker */
};

static atomic_uint notices;

static void census_item(void *context, uint32_t item, unsigned worker) {
        struct census *c = context;

        atomic_fetch_add(&c->jobs[worker], 1);
        usleep(50); /* long enough for others to come */
}

static int notice(unsigned value) {
        atomic_fetch_add(&notices, value);
        return -(int)value;
}

/* So many take part, more and fewer of them again and again; every item is done all the same. */
static void test_pool_limit(void **unused) {
        struct pool *pool = NULL;

        assert_int_equal(pool_new(4, &pool), 0);
        assert_int_equal(pool_limit(pool, 99), 4);
        for (unsigned round = 0; round < 40; round++) {
                unsigned most = round % 5, n = pool_limit(pool, most), sum = 0;

                assert_int_equal(n, most < 1 ? 1 : most);
                /* who was about to take an item when the number changed, and was put aside for others, may take some yet */
                for (unsigned others = 0, tries = 0; tries == 0 || others > 0; tries++) {
                        struct census c = { 0 };

                        assert_true(tries < 20);
                        if (round % 3 == 0)
                                pool_busy(pool);
                        pool_run(pool, 100, census_item, &c);
                        pool_idle(pool);
                        sum = others = 0;
                        for (unsigned i = 0; i < 4; i++) {
                                others += i >= n ? c.jobs[i] : 0;
                                sum += c.jobs[i];
                        }
                        assert_int_equal(sum, 100);
                        usleep(2000);
                }
                assert_int_equal(pool_threads(pool), 4);
        }
        (void)pool_limit(pool, 2);
        pool_free(pool); /* while some sit out */
}

/* Each thread once, whenever it computes again. */
static void test_pool_each(void **unused) {
        struct pool *pool = NULL;

        assert_int_equal(pool_new(3, &pool), 0);
        assert_int_equal(pool_each_thread(pool, notice, 1), -1);
        assert_int_equal(pool_each_thread(pool, notice, 10), -10);
        for (unsigned i = 0; i < 200 && atomic_load(&notices) < 31; i++) {
                struct census c = { 0 };

                pool_run(pool, 30, census_item, &c);
        }
        assert_in_range(atomic_load(&notices), 31, 33); /* a worker may have heard of the first one, too */
        pool_free(pool);
}

/* An idle pool uses no CPU, and neither does one whose caller thinks for long in the middle of a step. */
static void test_pool_sleeps(void **unused) {
        static struct count c;
        struct pool *pool = NULL;
        double before;

        assert_int_equal(pool_new(4, &pool), 0);
        for (unsigned busy = 0; busy < 2; busy++) {
                if (busy)
                        pool_busy(pool);
                pool_run(pool, 1000, count_item, &c);
                before = cpu_seconds();
                usleep(200000);
                assert_true(cpu_seconds() - before < 0.05);
        }
        pool_free(pool);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_pool),
                cmocka_unit_test(test_pool_limit),
                cmocka_unit_test(test_pool_each),
                cmocka_unit_test(test_pool_sleeps),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
