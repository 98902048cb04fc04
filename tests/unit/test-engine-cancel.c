/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Promise 5: what is cancelled is gone with the next step, its pages included, wherever it was. 1,000 random cancels in the
 * core, and as many through the link's threads. Each request is of a user of its own, so that what a user holds is what the
 * request holds.
 */

#include "engine-check.h"
#include "link-fixture.h"

#define CANCELS 1000u
#define LIVE 16u /* at a time */

static uint32_t random_below(uint64_t *state, uint32_t n) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        return (uint32_t)((*state >> 32) * n >> 32);
}

/* Where they were: a test that never meets one of these proves nothing about it. */
enum where {
        NEW, /* not even in the engine */
        WAITING,
        PREFILL,
        DECODE,
        PAUSED,
        WHERES,
};

static unsigned seen[WHERES];

static void assert_seen(unsigned least) {
        for (unsigned i = WAITING; i < WHERES; i++)
                assert_true(seen[i] >= least);
}

/* --- the core ------------------------------------------------------------------------------------------------------ */

static void add_live(struct lab *l, uint64_t *random, struct result *x, uint32_t key) {
        result_init(x, key, 1 + random_below(random, 200), 1 + random_below(random, 250), key);
        x->request.uid = key;
        x->request.class = (enum schedule_class)random_below(random, SCHEDULE_CLASSES);
        if (random_below(random, 4) == 0)
                atomic_store(&x->request.granted, random_below(random, 6));
        lab_submit(l, x);
        assert_true(x->accepted);
}

static enum where where_is(const struct lab *l, const struct result *x) {
        uint64_t keys[LIVE];
        size_t n;

        n = engine_list_queued(l->engine, keys, LIVE);
        for (size_t i = 0; i < n; i++)
                if (keys[i] == x->request.key)
                        return WAITING;
        n = engine_list_paused(l->engine, keys, LIVE);
        for (size_t i = 0; i < n; i++)
                if (keys[i] == x->request.key)
                        return PAUSED;
        return x->n > 0 ? DECODE : PREFILL;
}

/* No two have a page in common here: what all users hold together is what is held. */
static void check_pages(const struct lab *l) {
        struct engine_user users[64];
        size_t n = engine_list_users(l->engine, users, 64);
        uint64_t sum = 0;

        assert_true(n < 64);
        for (size_t i = 0; i < n; i++)
                sum += users[i].kv_used_bytes;
        assert_int_equal(sum, lab_stats(l).kv_used_bytes);
}

static void cancel_live(struct lab *l, struct result *x) {
        uint32_t uid = x->request.uid;
        struct engine_user user;
        uint32_t n = x->n;

        seen[where_is(l, x)]++;
        lab_cancel(l, x);
        assert_true(engine_step(l->engine) >= 0);
        assert_true(x->failed);
        assert_int_equal(x->failure.code, SPARK__V1__ERROR_CODE__CANCELLED);
        assert_int_equal(x->n, n); /* nothing more was said */
        user = lab_user(l, uid);
        assert_int_equal(user.kv_used_bytes, 0);
        assert_int_equal(user.running + user.queued, 0);
        check_pages(l);
        engine_check(l->engine);
}

static void test_core(void **state) {
        struct engine_config config = { .max_sequences = 6, .max_rows = 24, .context = 320, .quantum = 50 };
        static struct result x[LIVE];
        bool live[LIVE] = { false };
        uint64_t random = 1;
        uint32_t key = 0;
        struct lab l;

        memset(seen, 0, sizeof(seen));
        lab_open_model(&l, "null", 1);
        config.kv_bytes = 24 * lab_page_bytes(&l, KV_F16);
        lab_start(&l, &config);
        for (unsigned cancels = 0; cancels < CANCELS;) {
                uint32_t i = random_below(&random, LIVE);

                if (live[i] && result_ended(&x[i])) {
                        assert_true(x[i].finished);
                        result_deinit(&x[i]);
                        live[i] = false;
                }
                if (!live[i]) {
                        add_live(&l, &random, &x[i], ++key);
                        live[i] = true;
                } else if (random_below(&random, 3) == 0) {
                        cancel_live(&l, &x[i]);
                        result_deinit(&x[i]);
                        live[i] = false;
                        cancels++;
                }
                for (uint32_t n = random_below(&random, 8); n > 0; n--)
                        assert_true(engine_step(l.engine) >= 0);
        }
        for (uint32_t i = 0; i < LIVE; i++) {
                if (!live[i])
                        continue;
                if (!result_ended(&x[i]))
                        cancel_live(&l, &x[i]);
                result_deinit(&x[i]);
        }
        assert_seen(CANCELS / 100);
        assert_int_equal(engine_step(l.engine), 0);
        engine_check_idle(l.engine);
        lab_close(&l);
}

/* --- the link ------------------------------------------------------------------------------------------------------ */

#define KEYS 8192u /* at most, of a test */

struct remote {
        struct fixture x;
        uint64_t random, cookie;
        uint32_t last; /* key given */
        unsigned cancels;
        uint32_t live[LIVE];
        struct {
                bool accepted, ended, cancelled;
                uint32_t n; /* tokens */
        } r[KEYS];
};

static void take_end(struct remote *m, uint64_t key, bool cancelled) {
        assert_true(key > 0 && key <= m->last && !m->r[key].ended);
        assert_true(!cancelled || m->r[key].cancelled);
        m->r[key].ended = true;
        m->cancels += cancelled;
}

