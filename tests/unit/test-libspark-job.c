/* SPDX-License-Identifier: Apache-2.0 */

/* libspark: rights and jobs. What requests say of asking a person, what the service says of it, lists with what is others', jobs. */

#include <setjmp.h>
#include <stdarg.h>
#include <errno.h>
#include <string.h>

#include <cmocka.h>

#include "client/spark.h"
#include "fake-client.h"

static void greet_with(struct fake *f, const char *feature) {
        Spark__V1__ServerFrame frame = SPARK__V1__SERVER_FRAME__INIT;
        Spark__V1__Hello hello = SPARK__V1__HELLO__INIT;
        char *features[] = { (char *)"nonsense", (char *)feature };

        (void)fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_HELLO);
        hello.protocol_version = 1;
        hello.software = (char *)"fake";
        hello.features = features;
        hello.n_features = ARRAY_SIZE(features);
        frame.body_case = SPARK__V1__SERVER_FRAME__BODY_HELLO;
        frame.hello = &hello;
        fake_send(f, &frame);
}

/* Refuses a request, as one that a person might have allowed unless it says that one may be asked. */
static void refuse(struct fake *f, bool interactive) {
        Spark__V1__ServerFrame frame = SPARK__V1__SERVER_FRAME__INIT;
        Spark__V1__Error error = SPARK__V1__ERROR__INIT;
        Spark__V1__ClientFrame *m = fake_expect(f, SPARK__V1__CLIENT_FRAME__BODY_UNLOAD);

        if (!m || f->fault[0])
                return;
        if (m->interactive_authorization != interactive)
                fake_fault(f, "a person may be asked: %d", m->interactive_authorization);
        error.code = SPARK__V1__ERROR_CODE__PERMISSION_DENIED;
        error.message = (char *)"No.";
        error.needs_person = !interactive;
        frame.id = m->id;
        frame.body_case = SPARK__V1__SERVER_FRAME__BODY_ERROR;
        frame.error = &error;
        (void)message_free(&m->base);
        fake_send(f, &frame);
}

static void script_asking(struct fake *f) {
        greet_with(f, "authorization");
        refuse(f, false);
        refuse(f, true);
        refuse(f, false);
}

static void test_asking(void **state) {
        static const int may_ask[] = { 0, 7, 0 };
        struct fake f;
        struct spark *s = client_start(&f, script_asking, NULL);
        struct spark_result *result = NULL;
        uint64_t id = 0;

        assert_int_equal(spark_wait_hello(s, FAKE_TIMEOUT_MS), 0);
        assert_int_equal(spark_server_has(s, "authorization"), 1);
        assert_int_equal(spark_server_has(s, "nonsense"), 0);
        for (size_t i = 0; i < ARRAY_SIZE(may_ask); i++) {
                assert_int_equal(spark_set_interactive_authorization(s, may_ask[i]), 0);
                assert_int_equal(spark_unload(s, "x", NULL, NULL, &id), 0);
                assert_int_equal(spark_wait(s, id, FAKE_TIMEOUT_MS, &result), SPARK_PERMISSION_DENIED);
                assert_int_equal(result->error->needs_person, !may_ask[i]);
                result = spark_result_free(result);
        }
        client_finish(&f, s);
}

static void script_older(struct fake *f) {
        fake_greet(f);
        fake_send_done(f, fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_UNLOAD), 0);
}

/* A service that asks nobody, or does not say so. */
static void test_an_older_service(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_older, NULL);
        uint64_t id = 0;

        assert_int_equal(spark_wait_hello(s, FAKE_TIMEOUT_MS), 0);
        assert_int_equal(spark_server_has(s, "authorization"), 0);
        assert_int_equal(spark_unload(s, "x", NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, FAKE_TIMEOUT_MS, NULL), 0);
        client_finish(&f, s);
}

/* ---- what is others' ---- */

static void script_others(struct fake *f) {
        fake_greet(f);
        for (int i = 0; i < 6; i++) {
                Spark__V1__ClientFrame *m = fake_receive(f);
                int all = -1;

                if (!m)
                        return;
                if (m->body_case == SPARK__V1__CLIENT_FRAME__BODY_STATUS)
                        all = m->status->all_users;
                else if (m->body_case == SPARK__V1__CLIENT_FRAME__BODY_SESSIONS)
                        all = m->sessions->all_users;
                else if (m->body_case == SPARK__V1__CLIENT_FRAME__BODY_JOBS)
                        all = m->jobs->all_users;
                if (all != i % 2)
                        fake_fault(f, "question %d: %d", i, all);
                fake_send_done(f, m->id, 0);
                (void)message_free(&m->base);
        }
}

