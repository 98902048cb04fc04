/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What a request gains by what was computed before: its own user's, and what is meant for everybody, never another
 * user's. One row a step, so that the number of steps is the number of rows that were computed: that is what a clock
 * would show.
 */

#include "engine-fixture.h"

#define PROMPT 100u
#define WHOLE (PROMPT / ENGINE_PAGE_TOKENS * ENGINE_PAGE_TOKENS) /* of it, in whole pages */
#define ANSWER 5u

static const struct engine_config one_row = { .max_rows = 1, .max_sequences = 1 };

struct gain {
        uint64_t rows;
        uint32_t cached;
};

/* A user's request for the prompt `salt`, its first n tokens; what it gives must be what `expected` gave, where given. */
static struct gain ask(struct lab *l, uint32_t uid, uint32_t salt, uint32_t n, enum request_kind kind, bool share,
                       const struct result *expected) {
        static struct result x;
        uint64_t steps = lab_stats(l).steps;
        struct gain gain;

        result_init(&x, 1 + steps, PROMPT, ANSWER, salt);
        x.request.n_tokens = n;
        x.request.uid = uid;
        x.request.kind = kind;
        x.request.share = share;
        lab_submit(l, &x);
        lab_run(l);
        assert_true(x.finished);
        if (expected)
                assert_same_output(&x, expected);
        gain = (struct gain){ .rows = lab_stats(l).steps - steps, .cached = x.done.cached_tokens };
        result_deinit(&x);
        return gain;
}

static struct gain generate(struct lab *l, uint32_t uid, const struct result *expected) {
        return ask(l, uid, 3, PROMPT, REQUEST_GENERATE, false, expected);
}

static struct gain prewarm(struct lab *l, uint32_t uid, bool share) {
        return ask(l, uid, 3, PROMPT, REQUEST_PREWARM, share, NULL);
}

static void assert_none(struct gain g) {
        assert_int_equal(g.cached, 0);
        assert_int_equal(g.rows, PROMPT + ANSWER - 1); /* the last token of the answer is not read */
}

static void assert_whole(struct gain g) {
        assert_int_equal(g.cached, WHOLE);
        assert_int_equal(g.rows, PROMPT + ANSWER - 1 - WHOLE);
}

static void open_with(struct lab *l, const char *backend, struct result *alone) {
        lab_open(l, backend, &one_row);
        result_init(alone, 1, PROMPT, ANSWER, 3);
        lab_run_alone(l, alone);
}

static void own_and_foreign(const char *backend) {
        static struct result alone;
        struct lab l;

        open_with(&l, backend, &alone);
        assert_none(generate(&l, 1, &alone));
        assert_whole(generate(&l, 1, &alone));
        assert_none(generate(&l, 2, &alone)); /* as if nobody had ever asked */
        assert_whole(generate(&l, 2, &alone));
        assert_none(generate(&l, 3, &alone));
        engine_forget(l.engine, 1);
        assert_whole(generate(&l, 2, &alone)); /* two copies, each one's own */
        assert_none(generate(&l, 1, &alone));
        result_deinit(&alone);
        lab_close(&l);
}

static void test_own_and_foreign(void **state) {
        own_and_foreign("null");
        own_and_foreign("cpu");
}

/* A prewarmed prompt is its user's alone; declared shared, it is everybody's, until it is forgotten. */
static void shared(const char *backend) {
        static struct result alone;
        struct lab l;

        open_with(&l, backend, &alone);
        assert_int_equal(prewarm(&l, 1, false).rows, PROMPT);
        assert_none(generate(&l, 2, &alone));
        engine_forget(l.engine, 2);
        assert_int_equal(prewarm(&l, 1, true).cached, WHOLE); /* what is there already becomes public */
        assert_whole(generate(&l, 2, &alone));
        assert_whole(generate(&l, 3, &alone));
        engine_forget(l.engine, 1); /* what was made public stays */
        assert_whole(generate(&l, 3, &alone));
        engine_forget_all(l.engine);
        assert_none(generate(&l, 2, &alone));
        assert_none(generate(&l, 1, &alone));
        result_deinit(&alone);
        lab_close(&l);
}

