/* SPDX-License-Identifier: Apache-2.0 */

/* Memory given back and taken again in a manager whose engine is played here; models that are held back. */

#include "session-fixture.h"

#include "daemon/control/memory/pressure.h"
#include "daemon/control/memory/shed-private.h"
#include "daemon/control/model/model-private.h"

#define MIB (1ull << 20)

struct told {
        unsigned times;
        uint64_t freed;
        enum shed_step step;
        bool done;
};

static void on_told(void *userdata, uint64_t freed, enum shed_step step, bool done) {
        struct told *t = userdata;

        t->times++;
        t->freed = freed;
        t->step = step;
        t->done = done;
}

static struct shed *want(struct fixture *f, struct told *t, uint64_t bytes, enum shed_step limit, bool exact) {
        const struct shed_want w = { .bytes = bytes, .limit = limit, .exact = exact, .told = on_told, .userdata = t };
        struct shed *s;

        *t = (struct told){ 0 };
        assert_int_equal(shed_new(&s, f->m, &w), 0);
        assert_int_equal(t->times, 0); /* never from within */
        return s;
}

/* A model of 1000 MiB with a pool of 400, of which a running request has 100 and the cache 200. */
static void begin(struct fixture *f) {
        fixture_init(f, "");
        f->engine->resize = ENGINE_RESIZE_NULL;
        f->model->image_bytes = 1000 * MIB;
        f->model->facts.kv_bytes = 400 * MIB;
        f->model->load_wanted = true;
        f->engine->kv_used = 100 * MIB;
        f->engine->kv_cached = 200 * MIB;
        f->engine->kv_resident = 300 * MIB;
}

static void expect_resize(struct fixture *f, uint64_t cache, uint64_t kv, uint64_t *ret_key) {
        Spark__Engine__V1__ControlFrame *c = expect_command(f, SPARK__ENGINE__V1__CONTROL_FRAME__BODY_RESIZE);

        assert_true(c->resize->cache_bytes == cache);
        assert_true(c->resize->kv_bytes == kv);
        *ret_key = c->resize->key;
        (void)message_free(&c->base);
}

static void say_resized(struct fixture *f, uint64_t key, uint64_t freed, uint64_t resident) {
        Spark__Engine__V1__Resized m = SPARK__ENGINE__V1__RESIZED__INIT;

        m.key = key;
        m.freed_bytes = freed;
        m.kv_resident_bytes = resident;
        engine_take_resized(f->engine, &m);
        turn_once(f);
}

/* Its process has ended, as it was told to. */
static void engine_ends(struct fixture *f) {
        const struct request_error none = { 0 };

        assert_int_equal(f->engine->state, ENGINE_ENDING);
        channel_deinit(&f->far);
        f->model->engine = engine_discard(f->engine);
        f->engine = NULL;
        model_engine_gone(f->model, true, false, 1, &none);
        turn_once(f);
}

static void test_cache_first(void **state) {
        struct fixture f;
        struct shed *s;
        struct told t;
        uint64_t key;

        begin(&f);
        s = want(&f, &t, 150 * MIB, SHED_WEIGHTS, false);
        expect_resize(&f, 0, UINT64_MAX, &key);
        assert_int_equal(shed_step_now(f.m), SHED_CACHE);
        assert_true(shed_pending(f.m) == 200 * MIB);
        assert_false(t.done);
        assert_int_equal(t.freed, 0); /* nothing is there before the engine says so */
        say_resized(&f, key + 7, 200 * MIB, 0); /* an answer that nobody asked for */
        assert_false(t.done);
        say_resized(&f, key, 200 * MIB, 100 * MIB);
        assert_true(t.done && t.freed == 150 * MIB && t.step == SHED_CACHE);
        assert_int_equal(shed_pending(f.m), 0);
        assert_int_equal(shed_bytes(f.m), 0); /* nobody keeps it */
        assert_null(shed_free(s));
        expect_resize(&f, UINT64_MAX, UINT64_MAX, &key);
        assert_int_equal(shed_step_now(f.m), SHED_NOTHING);
        fixture_deinit(&f);
}

/* It was less than reckoned: the next step follows by itself. */
static void test_less_than_reckoned(void **state) {
        struct fixture f;
        struct shed *s;
        struct told t;
        uint64_t key;

        begin(&f);
        s = want(&f, &t, 150 * MIB, SHED_SESSIONS, false);
        expect_resize(&f, 0, UINT64_MAX, &key);
        say_resized(&f, key, 20 * MIB, 280 * MIB);
        assert_int_equal(shed_step_now(f.m), SHED_SESSIONS);
        assert_true(t.done && t.freed == 20 * MIB); /* there is no more, this far */
        assert_null(shed_free(s));
        turn_once(&f);
        fixture_deinit(&f);
}