static void take_frame(struct remote *m, const EngineFrame *f) {
        switch (f->body_case) {
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_ACCEPTED:
                assert_false(m->r[f->accepted->key].accepted);
                m->r[f->accepted->key].accepted = true;
                break;
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_TOKENS:
                for (size_t i = 0; i < f->tokens->n_chunks; i++) {
                        uint64_t key = f->tokens->chunks[i]->key;

                        assert_true(m->r[key].accepted && !m->r[key].ended);
                        m->r[key].n++;
                }
                break;
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_FINISHED:
                take_end(m, f->finished->key, false);
                break;
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_FAILED:
                assert_int_equal(f->failed->error->code, SPARK__V1__ERROR_CODE__CANCELLED);
                take_end(m, f->failed->key, true);
                break;
        default:
                assert_int_equal(f->body_case, SPARK__ENGINE__V1__ENGINE_FRAME__BODY_PROGRESS);
        }
}

/* What the step thread knows of everything that was sent before; valid until the next frame. */
static const Spark__Engine__V1__State *ask_state(struct remote *m) {
        send_ping(&m->x, ++m->cookie);
        for (;;) {
                EngineFrame *f = receive(&m->x);

                if (f->body_case == SPARK__ENGINE__V1__ENGINE_FRAME__BODY_STATE) {
                        assert_int_equal(f->state->cookie, m->cookie);
                        return f->state;
                }
                take_frame(m, f);
        }
}

static bool has_key(const uint64_t *keys, size_t n, uint64_t key) {
        for (size_t i = 0; i < n; i++)
                if (keys[i] == key)
                        return true;
        return false;
}

static enum where where_in(const struct remote *m, const Spark__Engine__V1__State *s, uint32_t key) {
        if (!m->r[key].accepted)
                return NEW;
        if (has_key(s->queued_keys, s->n_queued_keys, key))
                return WAITING;
        if (has_key(s->paused_keys, s->n_paused_keys, key))
                return PAUSED;
        return m->r[key].n > 0 ? DECODE : PREFILL;
}

static void check_state(const Spark__Engine__V1__State *s, uint32_t gone) {
        uint64_t sum = 0;

        for (size_t i = 0; i < s->n_users; i++) {
                const Spark__Engine__V1__UserState *u = s->users[i];

                sum += u->kv_used_bytes;
                assert_true(u->uid != gone || u->kv_used_bytes + u->running + u->queued == 0);
        }
        assert_int_equal(sum, s->kv_used_bytes);
        assert_false(has_key(s->queued_keys, s->n_queued_keys, gone));
        assert_false(has_key(s->paused_keys, s->n_paused_keys, gone));
}

/* When the step thread answers a ping that came after the cancel, it is between two steps, and the next one sees the cancel
 * first: the tokens of one step may come before the end, none of them of the request. */
static void cancel_remote(struct remote *m, uint32_t key) {
        enum where where;
        unsigned steps = 0;
        uint32_t n;

        m->r[key].cancelled = true;
        send_cancel(&m->x, key);
        where = where_in(m, ask_state(m), key);
        if (!m->r[key].ended)
                seen[where]++;
        n = m->r[key].n;
        while (!m->r[key].ended) {
                EngineFrame *f = receive(&m->x);

                steps += f->body_case == SPARK__ENGINE__V1__ENGINE_FRAME__BODY_TOKENS;
                assert_true(steps <= 1 || where == NEW);
                take_frame(m, f);
        }
        assert_int_equal(m->r[key].n, n);
        assert_int_equal(m->r[key].accepted, where != NEW);
        check_state(ask_state(m), key);
}

static uint32_t submit_remote(struct remote *m) {
        static char prompt[256];
        uint32_t key = ++m->last, size = 1 + random_below(&m->random, 250);
        struct generate g;

        assert_true(key < KEYS);
        for (uint32_t i = 0; i < size; i++)
                prompt[i] = (char)('a' + (key + i * i) % 26);
        prompt[size] = '\0';
        generate_init(&g, key, prompt, 1 + random_below(&m->random, 200),
                      random_below(&m->random, 4) == 0 ? random_below(&m->random, 6) : 100000);
        g.submit.uid = key;
        g.submit.client = key % 5;
        submit(&m->x, &g.submit, NULL, 0);
        return key;
}

static void test_link(void **state) {
        static struct remote m;
        const Spark__Engine__V1__State *s;

        memset(&m, 0, sizeof(m));
        memset(seen, 0, sizeof(seen));
        m.x.config = (struct engine_config){ .max_sequences = 6, .max_rows = 8, .context = 512, .quantum = 50 };
        m.x.config.kv_bytes = 24ull * ENGINE_PAGE_TOKENS * 8;
        m.x.counts_kv = true;
        start(&m.x);
        while (m.cancels < CANCELS) {
                uint32_t *slot = &m.live[random_below(&m.random, LIVE)];

                if (*slot == 0 || m.r[*slot].ended) {
                        *slot = submit_remote(&m);
                        if (random_below(&m.random, 4) > 0)
                                continue;
                } else if (random_below(&m.random, 3) > 0) {
                        (void)ask_state(&m);
                        continue;
                }
                cancel_remote(&m, *slot);
        }
        for (unsigned i = 0; i < LIVE; i++)
                if (m.live[i] && !m.r[m.live[i]].ended)
                        cancel_remote(&m, m.live[i]);
        s = ask_state(&m);
        assert_int_equal(s->kv_used_bytes, 0);
        assert_int_equal(s->running + s->queued + s->paused, 0);
        assert_seen(1);
        stop(&m.x, LINK_E_CLOSED);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_core),
                cmocka_unit_test(test_link),
        };

        log_init("test-engine-cancel", LOG_LEVEL_WARNING, 0);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
