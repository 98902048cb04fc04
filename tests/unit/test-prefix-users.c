/* SPDX-License-Identifier: Apache-2.0 */

/* The prefix cache: whose pages they are, who sees them, sharing, forgetting. */

#include <errno.h>

#include "prefix-fixture.h"

#include "daemon/engine/prefix-private.h"

enum { ALICE = 1000, BOB, CAROL };

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

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_private),
                cmocka_unit_test(test_public),
                cmocka_unit_test(test_share_later),
                cmocka_unit_test(test_twins),
                cmocka_unit_test(test_twins_at_work),
                cmocka_unit_test(test_forget),
                cmocka_unit_test(test_forget_public),
                cmocka_unit_test(test_each_user),
                cmocka_unit_test(test_too_many_users),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
