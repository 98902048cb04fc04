/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Promise 1 as a property: a request gives the same tokens in any company as alone, whatever happens around it. Random
 * mixtures of requests come at random moments, are chunked, parked and robbed of their pages, starve for credit, are
 * cancelled, find prefixes of their own and of others, are forgotten, and lose their engine. Each must give exactly what
 * it gave alone; afterwards not one page is held.
 *
 *   test-mixtures WORLD SEED    runs one mixture again (what depends on measured step times may differ)
 */

#include <inttypes.h>

#include "mixture.h"

#define MANY 10000u
#define COMPUTED 240u
#define KILLS_MAX 3u
#define TURNS_MAX 20000u

/* What happened on the way: a test in which it never does proves nothing. */
enum event {
        PARKED,  /* waits with its pages */
        ROBBED,  /* waits, or is paused, without the pages that it had */
        PAUSED,
        DRAINING,
        HIT, /* of whole pages */
        HIT_PARTIAL,
        HIT_STRANGER,
        BUSY,
        QUOTA,
        OVERFLOW,
        REPLAYED,
        RESTORED,  /* pages */
        FORGOTTEN, /* while something ran */
        ENDED_EOS,
        ENDED_STOP,
        CANCELLED_WAITING,
        CANCELLED_PREFILL,
        CANCELLED_DECODE,
        CANCELLED_PAUSED,
        CANCELLED_DRAINING,
        EVENTS,
};

static const char *const event_names[EVENTS] = {
        "parked", "robbed", "paused", "draining", "hit", "partial hit", "hit of a stranger's", "busy", "quota", "overflow",
        "replayed", "restored", "forgotten", "end of sequence", "stop string", "cancelled while waiting",
        "... in its prompt", "... in its answer", "... while paused", "... while draining",
};

static uint64_t seen[EVENTS];

/* Where all of them take too long, one in so many. */
static unsigned one_in(void) {
#if defined(__SANITIZE_THREAD__)
        return 20;
#elif defined(__SANITIZE_ADDRESS__)
        return 10;
#else
        return getenv("SPARK_TEST_EMULATED") ? 20 : 1;
#endif
}

/* --- what comes out ------------------------------------------------------------------------------------------------ */

static size_t common(const struct request *a, const struct job *b) {
        const struct request *q = &b->alone.request;
        size_t n = 0;

        while (n < a->n_tokens && n < q->n_tokens && a->tokens[n] == q->tokens[n])
                n++;
        for (size_t i = 0; n == q->n_tokens + i && n < a->n_tokens && i < b->alone.n; i++)
                n += a->tokens[n] == b->alone.ids[i];
        return n;
}

/* What was there of the prompt came from the same user, or was meant for everybody. */
static void check_cached(const struct mixture *m, const struct job *j) {
        const struct request *q = &j->x.request;
        uint32_t cached = j->x.done.cached_tokens;
        size_t own = 0, public = 0;

        for (uint32_t i = 0; i < m->n; i++) {
                const struct job *other = &m->jobs[i];

                /* Its own pages only where they were kept, and put back into its second engine. */
                if (other->x.request.kind == REQUEST_SCORE || (other == j && !(q->replay && m->restored)))
                        continue;
                if (other->x.request.uid == q->uid)
                        own = MAX(own, common(q, other));
                if (other->x.request.share)
                        public = MAX(public, common(q, other));
        }
        assert_true(cached <= MAX(own, public));
        /* The last token is computed, for its logits; unless others came behind it. */
        assert_true(cached < q->n_tokens || (cached == q->n_tokens && (q->kind == REQUEST_PREWARM || q->n_generated > 0)) ||
                    q->kind == REQUEST_SCORE);
        seen[HIT] += cached >= ENGINE_PAGE_TOKENS;
        seen[HIT_PARTIAL] += cached % ENGINE_PAGE_TOKENS != 0;
        seen[HIT_STRANGER] += cached > own;
}

