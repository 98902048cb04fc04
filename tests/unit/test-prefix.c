/* SPDX-License-Identifier: Apache-2.0 */

/* The prefix cache: finding, storing, who sees what, forgetting. Eviction and random mixtures have files of their own. */

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

static void test_private(void **state) {
        struct sequence s, t;
        struct fixture f;

        fixture_init(&f, 16);
        sequence_begin(&f, &s, ALICE, "Aab", false);
        assert_int_equal(peek(&f, BOB, "Aab"), 0);
        sequence_find(&f, &t, BOB, "Aab", 0);
        assert_true(t.path.n == 0 && t.match.n_partial == 0);
        /* Not when it is stored, either. */
        sequence_compute(&f, &t, false);
        assert_int_equal(kv_pool_free(&f.pool), 10);
        for (unsigned i = 0; i < 3; i++)
                assert_int_not_equal(s.t.pages[i], t.t.pages[i]);
        sequence_end(&f, &s);
        sequence_end(&f, &t);
        assert_int_equal(prefix_cached_pages(f.cache, ALICE), 3);
        assert_int_equal(prefix_cached_pages(f.cache, BOB), 3);
        assert_int_equal(peek(&f, CAROL, "Aab"), 0);
        assert_int_equal(prefix_cached_pages(f.cache, CAROL), 0);
        fixture_deinit(&f);
}

static void test_public(void **state) {
        struct sequence s, t;
        struct fixture f;

        fixture_init(&f, 16);
        sequence_begin(&f, &s, ALICE, "AB", true);
        sequence_begin(&f, &t, BOB, "ABC", false);
        assert_memory_equal(s.t.pages, t.t.pages, 2 * sizeof(uint32_t));
        assert_int_equal(f.pool.n_held, 3);
        /* What Bob computed behind it is Bob's; a share whose beginning is not public is not shared. */
        assert_int_equal(request(&f, BOB, "ABCD", true), 3);
        assert_int_equal(peek(&f, BOB, "ABCD"), 4);
        assert_int_equal(peek(&f, ALICE, "ABCD"), 2);
        assert_int_equal(peek(&f, CAROL, "ABCD"), 2);
        sequence_end(&f, &s);
        assert_int_equal(prefix_cached_pages(f.cache, ALICE), 0);
        sequence_end(&f, &t);
        assert_int_equal(prefix_cached_pages(f.cache, ALICE), 2);
        assert_int_equal(prefix_cached_pages(f.cache, BOB), 2);
        assert_int_equal(request(&f, CAROL, "ABC", false), 2);
        assert_int_equal(prefix_cached_pages(f.cache, CAROL), 1);
        assert_int_equal(f.pool.n_cached, 5);
        /* What Bob makes public behind it now everybody finds, and Carol's own one ages behind it. */
        assert_int_equal(request(&f, BOB, "ABE", true), 2);
        assert_int_equal(peek(&f, ALICE, "ABE"), 3);
        fixture_deinit(&f);
}

/* Stored privately first, and declared public later. */
static void test_share_later(void **state) {
        struct sequence s;
        struct fixture f;

        fixture_init(&f, 16);
        assert_int_equal(request(&f, ALICE, "ABCD", false), 0);
        sequence_find(&f, &s, ALICE, "ABCD", 0);
        prefix_share(f.cache, ALICE, &s.path, 2);
        assert_true(prefix_check(f.cache));
        assert_int_equal(peek(&f, BOB, "ABCD"), 2);
        assert_int_equal(peek(&f, ALICE, "ABCD"), 4);
        prefix_share(f.cache, ALICE, &s.path, 99);
        assert_int_equal(peek(&f, BOB, "ABCD"), 4);
        sequence_end(&f, &s);
        prefix_share(f.cache, ALICE, &s.path, 1); /* nothing, harmlessly */

        /* The same by storing, when it is computed once more while the private one is there. */
        sequence_find(&f, &s, BOB, "X", 0);
        assert_int_equal(request(&f, BOB, "X", false), 0);
        sequence_compute(&f, &s, true);
        assert_int_equal(peek(&f, ALICE, "X"), 1);
        sequence_end(&f, &s);
        assert_int_equal(f.pool.n_cached, 5);
        fixture_deinit(&f);
}

