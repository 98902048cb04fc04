/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The limits that control groups put on our memory: ours, and those around it, in either version of the kernel's interface
 * (Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst). Where the files are is found out from
 * /proc/self/cgroup and /proc/self/mountinfo; the folders are kept open, since limits may be changed while we run.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MEMORY_CGROUP_LEVELS 16u
#define MEMORY_CGROUP_PATH 4096u

struct memory_cgroup {
        int version;      /* whose files have limits: 1, 2; 0 = nobody's */
        int folders[MEMORY_CGROUP_LEVELS]; /* our own group first */
        size_t n;
        char unified[MEMORY_CGROUP_PATH]; /* our folder in version 2, which need not limit anything; "" = none */
};
#define MEMORY_CGROUP_NULL ((struct memory_cgroup){ .version = 0 })

/* What they leave us. */
struct memory_cgroup_room {
        uint64_t limit;     /* the lowest, or UINT64_MAX */
        uint64_t available; /* without going over any: what is cached of files counts as free. UINT64_MAX = no limit */
        bool trouble;       /* there is a limit, and what is taken of it cannot be read */
};

/* The texts are those of the files named above. Never fails: what can't be found limits nothing. */
void memory_cgroup_init(struct memory_cgroup *c, const char *cgroup, const char *mountinfo);
void memory_cgroup_deinit(struct memory_cgroup *c);
/* machine: bytes of memory; a limit that is not lower is none. */
void memory_cgroup_look(const struct memory_cgroup *c, uint64_t machine, struct memory_cgroup_room *ret);
/* The folder of our group: of version 2, or that of version 1 that has the memory controller. False where there is none such.
 * *ret_top: so much of it is where the file system is mounted. */
bool memory_cgroup_find(const char *cgroup, const char *mountinfo, int version, char *ret, size_t size, size_t *ret_top);
/* "key value" on a line of its own. */
bool memory_cgroup_stat(const char *text, const char *key, uint64_t *ret);
