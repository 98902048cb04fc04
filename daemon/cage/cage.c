/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/landlock.h"
#include "cage.h"

int cage_limit(int resource, uint64_t value) {
        const struct rlimit limit = { .rlim_cur = value, .rlim_max = value };

        return setrlimit((__rlimit_resource_t)resource, &limit) < 0 ? -errno : 0;
}

int cage_lower(void) {
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
                return -errno;
        return cage_limit(RLIMIT_CORE, 0);
}

int cage_enter_files(bool *ret_landlock) {
        _cleanup_fd_ int fd = -1;
        uint64_t files;
        int r = cage_lower();

        if (r == 0)
                r = landlock_ruleset_new(&fd, &files);
        if (r < 0)
                return r;
        *ret_landlock = r > 0;
        return r > 0 ? landlock_enter(fd) : 0;
}

void cage_init(struct cage *c) {
        c->filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
        c->error = c->filter ? 0 : -ENOMEM;
}

void cage_allow(struct cage *c, const int *calls, size_t n) {
        for (size_t i = 0; i < n && !c->error; i++)
                c->error = seccomp_rule_add(c->filter, SCMP_ACT_ALLOW, calls[i], 0);
}

void cage_allow_with(struct cage *c, int call, struct scmp_arg_cmp compare) {
        if (!c->error)
                c->error = seccomp_rule_add_array(c->filter, SCMP_ACT_ALLOW, call, 1, &compare);
}

void cage_refuse(struct cage *c, int call, int error) {
        if (!c->error)
                c->error = seccomp_rule_add(c->filter, SCMP_ACT_ERRNO((uint16_t)error), call, 0);
}

void cage_allow_own(struct cage *c) {
        cage_allow_with(c, SCMP_SYS(mmap), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
        cage_allow_with(c, SCMP_SYS(mprotect), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
        cage_allow_with(c, SCMP_SYS(tgkill), SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid(), 0));
}

int cage_enter(struct cage *c) {
        if (!c->error)
                c->error = seccomp_attr_set(c->filter, SCMP_FLTATR_CTL_TSYNC, 1);
        if (!c->error)
                c->error = seccomp_load(c->filter);
        if (c->filter)
                seccomp_release(c->filter);
        c->filter = NULL;
        return c->error;
}
