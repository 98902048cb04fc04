/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A pool and a prefix cache, and sequences that run through them as the engine's do. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/macro.h"
#include "daemon/engine/prefix.h"

#define PT 4u       /* tokens of a page */
#define MAX_PAGES 64u /* of a sequence */

struct fixture {
        struct kv_pool pool;
        struct prefix_cache *cache;
};

struct sequence {
        uint32_t uid;
        struct kv_table t;
        struct prefix_path path;
        struct prefix_match match;
        int32_t tokens[MAX_PAGES * PT];
        size_t n;
};

static inline void fixture_init(struct fixture *f, uint32_t n_pages) {
        assert_int_equal(kv_pool_init(&f->pool, n_pages, PT), 0);
        assert_int_equal(prefix_cache_new(&f->cache, &f->pool), 0);
}

/* All sequences must have ended. Nothing may be left anywhere. */
static inline void fixture_deinit(struct fixture *f) {
        assert_true(prefix_check(f->cache));
        assert_int_equal(f->pool.n_held, 0);
        prefix_forget_all(f->cache);
        assert_true(prefix_check(f->cache));
        assert_int_equal(f->pool.n_cached, 0);
        assert_int_equal(kv_pool_free(&f->pool), f->pool.n_pages);
        f->cache = prefix_cache_free(f->cache);
        assert_null(f->pool.watch);
        kv_pool_deinit(&f->pool);
}

/* Every letter of the text is a page of tokens: its last token alone tells small letters apart, its first one, too, a
 * large letter. */
static inline size_t text_tokens(const char *text, int32_t *tokens) {
        size_t n = 0;

        for (; *text; text++, n += PT) {
                for (unsigned i = 0; i < PT; i++)
                        tokens[n + i] = *text < 'a' ? *text : (int32_t)i + 1000;
                tokens[n + PT - 1] = *text;
        }
        return n;
}

/* Looks its text up, `most` tokens of it (0: all). */
static inline void sequence_find(struct fixture *f, struct sequence *s, uint32_t uid, const char *text, size_t most) {
        *s = (struct sequence){ .uid = uid };
        s->n = text_tokens(text, s->tokens);
        assert_int_equal(prefix_match(f->cache, uid, s->tokens, s->n, most ? most : s->n, &s->t, &s->path, &s->match), 0);
        assert_int_equal(s->t.n, s->path.n);
        assert_int_equal(s->match.n_tokens, s->path.n * PT);
}

/* Computes what was not found, and stores it. What the pool lacks is evicted. */
static inline void sequence_compute(struct fixture *f, struct sequence *s, bool share) {
        uint32_t n = (uint32_t)(s->n / PT);
        int32_t more = (int32_t)(n - MIN(n, s->t.n));

        prefix_charge(f->cache, s->uid, more);
        assert_true(prefix_evict(f->cache, (uint32_t)more));
        assert_int_equal(kv_table_extend(&f->pool, &s->t, s->n), 0);
        prefix_charge(f->cache, s->uid, -more);
        while (s->path.n < n)
                assert_int_equal(prefix_store(f->cache, s->uid, &s->path, s->tokens + s->path.n * PT, &s->t, share), 0);
}

static inline void sequence_begin(struct fixture *f, struct sequence *s, uint32_t uid, const char *text, bool share) {
        sequence_find(f, s, uid, text, 0);
        sequence_compute(f, s, share);
}

static inline void sequence_end(struct fixture *f, struct sequence *s) {
        prefix_leave(f->cache, s->uid, &s->path);
        assert_true(s->path.tip == NULL && s->path.n == 0);
        kv_table_release(&f->pool, &s->t);
}

/* A request from its beginning to its end; gives the pages that it found. */
static inline uint32_t request(struct fixture *f, uint32_t uid, const char *text, bool share) {
        struct sequence s;
        uint32_t found;

        sequence_find(f, &s, uid, text, 0);
        found = s.path.n;
        sequence_compute(f, &s, share);
        sequence_end(f, &s);
        return found;
}

/* Pages that a request would find. */
static inline uint32_t peek(struct fixture *f, uint32_t uid, const char *text) {
        int32_t tokens[MAX_PAGES * PT];
        size_t n = text_tokens(text, tokens), found = prefix_peek(f->cache, uid, tokens, n);

        assert_int_equal(found % PT, 0);
        return (uint32_t)(found / PT);
}
