/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/macro.h"
#include "daemon/engine/kv.h"

#define TABLES 8u
#define PAGES 50u

static void test_reserve_and_take(void **state) {
        struct kv_table t = { 0 }, u = { 0 };
        struct kv_pool p;

        assert_int_equal(kv_pool_init(&p, 4, 32), 0);
        assert_int_equal(kv_pages_for(&p, 0), 0);
        assert_int_equal(kv_pages_for(&p, 32), 1);
        assert_int_equal(kv_pages_for(&p, 33), 2);
        assert_int_equal(kv_pages_for(&p, UINT64_MAX), UINT32_MAX);
        assert_int_equal(kv_table_reserve(&p, &t, 129), KV_E_TOO_BIG);
        assert_int_equal(kv_table_reserve(&p, &t, 65), 0);
        assert_int_equal(kv_table_reserve(&p, &u, 33), KV_E_FULL);
        assert_int_equal(kv_table_reserve(&p, &u, 32), 0);
        assert_int_equal(kv_table_extend(&p, &t, 1), 0);
        assert_int_equal(t.n, 1);
        assert_int_equal(kv_table_extend(&p, &t, 96), 0);
        assert_int_equal(t.n, 3);
        assert_int_equal(kv_table_extend(&p, &t, 10), 0); /* has it already */
        assert_true(kv_table_extend(&p, &t, 97) < 0);     /* more than was promised */
        assert_int_equal(p.n_used, 3);
        kv_table_release(&p, &t);
        assert_int_equal(p.n_used, 0);
        assert_int_equal(p.n_reserved, 1);
        kv_table_release(&p, &u);
        assert_int_equal(p.n_reserved, 0);
        assert_int_equal(kv_table_reserve(&p, &t, 128), 0);
        kv_table_release(&p, &t);
        kv_pool_deinit(&p);
}

/* No page is ever in two tables, and all come back. */
static void test_many(void **state) {
        struct kv_table t[TABLES] = { { 0 } };
        uint32_t x = 1, owner[PAGES];
        struct kv_pool p;

        assert_int_equal(kv_pool_init(&p, PAGES, 16), 0);
        for (unsigned round = 0; round < 5000; round++) {
                struct kv_table *one;
                uint32_t used = 0;

                x = x * 1664525u + 1013904223u;
                one = &t[(x >> 16) % TABLES];
                if ((x >> 24) % 4 == 0)
                        kv_table_release(&p, one);
                else if (one->n + one->reserved == 0)
                        (void)kv_table_reserve(&p, one, (x >> 8) % 300);
                else
                        assert_int_equal(kv_table_extend(&p, one, (uint64_t)(one->n + one->reserved) * 16 / (1 + x % 2)), 0);
                memset(owner, 0xff, sizeof(owner));
                for (unsigned i = 0; i < TABLES; i++)
                        for (uint32_t k = 0; k < t[i].n; k++) {
                                assert_true(t[i].pages[k] < PAGES);
                                assert_int_equal(owner[t[i].pages[k]], UINT32_MAX);
                                owner[t[i].pages[k]] = i;
                                used++;
                        }
                assert_int_equal(used, p.n_used);
                assert_true(p.n_used + p.n_reserved <= PAGES);
        }
        for (unsigned i = 0; i < TABLES; i++)
                kv_table_release(&p, &t[i]);
        assert_int_equal(p.n_used + p.n_reserved, 0);
        kv_pool_deinit(&p);
}

static void test_share(void **state) {
        struct kv_table t = { 0 }, u = { 0 };
        struct kv_pool p;

        assert_int_equal(kv_pool_init(&p, 6, 32), 0);
        assert_int_equal(kv_table_reserve(&p, &t, 96), 0);
        assert_int_equal(kv_table_extend(&p, &t, 96), 0);
        assert_true(kv_table_share(&p, &u, &t, 4) < 0);
        assert_int_equal(kv_table_share(&p, &u, &t, 2), 0);
        assert_int_equal(u.n, 2);
        assert_int_equal(p.n_used, 3);
        assert_true(kv_table_share(&p, &u, &t, 1) < 0); /* not empty */
        kv_table_release(&p, &t);
        assert_int_equal(p.n_used, 2);
        assert_int_equal(kv_table_reserve(&p, &u, 128), 0);
        assert_int_equal(kv_table_extend(&p, &u, 192), 0);
        for (uint32_t i = 0; i < u.n; i++)
                for (uint32_t k = 0; k < i; k++)
                        assert_int_not_equal(u.pages[i], u.pages[k]);
        kv_table_release(&p, &u);
        assert_int_equal(p.n_used, 0);
        kv_pool_deinit(&p);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_reserve_and_take),
                cmocka_unit_test(test_many),
                cmocka_unit_test(test_share),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
