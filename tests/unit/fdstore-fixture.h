/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A service manager's side of the file descriptor store, as far as a test needs one: it takes what is pushed, under its name,
 * and hands it over to the next process. Included by tests, behind cmocka.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/macro.h"

#define FDSTORE_MAX 64

struct fdstore {
        int socket;
        struct sockaddr_un address;
        socklen_t address_size;
        size_t n, max, n_messages;
        char names[FDSTORE_MAX][256];
        int fds[FDSTORE_MAX];
};

static inline void fdstore_init(struct fdstore *s, size_t max) {
        *s = (struct fdstore){ .max = max, .socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) };
        s->address.sun_family = AF_UNIX;
        s->address_size = sizeof(s->address);
        assert_int_equal(bind(s->socket, (struct sockaddr *)&s->address, sizeof(sa_family_t)), 0); /* a name of its own */
        assert_int_equal(getsockname(s->socket, (struct sockaddr *)&s->address, &s->address_size), 0);
}

static inline void fdstore_deinit(struct fdstore *s) {
        for (size_t i = 0; i < s->n; i++)
                (void)close(s->fds[i]);
        (void)close(s->socket);
}

static inline void fdstore_remove(struct fdstore *s, const char *name) {
        for (size_t i = s->n; i > 0; i--)
                if (strcmp(s->names[i - 1], name) == 0) {
                        (void)close(s->fds[i - 1]);
                        s->n--;
                        memmove(s->names + i - 1, s->names + i, (s->n - (i - 1)) * sizeof(s->names[0]));
                        memmove(s->fds + i - 1, s->fds + i, (s->n - (i - 1)) * sizeof(s->fds[0]));
                }
}

static inline void fdstore_add(struct fdstore *s, const char *name, int fd) {
        if (s->n == MIN(s->max, (size_t)FDSTORE_MAX)) {
                (void)close(fd);
                return;
        }
        (void)snprintf(s->names[s->n], sizeof(s->names[0]), "%s", name);
        s->fds[s->n++] = fd;
}

static inline bool fdstore_read_one(struct fdstore *s) {
        union {
                char bytes[CMSG_SPACE(sizeof(int))];
                struct cmsghdr align;
        } control;
        char text[1024], name[256] = "stored";
        struct iovec iov = { text, sizeof(text) - 1 };
        struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
        ssize_t n = recvmsg(s->socket, &msg, MSG_CMSG_CLOEXEC);
        const char *at;
        int fd = -1;

        if (n < 0)
                return false;
        s->n_messages++;
        text[n] = 0;
        if (CMSG_FIRSTHDR(&msg))
                memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
        at = strstr(text, "FDNAME=");
        if (at)
                (void)sscanf(at, "FDNAME=%255s", name);
        if (strncmp(text, "FDSTORE=1\n", 10) == 0)
                fdstore_add(s, name, fd);
        else if (strncmp(text, "FDSTOREREMOVE=1\n", 16) == 0)
                fdstore_remove(s, name);
        return true;
}

static inline void fdstore_read(struct fdstore *s) {
        while (fdstore_read_one(s))
                ;
}

static inline int fdstore_find(const struct fdstore *s, const char *name) {
        for (size_t i = 0; i < s->n; i++)
                if (strcmp(s->names[i], name) == 0)
                        return s->fds[i];
        return -1;
}

/* In the child: everything of the store from 3 on, as systemd starts a service. */
static inline void fdstore_hand_over(const struct fdstore *s) {
        char names[FDSTORE_MAX * 256] = "", number[32], path[128];
        size_t len = 0;

        for (size_t i = 0; i < s->n; i++) {
                assert_true(fcntl(s->fds[i], F_DUPFD_CLOEXEC, 200 + (int)i) == 200 + (int)i);
                len += (size_t)snprintf(names + len, sizeof(names) - len, "%s%s", i ? ":" : "", s->names[i]);
        }
        (void)snprintf(path, sizeof(path), "@%.*s", (int)(s->address_size - offsetof(struct sockaddr_un, sun_path) - 1),
                       s->address.sun_path + 1);
        for (size_t i = 0; i < s->n; i++)
                assert_true(dup2(200 + (int)i, 3 + (int)i) == 3 + (int)i);
        (void)setenv("NOTIFY_SOCKET", path, 1);
        (void)snprintf(number, sizeof(number), "%zu", s->max);
        (void)setenv("FDSTORE", number, 1);
        if (s->n == 0)
                return;
        (void)snprintf(number, sizeof(number), "%d", (int)getpid());
        (void)setenv("LISTEN_PID", number, 1);
        (void)snprintf(number, sizeof(number), "%zu", s->n);
        (void)setenv("LISTEN_FDS", number, 1);
        (void)setenv("LISTEN_FDNAMES", names, 1);
}

/* Runs `run` as the service's next process: it returns an exit status, or ends as it likes. How it ended. */
static inline int fdstore_run(struct fdstore *s, int (*run)(void *userdata), void *userdata) {
        pid_t pid = fork();
        int status;

        assert_true(pid >= 0);
        if (pid == 0) {
                fdstore_hand_over(s);
                _exit(run(userdata));
        }
        while (waitpid(pid, &status, WNOHANG) == 0) {
                fdstore_read(s);
                (void)usleep(200);
        }
        fdstore_read(s);
        return status;
}
