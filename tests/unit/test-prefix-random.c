/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Random mixtures against a model. A prompt is a chain of pages of VARIANTS kinds, so that prompts overlap often; chains
 * are numbered, and the model knows which one every page of the pool holds, and who may see which.
 */

#include "prefix-fixture.h"

#define VARIANTS 4u
#define DEPTH 8u
#define CHAINS 87382u /* ways of at most DEPTH pages, the empty one included */
#define USERS 8u
#define SEQUENCES 6u
#define POOL 64u

struct model {
        struct fixture f;
        uint64_t random;
        uint32_t page_chain[4096]; /* what the pool's pages hold */
        uint8_t stored[CHAINS];    /* users who stored it privately since they forgot last */
        bool public[CHAINS];       /* somebody made it public, or tried to */
};

struct run {
        bool on, share, detached;
        uint32_t uid, n; /* pages that it wants to compute */
        uint8_t variants[DEPTH];
        int32_t tokens[DEPTH * PT + PT];
        struct kv_table t;
        struct prefix_path path;
};

static uint32_t draw(struct model *m, uint32_t n) {
        m->random = m->random * 6364136223846793005u + 1442695040888963407u;
        return (uint32_t)((m->random >> 33) % n);
}

static uint32_t chain_next(uint32_t chain, uint32_t variant) {
        return chain * VARIANTS + variant + 1;
}

static uint32_t chain_of(const struct run *r, uint32_t n) {
        uint32_t chain = 0;

        for (uint32_t i = 0; i < n; i++)
                chain = chain_next(chain, r->variants[i]);
        return chain;
}

static bool visible(const struct model *m, uint32_t uid, uint32_t chain) {
        return m->public[chain] || m->stored[chain] >> uid & 1;
}

/* Draws the pages from number `from` on. The first two kinds begin with the same tokens. */
static void draw_pages(struct model *m, struct run *r, uint32_t from) {
        for (uint32_t i = from; i < DEPTH; i++) {
                r->variants[i] = (uint8_t)(draw(m, 2) ? draw(m, VARIANTS) : 0);
                for (uint32_t k = 0; k < PT; k++)
                        r->tokens[i * PT + k] = r->variants[i] < 2 && k < PT - 1 ? 7 : r->variants[i];
        }
        r->n = from + draw(m, DEPTH + 1 - from);
}

/* The pages of a table are what its sequence computed or found, whatever happens to others. */
static void check_run(const struct model *m, const struct run *r) {
        assert_true(r->path.n <= r->t.n);
        for (uint32_t i = 0; i < r->t.n; i++) {
                assert_true(m->f.pool.tables[r->t.pages[i]] > 0);
                assert_int_equal(m->page_chain[r->t.pages[i]], chain_of(r, i + 1));
        }
}

static void check_partial(const struct model *m, const struct run *r, const struct prefix_match *match, uint32_t most) {
        uint32_t chain = chain_of(r, r->path.n), kind = m->page_chain[match->partial_page] - chain * VARIANTS - 1, n = 0;

        assert_true(match->n_partial < PT || r->path.n * PT + PT <= most);
        assert_true(match->n_tokens + match->n_partial <= most);
        assert_true(kind < VARIANTS); /* it comes next */
        assert_true(visible(m, r->uid, chain_next(chain, kind)));
        n = kind == r->variants[r->path.n] ? PT : kind < 2 && r->variants[r->path.n] < 2 ? PT - 1 : 0;
        assert_true(match->n_partial <= n);
}

/* A page more is computed. False where there is no room. */
static bool compute_page(struct model *m, struct run *r) {
        uint32_t i = r->t.n, chain = chain_of(r, i + 1), page, free_before;
        uint64_t available = (uint64_t)kv_pool_free(&m->f.pool) + m->f.pool.n_cached;

        if (!prefix_evict(m->f.cache, 1)) {
                assert_true(available == 0 || m->f.pool.n_cached > 0);
                return false;
        }
        assert_int_equal(kv_table_extend(&m->f.pool, &r->t, (i + 1) * PT), 0);
        page = r->t.pages[i];
        assert_true(kv_table_owns(&m->f.pool, &r->t, i));
        m->page_chain[page] = chain;
        free_before = kv_pool_free(&m->f.pool);
        assert_int_equal(prefix_store(m->f.cache, r->uid, &r->path, r->tokens + i * PT, &r->t, r->share), 0);
        assert_int_equal(r->path.n, i + 1);
        /* Its own one, or one of the same that it may see; then its own one is free. */
        if (r->t.pages[i] != page) {
                assert_false(r->detached);
                assert_true(visible(m, r->uid, chain));
                assert_int_equal(kv_pool_free(&m->f.pool), free_before + 1);
        }
        if (!r->detached) {
                m->stored[chain] |= (uint8_t)(1u << r->uid);
                m->public[chain] |= r->share;
        }
        return true;
}

