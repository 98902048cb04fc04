/* SPDX-License-Identifier: Apache-2.0 */

/* Resize, Pause and SelfTest through the socketpair, with requests under way. */

#include "link-fixture.h"

#define STREAMS 6u

static void send_resize(struct fixture *x, uint64_t key, uint64_t cache, uint64_t kv) {
        Spark__Engine__V1__Resize r = SPARK__ENGINE__V1__RESIZE__INIT;
        ControlFrame m = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;

        r.key = key;
        r.cache_bytes = cache;
        r.kv_bytes = kv;
        m.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_RESIZE;
        m.resize = &r;
        send_frame(x, &m, NULL, 0);
}

static void send_pause(struct fixture *x, uint64_t key, bool on) {
        Spark__Engine__V1__Pause p = SPARK__ENGINE__V1__PAUSE__INIT;
        ControlFrame m = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;

        p.key = key;
        p.on = on;
        m.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_PAUSE;
        m.pause = &p;
        send_frame(x, &m, NULL, 0);
}

static void send_self_test(struct fixture *x, uint64_t key) {
        Spark__Engine__V1__SelfTest t = SPARK__ENGINE__V1__SELF_TEST__INIT;
        ControlFrame m = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;

        t.key = key;
        m.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_SELF_TEST;
        m.self_test = &t;
        send_frame(x, &m, NULL, 0);
}

static void send_cap(struct fixture *x, uint64_t key, uint32_t batch, uint32_t threads, uint32_t clocks) {
        Spark__Engine__V1__Cap c = SPARK__ENGINE__V1__CAP__INIT;
        ControlFrame m = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;

        c.key = key;
        c.batch = batch;
        c.threads = threads;
        c.clocks = clocks;
        m.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_CAP;
        m.cap = &c;
        send_frame(x, &m, NULL, 0);
}

/* Sorts frames into streams until one of this kind comes. Counts what ended in *ends, where that is not NULL. */
static EngineFrame *until(struct fixture *x, Spark__Engine__V1__EngineFrame__BodyCase kind, struct stream *s, size_t n,
                          size_t *ends) {
        EngineFrame *m;

        while ((m = receive(x))->body_case != kind) {
                bool ended = take(m, s, n, 1);

                if (ends)
                        *ends += ended;
        }
        return m;
}

static void submit_streams(struct fixture *x, uint64_t first, uint32_t tokens) {
        struct generate g;

        for (uint64_t k = 0; k < STREAMS; k++) {
                char prompt[] = "? prompt that is longer than a page, so that there is something to cache";

                prompt[0] = (char)('a' + k);
                generate_init(&g, first + k, prompt, tokens, 100000);
                g.sampling.seed = 1 + k;
                submit(x, &g.submit, NULL, 0);
        }
}

static void assert_same(const struct stream *a, const struct stream *b) {
        for (unsigned k = 0; k < STREAMS; k++) {
                assert_true(b[k].finished);
                assert_int_equal(a[k].n, b[k].n);
                assert_int_equal(a[k].n_text, b[k].n_text);
                assert_memory_equal(a[k].text, b[k].text, a[k].n_text);
        }
}

/* What streams say undisturbed, and the same ones under way again. */
static void begin_streams(struct fixture *x, struct stream *alone, struct stream *s) {
        memset(alone, 0, STREAMS * sizeof(*alone));
        memset(s, 0, STREAMS * sizeof(*s));
        start(x);
        submit_streams(x, 11, 200);
        collect(x, alone, STREAMS, 11, STREAMS);
        submit_streams(x, 1, 200);
        while (s[0].n < 20)
                (void)take(receive(x), s, STREAMS, 1);
}

