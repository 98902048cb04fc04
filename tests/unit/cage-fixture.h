/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Cages: a child enters one and reports, through its exit status, the first thing that is not as it should be. What none of our
 * programs that work for others may do is tried here; what is one's own stands in its test. Included by tests, behind cmocka.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Emulators of other processors have no filter for system calls. */
static inline bool cage_is_possible(void) {
        uint32_t action = SECCOMP_RET_ERRNO;

        return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
}

/* Runs fn in a child, which ends as the programs do; its return value (0 = good) becomes the result, a signal -1. */
static inline int cage_run(int (*fn)(void)) {
        int status;
        pid_t pid;

        if (!cage_is_possible()) {
                print_message("skipped: no seccomp here\n");
                skip();
        }
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
                (void)syscall(SYS_exit_group, fn());
        assert_int_equal(waitpid(pid, &status, 0), pid);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static inline bool cage_refused(long r) {
        return r < 0 && (errno == EPERM || errno == EACCES);
}

/* In a function that counts in n what it tries, and returns it where one is not as it should be. */
#define FORBID(call)                     \
        do {                             \
                if (!cage_refused(call)) \
                        return n;        \
                n++;                     \
        } while (0)
#define ALLOW(call)             \
        do {                    \
                if ((call) < 0) \
                        return n; \
                n++;            \
        } while (0)

/* 0, or the number of the first one that was not refused, from 1 on; there are fewer than 60. */
static inline int cage_try_forbidden(void) {
        char *const argv[] = { (char *)"/bin/true", NULL };
        int n = 1;

        FORBID(open("/etc/passwd", O_RDONLY));
        FORBID(openat(AT_FDCWD, "/tmp/test-sandbox.none", O_RDWR | O_CREAT, 0600));
        FORBID(unlink("/tmp/does-not-exist"));
        FORBID(rename("/tmp/does-not-exist", "/tmp/does-not-exist-either"));
        FORBID(socket(AF_UNIX, SOCK_STREAM, 0));
        FORBID(socket(AF_INET, SOCK_STREAM, 0));
        FORBID(execve("/bin/true", argv, NULL));
        FORBID(fork());
        FORBID(syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL));
        FORBID(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
        FORBID(kill(getppid(), 0));
        FORBID(syscall(SYS_tgkill, getppid(), getppid(), 0));
        FORBID(syscall(SYS_pidfd_open, getppid(), 0));
        FORBID(syscall(SYS_process_vm_readv, getppid(), NULL, 0, NULL, 0, 0));
        FORBID(fcntl(0, F_SETOWN, getppid()));
        FORBID(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
        FORBID(syscall(SYS_prlimit64, getppid(), RLIMIT_NOFILE, NULL, NULL));
        FORBID(syscall(SYS_io_uring_setup, 4, NULL));
        FORBID(syscall(SYS_userfaultfd, 0));
        FORBID(setuid(0));
        FORBID(unshare(CLONE_NEWUSER));
        FORBID(syscall(SYS_mmap, NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == -1 ? -1 : 0);
        FORBID(syscall(SYS_mprotect, NULL, 4096, PROT_READ | PROT_EXEC));
        return 0;
}