static void test_others(void **state) {
        struct spark_status_request status = SPARK_STATUS_INIT;
        struct spark_session_list_request sessions = SPARK_SESSION_LIST_INIT;
        struct spark_jobs_request jobs = SPARK_JOBS_INIT;
        struct {
                struct spark_jobs_request known;
                uint64_t more;
        } newer = { .known = SPARK_JOBS_INIT, .more = 1 };
        struct fake f;
        struct spark *s = client_start(&f, script_others, NULL);
        uint64_t id = 0;

        for (int i = 0; i < 6; i++) {
                status.all_users = sessions.all_users = jobs.all_users = i % 2 ? 5 : 0;
                assert_int_equal(i < 2   ? spark_status_query(s, &status, NULL, NULL, &id)
                                 : i < 4 ? spark_session_query(s, &sessions, NULL, NULL, &id)
                                         : spark_jobs(s, &jobs, NULL, NULL, &id), 0);
                assert_int_equal(spark_wait(s, id, FAKE_TIMEOUT_MS, NULL), 0);
        }
        newer.known.size = sizeof(newer);
        assert_int_equal(spark_jobs(s, &newer.known, NULL, NULL, &id), -E2BIG);
        assert_int_equal(spark_jobs(s, NULL, NULL, NULL, &id), -EINVAL);
        status.size = 3;
        assert_int_equal(spark_status_query(s, &status, NULL, NULL, &id), -EINVAL);
        client_finish(&f, s);
}

/* ---- jobs ---- */

static void script_jobs(struct fake *f) {
        Spark__V1__JobInfo one = SPARK__V1__JOB_INFO__INIT, two = SPARK__V1__JOB_INFO__INIT, *list[] = { &one, &two };
        Spark__V1__JobsResult result = SPARK__V1__JOBS_RESULT__INIT;
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__ClientFrame *m;

        fake_greet(f);
        one.id = 7;
        one.kind = (char *)"import";
        one.model = (char *)"big";
        one.uid = 1000;
        one.own = 1;
        one.state = (char *)"running";
        one.stage = (char *)"import";
        one.done = 1;
        one.total = 2;
        one.bytes_per_second = 3;
        one.eta_ms = 4;
        two.id = UINT64_MAX;
        result.jobs = list;
        result.n_jobs = 2;
        done.result_case = SPARK__V1__DONE__RESULT_JOBS;
        done.jobs = &result;
        fake_send_done_message(f, fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_JOBS), &done);
        result.n_jobs = 0;
        fake_send_done_message(f, fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_JOBS), &done);
        m = fake_expect(f, SPARK__V1__CLIENT_FRAME__BODY_JOB_CANCEL);
        if (!m || f->fault[0])
                return;
        if (m->job_cancel->job != 7)
                fake_fault(f, "which job");
        fake_send_done(f, m->id, 0);
        (void)message_free(&m->base);
        fake_send_error(f, fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_JOB_CANCEL), SPARK_INVALID_ARGUMENT, "None.", 0, 0, 0);
}

static void test_jobs(void **state) {
        struct spark_jobs_request request = SPARK_JOBS_INIT;
        struct spark_result *result = NULL;
        const struct spark_job *job;
        struct fake f;
        struct spark *s = client_start(&f, script_jobs, NULL);
        uint64_t id = 0;

        assert_int_equal(spark_jobs(s, &request, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, FAKE_TIMEOUT_MS, &result), 0);
        assert_int_equal(result->done->n_jobs, 2);
        job = result->done->jobs[0];
        assert_int_equal(job->id, 7);
        assert_string_equal(job->kind, "import");
        assert_string_equal(job->model, "big");
        assert_string_equal(job->state, "running");
        assert_string_equal(job->stage, "import");
        assert_int_equal(job->done, 1);
        assert_int_equal(job->total, 2);
        assert_int_equal(job->bytes_per_second, 3);
        assert_int_equal(job->eta_ms, 4);
        assert_int_equal(job->uid, 1000);
        assert_int_equal(job->own, 1);
        job = result->done->jobs[1];
        assert_true(job->id == UINT64_MAX);
        assert_string_equal(job->stage, ""); /* never NULL */
        assert_int_equal(job->own, 0);
        result = spark_result_free(result);
        assert_int_equal(spark_jobs(s, &request, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, FAKE_TIMEOUT_MS, &result), 0);
        assert_int_equal(result->done->n_jobs, 0);
        assert_non_null(result->done->jobs);
        result = spark_result_free(result);
        assert_int_equal(spark_job_cancel(s, 7, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, FAKE_TIMEOUT_MS, NULL), 0);
        assert_int_equal(spark_job_cancel(s, 8, NULL, NULL, &id), 0);
        assert_int_equal(spark_wait(s, id, FAKE_TIMEOUT_MS, NULL), SPARK_INVALID_ARGUMENT);
        client_finish(&f, s);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_asking),
                cmocka_unit_test(test_an_older_service),
                cmocka_unit_test(test_others),
                cmocka_unit_test(test_jobs),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