/* Whoever keeps the memory: it must not be promised to the pool either. */
static void test_exact(void **state) {
        struct fixture f;
        struct shed *s;
        struct told t;
        uint64_t key;

        begin(&f);
        s = want(&f, &t, 150 * MIB, SHED_WEIGHTS, true);
        expect_resize(&f, 0, 250 * MIB, &key);
        say_resized(&f, key, 200 * MIB, 100 * MIB);
        assert_true(t.done && t.freed == 150 * MIB);
        assert_true(shed_bytes(f.m) == 150 * MIB);
        models_count_memory(f.m);
        assert_true(f.m->memory.given == 150 * MIB);
        assert_true(f.m->memory.kv == 250 * MIB);
        shed_change(s, 170 * MIB);
        expect_resize(&f, 0, 230 * MIB, &key);
        say_resized(&f, key, 0, 100 * MIB);
        assert_true(t.done && t.freed == 170 * MIB);
        assert_null(shed_free(s));
        expect_resize(&f, UINT64_MAX, UINT64_MAX, &key);
        models_count_memory(f.m);
        assert_int_equal(f.m->memory.given, 0);
        assert_true(f.m->memory.kv == 400 * MIB);
        fixture_deinit(&f);
}

/* One errand at a time: what is wanted by then goes with the next. */
static void test_one_errand_at_a_time(void **state) {
        struct fixture f;
        struct shed *a, *b;
        struct told ta, tb;
        uint64_t key;

        begin(&f);
        a = want(&f, &ta, 10 * MIB, SHED_KV, true);
        expect_resize(&f, 0, 390 * MIB, &key);
        b = want(&f, &tb, 30 * MIB, SHED_KV, true);
        expect_nothing(&f);
        say_resized(&f, key, 200 * MIB, 100 * MIB);
        expect_resize(&f, 0, 360 * MIB, &key);
        say_resized(&f, key, 0, 100 * MIB);
        assert_true(ta.done && ta.freed == 10 * MIB);
        assert_true(tb.done && tb.freed == 30 * MIB);
        assert_null(shed_free(a));
        expect_resize(&f, 0, 370 * MIB, &key);
        say_resized(&f, key, 0, 100 * MIB);
        assert_null(shed_free(b));
        expect_resize(&f, UINT64_MAX, UINT64_MAX, &key);
        fixture_deinit(&f);
}

/* All of it: the engine is retired, its request waits without a loss, and all goes on when nobody holds it. */
static void test_weights(void **state) {
        struct heard h = { 0 };
        struct fixture f;
        struct shed *s;
        struct request *r;
        struct told t;
        uint64_t key;

        begin(&f);
        r = begin_generate(&f, f.a, "", "a", &h);
        key = expect_submit(&f, NULL, 0, false);
        assert_int_equal(say_accepted(&f, key, (const uint32_t[]){ 1, 2 }, 2), 0);
        say_tokens(&f, key, 0, (const uint32_t[]){ 3 }, 1);
        s = want(&f, &t, 5000 * MIB, SHED_WEIGHTS, false);
        turn_once(&f);
        assert_int_equal(f.model->state, MODEL_UNLOADING);
        assert_true(f.model->giving);
        assert_true(shed_pending(f.m) >= 1000 * MIB);
        assert_false(t.done);
        model_hold(f.model, MODEL_HOLD_LEASE); /* so that nothing is started here */
        engine_ends(&f);
        assert_int_equal(f.model->state, MODEL_AVAILABLE);
        assert_int_equal(f.model->image_bytes, 0);
        assert_true(f.model->load_wanted);
        assert_true(t.done); /* there is no more */
        assert_true(t.freed >= 1300 * MIB && t.freed < 5000 * MIB);
        assert_int_equal(r->losses, 0);
        assert_int_equal(r->state, REQUEST_WAITING);
        assert_int_equal(h.errors, 0);
        assert_null(shed_free(s));
        turn_once(&f);
        assert_int_equal(f.model->holds, MODEL_HOLD_LEASE);
        assert_int_equal(shed_step_now(f.m), SHED_NOTHING);
        assert_int_equal(f.model->state, MODEL_AVAILABLE);
        engine_born(&f); /* what a load would bring about */
        model_release(f.model, MODEL_HOLD_LEASE);
        assert_int_equal(expect_submit(&f, NULL, 0, true), key); /* it goes on behind its token */
        say_done(&f, key);
        TURN_UNTIL(&f, has_ended(&h));
        assert_int_equal(h.done, 1);
        fixture_deinit(&f);
}