static void test_shared(void **state) {
        shared("null");
        shared("cpu");
}

/* Behind a public beginning everybody is by himself again. */
static void test_behind_a_shared_beginning(void **state) {
        const uint32_t half = 2 * ENGINE_PAGE_TOKENS;
        static struct result alone;
        struct gain g;
        struct lab l;

        open_with(&l, "null", &alone);
        assert_int_equal(ask(&l, 1, 3, half, REQUEST_PREWARM, true, NULL).rows, half);
        assert_int_equal(generate(&l, 1, &alone).cached, half);
        g = generate(&l, 2, &alone); /* no more than what is public, though user 1 has gone on behind it */
        assert_int_equal(g.cached, half);
        assert_int_equal(g.rows, PROMPT + ANSWER - 1 - half);
        assert_whole(generate(&l, 2, &alone));
        result_deinit(&alone);
        lab_close(&l);
}

/* A beginning of a page that a stranger has is none; one's own is copied, and goes on differently. */
static void test_beginning_of_a_page(void **state) {
        const uint32_t common = WHOLE - 10;
        int32_t tokens[PROMPT];
        static struct result x[3], alone;
        struct lab l;

        open_with(&l, "cpu", &alone);
        assert_none(generate(&l, 1, &alone));
        memcpy(tokens, alone.request.tokens, sizeof(tokens));
        for (uint32_t i = common; i < PROMPT; i++)
                tokens[i] = (tokens[i] + 1) % 95;
        for (uint32_t i = 0; i < 3; i++) {
                static const uint32_t uids[3] = { 2, 1, 1 };

                result_init_tokens(&x[i], 10 + i, tokens, PROMPT, ANSWER, 3);
                x[i].request.uid = uids[i];
                lab_submit(&l, &x[i]);
                lab_run(&l);
                assert_true(x[i].finished);
                assert_same_output(&x[i], &x[0]);
        }
        assert_int_equal(x[0].done.cached_tokens, 0);
        assert_int_equal(x[1].done.cached_tokens, common);
        assert_int_equal(x[2].done.cached_tokens, WHOLE);
        assert_whole(generate(&l, 1, &alone)); /* what was copied from is as it was */
        for (uint32_t i = 0; i < 3; i++)
                result_deinit(&x[i]);
        result_deinit(&alone);
        lab_close(&l);
}

/* A conversation: the next prompt is the last one, its answer, and something new. */
static void test_conversation(void **state) {
        const struct engine_config config = { .max_rows = 64 };
        int32_t tokens[RESULT_TOKENS];
        static struct result x, alone;
        uint32_t n = 20, before = 0;
        struct lab l, fresh;

        lab_open(&l, "cpu", &config);
        lab_open(&fresh, "cpu", &one_row);
        for (uint32_t i = 0; i < n; i++)
                tokens[i] = (int32_t)i;
        for (uint32_t turn = 0; turn < 6; turn++) {
                result_init_tokens(&x, turn, tokens, n, 40, turn);
                result_init_tokens(&alone, turn, tokens, n, 40, turn);
                lab_submit(&l, &x);
                lab_run(&l);
                lab_run_alone(&fresh, &alone);
                assert_true(x.finished);
                assert_same_output(&x, &alone);
                /* All that was read before, but for the last page: that was not full. */
                assert_int_equal(x.done.cached_tokens, before / ENGINE_PAGE_TOKENS * ENGINE_PAGE_TOKENS);
                memcpy(tokens + n, x.ids, x.n * sizeof(*tokens));
                n += x.n;
                before = n - 1;
                tokens[n++] = (int32_t)turn;
                result_deinit(&x);
                result_deinit(&alone);
        }
        lab_close(&l);
        lab_close(&fresh);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_own_and_foreign),           cmocka_unit_test(test_shared),
                cmocka_unit_test(test_behind_a_shared_beginning), cmocka_unit_test(test_beginning_of_a_page),
                cmocka_unit_test(test_conversation),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
