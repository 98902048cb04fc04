/* SPDX-License-Identifier: Apache-2.0 */

/* A channel that goes on in another process. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "channel-fixture.h"

static void test_peek(void **state) {
        struct pair *p = *state;
        char waste[16];
        size_t n;

        assert_int_equal(channel_peek(&p->b, 4096, &n), 0);
        assert_int_equal(n, 0);
        send_raw(p, "\x03\0\0\0abc\x02\0", 9);
        assert_int_equal(channel_peek(&p->b, 4096, &n), 1);
        assert_int_equal(n, 9);
        expect_frame(&p->b, "abc", 3);
        assert_true(channel_partial_frame(&p->b));
        assert_int_equal(recv(p->b.fd, waste, sizeof(waste), MSG_DONTWAIT), 9); /* it was all there still */
        send_raw(p, "\0\0de", 4);
        assert_int_equal(channel_peek(&p->b, 3, &n), 1); /* no more than asked for */
        assert_int_equal(n, 3);
        assert_int_equal(recv(p->b.fd, waste, 3, MSG_DONTWAIT), 3);
        assert_int_equal(channel_read(&p->b), 1);
        expect_frame(&p->b, "de", 2);
        (void)shutdown(p->a.fd, SHUT_WR);
        assert_int_equal(channel_peek(&p->b, 4096, &n), CHANNEL_E_EOF);
}

static void test_peek_fds(void **state) {
        struct pair *p = *state;
        struct channel_frame f;
        size_t n;
        char waste;
        int fd = memfd_create("x", MFD_CLOEXEC), got;

        assert_int_equal(channel_queue(&p->a, "f", 1, &fd, 1), 0);
        assert_int_equal(channel_flush(&p->a), 1);
        assert_int_equal(channel_peek(&p->b, 4096, &n), 1);
        assert_int_equal(n, 5);
        assert_int_equal(p->b.n_fds_received, 1);
        assert_int_equal(channel_next(&p->b, &f), 1);
        got = channel_take_fd(&p->b);
        assert_true(got >= 0);
        for (int i = 0; i < 5; i++)
                assert_int_equal(read(p->b.fd, &waste, 1), 1); /* without a place for it, the descriptor goes with its byte */
        assert_int_equal(channel_peek(&p->b, 4096, &n), 0);
        assert_int_equal(channel_pending_fds(&p->b), 0);
        (void)fd_close(got);
        (void)fd_close(fd);
}

static void fill_socket(struct channel *c) {
        static uint8_t data[100000];
        int r = 1;

        while (r == 1) {
                assert_int_equal(channel_queue(c, data, sizeof(data), NULL, 0), 0);
                r = channel_flush(c);
        }
        assert_int_equal(r, 0);
}

static void test_restore_output(void **state) {
        struct pair *p = *state;
        struct channel next;
        struct channel_frame f;
        size_t size, skip, frames, again;
        uint8_t *copy, *same;
        int fd;

        fill_socket(&p->a);
        for (uint8_t i = 0; i < 100; i++)
                assert_int_equal(channel_queue(&p->a, &i, 1, NULL, 0), 0);
        copy = channel_copy_output(&p->a, &size, &skip);
        assert_non_null(copy);
        assert_int_equal(size - skip, p->a.out_bytes);
        fd = dup(p->a.fd);
        assert_true(fd >= 0);
        assert_int_equal(channel_init(&next, fd, &limits), 0);
        assert_int_equal(channel_restore_output(&next, copy, size, skip), 0);
        assert_int_equal(next.out_bytes, p->a.out_bytes);
        assert_int_equal(next.out_frames, p->a.out_frames);
        same = channel_copy_output(&next, &again, &skip);
        assert_int_equal(again, size);
        assert_memory_equal(same, copy, size);
        for (frames = 0; frames < 100;) { /* the reader notices nothing */
                assert_true(channel_read(&p->b) >= 0);
                while (channel_next(&p->b, &f) == 1)
                        if (f.size == 1)
                                assert_int_equal(f.data[0], frames++);
                assert_true(channel_flush(&next) >= 0);
        }
        assert_int_equal(next.out_frames, 0);
        assert_int_equal(next.out_bytes, 0);
        free(same);
        free(copy);
        channel_deinit(&next);
}

static void test_restore_refused(void **state) {
        struct pair *p = *state;

        assert_int_equal(channel_restore_output(&p->a, (const uint8_t *)"\x02\0\0\0a", 5, 0), /* half a frame */
                         CHANNEL_E_OVERSIZE);
        assert_int_equal(channel_restore_output(&p->a, (const uint8_t *)"\x01\0\0\0a", 5, 5), /* a whole one sent */
                         CHANNEL_E_OVERSIZE);
        assert_int_equal(channel_restore_output(&p->a, (const uint8_t *)"\0\0\0\0", 4, 0), CHANNEL_E_OVERSIZE);
        assert_false(channel_wants_write(&p->a));
        assert_int_equal(channel_restore_input(&p->a, NULL, SIZE_MAX), CHANNEL_E_OVERSIZE);
}

static void test_restore_input(void **state) {
        struct pair *p = *state;
        int fd = memfd_create("x", MFD_CLOEXEC);

        assert_int_equal(channel_restore_input(&p->b, (const uint8_t *)"\x01\0\0\0a\x04\0\0\0b", 10), 0);
        assert_int_equal(channel_restore_fd(&p->b, fd, 41), 0);
        assert_int_equal(p->b.n_fds_received, 42);
        expect_frame(&p->b, "a", 1);
        send_raw(p, "cde", 3);
        assert_int_equal(channel_read(&p->b), 1);
        expect_frame(&p->b, "bcde", 4);
        assert_int_equal(channel_take_fd(&p->b), fd);
        (void)fd_close(fd);
}

struct sink {
        int fd;
        unsigned calls;
};

/* Three bytes at a time, and every other time none. */
static ssize_t send_little(void *userdata, const struct iovec *iov, size_t n_iov) {
        struct sink *s = userdata;

        assert_true(n_iov > 0);
        if (s->calls++ % 2)
                return -EAGAIN;
        return write(s->fd, iov[0].iov_base, MIN(iov[0].iov_len, (size_t)3));
}

static void test_transfer(void **state) {
        struct pair *p = *state;
        struct sink s = { .fd = p->a.fd };
        const struct channel_transfer transfer = { .send = send_little, .userdata = &s };
        int r;

        p->a.transfer = &transfer;
        assert_int_equal(channel_queue(&p->a, "hello", 5, NULL, 0), 0);
        assert_int_equal(channel_queue(&p->a, "you", 3, NULL, 0), 0);
        do
                r = channel_flush(&p->a);
        while (r == 0);
        assert_int_equal(r, 1);
        assert_true(s.calls >= 6);
        assert_int_equal(p->a.out_total, 16);
        assert_int_equal(p->a.out_frames, 0);
        assert_int_equal(channel_read(&p->b), 1);
        expect_frame(&p->b, "hello", 5);
        expect_frame(&p->b, "you", 3);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                CHANNEL_TEST(test_peek),
                CHANNEL_TEST(test_peek_fds),
                CHANNEL_TEST(test_restore_output),
                CHANNEL_TEST(test_restore_refused),
                CHANNEL_TEST(test_restore_input),
                CHANNEL_TEST(test_transfer),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