static void check_finished(const struct mixture *m, const struct job *j) {
        const struct result *x = &j->x, *alone = &j->alone;

        assert_true(alone->finished);
        assert_same_output(x, alone);
        assert_int_equal(x->done.prompt_tokens, alone->done.prompt_tokens);
        assert_int_equal(x->done.seed, alone->done.seed);
        assert_int_equal(x->done.scored, alone->done.scored);
        assert_memory_equal(&x->done.nll, &alone->done.nll, sizeof(x->done.nll));
        check_cached(m, j);
        seen[ENDED_EOS] += x->done.reason == SPARK__V1__FINISH_REASON__STOP;
        seen[ENDED_STOP] += x->done.reason == SPARK__V1__FINISH_REASON__STOP_STRING;
}

/* What came before the end is a beginning of what it gives alone. */
static void check_cancelled(const struct job *j) {
        const struct result *x = &j->x, *alone = &j->alone;

        assert_true(j->cancelled);
        assert_true(x->n <= alone->n && x->n_text <= alone->n_text);
        assert_memory_equal(x->ids, alone->ids, x->n * sizeof(*x->ids));
        assert_memory_equal(x->logprobs, alone->logprobs, x->n * sizeof(*x->logprobs));
        assert_memory_equal(x->text_end, alone->text_end, x->n * sizeof(*x->text_end));
        assert_memory_equal(x->text, alone->text, x->n_text);
}

static void check_failed(const struct job *j) {
        const struct failure *f = &j->x.failure;

        if (f->code == SPARK__V1__ERROR_CODE__CANCELLED) {
                check_cancelled(j);
                return;
        }
        assert_true(j->alone.failed && !j->x.accepted);
        assert_int_equal(f->code, j->alone.failure.code);
        assert_int_equal(f->have, j->alone.failure.have);
        assert_int_equal(f->max, j->alone.failure.max);
        seen[QUOTA] += f->code == SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED;
        seen[OVERFLOW] += f->code == SPARK__V1__ERROR_CODE__CONTEXT_OVERFLOW;
}

/* True where all have ended. */
static bool collect(struct mixture *m) {
        bool all = true;

        for (uint32_t i = 0; i < m->n; i++) {
                struct job *j = &m->jobs[i];

                if (!j->ended && result_ended(&j->x)) {
                        j->ended = true;
                        if (j->x.finished)
                                check_finished(m, j);
                        else
                                check_failed(j);
                }
                all = all && j->ended;
        }
        return all;
}

/* --- what goes in -------------------------------------------------------------------------------------------------- */

static bool is_live(const struct job *j) {
        return j->submitted && !result_ended(&j->x);
}

/* A random one of the live ones, or of those that are still to come; NULL where there is none. */
static struct job *pick(struct mixture *m, bool live) {
        uint32_t first = random_below(&m->random, m->n);

        for (uint32_t i = 0; i < m->n; i++) {
                struct job *j = &m->jobs[(first + i) % m->n];

                if (!result_ended(&j->x) && j->submitted == live)
                        return j;
        }
        return NULL;
}

/* Those that are refused for now come again. */
static void submit(struct mixture *m, struct job *j) {
        struct engine *e = m->w->lab.engine;

        j->submitted = true;
        assert_int_equal(engine_submit(e, &j->x.request), 0);
        if (!j->x.failed || j->x.failure.code != SPARK__V1__ERROR_CODE__BUSY)
                return;
        assert_true(e->schedule.n_waiting > 0 && j->x.failure.retry_after_ms > 0);
        assert_true(j->x.request.queued_limit > 0 || e->schedule.n_waiting >= e->config.max_queued);
        assert_false(j->x.accepted);
        j->x.failed = j->submitted = false;
        seen[BUSY]++;
}

static void grant(struct mixture *m, struct job *j, uint32_t tokens) {
        j->credit += tokens;
        atomic_fetch_add(&j->x.request.granted, tokens);
        engine_notice_credit(m->w->lab.engine);
}

static struct sequence *find_in(struct list *head, const struct request *r) {
        for (struct list *l = head->next; l != head; l = l->next)
                if (LIST_ENTRY(l, struct sequence, link)->request == r)
                        return LIST_ENTRY(l, struct sequence, link);
        return NULL;
}

