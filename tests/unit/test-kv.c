/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/macro.h"
#include "daemon/engine/kv.h"

#define TABLES 8u
#define PAGES 50u
#define PAGE_TOKENS 16u

static void test_extend(void **state) {
        struct kv_table t = { 0 }, u = { 0 };
        struct kv_pool p;

        assert_int_equal(kv_pool_init(&p, 4, 32), 0);
        assert_int_equal(kv_pages_for(&p, 0), 0);
        assert_int_equal(kv_pages_for(&p, 32), 1);
        assert_int_equal(kv_pages_for(&p, 33), 2);
        assert_int_equal(kv_pages_for(&p, UINT64_MAX), UINT32_MAX);
        assert_int_equal(kv_table_extend(&p, &t, 129), KV_E_FULL);
        assert_int_equal(kv_table_extend(&p, &t, UINT64_MAX), KV_E_FULL);
        assert_int_equal(t.n, 0);
        assert_int_equal(kv_table_extend(&p, &t, 1), 0);
        assert_int_equal(t.n, 1);
        assert_int_equal(kv_table_extend(&p, &t, 96), 0);
        assert_int_equal(t.n, 3);
        assert_int_equal(kv_table_extend(&p, &t, 10), 0); /* has it already */
        assert_int_equal(t.n, 3);
        assert_int_equal(kv_pool_free(&p), 1);
        assert_int_equal(kv_table_extend(&p, &u, 33), KV_E_FULL);
        assert_int_equal(u.n, 0);
        assert_int_equal(kv_pool_free(&p), 1);
        assert_int_equal(kv_table_extend(&p, &u, 32), 0);
        assert_int_equal(kv_pool_free(&p), 0);
        kv_table_truncate(&p, &t, 5); /* has fewer */
        assert_int_equal(t.n, 3);
        kv_table_truncate(&p, &t, 1);
        assert_int_equal(t.n, 1);
        assert_int_equal(p.n_held, 2);
        assert_int_equal(kv_table_extend(&p, &u, 96), 0);
        kv_table_release(&p, &t);
        kv_table_release(&p, &u);
        kv_table_release(&p, &u); /* is empty */
        assert_int_equal(kv_pool_free(&p), 4);
        assert_int_equal(p.n_held, 0);
        kv_pool_deinit(&p);
}

static void test_empty_pool(void **state) {
        struct kv_table t = { 0 };
        struct kv_pool p;

        assert_int_equal(kv_pool_init(&p, 0, 1), 0);
        assert_int_equal(kv_table_extend(&p, &t, 0), 0);
        assert_int_equal(kv_table_extend(&p, &t, 1), KV_E_FULL);
        kv_table_release(&p, &t);
        kv_pool_deinit(&p);
}

static void test_share_and_own(void **state) {
        struct kv_table t = { 0 }, u = { 0 };
        uint32_t from = 7, page;
        struct kv_pool p;

        assert_int_equal(kv_pool_init(&p, 3, 32), 0);
        assert_int_equal(kv_table_extend(&p, &t, 64), 0);
        assert_int_equal(kv_table_share(&p, &u, t.pages[0]), 0);
        assert_int_equal(kv_table_share(&p, &u, t.pages[1]), 0);
        assert_int_equal(p.n_held, 2);
        assert_false(kv_table_owns(&p, &t, 1));
        assert_false(kv_table_owns(&p, &u, 1));

        page = t.pages[1];
        assert_int_equal(kv_table_own(&p, &u, 1, &from), 0);
        assert_int_equal(from, page);
        assert_int_not_equal(u.pages[1], page);
        assert_int_equal(u.pages[0], t.pages[0]);
        assert_true(kv_table_owns(&p, &u, 1));
        assert_true(kv_table_owns(&p, &t, 1)); /* nobody else has it any more */
        page = u.pages[1];
        assert_int_equal(kv_table_own(&p, &u, 1, &from), 0);
        assert_int_equal(from, UINT32_MAX);
        assert_int_equal(u.pages[1], page);

        from = 7;
        assert_int_equal(kv_table_own(&p, &u, 0, &from), KV_E_FULL);
        assert_int_equal(from, 7);
        assert_int_equal(u.pages[0], t.pages[0]);
        kv_table_release(&p, &t);
        assert_int_equal(p.n_held, 2);
        assert_true(kv_table_owns(&p, &u, 0));
        kv_table_release(&p, &u);
        assert_int_equal(kv_pool_free(&p), 3);
        kv_pool_deinit(&p);
}

