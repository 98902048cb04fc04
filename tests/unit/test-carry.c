/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Bytes are moved by processes that are killed at random. Which byte stands where in a stream is a function of its place, so
 * that one too many, one too few, or one twice is found.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "daemon/control/keep/carry.h"

#define KILLS 300
#define ID 7u

/* What outlives the processes. */
struct shared {
        struct carry_op op;
        _Atomic uint64_t committed; /* bytes that were sent, or whose meaning was written down */
        _Atomic uint64_t wrong;
        _Atomic uint64_t peeked;
};

struct fixture {
        struct shared *shared;
        struct carry carry;
        int sockets[2]; /* ours, the other side's */
};

static int setup(void **state) {
        struct fixture *f = calloc(1, sizeof(*f));

        (void)signal(SIGPIPE, SIG_IGN);
        f->shared = mmap(NULL, sizeof(*f->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        assert_true(f->shared != MAP_FAILED);
        f->carry = CARRY_NULL;
        assert_int_equal(carry_init(&f->carry), 0);
        f->carry.op = &f->shared->op;
        f->carry.committed = &f->shared->committed;
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, f->sockets), 0);
        assert_int_equal(fd_set_nonblock(f->sockets[0], 1), 0);
        *state = f;
        return 0;
}

static int teardown(void **state) {
        struct fixture *f = *state;

        carry_deinit(&f->carry);
        (void)fd_close(f->sockets[0]);
        (void)fd_close(f->sockets[1]);
        (void)munmap(f->shared, sizeof(*f->shared));
        free(f);
        return 0;
}

static uint8_t byte_at(uint64_t i) {
        return (uint8_t)((i * 0x9e3779b97f4a7c15ull) >> 56);
}

static void fill(uint8_t *out, uint64_t at, size_t n) {
        for (size_t i = 0; i < n; i++)
                out[i] = byte_at(at + i);
}

static size_t count_wrong(const uint8_t *in, uint64_t at, size_t n) {
        size_t wrong = 0;

        for (size_t i = 0; i < n; i++)
                wrong += in[i] != byte_at(at + i);
        return wrong;
}

static void expect_bytes(int fd, uint64_t at, size_t n) {
        uint8_t bytes[1 << 16];

        while (n) {
                ssize_t k = recv(fd, bytes, MIN(n, sizeof(bytes)), MSG_DONTWAIT);

                assert_true(k > 0);
                assert_int_equal(count_wrong(bytes, at, (size_t)k), 0);
                at += (uint64_t)k;
                n -= (size_t)k;
        }
}

static void expect_nothing(int fd) {
        assert_int_equal(recv(fd, (char[1]){ 0 }, 1, MSG_DONTWAIT), -1);
        assert_int_equal(errno, EAGAIN);
}

static ssize_t send_from(struct fixture *f, uint64_t at, size_t n) {
        _cleanup_free_ uint8_t *bytes = malloc(n + 1);
        struct iovec iov[3];

        fill(bytes, at, n);
        iov[0] = (struct iovec){ bytes, n / 3 };
        iov[1] = (struct iovec){ bytes + n / 3, 0 };
        iov[2] = (struct iovec){ bytes + n / 3, n - n / 3 };
        return carry_send(&f->carry, ID, at, f->sockets[0], iov, ARRAY_SIZE(iov));
}

/* ---- one after the other ---- */

static void test_send(void **state) {
        struct fixture *f = *state;
        static const size_t sizes[] = { 1, 2, 100, 4095, 4096, 4097, 65536, 100001 };
        struct carry_rest rest;
        uint64_t at = 0;

        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
                assert_int_equal(send_from(f, at, sizes[i]), sizes[i]);
                assert_int_equal(carry_recover(&f->carry, &rest), 1); /* as long as it is not done with */
                assert_true(rest.sending && rest.id == ID && rest.sent == at + sizes[i]);
                carry_done(&f->carry);
                assert_int_equal(carry_recover(&f->carry, &rest), 0);
                expect_bytes(f->sockets[1], at, sizes[i]);
                expect_nothing(f->sockets[1]);
                at += sizes[i];
        }
}

