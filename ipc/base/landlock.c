/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/landlock.h"
#include "base/macro.h"

/* As of ABI 6; the header that we are built with may be older, and an older kernel is given the beginning only. */
struct ruleset {
        uint64_t files;
        uint64_t tcp;
        uint64_t scoped;
};

/* What each version of the ABI brought; later ones are taken for the last that is known. */
static const struct {
        uint64_t files, tcp, scoped;
        size_t size;
} known[] = {
        [1] = { .files = (1ull << 13) - 1, .size = 8 },  /* execute ... make_sym */
        [2] = { .files = (1ull << 14) - 1, .size = 8 },  /* refer */
        [3] = { .files = (1ull << 15) - 1, .size = 8 },  /* truncate */
        [4] = { .files = (1ull << 15) - 1, .tcp = 3, .size = 16 }, /* bind, connect */
        [5] = { .files = (1ull << 16) - 1, .tcp = 3, .size = 16 }, /* ioctl_dev */
        [6] = { .files = (1ull << 16) - 1, .tcp = 3, .scoped = 3, .size = 24 }, /* abstract sockets, signals */
};

unsigned landlock_version(void) {
        long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

        return abi > 0 ? (unsigned)abi : 0;
}

int landlock_ruleset_new(int *ret_fd, uint64_t *ret_files) {
        size_t i = MIN((size_t)landlock_version(), ARRAY_SIZE(known) - 1);
        struct ruleset ruleset;
        int fd;

        if (i == 0)
                return 0;
        ruleset = (struct ruleset){ known[i].files, known[i].tcp, known[i].scoped };
        fd = (int)syscall(SYS_landlock_create_ruleset, &ruleset, known[i].size, 0);
        if (fd < 0)
                return -errno;
        *ret_fd = fd;
        *ret_files = ruleset.files;
        return 1;
}

int landlock_allow_path(int ruleset, const char *path, uint64_t rights) {
        _cleanup_fd_ int fd = open(path, O_PATH | O_CLOEXEC);
        struct landlock_path_beneath_attr beneath = { .allowed_access = rights, .parent_fd = fd };

        if (fd < 0)
                return 0;
        return syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) < 0 ? -errno : 0;
}

int landlock_enter(int ruleset) {
        return syscall(SYS_landlock_restrict_self, ruleset, 0) < 0 ? -errno : 0;
}
