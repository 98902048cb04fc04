/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/control/request/journal.h"

struct fixture {
        struct users users;
        struct user *user;
};

static void fixture_init(struct fixture *f, uint64_t bytes) {
        users_init(&f->users);
        f->users.limits[USER_BYTES] = bytes;
        f->user = users_get(&f->users, 1000);
        assert_non_null(f->user);
}

static void fixture_deinit(struct fixture *f) {
        assert_int_equal(f->user->charged[USER_BYTES], 0);
        assert_int_equal(f->users.bytes, 0);
        f->user = user_unref(f->user);
        assert_true(list_empty(&f->users.list));
}

static size_t pack(const Spark__V1__ClientFrame *frame, uint8_t *out, size_t size) {
        assert_true(spark__v1__client_frame__get_packed_size(frame) <= size);
        return spark__v1__client_frame__pack(frame, out);
}

static size_t pack_generate(uint8_t *out, size_t size) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Generate generate = SPARK__V1__GENERATE__INIT;
        Spark__V1__Sampling sampling = SPARK__V1__SAMPLING__INIT;

        sampling.has_temperature = true;
        sampling.temperature = 0.5f;
        generate.prompt.data = (uint8_t *)"Once";
        generate.prompt.len = 4;
        generate.raw_bytes = true;
        generate.special = true;
        generate.sampling = &sampling;
        frame.id = 7;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_GENERATE;
        frame.generate = &generate;
        return pack(&frame, out, size);
}

static void test_original(void **state) {
        struct fixture f;
        struct journal_submit s;
        struct journal j;
        uint8_t packed[256];
        size_t size = pack_generate(packed, sizeof(packed));

        fixture_init(&f, 1 << 20);
        assert_int_equal(journal_init(&j, f.user, true, packed, size), 0);
        assert_true(journal_needs_input(&j));
        assert_int_equal(journal_submit_init(&s, &j), 0);
        assert_int_equal(s.submit.request_case, SPARK__ENGINE__V1__SUBMIT__REQUEST_GENERATE);
        assert_int_equal(s.submit.generate->prompt.len, 4);
        assert_true(s.submit.generate->special);
        assert_false(s.submit.replay);
        journal_submit_deinit(&s);
        journal_deinit(&j);
        fixture_deinit(&f);
}

/* After a loss: the prompt as the engine had read it, the seed it had drawn, the tokens it had given. */
static void test_replay(void **state) {
        static const uint32_t prompt[] = { 1, 50, 51 }, tokens[] = { 9, 8, 7, 6 };
        struct fixture f;
        struct journal_submit s;
        struct journal j;
        uint8_t packed[256];
        size_t size = pack_generate(packed, sizeof(packed));

        fixture_init(&f, 1 << 20);
        assert_int_equal(journal_init(&j, f.user, true, packed, size), 0);
        assert_int_equal(journal_append(&j, tokens, 1), JOURNAL_E_ORDER);
        assert_int_equal(journal_accept(&j, prompt, 3, 0xfeedfacecafebeef), 0);
        assert_int_equal(journal_accept(&j, prompt, 3, 1), JOURNAL_E_ORDER);
        assert_int_equal(journal_append(&j, tokens, 0), JOURNAL_E_ORDER);
        assert_int_equal(journal_append(&j, tokens, 3), 0);
        assert_int_equal(journal_append(&j, tokens + 3, 1), 0);
        assert_false(journal_needs_input(&j));
        journal_lost(&j);
        assert_int_equal(journal_append(&j, tokens, 1), JOURNAL_E_ORDER);
        assert_int_equal(journal_submit_init(&s, &j), 0);
        assert_true(s.submit.replay);
        assert_int_equal(s.submit.generate->n_prompt_tokens, 3);
        assert_memory_equal(s.submit.generate->prompt_tokens, prompt, sizeof(prompt));
        assert_int_equal(s.submit.generate->prompt.len, 0);
        assert_false(s.submit.generate->special);
        assert_true(s.submit.generate->raw_bytes);
        assert_int_equal(s.submit.n_generated, 4);
        assert_memory_equal(s.submit.generated, tokens, sizeof(tokens));
        assert_true(s.submit.generate->sampling->has_seed);
        assert_true(s.submit.generate->sampling->seed == 0xfeedfacecafebeef);
        assert_true(s.submit.generate->sampling->temperature == 0.5f);
        journal_submit_deinit(&s);
        /* the next engine accepts again; what it says does not replace what is known */
        assert_int_equal(journal_accept(&j, tokens, 1, 5), 0);
        assert_int_equal(j.n_prompt, 3);
        assert_true(j.seed == 0xfeedfacecafebeef);
        assert_int_equal(journal_append(&j, tokens, 1), 0);
        assert_int_equal(j.n_generated, 5);
        journal_deinit(&j);
        fixture_deinit(&f);
}