static void test_send_more_than_fits(void **state) {
        struct fixture *f = *state;
        uint64_t at = 0;
        ssize_t n;

        n = send_from(f, at, f->carry.capacity + 5000);
        at = (uint64_t)n;
        assert_true(at > 0 && at <= f->carry.capacity);
        carry_done(&f->carry);
        while ((n = send_from(f, at, 50000)) > 0) { /* until the socket takes no more */
                at += (uint64_t)n;
                carry_done(&f->carry);
        }
        assert_int_equal(n, 0);
        assert_int_equal(f->shared->op.phase, CARRY_IDLE);
        expect_bytes(f->sockets[1], 0, at);
        expect_nothing(f->sockets[1]);
        assert_int_equal(send_from(f, at, 10), 10);
        expect_bytes(f->sockets[1], at, 10);
}

static void test_send_to_nobody(void **state) {
        struct fixture *f = *state;

        f->sockets[1] = fd_close(f->sockets[1]);
        assert_int_equal(send_from(f, 0, 10), -EPIPE);
        assert_int_equal(f->shared->op.phase, CARRY_IDLE);
        assert_int_equal(send_from(f, 0, 10), -EPIPE); /* nothing of the first one is left over */
}

static void test_send_to_a_pipe(void **state) {
        struct fixture *f = *state;
        uint8_t bytes[100];
        int fds[2];

        assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
        (void)fd_close(f->sockets[0]);
        f->sockets[0] = fds[1];
        assert_int_equal(send_from(f, 0, sizeof(bytes)), sizeof(bytes));
        carry_done(&f->carry);
        assert_int_equal(read(fds[0], bytes, sizeof(bytes)), sizeof(bytes));
        assert_int_equal(count_wrong(bytes, 0, sizeof(bytes)), 0);
        (void)fd_close(fds[0]);
        assert_int_equal(send_from(f, 100, 1), -EPIPE);
}

static void other_side_writes(struct fixture *f, uint64_t at, size_t n) {
        _cleanup_free_ uint8_t *bytes = malloc(n);

        fill(bytes, at, n);
        assert_int_equal(send(f->sockets[1], bytes, n, 0), n);
}

static void test_take(void **state) {
        struct fixture *f = *state;
        uint8_t bytes[2000];

        other_side_writes(f, 0, 1500);
        other_side_writes(f, 1500, 500);
        assert_int_equal(recv(f->sockets[0], bytes, sizeof(bytes), MSG_PEEK), 2000);
        assert_int_equal(count_wrong(bytes, 0, 2000), 0);
        carry_announce(&f->carry, ID, 1700); /* not all of it */
        f->shared->committed = 1700;
        assert_int_equal(carry_take(&f->carry, f->sockets[0]), 0);
        carry_done(&f->carry);
        expect_bytes(f->sockets[0], 1700, 300);
        expect_nothing(f->sockets[0]);
        carry_announce(&f->carry, ID, 1);
        f->shared->committed = 1701;
        assert_int_equal(carry_take(&f->carry, f->sockets[0]), -ENODATA);
}

/* More small messages than a pipe has places. */
static void test_take_many(void **state) {
        struct fixture *f = *state;
        uint64_t n = 0;

        while (n < 600 && send(f->sockets[1], (uint8_t[1]){ byte_at(n) }, 1, MSG_DONTWAIT) == 1)
                n++;
        assert_true(n > 256);
        carry_announce(&f->carry, ID, n - 1);
        f->shared->committed = n - 1;
        assert_int_equal(carry_take(&f->carry, f->sockets[0]), 0);
        carry_done(&f->carry);
        expect_bytes(f->sockets[0], n - 1, 1);
        expect_nothing(f->sockets[0]);
}

/* ---- each phase, as a killed process leaves it ---- */

