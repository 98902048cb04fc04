/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "loadlink.h"

#define READ_MAX 16u /* records a turn */

union control_buf {
        struct cmsghdr header; /* for its alignment */
        char bytes[CMSG_SPACE(LOADLINK_SEGMENTS_MAX * sizeof(int))];
};

int loadlink_send(int sock, const struct loadlink_record *record, const int *fds, size_t n_fds) {
        struct loadlink_record copy = *record;
        struct iovec iov = { .iov_base = &copy, .iov_len = sizeof(copy) };
        struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
        union control_buf control = { 0 };
        ssize_t n;

        if (n_fds > LOADLINK_SEGMENTS_MAX)
                return -EINVAL;
        copy.version = LOADLINK_VERSION;
        if (n_fds > 0) {
                struct cmsghdr *c;

                msg.msg_control = control.bytes;
                msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
                c = CMSG_FIRSTHDR(&msg);
                c->cmsg_level = SOL_SOCKET;
                c->cmsg_type = SCM_RIGHTS;
                c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
                (void)memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
        }
        do
                n = sendmsg(sock, &msg, MSG_NOSIGNAL);
        while (n < 0 && errno == EINTR);
        return n < 0 ? -errno : 0;
}

/* Collects what came along; closes what does not fit, which makes the record malformed. */
static bool take_fds(struct msghdr *msg, int *fds, size_t *n_fds) {
        bool ok = true;

        for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
                size_t n;

                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                for (size_t i = 0; i < n; i++) {
                        int fd;

                        (void)memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
                        if (*n_fds < LOADLINK_SEGMENTS_MAX) {
                                fds[(*n_fds)++] = fd;
                        } else {
                                (void)fd_close(fd);
                                ok = false;
                        }
                }
        }
        return ok;
}

static bool record_sound(const struct loadlink_record *r, size_t n_fds) {
        if (r->version != LOADLINK_VERSION || r->n_segments > LOADLINK_SEGMENTS_MAX)
                return false;
        if (r->type < LOADLINK_PLAN || r->type > LOADLINK_ERROR)
                return false;
        if (n_fds != (r->type == LOADLINK_SEGMENTS ? r->n_segments : 0))
                return false;
        if (r->type == LOADLINK_PLAN && r->n_segments == 0)
                return false;
        return memchr(r->text, 0, sizeof(r->text)) != NULL;
}

int loadlink_recv(int sock, struct loadlink_record *ret_record, int *fds, size_t *ret_n_fds) {
        struct loadlink_record record;
        struct iovec iov = { .iov_base = &record, .iov_len = sizeof(record) };
        union control_buf control;
        struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
                              .msg_controllen = sizeof(control.bytes) };
        int got[LOADLINK_SEGMENTS_MAX];
        size_t n_got = 0;
        bool ok;
        ssize_t n;

        do
                n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return errno == ECONNRESET ? 0 : -errno;
        ok = take_fds(&msg, got, &n_got);
        if (n == 0 && n_got == 0)
                return 0;
        ok = ok && (size_t)n == sizeof(record) && !(msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) &&
             record_sound(&record, n_got);
        if (!ok) {
                for (size_t i = 0; i < n_got; i++)
                        (void)fd_close(got[i]);
                return -EPROTO;
        }
        *ret_record = record;
        (void)memcpy(fds, got, n_got * sizeof(*got));
        *ret_n_fds = n_got;
        return 1;
}

/* One record where no descriptors are expected: any that come are closed. As loadlink_recv(). */
static int loadlink_recv_record(int sock, struct loadlink_record *ret_record) {
        int fds[LOADLINK_SEGMENTS_MAX], r;
        size_t n_fds = 0;

        r = loadlink_recv(sock, ret_record, fds, &n_fds);
        for (size_t i = 0; r == 1 && i < n_fds; i++)
                (void)fd_close(fds[i]);
        return r;
}

int loadlink_read(int sock, void (*on_record)(void *userdata, const struct loadlink_record *record), void *userdata) {
        struct loadlink_record record;

        for (unsigned i = 0; i < READ_MAX; i++) {
                int r = loadlink_recv_record(sock, &record);

                if (r <= 0)
                        return r == -EAGAIN ? 1 : r;
                on_record(userdata, &record);
        }
        return 1;
}
