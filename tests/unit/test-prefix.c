/* SPDX-License-Identifier: Apache-2.0 */

/* The prefix cache: finding, storing, forks. Users, eviction and random mixtures have files of their own. */

#include <errno.h>

#include "prefix-fixture.h"

#include "daemon/engine/prefix-private.h"

enum { ALICE = 1000, BOB, CAROL };

static void test_match_and_store(void **state) {
        uint32_t pages[3];
        struct sequence s;
        struct fixture f;

        fixture_init(&f, 16);
        sequence_find(&f, &s, ALICE, "ABC", 0);
        assert_true(s.path.n == 0 && s.match.n_tokens == 0 && s.match.n_partial == 0);
        sequence_compute(&f, &s, false);
        memcpy(pages, s.t.pages, sizeof(pages));
        assert_int_equal(s.path.n, 3);
        assert_int_equal(peek(&f, ALICE, "ABC"), 3); /* while it runs, too */
        sequence_end(&f, &s);
        assert_true(f.pool.n_held == 0 && f.pool.n_cached == 3);
        assert_int_equal(prefix_cached_pages(f.cache, ALICE), 3);

        sequence_find(&f, &s, ALICE, "ABCD", 0);
        assert_int_equal(s.path.n, 3);
        assert_memory_equal(s.t.pages, pages, sizeof(pages));
        assert_true(f.pool.n_held == 3 && f.pool.n_cached == 0);
        assert_int_equal(prefix_cached_pages(f.cache, ALICE), 0);
        assert_true(prefix_check(f.cache));
        sequence_compute(&f, &s, false);
        sequence_end(&f, &s);
        assert_int_equal(f.pool.n_cached, 4);

        /* Another way from the second page on; the same pages in another order are something else. */
        assert_int_equal(request(&f, ALICE, "AXC", false), 1);
        assert_int_equal(request(&f, ALICE, "AXC", false), 3);
        assert_int_equal(peek(&f, ALICE, "C"), 0);
        assert_int_equal(peek(&f, ALICE, "BAC"), 0);
        assert_int_equal(peek(&f, ALICE, ""), 0);
        assert_int_equal(f.pool.n_cached, 6);
        fixture_deinit(&f);
}

static void test_most(void **state) {
        static const struct {
                size_t most;
                uint32_t pages, partial;
        } cases[] = { { 12, 3, 0 }, { 11, 2, 3 }, { 9, 2, 1 }, { 8, 2, 0 }, { 7, 1, 3 }, { 1, 0, 1 }, { 99, 3, 0 } };
        struct sequence s;
        struct fixture f;

        fixture_init(&f, 16);
        sequence_begin(&f, &s, ALICE, "abc", false);
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct sequence other;

                sequence_find(&f, &other, ALICE, "abc", cases[i].most);
                assert_int_equal(other.path.n, cases[i].pages);
                assert_int_equal(other.match.n_partial, cases[i].partial);
                if (cases[i].partial)
                        assert_int_equal(other.match.partial_page, s.t.pages[cases[i].pages]);
                sequence_end(&f, &other);
        }
        sequence_end(&f, &s);
        /* Nothing at all may be taken. */
        assert_int_equal(prefix_match(f.cache, ALICE, s.tokens, s.n, 0, &s.t, &s.path, &s.match), 0);
        assert_true(s.t.n == 0 && s.path.n == 0 && s.match.n_partial == 0);
        sequence_end(&f, &s);
        fixture_deinit(&f);
}

/* What begins like a page that is there can be copied from it, and goes on by itself. */
static void test_partial(void **state) {
        struct sequence s;
        struct fixture f;
        uint32_t from;

        fixture_init(&f, 4);
        assert_int_equal(request(&f, ALICE, "Aa", false), 0);
        sequence_find(&f, &s, ALICE, "Ab", 0);
        assert_int_equal(s.path.n, 1);
        assert_int_equal(s.match.n_partial, 3);
        assert_int_equal(kv_table_share(&f.pool, &s.t, s.match.partial_page), 0);
        assert_int_equal(kv_pool_free(&f.pool), 2);
        assert_int_equal(kv_table_own(&f.pool, &s.t, 1, &from), 0);
        assert_int_equal(from, s.match.partial_page);
        assert_true(prefix_check(f.cache));
        sequence_compute(&f, &s, false);
        assert_int_not_equal(s.t.pages[1], from);
        sequence_end(&f, &s);
        assert_int_equal(peek(&f, ALICE, "Aa"), 2);
        assert_int_equal(peek(&f, ALICE, "Ab"), 2);

        /* Fewer tokens than a page are enough to ask with, and one in common is enough to find. */
        sequence_find(&f, &s, ALICE, "A", 0);
        s.tokens[PT] = 1000;
        s.tokens[PT + 1] = 7;
        sequence_end(&f, &s);
        assert_int_equal(prefix_match(f.cache, ALICE, s.tokens, PT + 2, PT + 2, &s.t, &s.path, &s.match), 0);
        assert_int_equal(s.match.n_partial, 1);
        sequence_end(&f, &s);
        s.tokens[PT] = 999;
        assert_int_equal(prefix_match(f.cache, ALICE, s.tokens, PT + 2, PT + 2, &s.t, &s.path, &s.match), 0);
        assert_int_equal(s.match.n_partial, 0);
        sequence_end(&f, &s);

        /* Kept until it is copied, even where there is no room for the copy. */
        sequence_find(&f, &s, ALICE, "Ac", 0);
        assert_int_equal(kv_table_share(&f.pool, &s.t, s.match.partial_page), 0);
        assert_true(prefix_evict(f.cache, 2));
        assert_false(prefix_evict(f.cache, 3));
        assert_true(f.pool.n_held == 2 && f.pool.n_cached == 0);
        assert_true(prefix_check(f.cache));
        sequence_end(&f, &s);
        fixture_deinit(&f);
}

