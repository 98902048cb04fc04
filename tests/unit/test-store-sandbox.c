/* SPDX-License-Identifier: Apache-2.0 */

/* The cage of spark-store holds: a child enters it and reports, through its exit status, the first thing that is not as it
 * should be. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "cage-fixture.h"
#include "daemon/cage/cage.h"
#include "daemon/store/sandbox.h"

#define FILE_BYTES 4096u

static bool enter(void) {
        bool landlock;

        return cage_enter_files(&landlock) == 0 && store_sandbox_enter(FILE_BYTES) == 0;
}


static int try_forbidden(void) {
        int n = 60, r;

        if (!enter())
                return 100;
        r = cage_try_forbidden();
        if (r)
                return r;
        FORBID(ftruncate(1, 0));
        FORBID(syscall(SYS_clone3, NULL, 0));
        FORBID(fcntl(0, F_DUPFD, 10));
        FORBID(memfd_create("x", 0));
        FORBID(ioctl(0, 0x5401, NULL));
        return 0;
}

/* What it is there for: reads, writes as much as it was sent for, syncs. */
static int try_allowed(void) {
        char path[] = "./test-store-sandbox-XXXXXX", buf[16] = "";
        int input = fd_memfd_new("input", FILE_BYTES), output = mkostemp(path, O_CLOEXEC);
        struct rlimit core;

        if (input < 0 || output < 0 || unlink(path) < 0 || !enter())
                return 100;
        if (pread(input, buf, sizeof(buf), 0) != sizeof(buf))
                return 1;
        if (pwrite(output, buf, sizeof(buf), FILE_BYTES - sizeof(buf)) != sizeof(buf) || fsync(output) < 0)
                return 2;
        errno = 0;
        if (pwrite(output, buf, 1, FILE_BYTES) != -1 || errno != EFBIG)
                return 3;
        if (fallocate(output, 0, 0, FILE_BYTES + 1) != -1)
                return 4;
        if (syscall(SYS_prlimit64, 0, RLIMIT_CORE, NULL, &core) == 0)
                return 5; /* limits are not its to look at, either */
        return 0;
}

static int check_state(void) {
        bool landlock;
        struct rlimit core;

        if (cage_enter_files(&landlock) < 0)
                return 100;
        if (getrlimit(RLIMIT_CORE, &core) < 0 || core.rlim_max != 0 || prctl(PR_GET_DUMPABLE) != 0 ||
            prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1)
                return 1;
        return landlock && !cage_refused(open("/etc/passwd", O_RDONLY)) ? 2 : 0;
}

static void test_forbidden(void **state) {
        assert_int_equal(cage_run(try_forbidden), 0);
}

static void test_allowed(void **state) {
        assert_int_equal(cage_run(try_allowed), 0);
}

static void test_state(void **state) {
        assert_int_equal(cage_run(check_state), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_forbidden),
                cmocka_unit_test(test_allowed),
                cmocka_unit_test(test_state),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
