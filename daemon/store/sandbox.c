/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <sys/resource.h>

#include "base/macro.h"
#include "daemon/cage/cage.h"
#include "sandbox.h"

static const int allowed[] = {
        SCMP_SYS(read), SCMP_SYS(pread64), SCMP_SYS(write), SCMP_SYS(pwrite64), SCMP_SYS(close), SCMP_SYS(fsync),
        SCMP_SYS(fallocate), SCMP_SYS(sync_file_range), SCMP_SYS(fadvise64), SCMP_SYS(fstat), SCMP_SYS(sendto),
        SCMP_SYS(munmap), SCMP_SYS(madvise), SCMP_SYS(brk), SCMP_SYS(futex), SCMP_SYS(clock_gettime),
        SCMP_SYS(gettimeofday), SCMP_SYS(restart_syscall), SCMP_SYS(exit), SCMP_SYS(exit_group),
        SCMP_SYS(rt_sigreturn), SCMP_SYS(rt_sigprocmask), SCMP_SYS(sched_yield), SCMP_SYS(getpid),
        SCMP_SYS(gettid), SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(sigaltstack),
        SCMP_SYS(sched_getaffinity), /* sanitizers */
};

int store_sandbox_enter(uint64_t file_bytes_max) {
        struct cage cage;
        int r;

        if (signal(SIGXFSZ, SIG_IGN) == SIG_ERR)
                return -errno;
        r = cage_limit(RLIMIT_FSIZE, file_bytes_max);
        if (!r)
                r = cage_limit(RLIMIT_NOFILE, 16);
        if (r < 0)
                return r;
        cage_init(&cage);
        cage_allow(&cage, allowed, ARRAY_SIZE(allowed));
        cage_allow_own(&cage);
        cage_allow_with(&cage, SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_EQ, FICLONE, 0));
        cage_allow_with(&cage, SCMP_SYS(newfstatat), SCMP_A3(SCMP_CMP_MASKED_EQ, AT_EMPTY_PATH, AT_EMPTY_PATH));
        return cage_enter(&cage); /* the hasher's thread, too */
}
