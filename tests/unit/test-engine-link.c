/* SPDX-License-Identifier: Apache-2.0 */

/* The engine behind its socketpair, all three threads, with the null backend. */

#include <math.h>

#include "link-fixture.h"

static void test_streams(void **state) {
        static struct stream alone[8], company[8];
        struct fixture x = { .step_us = 0 };
        struct generate g;

        memset(alone, 0, sizeof(alone));
        memset(company, 0, sizeof(company));
        start(&x);
        for (uint64_t k = 0; k < 8; k++) {
                char prompt[] = "once a";

                prompt[5] = (char)('a' + k);
                generate_init(&g, 1 + k, prompt, 100 + (uint32_t)k, 1000);
                submit(&x, &g.submit, NULL, 0);
                collect(&x, alone, 8, 1, 1);
                assert_int_equal(alone[k].reason, SPARK__V1__FINISH_REASON__LENGTH);
                assert_int_equal(alone[k].n, 100 + k);
                assert_int_equal(alone[k].completion, 100 + k);
                assert_int_equal(alone[k].n_text, 100 + k);
        }
        for (uint64_t k = 0; k < 8; k++) {
                char prompt[] = "once a";

                prompt[5] = (char)('a' + k);
                generate_init(&g, 101 + k, prompt, 100 + (uint32_t)k, 1000);
                g.sampling.seed = 1 + k;
                submit(&x, &g.submit, NULL, 0);
        }
        collect(&x, company, 8, 101, 8);
        for (unsigned k = 0; k < 8; k++) {
                assert_int_equal(alone[k].n_text, company[k].n_text);
                assert_memory_equal(alone[k].text, company[k].text, alone[k].n_text);
        }
        assert_memory_not_equal(alone[0].text, alone[1].text, 100);
        stop(&x, LINK_E_CLOSED);
}

static void test_credit_and_cancel(void **state) {
        struct stream s[2] = { { 0 } };
        struct fixture x = { .step_us = 0 };
        struct generate g;

        start(&x);
        generate_init(&g, 1, "x", 20, 5);
        submit(&x, &g.submit, NULL, 0);
        while (s[0].n < 5)
                assert_false(take(receive(&x), s, 2, 1));
        assert_null(receive_within(&x, 100)); /* paused */
        send_window(&x, 1, 7);
        while (s[0].n < 12)
                assert_false(take(receive(&x), s, 2, 1));
        assert_null(receive_within(&x, 100));
        send_window(&x, 1, 8);
        collect(&x, s, 2, 1, 1);
        assert_int_equal(s[0].n, 20);
        assert_int_equal(s[0].reason, SPARK__V1__FINISH_REASON__LENGTH);

        generate_init(&g, 2, "x", 1000000, 10);
        submit(&x, &g.submit, NULL, 0);
        while (s[1].n < 10)
                assert_false(take(receive(&x), s, 2, 1));
        send_cancel(&x, 2);
        send_cancel(&x, 77); /* nobody: ignored */
        collect(&x, s, 2, 1, 1);
        assert_int_equal(s[1].code, SPARK__V1__ERROR_CODE__CANCELLED);
        stop(&x, LINK_E_CLOSED);
}

static struct stream one(struct fixture *x, Spark__Engine__V1__Submit *s, const int *fds, size_t n_fds) {
        static uint64_t key = 1000;
        struct stream ret = { 0 };

        s->key = ++key;
        submit(x, s, fds, n_fds);
        collect(x, &ret, 1, key, 1);
        return ret;
}