/* A Chat goes on as a Generate of its tokens; without sampling the seed must come along nevertheless. */
static void test_replay_of_chat(void **state) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Chat chat = SPARK__V1__CHAT__INIT;
        static const uint32_t prompt[] = { 3 };
        struct fixture f;
        struct journal_submit s;
        struct journal j;
        uint8_t packed[64];

        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_CHAT;
        frame.chat = &chat;
        fixture_init(&f, 1 << 20);
        assert_int_equal(journal_init(&j, f.user, true, packed, pack(&frame, packed, sizeof(packed))), 0);
        assert_int_equal(journal_submit_init(&s, &j), 0);
        assert_int_equal(s.submit.request_case, SPARK__ENGINE__V1__SUBMIT__REQUEST_CHAT);
        journal_submit_deinit(&s);
        assert_int_equal(journal_accept(&j, prompt, 1, 42), 0);
        journal_lost(&j);
        assert_int_equal(journal_submit_init(&s, &j), 0);
        assert_int_equal(s.submit.request_case, SPARK__ENGINE__V1__SUBMIT__REQUEST_GENERATE);
        assert_int_equal(s.submit.generate->sampling->seed, 42);
        assert_int_equal(s.submit.n_generated, 0);
        journal_submit_deinit(&s);
        journal_deinit(&j);
        fixture_deinit(&f);
}

static void test_other_requests_are_asked_again(void **state) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Score score = SPARK__V1__SCORE__INIT;
        struct fixture f;
        struct journal_submit s;
        struct journal j;
        uint8_t packed[64];

        score.input_fd = true;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_SCORE;
        frame.score = &score;
        fixture_init(&f, 1 << 20);
        assert_int_equal(journal_init(&j, f.user, false, packed, pack(&frame, packed, sizeof(packed))), 0);
        assert_int_equal(journal_accept(&j, NULL, 0, 0), 0);
        journal_lost(&j);
        assert_true(journal_needs_input(&j));
        assert_int_equal(journal_submit_init(&s, &j), 0);
        assert_int_equal(s.submit.request_case, SPARK__ENGINE__V1__SUBMIT__REQUEST_SCORE);
        assert_false(s.submit.replay);
        journal_submit_deinit(&s);
        assert_int_equal(journal_accept(&j, NULL, 0, 0), 0);
        journal_deinit(&j);
        fixture_deinit(&f);
}

static void test_no_request_of_an_engine(void **state) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Status status = SPARK__V1__STATUS__INIT;
        struct fixture f;
        struct journal_submit s;
        struct journal j;
        uint8_t packed[64];

        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_STATUS;
        frame.status = &status;
        fixture_init(&f, 1 << 20);
        assert_int_equal(journal_init(&j, f.user, false, packed, pack(&frame, packed, sizeof(packed))), 0);
        assert_true(journal_submit_init(&s, &j) < 0);
        journal_deinit(&j);
        fixture_deinit(&f);
}

