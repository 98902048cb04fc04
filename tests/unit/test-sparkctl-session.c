/* SPDX-License-Identifier: Apache-2.0 */

/* sparkctl session, prewarm, forget, and a request in a session. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "sparkctl-fixture.h"

/* ---- the service ---- */

static void fill_session(Spark__V1__SessionInfo *s, const char *id, uint64_t tokens) {
        *s = (Spark__V1__SessionInfo)SPARK__V1__SESSION_INFO__INIT;
        s->id = (char *)id;
        s->model = (char *)"tiny";
        s->name = (char *)"my\x1b[2J notes";
        s->state = (char *)"idle";
        s->tokens = tokens;
        s->persistent = true;
        s->stored_bytes = 2048;
}

/* Every request about a session is answered with what it asked for, as a session's id and length. */
static void answer_session(struct fake *f, const Spark__V1__ClientFrame *m) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__SessionInfo s, *list[] = { &s };
        Spark__V1__SessionsResult result = SPARK__V1__SESSIONS_RESULT__INIT;
        Spark__V1__PrewarmResult prewarm = SPARK__V1__PREWARM_RESULT__INIT;

        fill_session(&s, "new", 0);
        done.result_case = SPARK__V1__DONE__RESULT_SESSION;
        done.session = &s;
        switch (m->body_case) {
        case BODY(SESSION_CREATE):
                if (!m->session_create->persistent)
                        fake_fault(f, "a session that ends with the command");
                break;
        case BODY(SESSION_APPEND):
                fill_session(&s, m->session_append->session, m->session_append->text.len + m->session_append->special);
                break;
        case BODY(SESSION_FORK):
                if (!m->session_fork->persistent)
                        fake_fault(f, "a fork that ends with the command");
                fill_session(&s, m->session_fork->name, 0);
                break;
        case BODY(SESSION_REWIND):
                fill_session(&s, m->session_rewind->session, m->session_rewind->tokens);
                break;
        case BODY(SESSIONS):
                result.sessions = list;
                result.n_sessions = 1;
                done.result_case = SPARK__V1__DONE__RESULT_SESSIONS;
                done.sessions = &result;
                break;
        case BODY(PREWARM):
                prewarm.tokens = (uint32_t)m->prewarm->text.len;
                prewarm.cached_tokens = m->prewarm->share;
                done.result_case = SPARK__V1__DONE__RESULT_PREWARM;
                done.prewarm = &prewarm;
                break;
        default:
                done.result_case = SPARK__V1__DONE__RESULT__NOT_SET;
        }
        fake_send_done_message(f, m->id, &done);
}

static bool answer_one(struct fake *f, const Spark__V1__ClientFrame *m) {
        struct ctl *x = f->data;

        switch (m->body_case) {
        case BODY(SESSION_CLOSE):
                if (strcmp(m->session_close->session, "foreign") == 0) {
                        fake_send_error(f, m->id, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "There is none.", 0, 0, 0);
                        return true;
                }
                answer_session(f, m);
                return true;
        case BODY(FORGET):
                if (m->forget->all_users) {
                        fake_send_error(f, m->id, SPARK__V1__ERROR_CODE__PERMISSION_DENIED, "Not yours.", 0, 0, 0);
                        return true;
                }
                answer_session(f, m);
                return true;
        case BODY(SESSION_CREATE):
        case BODY(SESSION_APPEND):
        case BODY(SESSION_FORK):
        case BODY(SESSION_REWIND):
        case BODY(SESSIONS):
        case BODY(PREWARM):
                answer_session(f, m);
                return true;
        case BODY(GENERATE):
                fake_send_token(f, m->id, 0, m->generate->session);
                answer_session(f, m);
                return true;
        case BODY(CHAT):
                (void)atomic_fetch_add(&x->chats, 1);
                return false;
        default:
                return true; /* credit */
        }
}

/* ---- the verbs ---- */

