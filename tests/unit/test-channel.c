/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "channel-fixture.h"

static void test_roundtrip(void **state) {
        struct pair *p = *state;
        struct channel_frame f;

        assert_int_equal(channel_read(&p->b), 0);
        assert_null(p->b.in);
        assert_int_equal(channel_queue(&p->a, "x", 1, NULL, 0), 0);
        assert_int_equal(channel_queue(&p->a, "hello", 5, NULL, 0), 0);
        assert_true(channel_wants_write(&p->a));
        assert_int_equal(p->a.out_frames, 2);
        assert_int_equal(p->a.out_bytes, 14);
        assert_int_equal(channel_read(&p->b), 0); /* nothing is sent before the flush */
        assert_int_equal(channel_flush(&p->a), 1);
        assert_int_equal(p->a.out_frames, 0);
        assert_int_equal(p->a.out_bytes, 0);
        assert_null(p->a.out_head);

        assert_int_equal(channel_read(&p->b), 1);
        expect_frame(&p->b, "x", 1);
        expect_frame(&p->b, "hello", 5);
        assert_int_equal(channel_next(&p->b, &f), 0);
        assert_null(p->b.in); /* an idle channel owns nothing */
        assert_int_equal(channel_read(&p->b), 0);
        assert_null(p->b.in);
}

static void test_bytewise(void **state) {
        static const char wire[] = "\x03\0\0\0abc\x01\0\0\0z";
        struct pair *p = *state;
        struct channel_frame f;

        for (size_t i = 0; i < sizeof(wire) - 1; i++) {
                send_raw(p, wire + i, 1);
                assert_int_equal(channel_read(&p->b), 1);
                if (i == 6)
                        expect_frame(&p->b, "abc", 3);
                else if (i == sizeof(wire) - 2)
                        expect_frame(&p->b, "z", 1);
                else
                        assert_true(channel_partial_frame(&p->b));
                assert_int_equal(channel_next(&p->b, &f), 0);
        }
        assert_false(channel_partial_frame(&p->b));
}

static void test_bad_lengths(void **state) {
        struct pair *p = *state;
        struct channel_frame f;

        send_raw(p, "\0\0\0\0", 4);
        assert_int_equal(channel_read(&p->b), 1);
        assert_int_equal(channel_next(&p->b, &f), CHANNEL_E_EMPTY);
        assert_int_equal(channel_next(&p->b, &f), CHANNEL_E_EMPTY);
}

static void test_oversize(void **state) {
        struct pair *p = *state;
        struct channel_frame f;
        uint8_t *data;

        send_raw(p, "\x01\0\x40\0", 4); /* 4 MiB and one byte: known from the header alone */
        assert_int_equal(channel_read(&p->b), 1);
        assert_int_equal(channel_next(&p->b, &f), CHANNEL_E_OVERSIZE);
        assert_int_equal(channel_queue_reserve(&p->a, CHANNEL_FRAME_MAX + 1, &data), CHANNEL_E_OVERSIZE);
        assert_int_equal(channel_queue_reserve(&p->a, SIZE_MAX, &data), CHANNEL_E_OVERSIZE);
        assert_int_equal(channel_queue_reserve(&p->a, 0, &data), -EINVAL);
        assert_false(channel_wants_write(&p->a));
}

static void test_announced_is_not_allocated(void **state) {
        struct pair *p = *state;
        struct channel_frame f;

        send_raw(p, "\0\0\x40\0abc", 7); /* announces 4 MiB */
        assert_int_equal(channel_read(&p->b), 1);
        assert_int_equal(channel_next(&p->b, &f), 0);
        assert_true(p->b.in_cap <= 64u << 10);
}

/* Pumps one way until everything has arrived, in the turns of an event loop. */
static void pump_large(struct pair *p, size_t size, uint8_t seed) {
        struct channel_frame f;
        uint8_t *data;
        int r;

        assert_int_equal(channel_queue_reserve(&p->a, size, &data), 0);
        for (size_t i = 0; i < size; i++)
                data[i] = (uint8_t)(i * 31 + seed);
        for (unsigned turns = 0;; turns++) {
                assert_true(turns < 10000);
                assert_true(channel_flush(&p->a) >= 0);
                r = channel_read(&p->b);
                assert_true(r == 0 || r == 1);
                r = channel_next(&p->b, &f);
                if (r == 1)
                        break;
                assert_int_equal(r, 0);
        }
        assert_int_equal(f.size, size);
        for (size_t i = 0; i < size; i++)
                assert_true(f.data[i] == (uint8_t)(i * 31 + seed));
        assert_int_equal(channel_next(&p->b, &f), 0);
        assert_null(p->b.in);
}

static void test_large(void **state) {
        static const size_t sizes[] = { 1, 8187, 8188, 8189, 65533, 262140, 262141, 1000003, CHANNEL_FRAME_MAX };

        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
                pump_large(*state, sizes[i], (uint8_t)i);
}