/* Thousands below one parent: not all are looked at, and the youngest are. */
static void test_many_siblings(void **state) {
        struct sequence s = { .uid = ALICE };
        struct fixture f;

        fixture_init(&f, 2000);
        for (int32_t i = 0; i < 1000; i++) {
                int32_t tokens[PT] = { 1, 2, i, 3 };

                assert_int_equal(prefix_match(f.cache, ALICE, tokens, PT, PT, &s.t, &s.path, &s.match), 0);
                assert_int_equal(s.match.n_partial, i ? 2 : 0);
                assert_int_equal(kv_table_extend(&f.pool, &s.t, PT), 0);
                assert_int_equal(prefix_store(f.cache, ALICE, &s.path, tokens, &s.t, false), 0);
                sequence_end(&f, &s);
        }
        for (int32_t i = 0; i < 1000; i++) {
                const int32_t tokens[PT] = { 1, 2, i, 4 };

                assert_int_equal(prefix_match(f.cache, ALICE, tokens, PT, PT, &s.t, &s.path, &s.match), 0);
                assert_true(s.match.n_partial == 2 || s.match.n_partial == 3);
                assert_true(s.match.n_partial == 3 || i < 1000 - (int32_t)PREFIX_SIBLINGS_MAX);
                sequence_end(&f, &s);
        }
        fixture_deinit(&f);
}

/* Two compute the same at once: the second one's pages are given up for the first one's. */
static void test_computed_twice(void **state) {
        struct sequence s, t;
        struct fixture f;

        fixture_init(&f, 8);
        sequence_find(&f, &s, ALICE, "ABC", 0);
        sequence_find(&f, &t, ALICE, "ABD", 0);
        sequence_compute(&f, &s, false);
        assert_int_equal(kv_pool_free(&f.pool), 5);
        assert_int_equal(kv_table_extend(&f.pool, &t.t, t.n), 0);
        assert_int_equal(kv_pool_free(&f.pool), 2);
        sequence_compute(&f, &t, false);
        assert_int_equal(kv_pool_free(&f.pool), 4);
        assert_memory_equal(s.t.pages, t.t.pages, 2 * sizeof(uint32_t));
        assert_int_not_equal(s.t.pages[2], t.t.pages[2]);
        assert_true(prefix_check(f.cache));
        sequence_end(&f, &s);
        assert_int_equal(f.pool.n_cached, 1);
        sequence_end(&f, &t);
        assert_int_equal(f.pool.n_cached, 4);
        fixture_deinit(&f);
}

static void test_wrong_page(void **state) {
        struct sequence s, t = { .uid = ALICE };
        struct fixture f;

        fixture_init(&f, 8);
        sequence_begin(&f, &s, ALICE, "AB", false);
        assert_int_equal(prefix_store(f.cache, ALICE, &s.path, s.tokens, &s.t, false), -EINVAL); /* has no third page */
        assert_int_equal(s.path.n, 2);
        /* A page can't hold two different things. */
        assert_int_equal(kv_table_share(&f.pool, &t.t, s.t.pages[0]), 0);
        assert_int_equal(prefix_store(f.cache, ALICE, &t.path, s.tokens + PT, &t.t, false), -EINVAL);
        assert_int_equal(t.path.n, 0);
        assert_true(prefix_check(f.cache));
        sequence_end(&f, &s);
        sequence_end(&f, &t);
        fixture_deinit(&f);
}

