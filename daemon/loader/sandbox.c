/* SPDX-License-Identifier: Apache-2.0 */

#include <asm/unistd.h>
#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/landlock.h"
#include "base/macro.h"

#include "loadlink.h"
#include "sandbox.h"
#include "source.h"

/* Segments and inputs, all of them at once, and link, ring, standard streams and what a library may need. */
#define SANDBOX_FILES (LOADLINK_SEGMENTS_MAX + SOURCES_MAX + 16u)

static int enter_landlock(bool *ret_entered) {
        _cleanup_fd_ int fd = -1;
        uint64_t files;
        int r = landlock_ruleset_new(&fd, &files);

        *ret_entered = r > 0;
        return r > 0 ? landlock_enter(fd) : r;
}

static int set_limit(int resource, rlim_t value) {
        const struct rlimit limit = { .rlim_cur = value, .rlim_max = value };

        return setrlimit((__rlimit_resource_t)resource, &limit) < 0 ? -errno : 0;
}

int sandbox_enter_files(struct sandbox_features *ret) {
        bool landlock = false;
        int r;

        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
                return -errno;
        r = set_limit(RLIMIT_CORE, 0);
        if (!r)
                r = enter_landlock(&landlock);
        if (r < 0)
                return r;
        ret->landlock = landlock;
        return 0;
}

/* Segments are written through mappings, which RLIMIT_FSIZE leaves alone; write() to any file fails. */
static int enter_limits(void) {
        int r;

        if (signal(SIGXFSZ, SIG_IGN) == SIG_ERR)
                return -errno;
        r = set_limit(RLIMIT_FSIZE, 0);
        if (!r)
                r = set_limit(RLIMIT_NOFILE, SANDBOX_FILES);
        if (!r)
                r = set_limit(RLIMIT_MSGQUEUE, 0);
        return r;
}

static int allow_plain(scmp_filter_ctx ctx) {
        static const int calls[] = {
                SCMP_SYS(read), SCMP_SYS(pread64), SCMP_SYS(write), SCMP_SYS(close), SCMP_SYS(io_uring_enter),
                SCMP_SYS(sendmsg), SCMP_SYS(recvmsg), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise),
                SCMP_SYS(brk), SCMP_SYS(futex), SCMP_SYS(fstat), SCMP_SYS(fadvise64),
                SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(clock_nanosleep), SCMP_SYS(nanosleep),
                SCMP_SYS(restart_syscall), SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(rt_sigreturn),
                SCMP_SYS(rt_sigprocmask), SCMP_SYS(sched_yield), SCMP_SYS(getpid), SCMP_SYS(gettid),
                SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(getrandom), SCMP_SYS(sigaltstack),
                SCMP_SYS(sched_getaffinity),
        };

        for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
                int r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0);

                if (r < 0)
                        return r;
        }
        return 0;
}

/* Calls that are harmless only with certain arguments: no executable memory; fcntl to look at and change status flags;
 * fstat by its newer name only on a descriptor (AT_EMPTY_PATH); signals only to oneself, for abort(). */
static int allow_narrow(scmp_filter_ctx ctx) {
        int r;

        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
        if (!r)
                r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                                     SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
        if (!r)
                r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1, SCMP_A1(SCMP_CMP_EQ, F_GETFL, 0));
        if (!r)
                r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1, SCMP_A1(SCMP_CMP_EQ, F_SETFL, 0));
        if (!r)
                r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(newfstatat), 1,
                                     SCMP_A3(SCMP_CMP_MASKED_EQ, AT_EMPTY_PATH, AT_EMPTY_PATH));
        if (!r)
                r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
                                     SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid(), 0));
        return r;
}

/* What a file needs that is to be there after a crash. Blocks are for what the file is long already: no holes, no other length. */
static int allow_pack(scmp_filter_ctx ctx) {
        int r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(fdatasync), 0);

        if (!r)
                r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(sync_file_range), 0);
        if (!r)
                r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(fallocate), 1, SCMP_A1(SCMP_CMP_EQ, 0, 0));
        return r;
}

int sandbox_enter_calls(bool pack) {
        scmp_filter_ctx ctx;
        int r;

        r = enter_limits();
        if (r < 0)
                return r;
        ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
        if (!ctx)
                return -ENOMEM;
        r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);
        if (!r)
                r = allow_plain(ctx);
        if (!r)
                r = allow_narrow(ctx);
        if (!r && pack)
                r = allow_pack(ctx);
        if (!r)
                r = seccomp_load(ctx);
        seccomp_release(ctx);
        return r;
}
