/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The kernel froze uid, gid, groups and pid when the peer connected; only the cgroup is looked up by pid, and a pid may
 * be somebody else's by then. With a pidfd we can tell: where it says that the process is gone after the look-up, the
 * answer is thrown away. The unit is for `sparkctl ps` and the log; nothing is permitted because of it.
 *
 * Whoever is to decide about the process later on (polkit) needs to know that it is still the same. A pidfd says so; on
 * kernels without it the time at which the process began does, which no later one with the same pid can have.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "peer.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

#define GROUPS_MAX 65536u /* NGROUPS_MAX of the kernel */
#define STAT_START_TIME 22 /* of the fields of /proc/PID/stat, counted from 1 */

static int read_groups(struct peer *p, int sock) {
        _cleanup_free_ gid_t *groups = NULL;
        socklen_t size = 64 * sizeof(gid_t);

        for (;;) {
                socklen_t offered = size;
                gid_t *grown = realloc(groups, size);

                if (!grown)
                        return -ENOMEM;
                groups = grown;
                if (getsockopt(sock, SOL_SOCKET, SO_PEERGROUPS, groups, &size) == 0)
                        break;
                /* the kernel stored the size that it needs */
                if (errno == ENOPROTOOPT || errno == ENODATA)
                        return 0;
                if (errno != ERANGE || size > GROUPS_MAX * sizeof(gid_t))
                        return -errno;
                /* an emulator that does not store it: groups are unknown, which is no reason to ask for ever */
                if (size <= offered)
                        return 0;
        }
        p->n_groups = size / sizeof(gid_t);
        p->groups = steal_ptr(&groups);
        return 0;
}

static bool has_suffix(const char *s, size_t n, const char *suffix) {
        size_t m = strlen(suffix);

        return n > m && memcmp(s + n - m, suffix, m) == 0;
}

/* The innermost service or scope of a cgroup path such as
 * "/user.slice/user-1000.slice/user@1000.service/app.slice/app-editor.scope". */
static void unit_from_path(const char *path, char *out, size_t size) {
        while (*path) {
                size_t n = strcspn(path, "/\n");

                if (n < size && (has_suffix(path, n, ".service") || has_suffix(path, n, ".scope"))) {
                        memcpy(out, path, n);
                        out[n] = 0;
                }
                path += n;
                if (*path)
                        path++;
        }
}

static bool peer_gone(const struct peer *p) {
        struct pollfd pfd = { .fd = p->pidfd, .events = POLLIN };

        return p->pidfd >= 0 && poll(&pfd, 1, 0) != 0;
}

static void read_unit(struct peer *p) {
        _cleanup_fd_ int fd = -1;
        char path[64], text[4096], *line;
        ssize_t n;

        (void)snprintf(path, sizeof(path), "/proc/%ld/cgroup", (long)p->pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return;
        n = read(fd, text, sizeof(text) - 1);
        if (n <= 0 || peer_gone(p))
                return;
        text[n] = 0;
        line = strncmp(text, "0::", 3) == 0 ? text : strstr(text, "\n0::");
        if (!line)
                return;
        if (*line == '\n')
                line++;
        line[strcspn(line, "\n")] = 0;
        unit_from_path(line + 3, p->unit, sizeof(p->unit));
}

uint64_t peer_read_start_time(pid_t pid) {
        _cleanup_fd_ int fd = -1;
        char path[64], text[1024], *field;
        ssize_t n;

        (void)snprintf(path, sizeof(path), "/proc/%ld/stat", (long)pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
        if (n <= 0)
                return 0;
        text[n] = 0;
        field = strrchr(text, ')'); /* the end of the second one, which may contain anything */
        for (int i = 2; field && i < STAT_START_TIME; i++)
                field = strchr(field + 1, ' ');
        return field ? strtoull(field + 1, NULL, 10) : 0;
}

bool peer_is_there(const struct peer *p) {
        if (p->pid <= 0)
                return false;
        if (p->pidfd >= 0)
                return !peer_gone(p);
        return p->start_time && peer_read_start_time(p->pid) == p->start_time;
}

int peer_init(struct peer *p, int sock) {
        struct ucred cred;
        socklen_t size = sizeof(cred);
        int r, fd = -1;

        if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0)
                return -errno;
        *p = PEER_NULL;
        p->uid = cred.uid;
        p->gid = cred.gid;
        p->pid = cred.pid;
        r = read_groups(p, sock);
        if (r < 0)
                return r;
        size = sizeof(fd);
        /* kernels before 6.5 don't know it; a peer that has gone has none */
        if (getsockopt(sock, SOL_SOCKET, SO_PEERPIDFD, &fd, &size) == 0)
                p->pidfd = fd;
        if (p->pid > 0) {
                read_unit(p);
                p->start_time = peer_read_start_time(p->pid);
        }
        if (peer_gone(p)) /* it may be that of the next one who got the pid */
                p->start_time = 0;
        return 0;
}

void peer_set_pid(struct peer *p, pid_t pid) {
        p->pidfd = fd_close(p->pidfd);
        p->pid = pid;
        p->start_time = 0;
        p->unit[0] = 0;
        if (pid > 0)
                read_unit(p);
}

void peer_deinit(struct peer *p) {
        free(p->groups);
        (void)fd_close(p->pidfd);
        *p = PEER_NULL;
}

bool peer_in_group(const struct peer *p, gid_t gid) {
        if (p->gid == gid)
                return true;
        for (size_t i = 0; i < p->n_groups; i++)
                if (p->groups[i] == gid)
                        return true;
        return false;
}