#define expect_failure(x, g, c, word)                                              \
        do {                                                                       \
                struct stream _s = one(x, &(g).submit, NULL, 0);                   \
                assert_int_equal(_s.code, SPARK__V1__ERROR_CODE__##c);             \
                assert_non_null(strstr(_s.message, word));                         \
        } while (0)

static void test_refusals(void **state) {
        struct fixture x = { .config = { .context = 64 } };
        uint32_t tokens[2] = { 1, 258 };
        struct generate g;
        struct stream s;
        char *stops[1] = { (char *)"" };

        start(&x);
        generate_init(&g, 1, "x", 4, 100);
        g.sampling.has_temperature = true;
        g.sampling.temperature = NAN;
        expect_failure(&x, g, INVALID_ARGUMENT, "temperature");
        generate_init(&g, 1, "x", 4, 100);
        g.sampling.has_top_p = true;
        g.sampling.top_p = 0;
        expect_failure(&x, g, INVALID_ARGUMENT, "top_p");
        generate_init(&g, 1, "x", 0, 100);
        expect_failure(&x, g, INVALID_ARGUMENT, "max_tokens");
        generate_init(&g, 1, "x", 4, 100);
        g.sampling.n_stop = 1;
        g.sampling.stop = stops;
        expect_failure(&x, g, INVALID_ARGUMENT, "stop[0]");
        generate_init(&g, 1, "a\xff", 4, 100);
        expect_failure(&x, g, INVALID_UTF8, "byte 1");
        g.generate.raw_bytes = true;
        s = one(&x, &g.submit, NULL, 0);
        assert_int_equal(s.n, 4);
        generate_init(&g, 1, "", 4, 100);
        g.generate.no_bos = true;
        expect_failure(&x, g, INVALID_ARGUMENT, "empty");
        g.generate.no_bos = false;
        s = one(&x, &g.submit, NULL, 0);
        assert_int_equal(s.n, 4);
        generate_init(&g, 1, "x", 4, 100);
        g.generate.prompt_tokens = tokens;
        g.generate.n_prompt_tokens = 1;
        expect_failure(&x, g, INVALID_ARGUMENT, "both");
        g.generate.prompt.len = 0;
        g.generate.n_prompt_tokens = 2;
        expect_failure(&x, g, INVALID_ARGUMENT, "prompt_tokens[1]");
        generate_init(&g, 1, "0123456789012345678901234567890123456789012345678901234567890123", 4, 100);
        s = one(&x, &g.submit, NULL, 0);
        assert_int_equal(s.code, SPARK__V1__ERROR_CODE__CONTEXT_OVERFLOW);
        assert_int_equal(s.have, 66);
        assert_int_equal(s.max, 64);
        generate_init(&g, 1, "01234567890123456789012345678901234567890123456789012345678901", 4, 100);
        s = one(&x, &g.submit, NULL, 0); /* room for one */
        assert_int_equal(s.n, 1);
        assert_int_equal(s.reason, SPARK__V1__FINISH_REASON__LENGTH);
        g.submit.request_case = SPARK__ENGINE__V1__SUBMIT__REQUEST__NOT_SET;
        expect_failure(&x, g, UNIMPLEMENTED, "kind");
        stop(&x, LINK_E_CLOSED);
}

static void test_input_fd(void **state) {
        struct fixture x = { .config = { .context = 4096 } };
        _cleanup_fd_ int sealed = -1, open_fd = -1;
        struct generate g;
        struct stream s;

        start(&x);
        sealed = fd_memfd_new_sealed("t", "hello", 5);
        open_fd = fd_memfd_new("t", 5);
        assert_true(sealed >= 0 && open_fd >= 0);
        generate_init(&g, 1, "", 4, 100);
        g.generate.input_fd = true;
        s = one(&x, &g.submit, &sealed, 1);
        assert_int_equal(s.n, 4);
        s = one(&x, &g.submit, &open_fd, 1);
        assert_int_equal(s.code, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT);
        assert_non_null(strstr(s.message, "sealed"));
        s = one(&x, &g.submit, NULL, 0);
        assert_int_equal(s.code, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT);
        stop(&x, LINK_E_CLOSED);
}

static void test_tokenize(void **state) {
        Spark__V1__Tokenize t = SPARK__V1__TOKENIZE__INIT;
        Spark__V1__Detokenize d = SPARK__V1__DETOKENIZE__INIT;
        Spark__Engine__V1__Submit s = SPARK__ENGINE__V1__SUBMIT__INIT;
        struct fixture x = { 0 };
        uint32_t ids[3];
        EngineFrame *m;

        start(&x);
        t.text.data = (uint8_t *)"a\n\xc3\xa4";
        t.text.len = 4;
        s.key = 5;
        s.request_case = SPARK__ENGINE__V1__SUBMIT__REQUEST_TOKENIZE;
        s.tokenize = &t;
        submit(&x, &s, NULL, 0);
        m = receive(&x);
        assert_int_equal(m->body_case, SPARK__ENGINE__V1__ENGINE_FRAME__BODY_FINISHED);
        assert_int_equal(m->finished->key, 5);
        assert_int_equal(m->finished->done->tokenize->n_ids, 4);
        assert_int_equal(m->finished->done->tokenize->ids[0], 'a' - 32);
        assert_int_equal(m->finished->done->tokenize->ids[1], (uint8_t)('\n' - 32));
        ids[0] = 'h' - 32;
        ids[1] = FAKE_EOS;
        ids[2] = 'i' - 32;
        d.n_tokens = 3;
        d.tokens = ids;
        s.key = 6;
        s.request_case = SPARK__ENGINE__V1__SUBMIT__REQUEST_DETOKENIZE;
        s.detokenize = &d;
        submit(&x, &s, NULL, 0);
        m = receive(&x);
        assert_int_equal(m->finished->done->detokenize->text.len, 2);
        assert_memory_equal(m->finished->done->detokenize->text.data, "hi", 2);
        stop(&x, LINK_E_CLOSED);
}

static void test_ping(void **state) {
        struct fixture x = { 0 };
        struct stream s = { 0 };
        struct generate g;
        unsigned pings = 0;
        EngineFrame *e;

        start(&x);
        send_ping(&x, 99);
        e = receive(&x);
        assert_int_equal(e->body_case, SPARK__ENGINE__V1__ENGINE_FRAME__BODY_STATE);
        assert_int_equal(e->state->cookie, 99);
        assert_int_equal(e->state->tokens, 0);
        generate_init(&g, 9, "x", 20, 3);
        submit(&x, &g.submit, NULL, 0);
        while (s.n < 3)
                (void)take(receive(&x), &s, 1, 9);
        do { /* its last token may come before it is seen to have no credit left */
                assert_true(pings++ < 1000);
                send_ping(&x, 7);
                e = receive(&x);
        } while (e->state->paused == 0);
        assert_int_equal(e->state->paused, 1);
        assert_int_equal(e->state->n_paused_keys, 1);
        assert_int_equal(e->state->paused_keys[0], 9);
        assert_int_equal(e->state->tokens, 3);
        stop(&x, LINK_E_CLOSED);
}

/* Many at once, some cancelled, some given credit drop by drop: each ends exactly once, and no frame is out of place. */
#define STORM 200u

static void test_storm(void **state) {
        static struct stream s[STORM];
        struct fixture x = { .config = { .max_sequences = 16 } };
        size_t ends = 0, cancelled = 0;
        struct generate g;

        memset(s, 0, sizeof(s));
        start(&x);
        for (uint64_t k = 0; k < STORM; k++) {
                generate_init(&g, 1 + k, "storm", 20 + (uint32_t)k, k % 3 == 0 ? 7 : 1000);
                g.submit.client = k % 5;
                submit(&x, &g.submit, NULL, 0);
                if (k % 4 == 1)
                        send_cancel(&x, 1 + k / 2);
        }
        while (ends < STORM) {
                EngineFrame *m = receive_within(&x, 50);

                if (m) {
                        ends += take(m, s, STORM, 1);
                        continue;
                }
                for (uint64_t k = 0; k < STORM; k++)
                        if (!s[k].finished)
                                send_window(&x, 1 + k, 100);
        }
        for (unsigned k = 0; k < STORM; k++) {
                assert_true(s[k].finished);
                cancelled += s[k].code == SPARK__V1__ERROR_CODE__CANCELLED;
                assert_true(s[k].code || s[k].n == 20 + k);
        }
        assert_in_range(cancelled, 0, STORM / 4 + 1);
        stop(&x, LINK_E_CLOSED);
}

static void test_protocol_fault(void **state) {
        ControlFrame m = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;
        Spark__Engine__V1__Init init = SPARK__ENGINE__V1__INIT__INIT;
        struct fixture x = { 0 };

        start(&x);
        init.version = 1;
        m.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_INIT; /* a second one */
        m.init = &init;
        send_frame(&x, &m, NULL, 0);
        assert_int_equal(pthread_join(x.thread, NULL), 0);
        assert_int_equal(x.result, LINK_E_PROTOCOL);
        channel_deinit(&x.control);
        channel_deinit(&x.engine_end);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_streams),      cmocka_unit_test(test_credit_and_cancel),
                cmocka_unit_test(test_refusals),     cmocka_unit_test(test_input_fd),
                cmocka_unit_test(test_tokenize),     cmocka_unit_test(test_ping),
                cmocka_unit_test(test_storm),        cmocka_unit_test(test_protocol_fault),
        };

        log_init("test-engine-link", LOG_LEVEL_WARNING, 0);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
