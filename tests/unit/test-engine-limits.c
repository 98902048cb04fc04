/* SPDX-License-Identifier: Apache-2.0 */

/* Who is let in, and what an end tells: queue limits in the turn in which they change, usage of those that had to wait or
 * were cancelled, replays that have nothing left to do. */

#include "engine-fixture.h"

#define PAGE_BYTES (ENGINE_PAGE_TOKENS * 256u) /* 2 layers, 2 heads of 16, K and V, half precision */

static void submit(struct lab *l, struct result *x) {
        assert_int_equal(engine_submit(l->engine, &x->request), 0);
}

static void cancel(struct lab *l, struct result *x) {
        atomic_store(&x->request.cancelled, true);
        engine_notice(l->engine);
}

/* --- queue limits ------------------------------------------------------------------------------------------------ */

/* What was cancelled before a request came is not in its way, though no step lies between the two. */
static void cancel_and_submit(uint32_t max_queued, uint32_t queued_limit) {
        const struct engine_config config = { .max_sequences = 1, .max_queued = max_queued };
        static struct result x[4];
        struct lab l;

        lab_open(&l, "cpu", &config);
        for (uint32_t i = 0; i < 4; i++) {
                result_init(&x[i], i + 1, 20, 10, i);
                x[i].request.uid = 7;
                x[i].request.queued_limit = queued_limit;
        }
        submit(&l, &x[0]);
        assert_int_equal(engine_step(l.engine), 1);
        submit(&l, &x[1]); /* waits, which is all that may */
        submit(&l, &x[2]);
        assert_true(x[1].accepted && !result_ended(&x[1]));
        assert_true(x[2].failed && !x[2].accepted);
        assert_int_equal(x[2].failure.code, SPARK__V1__ERROR_CODE__BUSY);
        assert_true(x[2].failure.retry_after_ms > 0);

        cancel(&l, &x[1]);
        submit(&l, &x[3]);
        assert_true(x[1].failed);
        assert_int_equal(x[1].failure.code, SPARK__V1__ERROR_CODE__CANCELLED);
        assert_true(x[3].accepted && !result_ended(&x[3]));
        lab_run(&l);
        assert_true(x[0].finished && x[3].finished);
        for (uint32_t i = 0; i < 4; i++)
                result_deinit(&x[i]);
        lab_close(&l);
}

static void test_cancel_and_submit(void **state) {
        cancel_and_submit(0, 1); /* the user's limit */
        cancel_and_submit(1, 0); /* everybody's */
}

/* One user's full queue is nobody else's. */
static void test_queue_of_others(void **state) {
        const struct engine_config config = { .max_sequences = 1 };
        static struct result x[4];
        struct lab l;

        lab_open(&l, "cpu", &config);
        for (uint32_t i = 0; i < 4; i++) {
                result_init(&x[i], i + 1, 20, 3, i);
                x[i].request.uid = i == 3 ? 8 : 7;
                x[i].request.queued_limit = 1;
        }
        submit(&l, &x[0]);
        assert_int_equal(engine_step(l.engine), 1);
        for (uint32_t i = 1; i < 4; i++)
                submit(&l, &x[i]);
        assert_true(x[1].accepted && x[2].failed && x[3].accepted);
        lab_run(&l);
        assert_true(x[0].finished && x[1].finished && x[3].finished);
        for (uint32_t i = 0; i < 4; i++)
                result_deinit(&x[i]);
        lab_close(&l);
}

/* --- what an end tells ------------------------------------------------------------------------------------------- */

/* One request of 4 pages runs, another one, which begins alike, has to wait, for its user's limit or for room. */
static void wait_and_tell(uint32_t pages, uint64_t kv_limit, enum request_kind kind) {
        const struct engine_config config = { .context = 128, .kv_bytes = pages * PAGE_BYTES };
        static struct result first, second;
        struct engine_stats stats;
        struct lab l;

        lab_open(&l, "cpu", &config);
        result_init(&first, 1, 100, 28, 2);
        result_init(&second, 2, 100, 28, 2);
        second.request.kind = kind;
        first.request.kv_limit = second.request.kv_limit = kv_limit;
        submit(&l, &first);
        submit(&l, &second);
        assert_int_equal(engine_step(l.engine), 1);
        engine_get_stats(l.engine, &stats);
        assert_int_equal(stats.running, 1);
        assert_int_equal(stats.queued, 1);
        lab_run(&l);
        assert_true(first.finished && second.finished);
        assert_int_equal(first.done.cached_tokens, 0);
        assert_int_equal(second.done.prompt_tokens, 100);
        assert_in_range(second.done.cached_tokens, 96, 100); /* three whole pages, and what was of the fourth */
        if (kind == REQUEST_GENERATE)
                assert_int_equal(second.n, 28);
        result_deinit(&first);
        result_deinit(&second);
        lab_close(&l);
}

