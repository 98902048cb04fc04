/* SPDX-License-Identifier: Apache-2.0 */

/* The cage of spark-store holds: a child enters it and reports, through its exit status, the first thing that is not as it
 * should be. */

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "daemon/cage/cage.h"
#include "daemon/store/sandbox.h"

#define FILE_BYTES 4096u

static int in_child(int (*fn)(void)) {
        uint32_t action = SECCOMP_RET_ERRNO;
        int status;
        pid_t pid;

        if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) < 0) {
                print_message("skipped: no seccomp here\n");
                skip();
        }
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
                (void)syscall(SYS_exit_group, fn()); /* as the program ends */
        assert_int_equal(waitpid(pid, &status, 0), pid);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static bool enter(void) {
        bool landlock;

        return cage_enter_files(&landlock) == 0 && store_sandbox_enter(FILE_BYTES) == 0;
}

static bool refused(long r) {
        return r < 0 && (errno == EPERM || errno == EACCES);
}

#define FORBID(call)                \
        do {                        \
                if (!refused(call)) \
                        return n;   \
                n++;                \
        } while (0)

static int try_forbidden(void) {
        char *const argv[] = { (char *)"/bin/true", NULL };
        int n = 1;

        if (!enter())
                return 100;
        FORBID(open("/etc/passwd", O_RDONLY));
        FORBID(openat(AT_FDCWD, "/tmp/test-store-sandbox.none", O_RDWR | O_CREAT, 0600));
        FORBID(unlink("/tmp/does-not-exist"));
        FORBID(rename("/tmp/does-not-exist", "/tmp/does-not-exist-either"));
        FORBID(ftruncate(1, 0));
        FORBID(socket(AF_UNIX, SOCK_STREAM, 0));
        FORBID(socket(AF_INET, SOCK_STREAM, 0));
        FORBID(execve("/bin/true", argv, NULL));
        FORBID(fork());
        FORBID(syscall(SYS_clone3, NULL, 0));
        FORBID(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
        FORBID(kill(getppid(), 0));
        FORBID(syscall(SYS_tgkill, getppid(), getppid(), 0));
        FORBID(fcntl(0, F_SETOWN, getppid()));
        FORBID(fcntl(0, F_DUPFD, 10));
        FORBID(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
        FORBID(syscall(SYS_prlimit64, getppid(), RLIMIT_NOFILE, NULL, NULL));
        FORBID(memfd_create("x", 0));
        FORBID(syscall(SYS_io_uring_setup, 4, NULL));
        FORBID(ioctl(0, 0x5401, NULL));
        FORBID(setuid(0));
        FORBID(unshare(CLONE_NEWUSER));
        FORBID(syscall(SYS_process_vm_readv, getppid(), NULL, 0, NULL, 0, 0));
        FORBID(syscall(SYS_mmap, NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == -1 ? -1 : 0);
        FORBID(syscall(SYS_mprotect, NULL, 4096, PROT_READ | PROT_EXEC));
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
        return landlock && !refused(open("/etc/passwd", O_RDONLY)) ? 2 : 0;
}

static void test_forbidden(void **state) {
        assert_int_equal(in_child(try_forbidden), 0);
}

static void test_allowed(void **state) {
        assert_int_equal(in_child(try_allowed), 0);
}

static void test_state(void **state) {
        assert_int_equal(in_child(check_state), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_forbidden),
                cmocka_unit_test(test_allowed),
                cmocka_unit_test(test_state),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