static void test_replace(void **state) {
        struct kv_table t = { 0 }, u = { 0 };
        struct kv_pool p;

        assert_int_equal(kv_pool_init(&p, 3, 32), 0);
        assert_int_equal(kv_table_extend(&p, &t, 64), 0);
        assert_int_equal(kv_table_extend(&p, &u, 32), 0);
        kv_table_replace(&p, &u, 0, u.pages[0]); /* by itself */
        assert_int_equal(p.n_held, 3);
        kv_table_replace(&p, &u, 0, t.pages[0]);
        assert_int_equal(u.pages[0], t.pages[0]);
        assert_int_equal(u.n, 1);
        assert_int_equal(p.n_held, 2);
        assert_int_equal(kv_pool_free(&p), 1);
        kv_table_release(&p, &t);
        kv_table_release(&p, &u);
        assert_int_equal(kv_pool_free(&p), 3);
        kv_pool_deinit(&p);
}

struct seen {
        unsigned n_idle, n_busy;
        uint32_t page;
};

static void seen(void *userdata, uint32_t page, bool idle) {
        struct seen *s = userdata;

        s->n_idle += idle;
        s->n_busy += !idle;
        s->page = page;
}

/* A page of the cache outlives its tables, is never written to, and whoever watches learns when it is idle. */
static void test_cache(void **state) {
        struct kv_table t = { 0 };
        struct seen s = { 0 };
        struct kv_pool p;
        uint32_t page, from;

        assert_int_equal(kv_pool_init(&p, 3, 32), 0);
        p.watch = seen;
        p.watch_userdata = &s;
        assert_int_equal(kv_table_extend(&p, &t, 64), 0);
        page = t.pages[1];
        kv_cache_hold(&p, page);
        assert_false(kv_table_owns(&p, &t, 1));
        assert_int_equal(p.n_held, 2);
        assert_int_equal(p.n_cached, 0);
        assert_int_equal(s.n_idle + s.n_busy, 0);
        kv_table_release(&p, &t);
        assert_true(s.n_idle == 1 && s.n_busy == 0 && s.page == page); /* not a word of the other one */
        assert_true(p.n_held == 0 && p.n_cached == 1 && kv_pool_free(&p) == 2);

        assert_int_equal(kv_table_share(&p, &t, page), 0);
        assert_true(s.n_idle == 1 && s.n_busy == 1);
        assert_true(p.n_held == 1 && p.n_cached == 0 && kv_pool_free(&p) == 2);
        assert_int_equal(kv_table_own(&p, &t, 0, &from), 0);
        assert_int_equal(from, page);
        assert_true(s.n_idle == 2 && s.n_busy == 1);
        assert_true(p.n_held == 1 && p.n_cached == 1 && kv_pool_free(&p) == 1);
        kv_table_replace(&p, &t, 0, page);
        assert_true(s.n_idle == 2 && s.n_busy == 2);
        assert_true(p.n_held == 1 && p.n_cached == 0 && kv_pool_free(&p) == 2);

        kv_cache_hold(&p, page);
        kv_cache_drop(&p, page);
        assert_false(kv_table_owns(&p, &t, 0));
        kv_cache_drop(&p, page);
        assert_true(kv_table_owns(&p, &t, 0));
        assert_int_equal(p.n_held, 1);
        kv_cache_hold(&p, page);
        kv_table_release(&p, &t);
        assert_int_equal(p.n_cached, 1);
        kv_cache_drop(&p, page);
        assert_true(p.n_held == 0 && p.n_cached == 0 && kv_pool_free(&p) == 3);
        assert_true(s.n_idle == 3 && s.n_busy == 2);
        kv_pool_deinit(&p);
}

static void check_counts(const struct kv_pool *p, const struct kv_table *t, const uint32_t *cached) {
        uint32_t holders[PAGES] = { 0 }, n_held = 0, n_cached = 0;

        for (unsigned i = 0; i < TABLES; i++)
                for (uint32_t k = 0; k < t[i].n; k++) {
                        assert_true(t[i].pages[k] < PAGES);
                        holders[t[i].pages[k]]++;
                }
        for (uint32_t i = 0; i < PAGES; i++) {
                assert_int_equal(holders[i], p->tables[i]);
                assert_int_equal(cached[i], p->caches[i]);
                n_held += holders[i] > 0;
                n_cached += holders[i] == 0 && cached[i] > 0;
        }
        assert_int_equal(n_held, p->n_held);
        assert_int_equal(n_cached, p->n_cached);
        assert_int_equal(p->n_freed + PAGES - p->n_fresh, kv_pool_free(p));
        /* What is free is in the stack once, and has no holder. */
        for (uint32_t i = 0; i < p->n_freed; i++) {
                assert_int_equal(holders[p->freed[i]] + cached[p->freed[i]], 0);
                holders[p->freed[i]] = UINT32_MAX / 2;
        }
}