static void test_cached_after_waiting(void **state) {
        wait_and_tell(0, 4 * PAGE_BYTES, REQUEST_GENERATE); /* for its user's limit */
        wait_and_tell(0, 4 * PAGE_BYTES, REQUEST_PREWARM);
        wait_and_tell(5, 0, REQUEST_GENERATE); /* for room */
        wait_and_tell(5, 0, REQUEST_PREWARM);
}

/* A replay of which all was delivered has nothing to be paid with credit: it ends. */
static void test_replay_without_credit(void **state) {
        const struct engine_config config = { .max_sequences = 1 };
        static struct result whole, again;
        struct lab l;

        lab_open(&l, "cpu", &config);
        result_init(&whole, 1, 30, 12, 2);
        submit(&l, &whole);
        lab_run(&l);
        assert_int_equal(whole.n, 12);
        for (uint32_t k = 0; k <= 12; k += 12) {
                result_init(&again, 2, 30, 12, 2);
                again.request.generated = calloc(12, sizeof(int32_t));
                assert_non_null(again.request.generated);
                memcpy(again.request.generated, whole.ids, k * sizeof(int32_t));
                again.request.n_generated = k;
                atomic_store(&again.request.granted, 0);
                submit(&l, &again);
                lab_run(&l);
                assert_int_equal(again.n, 0);
                assert_int_equal(again.finished, k == 12);
                if (k < 12)
                        cancel(&l, &again);
                lab_run(&l);
                if (k == 12)
                        assert_int_equal(again.done.completion_tokens, 12);
                result_deinit(&again);
        }
        result_deinit(&whole);
        lab_close(&l);
}

/* --- room -------------------------------------------------------------------------------------------------------- */

/* Only the beginning of a page was found, there is no room for a copy of it, nor for all the rest, and then the request
 * goes: the table that held that page for a moment goes with it (the address sanitizer tells). */
static void test_beginning_without_room(void **state) {
        const struct engine_config config = { .context = 128, .kv_bytes = 4 * PAGE_BYTES };
        static struct result first, other, x;
        struct engine_stats stats;
        struct lab l;

        lab_open(&l, "cpu", &config);
        result_init(&first, 1, 40, 1, 2);
        submit(&l, &first);
        lab_run(&l);
        result_init(&other, 2, 60, 30, 3);
        other.request.uid = 9;
        submit(&l, &other);
        assert_int_equal(engine_step(l.engine), 1);
        result_init(&x, 3, 110, 18, 4);
        memcpy(x.request.tokens, first.request.tokens, 20 * sizeof(*x.request.tokens));
        submit(&l, &x);
        assert_int_equal(engine_step(l.engine), 1);
        engine_get_stats(l.engine, &stats);
        assert_int_equal(stats.running, 1);
        assert_int_equal(stats.queued, 1);
        cancel(&l, &x);
        lab_run(&l);
        assert_true(x.failed && other.finished);
        result_deinit(&first);
        result_deinit(&other);
        result_deinit(&x);
        lab_close(&l);
}

/* A request of so many tokens, the first n_given of them given, the others of its own. */
static void init_with(struct result *x, uint64_t key, enum request_kind kind, uint32_t uid, const int32_t *given,
                      uint32_t n_given, uint32_t n, uint32_t max_tokens) {
        result_init(x, key, n, max_tokens, (uint32_t)key * 2);
        memcpy(x->request.tokens, given, n_given * sizeof(*given));
        x->request.kind = kind;
        x->request.uid = uid;
}

/*
 * The only one that runs can't get its last page: others' pages stand in the way which nobody uses but on which its own
 * have come to hang, since its text was made public meanwhile. It is parked, finds the public pages, and goes on; there
 * is something to do all the while.
 */
