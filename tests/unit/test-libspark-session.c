/* SPDX-License-Identifier: Apache-2.0 */

/* libspark: what sessions and the prefix cache are asked, and what comes of it. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client/spark.h"
#include "fake-client.h"

#define BODY(name) SPARK__V1__CLIENT_FRAME__BODY_##name

static Spark__V1__SessionInfo info(const char *id) {
        Spark__V1__SessionInfo i = SPARK__V1__SESSION_INFO__INIT;

        i.id = (char *)id;
        i.model = (char *)"m";
        i.name = (char *)"notes";
        i.state = (char *)"idle";
        i.uid = 1000;
        i.tokens = (uint64_t)1 << 40;
        i.persistent = true;
        i.idle_s = 1.5f;
        i.stored_bytes = (uint64_t)1 << 41;
        return i;
}

static void send_session(struct fake *f, const Spark__V1__ClientFrame *m, const char *id) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__SessionInfo i = info(id);

        done.result_case = SPARK__V1__DONE__RESULT_SESSION;
        done.session = &i;
        fake_send_done_message(f, m->id, &done);
}

/* Checks one frame with `good` and answers with a session. */
#define SERVE(f, body, good, id)                                      \
        do {                                                          \
                Spark__V1__ClientFrame *m = fake_expect(f, BODY(body)); \
                if (m && !(good))                                     \
                        fake_fault(f, "%s", #body);                   \
                if (m) {                                              \
                        send_session(f, m, id);                       \
                        (void)message_free(&m->base);                 \
                }                                                     \
        } while (0)

static void script_sessions(struct fake *f) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__SessionsResult result = SPARK__V1__SESSIONS_RESULT__INIT;
        Spark__V1__SessionInfo infos[] = { info("one"), info("two") };
        Spark__V1__SessionInfo *list[] = { &infos[0], &infos[1] };
        uint64_t id;

        fake_greet(f);
        SERVE(f, SESSION_CREATE,
              strcmp(m->session_create->model, "m") == 0 && strcmp(m->session_create->name, "notes") == 0 &&
                      m->session_create->persistent, "one");
        SERVE(f, SESSION_APPEND,
              strcmp(m->session_append->session, "one") == 0 && m->session_append->text.len == 3 &&
                      m->session_append->special && m->session_append->no_bos && !m->session_append->input_fd &&
                      m->session_append->priority == SPARK__V1__PRIORITY__BACKGROUND, "one");
        SERVE(f, SESSION_APPEND,
              m->session_append->n_tokens == 2 && m->session_append->tokens[1] == 8 && m->session_append->text.len == 0,
              "one");
        SERVE(f, SESSION_APPEND, m->session_append->input_fd && m->session_append->text.len == 0, "one");
        SERVE(f, SESSION_FORK,
              strcmp(m->session_fork->session, "one") == 0 && strcmp(m->session_fork->name, "") == 0 &&
                      m->session_fork->persistent, "two");
        SERVE(f, SESSION_REWIND,
              strcmp(m->session_rewind->session, "two") == 0 && m->session_rewind->tokens == (uint64_t)1 << 33, "two");
        SERVE(f, GENERATE, strcmp(m->generate->session, "two") == 0 && m->generate->prompt.len == 1, "two");
        SERVE(f, GENERATE, strcmp(m->generate->session, "") == 0, "");
        id = fake_expect_id(f, BODY(SESSIONS));
        result.sessions = list;
        result.n_sessions = 2;
        done.result_case = SPARK__V1__DONE__RESULT_SESSIONS;
        done.sessions = &result;
        fake_send_done_message(f, id, &done);
        {
                Spark__V1__ClientFrame *m = fake_expect(f, BODY(SESSION_CLOSE));

                if (m && strcmp(m->session_close->session, "two") != 0)
                        fake_fault(f, "close");
                if (m)
                        fake_send_error(f, m->id, SPARK_BUSY, "The disk is busy.", 0, 0, 200);
                (void)message_free(m ? &m->base : NULL);
        }
}

static void expect_session(struct spark *s, uint64_t id, const char *name) {
        struct spark_result *result = NULL;

        assert_int_equal(spark_wait(s, id, 20000, &result), 0);
        assert_non_null(result->done->session);
        assert_string_equal(result->done->session->id, name);
        assert_string_equal(result->done->session->model, "m");
        assert_string_equal(result->done->session->name, "notes");
        assert_string_equal(result->done->session->state, "idle");
        assert_int_equal(result->done->session->uid, 1000);
        assert_true(result->done->session->tokens == (uint64_t)1 << 40);
        assert_true(result->done->session->stored_bytes == (uint64_t)1 << 41);
        assert_true(result->done->session->idle_s == 1.5f);
        assert_int_equal(result->done->session->persistent, 1);
        assert_null(result->done->sessions);
        (void)spark_result_free(result);
}