static void share_pages(struct model *m, struct run *r, uint32_t n) {
        prefix_share(m->f.cache, r->uid, &r->path, n);
        for (uint32_t i = 0; i < MIN(n, r->path.n) && !r->detached; i++)
                m->public[chain_of(r, i + 1)] = true;
}

/* Looks up what it wants; gives the tokens that it might take. */
static uint32_t find_pages(struct model *m, struct run *r, struct prefix_match *ret) {
        size_t n = r->n * PT + (r->n < DEPTH ? draw(m, PT) : 0), most = n - (n > 0 ? draw(m, 2) : 0), peeked;

        peeked = prefix_peek(m->f.cache, r->uid, r->tokens, most);
        assert_int_equal(prefix_match(m->f.cache, r->uid, r->tokens, n, most, &r->t, &r->path, ret), 0);
        assert_int_equal(ret->n_tokens, peeked);
        assert_int_equal(ret->n_tokens, r->t.n * PT);
        assert_int_equal(r->path.n, r->t.n);
        for (uint32_t i = 0; i < r->t.n; i++)
                assert_true(visible(m, r->uid, chain_of(r, i + 1)));
        check_run(m, r);
        if (ret->n_partial > 0)
                check_partial(m, r, ret, (uint32_t)most);
        return (uint32_t)most;
}

static void run_begin(struct model *m, struct run *r) {
        struct prefix_match match;

        *r = (struct run){ .on = true, .uid = draw(m, USERS), .share = draw(m, 8) == 0 };
        draw_pages(m, r, 0);
        prefix_charge(m->f.cache, r->uid, r->uid % 2);
        (void)find_pages(m, r, &match);
        if (r->share)
                share_pages(m, r, draw(m, 4) ? DEPTH : draw(m, DEPTH));
        /* As the engine does: copied before anything can take it. */
        if (match.n_partial > 0 && draw(m, 2)) {
                uint32_t from;

                assert_int_equal(kv_table_share(&m->f.pool, &r->t, match.partial_page), 0);
                if (prefix_evict(m->f.cache, 1)) {
                        assert_int_equal(kv_table_own(&m->f.pool, &r->t, r->t.n - 1, &from), 0);
                        assert_int_equal(from, match.partial_page);
                }
                kv_table_truncate(&m->f.pool, &r->t, r->t.n - 1);
        }
}

static void run_end(struct model *m, struct run *r) {
        prefix_leave(m->f.cache, r->uid, &r->path);
        kv_table_release(&m->f.pool, &r->t);
        prefix_charge(m->f.cache, r->uid, -(int32_t)(r->uid % 2));
        r->on = false;
}

static void run_fork(struct model *m, const struct run *r, struct run *ret) {
        if (ret->on)
                run_end(m, ret);
        *ret = *r;
        ret->t = (struct kv_table){ 0 };
        prefix_charge(m->f.cache, r->uid, r->uid % 2);
        for (uint32_t i = 0; i < r->t.n; i++)
                assert_int_equal(kv_table_share(&m->f.pool, &ret->t, r->t.pages[i]), 0);
        draw_pages(m, ret, ret->t.n);
}

/* Goes back, perhaps into the middle of a page, and on another way. */
static void run_rewind(struct model *m, struct run *r) {
        uint32_t n = draw(m, r->t.n + 1), from;

        prefix_rewind(m->f.cache, r->uid, &r->path, n);
        assert_int_equal(r->path.n, n);
        if (n < r->t.n && draw(m, 2)) {
                kv_table_truncate(&m->f.pool, &r->t, n + 1);
                (void)kv_table_own(&m->f.pool, &r->t, n, &from);
        }
        kv_table_truncate(&m->f.pool, &r->t, n);
        draw_pages(m, r, n);
}

