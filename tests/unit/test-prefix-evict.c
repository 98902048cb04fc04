/* SPDX-License-Identifier: Apache-2.0 */

/* What the prefix cache gives up when pages are wanted, and whose. */

#include "prefix-fixture.h"

enum { ALICE = 1000, BOB, CAROL };

/* A prompt of n pages that nobody asked before. */
static void new_prompt(char *text, unsigned n) {
        static unsigned counter;
        unsigned x = ++counter;

        for (unsigned i = 0; i < n; i++, x /= 60)
                text[i] = (char)(1 + (i < 4 ? x % 60 : 7));
        text[n] = 0;
}

static void flood(struct fixture *f, uint32_t uid, unsigned requests, unsigned n, bool share) {
        char text[MAX_PAGES];

        for (unsigned i = 0; i < requests; i++) {
                new_prompt(text, n);
                (void)request(f, uid, text, share);
        }
}

static void test_leaves_first(void **state) {
        struct fixture f;

        fixture_init(&f, 8);
        assert_true(prefix_evict(f.cache, 8));
        (void)request(&f, ALICE, "ABCD", false);
        assert_true(prefix_evict(f.cache, 4));
        assert_int_equal(peek(&f, ALICE, "ABCD"), 4);
        for (uint32_t left = 3; left < 4; left--) {
                assert_true(prefix_evict(f.cache, 8 - left));
                assert_int_equal(kv_pool_free(&f.pool), 8 - left);
                assert_int_equal(peek(&f, ALICE, "ABCD"), left);
                assert_true(prefix_check(f.cache));
        }
        assert_false(prefix_evict(f.cache, 9));
        fixture_deinit(&f);
}

/* Not what a table holds, nor what lies before it; what hangs on that is free to go. */
static void test_in_use_stays(void **state) {
        struct sequence s, t;
        struct fixture f;

        fixture_init(&f, 8);
        (void)request(&f, ALICE, "ABCD", false);
        sequence_find(&f, &s, ALICE, "AB", 0);
        sequence_find(&f, &t, ALICE, "ABC", 0);
        assert_false(prefix_evict(f.cache, 6));
        assert_int_equal(kv_pool_free(&f.pool), 5);
        assert_int_equal(peek(&f, ALICE, "ABCD"), 3);
        sequence_end(&f, &t);
        assert_false(prefix_evict(f.cache, 7));
        assert_int_equal(peek(&f, ALICE, "ABCD"), 2);
        /* It goes on behind what was evicted. */
        s.n = text_tokens("ABX", s.tokens);
        sequence_compute(&f, &s, false);
        assert_false(prefix_evict(f.cache, 6));
        assert_int_equal(peek(&f, ALICE, "ABX"), 3);
        sequence_end(&f, &s);
        assert_true(prefix_evict(f.cache, 8));
        fixture_deinit(&f);
}

static void test_order(void **state) {
        struct fixture f;

        fixture_init(&f, 8);
        /* Of equals, the older. */
        for (const char *c = "VWXY"; *c; c++)
                (void)request(&f, ALICE, (char[]){ *c, 0 }, false);
        for (const char *c = "VWX"; *c; c++) {
                (void)prefix_evict(f.cache, kv_pool_free(&f.pool) + 1);
                assert_int_equal(peek(&f, ALICE, (char[]){ *c, 0 }), 0);
                assert_int_equal(peek(&f, ALICE, (char[]){ (char)(*c + 1), 0 }), 1);
        }
        /* What was used again stays before what was used once. */
        (void)request(&f, ALICE, "Y", false);
        (void)request(&f, ALICE, "Z", false);
        (void)prefix_evict(f.cache, 7);
        assert_int_equal(peek(&f, ALICE, "Z"), 0);
        assert_int_equal(peek(&f, ALICE, "Y"), 1);
        (void)prefix_evict(f.cache, 8);
        /* What lies deeper costs more. */
        (void)request(&f, ALICE, "ABC", false);
        (void)request(&f, ALICE, "Z", false);
        (void)prefix_evict(f.cache, 5);
        assert_int_equal(peek(&f, ALICE, "Z"), 0);
        assert_int_equal(peek(&f, ALICE, "ABC"), 3);
        fixture_deinit(&f);
}

/* What was loved for long outlives a scan, but not for ever. */
static void test_aging(void **state) {
        struct fixture f;

        fixture_init(&f, 8);
        for (unsigned i = 0; i < 1000; i++)
                (void)request(&f, ALICE, "P", false);
        flood(&f, ALICE, 40, 1, false);
        assert_int_equal(peek(&f, ALICE, "P"), 1);
        flood(&f, ALICE, 1000, 1, false);
        assert_int_equal(peek(&f, ALICE, "P"), 0);
        fixture_deinit(&f);
}

/* A sequence that ran for long begins to age when it ends. */
static void test_ages_from_the_end(void **state) {
        struct sequence s;
        struct fixture f;

        fixture_init(&f, 8);
        sequence_begin(&f, &s, ALICE, "AB", false);
        flood(&f, ALICE, 100, 1, false);
        sequence_end(&f, &s);
        flood(&f, ALICE, 5, 1, false);
        assert_int_equal(peek(&f, ALICE, "AB"), 2);
        flood(&f, ALICE, 20, 1, false);
        assert_int_equal(peek(&f, ALICE, "AB"), 0);
        fixture_deinit(&f);
}