static void test_sessions(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_sessions, NULL);
        struct spark_session_create_request create = SPARK_SESSION_CREATE_INIT;
        struct spark_session_append_request append = SPARK_SESSION_APPEND_INIT;
        struct spark_session_fork_request fork = SPARK_SESSION_FORK_INIT;
        struct spark_session_rewind_request rewind = SPARK_SESSION_REWIND_INIT;
        struct spark_generate_request g = SPARK_GENERATE_INIT;
        static const uint32_t tokens[] = { 7, 8 };
        struct spark_result *result = NULL;
        char *big = calloc(1, 3u << 20);
        uint64_t id;

        assert_non_null(big);
        create.model = "m";
        create.name = "notes";
        create.persistent = 1;
        assert_int_equal(spark_session_create(s, &create, NULL, NULL, &id), 0);
        expect_session(s, id, "one");
        append.session = "one";
        append.text = "abc";
        append.text_size = 3;
        append.special = append.no_bos = 1;
        append.priority = 1;
        assert_int_equal(spark_session_append(s, &append, NULL, NULL, &id), 0);
        expect_session(s, id, "one");
        append.text_size = 0;
        append.tokens = tokens;
        append.n_tokens = 2;
        assert_int_equal(spark_session_append(s, &append, NULL, NULL, &id), 0);
        expect_session(s, id, "one");
        append.n_tokens = 0;
        append.text = big;
        append.text_size = 3u << 20; /* goes as a memory file */
        assert_int_equal(spark_session_append(s, &append, NULL, NULL, &id), 0);
        expect_session(s, id, "one");
        fork.session = "one";
        fork.persistent = 1;
        assert_int_equal(spark_session_fork(s, &fork, NULL, NULL, &id), 0);
        expect_session(s, id, "two");
        rewind.session = "two";
        rewind.tokens = (uint64_t)1 << 33;
        assert_int_equal(spark_session_rewind(s, &rewind, NULL, NULL, &id), 0);
        expect_session(s, id, "two");
        g.prompt = "x";
        g.prompt_size = 1;
        g.session = "two";
        assert_int_equal(spark_generate(s, &g, NULL, NULL, &id), 0);
        expect_session(s, id, "two");
        g.size = offsetof(struct spark_generate_request, session); /* a caller who knows of no sessions */
        assert_int_equal(spark_generate(s, &g, NULL, NULL, &id), 0);
        expect_session(s, id, "");
        assert_int_equal(spark_session_list(s, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, 20000, &result), 0);
        assert_null(result->done->session);
        assert_int_equal(result->done->n_sessions, 2);
        assert_string_equal(result->done->sessions[0]->id, "one");
        assert_string_equal(result->done->sessions[1]->id, "two");
        result = spark_result_free(result);
        assert_int_equal(spark_session_close(s, "two", NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, 20000, &result), SPARK_BUSY);
        assert_int_equal(result->error->retry_after_ms, 200);
        result = spark_result_free(result);
        free(big);
        client_finish(&f, s);
}

static void script_prefixes(struct fake *f) {
        Spark__V1__PrewarmResult result = SPARK__V1__PREWARM_RESULT__INIT;
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__ClientFrame *m;

        fake_greet(f);
        result.tokens = 2000;
        result.cached_tokens = 1900;
        done.result_case = SPARK__V1__DONE__RESULT_PREWARM;
        done.prewarm = &result;
        for (int i = 0; i < 3; i++) {
                m = fake_expect(f, BODY(PREWARM));
                if (!m)
                        return;
                if (i == 0 && (strcmp(m->prewarm->model, "m") != 0 || m->prewarm->text.len != 6 || !m->prewarm->share ||
                               !m->prewarm->special || !m->prewarm->no_bos))
                        fake_fault(f, "prewarm text");
                if (i == 1 && (m->prewarm->n_tokens != 2 || m->prewarm->share))
                        fake_fault(f, "prewarm tokens");
                if (i == 2 && (m->prewarm->n_messages != 1 || strcmp(m->prewarm->messages[0]->content, "be kind") != 0 ||
                               strcmp(m->prewarm->tools_json, "[]") != 0))
                        fake_fault(f, "prewarm messages");
                fake_send_done_message(f, m->id, &done);
                (void)message_free(&m->base);
        }
        m = fake_expect(f, BODY(FORGET));
        if (m && (strcmp(m->forget->model, "") != 0 || !m->forget->all_users))
                fake_fault(f, "forget");
        if (m)
                fake_send_done(f, m->id, 0);
        (void)message_free(m ? &m->base : NULL);
}

