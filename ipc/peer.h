/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Who is at the other end of a Unix socket: taken once, when the connection is accepted, from SO_PEERCRED,
 * SO_PEERGROUPS and (where the kernel has it) SO_PEERPIDFD. Owned by the connection.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct peer {
        uid_t uid;
        gid_t gid;
        pid_t pid;
        int pidfd;        /* -1 where the kernel cannot tell */
        uint64_t start_time; /* of the process, as peer_read_start_time(); 0 = not known */
        gid_t *groups;
        size_t n_groups;
        char unit[128];   /* systemd unit of its cgroup, "" where unknown */
};

#define PEER_NULL ((struct peer){ .uid = (uid_t)-1, .gid = (gid_t)-1, .pidfd = -1 })

/* 0 or -errno. */
int peer_init(struct peer *p, int sock);
void peer_deinit(struct peer *p);
/* For a peer that was identified in another way, as on a bus: its process, and so its unit. */
void peer_set_pid(struct peer *p, pid_t pid);
/* True while the process that connected has the pid: it has not ended, and the pid is nobody else's. Where neither a pidfd nor
 * the start time is known nothing is. */
bool peer_is_there(const struct peer *p);
/* When a process began, in clock ticks since the machine did: field 22 of /proc/PID/stat, proc(5). 0 where that can't be read. */
uint64_t peer_read_start_time(pid_t pid);
bool peer_in_group(const struct peer *p, gid_t gid);