static void test_pause(void **state) {
        static struct stream alone[STREAMS], s[STREAMS];
        struct fixture x = { .step_us = 500 };
        struct generate g;
        EngineFrame *m;
        size_t ends = 0;

        begin_streams(&x, alone, s);
        send_pause(&x, 77, true);
        m = until(&x, SPARK__ENGINE__V1__ENGINE_FRAME__BODY_PAUSED, s, STREAMS, &ends);
        assert_int_equal(m->paused->key, 77);
        assert_true(m->paused->on);
        assert_int_equal(ends, 0);
        assert_null(receive_within(&x, 200)); /* nothing moves */
        send_ping(&x, 5);
        m = receive(&x);
        assert_int_equal(m->body_case, SPARK__ENGINE__V1__ENGINE_FRAME__BODY_STATE);
        assert_true(m->state->resting);
        assert_int_equal(m->state->running, STREAMS);
        /* What comes is taken, and waits; what is cancelled ends. */
        generate_init(&g, 50, "one more", 5, 100);
        submit(&x, &g.submit, NULL, 0);
        m = receive(&x);
        assert_int_equal(m->body_case, SPARK__ENGINE__V1__ENGINE_FRAME__BODY_ACCEPTED);
        assert_int_equal(m->accepted->key, 50);
        assert_null(receive_within(&x, 100));
        send_cancel(&x, 50);
        m = receive(&x);
        assert_int_equal(m->body_case, SPARK__ENGINE__V1__ENGINE_FRAME__BODY_FAILED);
        assert_int_equal(m->failed->error->code, SPARK__V1__ERROR_CODE__CANCELLED);
        send_self_test(&x, 78);
        m = receive(&x);
        assert_int_equal(m->body_case, SPARK__ENGINE__V1__ENGINE_FRAME__BODY_TESTED);
        assert_int_equal(m->tested->key, 78);
        assert_string_equal(m->tested->error, "");
        send_pause(&x, 79, true); /* it does already */
        assert_true(receive(&x)->paused->on);
        send_pause(&x, 80, false);
        m = receive(&x);
        assert_int_equal(m->body_case, SPARK__ENGINE__V1__ENGINE_FRAME__BODY_PAUSED);
        assert_false(m->paused->on);
        collect(&x, s, STREAMS, 1, STREAMS);
        assert_same(alone, s);
        send_ping(&x, 6);
        m = receive(&x);
        assert_false(m->state->resting);
        stop(&x, LINK_E_CLOSED);
}

static void test_resize(void **state) {
        static struct stream alone[STREAMS], s[STREAMS];
        const uint64_t page = ENGINE_PAGE_TOKENS * 8;
        struct fixture x = { .step_us = 2000, .counts_kv = true, .config = { .kv_bytes = 200 * page, .context = 1024 } };
        EngineFrame *m;
        size_t ends = 0;

        memset(alone, 0, sizeof(alone));
        memset(s, 0, sizeof(s));
        start(&x);
        submit_streams(&x, 11, 400);
        collect(&x, alone, STREAMS, 11, STREAMS);
        submit_streams(&x, 1, 400);
        while (s[0].n < 100)
                (void)take(receive(&x), s, STREAMS, 1);
        send_resize(&x, 7, 0, 20 * page);
        m = until(&x, SPARK__ENGINE__V1__ENGINE_FRAME__BODY_RESIZED, s, STREAMS, &ends);
        assert_int_equal(m->resized->key, 7);
        assert_int_equal(m->resized->kv_bytes, 20 * page);
        assert_true(m->resized->kv_resident_bytes <= 20 * page);
        send_ping(&x, 1);
        m = until(&x, SPARK__ENGINE__V1__ENGINE_FRAME__BODY_STATE, s, STREAMS, &ends);
        assert_true(m->state->queued > 0);
        assert_true(m->state->kv_resident_bytes <= 20 * page);
        assert_true(m->state->kv_used_bytes + m->state->kv_cached_bytes <= 20 * page);
        send_resize(&x, 8, UINT64_MAX, UINT64_MAX);
        m = until(&x, SPARK__ENGINE__V1__ENGINE_FRAME__BODY_RESIZED, s, STREAMS, &ends);
        assert_int_equal(m->resized->kv_bytes, 200 * page);
        assert_int_equal(m->resized->freed_bytes, 0);
        collect(&x, s, STREAMS, 1, STREAMS - ends);
        assert_same(alone, s);
        stop(&x, LINK_E_CLOSED);
}