static void forget(struct model *m, struct run *runs, uint32_t uid) {
        bool all = uid == USERS;

        if (all)
                prefix_forget_all(m->f.cache);
        else
                prefix_forget(m->f.cache, uid);
        for (uint32_t i = 0; i < SEQUENCES; i++)
                runs[i].detached |= all || runs[i].uid == uid;
        for (uint32_t i = 0; i < CHAINS; i++) {
                m->stored[i] &= (uint8_t)(all ? 0 : ~(1u << uid));
                m->public[i] &= !all;
        }
        assert_int_equal(m->f.pool.n_cached * all, 0);
}

static void step(struct model *m, struct run *runs) {
        struct run *r = &runs[draw(m, SEQUENCES)];
        uint32_t what = draw(m, 100), want;
        bool done;

        if (what < 2) {
                want = draw(m, POOL);
                done = prefix_evict(m->f.cache, want);
                assert_int_equal(done, kv_pool_free(&m->f.pool) >= want);
        } else if (what < 3) {
                if (draw(m, 10) == 0)
                        forget(m, runs, draw(m, USERS + 1));
        } else if (!r->on) {
                run_begin(m, r);
        } else if (what < 6) {
                run_fork(m, r, &runs[(size_t)(r - runs + 1) % SEQUENCES]);
        } else if (what < 10) {
                run_rewind(m, r);
        } else if (what < 12) {
                share_pages(m, r, draw(m, DEPTH + 1));
        } else if (r->t.n >= r->n || !compute_page(m, r)) {
                run_end(m, r);
        }
}

static void model_init(struct model *m, uint64_t seed, uint32_t n_pages) {
        memset(m, 0, sizeof(*m));
        m->random = seed;
        fixture_init(&m->f, n_pages);
}

static void test_mixtures(void **state) {
        _cleanup_free_ struct model *m = calloc(1, sizeof(*m));

        assert_non_null(m);
        for (uint64_t seed = 1; seed <= 20; seed++) {
                struct run runs[SEQUENCES] = { { 0 } };

                /* In the small ones there is not even room for all that run. */
                model_init(m, seed, seed % 4 ? POOL : POOL / 4);
                for (unsigned i = 0; i < 4000; i++) {
                        step(m, runs);
                        for (uint32_t k = 0; k < SEQUENCES; k++)
                                if (runs[k].on)
                                        check_run(m, &runs[k]);
                        if (i % 8 == 0)
                                assert_true(prefix_check(m->f.cache));
                }
                for (uint32_t i = 0; i < SEQUENCES; i++)
                        if (runs[i].on)
                                run_end(m, &runs[i]);
                fixture_deinit(&m->f);
        }
}

/* One after the other, and with room for all: exactly what the user may see is found. */
static void test_finds_all(void **state) {
        _cleanup_free_ struct model *m = calloc(1, sizeof(*m));

        assert_non_null(m);
        for (uint64_t seed = 100; seed < 110; seed++) {
                model_init(m, seed, ARRAY_SIZE(m->page_chain));
                for (unsigned i = 0; i < 1500 && kv_pool_free(&m->f.pool) > DEPTH; i++) {
                        struct run r = { .uid = draw(m, USERS), .share = draw(m, 8) == 0 };
                        struct prefix_match match;
                        uint32_t most, n;

                        draw_pages(m, &r, 0);
                        most = find_pages(m, &r, &match);
                        for (n = 0; n < most / PT && visible(m, r.uid, chain_of(&r, n + 1)); n++)
                                ;
                        assert_int_equal(r.path.n, n);
                        if (r.share)
                                share_pages(m, &r, DEPTH);
                        while (r.t.n < r.n)
                                assert_true(compute_page(m, &r));
                        run_end(m, &r);
                        if (i % 16 == 0)
                                assert_true(prefix_check(m->f.cache));
                }
                fixture_deinit(&m->f);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_mixtures),
                cmocka_unit_test(test_finds_all),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