static void test_parked_alone(void **state) {
        const struct engine_config config = { .kv_bytes = 16 * PAGE_BYTES }; /* one context */
        static struct result x, alone, prewarm, other;
        int32_t tokens[3 * ENGINE_PAGE_TOKENS];
        struct engine_stats stats;
        struct lab l;

        lab_open(&l, "cpu", &config);
        result_init(&alone, 1, 64, REQUEST_ENDLESS, 2);
        submit(&l, &alone);
        lab_run(&l);
        assert_int_equal(alone.n, 512 - 64);
        engine_forget_all(l.engine);

        init_with(&x, 2, REQUEST_GENERATE, 7, alone.request.tokens, 64, 64, REQUEST_ENDLESS);
        x.request.sampling = alone.request.sampling;
        submit(&l, &x);
        while (x.n < 40)
                assert_int_equal(engine_step(l.engine), 1);
        memcpy(tokens, alone.request.tokens, 64 * sizeof(*tokens));
        memcpy(tokens + 64, x.ids, ENGINE_PAGE_TOKENS * sizeof(*tokens));
        init_with(&prewarm, 3, REQUEST_PREWARM, 0, tokens, 64, 64, 0);
        prewarm.request.share = true;
        submit(&l, &prewarm);
        while (!prewarm.finished)
                assert_int_equal(engine_step(l.engine), 1);
        init_with(&other, 4, REQUEST_PREWARM, 7, tokens, 96, 97, 0);
        submit(&l, &other);
        while (!other.finished)
                assert_int_equal(engine_step(l.engine), 1);
        assert_true(other.done.cached_tokens >= 96);
        engine_get_stats(l.engine, &stats);
        assert_int_equal(stats.running, 1);
        assert_true(stats.kv_cached_bytes > 0);

        lab_run(&l);
        assert_true(x.finished);
        assert_int_equal(x.n, 512 - 64);
        assert_memory_equal(x.ids, alone.ids, x.n * sizeof(*x.ids));
        result_deinit(&x);
        result_deinit(&alone);
        result_deinit(&prewarm);
        result_deinit(&other);
        lab_close(&l);
}

/* A user's own cache goes before another one's that is larger: what a running request holds without its being stored
 * counts, too. */
static void test_pages_in_use_count(void **state) {
        const struct engine_config config = { .kv_bytes = 16 * PAGE_BYTES, .max_rows = 16 };
        static struct result mine, theirs, scored, x;
        struct engine_stats stats;
        struct lab l;

        lab_open(&l, "cpu", &config);
        result_init(&theirs, 1, 130, 1, 2);
        theirs.request.uid = 8;
        result_init(&mine, 2, 98, 1, 4);
        mine.request.uid = 7;
        submit(&l, &theirs);
        submit(&l, &mine);
        lab_run(&l);
        assert_int_equal(engine_cached_pages(l.engine, 8, theirs.request.tokens, 130), 4);
        assert_int_equal(engine_cached_pages(l.engine, 7, mine.request.tokens, 98), 3);

        result_init(&scored, 3, 250, 1, 6);
        scored.request.uid = 7;
        scored.request.kind = REQUEST_SCORE;
        submit(&l, &scored);
        assert_int_equal(engine_step(l.engine), 1);
        engine_get_stats(l.engine, &stats);
        assert_int_equal(stats.kv_used_bytes, 8 * PAGE_BYTES); /* one is free */
        result_init(&x, 4, 60, 4, 8); /* takes two, and two have to be left for growing */
        x.request.uid = 7;
        x.request.tokens[0] = 'x'; /* begins like none of the others */
        submit(&l, &x);
        assert_int_equal(engine_step(l.engine), 1);
        engine_get_stats(l.engine, &stats);
        assert_int_equal(stats.running, 2);
        assert_int_equal(engine_cached_pages(l.engine, 8, theirs.request.tokens, 130), 4);
        assert_int_equal(engine_cached_pages(l.engine, 7, mine.request.tokens, 98), 0);
        lab_run(&l);
        assert_true(scored.finished && x.finished);
        result_deinit(&mine);
        result_deinit(&theirs);
        result_deinit(&scored);
        result_deinit(&x);
        lab_close(&l);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_cancel_and_submit),
                cmocka_unit_test(test_queue_of_others),
                cmocka_unit_test(test_cached_after_waiting),
                cmocka_unit_test(test_replay_without_credit),
                cmocka_unit_test(test_beginning_without_room),
                cmocka_unit_test(test_parked_alone),
                cmocka_unit_test(test_pages_in_use_count),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
