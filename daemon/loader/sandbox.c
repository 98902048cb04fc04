/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

#include "base/macro.h"
#include "daemon/cage/cage.h"
#include "loadlink.h"
#include "sandbox.h"
#include "source.h"

/* Segments and inputs, all of them at once, and link, ring, standard streams and what a library may need. */
#define SANDBOX_FILES (LOADLINK_SEGMENTS_MAX + SOURCES_MAX + 16u)

/* Segments are written through mappings, which RLIMIT_FSIZE leaves alone; write() to any file fails. */
static int enter_limits(void) {
        int r;

        if (signal(SIGXFSZ, SIG_IGN) == SIG_ERR)
                return -errno;
        r = cage_limit(RLIMIT_FSIZE, 0);
        if (!r)
                r = cage_limit(RLIMIT_NOFILE, SANDBOX_FILES);
        if (!r)
                r = cage_limit(RLIMIT_MSGQUEUE, 0);
        return r;
}

static const int allowed[] = {
        SCMP_SYS(read), SCMP_SYS(pread64), SCMP_SYS(write), SCMP_SYS(close), SCMP_SYS(io_uring_enter),
        SCMP_SYS(sendmsg), SCMP_SYS(recvmsg), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise),
        SCMP_SYS(brk), SCMP_SYS(futex), SCMP_SYS(fstat), SCMP_SYS(fadvise64),
        SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(clock_nanosleep), SCMP_SYS(nanosleep),
        SCMP_SYS(restart_syscall), SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(rt_sigreturn),
        SCMP_SYS(rt_sigprocmask), SCMP_SYS(sched_yield), SCMP_SYS(getpid), SCMP_SYS(gettid),
        SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(getrandom), SCMP_SYS(sigaltstack),
        SCMP_SYS(sched_getaffinity),
};

/* What a file needs that is to be there after a crash. */
static const int allowed_pack[] = { SCMP_SYS(fdatasync), SCMP_SYS(sync_file_range) };

int sandbox_enter_calls(bool pack) {
        struct cage cage;
        int r = enter_limits();

        if (r < 0)
                return r;
        cage_init(&cage);
        cage_allow(&cage, allowed, ARRAY_SIZE(allowed));
        cage_allow_own(&cage);
        /* status flags, to look at and to change */
        cage_allow_with(&cage, SCMP_SYS(fcntl), SCMP_A1(SCMP_CMP_EQ, F_GETFL, 0));
        cage_allow_with(&cage, SCMP_SYS(fcntl), SCMP_A1(SCMP_CMP_EQ, F_SETFL, 0));
        /* fstat by its newer name, only on a descriptor */
        cage_allow_with(&cage, SCMP_SYS(newfstatat), SCMP_A3(SCMP_CMP_MASKED_EQ, AT_EMPTY_PATH, AT_EMPTY_PATH));
        if (pack) {
                cage_allow(&cage, allowed_pack, ARRAY_SIZE(allowed_pack));
                /* blocks for what the file is long already: no holes, no other length */
                cage_allow_with(&cage, SCMP_SYS(fallocate), SCMP_A1(SCMP_CMP_EQ, 0, 0));
        }
        return cage_enter(&cage);
}
