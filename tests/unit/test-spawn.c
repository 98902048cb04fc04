/* SPDX-License-Identifier: Apache-2.0 */

/* Children of control: found beside this program, with the descriptors named and no others. */

#include <setjmp.h>
#include <stdarg.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "daemon/control/spawn.h"

#define PROGRAM "test-spawn-child"

static char script_path[PATH_MAX];

static int set_up(void **state) {
        static const char script[] = "#!/bin/sh\n"
                                     "case $1 in\n"
                                     "list) exec >&4; for fd in 0 1 2 3 4 5 6 7 8 9 20 200; do\n"
                                     "  [ -e /proc/$$/fd/$fd ] && printf '%s ' $fd; done;\n"
                                     "  printf 'core=%s notify=%s kept=%s ' $(ulimit -c) ${NOTIFY_SOCKET:-none} $KEPT;\n"
                                     "  cat <&3;;\n"
                                     "exit) exit 7;;\n"
                                     "wait) exec sleep 100;;\n"
                                     "esac\n";
        ssize_t n = readlink("/proc/self/exe", script_path, sizeof(script_path) - 64);
        FILE *f;

        assert_true(n > 0);
        script_path[n] = 0;
        n = strrchr(script_path, '/') + 1 - script_path;
        (void)snprintf(script_path + n, sizeof(script_path) - (size_t)n, "%s", PROGRAM);
        f = fopen(script_path, "w");
        assert_non_null(f);
        (void)fputs(script, f);
        (void)fclose(f);
        assert_int_equal(chmod(script_path, 0755), 0);
        return 0;
}

static int tear_down(void **state) {
        (void)unlink(script_path);
        return 0;
}

static void await(int pidfd, siginfo_t *info) {
        struct pollfd p = { .fd = pidfd, .events = POLLIN };

        assert_int_equal(poll(&p, 1, 20000), 1);
        assert_int_equal(spawn_reap(pidfd, info), 1);
}

static void test_find(void **state) {
        char *path = spawn_find(PROGRAM);

        assert_non_null(path);
        assert_string_equal(path, script_path);
        free(path);
        assert_null(spawn_find("no-such-program-anywhere"));
}

static void test_not_there(void **state) {
        char *argv[] = { (char *)"x", NULL };
        struct spawn s = { .program = "no-such-program-anywhere", .argv = argv };
        int pidfd = -1;
        pid_t pid = 0;

        assert_int_equal(spawn_process(&s, &pid, &pidfd), -ENOENT);
        s.program = PROGRAM;
        s.n_fds = SPAWN_FDS_MAX + 1;
        assert_int_equal(spawn_process(&s, &pid, &pidfd), -E2BIG);
        assert_int_equal(pidfd, -1);
}

/* The descriptors come as 3 and 4 whatever they were here, even crosswise; strangers don't. */
static void test_descriptors(void **state) {
        char *argv[] = { (char *)PROGRAM, (char *)"list", NULL };
        _cleanup_fd_ int input = memfd_create("in", 0), out_a = -1, out_b = -1, stranger = -1, pidfd = -1;
        char text[256] = "";
        siginfo_t info;
        int pair[2], fds[2];
        pid_t pid;

        assert_int_equal(write(input, "hello", 5), 5);
        assert_int_equal(lseek(input, 0, SEEK_SET), 0);
        assert_int_equal(pipe(pair), 0); /* not close-on-exec: they must not get through even so */
        out_a = pair[0];
        out_b = pair[1];
        stranger = fcntl(input, F_DUPFD, 200);
        assert_int_equal(stranger, 200);
        fds[0] = input;
        fds[1] = out_b;
        (void)setenv("NOTIFY_SOCKET", "/x", 1);
        (void)setenv("KEPT", "yes", 1);
        const struct spawn s = { .program = PROGRAM, .argv = argv, .fds = fds, .n_fds = 2 };

        assert_int_equal(spawn_process(&s, &pid, &pidfd), 0);
        await(pidfd, &info);
        assert_int_equal(info.si_pid, pid);
        assert_int_equal(info.si_code, CLD_EXITED);
        assert_int_equal(info.si_status, 0);
        assert_true(read(out_a, text, sizeof(text) - 1) > 0);
        assert_string_equal(text, "0 1 2 3 4 core=0 notify=none kept=yes hello");
}

static void test_exits(void **state) {
        char *argv[] = { (char *)PROGRAM, (char *)"exit", NULL };
        const struct spawn s = { .program = PROGRAM, .argv = argv };
        _cleanup_fd_ int pidfd = -1, other = -1;
        siginfo_t info;
        char how[64];
        pid_t pid;

        assert_int_equal(spawn_process(&s, &pid, &pidfd), 0);
        await(pidfd, &info);
        spawn_describe_exit(&info, how, sizeof(how));
        assert_string_equal(how, "exit status 7");
        argv[1] = (char *)"wait";
        assert_int_equal(spawn_process(&s, &pid, &other), 0);
        assert_int_equal(spawn_reap(other, &info), 0);
        spawn_kill(other, SIGKILL);
        await(other, &info);
        spawn_describe_exit(&info, how, sizeof(how));
        assert_non_null(strstr(how, "signal 9"));
        spawn_kill(-1, SIGKILL);
}

static void test_abandon(void **state) {
        char *argv[] = { (char *)PROGRAM, (char *)"wait", NULL };
        const struct spawn s = { .program = PROGRAM, .argv = argv };
        sd_event *event = NULL;
        int pidfd = -1;
        pid_t pid;

        assert_true(sd_event_new(&event) >= 0);
        assert_int_equal(spawn_process(&s, &pid, &pidfd), 0);
        assert_int_equal(spawn_abandon(event, pidfd), -1);
        for (int i = 0; i < 200 && kill(pid, 0) == 0; i++)
                assert_true(sd_event_run(event, 100000) >= 0);
        assert_int_equal(kill(pid, 0), -1); /* gone and reaped */
        assert_int_equal(errno, ESRCH);
        assert_int_equal(fcntl(pidfd, F_GETFD), -1);
        assert_int_equal(spawn_abandon(event, -1), -1);
        (void)sd_event_unref(event);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_find),  cmocka_unit_test(test_not_there), cmocka_unit_test(test_descriptors),
                cmocka_unit_test(test_exits), cmocka_unit_test(test_abandon),
        };

        return cmocka_run_group_tests(tests, set_up, tear_down);
}
