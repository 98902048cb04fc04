/* SPDX-License-Identifier: Apache-2.0 */

/* libspark: priorities, usage, and what status tells of users and requests. */

#include <setjmp.h>
#include <stdarg.h>
#include <errno.h>
#include <string.h>

#include <cmocka.h>

#include "client/spark.h"
#include "fake-client.h"

static void greet(struct fake *f, Spark__V1__Priority priority) {
        Spark__V1__ServerFrame frame = SPARK__V1__SERVER_FRAME__INIT;
        Spark__V1__Hello hello = SPARK__V1__HELLO__INIT;

        (void)fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_HELLO);
        hello.protocol_version = 1;
        hello.software = (char *)"fake 1.0";
        hello.max_priority = priority;
        frame.body_case = SPARK__V1__SERVER_FRAME__BODY_HELLO;
        frame.hello = &hello;
        fake_send(f, &frame);
}

/* ---- priorities ---- */

static void script_priorities(struct fake *f) {
        greet(f, SPARK__V1__PRIORITY__NORMAL);
        for (int i = 0; i < 4; i++) {
                Spark__V1__ClientFrame *m = fake_receive(f);
                int got = -1;

                if (!m)
                        return;
                if (m->body_case == SPARK__V1__CLIENT_FRAME__BODY_GENERATE)
                        got = (int)m->generate->priority;
                else if (m->body_case == SPARK__V1__CLIENT_FRAME__BODY_CHAT)
                        got = (int)m->chat->priority;
                else if (m->body_case == SPARK__V1__CLIENT_FRAME__BODY_SCORE)
                        got = (int)m->score->priority;
                if (got != i)
                        fake_fault(f, "request %d: priority %d", i, got);
                fake_send_done(f, m->id, 0);
                (void)message_free(&m->base);
        }
}

static void test_priorities(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_priorities, NULL);
        struct spark_generate_request g = SPARK_GENERATE_INIT;
        struct spark_chat_message message = SPARK_CHAT_MESSAGE_INIT;
        struct spark_chat_request c = SPARK_CHAT_INIT;
        struct spark_score_request sc = SPARK_SCORE_INIT;
        uint64_t id;

        assert_int_equal(spark_max_priority(s), SPARK_PRIORITY_DEFAULT);
        assert_int_equal(spark_wait_hello(s, 10000), 0);
        assert_int_equal(spark_max_priority(s), SPARK_PRIORITY_NORMAL);
        /* a caller that was built before the field was there: what lies behind its structure is not looked at */
        g.size = offsetof(struct spark_generate_request, priority);
        g.reserved = 0xffffffffu;
        g.priority = SPARK_PRIORITY_INTERACTIVE;
        assert_int_equal(spark_generate(s, &g, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, 10000, NULL), 0);
        g = (struct spark_generate_request)SPARK_GENERATE_INIT;
        g.priority = SPARK_PRIORITY_BACKGROUND;
        assert_int_equal(spark_generate(s, &g, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, 10000, NULL), 0);
        message.role = "user";
        c.messages = &message;
        c.n_messages = 1;
        c.priority = SPARK_PRIORITY_NORMAL;
        assert_int_equal(spark_chat(s, &c, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, 10000, NULL), 0);
        sc.priority = SPARK_PRIORITY_INTERACTIVE;
        assert_int_equal(spark_score(s, &sc, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, 10000, NULL), 0);
        client_finish(&f, s);
}

/* ---- usage ---- */

static void script_usage(struct fake *f) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__UsageResult result = SPARK__V1__USAGE_RESULT__INIT;
        Spark__V1__UsageRow row = SPARK__V1__USAGE_ROW__INIT, other = SPARK__V1__USAGE_ROW__INIT, *rows[] = { &row, &other };
        Spark__V1__ClientFrame *m;

        greet(f, SPARK__V1__PRIORITY__NORMAL);
        m = fake_expect(f, SPARK__V1__CLIENT_FRAME__BODY_USAGE_QUERY);
        if (!m)
                return;
        if (m->usage_query->days != 30 || !m->usage_query->all_users)
                fake_fault(f, "the question");
        row.day = (char *)"2024-02-29";
        row.uid = 1000;
        row.model = (char *)"m";
        row.requests = 1;
        row.prompt_tokens = 1ull << 40;
        row.cached_tokens = 3;
        row.completion_tokens = 4;
        row.refused = 5;
        result.rows = rows;
        result.n_rows = 2;
        result.tokens_today = 6;
        result.tokens_per_day = 7;
        done.result_case = SPARK__V1__DONE__RESULT_USAGE_REPORT;
        done.usage_report = &result;
        fake_send_done_message(f, m->id, &done);
        (void)message_free(&m->base);
        fake_send_error(f, fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_USAGE_QUERY), SPARK_QUOTA_EXCEEDED, "Spent.", 0, 0,
                        86400000);
}

