/* SPDX-License-Identifier: Apache-2.0 */

/* Connecting to a service that is being restarted: before the greeting a connection is made anew, after it nothing is. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <sys/un.h>
#include <time.h>

#include "client/spark.h"
#include "fake-service.h"

static uint64_t generate(struct spark *s) {
        struct spark_generate_request g = SPARK_GENERATE_INIT;
        uint64_t id = 0;

        g.prompt = "x";
        g.prompt_size = 1;
        assert_int_equal(spark_generate(s, &g, NULL, NULL, &id), 0);
        return id;
}

struct restarts {
        unsigned lost;  /* connections that end before they were looked at */
        bool half;      /* within the greeting */
        unsigned requests;
};

static void script_restarted(struct fake *f) {
        struct restarts *r = f->data;
        unsigned n = atomic_load(&f->connections);
        uint64_t id;

        if (n <= r->lost) {
                if (r->half)
                        fake_send_raw(f, "\x10\0\0", 3);
                return;
        }
        fake_greet(f);
        id = fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_GENERATE);
        r->requests++;
        fake_send_token(f, id, 0, "hi");
        fake_send_done(f, id, 1);
        (void)fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_GENERATE); /* and this one gets no answer */
        r->requests++;
}

static void expect_restarts(struct restarts *r, int first, int second, unsigned connections, unsigned requests) {
        struct spark *s = NULL;
        struct spark_result *result = NULL;
        struct fake f;
        char path[64];
        uint64_t id;

        (void)snprintf(path, sizeof(path), "/tmp/test-libspark-%ld.sock", (long)getpid());
        assert_int_equal(fake_start_at(&f, path, script_restarted, r), 0);
        assert_int_equal(spark_connect(&s, path, "test 1.0"), 0);
        id = generate(s);
        assert_int_equal(spark_wait(s, id, 10000, &result), first);
        if (first == 0) {
                assert_int_equal(result->tokens->n, 1);
                id = generate(s);
                assert_int_equal(spark_wait(s, id, 10000, NULL), second);
        }
        (void)spark_result_free(result);
        assert_null(spark_unref(s));
        fake_stop(&f);
        assert_string_equal(f.fault, "");
        assert_int_equal(r->requests, requests);
        if (connections)
                assert_int_equal(atomic_load(&f.connections), connections);
}

static void test_ends_before_greeting(void **state) {
        struct restarts r = { .lost = 2 };

        /* the request is sent once, when the greeting has come; what ends after that is told */
        expect_restarts(&r, 0, SPARK_DISCONNECTED, 3, 2);
}

static void test_ends_within_greeting(void **state) {
        struct restarts r = { .lost = 1, .half = true };

        expect_restarts(&r, 0, SPARK_DISCONNECTED, 2, 2);
}

static void test_never_greets(void **state) {
        struct restarts r = { .lost = UINT32_MAX };
        struct timespec t0, t1;
        double seconds;

        (void)clock_gettime(CLOCK_MONOTONIC, &t0);
        expect_restarts(&r, SPARK_DISCONNECTED, 0, 0, 0);
        (void)clock_gettime(CLOCK_MONOTONIC, &t1);
        seconds = (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) * 1e-9;
        assert_true(seconds >= 2.5);
}

static void *listen_late(void *p) {
        (void)usleep(300000);
        return (void *)(intptr_t)listen(*(int *)p, 8);
}

static void test_refused_for_a_while(void **state) {
        struct sockaddr_un addr = { .sun_family = AF_UNIX };
        _cleanup_fd_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct spark *s = NULL;
        pthread_t thread;

        (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "/tmp/test-libspark-%ld.sock", (long)getpid());
        assert_int_equal(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
        assert_int_equal(pthread_create(&thread, NULL, listen_late, &fd), 0);
        assert_int_equal(spark_connect(&s, addr.sun_path, NULL), 0);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_null(spark_unref(s));
        (void)unlink(addr.sun_path);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_ends_before_greeting),
                cmocka_unit_test(test_ends_within_greeting),
                cmocka_unit_test(test_never_greets),
                cmocka_unit_test(test_refused_for_a_while),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