/* From the next step on; the null backend has neither threads nor clocks, and says so. */
static void test_cap(void **state) {
        static struct stream alone[STREAMS], s[STREAMS];
        struct fixture x = { .step_us = 500 };
        EngineFrame *m;
        size_t ends = 0;

        begin_streams(&x, alone, s);
        send_cap(&x, 91, 4, 1, 50);
        m = until(&x, SPARK__ENGINE__V1__ENGINE_FRAME__BODY_CAPPED, s, STREAMS, &ends);
        assert_int_equal(m->capped->key, 91);
        assert_int_equal(m->capped->batch, 4);
        assert_int_equal(m->capped->threads, 0);
        assert_int_equal(m->capped->clocks, SPARK__ENGINE__V1__CLOCKS__CLOCKS_UNSUPPORTED);
        send_ping(&x, 1);
        m = until(&x, SPARK__ENGINE__V1__ENGINE_FRAME__BODY_STATE, s, STREAMS, &ends);
        assert_int_equal(m->state->running, 2);
        assert_int_equal(m->state->queued, STREAMS - 2);
        send_cap(&x, 92, 0, 0, 0);
        m = until(&x, SPARK__ENGINE__V1__ENGINE_FRAME__BODY_CAPPED, s, STREAMS, &ends);
        assert_int_equal(m->capped->batch, 512);
        assert_int_equal(m->capped->clocks, SPARK__ENGINE__V1__CLOCKS__CLOCKS_FREE);
        collect(&x, s, STREAMS, 1, STREAMS - ends);
        assert_same(alone, s);
        stop(&x, LINK_E_CLOSED);
}

/* Orders that wait when the link ends go with it. */
static void test_orders_at_the_end(void **state) {
        struct fixture x = { .step_us = 60000 }; /* shorter than the link waits for its threads */
        struct generate g;

        start(&x);
        generate_init(&g, 1, "slow", 10, 100);
        submit(&x, &g.submit, NULL, 0);
        assert_int_equal(receive(&x)->body_case, SPARK__ENGINE__V1__ENGINE_FRAME__BODY_ACCEPTED);
        for (uint64_t k = 1; k < 20; k++)
                send_resize(&x, k, 0, 0);
        stop(&x, LINK_E_CLOSED);
}

static void order_without_a_key(struct fixture *x, void (*send)(struct fixture *x)) {
        start(x);
        send(x);
        assert_int_equal(pthread_join(x->thread, NULL), 0);
        assert_int_equal(x->result, LINK_E_PROTOCOL);
        channel_deinit(&x->control);
        channel_deinit(&x->engine_end);
}

static void resize_zero(struct fixture *x) {
        send_resize(x, 0, 1, 1);
}

static void pause_zero(struct fixture *x) {
        send_pause(x, 0, true);
}

static void self_test_zero(struct fixture *x) {
        send_self_test(x, 0);
}

static void cap_zero(struct fixture *x) {
        send_cap(x, 0, 1, 1, 1);
}

static void test_protocol(void **state) {
        void (*const sends[])(struct fixture *) = { resize_zero, pause_zero, self_test_zero, cap_zero };

        for (size_t i = 0; i < ARRAY_SIZE(sends); i++) {
                struct fixture x = { 0 };

                order_without_a_key(&x, sends[i]);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_pause),
                cmocka_unit_test(test_resize),
                cmocka_unit_test(test_cap),
                cmocka_unit_test(test_orders_at_the_end),
                cmocka_unit_test(test_protocol),
        };

        log_init("test-engine-orders", LOG_LEVEL_WARNING, 0);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
