/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/macro.h"
#include "pressure-source.h"

#define WRITE_MAX 1024u
#define PATH_BYTES 4160u

/* ---- what is to be written ---- */

static int digit_of(char c) {
        static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        const char *at = c ? strchr(digits, c) : NULL;

        return at ? (int)(at - digits) : -EINVAL;
}

int pressure_decode(const char *text, void *out, size_t size) {
        size_t length = strlen(text), n = 0;
        uint8_t *bytes = out;

        if (length % 4 != 0)
                return -EINVAL;
        for (const char *p = text; *p; p += 4) {
                size_t pad = p[4] ? 0 : (size_t)(p[3] == '=') + (p[2] == '=' && p[3] == '=');
                uint32_t v = 0;

                for (size_t i = 0; i < 4; i++) {
                        int d = i < 4 - pad ? digit_of(p[i]) : 0;

                        if (d < 0)
                                return -EINVAL;
                        v = v << 6 | (uint32_t)d;
                }
                if (n + 3 - pad > size)
                        return -ENOBUFS;
                for (size_t i = 0; i < 3 - pad; i++)
                        bytes[n++] = (uint8_t)(v >> (16 - 8 * i));
        }
        return (int)n;
}

/* ---- opening ---- */

static int open_socket(const char *path) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        _cleanup_fd_ int fd = -1;

        if (strlen(path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        memcpy(address.sun_path, path, strlen(path) + 1);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                return -errno;
        return fd_steal(&fd);
}

/* Opened as what it is, with what is to be written behind us. */
static int open_path(struct pressure_source *s, const char *path, const void *data, size_t n) {
        _cleanup_fd_ int fd = -1;
        struct stat st;

        if (stat(path, &st) < 0)
                return -errno;
        s->stream = S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode);
        if (S_ISSOCK(st.st_mode))
                fd = open_socket(path);
        else if (S_ISREG(st.st_mode) || S_ISFIFO(st.st_mode))
                fd = open(path, (n > 0 || S_ISREG(st.st_mode) ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        else
                return -EBADFD;
        if (fd < 0)
                return S_ISSOCK(st.st_mode) ? fd : -errno;
        if (n > 0 && write(fd, data, n) != (ssize_t)n)
                return errno ? -errno : -EIO;
        s->events = s->stream ? EPOLLIN : EPOLLPRI;
        s->fd = fd_steal(&fd);
        return 0;
}

static void open_named(struct pressure_source *s, const char *watch, const char *write) {
        char data[WRITE_MAX];
        int n = write ? pressure_decode(write, data, sizeof(data)) : 0, r;

        if (n < 0) {
                (void)snprintf(s->trouble, sizeof(s->trouble), "$MEMORY_PRESSURE_WRITE is no base64");
                return;
        }
        if (*watch != '/') {
                (void)snprintf(s->trouble, sizeof(s->trouble), "$MEMORY_PRESSURE_WATCH is no absolute path");
                return;
        }
        r = open_path(s, watch, data, (size_t)n);
        if (r < 0)
                (void)snprintf(s->trouble, sizeof(s->trouble), "%.160s: %s", watch, strerror(-r));
        else
                s->kind = PRESSURE_SERVICE;
}

/* The root of all groups has a file about stalls as well, which tells of everybody's: that is the machine. */
static bool is_a_group(const char *folder) {
        char path[PATH_BYTES];

        return *folder && (size_t)snprintf(path, sizeof(path), "%s/cgroup.type", folder) < sizeof(path) && access(path, F_OK) == 0;
}

int pressure_source_open(struct pressure_source *s, const char *group, const char *watch, const char *write) {
        static const char trigger[] = PRESSURE_TRIGGER, machine[] = "/proc/pressure/memory";
        char path[PATH_BYTES];
        int r = -ENOENT;

        *s = PRESSURE_SOURCE_NULL;
        if (watch && *watch) {
                if (strcmp(watch, "/dev/null") != 0)
                        open_named(s, watch, write);
                return 0;
        }
        /* the zero behind it goes along: the kernel's example has it so */
        if (is_a_group(group) && (size_t)snprintf(path, sizeof(path), "%s/memory.pressure", group) < sizeof(path)) {
                r = open_path(s, path, trigger, sizeof(trigger));
                s->kind = r == 0 ? PRESSURE_CGROUP : PRESSURE_NOBODY;
        }
        if (s->kind == PRESSURE_NOBODY) {
                r = open_path(s, machine, trigger, sizeof(trigger));
                s->kind = r == 0 ? PRESSURE_MACHINE : PRESSURE_NOBODY;
        }
        if (r < 0)
                (void)snprintf(s->trouble, sizeof(s->trouble), "%s: %s", machine, strerror(-r));
        return 0;
}

void pressure_source_deinit(struct pressure_source *s) {
        s->fd = fd_close(s->fd);
        s->kind = PRESSURE_NOBODY;
}

/* ---- listening ---- */

bool pressure_source_take(struct pressure_source *s, uint32_t events) {
        char ignored[512];
        ssize_t n;

        if (!s->stream)
                return (events & EPOLLPRI) && !(events & EPOLLERR);
        for (int i = 0; i < 64; i++) {
                n = read(s->fd, ignored, sizeof(ignored));
                if (n == 0)
                        return false;
                if (n < 0)
                        return errno == EAGAIN || errno == EINTR;
        }
        return true;
}
