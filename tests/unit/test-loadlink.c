/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "loadlink.h"

struct pair {
        int a, b;
};

static struct pair pair_new(void) {
        int s[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, s), 0);
        return (struct pair){ s[0], s[1] };
}

static void pair_close(struct pair *p) {
        p->a = fd_close(p->a);
        p->b = fd_close(p->b);
}

static void test_records(void **state) {
        struct loadlink_record out = { .type = LOADLINK_PLAN, .n_segments = 2, .total = 99, .segment_bytes = { 10, 20 } }, in;
        int fds[LOADLINK_SEGMENTS_MAX];
        struct pair p = pair_new();
        size_t n = 7;

        assert_int_equal(loadlink_recv(p.b, &in, fds, &n), -EAGAIN);
        assert_int_equal(loadlink_send(p.a, &out, NULL, 0), 0);
        assert_int_equal(loadlink_recv(p.b, &in, fds, &n), 1);
        assert_int_equal(n, 0);
        assert_int_equal(in.version, LOADLINK_VERSION);
        assert_int_equal(in.total, 99);
        assert_int_equal(in.segment_bytes[1], 20);
        p.a = fd_close(p.a);
        assert_int_equal(loadlink_recv(p.b, &in, fds, &n), 0);
        assert_int_equal(loadlink_send(p.b, &out, NULL, 0), -EPIPE);
        pair_close(&p);
}

static void count(void *userdata, const struct loadlink_record *record) {
        uint64_t *n = userdata;

        assert_int_equal(record->done, *n); /* in order */
        (*n)++;
}

/* A loader that writes without a pause takes turns with whatever else the loop has. */
static void test_reading(void **state) {
        struct loadlink_record out = { .type = LOADLINK_PROGRESS };
        struct pair p = pair_new();
        uint64_t sent = 0, n = 0;

        assert_int_equal(loadlink_read(p.b, count, &n), 1);
        assert_int_equal(n, 0);
        for (; sent < 40; out.done = ++sent)
                assert_int_equal(loadlink_send(p.a, &out, NULL, 0), 0);
        assert_int_equal(loadlink_read(p.b, count, &n), 1);
        assert_in_range(n, 1, sent - 1);
        for (int i = 0; i < 40; i++)
                assert_int_equal(loadlink_read(p.b, count, &n), 1);
        assert_int_equal(n, sent);

        assert_int_equal(loadlink_send(p.a, &out, NULL, 0), 0);
        assert_int_equal(send(p.a, "x", 1, 0), 1);
        assert_int_equal(loadlink_read(p.b, count, &n), -EPROTO);
        assert_int_equal(n, sent + 1); /* what came before it was handed on */
        p.a = fd_close(p.a);
        assert_int_equal(loadlink_read(p.b, count, &n), 0);
        pair_close(&p);
}

static void test_descriptors(void **state) {
        struct loadlink_record out = { .type = LOADLINK_SEGMENTS, .n_segments = LOADLINK_SEGMENTS_MAX }, in;
        int give[LOADLINK_SEGMENTS_MAX + 1], got[LOADLINK_SEGMENTS_MAX];
        struct pair p = pair_new();
        size_t n = 0;

        for (size_t i = 0; i <= LOADLINK_SEGMENTS_MAX; i++)
                give[i] = fd_memfd_new("segment", 100 + i);
        assert_int_equal(loadlink_send(p.a, &out, give, LOADLINK_SEGMENTS_MAX + 1), -EINVAL);
        assert_int_equal(loadlink_send(p.a, &out, give, LOADLINK_SEGMENTS_MAX), 0);
        assert_int_equal(loadlink_recv(p.b, &in, got, &n), 1);
        assert_int_equal(n, LOADLINK_SEGMENTS_MAX);
        for (size_t i = 0; i < n; i++) {
                assert_int_equal(lseek(got[i], 0, SEEK_END), 100 + i);
                assert_true(fcntl(got[i], F_GETFD) & FD_CLOEXEC);
                got[i] = fd_close(got[i]);
        }
        for (size_t i = 0; i <= LOADLINK_SEGMENTS_MAX; i++)
                give[i] = fd_close(give[i]);
        pair_close(&p);
}

static int open_fds(void) {
        int n = 0;

        for (int i = 0; i < 512; i++)
                n += fcntl(i, F_GETFD) >= 0;
        return n;
}

/* Sends raw bytes, with fds, and expects a refusal that keeps no descriptor. */
static void expect_refused(const struct loadlink_record *record, size_t size, size_t n_fds) {
        struct loadlink_record in = { .total = 4711 };
        int got[LOADLINK_SEGMENTS_MAX], before;
        struct pair p = pair_new();
        size_t n = 0;

        before = open_fds();
        if (n_fds > 0) {
                const int fds[2] = { p.a, p.b };

                assert_int_equal(loadlink_send(p.a, record, fds, n_fds), 0);
        } else {
                assert_int_equal(send(p.a, record, size, 0), size);
        }
        assert_int_equal(loadlink_recv(p.b, &in, got, &n), -EPROTO);
        assert_int_equal(in.total, 4711);
        assert_int_equal(open_fds(), before);
        pair_close(&p);
}

static void test_malformed(void **state) {
        struct loadlink_record r = { .version = LOADLINK_VERSION, .type = LOADLINK_PROGRESS };
        struct {
                struct loadlink_record record;
                char more[8];
        } longer = { r, "too much" };

        expect_refused(&r, 1, 0);
        expect_refused(&r, sizeof(r) - 1, 0);
        expect_refused(&longer.record, sizeof(longer), 0);
        expect_refused(&r, sizeof(r), 1); /* descriptors that do not belong to this type */
        r.version = LOADLINK_VERSION + 1;
        expect_refused(&r, sizeof(r), 0);
        r.version = LOADLINK_VERSION;
        r.type = 0;
        expect_refused(&r, sizeof(r), 0);
        r.type = LOADLINK_ERROR + 1;
        expect_refused(&r, sizeof(r), 0);
        r.type = LOADLINK_SEGMENTS;
        r.n_segments = 1;
        expect_refused(&r, sizeof(r), 0);
        expect_refused(&r, sizeof(r), 2);
        r.n_segments = LOADLINK_SEGMENTS_MAX + 1;
        expect_refused(&r, sizeof(r), 0);
        r.type = LOADLINK_PLAN;
        r.n_segments = 0;
        expect_refused(&r, sizeof(r), 0);
        r.type = LOADLINK_ERROR;
        (void)memset(r.text, 'x', sizeof(r.text));
        expect_refused(&r, sizeof(r), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_records),
                cmocka_unit_test(test_reading),
                cmocka_unit_test(test_descriptors),
                cmocka_unit_test(test_malformed),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