static void test_read_is_bounded(void **state) {
        struct pair *p = *state;
        struct channel_frame f;
        uint8_t *data;
        size_t turns = 0, got = 0;
        int size = 4 << 20;

        assert_int_equal(setsockopt(p->a.fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
        for (unsigned i = 0; i < 40; i++) {
                assert_int_equal(channel_queue_reserve(&p->a, 65532, &data), 0);
                memset(data, (int)i, 65532);
        }
        while (got < 40) {
                size_t before = p->b.in_len;

                assert_true(turns++ < 1000);
                assert_true(channel_flush(&p->a) >= 0);
                assert_int_equal(channel_read(&p->b), 1);
                assert_true(p->b.in_len - before <= 256u << 10);
                while (channel_next(&p->b, &f) == 1) {
                        assert_int_equal(f.size, 65532);
                        assert_int_equal(f.data[0], got);
                        assert_int_equal(f.data[65531], got);
                        got++;
                }
        }
}

/* A reader that does not hand out what it has does not make the buffer grow for ever. */
static void test_read_full(void **state) {
        struct pair *p = *state;
        const struct channel_limits small = { .frame_max = 1000, .out_frames = 1 << 20, .out_bytes = 64 << 20 };
        struct channel_frame f;
        uint8_t *data;
        size_t frames = 0;

        p->b.limits = small;
        for (unsigned i = 0; i < 2000; i++)
                assert_int_equal(channel_queue_reserve(&p->a, 996, &data), 0);
        for (unsigned i = 0; i < 100; i++) {
                assert_true(channel_flush(&p->a) >= 0);
                assert_int_equal(channel_read(&p->b), 1);
                assert_true(p->b.in_cap <= (256u << 10) + 1004);
        }
        for (unsigned turns = 0; frames < 2000 && turns < 10000; turns++) {
                while (channel_next(&p->b, &f) == 1)
                        frames++;
                assert_true(channel_flush(&p->a) >= 0);
                assert_true(channel_read(&p->b) >= 0);
        }
        assert_int_equal(frames, 2000);
}

static void test_limits(void **state) {
        struct pair *p = *state;

        p->a.limits.out_frames = 3;
        p->a.limits.out_bytes = 100;
        assert_int_equal(channel_queue(&p->a, "0123456789", 10, NULL, 0), 0);
        assert_int_equal(channel_queue(&p->a, "0123456789", 10, NULL, 0), 0);
        p->a.limits.out_bytes = 14 * 3 - 1;
        assert_int_equal(channel_queue(&p->a, "0123456789", 10, NULL, 0), CHANNEL_E_FULL);
        assert_int_equal(p->a.out_frames, 2);
        assert_int_equal(p->a.out_bytes, 28);
        p->a.limits.out_bytes = 14 * 3;
        assert_int_equal(channel_queue(&p->a, "0123456789", 10, NULL, 0), 0);
        p->a.limits.out_bytes = 1000;
        assert_int_equal(channel_queue(&p->a, "0", 1, NULL, 0), CHANNEL_E_FULL);
        assert_int_equal(channel_flush(&p->a), 1);
        assert_int_equal(channel_queue(&p->a, "0", 1, NULL, 0), 0);
}

static void test_blocked(void **state) {
        struct pair *p = *state;
        struct channel_frame f;
        uint8_t *data;
        size_t frames = 0, left;
        uint64_t since;

        for (unsigned i = 0; i < 5000; i++) {
                assert_int_equal(channel_queue_reserve(&p->a, 1000, &data), 0);
                memset(data, 'x', 1000);
        }
        assert_int_equal(channel_flush(&p->a), 0);
        left = p->a.out_frames;
        since = p->a.out_blocked_us;
        assert_true(left > 0 && left < 5000 && since > 0);
        assert_true(p->a.out_bytes <= left * 1004 && p->a.out_bytes > (left - 1) * 1004);
        assert_int_equal(channel_flush(&p->a), 0);
        assert_int_equal(p->a.out_blocked_us, since); /* nothing moved */
        while (frames < 5000) {
                assert_int_equal(channel_read(&p->b), 1);
                while (channel_next(&p->b, &f) == 1)
                        frames++;
                assert_true(channel_flush(&p->a) >= 0);
        }
        assert_int_equal(p->a.out_frames, 0);
        assert_int_equal(p->a.out_blocked_us, 0);
}

static bool same_file(int a, int b) {
        struct stat sa, sb;

        assert_int_equal(fstat(a, &sa), 0);
        assert_int_equal(fstat(b, &sb), 0);
        return sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

static void test_fds(void **state) {
        struct pair *p = *state;
        _cleanup_fd_ int m1 = fd_memfd_new("one", 1), m2 = fd_memfd_new("two", 2), m3 = fd_memfd_new("three", 3);
        const int two[] = { m1, m2 };
        struct channel_frame f;
        int fd;

        assert_int_equal(channel_take_fd(&p->b), -1);
        assert_int_equal(channel_queue(&p->a, "a", 1, NULL, 0), 0);
        assert_int_equal(channel_queue(&p->a, "bb", 2, two, 2), 0);
        assert_int_equal(channel_queue(&p->a, "ccc", 3, &m3, 1), 0);
        assert_int_equal(channel_queue(&p->a, "d", 1, NULL, 0), 0);
        assert_int_equal(channel_flush(&p->a), 1);
        while (channel_read(&p->b) == 1)
                ;
        expect_frame(&p->b, "a", 1);
        expect_frame(&p->b, "bb", 2);
        assert_int_equal(channel_pending_fds(&p->b), 3);
        for (int i = 0; i < 3; i++) {
                fd = channel_take_fd(&p->b);
                assert_true(fd >= 0);
                assert_true(same_file(fd, i == 0 ? m1 : i == 1 ? m2 : m3));
                assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
                (void)fd_close(fd);
        }
        assert_int_equal(channel_pending_fds(&p->b), 0);
        expect_frame(&p->b, "ccc", 3);
        expect_frame(&p->b, "d", 1);
        assert_int_equal(channel_next(&p->b, &f), 0);
}

/* Two frames with descriptors never go out in one call: a reader that takes one at a time gets each with its own. */
static void test_fds_stay_with_their_frame(void **state) {
        struct pair *p = *state;
        _cleanup_fd_ int m = fd_memfd_new("m", 1);
        char space[CMSG_SPACE(sizeof(int) * 8)], data[64];

        assert_int_equal(channel_queue(&p->a, "1", 1, &m, 1), 0);
        assert_int_equal(channel_queue(&p->a, "2", 1, &m, 1), 0);
        assert_int_equal(channel_flush(&p->a), 1);
        for (int i = 0; i < 2; i++) {
                struct iovec iov = { .iov_base = data, .iov_len = sizeof(data) };
                struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = space,
                                      .msg_controllen = sizeof(space) };
                const struct cmsghdr *h;
                int fd;

                assert_int_equal(recvmsg(p->b.fd, &msg, MSG_CMSG_CLOEXEC), 5);
                h = CMSG_FIRSTHDR(&msg);
                assert_non_null(h);
                assert_int_equal(h->cmsg_len, CMSG_LEN(sizeof(int)));
                memcpy(&fd, CMSG_DATA(h), sizeof(fd));
                (void)fd_close(fd);
        }
}

static size_t count_open_fds(void) {
        size_t n = 0;

        for (int fd = 0; fd < 1024; fd++)
                n += fcntl(fd, F_GETFD) >= 0;
        return n;
}

static void test_fds_refused(void **state) {
        struct pair *p = *state;
        _cleanup_fd_ int m = fd_memfd_new("m", 1);
        int many[CHANNEL_FDS_MAX + 1];
        size_t open_before;

        for (size_t i = 0; i < ARRAY_SIZE(many); i++)
                many[i] = m;
        assert_int_equal(channel_queue(&p->a, "a", 1, many, ARRAY_SIZE(many)), -EINVAL);
        assert_int_equal(channel_queue(&p->a, "a", 1, &(int){ 999 }, 1), -EBADF);
        assert_false(channel_wants_write(&p->a));

        open_before = count_open_fds();
        assert_int_equal(channel_queue(&p->a, "a", 1, many, 5), 0); /* the receiver allows 4 */
        assert_int_equal(count_open_fds(), open_before + 5);
        assert_int_equal(channel_flush(&p->a), 1);
        assert_int_equal(channel_read(&p->b), CHANNEL_E_FDS);
        assert_int_equal(count_open_fds(), open_before);

        /* more than the control buffer takes: the kernel cuts (an emulator does not), and nothing of it stays open */
        if (!getenv("SPARK_TEST_EMULATED")) {
                char space[CMSG_SPACE(sizeof(int) * (CHANNEL_FDS_MAX + 1))] = { 0 };
                struct iovec iov = { .iov_base = (char[]){ 1, 0, 0, 0, 'x' }, .iov_len = 5 };
                struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = space,
                                      .msg_controllen = sizeof(space) };
                struct cmsghdr *h = CMSG_FIRSTHDR(&msg);

                h->cmsg_level = SOL_SOCKET;
                h->cmsg_type = SCM_RIGHTS;
                h->cmsg_len = CMSG_LEN(sizeof(many));
                memcpy(CMSG_DATA(h), many, sizeof(many));
                assert_int_equal(sendmsg(p->a.fd, &msg, 0), 5);
                p->b.limits.in_fds = 1000;
                assert_int_equal(channel_read(&p->b), CHANNEL_E_FDS);
                assert_int_equal(count_open_fds(), open_before);
        }
}

static void test_fds_closed_with_channel(void **state) {
        struct pair *p = *state;
        _cleanup_fd_ int m = fd_memfd_new("m", 1);
        size_t open_before = count_open_fds();
        int sv[2];
        struct channel a, b;

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
        assert_int_equal(channel_init(&a, sv[0], &p->a.limits), 0);
        assert_int_equal(channel_init(&b, sv[1], &p->a.limits), 0);
        assert_int_equal(channel_queue(&a, "a", 1, &m, 1), 0);
        assert_int_equal(channel_flush(&a), 1);
        assert_int_equal(channel_queue(&a, "b", 1, &m, 1), 0); /* never sent */
        assert_int_equal(channel_read(&b), 1);
        assert_int_equal(channel_pending_fds(&b), 1);
        channel_deinit(&a);
        channel_deinit(&b);
        assert_int_equal(count_open_fds(), open_before);
        channel_deinit(&b); /* harmless */
}

static void test_eof(void **state) {
        struct pair *p = *state;
        struct channel_frame f;

        send_raw(p, "\x02\0\0\0ok\x05\0\0\0par", 13);
        channel_deinit(&p->a);
        assert_int_equal(channel_read(&p->b), 1);
        assert_int_equal(channel_read(&p->b), CHANNEL_E_EOF);
        expect_frame(&p->b, "ok", 2);
        assert_int_equal(channel_next(&p->b, &f), CHANNEL_E_TRUNCATED);
        assert_int_equal(channel_read(&p->b), CHANNEL_E_EOF);
        assert_int_equal(channel_queue(&p->b, "x", 1, NULL, 0), 0);
        assert_int_equal(channel_flush(&p->b), CHANNEL_E_EOF); /* and no SIGPIPE */
}

static void test_eof_in_header(void **state) {
        struct pair *p = *state;
        struct channel_frame f;

        send_raw(p, "\x02\0", 2);
        channel_deinit(&p->a);
        assert_int_equal(channel_read(&p->b), 1);
        assert_int_equal(channel_next(&p->b, &f), 0);
        assert_int_equal(channel_read(&p->b), CHANNEL_E_EOF);
        assert_int_equal(channel_next(&p->b, &f), CHANNEL_E_TRUNCATED);
}

/* A peer that closes with our bytes unread resets the connection: that is its end, not our failure. */
static void test_reset(void **state) {
        struct pair *p = *state;

        send_raw(p, "\x02\0\0\0ok", 6);
        channel_deinit(&p->b);
        assert_int_equal(channel_read(&p->a), CHANNEL_E_EOF);
}

static void test_many_small(void **state) {
        struct pair *p = *state;
        const size_t total = 200000;
        size_t queued = 0, got = 0;
        struct timespec t0, t1;
        double seconds;

        (void)clock_gettime(CLOCK_MONOTONIC, &t0);
        while (got < total) {
                struct channel_frame f;
                uint8_t *data;

                for (size_t i = 0; i < 512 && queued < total; i++, queued++) {
                        assert_int_equal(channel_queue_reserve(&p->a, 24, &data), 0);
                        memset(data, 0, 24);
                        memcpy(data, &queued, sizeof(queued));
                }
                assert_true(channel_flush(&p->a) >= 0);
                assert_true(channel_read(&p->b) >= 0);
                while (channel_next(&p->b, &f) == 1) {
                        if (f.size != 24 || memcmp(f.data, &got, sizeof(got)) != 0)
                                fail_msg("frame %zu is not what was sent", got);
                        got++;
                }
        }
        (void)clock_gettime(CLOCK_MONOTONIC, &t1);
        seconds = (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) * 1e-9;
        print_message("%.1f million frames/s\n", (double)total / seconds * 1e-6);
        assert_int_equal(p->a.out_frames, 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                CHANNEL_TEST(test_roundtrip),
                CHANNEL_TEST(test_bytewise),
                CHANNEL_TEST(test_bad_lengths),
                CHANNEL_TEST(test_oversize),
                CHANNEL_TEST(test_announced_is_not_allocated),
                CHANNEL_TEST(test_large),
                CHANNEL_TEST(test_read_is_bounded),
                CHANNEL_TEST(test_read_full),
                CHANNEL_TEST(test_limits),
                CHANNEL_TEST(test_blocked),
                CHANNEL_TEST(test_fds),
                CHANNEL_TEST(test_fds_stay_with_their_frame),
                CHANNEL_TEST(test_fds_refused),
                CHANNEL_TEST(test_fds_closed_with_channel),
                CHANNEL_TEST(test_eof),
                CHANNEL_TEST(test_eof_in_header),
                CHANNEL_TEST(test_reset),
                CHANNEL_TEST(test_many_small),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