static void note_cancelled(struct engine *e, const struct request *r) {
        struct sequence *s = find_in(&e->running, r);

        if (s)
                seen[s->n_past < s->n_prompt ? CANCELLED_PREFILL : CANCELLED_DECODE]++;
        seen[CANCELLED_WAITING] += find_in(&e->waiting, r) != NULL;
        seen[CANCELLED_PAUSED] += find_in(&e->paused, r) != NULL;
        seen[CANCELLED_DRAINING] += find_in(&e->draining, r) != NULL;
}

static void note_states(struct engine *e) {
        struct list *const heads[] = { &e->waiting, &e->paused };

        for (unsigned i = 0; i < ARRAY_SIZE(heads); i++)
                for (struct list *l = heads[i]->next; l != heads[i]; l = l->next) {
                        const struct sequence *s = LIST_ENTRY(l, const struct sequence, link);

                        seen[PARKED] += i == 0 && s->kv.n > 0;
                        seen[ROBBED] += s->started && s->kv.n == 0;
                        seen[PAUSED] += i == 1 && s->started;
                }
        seen[DRAINING] += !list_empty(&e->draining);
}

/* One step. True where the engine says that there is more to do; where not, nothing may be left that could run. */
static bool step(struct mixture *m) {
        struct engine *e = m->w->lab.engine;
        struct engine_stats stats;
        int r = engine_step(e);

        assert_true(r >= 0);
        stats = lab_stats(&m->w->lab);
        if (r == 0)
                assert_int_equal(stats.running + stats.queued, 0);
        note_states(e);
        if (m->checked)
                engine_check(e);
        for (uint32_t i = 0; i < USERS; i++) {
                const struct schedule_user *u = schedule_find_user(&e->schedule, i);

                assert_true(!u || m->limits[i].kv == 0 || u->pages * e->page_bytes <= m->limits[i].kv);
        }
        return r > 0;
}

/* A random one; one that was computed to its end is rare, and so preferred. */
static struct job *pick_victim(struct mixture *m) {
        const struct list *draining = &m->w->lab.engine->draining;

        if (!list_empty(draining)) {
                struct request *r = LIST_ENTRY(draining->next, struct sequence, link)->request;

                return CONTAINER_OF(CONTAINER_OF(r, struct result, request), struct job, x);
        }
        return pick(m, random_chance(&m->random, 90));
}

/* After the next step it is gone, from wherever it was. */
static void cancel(struct mixture *m) {
        struct job *j = pick_victim(m);

        if (!j)
                return;
        note_cancelled(m->w->lab.engine, &j->x.request);
        j->cancelled = true;
        atomic_store(&j->x.request.cancelled, true);
        engine_notice(m->w->lab.engine);
        if (!j->submitted)
                submit(m, j);
        (void)step(m);
        assert_true(result_ended(&j->x));
}

static void forget(struct mixture *m) {
        struct engine *e = m->w->lab.engine;

        seen[FORGOTTEN] += e->schedule.n_running > 0;
        if (random_chance(&m->random, 30))
                engine_forget_all(e);
        else
                engine_forget(e, random_below(&m->random, USERS));
}

/* Takes what is cached of a text out, or puts it back, for the same user. */
static void keep_pages(struct mixture *m) {
        struct engine *e = m->w->lab.engine;
        struct kept *k = &m->kept;
        size_t size = engine_page_bytes(e);
        int r;

        if (k->n_pages > 0) {
                r = engine_import_pages(e, k->uid, k->tokens, 0, k->n_pages, k->data);
                assert_true(r >= 0 && r <= (int)k->n_pages);
                assert_true((int)engine_cached_pages(e, k->uid, k->tokens, k->n_pages * ENGINE_PAGE_TOKENS) >= r);
                seen[RESTORED] += (uint64_t)r;
                m->restored = true;
                k->n_pages = 0;
        } else {
                const struct job *j = &m->jobs[random_below(&m->random, m->n)];
                size_t n_prompt = MIN(j->alone.request.n_tokens, (size_t)PROMPT_MAX);
                size_t n = MIN(PROMPT_MAX - n_prompt, j->alone.n);

                assert_true(KEPT_PAGES * size <= sizeof(k->data));
                k->uid = j->alone.request.uid;
                memcpy(k->tokens, j->alone.request.tokens, n_prompt * sizeof(*k->tokens));
                memcpy(k->tokens + n_prompt, j->alone.ids, n * sizeof(*k->tokens));
                r = engine_export_pages(e, k->uid, k->tokens, n_prompt + n, 0, KEPT_PAGES, k->data);
                assert_true(r >= 0);
                k->n_pages = (uint32_t)r;
        }
}

