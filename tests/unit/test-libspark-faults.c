/* SPDX-License-Identifier: Apache-2.0 */

/* libspark: services that misbehave, threads, signals, calls from within. */

#include <setjmp.h>
#include <stdarg.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>

#include <cmocka.h>

#include "client/spark.h"
#include "fake-client.h"

#define GENERATE SPARK__V1__CLIENT_FRAME__BODY_GENERATE

/* ---- a service that misbehaves ---- */

enum wrong {
        WRONG_ID,
        WRONG_SECOND_END,
        WRONG_SECOND_HELLO,
        WRONG_NO_HELLO,
        WRONG_TOKEN_ARRAYS,
        WRONG_EMPTY_TOKEN,
        WRONG_GARBAGE,
        WRONG_UTF8,
        WRONG_OVERSIZE,
        WRONG_ZERO_LENGTH,
        WRONG_FD,
        WRONG_CLOSE,
        WRONG_CLOSE_WITHIN_FRAME,
        WRONG_CONNECTION_ERROR,
        N_WRONG,
};

static void wrong_arrays(struct fake *f, uint64_t id) {
        Spark__V1__ServerFrame frame = SPARK__V1__SERVER_FRAME__INIT;
        Spark__V1__Token t = SPARK__V1__TOKEN__INIT;

        t.n_ids = 2;
        t.ids = (uint32_t[]){ 1, 2 };
        t.top_n = 0x80000001u;
        t.n_top_ids = t.n_top_logprobs = 2;
        t.top_ids = t.ids;
        t.top_logprobs = (float[]){ 0, 0 };
        frame.id = id;
        frame.body_case = SPARK__V1__SERVER_FRAME__BODY_TOKEN;
        frame.token = &t;
        fake_send(f, &frame);
}

static void script_wrong(struct fake *f) {
        const enum wrong wrong = *(const enum wrong *)f->data;
        _cleanup_fd_ int fd = fd_memfd_new("x", 1);
        uint64_t id;

        if (wrong == WRONG_NO_HELLO)
                (void)fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_HELLO);
        else
                fake_greet(f);
        id = fake_expect_id(f, GENERATE);
        fake_send_token(f, id, 0, "x");
        switch (wrong) {
        case WRONG_ID:
                fake_send_token(f, id + 1000, 0, "y");
                break;
        case WRONG_SECOND_END:
                fake_send_done(f, id, 1);
                fake_send_done(f, id, 1);
                break;
        case WRONG_SECOND_HELLO:
                fake_send_hello(f);
                break;
        case WRONG_TOKEN_ARRAYS:
                wrong_arrays(f, id);
                break;
        case WRONG_EMPTY_TOKEN:
                fake_send_tokens(f, id, NULL, 0, 1, "x");
                break;
        case WRONG_GARBAGE:
                fake_send_raw(f, "\x03\0\0\0\xff\xff\xff", 7);
                break;
        case WRONG_UTF8:
                fake_send_error(f, id, 1, "\xff", 0, 0, 0);
                break;
        case WRONG_OVERSIZE:
                fake_send_raw(f, "\xff\xff\xff\xff", 4);
                break;
        case WRONG_ZERO_LENGTH:
                fake_send_raw(f, "\0\0\0\0", 4);
                break;
        case WRONG_FD:
                (void)channel_queue(&f->c, "\x08\x01", 2, &fd, 1);
                fake_flush(f);
                break;
        case WRONG_CLOSE_WITHIN_FRAME:
                fake_send_raw(f, "\x03\0\0\0a", 5);
                break;
        case WRONG_CONNECTION_ERROR:
                fake_send_error(f, 0, SPARK__V1__ERROR_CODE__STOPPING, "Going down.", 0, 0, 0);
                break;
        default:
                break;
        }
}

static void test_wrong(void **state) {
        for (enum wrong w = 0; w < N_WRONG; w++) {
                struct spark_result *result = NULL;
                struct spark_error error;
                struct client_seen seen = { 0 };
                struct fake f;
                struct spark *s = client_start(&f, script_wrong, &w);
                uint64_t a = client_generate(s, "x", NULL, NULL), b = client_generate(s, "y", client_see, &seen);
                int expected = w == WRONG_CLOSE || w == WRONG_CLOSE_WITHIN_FRAME ? SPARK_DISCONNECTED
                             : w == WRONG_CONNECTION_ERROR                        ? SPARK_STOPPING
                                                                                  : SPARK_PROTOCOL;

                assert_int_equal(spark_wait(s, b, 10000, NULL), expected);
                assert_int_equal(seen.n_error, 1);
                assert_int_equal(seen.code, expected);
                assert_int_equal(spark_failed(s, &error), 1);
                assert_int_equal(error.code, expected);
                assert_true(error.message[0] != 0);
                assert_int_equal(spark_wait(s, a, 10000, &result), w == WRONG_SECOND_END ? 0 : expected);
                if (w != WRONG_NO_HELLO)
                        assert_string_equal(result->tokens->text, "x");
                (void)spark_result_free(result);
                assert_int_equal(spark_process(s), -ENOTCONN);
                assert_int_equal(spark_models(s, NULL, NULL, NULL), -ENOTCONN);
                assert_int_equal(spark_wait_hello(s, 0), expected == SPARK_DISCONNECTED ? -ENOTCONN : expected);
                client_finish(&f, s);
        }
}