static void test_usage(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_usage, NULL);
        struct spark_usage_request u = SPARK_USAGE_INIT;
        struct spark_result *result = NULL;
        const struct spark_usage_row *row;
        uint64_t id;

        u.days = 30;
        u.all_users = 1;
        assert_int_equal(spark_usage(s, NULL, NULL, NULL, &id), -EINVAL);
        assert_int_equal(spark_usage(s, &u, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, 10000, &result), 0);
        assert_non_null(result->done->usage);
        assert_null(result->done->status);
        assert_int_equal(result->done->usage->n_rows, 2);
        assert_int_equal(result->done->usage->tokens_today, 6);
        assert_int_equal(result->done->usage->tokens_per_day, 7);
        row = result->done->usage->rows[0];
        assert_string_equal(row->day, "2024-02-29");
        assert_int_equal(row->uid, 1000);
        assert_string_equal(row->model, "m");
        assert_int_equal(row->requests, 1);
        assert_true(row->prompt_tokens == 1ull << 40);
        assert_int_equal(row->cached_tokens, 3);
        assert_int_equal(row->completion_tokens, 4);
        assert_int_equal(row->refused, 5);
        assert_string_equal(result->done->usage->rows[1]->day, "");
        result = spark_result_free(result);
        u = (struct spark_usage_request)SPARK_USAGE_INIT;
        assert_int_equal(spark_usage(s, &u, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, 10000, &result), SPARK_QUOTA_EXCEEDED);
        assert_int_equal(result->error->retry_after_ms, 86400000);
        result = spark_result_free(result);
        client_finish(&f, s);
}

/* ---- status ---- */

static void script_status(struct fake *f) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__StatusResult status = SPARK__V1__STATUS_RESULT__INIT;
        Spark__V1__ModelInfo model = SPARK__V1__MODEL_INFO__INIT, *models[] = { &model };
        Spark__V1__RequestInfo request = SPARK__V1__REQUEST_INFO__INIT, *requests[] = { &request };
        Spark__V1__UserInfo user = SPARK__V1__USER_INFO__INIT, *users[] = { &user };
        char *warnings[] = { (char *)"One.", (char *)"Two." };

        greet(f, SPARK__V1__PRIORITY__INTERACTIVE);
        model.kv_used_bytes = 1;
        model.kv_cached_bytes = 2;
        request.priority = SPARK__V1__PRIORITY__BACKGROUND;
        request.tokens_per_second = 3.5f;
        request.cached_tokens = 4;
        user.uid = 5;
        user.connections = 6;
        user.running = 7;
        user.queued = 8;
        user.sessions = 9;
        user.kv_used_bytes = 10;
        user.kv_cached_bytes = 11;
        user.kv_limit_bytes = 12;
        user.tokens_today = 13;
        user.tokens_per_day = 14;
        user.weight = 15;
        user.tokens_per_second = 16.5f;
        user.bytes = 17;
        status.models = models;
        status.n_models = 1;
        status.requests = requests;
        status.n_requests = 1;
        status.users = users;
        status.n_users = 1;
        status.memory_kv_used = 18;
        status.memory_kv_cached = 19;
        status.warnings = warnings;
        status.n_warnings = 2;
        done.result_case = SPARK__V1__DONE__RESULT_STATUS;
        done.status = &status;
        fake_send_done_message(f, fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_STATUS), &done);
}

static void test_status(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_status, NULL);
        struct spark_result *result = NULL;
        const struct spark_status_result *st;
        const struct spark_user_info *u;
        uint64_t id;

        assert_int_equal(spark_status(s, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, 10000, &result), 0);
        assert_int_equal(spark_max_priority(s), SPARK_PRIORITY_INTERACTIVE);
        st = result->done->status;
        assert_int_equal(st->models[0]->kv_used_bytes, 1);
        assert_int_equal(st->models[0]->kv_cached_bytes, 2);
        assert_int_equal(st->requests[0]->priority, SPARK_PRIORITY_BACKGROUND);
        assert_true(st->requests[0]->tokens_per_second == 3.5f);
        assert_int_equal(st->requests[0]->cached_tokens, 4);
        assert_int_equal(st->n_users, 1);
        u = st->users[0];
        assert_int_equal(u->uid, 5);
        assert_int_equal(u->connections, 6);
        assert_int_equal(u->running, 7);
        assert_int_equal(u->queued, 8);
        assert_int_equal(u->sessions, 9);
        assert_int_equal(u->kv_used_bytes, 10);
        assert_int_equal(u->kv_cached_bytes, 11);
        assert_int_equal(u->kv_limit_bytes, 12);
        assert_int_equal(u->tokens_today, 13);
        assert_int_equal(u->tokens_per_day, 14);
        assert_int_equal(u->weight, 15);
        assert_true(u->tokens_per_second == 16.5f);
        assert_int_equal(u->bytes, 17);
        assert_int_equal(st->memory_kv_used, 18);
        assert_int_equal(st->memory_kv_cached, 19);
        assert_int_equal(st->n_warnings, 2);
        assert_string_equal(st->warnings[1], "Two.");
        result = spark_result_free(result);
        client_finish(&f, s);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_priorities),
                cmocka_unit_test(test_usage),
                cmocka_unit_test(test_status),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
