/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/macro.h"

#include "sandbox.h"

static int enter_limits(uint64_t file_bytes_max) {
        const struct rlimit size = { .rlim_cur = file_bytes_max, .rlim_max = file_bytes_max };
        const struct rlimit files = { .rlim_cur = 16, .rlim_max = 16 };

        if (signal(SIGXFSZ, SIG_IGN) == SIG_ERR || setrlimit(RLIMIT_FSIZE, &size) < 0 ||
            setrlimit(RLIMIT_NOFILE, &files) < 0)
                return -errno;
        return 0;
}

static int allow(scmp_filter_ctx ctx) {
        static const int calls[] = {
                SCMP_SYS(read), SCMP_SYS(pread64), SCMP_SYS(write), SCMP_SYS(pwrite64), SCMP_SYS(close), SCMP_SYS(fsync),
                SCMP_SYS(fallocate), SCMP_SYS(sync_file_range), SCMP_SYS(fadvise64), SCMP_SYS(fstat), SCMP_SYS(sendto),
                SCMP_SYS(munmap), SCMP_SYS(madvise), SCMP_SYS(brk), SCMP_SYS(futex), SCMP_SYS(clock_gettime),
                SCMP_SYS(gettimeofday), SCMP_SYS(restart_syscall), SCMP_SYS(exit), SCMP_SYS(exit_group),
                SCMP_SYS(rt_sigreturn), SCMP_SYS(rt_sigprocmask), SCMP_SYS(sched_yield), SCMP_SYS(getpid),
                SCMP_SYS(gettid), SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(sigaltstack),
                SCMP_SYS(sched_getaffinity), /* sanitizers */
        };
        int r = 0;

        for (size_t i = 0; i < ARRAY_SIZE(calls) && !r; i++)
                r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0);
        if (!r)
                r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
        if (!r)
                r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                                     SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
        if (!r)
                r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, FICLONE, 0));
        if (!r)
                r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(newfstatat), 1,
                                     SCMP_A3(SCMP_CMP_MASKED_EQ, AT_EMPTY_PATH, AT_EMPTY_PATH));
        if (!r)
                r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
                                     SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid(), 0));
        return r;
}

int store_sandbox_enter(uint64_t file_bytes_max) {
        scmp_filter_ctx ctx;
        int r;

        r = enter_limits(file_bytes_max);
        if (r < 0)
                return r;
        ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
        if (!ctx)
                return -ENOMEM;
        r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1); /* the hasher's thread, too */
        if (!r)
                r = allow(ctx);
        if (!r)
                r = seccomp_load(ctx);
        seccomp_release(ctx);
        return r;
}