/* The daemon says why it hangs up, while we are still sending: the reason must not be lost. */
static void script_refuse(struct fake *f) {
        fake_send_error(f, 0, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED, "Too many connections.", 0, 0, 0);
}

static void test_refused(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_refuse, NULL);
        struct spark_error error;

        (void)usleep(50000);
        (void)spark_models(s, NULL, NULL, NULL);
        assert_int_equal(spark_wait_hello(s, 10000), SPARK_QUOTA_EXCEEDED);
        assert_int_equal(spark_failed(s, &error), 1);
        assert_string_equal(error.message, "Too many connections.");
        client_finish(&f, s);
}

/* A code that can't be one is still an error, and never looks like one of ours. */
static void script_strange_codes(struct fake *f) {
        fake_greet(f);
        fake_send_error(f, fake_expect_id(f, GENERATE), 0, "No code.", 0, 0, 0);
        fake_send_error(f, fake_expect_id(f, GENERATE), -5, "A negative code.", 0, 0, 0);
        fake_send_error(f, fake_expect_id(f, GENERATE), 77, "A newer code.", 0, 0, 0);
        fake_send_error(f, 0, -5, "", 0, 0, 0);
}

static void test_strange_codes(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_strange_codes, NULL);

        assert_int_equal(spark_wait(s, client_generate(s, "x", NULL, NULL), 10000, NULL), SPARK_INTERNAL);
        assert_int_equal(spark_wait(s, client_generate(s, "x", NULL, NULL), 10000, NULL), SPARK_INTERNAL);
        assert_int_equal(spark_wait(s, client_generate(s, "x", NULL, NULL), 10000, NULL), 77);
        while (!spark_failed(s, NULL)) {
                struct pollfd p = { .fd = spark_fd(s), .events = POLLIN };

                assert_int_equal(poll(&p, 1, 10000), 1);
                (void)spark_process(s);
        }
        assert_int_equal(spark_wait_hello(s, 0), -ENOTCONN);
        client_finish(&f, s);
}

/* ---- threads, signals, reentrancy ---- */

static int on_event_reenter(struct spark *s, const struct spark_event *e, void *userdata) {
        struct client_seen *seen = userdata;

        assert_int_equal(spark_process(s), -EDEADLK);
        assert_int_equal(spark_wait(s, e->id, -1, NULL), -EDEADLK);
        assert_int_equal(spark_wait_hello(s, -1), -EDEADLK);
        if (e->type == SPARK_EVENT_DONE) {
                /* the last reference, from within */
                seen->n_done++;
                seen->s = spark_unref(seen->s);
        }
        return 0;
}

static void script_one(struct fake *f) {
        uint64_t id;

        fake_greet(f);
        id = fake_expect_id(f, GENERATE);
        fake_send_token(f, id, 0, "x");
        fake_send_done(f, id, 1);
}

static void test_reenter(void **state) {
        struct fake f;
        struct client_seen seen = { 0 };

        seen.s = client_start(&f, script_one, NULL);
        (void)client_generate(seen.s, "x", on_event_reenter, &seen);
        while (seen.s) {
                struct pollfd p = { .fd = spark_fd(seen.s), .events = POLLIN };

                assert_int_equal(poll(&p, 1, 10000), 1);
                (void)spark_process(seen.s);
        }
        assert_int_equal(seen.n_done, 1);
        fake_stop(&f);
}

/* Answers requests in any number, each with as many tokens as its prompt is long. */
static void script_echo(struct fake *f) {
        fake_greet(f);
        while (!f->fault[0]) {
                Spark__V1__ClientFrame *m = fake_receive(f);

                if (!m)
                        return;
                if (m->body_case == GENERATE) {
                        for (size_t i = 0; i < m->generate->prompt.len; i++)
                                fake_send_token(f, m->id, (uint32_t)i, "e");
                        fake_send_done(f, m->id, (uint32_t)m->generate->prompt.len);
                }
                (void)message_free(&m->base);
        }
}