static void test_quota(void **state) {
        uint32_t *tokens = calloc(4096, sizeof(*tokens));
        struct fixture f;
        struct journal j, other;
        uint8_t packed[256];
        size_t size = pack_generate(packed, sizeof(packed));

        assert_non_null(tokens);
        fixture_init(&f, 4096);
        assert_int_equal(journal_init(&other, f.user, true, tokens, 4097), JOURNAL_E_QUOTA);
        assert_int_equal(f.user->charged[USER_BYTES], 0);
        assert_int_equal(journal_init(&j, f.user, true, packed, size), 0);
        assert_int_equal(f.user->charged[USER_BYTES], size);
        assert_int_equal(journal_accept(&j, tokens, 64, 1), 0);
        assert_int_equal(f.user->charged[USER_BYTES], size + 64 * 4);
        assert_int_equal(journal_append(&j, tokens, 4096), JOURNAL_E_QUOTA);
        assert_int_equal(j.n_generated, 0);
        assert_int_equal(journal_append(&j, tokens, 64), 0);
        assert_int_equal(f.user->charged[USER_BYTES], size + 128 * 4);
        journal_deinit(&j);
        fixture_deinit(&f);
        free(tokens);
}

/* The one thing that must never be wrong: what was appended token by token is what comes back. */
static void test_many_tokens(void **state) {
        struct fixture f;
        struct journal_submit s;
        struct journal j;
        uint8_t packed[256];
        size_t size = pack_generate(packed, sizeof(packed));
        uint32_t prompt[77];

        for (uint32_t i = 0; i < ARRAY_SIZE(prompt); i++)
                prompt[i] = i * 3;
        fixture_init(&f, 1 << 20);
        assert_int_equal(journal_init(&j, f.user, true, packed, size), 0);
        assert_int_equal(journal_accept(&j, prompt, ARRAY_SIZE(prompt), 1), 0);
        for (uint32_t i = 0; i < 5000; i++) {
                uint32_t id = i ^ 0x5a5a;

                assert_int_equal(journal_append(&j, &id, 1), 0);
        }
        journal_lost(&j);
        assert_int_equal(journal_submit_init(&s, &j), 0);
        assert_int_equal(s.submit.n_generated, 5000);
        for (uint32_t i = 0; i < 5000; i++)
                assert_int_equal(s.submit.generated[i], i ^ 0x5a5a);
        assert_memory_equal(s.submit.generate->prompt_tokens, prompt, sizeof(prompt));
        journal_submit_deinit(&s);
        journal_deinit(&j);
        fixture_deinit(&f);
}

static size_t pack_append(uint8_t *out, size_t size) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__SessionAppend append = SPARK__V1__SESSION_APPEND__INIT;

        append.session = (char *)"id";
        append.text.data = (uint8_t *)"more";
        append.text.len = 4;
        append.special = true;
        append.priority = SPARK__V1__PRIORITY__BACKGROUND;
        frame.id = 7;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_SESSION_APPEND;
        frame.session_append = &append;
        return pack(&frame, out, size);
}

/* A session's text goes in front of a request as long as the engine has not said what prompt that makes. */
static void test_prefix(void **state) {
        static const uint32_t prefix[] = { 1, 50 }, prompt[] = { 1, 50, 51 };
        struct fixture f;
        struct journal_submit s;
        struct journal j;
        uint8_t packed[256];
        size_t size = pack_generate(packed, sizeof(packed));

        fixture_init(&f, 1 << 20);
        assert_int_equal(journal_init(&j, f.user, true, packed, size), 0);
        j.prefix = prefix;
        j.n_prefix = 2;
        for (int i = 0; i < 2; i++) { /* lost before it was accepted: the same again */
                assert_int_equal(journal_submit_init(&s, &j), 0);
                assert_false(s.submit.replay);
                assert_int_equal(s.submit.n_prefix, 2);
                assert_memory_equal(s.submit.prefix, prefix, sizeof(prefix));
                journal_submit_deinit(&s);
                journal_lost(&j);
        }
        assert_int_equal(journal_accept(&j, prompt, 3, 1), 0);
        journal_lost(&j);
        assert_int_equal(journal_submit_init(&s, &j), 0);
        assert_true(s.submit.replay);
        assert_int_equal(s.submit.n_prefix, 0);
        assert_int_equal(s.submit.generate->n_prompt_tokens, 3);
        journal_submit_deinit(&s);
        journal_deinit(&j);
        fixture_deinit(&f);
}

