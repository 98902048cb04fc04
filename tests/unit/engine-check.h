/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What always holds of an engine between two steps: lists, scheduler, page tables, the pool's counts and the prefix cache
 * agree with one another. Looks at the engine's insides, unlike everything else in the tests.
 */

#include "daemon/engine/engine-private.h"
#include "daemon/engine/prefix-private.h"
#include "engine-fixture.h"

struct engine_count {
        uint32_t *tables; /* [n_pages]: that hold it */
        uint32_t running, waiting, idle, draining;
        uint64_t pages; /* of all tables */
        uint64_t charged; /* of these, not in the prefix cache */
};

static inline void check_sequence(const struct engine *e, const struct sequence *s, enum sequence_state state,
                                  enum schedule_state turn, struct engine_count *c) {
        assert_int_equal(s->state, state);
        assert_int_equal(s->turn.state, turn);
        assert_int_equal(s->n_counted, s->kv.n);
        assert_true(s->path.n <= s->kv.n && s->n_past <= s->n_tokens);
        assert_int_equal(s->n_charged, s->kv.n - s->path.n);
        assert_true(s->n_past <= s->kv.n * ENGINE_PAGE_TOKENS);
        assert_true(state != SEQUENCE_RUNNING || s->kv.n > 0);
        for (uint32_t i = 0; i < s->kv.n; i++) {
                assert_true(s->kv.pages[i] < e->pool.n_pages);
                c->tables[s->kv.pages[i]]++;
                /* Where it writes next it is alone. */
                assert_true(i < s->n_past / ENGINE_PAGE_TOKENS || kv_table_owns(&e->pool, &s->kv, i));
        }
        c->pages += s->kv.n;
        c->charged += s->n_charged;
}

static inline uint32_t check_list(const struct engine *e, const struct list *head, enum sequence_state state,
                                  enum schedule_state turn, struct engine_count *c) {
        uint32_t n = 0;

        for (const struct list *l = head->next; l != head; l = l->next, n++)
                check_sequence(e, LIST_ENTRY(l, const struct sequence, link), state, turn, c);
        return n;
}

static inline void check_users(const struct engine *e, const struct engine_count *c) {
        struct engine_count sum = { 0 };

        for (size_t i = 0; i < e->schedule.user_buckets; i++)
                for (const struct schedule_user *u = e->schedule.users[i]; u; u = u->next) {
                        sum.running += u->n_running;
                        sum.waiting += u->n_waiting;
                        sum.idle += u->n_idle;
                        sum.pages += u->pages;
                        assert_true(u->running_limit == 0 || u->n_running <= u->running_limit);
                        assert_true(!u->held || u->n_running > 0); /* or nobody would ever let it go on */
                        assert_true(u->pages == 0 || u->n_running + u->n_waiting + u->n_idle > 0);
                }
        assert_int_equal(sum.running, c->running);
        assert_int_equal(sum.waiting, c->waiting);
        assert_int_equal(sum.idle, c->idle);
        assert_int_equal(sum.pages, c->pages);
        assert_int_equal(e->schedule.n_running, c->running);
        assert_int_equal(e->schedule.n_waiting, c->waiting);
        assert_int_equal(e->schedule.n_idle, c->idle);
        assert_int_equal(e->n_draining, c->draining);
}

static inline void check_charges(const struct prefix_cache *p, const struct engine_count *c) {
        uint64_t n = 0;

        for (unsigned i = 0; i < PREFIX_USER_BUCKETS; i++)
                for (const struct prefix_user *u = p->users[i]; u; u = u->next)
                        n += u->n_other;
        assert_int_equal(n, c->charged);
}

static inline void check_pool(const struct kv_pool *p, const struct engine_count *c) {
        uint32_t n_held = 0, n_cached = 0;

        for (uint32_t i = 0; i < p->n_pages; i++) {
                assert_int_equal(p->tables[i], c->tables[i]);
                n_held += c->tables[i] > 0;
                n_cached += c->tables[i] == 0 && p->caches[i] > 0;
        }
        assert_int_equal(p->n_held, n_held);
        assert_int_equal(p->n_cached, n_cached);
}

static inline void engine_check(const struct engine *e) {
        struct engine_count c = { .tables = calloc(e->pool.n_pages, sizeof(uint32_t)) };

        assert_non_null(c.tables);
        c.running = check_list(e, &e->running, SEQUENCE_RUNNING, SCHEDULE_RUNNING, &c);
        c.waiting = check_list(e, &e->waiting, SEQUENCE_WAITING, SCHEDULE_WAITING, &c);
        c.idle = check_list(e, &e->paused, SEQUENCE_PAUSED, SCHEDULE_IDLE, &c);
        c.draining = check_list(e, &e->draining, SEQUENCE_DRAINING, SCHEDULE_NEW, &c);
        check_users(e, &c);
        check_pool(&e->pool, &c);
        check_charges(e->prefix, &c);
        assert_true(prefix_check(e->prefix));
        free(c.tables);
}

/* Everything has ended: no page is held, and after forgetting none is cached. */
static inline void engine_check_idle(struct engine *e) {
        engine_check(e);
        assert_true(list_empty(&e->waiting) && list_empty(&e->running) && list_empty(&e->paused) &&
                    list_empty(&e->draining));
        assert_int_equal(e->pool.n_held, 0);
        engine_forget_all(e);
        assert_true(prefix_check(e->prefix));
        assert_int_equal(e->pool.n_cached, 0);
        assert_int_equal(kv_pool_free(&e->pool), e->pool.n_pages);
}