#define TWENTY "abcdefghijklmnopqrst"

/* Whoever floods evicts what is the flood's own, as long as that is more than another one has. */
static void test_flood(void **state) {
        struct fixture f;

        fixture_init(&f, 128);
        (void)request(&f, BOB, TWENTY, false);
        flood(&f, ALICE, 3000, 3, false);
        assert_int_equal(peek(&f, BOB, TWENTY), 20);
        assert_true(f.pool.n_cached > 128 - 4);
        assert_true(prefix_check(f.cache));
        /* Four flood, and five times twenty is less than there is. */
        for (unsigned i = 0; i < 1000; i++)
                flood(&f, CAROL + i % 4, 1, 1 + i % 5, i % 2);
        assert_int_equal(peek(&f, BOB, TWENTY), 20);
        fixture_deinit(&f);
}

/* What its sequences have in use counts as well. */
static void test_flood_in_use(void **state) {
        struct sequence s;
        struct fixture f;

        fixture_init(&f, 60);
        (void)request(&f, BOB, TWENTY, false);
        sequence_begin(&f, &s, ALICE, "ABCDEFGHIJKLMNOPQRSTUVWXY", false);
        flood(&f, ALICE, 500, 2, false);
        assert_int_equal(peek(&f, BOB, TWENTY), 20);
        sequence_end(&f, &s);
        fixture_deinit(&f);
}

/* And what they have not stored, if it is told. */
static void test_flood_not_stored(void **state) {
        struct kv_table t = { 0 };
        struct fixture f;

        for (unsigned told = 0; told < 2; told++) {
                fixture_init(&f, 60);
                (void)request(&f, BOB, TWENTY, false);
                assert_int_equal(kv_table_extend(&f.pool, &t, 30 * PT), 0);
                prefix_charge(f.cache, ALICE, told ? 30 : 0);
                flood(&f, ALICE, 500, 2, false);
                assert_true(told ? peek(&f, BOB, TWENTY) == 20 : peek(&f, BOB, TWENTY) < 20);
                assert_true(prefix_check(f.cache));
                /* The charge stays, whatever is forgotten. */
                prefix_forget(f.cache, ALICE);
                prefix_forget_all(f.cache);
                (void)request(&f, BOB, TWENTY, false);
                flood(&f, ALICE, 500, 2, false);
                assert_true(told ? peek(&f, BOB, TWENTY) == 20 : peek(&f, BOB, TWENTY) < 20);
                prefix_charge(f.cache, ALICE, -30);
                prefix_charge(f.cache, ALICE, -1); /* was never more */
                flood(&f, ALICE, 500, 2, false);
                assert_true(peek(&f, BOB, TWENTY) < 20);
                kv_table_release(&f.pool, &t);
                fixture_deinit(&f);
        }
}

/* Who has more than an equal share loses the rest of it to others, and no more. */
static void test_equal_shares(void **state) {
        struct fixture f;

        fixture_init(&f, 120);
        for (unsigned i = 0; i < 6; i++)
                flood(&f, BOB, 1, 20, false);
        assert_int_equal(prefix_cached_pages(f.cache, BOB), 120);
        flood(&f, ALICE, 1000, 1, false);
        assert_true(prefix_cached_pages(f.cache, BOB) >= 59 && prefix_cached_pages(f.cache, BOB) <= 61);
        flood(&f, CAROL, 1000, 2, false);
        assert_true(prefix_cached_pages(f.cache, ALICE) >= 39 && prefix_cached_pages(f.cache, ALICE) <= 41);
        assert_true(prefix_cached_pages(f.cache, BOB) >= 39 && prefix_cached_pages(f.cache, BOB) <= 41);
        fixture_deinit(&f);
}

/* To make public is no way round it: it is charged to who did. */
static void test_public_flood(void **state) {
        struct fixture f;

        fixture_init(&f, 128);
        (void)request(&f, BOB, TWENTY, true);
        (void)request(&f, CAROL, TWENTY "XYZ", false);
        flood(&f, ALICE, 3000, 3, true);
        assert_int_equal(peek(&f, ALICE, TWENTY), 20);
        assert_int_equal(peek(&f, CAROL, TWENTY "XYZ"), 23);
        assert_int_equal(prefix_cached_pages(f.cache, BOB), 20);
        assert_true(prefix_check(f.cache));
        fixture_deinit(&f);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_leaves_first),
                cmocka_unit_test(test_in_use_stays),
                cmocka_unit_test(test_order),
                cmocka_unit_test(test_aging),
                cmocka_unit_test(test_ages_from_the_end),
                cmocka_unit_test(test_flood),
                cmocka_unit_test(test_flood_in_use),
                cmocka_unit_test(test_flood_not_stored),
                cmocka_unit_test(test_equal_shares),
                cmocka_unit_test(test_public_flood),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