static void test_session(void **state) {
        {
                _cleanup_output_ struct output o = RUN("session", "create", "--name", "my notes", "-m", "tiny");
                expect(&o, 0, "new\n");
        }
        {
                _cleanup_output_ struct output o = RUN("session", "append", "one", "text");
                expect(&o, 0, "4\n");
        }
        {
                _cleanup_output_ struct output o = RUN_INPUT("more text\n", "session", "append", "--special", "one", "-");
                expect(&o, 0, "11\n");
        }
        {
                _cleanup_output_ struct output o = RUN("session", "fork", "--name", "other", "one");
                expect(&o, 0, "other\n");
        }
        {
                _cleanup_output_ struct output o = RUN("session", "rewind", "one", "18446744073709551615");
                expect(&o, 0, "18446744073709551615\n");
        }
        {
                _cleanup_output_ struct output o = RUN("session", "rewind", "one", "5", "--json");
                expect(&o, 0, "{\"id\":\"one\",\"model\":\"tiny\",\"name\":\"my\\u001b[2J notes\",\"uid\":0,\"tokens\":5,"
                              "\"persistent\":true,\"state\":\"idle\",\"idle_s\":0,\"stored_bytes\":2048}\n");
        }
        {
                _cleanup_output_ struct output o = RUN("session", "close", "one", "two");
                expect(&o, 0, "");
        }
        {
                _cleanup_output_ struct output o = RUN("session", "close", "one", "foreign", "two", "--json");
                assert_int_equal(o.status, 64);
                assert_non_null(strstr(o.out.data, "There is none."));
        }
        {
                _cleanup_output_ struct output o = RUN("session", "list");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "new  root  tiny  idle  0 tokens"));
                assert_non_null(strstr(o.out.data, "2.0 KiB on disk"));
                assert_non_null(strstr(o.out.data, "my?[2J notes")); /* nobody's name gets to the terminal's controls */
        }
        {
                _cleanup_output_ struct output o = RUN("--json", "session", "list");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "{\"sessions\":[{\"id\":\"new\""));
        }
        {
                _cleanup_output_ struct output o = RUN("session", "--help");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "rewind"));
        }
        {
                _cleanup_output_ struct output o = RUN("session", "create", "--help");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "--name NAME"));
        }
}

static void test_generate_in_session(void **state) {
        struct ctl *x = *state;

        {
                _cleanup_output_ struct output o = RUN("generate", "--session", "one", "hello");
                expect(&o, 0, "one");
                assert_int_equal(atomic_load(&x->chats), 0); /* whatever template the model has */
        }
        {
                _cleanup_output_ struct output o = RUN("generate", "--session", "one", "--no-bos", "--json", "hello");
                assert_int_equal(o.status, 0);
                assert_non_null(strstr(o.out.data, "\"text\":\"one\""));
                assert_non_null(strstr(o.out.data, "\"session\":{\"id\":\"one\",\"tokens\":0}"));
        }
}

static void test_prewarm(void **state) {
        {
                _cleanup_output_ struct output o = RUN("prewarm", "system");
                expect(&o, 0, "tokens 6\ncached 0\n");
        }
        {
                _cleanup_output_ struct output o = RUN_INPUT("a prompt\n", "prewarm", "--share", "-", "--json");
                expect(&o, 0, "{\"tokens\":9,\"cached_tokens\":1}\n");
        }
        {
                _cleanup_output_ struct output o = RUN("forget");
                expect(&o, 0, "");
        }
        {
                _cleanup_output_ struct output o = RUN("forget", "--json", "-m", "tiny");
                expect(&o, 0, "{}\n");
        }
        {
                _cleanup_output_ struct output o = RUN("forget", "--all");
                expect(&o, 77, "");
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                CTL_TEST(test_session),
                CTL_TEST(test_generate_in_session),
                CTL_TEST(test_prewarm),
        };

        ctl.answer = answer_one;
        return cmocka_run_group_tests(tests, ctl_group_setup, ctl_group_teardown);
}
