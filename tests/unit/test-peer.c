/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "listener.h"
#include "peer.h"

static void test_self(void **state) {
        struct peer p = PEER_NULL;
        gid_t groups[1024];
        int sv[2], n;

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
        assert_int_equal(peer_init(&p, sv[0]), 0);
        assert_int_equal(p.uid, getuid());
        assert_int_equal(p.gid, getgid());
        assert_int_equal(p.pid, getpid());
        assert_true(peer_in_group(&p, getgid()));
        assert_false(peer_in_group(&p, (gid_t)-2));
        n = getgroups((int)ARRAY_SIZE(groups), groups);
        assert_int_equal(p.n_groups, MAX(n, 0));
        for (int i = 0; i < n; i++)
                assert_true(peer_in_group(&p, groups[i]));
        if (p.pidfd >= 0)
                assert_int_equal(fcntl(p.pidfd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
        peer_deinit(&p);
        assert_int_equal(p.uid, (uid_t)-1);
        assert_int_equal(p.pidfd, -1);
        (void)fd_close(sv[0]);
        (void)fd_close(sv[1]);
}

/* Who has ended is not there, and neither is another one with the same pid. */
static void test_is_there(void **state) {
        struct peer p = PEER_NULL;
        pid_t child;
        int sv[2];

        assert_false(peer_is_there(&p));
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
        assert_int_equal(peer_init(&p, sv[0]), 0);
        assert_true(peer_is_there(&p));
        assert_true(p.start_time > 0);
        assert_int_equal(p.start_time, peer_read_start_time(getpid()));
        p.pidfd = fd_close(p.pidfd); /* as on a kernel that has none */
        assert_true(peer_is_there(&p));
        p.start_time--;
        assert_false(peer_is_there(&p)); /* the pid is somebody else's */
        p.start_time = 0;
        assert_false(peer_is_there(&p));
        child = fork();
        if (child == 0)
                _exit(0);
        assert_true(child > 0);
        p.pid = child;
        assert_int_equal(waitpid(child, NULL, 0), child);
        assert_int_equal(peer_read_start_time(child), 0);
        p.start_time = 1;
        assert_false(peer_is_there(&p));
        peer_deinit(&p);
        (void)fd_close(sv[0]);
        (void)fd_close(sv[1]);
}

/* Its name may be anything. */
static void test_start_time(void **state) {
        static const char *const names[] = { "x", ") 1 2 3 (", "a b c d e f g h", "))))" };
        uint64_t expected = peer_read_start_time(getpid());
        char before[17] = "";

        assert_int_equal(prctl(PR_GET_NAME, before), 0);
        assert_true(expected > 0);
        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                assert_int_equal(prctl(PR_SET_NAME, names[i]), 0);
                assert_int_equal(peer_read_start_time(getpid()), expected);
        }
        (void)prctl(PR_SET_NAME, before);
        assert_true(peer_read_start_time(1) < expected);
        assert_int_equal(peer_read_start_time(0), 0);
        assert_int_equal(peer_read_start_time(-1), 0);
}

static void test_not_a_socket(void **state) {
        struct peer p = PEER_NULL;
        _cleanup_fd_ int fd = fd_memfd_new("x", 0);

        assert_int_equal(peer_init(&p, fd), -ENOTSOCK);
        assert_int_equal(peer_init(&p, -1), -EBADF);
        assert_int_equal(p.uid, (uid_t)-1);
}

struct connector {
        char path[64];
        int go[2];
        pid_t pid;
};

/* In a child: takes other groups, connects, waits until the test is done with it. */
static void connector_run(const struct connector *c, const gid_t *groups, size_t n_groups) {
        struct sockaddr_un addr = { .sun_family = AF_UNIX };
        char b;
        int fd;

        (void)close(c->go[1]);
        (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", c->path);
        if (n_groups > 0 && setgroups(n_groups, groups) < 0)
                _exit(2);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
                _exit(3);
        _exit(read(c->go[0], &b, 1) < 0);
}

static void connector_start(struct connector *c, const gid_t *groups, size_t n_groups) {
        assert_int_equal(pipe2(c->go, O_CLOEXEC), 0);
        c->pid = fork();
        assert_true(c->pid >= 0);
        if (c->pid == 0)
                connector_run(c, groups, n_groups);
        (void)close(c->go[0]);
}

static int connector_stop(struct connector *c) {
        int status = -1;

        (void)close(c->go[1]);
        assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int accept_wait(struct listener *l) {
        int fd = -1, r = 0;

        for (unsigned i = 0; i < 1000 && r == 0; i++) {
                r = listener_accept(l, &fd);
                if (r == 0)
                        (void)usleep(5000);
        }
        assert_int_equal(r, 1);
        return fd;
}

/* Groups and pidfds of a peer come from the kernel; an emulator does not pass them on. */
static void skip_where_emulated(void) {
        if (getenv("SPARK_TEST_EMULATED")) {
                print_message("skipped: an emulator does not know a peer's groups and pidfd\n");
                skip();
        }
}

static void test_other_process(void **state) {
        skip_where_emulated();
        struct connector c = { 0 };
        struct listener l = LISTENER_NULL;
        struct peer p = PEER_NULL;
        gid_t groups[200];
        size_t n_groups = geteuid() == 0 ? ARRAY_SIZE(groups) : 0;
        int fd;

        for (size_t i = 0; i < ARRAY_SIZE(groups); i++)
                groups[i] = (gid_t)(70000 + i); /* more than the first buffer holds */
        (void)snprintf(c.path, sizeof(c.path), "/tmp/test-peer-%ld.sock", (long)getpid());
        assert_int_equal(listener_init(&l, c.path, 0666, (gid_t)-1), 0);
        connector_start(&c, groups, n_groups);
        fd = accept_wait(&l);
        assert_int_equal(peer_init(&p, fd), 0);
        assert_int_equal(p.pid, c.pid);
        if (n_groups > 0) {
                assert_int_equal(p.n_groups, n_groups);
                assert_true(peer_in_group(&p, 70000));
                assert_true(peer_in_group(&p, 70199));
                assert_false(peer_in_group(&p, 70200));
        }
        assert_int_equal(connector_stop(&c), 0);
        peer_deinit(&p);
        (void)fd_close(fd);
        listener_deinit(&l);
        assert_int_equal(access(c.path, F_OK), -1);
}

/* A peer that has exited before we look: identity as the kernel kept it, nothing invented about its unit. */
static void test_gone(void **state) {
        skip_where_emulated();
        struct connector c = { 0 };
        struct listener l = LISTENER_NULL;
        struct peer p = PEER_NULL;
        int fd;

        (void)snprintf(c.path, sizeof(c.path), "/tmp/test-peer-%ld.sock", (long)getpid());
        assert_int_equal(listener_init(&l, c.path, 0666, (gid_t)-1), 0);
        connector_start(&c, NULL, 0);
        fd = accept_wait(&l);
        assert_int_equal(connector_stop(&c), 0);
        assert_int_equal(peer_init(&p, fd), 0);
        assert_int_equal(p.uid, getuid());
        assert_string_equal(p.unit, "");
        peer_deinit(&p);
        (void)fd_close(fd);
        listener_deinit(&l);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_self),
                cmocka_unit_test(test_is_there),
                cmocka_unit_test(test_start_time),
                cmocka_unit_test(test_not_a_socket),
                cmocka_unit_test(test_other_process),
                cmocka_unit_test(test_gone),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