/* Alice has privately what Bob made public. What she has behind it is found, goes on, and can be made public. */
static void test_twins(void **state) {
        struct sequence s, t;
        struct fixture f;

        fixture_init(&f, 32);
        assert_int_equal(request(&f, ALICE, "ABCD", false), 0);
        assert_int_equal(request(&f, ALICE, "ABX", false), 2);
        assert_int_equal(request(&f, BOB, "AB", true), 0);
        assert_int_equal(f.pool.n_cached, 7);
        assert_int_equal(peek(&f, ALICE, "ABCD"), 4);
        assert_int_equal(peek(&f, BOB, "ABCD"), 2);
        /* As long as they are equally long, the public one. */
        sequence_find(&f, &s, ALICE, "AB", 0);
        sequence_find(&f, &t, BOB, "AB", 0);
        assert_memory_equal(s.t.pages, t.t.pages, 2 * sizeof(uint32_t));
        sequence_end(&f, &t);
        /* What is stored behind the public one and found behind the private one is found all the same. */
        sequence_end(&f, &s);
        assert_int_equal(request(&f, ALICE, "ABCE", false), 3);
        assert_int_equal(peek(&f, ALICE, "ABCE"), 4);
        assert_int_equal(peek(&f, ALICE, "ABCD"), 4);
        assert_int_equal(peek(&f, ALICE, "ABX"), 3);
        assert_true(prefix_check(f.cache));

        sequence_find(&f, &s, ALICE, "ABX", 0);
        prefix_share(f.cache, ALICE, &s.path, 3);
        assert_int_equal(peek(&f, CAROL, "ABX"), 3);
        assert_true(prefix_check(f.cache));
        sequence_end(&f, &s);
        /* Her own ones of the first two serve nobody any more; all can be had. */
        assert_true(prefix_evict(f.cache, 32));
        fixture_deinit(&f);
}

/* Made public by another one while it runs: the path's pages are its own ones, and what hangs on them moves. */
static void test_twins_at_work(void **state) {
        struct sequence s;
        struct fixture f;

        fixture_init(&f, 32);
        sequence_begin(&f, &s, ALICE, "ABC", false);
        assert_int_equal(request(&f, BOB, "AB", true), 0);
        assert_int_equal(peek(&f, ALICE, "ABC"), 3);
        prefix_share(f.cache, ALICE, &s.path, 3);
        assert_true(prefix_check(f.cache));
        assert_int_equal(peek(&f, CAROL, "ABC"), 3);
        /* Bob's pages are not held by her, but what hangs on them is: they stay. */
        assert_false(prefix_evict(f.cache, 32));
        assert_int_equal(peek(&f, CAROL, "ABC"), 3);
        assert_int_equal(f.pool.n_cached, 2);
        sequence_end(&f, &s);
        assert_true(prefix_evict(f.cache, 32));
        fixture_deinit(&f);
}

static void test_forget(void **state) {
        struct sequence s, t;
        struct fixture f;

        fixture_init(&f, 32);
        assert_int_equal(request(&f, ALICE, "ABC", false), 0);
        assert_int_equal(request(&f, BOB, "ABC", false), 0);
        sequence_begin(&f, &s, ALICE, "ABD", false);
        sequence_find(&f, &t, ALICE, "E", 0);
        prefix_forget(f.cache, ALICE);
        prefix_forget(f.cache, CAROL); /* was never here */
        assert_true(prefix_check(f.cache));
        assert_int_equal(peek(&f, ALICE, "ABD"), 0);
        assert_int_equal(peek(&f, BOB, "ABC"), 3);
        assert_true(f.pool.n_held == 3 && f.pool.n_cached == 3);
        assert_int_equal(kv_pool_free(&f.pool), 26);
        assert_true(kv_table_owns(&f.pool, &s.t, 2));

        /* What runs goes on, and stores nothing. */
        text_tokens("ABDF", s.tokens);
        s.n = 4 * PT;
        sequence_compute(&f, &s, false);
        sequence_compute(&f, &t, true);
        assert_true(s.path.n == 4 && t.path.n == 1);
        prefix_share(f.cache, ALICE, &s.path, 4);
        assert_int_equal(peek(&f, ALICE, "ABDF") + peek(&f, ALICE, "E") + peek(&f, BOB, "E"), 0);
        prefix_rewind(f.cache, ALICE, &s.path, 1);
        assert_int_equal(s.path.n, 1);
        kv_table_truncate(&f.pool, &s.t, 1);
        sequence_compute(&f, &s, false);
        assert_int_equal(peek(&f, ALICE, "ABDF"), 0);
        sequence_end(&f, &s);
        sequence_end(&f, &t);
        assert_int_equal(kv_pool_free(&f.pool), 29);

        /* What begins now is stored again. */
        assert_int_equal(request(&f, ALICE, "ABC", false), 0);
        assert_int_equal(request(&f, ALICE, "ABC", false), 3);
        fixture_deinit(&f);
}

