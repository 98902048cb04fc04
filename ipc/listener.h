/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A listening Unix stream socket: bound by us at a path, or handed to us by systemd. Owned by control. Never blocks.
 *
 * A reserve descriptor is held open so that a process that ran out of descriptors can still accept a connection in
 * order to turn it away; else the connection would stay in the queue and wake the loop for ever.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define LISTENER_BACKLOG 512
#define LISTENER_ACCEPTS_PER_TURN 16 /* what a loop should take before it serves others */

enum {
        LISTENER_E_IN_USE = 2,   /* somebody answers at this path */
        LISTENER_E_NOT_SOCKET = 3, /* something that is no socket is in the way: it is left alone */
        LISTENER_E_PATH = 4,     /* path not absolute or too long for a socket */
        LISTENER_E_NO_FDS = 5,   /* out of descriptors: a waiting connection was turned away */
};

struct listener {
        int fd;
        int reserve;
        char path[108];          /* "" when the socket was handed to us: then it isn't ours to unlink */
        uint64_t dev, ino;
};

#define LISTENER_NULL ((struct listener){ .fd = -1, .reserve = -1 })

/* Binds and listens. A socket file on which nobody answers is replaced; mode is that of the socket file (0660, 0666);
 * gid (gid_t)-1 leaves the group. 0, LISTENER_E_IN_USE, _NOT_SOCKET, _PATH, or -errno. */
int listener_init(struct listener *l, const char *path, mode_t mode, gid_t gid);
/* Takes over a listening socket (socket activation). 0, LISTENER_E_NOT_SOCKET when it is no listening Unix stream
 * socket (the caller keeps it), or -errno. */
int listener_init_fd(struct listener *l, int fd);
/* Closes and unlinks what we bound, unless somebody else's socket is there by now. */
void listener_deinit(struct listener *l);

/* Accepts one connection: non-blocking, close-on-exec. 1 = *ret_fd is it, 0 = nobody waits, LISTENER_E_NO_FDS, or
 * -errno. Call it up to LISTENER_ACCEPTS_PER_TURN times when the socket is readable. */
int listener_accept(struct listener *l, int *ret_fd);