enum { THREADS = 6, PER_THREAD = 40 };

static void *many_requests(void *p) {
        struct spark *s = p;
        char prompt[PER_THREAD + 1] = { 0 };

        for (size_t i = 0; i < PER_THREAD; i++) {
                struct spark_generate_request g = SPARK_GENERATE_INIT;
                struct spark_result *result = NULL;
                uint64_t id;
                bool good;

                prompt[i] = 'p';
                g.prompt = prompt;
                g.prompt_size = i + 1;
                if (spark_generate(s, &g, NULL, NULL, &id) != 0 || spark_wait(s, id, 20000, &result) != 0)
                        return (void *)"failed";
                good = result->tokens->n == i + 1 && result->tokens->text_size == i + 1;
                (void)spark_result_free(result);
                if (!good)
                        return (void *)"wrong length";
        }
        return NULL;
}

static void test_threads(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_echo, NULL);
        pthread_t threads[THREADS];

        for (size_t i = 0; i < THREADS; i++)
                assert_int_equal(pthread_create(&threads[i], NULL, many_requests, s), 0);
        for (size_t i = 0; i < THREADS; i++) {
                void *fault = NULL;

                assert_int_equal(pthread_join(threads[i], &fault), 0);
                if (fault)
                        fail_msg("thread: %s", (const char *)fault);
        }
        client_finish(&f, s);
}

static void on_alarm(int sig) {
}

static void test_interrupted(void **state) {
        struct sigaction sa = { .sa_handler = on_alarm };
        /* again and again: the first one may come before the wait has begun */
        const struct itimerval timer = { .it_value = { .tv_usec = 50000 }, .it_interval = { .tv_usec = 50000 } }, none = { 0 };
        struct fake f;
        struct spark *s;
        sigset_t alarm_only;
        uint64_t id;

        /* blocked while the service's thread is born, so that only this one is interrupted */
        (void)sigemptyset(&alarm_only);
        (void)sigaddset(&alarm_only, SIGALRM);
        assert_int_equal(sigaction(SIGALRM, &sa, NULL), 0);
        assert_int_equal(pthread_sigmask(SIG_BLOCK, &alarm_only, NULL), 0);
        s = client_start(&f, client_script_silent, NULL);
        assert_int_equal(pthread_sigmask(SIG_UNBLOCK, &alarm_only, NULL), 0);
        id = client_generate(s, "x", NULL, NULL);
        assert_int_equal(spark_wait_hello(s, 10000), 0);
        assert_int_equal(setitimer(ITIMER_REAL, &timer, NULL), 0);
        assert_int_equal(spark_wait(s, id, 10000, NULL), -EINTR);
        assert_int_equal(setitimer(ITIMER_REAL, &none, NULL), 0);
        assert_int_equal(spark_wait(s, id, 0, NULL), -ETIMEDOUT);
        client_finish(&f, s);
}

/* Closing with requests open frees them; nobody is called. */
static void test_close_with_open_requests(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, client_script_silent, NULL);
        struct client_seen seen = { 0 };

        for (int i = 0; i < 100; i++)
                (void)client_generate(s, "x", i % 2 ? client_see : NULL, &seen);
        client_finish(&f, s);
        assert_int_equal(seen.n_error, 0);
}

/* A service that reads nothing: requests are refused at the limit, and the queue's rest is kept for cancellations. */
static void script_deaf(struct fake *f) {
        (void)fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_HELLO);
        while (!atomic_load(&f->stop))
                (void)usleep(1000);
}

static void test_deaf_service(void **state) {
        struct fake f;
        struct spark *s = client_start(&f, script_deaf, NULL);
        struct spark_generate_request g = SPARK_GENERATE_INIT;
        _cleanup_free_ char *prompt = calloc(1, 1u << 20);
        uint64_t id = 0;
        int r = 0;

        g.prompt = prompt;
        g.prompt_size = 1u << 20;
        for (unsigned i = 0; i < 100 && r == 0; i++)
                r = spark_generate(s, &g, NULL, NULL, &id);
        assert_int_equal(r, -ENOBUFS);
        assert_int_equal(spark_cancel(s, id), 0);
        assert_int_equal(spark_wait(s, id, 20, NULL), -ETIMEDOUT);
        atomic_store(&f.stop, true);
        client_finish(&f, s);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_wrong),
                cmocka_unit_test(test_refused),
                cmocka_unit_test(test_strange_codes),
                cmocka_unit_test(test_reenter),
                cmocka_unit_test(test_threads),
                cmocka_unit_test(test_interrupted),
                cmocka_unit_test(test_close_with_open_requests),
                cmocka_unit_test(test_deaf_service),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