static void set_op(struct fixture *f, enum carry_phase phase, uint64_t base, uint64_t bytes, uint64_t done, uint64_t next) {
        f->shared->op = (struct carry_op){ .phase = (uint32_t)phase, .id = ID, .base = base, .bytes = bytes, .done = done,
                                           .next = next };
}

static void put_into_pipe(struct fixture *f, size_t n) {
        uint8_t bytes[1000] = { 0 };

        assert_int_equal(write(f->carry.pipe[1], bytes, n), n);
}

static void expect_sent(struct fixture *f, uint64_t sent) {
        struct carry_rest rest;

        for (int i = 0; i < 2; i++) { /* whoever asks is killed as well */
                assert_int_equal(carry_recover(&f->carry, &rest), 1);
                assert_true(rest.sending && rest.id == ID && rest.sent == sent);
        }
        carry_done(&f->carry);
        assert_int_equal(carry_recover(&f->carry, &rest), 0);
        assert_int_equal(read(f->carry.pipe[0], (char[1]){ 0 }, 1), -1);
}

static void test_phases_of_sending(void **state) {
        struct fixture *f = *state;

        set_op(f, CARRY_IDLE, 1000, 300, 0, 0);
        put_into_pipe(f, 0);
        assert_int_equal(carry_recover(&f->carry, &(struct carry_rest){ 0 }), 0);
        set_op(f, CARRY_WRITE, 1000, 77, 50, 0); /* what is not of this phase is out of date */
        put_into_pipe(f, 300);
        expect_sent(f, 1000);
        set_op(f, CARRY_SPLICE, 1000, 300, 0, 0);
        put_into_pipe(f, 300);
        expect_sent(f, 1000);
        set_op(f, CARRY_SPLICE, 1000, 300, 0, 0);
        put_into_pipe(f, 120);
        expect_sent(f, 1180);
        set_op(f, CARRY_SPLICE, 1000, 300, 0, 0);
        expect_sent(f, 1300);
        set_op(f, CARRY_SENT, 1000, 300, 180, 0);
        put_into_pipe(f, 60); /* half emptied */
        expect_sent(f, 1180);
        set_op(f, CARRY_SPLICE, 1000, 300, 0, 0);
        put_into_pipe(f, 301); /* that never was */
        assert_int_equal(carry_recover(&f->carry, &(struct carry_rest){ 0 }), -EBADMSG);
        set_op(f, (enum carry_phase)77, 0, 0, 0, 0);
        assert_int_equal(carry_recover(&f->carry, &(struct carry_rest){ 0 }), -EBADMSG);
}

static void expect_taken(struct fixture *f, uint64_t taken, uint64_t to_take) {
        struct carry_rest rest;

        for (int i = 0; i < 2; i++) {
                assert_int_equal(carry_recover(&f->carry, &rest), 1);
                assert_false(rest.sending);
                assert_true(rest.id == ID && rest.taken == taken && rest.to_take == to_take);
        }
        assert_int_equal(read(f->carry.pipe[0], (char[1]){ 0 }, 1), -1);
        other_side_writes(f, taken, to_take - taken + 3);
        assert_int_equal(carry_take(&f->carry, f->sockets[0]), 0);
        carry_done(&f->carry);
        expect_bytes(f->sockets[0], to_take, 3);
        expect_nothing(f->sockets[0]);
}