/* The engine is gone; another one, of other settings, gets what was not finished. */
static void kill_engine(struct mixture *m) {
        struct lab *l = &m->w->lab;
        const struct engine_config config = draw_config(m);

        l->engine = engine_free(l->engine);
        lab_start(l, &config);
        m->kills++;
        for (uint32_t i = 0; i < m->n; i++) {
                struct job *j = &m->jobs[i];
                struct request *q = &j->x.request;

                if (!is_live(j))
                        continue;
                seen[REPLAYED] += j->x.n > 0;
                free(q->generated);
                q->generated = calloc(j->x.n + 1, sizeof(*q->generated));
                assert_non_null(q->generated);
                memcpy(q->generated, j->x.ids, j->x.n * sizeof(*q->generated));
                q->n_generated = j->x.n_before = j->x.n;
                q->replay = true;
                atomic_store(&q->granted, j->credit - j->x.n);
                j->x.accepted = false;
                assert_int_equal(engine_submit(l->engine, q), 0);
                assert_true(j->x.accepted || j->x.failure.code == SPARK__V1__ERROR_CODE__CANCELLED);
        }
}

static void act(struct mixture *m) {
        uint32_t dice = random_below(&m->random, 200);
        struct job *j;

        if (random_chance(&m->random, m->haste) && (j = pick(m, false)))
                submit(m, j);
        if (dice < (list_empty(&m->w->lab.engine->draining) ? 8 : 60)) {
                cancel(m);
        } else if (dice < 60) {
                if ((j = pick(m, true)) && j->dribbled)
                        grant(m, j, 1 + random_below(&m->random, 6));
        } else if (dice < 64) {
                forget(m);
        } else if (dice < 66) {
                if (m->kills < KILLS_MAX)
                        kill_engine(m);
        } else if (dice < 76) {
                keep_pages(m);
        }
}

/* Nothing can go on by itself. */
static void push(struct mixture *m) {
        struct job *j = pick(m, false);

        if (j) {
                submit(m, j);
                assert_true(j->submitted); /* nobody else is waiting */
                return;
        }
        for (uint32_t i = 0; i < m->n; i++)
                if (is_live(&m->jobs[i])) {
                        const struct result *x = &m->jobs[i].x, *alone = &m->jobs[i].alone;

                        assert_true(m->jobs[i].dribbled && x->n == m->jobs[i].credit);
                        /* Where nothing is left but to end, no credit is needed; unless the end is still to be computed. */
                        assert_true(x->n < alone->n || alone->done.reason == SPARK__V1__FINISH_REASON__STOP);
                        grant(m, &m->jobs[i], 1 + random_below(&m->random, 6));
                }
}

/* --- mixtures ------------------------------------------------------------------------------------------------------ */

static void run_mixture(struct world *w, uint64_t seed) {
        static struct mixture m;
        struct engine_config config;

        mixture_draw(&m, w, seed);
        config = draw_config(&m);
        lab_start(&w->lab, &config);
        while (!collect(&m)) {
                bool more = true;

                assert_true(m.turns++ < TURNS_MAX);
                act(&m);
                for (uint32_t n = random_below(&m.random, 4); more && n > 0; n--)
                        more = step(&m);
                if (!more && !collect(&m))
                        push(&m);
        }
        engine_check_idle(w->lab.engine);
        w->lab.engine = engine_free(w->lab.engine);
        mixture_free(&m);
        w->seed = 0;
}

