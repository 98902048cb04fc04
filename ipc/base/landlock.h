/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A Landlock ruleset that handles all that the running kernel knows of: files, TCP, and what is scoped (signals to processes
 * outside, abstract sockets outside). Nothing is allowed but what the caller adds. Kernel: Documentation/userspace-api/
 * landlock.rst.
 */

#include <stdint.h>

/* The version of its interface that the kernel has; 0 = no Landlock, or it is not switched on. */
unsigned landlock_version(void);
/* 1 = *ret_fd is a ruleset, the caller's, that handles the rights *ret_files of files; 0 = no Landlock in this kernel; or
 * -errno. */
int landlock_ruleset_new(int *ret_fd, uint64_t *ret_files);
/* Allows rights (as far as they are handled) beneath a path. Nothing there: nothing to allow. 0 or -errno. */
int landlock_allow_path(int ruleset, const char *path, uint64_t rights);
/* Of this thread and those that it makes. Takes PR_SET_NO_NEW_PRIVS. 0 or -errno. */
int landlock_enter(int ruleset);