static void test_phases_of_taking(void **state) {
        struct fixture *f = *state;

        f->shared->committed = 5000;
        set_op(f, CARRY_ANNOUNCED, 5000, 300, 0, 0); /* nobody wrote down what they mean */
        assert_int_equal(carry_recover(&f->carry, &(struct carry_rest){ 0 }), 0);
        assert_int_equal(f->shared->op.phase, CARRY_IDLE);
        set_op(f, CARRY_ANNOUNCED, 4700, 300, 0, 0);
        expect_taken(f, 0, 300);
        set_op(f, CARRY_TAKE, 4700, 300, 0, 0);
        expect_taken(f, 0, 300);
        set_op(f, CARRY_TAKE, 4700, 300, 100, 100);
        expect_taken(f, 100, 300);
        set_op(f, CARRY_TAKE, 4700, 300, 100, 100);
        put_into_pipe(f, 50);
        expect_taken(f, 150, 300);
        set_op(f, CARRY_DRAIN, 4700, 300, 100, 220);
        put_into_pipe(f, 10);
        expect_taken(f, 220, 300);
        set_op(f, CARRY_DRAIN, 4700, 300, 100, 300);
        expect_taken(f, 300, 300);
        set_op(f, CARRY_TAKE, 4700, 300, 300, 300);
        expect_taken(f, 300, 300);
}

/* ---- killed at random ---- */

/* Some ends come soon, some after many rounds. */
static void kill_later(pid_t pid, unsigned i) {
        struct timespec ts = { .tv_nsec = (long)((uint64_t)rand() % (i % 3 ? 300000 : 3000000)) };
        int status;

        (void)nanosleep(&ts, NULL);
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
}

static __attribute__((noreturn)) void run_sender(struct fixture *f, unsigned seed) {
        struct pollfd p = { .fd = f->sockets[0], .events = POLLOUT };

        srand(seed);
        for (;;) {
                uint64_t at = f->shared->committed;
                ssize_t n = send_from(f, at, 1 + (size_t)rand() % (rand() % 4 ? 300 : 100000));

                if (n < 0)
                        _exit(1);
                if (n > 0) {
                        f->shared->committed = at + (uint64_t)n;
                        carry_done(&f->carry);
                } else
                        (void)poll(&p, 1, -1);
        }
}

static __attribute__((noreturn)) void run_reader(struct fixture *f, int results) {
        static uint8_t bytes[1 << 16];
        uint64_t at = 0, wrong = 0;
        ssize_t n;

        (void)fd_close(f->sockets[0]);
        while ((n = read(f->sockets[1], bytes, sizeof(bytes))) > 0) {
                wrong += count_wrong(bytes, at, (size_t)n);
                at += (uint64_t)n;
        }
        _exit(write(results, (uint64_t[2]){ at, wrong }, 16) == 16 ? 0 : 1);
}

static void test_killed_senders(void **state) {
        struct fixture *f = *state;
        struct carry_rest rest;
        uint64_t results[2];
        unsigned n_rest = 0;
        pid_t reader;
        int fds[2];

        assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
        reader = fork();
        if (reader == 0)
                run_reader(f, fds[1]);
        for (unsigned i = 0; i < KILLS; i++) {
                pid_t pid = fork();
                int r;

                if (pid == 0)
                        run_sender(f, i);
                kill_later(pid, i);
                r = carry_recover(&f->carry, &rest);
                assert_true(r >= 0);
                n_rest += r == 1 && rest.sent != f->shared->committed;
                if (r == 1)
                        f->shared->committed = rest.sent;
                carry_done(&f->carry);
        }
        (void)fd_close(f->sockets[0]);
        f->sockets[0] = -1;
        assert_int_equal(read(fds[0], results, sizeof(results)), sizeof(results));
        assert_int_equal(waitpid(reader, NULL, 0), reader);
        print_message("%llu bytes; %u of %u killed after they had sent what they had not written down\n",
                      (unsigned long long)results[0], n_rest, KILLS);
        assert_int_equal(results[0], f->shared->committed);
        assert_int_equal(results[1], 0);
        (void)fd_close(fds[0]);
        (void)fd_close(fds[1]);
}

static __attribute__((noreturn)) void run_writer(struct fixture *f) {
        uint8_t bytes[5000];
        uint64_t at = 0;

        (void)fd_close(f->sockets[0]);
        for (;;) {
                size_t n = 1 + (size_t)rand() % (rand() % 2 ? 40 : sizeof(bytes));

                fill(bytes, at, n);
                if (send(f->sockets[1], bytes, n, 0) != (ssize_t)n)
                        _exit(0);
                at += n;
        }
}