/* While weights are away for want of memory others are not loaded; who waits too long is told when to come back. */
static void test_others_wait_and_are_busy(void **state) {
        struct heard h = { 0 };
        struct fixture f;
        struct shed *s;
        struct told t;

        begin(&f);
        s = want(&f, &t, 5000 * MIB, SHED_WEIGHTS, false);
        turn_once(&f);
        model_hold(f.model, MODEL_HOLD_LEASE);
        engine_ends(&f);
        (void)begin_generate(&f, f.b, "", "b", &h);
        turn_once(&f);
        assert_false(has_ended(&h));
        shed_tick(f.m, manager_now_us() + 59 * 1000000u);
        assert_false(has_ended(&h));
        shed_tick(f.m, manager_now_us() + 61 * 1000000u);
        assert_true(has_ended(&h));
        assert_int_equal(h.code, SPARK__V1__ERROR_CODE__BUSY);
        assert_int_equal(h.retry_after_ms, 30000);
        assert_null(shed_free(s));
        turn_once(&f);
        fixture_deinit(&f);
}

/* Held without anything being given back: what runs goes on, what comes waits. */
static void test_hold(void **state) {
        struct heard h = { 0 }, later = { 0 };
        struct fixture f;
        uint64_t key;

        begin(&f);
        (void)begin_generate(&f, f.a, "", "a", &h);
        key = expect_submit(&f, NULL, 0, false);
        model_hold(f.model, MODEL_HOLD_SLEEP);
        model_hold(f.model, MODEL_HOLD_SLEEP); /* need not be counted */
        model_hold(f.model, MODEL_HOLD_LEASE);
        (void)begin_generate(&f, f.a, "", "a", &later);
        expect_nothing(&f);
        assert_int_equal(say_accepted(&f, key, (const uint32_t[]){ 1 }, 1), 0);
        say_done(&f, key);
        TURN_UNTIL(&f, has_ended(&h));
        model_release(f.model, MODEL_HOLD_SLEEP);
        expect_nothing(&f);
        model_release(f.model, MODEL_HOLD_LEASE);
        key = expect_submit(&f, NULL, 0, false);
        assert_int_equal(say_accepted(&f, key, (const uint32_t[]){ 1 }, 1), 0);
        say_done(&f, key);
        TURN_UNTIL(&f, has_ended(&later));
        fixture_deinit(&f);
}

/* Many come and go: in the end nothing is given, and the ledger is as it was. */
static void test_random(void **state) {
        struct shed *s[8] = { NULL };
        struct told t[8];
        struct fixture f;
        unsigned seed = 3;

        begin(&f);
        for (unsigned step = 0; step < 400; step++) {
                Spark__Engine__V1__ControlFrame *c;
                uint64_t sum = 0;
                size_t i;

                seed = seed * 1103515245u + 12345u;
                i = (seed >> 16) % 8;
                if (s[i])
                        s[i] = shed_free(s[i]);
                else
                        s[i] = want(&f, &t[i], ((seed >> 8) % 60) * MIB, SHED_KV, true);
                while ((c = next_command(&f))) {
                        assert_int_equal((int)c->body_case, SPARK__ENGINE__V1__CONTROL_FRAME__BODY_RESIZE);
                        say_resized(&f, c->resize->key, shed_pending(f.m), 100 * MIB);
                        (void)message_free(&c->base);
                }
                for (i = 0; i < 8; i++)
                        sum += s[i] ? s[i]->want.bytes : 0;
                assert_true(shed_bytes(f.m) == MIN(sum, 350 * MIB)); /* an eighth of the pool stays */
                models_count_memory(f.m);
                /* what is to leave memory may take more of the pool */
                assert_true(f.m->memory.kv <= 400 * MIB - f.m->memory.given);
        }
        for (size_t i = 0; i < 8; i++)
                s[i] = shed_free(s[i]);
        turn_once(&f);
        assert_int_equal(shed_step_now(f.m), SHED_NOTHING);
        assert_int_equal(shed_given(f.m), 0);
        models_count_memory(f.m);
        assert_true(f.m->memory.kv == 400 * MIB && f.m->memory.given == 0);
        fixture_deinit(&f);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_cache_first),
                cmocka_unit_test(test_less_than_reckoned),
                cmocka_unit_test(test_exact),
                cmocka_unit_test(test_one_errand_at_a_time),
                cmocka_unit_test(test_weights),
                cmocka_unit_test(test_others_wait_and_are_busy),
                cmocka_unit_test(test_hold),
                cmocka_unit_test(test_random),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
