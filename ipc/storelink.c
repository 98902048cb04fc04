/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#include "storelink.h"

int storelink_send(int sock, const struct storelink_record *record) {
        struct storelink_record copy = *record;
        ssize_t n;

        copy.version = STORELINK_VERSION;
        do
                n = send(sock, &copy, sizeof(copy), MSG_NOSIGNAL);
        while (n < 0 && errno == EINTR);
        return n < 0 ? -errno : 0;
}

static bool record_sound(const struct storelink_record *r) {
        if (r->version != STORELINK_VERSION || r->type < STORELINK_PROGRESS || r->type > STORELINK_ERROR)
                return false;
        if (r->type == STORELINK_DONE && (r->method < STORELINK_HASHED || r->method > STORELINK_COPY))
                return false;
        return r->done <= r->total && memchr(r->text, 0, sizeof(r->text)) != NULL;
}

int storelink_recv(int sock, struct storelink_record *ret) {
        struct storelink_record record;
        struct iovec iov = { .iov_base = &record, .iov_len = sizeof(record) };
        /* without room for control data the kernel closes descriptors that somebody sends, and says MSG_CTRUNC */
        struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
        ssize_t n;

        do
                n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return errno == ECONNRESET ? 0 : -errno;
        if (n == 0 && !(msg.msg_flags & MSG_CTRUNC))
                return 0;
        if ((size_t)n != sizeof(record) || msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC) || !record_sound(&record))
                return -EPROTO;
        *ret = record;
        return 1;
}
