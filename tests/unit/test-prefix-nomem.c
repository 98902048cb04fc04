/* SPDX-License-Identifier: Apache-2.0 */

/* The prefix cache when memory runs out: the n-th allocation of a scenario fails, for every n that it has. */

#include <errno.h>

#include "prefix-fixture.h"

static long countdown = -1; /* allocations until one fails; -1: none does */
static bool failed;

static bool fails(void) {
        if (countdown < 0 || countdown-- > 0)
                return false;
        failed = true;
        return true;
}

/* Where the linker leads the allocator's calls, and what they are there (see --wrap in tools/rules.mk). */
void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_reallocarray(void *p, size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_reallocarray(void *p, size_t n, size_t size);

void *__wrap_malloc(size_t size) {
        return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size) {
        return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_reallocarray(void *p, size_t n, size_t size) {
        return fails() ? NULL : __real_reallocarray(p, n, size);
}

/* It allocates, too. */
static bool is_sound(const struct fixture *f) {
        long saved = countdown;
        bool sound;

        countdown = -1;
        sound = prefix_check(f->cache);
        countdown = saved;
        return sound;
}

/* Begins, computes and ends as the engine does: what could not be stored ends the storing, not the sequence. */
static void request_or_not(struct fixture *f, uint32_t uid, const char *text, bool share) {
        struct sequence s = { .uid = uid };
        int r;

        s.n = text_tokens(text, s.tokens);
        r = prefix_match(f->cache, uid, s.tokens, s.n, s.n, &s.t, &s.path, &s.match);
        assert_true(is_sound(f));
        if (r < 0) {
                assert_int_equal(r, -ENOMEM);
                assert_int_equal(s.t.n, 0);
                kv_table_release(&f->pool, &s.t);
                return;
        }
        prefix_charge(f->cache, uid, 1);
        (void)prefix_evict(f->cache, (uint32_t)(s.n / PT) - s.t.n);
        r = kv_table_extend(&f->pool, &s.t, s.n);
        assert_true(r == 0 || r == -ENOMEM);
        while (r == 0 && s.path.n < s.t.n) {
                uint32_t n = s.path.n;

                r = prefix_store(f->cache, uid, &s.path, s.tokens + n * PT, &s.t, share);
                assert_true(r == 0 || r == -ENOMEM);
                assert_int_equal(s.path.n, r == 0 ? n + 1 : n);
                assert_true(is_sound(f));
        }
        prefix_charge(f->cache, uid, -1);
        sequence_end(f, &s);
}

static void scenario(struct fixture *f) {
        request_or_not(f, 1, "ABCDEFGHIJKL", false);
        request_or_not(f, 1, "ABCDEFGHIJKLM", false);
        request_or_not(f, 1, "ABX", false);
        request_or_not(f, 2, "ABC", true);
        request_or_not(f, 1, "ABCD", true);
        request_or_not(f, 3, "ABCDEF", false);
        prefix_forget(f->cache, 3);
        request_or_not(f, 3, "ABCDEF", false);
}

static void test_new(void **state) {
        struct prefix_cache *c = NULL;
        struct kv_pool p;
        long n = 0;

        for (int r = -ENOMEM; r == -ENOMEM; n++) {
                countdown = n;
                r = kv_pool_init(&p, 24, PT);
                if (r < 0)
                        continue;
                r = prefix_cache_new(&c, &p);
                assert_true(r == -ENOMEM ? !c && !p.watch : r == 0);
                c = prefix_cache_free(c);
                kv_pool_deinit(&p);
        }
        countdown = -1;
        assert_int_equal(n, 4 + 6 + 1); /* arrays of the pool, of the cache, and none that fails */
}

static void test_every_allocation(void **state) {
        struct fixture f;
        long n = 0;

        do {
                failed = false;
                fixture_init(&f, 24);
                countdown = n++;
                scenario(&f);
                countdown = -1;
                assert_true(prefix_check(f.cache));
                fixture_deinit(&f);
        } while (failed);
        assert_true(n > 20);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_new),
                cmocka_unit_test(test_every_allocation),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