static struct world worlds[] = {
        { .name = "null", .backend = "null", .format = KV_F16 },
        { .name = "f16", .backend = "cpu", .format = KV_F16 },
        { .name = "f32", .backend = "cpu", .format = KV_F32 },
        { .name = "q8_0", .backend = "cpu", .format = KV_Q8_0 },
};

static void world_open(struct world *w) {
        lab_open_model(&w->lab, w->backend, 1);
        for (unsigned i = 0; i < CONTEXTS; i++) {
                const struct engine_config config = {
                        .context = contexts[i], .max_sequences = 1, .max_rows = 512, .kv_format = w->format,
                };

                lab_open_model(&w->alone[i], w->backend, 1);
                lab_start(&w->alone[i], &config);
        }
}

static void world_close(struct world *w) {
        for (unsigned i = 0; i < CONTEXTS; i++)
                lab_close(&w->alone[i]);
        lab_close_model(&w->lab);
}

static void run_world(struct world *w, unsigned n) {
        world_open(w);
        for (unsigned i = 0; i < n / one_in(); i++)
                run_mixture(w, i + 1);
        world_close(w);
}

static int tell_seed(void **state) {
        for (size_t i = 0; i < ARRAY_SIZE(worlds); i++) {
                if (worlds[i].seed)
                        print_error("failed in: test-mixtures %s %" PRIu64 "\n", worlds[i].name, worlds[i].seed);
                worlds[i].seed = 0;
        }
        return 0;
}

static void test_fake_mixtures(void **state) {
        memset(seen, 0, sizeof(seen));
        run_world(&worlds[0], MANY);
        for (unsigned i = 0; i < EVENTS; i++) {
                unsigned least = MANY / 200 / one_in();

                if (seen[i] < least)
                        print_error("seen only %" PRIu64 " times: %s\n", seen[i], event_names[i]);
                assert_true(seen[i] >= least);
        }
}

static void test_f16_mixtures(void **state) {
        run_world(&worlds[1], COMPUTED);
}

static void test_f32_mixtures(void **state) {
        run_world(&worlds[2], COMPUTED / 2);
}

static bool has_format(const struct world *w) {
        const struct backend_config be = { .threads = 1, .isa = "auto" };
        const struct kv_config config = {
                .n_layers = 1, .n_kv_heads = 1, .head_dim = 32, .n_pages = 1, .page_tokens = ENGINE_PAGE_TOKENS,
                .format = w->format,
        };
        const struct backend_ops *ops = backend_find(w->backend);
        struct kv_cache *kv = NULL;
        struct backend *b = NULL;
        int r;

        assert_int_equal(ops->open(&be, &b), 0);
        r = ops->kv_new(b, &config, &kv);
        (void)ops->kv_free(b, kv);
        (void)ops->close(b);
        assert_true(r == 0 || r == BACKEND_E_UNSUPPORTED);
        return r == 0;
}

static void test_q8_0_mixtures(void **state) {
        if (!has_format(&worlds[3])) {
                print_message("skipped: this backend has no Q8_0 KV\n");
                skip();
        }
        run_world(&worlds[3], COMPUTED);
}

static void test_one(void **state) {
        char *const *argv = *state;
        struct world *w = NULL;

        for (size_t i = 0; i < ARRAY_SIZE(worlds); i++)
                if (strcmp(worlds[i].name, argv[1]) == 0)
                        w = &worlds[i];
        assert_non_null(w);
        world_open(w);
        run_mixture(w, strtoull(argv[2], NULL, 10));
        world_close(w);
}

int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_teardown(test_fake_mixtures, tell_seed),
                cmocka_unit_test_teardown(test_f16_mixtures, tell_seed),
                cmocka_unit_test_teardown(test_f32_mixtures, tell_seed),
                cmocka_unit_test_teardown(test_q8_0_mixtures, tell_seed),
        };

        const struct CMUnitTest one[] = { cmocka_unit_test_prestate(test_one, argv) };

        if (argc == 3)
                return cmocka_run_group_tests(one, NULL, NULL);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
