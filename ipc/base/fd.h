/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* File descriptor helpers: closing, sealed memfds. Every fd made here is close-on-exec. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "macro.h"

/* Closes fd unless negative, keeps errno, returns -1: `fd = fd_close(fd)`. */
int fd_close(int fd);

static inline void fd_closep(int *fd) {
        *fd = fd_close(*fd);
}
#define _cleanup_fd_ _cleanup_(fd_closep)

static inline int fd_steal(int *fd) {
        int v = *fd;

        *fd = -1;
        return v;
}

/* Makes a memfd of exactly `size` bytes that can be sealed. Returns the fd or -errno. */
int fd_memfd_new(const char *name, uint64_t size);
/* Makes a memfd with these contents, sealed against writing, growing and shrinking. Returns the fd or -errno. */
int fd_memfd_new_sealed(const char *name, const void *data, size_t size);
/* Seals against writing, growing, shrinking and further seals. 0 or -errno (-EBUSY: somebody still maps it writable). */
int fd_memfd_seal(int fd);
/* 0 when fd is a memfd sealed against writing, growing and shrinking, -EINVAL when not; stores its size. */
int fd_memfd_check_sealed(int fd, uint64_t *ret_size);

/* Sets or clears O_NONBLOCK. 0 or -errno. */
int fd_set_nonblock(int fd, int on);

/* True where it is a socket with this value of a SOL_SOCKET option. */
bool fd_has_option(int fd, int option, int wanted);