static void test_prefixes(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_prefixes, NULL);
        struct spark_prewarm_request w = SPARK_PREWARM_INIT;
        struct spark_forget_prefixes_request forget = SPARK_FORGET_PREFIXES_INIT;
        struct spark_chat_message message = SPARK_CHAT_MESSAGE_INIT;
        static const uint32_t tokens[] = { 7, 8 };
        struct spark_result *result = NULL;
        uint64_t id;

        w.model = "m";
        w.text = "system";
        w.text_size = 6;
        w.share = w.special = w.no_bos = 1;
        assert_int_equal(spark_prewarm(s, &w, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, 20000, &result), 0);
        assert_int_equal(result->done->prompt_tokens, 2000);
        assert_int_equal(result->done->cached_tokens, 1900);
        result = spark_result_free(result);
        w = (struct spark_prewarm_request)SPARK_PREWARM_INIT;
        w.tokens = tokens;
        w.n_tokens = 2;
        assert_int_equal(spark_prewarm(s, &w, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, 20000, NULL), 0);
        w = (struct spark_prewarm_request)SPARK_PREWARM_INIT;
        message.role = "system";
        message.content = "be kind";
        w.messages = &message;
        w.n_messages = 1;
        w.tools_json = "[]";
        assert_int_equal(spark_prewarm(s, &w, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, 20000, NULL), 0);
        forget.all_users = 1;
        assert_int_equal(spark_forget_prefixes(s, &forget, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, 20000, NULL), 0);
        client_finish(&f, s);
}

static void script_silent(struct fake *f) {
        Spark__V1__ClientFrame *m;

        fake_greet(f);
        while (!f->fault[0] && (m = fake_receive(f)))
                (void)message_free(&m->base);
}

static void test_bad_arguments(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_silent, NULL);
        struct spark_session_create_request create = SPARK_SESSION_CREATE_INIT;
        struct spark_session_append_request append = SPARK_SESSION_APPEND_INIT;
        struct spark_session_fork_request fork = SPARK_SESSION_FORK_INIT;
        struct spark_session_rewind_request rewind = SPARK_SESSION_REWIND_INIT;
        struct spark_forget_prefixes_request forget = SPARK_FORGET_PREFIXES_INIT;
        struct spark_prewarm_request w = SPARK_PREWARM_INIT;
        struct spark_chat_message message = SPARK_CHAT_MESSAGE_INIT;
        static const uint32_t tokens[] = { 7 };
        uint64_t id;

        assert_int_equal(spark_session_create(s, NULL, NULL, NULL, &id), -EINVAL);
        create.size = 1;
        assert_int_equal(spark_session_create(s, &create, NULL, NULL, &id), -EINVAL);
        assert_int_equal(spark_session_append(s, &append, NULL, NULL, &id), -EINVAL); /* of which session? */
        assert_int_equal(spark_session_fork(s, &fork, NULL, NULL, &id), -EINVAL);
        assert_int_equal(spark_session_rewind(s, &rewind, NULL, NULL, &id), -EINVAL);
        assert_int_equal(spark_session_close(s, NULL, NULL, NULL, &id), -EINVAL);
        append.session = "one";
        append.text_size = 1;
        assert_int_equal(spark_session_append(s, &append, NULL, NULL, &id), -EINVAL); /* of nothing */
        append.text = "a";
        append.tokens = tokens;
        append.n_tokens = 1;
        assert_int_equal(spark_session_append(s, &append, NULL, NULL, &id), -EINVAL); /* both */
        append.text_size = 0;
        append.tokens = NULL;
        assert_int_equal(spark_session_append(s, &append, NULL, NULL, &id), -EINVAL);
        w.text = "a";
        w.text_size = 1;
        w.tokens = tokens;
        w.n_tokens = 1;
        assert_int_equal(spark_prewarm(s, &w, NULL, NULL, &id), -EINVAL);
        w.n_tokens = 0;
        w.messages = &message;
        w.n_messages = 1;
        assert_int_equal(spark_prewarm(s, &w, NULL, NULL, &id), -EINVAL);
        w.text_size = 0;
        assert_int_equal(spark_prewarm(s, &w, NULL, NULL, &id), -EINVAL); /* a message without a role */
        w.messages = NULL;
        assert_int_equal(spark_prewarm(s, &w, NULL, NULL, &id), -EINVAL);
        forget.size = 0;
        assert_int_equal(spark_forget_prefixes(s, &forget, NULL, NULL, &id), -EINVAL);
        client_finish(&f, s);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_sessions),
                cmocka_unit_test(test_prefixes),
                cmocka_unit_test(test_bad_arguments),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