/* A path can be copied with its table, and can go back. */
static void test_fork_and_rewind(void **state) {
        struct sequence s, t;
        struct fixture f;
        uint32_t from;

        fixture_init(&f, 16);
        sequence_begin(&f, &s, ALICE, "ABC", false);
        t = s;
        t.t = (struct kv_table){ 0 };
        for (unsigned i = 0; i < 3; i++)
                assert_int_equal(kv_table_share(&f.pool, &t.t, s.t.pages[i]), 0);
        t.n = text_tokens("ABCDE", t.tokens);
        sequence_compute(&f, &t, false);
        sequence_end(&f, &s);
        assert_int_equal(f.pool.n_held, 5);
        assert_int_equal(peek(&f, ALICE, "ABCDE"), 5);

        /* Back into the middle of the second page. */
        prefix_rewind(f.cache, ALICE, &t.path, 9); /* is not as long */
        assert_int_equal(t.path.n, 5);
        prefix_rewind(f.cache, ALICE, &t.path, 1);
        kv_table_truncate(&f.pool, &t.t, 2);
        assert_int_equal(kv_table_own(&f.pool, &t.t, 1, &from), 0);
        assert_int_not_equal(from, UINT32_MAX);
        assert_true(prefix_check(f.cache));
        t.n = text_tokens("AXY", t.tokens);
        sequence_compute(&f, &t, false);
        assert_int_equal(peek(&f, ALICE, "AXY"), 3);
        assert_int_equal(peek(&f, ALICE, "ABCDE"), 5);
        prefix_rewind(f.cache, ALICE, &t.path, 0);
        assert_null(t.path.tip);
        kv_table_truncate(&f.pool, &t.t, 0);
        t.n = text_tokens("Q", t.tokens);
        sequence_compute(&f, &t, false);
        assert_int_equal(peek(&f, ALICE, "Q"), 1);
        sequence_end(&f, &t);
        fixture_deinit(&f);
}

/* Whatever the hash: only what is the same is found. */
static void test_same_hash(void **state) {
        struct fixture f;
        char text[4] = "ABC";

        fixture_init(&f, 2048);
        memset(f.cache->keys, 0, (PREFIX_PLACE_KEYS + PT) * sizeof(*f.cache->keys));
        for (unsigned i = 0; i < 8; i++)
                for (unsigned k = 0; k < 40; k++) {
                        text[0] = (char)('A' + i);
                        text[1] = (char)('A' + k / 10);
                        text[2] = (char)('A' + k % 10);
                        assert_int_equal(request(&f, ALICE, text, false), k == 0 ? 0 : k % 10 ? 2 : 1);
                        assert_int_equal(request(&f, BOB, text, false), k == 0 ? 0 : k % 10 ? 2 : 1);
                }
        assert_int_equal(f.pool.n_cached, 2 * (8 + 8 * 4 + 8 * 40));
        assert_int_equal(peek(&f, CAROL, "ABC"), 0);
        assert_int_equal(peek(&f, ALICE, "ABC"), 3);
        assert_int_equal(peek(&f, ALICE, "BAC"), 3);
        assert_int_equal(peek(&f, ALICE, "CZC"), 1);
        fixture_deinit(&f);
}

/* Hashes are drawn anew for every cache, and use all of the tokens. */
static void test_hash(void **state) {
        struct fixture f, g;
        int32_t tokens[PT] = { 1, -2, 3, INT32_MAX };
        uint64_t sum;

        fixture_init(&f, 16);
        fixture_init(&g, 16);
        sum = prefix_sum(f.cache, tokens);
        assert_true(sum != prefix_sum(g.cache, tokens));
        for (unsigned i = 0; i < PT; i++)
                for (unsigned bit = 0; bit < 32; bit++) {
                        tokens[i] ^= (int32_t)(1u << bit);
                        assert_true(sum != prefix_sum(f.cache, tokens));
                        tokens[i] ^= (int32_t)(1u << bit);
                }
        fixture_deinit(&f);
        fixture_deinit(&g);
}

static void test_empty_pool(void **state) {
        struct fixture f;
        struct sequence s;

        fixture_init(&f, 0);
        sequence_find(&f, &s, ALICE, "ABC", 0);
        assert_int_equal(s.path.n, 0);
        sequence_end(&f, &s);
        assert_true(prefix_evict(f.cache, 0));
        assert_false(prefix_evict(f.cache, 1));
        fixture_deinit(&f);
        assert_null(prefix_cache_free(NULL));
        assert_true(prefix_bytes_per_page(32) > 32 * sizeof(int32_t));
}

/* The cache may go while sequences run. */
static void test_free_in_use(void **state) {
        struct fixture f;
        struct sequence s;

        fixture_init(&f, 8);
        sequence_begin(&f, &s, ALICE, "ABC", false);
        prefix_charge(f.cache, BOB, 7);
        f.cache = prefix_cache_free(f.cache);
        assert_true(f.pool.n_held == 3 && f.pool.n_cached == 0);
        kv_table_release(&f.pool, &s.t);
        assert_int_equal(kv_pool_free(&f.pool), 8);
        kv_pool_deinit(&f.pool);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_match_and_store),
                cmocka_unit_test(test_most),
                cmocka_unit_test(test_partial),
                cmocka_unit_test(test_many_siblings),
                cmocka_unit_test(test_computed_twice),
                cmocka_unit_test(test_wrong_page),
                cmocka_unit_test(test_fork_and_rewind),
                cmocka_unit_test(test_same_hash),
                cmocka_unit_test(test_hash),
                cmocka_unit_test(test_empty_pool),
                cmocka_unit_test(test_free_in_use),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