/* Whatever is done: every page is accounted for, and what one may write nobody else has. */
static void test_many(void **state) {
        uint32_t x = 1, cached[PAGES] = { 0 }, from;
        struct kv_table t[TABLES] = { { 0 } };
        struct kv_pool p;

        assert_int_equal(kv_pool_init(&p, PAGES, PAGE_TOKENS), 0);
        for (unsigned round = 0; round < 20000; round++) {
                struct kv_table *one, *other;
                uint32_t free_before = kv_pool_free(&p), n, i, page;
                int r;

                x = x * 1664525u + 1013904223u;
                one = &t[(x >> 16) % TABLES];
                other = &t[(x >> 19) % TABLES];
                n = one->n;
                i = n ? (x >> 8) % n : 0;
                page = (x >> 5) % PAGES;
                switch ((x >> 24) % 8) {
                case 0:
                        kv_table_release(&p, one);
                        break;
                case 1:
                        kv_table_truncate(&p, one, i);
                        break;
                case 2:
                        for (uint32_t k = 0; k < other->n && one->n < PAGES && one != other; k++)
                                assert_int_equal(kv_table_share(&p, one, other->pages[k]), 0);
                        break;
                case 3:
                        if (n == 0)
                                break;
                        r = kv_table_own(&p, one, i, &from);
                        assert_int_equal(r, free_before == 0 && !kv_table_owns(&p, one, i) ? KV_E_FULL : 0);
                        assert_true(r != 0 || (p.tables[one->pages[i]] == 1 && cached[one->pages[i]] == 0));
                        break;
                case 4:
                        if (n == 0)
                                break;
                        kv_cache_hold(&p, one->pages[i]);
                        cached[one->pages[i]]++;
                        break;
                case 5:
                        if (cached[page] == 0)
                                break;
                        kv_cache_drop(&p, page);
                        cached[page]--;
                        break;
                case 6:
                        if (n > 0 && (p.tables[page] || cached[page]))
                                kv_table_replace(&p, one, i, page);
                        break;
                default:
                        r = kv_table_extend(&p, one, (n + 1 + x % 9) * PAGE_TOKENS - x % PAGE_TOKENS);
                        assert_int_equal(r, 1 + x % 9 > free_before ? KV_E_FULL : 0);
                        assert_int_equal(one->n, r ? n : n + 1 + x % 9);
                        break;
                }
                check_counts(&p, t, cached);
        }
        for (unsigned i = 0; i < TABLES; i++)
                kv_table_release(&p, &t[i]);
        for (uint32_t i = 0; i < PAGES; i++)
                for (; cached[i] > 0; cached[i]--)
                        kv_cache_drop(&p, i);
        assert_int_equal(p.n_held + p.n_cached, 0);
        assert_int_equal(kv_pool_free(&p), PAGES);
        kv_pool_deinit(&p);
}

/* Left out of the counts, one after the other, tables tell how many pages they hold that no other one does. */
static void test_discount(void **state) {
        struct kv_pool p;
        struct kv_table a = { 0 }, b = { 0 };

        assert_int_equal(kv_pool_init(&p, 8, PAGE_TOKENS), 0);
        assert_int_equal(kv_table_extend(&p, &a, 3 * PAGE_TOKENS), 0);
        assert_int_equal(kv_table_share(&p, &b, a.pages[0]), 0);
        assert_int_equal(kv_table_extend(&p, &b, 2 * PAGE_TOKENS), 0);
        kv_cache_hold(&p, b.pages[1]); /* is no table */
        assert_int_equal(kv_table_discount(&p, &a), 2);
        assert_int_equal(kv_table_discount(&p, &b), 2);
        kv_table_count(&p, &a);
        assert_int_equal(kv_table_discount(&p, &a), 3);
        kv_table_count(&p, &a);
        kv_table_count(&p, &b);
        assert_int_equal(p.tables[a.pages[0]], 2);
        assert_int_equal(p.n_held, 4);
        kv_table_release(&p, &a);
        assert_int_equal(p.n_held, 2);
        kv_table_release(&p, &b);
        assert_int_equal(p.n_cached, 1);
        kv_pool_deinit(&p);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_extend),
                cmocka_unit_test(test_empty_pool),
                cmocka_unit_test(test_share_and_own),
                cmocka_unit_test(test_replace),
                cmocka_unit_test(test_cache),
                cmocka_unit_test(test_discount),
                cmocka_unit_test(test_many),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
