/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Connections of other users. The service takes a connection's user from the moment of connect(), so a helper process
 * that has become that user connects and hands the descriptor over; it lives as long as the run, since the service may
 * look at the process behind a connection. Becoming somebody else needs root.
 */

#include <stdint.h>
#include <sys/types.h>

struct load_caller {
        uint32_t uid;
        pid_t pid;
        int fd;
};

#define LOAD_CALLER_NULL ((struct load_caller){ .pid = -1, .fd = -1 })

/* Starts the helper of this user (group: the same number, no others). 0 or -errno; -EPERM without root. */
int load_caller_start(struct load_caller *c, uint32_t uid, const char *socket_path);
void load_caller_stop(struct load_caller *c);
/* A fresh connection of that user; *ret_began_us is when connect() was called. Returns the descriptor or -errno. */
int load_caller_connect(struct load_caller *c, double *ret_began_us);