static void test_forget_public(void **state) {
        struct sequence s;
        struct fixture f;

        fixture_init(&f, 32);
        assert_int_equal(request(&f, ALICE, "AB", true), 0);
        assert_int_equal(request(&f, ALICE, "ABC", false), 2);
        assert_int_equal(request(&f, BOB, "ABD", false), 2);
        prefix_forget(f.cache, ALICE);
        assert_true(prefix_check(f.cache));
        assert_int_equal(peek(&f, ALICE, "ABC"), 2);
        assert_int_equal(peek(&f, BOB, "ABD"), 3);
        assert_int_equal(prefix_cached_pages(f.cache, ALICE), 2);

        sequence_begin(&f, &s, BOB, "ABDE", false);
        prefix_forget_all(f.cache);
        assert_true(prefix_check(f.cache));
        assert_int_equal(peek(&f, BOB, "ABDE"), 0);
        assert_int_equal(peek(&f, CAROL, "AB"), 0);
        assert_true(f.pool.n_held == 4 && f.pool.n_cached == 0);
        /* Others come meanwhile, and the path must not lead to what they have. */
        assert_int_equal(request(&f, BOB, "ABDX", true), 0);
        text_tokens("ABDEF", s.tokens);
        s.n = 5 * PT;
        sequence_compute(&f, &s, true);
        assert_int_equal(peek(&f, BOB, "ABDEF"), 3);
        assert_true(prefix_check(f.cache));
        sequence_end(&f, &s);
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

struct seen {
        uint32_t n, pages, uids[4];
};

static void seen(void *userdata, uint32_t uid, uint32_t cached_pages) {
        struct seen *s = userdata;

        s->uids[MIN(s->n++, 3u)] = uid;
        s->pages += cached_pages;
}

static void test_each_user(void **state) {
        struct seen s = { 0 };
        struct fixture f;

        fixture_init(&f, 16);
        prefix_each_user(f.cache, seen, &s);
        assert_int_equal(s.n, 0);
        (void)request(&f, ALICE, "ABC", false);
        (void)request(&f, BOB, "A", false);
        prefix_each_user(f.cache, seen, &s);
        assert_true(s.n == 2 && s.pages == 4 && s.uids[0] + s.uids[1] == ALICE + BOB);
        fixture_deinit(&f);
}

/* Of too many users, the one with least to lose makes way; never one whose pages are in use, or public. */
static void test_too_many_users(void **state) {
        struct sequence in_use, s;
        struct fixture f;

        fixture_init(&f, 4 * PREFIX_USERS_MAX);
        (void)request(&f, 1, "P", true);
        sequence_begin(&f, &in_use, 2, "A", false);
        (void)request(&f, 3, "AB", false);
        (void)request(&f, 4, "A", false);
        for (uint32_t uid = 5; uid <= PREFIX_USERS_MAX; uid++)
                (void)request(&f, uid, "AB", false);
        (void)request(&f, 3, "ABC", false);
        assert_true(prefix_check(f.cache));
        (void)request(&f, 90000, "ABC", false);
        assert_int_equal(peek(&f, 4, "A"), 0);
        (void)request(&f, 90001, "ABC", false);
        assert_int_equal(peek(&f, 5, "A"), 0); /* was away longest */
        assert_int_equal(peek(&f, 6, "AB"), 2);
        assert_int_equal(peek(&f, 3, "ABC"), 3);
        assert_int_equal(peek(&f, 2, "A"), 1);
        assert_int_equal(peek(&f, 1, "P"), 1);
        assert_true(prefix_check(f.cache));
        sequence_end(&f, &in_use);

        /* When nobody can, nothing is stored, and what is public is found. */
        for (uint32_t uid = 100000; uid < 100000 + 2 * PREFIX_USERS_MAX; uid++) {
                char text[3] = { (char)(1 + uid % 50), (char)(1 + uid / 50 % 50), 0 };

                (void)request(&f, uid, text, true);
        }
        assert_true(prefix_check(f.cache));
        sequence_begin(&f, &s, 300000, "PA", true);
        assert_int_equal(s.match.n_tokens, PT);
        assert_int_equal(s.path.n, 2);
        assert_int_equal(peek(&f, 300000, "PA"), 1);
        /* When somebody can again, it is too late for what comes behind what was not stored. */
        (void)prefix_evict(f.cache, f.pool.n_pages);
        s.n = text_tokens("PAB", s.tokens);
        sequence_compute(&f, &s, true);
        assert_int_equal(peek(&f, 300000, "PAB"), 1);
        assert_int_equal(peek(&f, 300000, "B"), 0);
        sequence_end(&f, &s);
        assert_int_equal(request(&f, 300000, "PAB", false), 1);
        assert_int_equal(peek(&f, 300000, "PAB"), 3);
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
                cmocka_unit_test(test_private),
                cmocka_unit_test(test_public),
                cmocka_unit_test(test_share_later),
                cmocka_unit_test(test_twins),
                cmocka_unit_test(test_twins_at_work),
                cmocka_unit_test(test_forget),
                cmocka_unit_test(test_forget_public),
                cmocka_unit_test(test_fork_and_rewind),
                cmocka_unit_test(test_each_user),
                cmocka_unit_test(test_too_many_users),
                cmocka_unit_test(test_same_hash),
                cmocka_unit_test(test_hash),
                cmocka_unit_test(test_empty_pool),
                cmocka_unit_test(test_free_in_use),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
