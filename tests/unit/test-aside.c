/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/macro.h"
#include "daemon/control/aside.h"

#define PATIENCE_MS 20000
#define PIPES 37

/* The other end hangs up. */
static bool is_closed(int fd) {
        struct pollfd p = { .fd = fd };

        return poll(&p, 1, PATIENCE_MS) == 1 && p.revents == POLLHUP;
}

static void test_all(void **state) {
        int ends[PIPES], fds[PIPES];

        for (size_t i = 0; i < PIPES; i++) {
                int pair[2];

                assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
                ends[i] = pair[0];
                fds[i] = pair[1];
        }
        fds[5] = fd_close(fds[5]); /* there was none */
        aside_close(fds, PIPES);
        for (size_t i = 0; i < PIPES; i++) {
                assert_int_equal(fds[i], -1);
                assert_true(is_closed(ends[i]));
                ends[i] = fd_close(ends[i]);
        }
}

static void test_none(void **state) {
        int none[] = { -1, -1 };

        aside_close(none, 0);
        aside_close(none, ARRAY_SIZE(none));
        assert_int_equal(none[0], -1);
}

/* A thread that cannot be had: they are closed all the same, before it comes back. */
static void test_no_thread(void **state) {
        struct rlimit before, less;
        int pair[2];

        if (getuid() == 0) {
                print_message("root may have any number of threads: skipping\n");
                skip();
        }
        assert_int_equal(getrlimit(RLIMIT_NPROC, &before), 0);
        less = before;
        less.rlim_cur = 1;
        assert_int_equal(setrlimit(RLIMIT_NPROC, &less), 0);
        assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
        aside_close(&pair[1], 1);
        assert_int_equal(setrlimit(RLIMIT_NPROC, &before), 0);
        assert_true(is_closed(pair[0]));
        pair[0] = fd_close(pair[0]);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_all),
                cmocka_unit_test(test_none),
                cmocka_unit_test(test_no_thread),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