static __attribute__((noreturn)) void run_taker(struct fixture *f, unsigned seed) {
        struct pollfd p = { .fd = f->sockets[0], .events = POLLIN };
        static uint8_t bytes[2000];

        srand(seed);
        f->carry.capacity = 50; /* in many steps */
        for (;;) {
                ssize_t n = recv(f->sockets[0], bytes, sizeof(bytes), MSG_PEEK);
                uint64_t at = f->shared->committed;
                size_t take;

                if (n <= 0) {
                        (void)poll(&p, 1, -1);
                        continue;
                }
                f->shared->wrong += count_wrong(bytes, at, (size_t)n);
                f->shared->peeked++;
                take = 1 + (size_t)rand() % (size_t)n;
                carry_announce(&f->carry, ID, take);
                f->shared->committed = at + take;
                if (carry_take(&f->carry, f->sockets[0]) < 0)
                        f->shared->wrong++;
                carry_done(&f->carry);
        }
}

static void test_killed_takers(void **state) {
        struct fixture *f = *state;
        unsigned n_rest = 0;
        pid_t writer = fork();

        if (writer == 0)
                run_writer(f);
        for (unsigned i = 0; i < KILLS; i++) {
                struct carry_rest rest;
                pid_t pid = fork();
                int r;

                if (pid == 0)
                        run_taker(f, i);
                kill_later(pid, i);
                r = carry_recover(&f->carry, &rest);
                assert_true(r >= 0);
                n_rest += r == 1 && rest.taken < rest.to_take;
                if (r == 1)
                        assert_int_equal(carry_take(&f->carry, f->sockets[0]), 0);
                carry_done(&f->carry);
        }
        print_message("%llu bytes in %llu pieces; %u of %u killed before they had taken what they had written down\n",
                      (unsigned long long)f->shared->committed, (unsigned long long)f->shared->peeked, n_rest, KILLS);
        assert_int_equal(kill(writer, SIGKILL), 0);
        assert_int_equal(waitpid(writer, NULL, 0), writer);
        assert_int_equal(f->shared->wrong, 0);
        assert_true(f->shared->peeked > KILLS && n_rest > 0);
}

/* What is handed over may be anything. */
static void test_no_pipe(void **state) {
        struct carry c = CARRY_NULL;
        int a[2], b[2], s[2];

        assert_int_equal(pipe2(a, O_CLOEXEC | O_NONBLOCK), 0);
        assert_int_equal(pipe2(b, O_CLOEXEC | O_NONBLOCK), 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
        assert_int_equal(carry_init_fds(&c, a[0], b[1]), -EINVAL); /* of two */
        assert_int_equal(carry_init_fds(&c, a[1], a[0]), -EINVAL); /* the wrong way round */
        assert_int_equal(carry_init_fds(&c, a[0], a[0]), -EINVAL);
        assert_int_equal(carry_init_fds(&c, s[0], s[1]), -EINVAL);
        assert_int_equal(carry_init_fds(&c, s[0], a[1]), -EINVAL);
        assert_int_equal(c.pipe[0], -1);
        assert_int_equal(carry_init_fds(&c, a[0], a[1]), 0);
        carry_deinit(&c);
        for (size_t i = 0; i < 2; i++) {
                assert_int_equal(close(b[i]), 0);
                assert_int_equal(close(s[i]), 0);
        }
}

#define CARRY_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_no_pipe),
                CARRY_TEST(test_send),
                CARRY_TEST(test_send_more_than_fits),
                CARRY_TEST(test_send_to_nobody),
                CARRY_TEST(test_send_to_a_pipe),
                CARRY_TEST(test_take),
                CARRY_TEST(test_take_many),
                CARRY_TEST(test_phases_of_sending),
                CARRY_TEST(test_phases_of_taking),
                CARRY_TEST(test_killed_senders),
                CARRY_TEST(test_killed_takers),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
