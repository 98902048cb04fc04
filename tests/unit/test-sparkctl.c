/* SPDX-License-Identifier: Apache-2.0 */

/* sparkctl's command line, what it says without a service, and the verbs that ask one question. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/landlock.h"
#include "sparkctl-fixture.h"

/* ---- the service ---- */

static void answer_status(struct fake *f, uint64_t id) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__StatusResult st = SPARK__V1__STATUS_RESULT__INIT;
        Spark__V1__ModelInfo m = ctl_model(f->data), *list[] = { &m };
        Spark__V1__RequestInfo q = SPARK__V1__REQUEST_INFO__INIT, *requests[] = { &q };

        q.pid = 4711;
        q.kind = (char *)"chat";
        q.unit = (char *)"evil\x1b[2J.service";
        st.version = (char *)SPARK_VERSION;
        st.state = (char *)"ready";
        st.models = list;
        st.n_models = 1;
        st.requests = requests;
        st.n_requests = 1;
        st.memory_total = 128ull << 30;
        st.memory_available = 100ull << 30;
        st.memory_floor = 6ull << 30;
        done.result_case = SPARK__V1__DONE__RESULT_STATUS;
        done.status = &st;
        fake_send_done_message(f, id, &done);
}

static void answer_tokens(struct fake *f, const Spark__V1__ClientFrame *m) {
        const Spark__V1__Tokenize *t = m->tokenize;
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__TokenizeResult ids = SPARK__V1__TOKENIZE_RESULT__INIT;
        uint32_t list[64];

        ids.ids = list;
        if (t->add_bos_eos)
                list[ids.n_ids++] = 1;
        if (t->special)
                list[ids.n_ids++] = 2;
        for (size_t i = 0; i < t->text.len && ids.n_ids < ARRAY_SIZE(list); i++)
                list[ids.n_ids++] = t->text.data[i];
        done.result_case = SPARK__V1__DONE__RESULT_TOKENIZE;
        done.tokenize = &ids;
        fake_send_done_message(f, m->id, &done);
}

static void answer_text(struct fake *f, const Spark__V1__ClientFrame *m) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__DetokenizeResult text = SPARK__V1__DETOKENIZE_RESULT__INIT;
        uint8_t bytes[64];

        text.text.data = bytes;
        for (size_t i = 0; i < m->detokenize->n_tokens && i < sizeof(bytes); i++)
                bytes[text.text.len++] = (uint8_t)m->detokenize->tokens[i];
        done.result_case = SPARK__V1__DONE__RESULT_DETOKENIZE;
        done.detokenize = &text;
        fake_send_done_message(f, m->id, &done);
}

static void answer_score(struct fake *f, const Spark__V1__ClientFrame *m) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__ScoreResult score = SPARK__V1__SCORE_RESULT__INIT;

        score.tokens = m->score->text.len + m->score->context;
        score.nll = 0.1;
        score.perplexity = 1.1051709180756477;
        done.result_case = SPARK__V1__DONE__RESULT_SCORE;
        done.score = &score;
        fake_send_done_message(f, m->id, &done);
}

static bool answer_one(struct fake *f, const Spark__V1__ClientFrame *m) {
        switch (m->body_case) {
        case BODY(STATUS):
                answer_status(f, m->id);
                return true;
        case BODY(TOKENIZE):
                answer_tokens(f, m);
                return true;
        case BODY(DETOKENIZE):
                answer_text(f, m);
                return true;
        case BODY(SCORE):
                answer_score(f, m);
                return true;
        default:
                return true;
        }
}

/* ---- the command line ---- */

static void test_usage(void **state) {
        static const char *const wrong[][5] = {
                { "generate" },
                { "generate", "a", "b" },
                { "generate", "-t" },
                { "generate", "-t", "warm", "a" },
                { "generate", "-n", "-1", "a" },
                { "generate", "-n", "4294967296", "a" },
                { "generate", "--seed", "18446744073709551616", "a" },
                { "generate", "--raw=1", "a" },
                { "generate", "--max-token", "1", "a" },
                { "generate", "-x", "a" },
                { "generate", "--logprobs", "3", "a" },
                { "generate", "--raw", "--system", "s", "a" },
                { "generate", "--special", "a" },
                { "generate", "--no-bos", "a" },
                { "detokenize", "1", "x2" },
                { "detokenize", "4294967296" },
                { "status", "now" },
                { "load" },
                { "load", "--name", "a", "b" },
                { "session" },
                { "session", "dance" },
                { "session", "append", "id" },
                { "session", "rewind", "id", "-3" },
                { "session", "list", "now" },
                { "session", "close" },
                { "generate", "--session", "id", "--system", "s" },
                { "prewarm" },
                { "forget", "me" },
                { "usage", "--days", "0" },
                { "dance" },
                { "help", "dance" },
                { "help", "session", "dance" },
                { "--frob", "status" },
                { "bad", "--json" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
                _cleanup_output_ struct output o = run_full(*state, "", 0, NULL, (const char **)wrong[i]);

                if (o.status != 64)
                        fail_msg("case %zu gave %d", i, o.status);
                assert_non_null(strstr(i + 1 < ARRAY_SIZE(wrong) ? o.err.data : o.out.data, "--help"));
        }
        {
                _cleanup_output_ struct output o = RUN("generate", "--help");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "--min-p P"));
        }
        {
                _cleanup_output_ struct output o = RUN("--help");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "perplexity"));
        }
}