/* To the engine an addition is reading ahead; it is asked again from the beginning. */
static void test_append(void **state) {
        static const uint32_t prefix[] = { 1, 50 }, prompt[] = { 1, 50, 51 };
        struct fixture f;
        struct journal_submit s;
        struct journal j;
        uint8_t packed[256];
        size_t size = pack_append(packed, sizeof(packed));

        fixture_init(&f, 1 << 20);
        assert_int_equal(journal_init(&j, f.user, false, packed, size), 0);
        j.prefix = prefix;
        j.n_prefix = 2;
        for (int i = 0; i < 3; i++) {
                assert_int_equal(journal_submit_init(&s, &j), 0);
                assert_int_equal(s.submit.request_case, SPARK__ENGINE__V1__SUBMIT__REQUEST_PREWARM);
                assert_int_equal(s.submit.n_prefix, 2);
                assert_int_equal(s.submit.prewarm->text.len, 4);
                assert_true(s.submit.prewarm->special);
                assert_false(s.submit.prewarm->share);
                assert_int_equal(s.submit.prewarm->priority, SPARK__V1__PRIORITY__BACKGROUND);
                journal_submit_deinit(&s);
                assert_true(journal_needs_input(&j));
                assert_int_equal(journal_accept(&j, prompt, 3, 0), 0);
                assert_int_equal(j.n_prompt, 3);
                assert_true(f.user->charged[USER_BYTES] <= size + 64 * sizeof(uint32_t)); /* not more with each loss */
                journal_lost(&j);
        }
        journal_deinit(&j);
        fixture_deinit(&f);
}

static void test_take_tokens(void **state) {
        static const uint32_t prompt[] = { 1, 50, 51 }, tokens[] = { 9, 8 }, all[] = { 1, 50, 51, 9, 8 };
        struct fixture f;
        struct journal j;
        uint8_t packed[256];
        size_t size = pack_generate(packed, sizeof(packed)), n = 0;
        uint64_t charged = 0;
        uint32_t *ids;

        fixture_init(&f, 1 << 20);
        assert_int_equal(journal_init(&j, f.user, true, packed, size), 0);
        assert_null(journal_take_tokens(&j, &n, &charged)); /* not accepted */
        assert_int_equal(journal_accept(&j, prompt, 3, 1), 0);
        assert_int_equal(journal_append(&j, tokens, 2), 0);
        ids = journal_take_tokens(&j, &n, &charged);
        assert_non_null(ids);
        assert_int_equal(n, 5);
        assert_memory_equal(ids, all, sizeof(all));
        assert_true(charged >= sizeof(all));
        assert_null(journal_take_tokens(&j, &n, &charged));
        journal_deinit(&j);
        assert_true(f.user->charged[USER_BYTES] == charged); /* goes with the tokens */
        user_release(f.user, USER_BYTES, charged);
        free(ids);
        fixture_deinit(&f);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_original),
                cmocka_unit_test(test_replay),
                cmocka_unit_test(test_replay_of_chat),
                cmocka_unit_test(test_other_requests_are_asked_again),
                cmocka_unit_test(test_no_request_of_an_engine),
                cmocka_unit_test(test_quota),
                cmocka_unit_test(test_many_tokens),
                cmocka_unit_test(test_prefix),
                cmocka_unit_test(test_append),
                cmocka_unit_test(test_take_tokens),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