static void test_help(void **state) {
        static const char *const verbs[][3] = { { "generate" }, { "session" }, { "session", "create" }, { "doctor" } };

        for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
                _cleanup_output_ struct output behind = RUN(verbs[i][0], verbs[i][1] ?: "--help", "--help");
                _cleanup_output_ struct output help = RUN("help", verbs[i][0], verbs[i][1]);

                expect(&help, 0, behind.out.data);
                assert_null(strstr(help.out.data, " \n"));
                assert_null(strstr(help.out.data, "\n\n\n"));
        }
        {
                _cleanup_output_ struct output all = RUN("--help"), help = RUN("help");
                expect(&help, 0, all.out.data);
        }
}

static void test_no_service(void **state) {
        struct ctl *x = *state;

        listener_deinit(&x->fake.listener);
        {
                _cleanup_output_ struct output o = RUN("status");
                expect(&o, 69, "");
                assert_non_null(strstr(o.err.data, "systemctl start sparkd"));
        }
        {
                _cleanup_output_ struct output o = RUN("--json", "tokenize", "a");
                assert_int_equal(o.status, 69);
                assert_non_null(strstr(o.out.data, "{\"error\":{\"code\":\"NOT_RUNNING\""));
        }
        {
                _cleanup_output_ struct output o = RUN("doctor", "--json");
                assert_int_equal(o.status, 1);
                assert_non_null(strstr(o.out.data, "\"check\":\"socket\",\"status\":\"fail\""));
                assert_non_null(strstr(o.out.data, "\"ok\":false"));
        }
}

/* ---- the other verbs ---- */

static void test_tokens(void **state) {
        {
                _cleanup_output_ struct output o = RUN("tokenize", "AB");
                expect(&o, 0, "65 66\n");
        }
        {
                _cleanup_output_ struct output o = RUN_INPUT("A\n\0", "tokenize", "--special", "--bos", "-");
                expect(&o, 0, "1 2 65 10 0\n");
        }
        {
                _cleanup_output_ struct output o = RUN("tokenize", "--json", "A");
                expect(&o, 0, "{\"ids\":[65]}\n");
        }
        {
                _cleanup_output_ struct output o = RUN("detokenize", "65", "66,67", "10");
                expect(&o, 0, "ABC\n");
        }
        {
                _cleanup_output_ struct output o = RUN_INPUT("72 105\n", "detokenize", "-", "--json");
                expect(&o, 0, "{\"text\":\"Hi\"}\n");
        }
        {
                _cleanup_output_ struct output o = RUN_INPUT("0123456789", "perplexity", "--context", "100", "-");
                expect(&o, 0, "tokens 110\nnll 0.1\nperplexity 1.10517092\n");
        }
        {
                _cleanup_output_ struct output o = RUN_INPUT("0123456789", "perplexity", "-", "--json");
                expect(&o, 0, "{\"tokens\":10,\"nll\":0.10000000000000001,\"perplexity\":1.1051709180756477}\n");
        }
        {
                _cleanup_output_ struct output o = RUN("perplexity", "/no/such/file");
                expect(&o, 65, "");
        }
}

static void test_status(void **state) {
        {
                _cleanup_output_ struct output o = RUN("status");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "100.00 GiB available of 128.00 GiB"));
                assert_non_null(strstr(o.out.data, "tiny \"1\""));
                /* nobody's name gets to the terminal's controls */
                assert_non_null(strstr(o.out.data, "evil?[2J.service"));
        }
        {
                _cleanup_output_ struct output o = RUN("--json", "status");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "\"memory\":{\"total\":137438953472,"));
        }
        {
                _cleanup_output_ struct output o = RUN("models");
                assert_int_equal(o.status, 0);
                assert_true(o.out.data[0] == '*');
        }
        {
                _cleanup_output_ struct output o = RUN("ps", "--json");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "\"pid\":4711"));
                assert_non_null(strstr(o.out.data, "evil\\u001b[2J"));
        }
        {
                _cleanup_output_ struct output o = RUN("doctor");
                assert_true(o.status == 0 || o.status == 1);
                assert_non_null(strstr(o.out.data, "ok    service"));
                assert_non_null(strstr(o.out.data, landlock_version() > 0 ? "ok    landlock" : "warn  landlock"));
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                CTL_TEST(test_usage),
                CTL_TEST(test_help),
                CTL_TEST(test_no_service),
                CTL_TEST(test_tokens),
                CTL_TEST(test_status),
        };

        ctl.answer = answer_one;
        return cmocka_run_group_tests(tests, ctl_group_setup, ctl_group_teardown);
}
