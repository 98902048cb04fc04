/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Input is one growing buffer: what was received and not handed out yet. It grows with what has arrived, never with
 * what a header announces, so that a peer has to send a byte for every byte we hold.
 *
 * Output is a list of blocks that hold many small frames side by side, so that one sendmsg() carries hundreds of them
 * and queueing costs a copy, not an allocation. Descriptors belong to a block and go out with its first byte; a frame
 * that brings some opens a block of its own, and no block with descriptors is sent behind another in the same call.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/clock.h"
#include "base/fd.h"
#include "channel-private.h"

#define HEADER_SIZE CHANNEL_HEADER_SIZE
#define READ_MAX ((size_t)256 << 10)
#define IN_CAP_MIN ((size_t)8 << 10)
#define BLOCK_FIRST ((size_t)2 << 10) /* an almost idle channel stays small */
#define BLOCK_NEXT ((size_t)32 << 10)
#define IOV_MAX_PER_CALL 64

static void write_u32le(uint8_t *p, uint32_t v) {
        p[0] = (uint8_t)v;
        p[1] = (uint8_t)(v >> 8);
        p[2] = (uint8_t)(v >> 16);
        p[3] = (uint8_t)(v >> 24);
}

static struct channel_out *block_free(struct channel_out *b) {
        if (!b)
                return NULL;
        for (unsigned i = 0; i < b->n_fds; i++)
                (void)fd_close(b->fds[i]);
        free(b->fds);
        free(b);
        return NULL;
}

int channel_init(struct channel *c, int fd, const struct channel_limits *limits) {
        int r;

        r = fd_set_nonblock(fd, 1);
        if (r < 0)
                return r;
        *c = (struct channel){ .fd = fd, .limits = *limits };
        return 0;
}

static void input_free(struct channel *c) {
        free(c->in);
        c->in = NULL;
        c->in_pos = c->in_len = c->in_cap = 0;
}

void channel_deinit(struct channel *c) {
        struct channel_out *b, *next;

        for (b = c->out_head; b; b = next) {
                next = b->next;
                (void)block_free(b);
        }
        for (unsigned i = 0; i < c->n_in_fds; i++)
                (void)fd_close(c->in_fds[i]);
        free(c->in_fds);
        free(c->in);
        (void)fd_close(c->fd);
        *c = (struct channel){ .fd = -1 };
}

size_t channel_input_limit(const struct channel *c) {
        return HEADER_SIZE + c->limits.frame_max + READ_MAX;
}

/* Moves what waits to the front and makes room behind it. Returns the room, 0 when the buffer is at its limit. */
static int input_make_room(struct channel *c, size_t *ret_room) {
        size_t limit = channel_input_limit(c), cap;
        uint8_t *p;

        if (c->in_pos > 0) {
                memmove(c->in, c->in + c->in_pos, c->in_len - c->in_pos);
                c->in_len -= c->in_pos;
                c->in_pos = 0;
        }
        if (c->in_len == c->in_cap && c->in_cap < limit) {
                cap = c->in_cap ? c->in_cap * 2 : IN_CAP_MIN;
                cap = MIN(cap, limit);
                p = realloc(c->in, cap);
                if (!p)
                        return -ENOMEM;
                c->in = p;
                c->in_cap = cap;
        }
        *ret_room = c->in_cap - c->in_len;
        return 0;
}

int channel_keep_fds(struct channel *c, const int *fds, size_t n) {
        int *p;

        if (n == 0)
                return 0;
        if (n > c->limits.in_fds || c->n_in_fds > c->limits.in_fds - n)
                return CHANNEL_E_FDS;
        p = realloc(c->in_fds, (c->n_in_fds + n) * sizeof(*p));
        if (!p)
                return -ENOMEM;
        memcpy(p + c->n_in_fds, fds, n * sizeof(*p));
        c->in_fds = p;
        c->n_in_fds += (unsigned)n;
        c->n_fds_received += n;
        return 0;
}

/* Takes over the descriptors that came with msg, or closes them all and says why. */
static int input_take_control(struct channel *c, struct msghdr *msg) {
        int fds[CHANNEL_FDS_MAX], r = 0;
        size_t n = 0;

        for (struct cmsghdr *h = CMSG_FIRSTHDR(msg); h; h = CMSG_NXTHDR(msg, h)) {
                size_t count;

                if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
                        continue;
                count = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                for (size_t i = 0; i < count; i++) {
                        int fd;

                        memcpy(&fd, CMSG_DATA(h) + i * sizeof(fd), sizeof(fd));
                        if (n < ARRAY_SIZE(fds))
                                fds[n++] = fd;
                        else
                                (void)fd_close(fd);
                }
        }
        /* some were lost: too many for the buffer, or for our own limit of open files */
        if (msg->msg_flags & MSG_CTRUNC)
                r = CHANNEL_E_FDS;
        else
                r = channel_keep_fds(c, fds, n);
        if (r)
                for (size_t i = 0; i < n; i++)
                        (void)fd_close(fds[i]);
        return r;
}

/* One recvmsg(). Returns as channel_read(), and what came in *ret_n. */
static int input_receive(struct channel *c, size_t max, int flags, size_t *ret_n, bool *ret_fds) {
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(sizeof(int) * CHANNEL_FDS_MAX)];
        } control;
        struct iovec iov;
        struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
        size_t room;
        ssize_t n;
        int r;

        r = input_make_room(c, &room);
        if (r < 0)
                return r;
        *ret_n = 0;
        if (room == 0)
                return 1;
        room = MIN(room, max);
        do {
                iov = (struct iovec){ .iov_base = c->in + c->in_len, .iov_len = room };
                msg.msg_control = control.space;
                msg.msg_controllen = sizeof(control.space);
                n = recvmsg(c->fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT | flags);
        } while (n < 0 && errno == EINTR);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
                return 0;
        if (n < 0 && errno != ECONNRESET)
                return -errno;
        if (n <= 0) {
                c->eof = true;
                return CHANNEL_E_EOF;
        }
        c->in_len += (size_t)n;
        *ret_n = (size_t)n;
        *ret_fds = msg.msg_controllen > 0;
        return *ret_fds || (msg.msg_flags & MSG_CTRUNC) ? input_take_control(c, &msg) : 0;
}

int channel_read(struct channel *c) {
        size_t total = 0, n = 0;
        bool fds = false;
        int r = 0;

        if (c->eof)
                return CHANNEL_E_EOF;
        do {
                fds = false;
                r = input_receive(c, READ_MAX - total, 0, &n, &fds);
                total += n;
                if (r != 0 || n == 0)
                        break;
                /* less than there was room for, and no descriptor that cut it short: the socket is empty */
                if (!fds && c->in_len < c->in_cap)
                        break;
        } while (total < READ_MAX);

        if (c->in_len == c->in_pos)
                input_free(c);
        if (r < 0 || r == CHANNEL_E_FDS)
                return r;
        if (r == 1 || total > 0)
                return 1;
        return r;
}

int channel_peek(struct channel *c, size_t max, size_t *ret_n) {
        bool fds = false;
        size_t n = 0;
        int r;

        if (c->eof)
                return CHANNEL_E_EOF;
        r = input_receive(c, MIN(max, READ_MAX), MSG_PEEK, &n, &fds);
        *ret_n = n;
        if (c->in_len == c->in_pos)
                input_free(c);
        return r == 0 && n > 0 ? 1 : r;
}

int channel_next(struct channel *c, struct channel_frame *ret) {
        size_t have = c->in_len - c->in_pos;
        uint32_t size;

        if (have == 0) {
                input_free(c);
                return 0;
        }
        if (have < HEADER_SIZE)
                return c->eof ? CHANNEL_E_TRUNCATED : 0;
        size = channel_read_u32le(c->in + c->in_pos);
        if (size == 0)
                return CHANNEL_E_EMPTY;
        if (size > c->limits.frame_max)
                return CHANNEL_E_OVERSIZE;
        if (have - HEADER_SIZE < size)
                return c->eof ? CHANNEL_E_TRUNCATED : 0;
        ret->data = c->in + c->in_pos + HEADER_SIZE;
        ret->size = size;
        c->in_pos += HEADER_SIZE + size;
        return 1;
}

int channel_take_fd(struct channel *c) {
        int fd;

        if (c->n_in_fds == 0)
                return -1;
        fd = c->in_fds[0];
        c->n_in_fds--;
        memmove(c->in_fds, c->in_fds + 1, c->n_in_fds * sizeof(*c->in_fds));
        if (c->n_in_fds == 0) {
                free(c->in_fds);
                c->in_fds = NULL;
        }
        return fd;
}

/* NULL and the reason when it fails. */
static struct channel_out *block_new(size_t cap, const int *fds, size_t n_fds, int *ret_error) {
        struct channel_out *b;

        *ret_error = -ENOMEM;
        b = malloc(sizeof(*b) + cap);
        if (!b)
                return NULL;
        b->next = NULL;
        b->len = 0;
        b->cap = cap;
        b->n_fds = 0;
        b->fds = NULL;
        if (n_fds > 0) {
                b->fds = malloc(n_fds * sizeof(*b->fds));
                if (!b->fds)
                        return block_free(b);
        }
        for (size_t i = 0; i < n_fds; i++) {
                int fd = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);

                if (fd < 0) {
                        *ret_error = -errno;
                        return block_free(b);
                }
                b->fds[b->n_fds++] = fd;
        }
        return b;
}

int channel_queue_reserve_fds(struct channel *c, size_t size, const int *fds, size_t n_fds, uint8_t **ret_data) {
        struct channel_out *b = c->out_tail;
        size_t total;
        int r;

        if (size == 0 || n_fds > CHANNEL_FDS_MAX)
                return -EINVAL;
        if (size > c->limits.frame_max || size > UINT32_MAX)
                return CHANNEL_E_OVERSIZE;
        total = HEADER_SIZE + size;
        if (c->out_frames >= c->limits.out_frames || total > c->limits.out_bytes ||
            c->out_bytes > c->limits.out_bytes - total)
                return CHANNEL_E_FULL;

        if (!b || n_fds > 0 || b->cap - b->len < total) {
                b = block_new(MAX(total, c->out_head ? BLOCK_NEXT : BLOCK_FIRST), fds, n_fds, &r);
                if (!b)
                        return r < 0 ? r : -ENOMEM;
                if (c->out_tail)
                        c->out_tail->next = b;
                else
                        c->out_head = b;
                c->out_tail = b;
        }
        write_u32le(b->data + b->len, (uint32_t)size);
        c->out_last = b->len;
        *ret_data = b->data + b->len + HEADER_SIZE;
        b->len += total;
        c->out_frames++;
        c->out_bytes += total;
        return 0;
}

int channel_queue_reserve(struct channel *c, size_t size, uint8_t **ret_data) {
        return channel_queue_reserve_fds(c, size, NULL, 0, ret_data);
}

int channel_queue(struct channel *c, const void *msg, size_t size, const int *fds, size_t n_fds) {
        uint8_t *p;
        int r;

        r = channel_queue_reserve_fds(c, size, fds, n_fds, &p);
        if (r)
                return r;
        memcpy(p, msg, size);
        return 0;
}

/* Takes n written bytes off the queue. */
static void output_advance(struct channel *c, size_t n) {
        c->out_bytes -= n;
        c->out_total += n;
        while (n > 0 && c->out_head) {
                struct channel_out *b = c->out_head;
                size_t part = MIN(n, b->len - c->out_pos);

                n -= part;
                c->out_pos += part;
                while (c->out_mark < c->out_pos) {
                        size_t end = c->out_mark + HEADER_SIZE + channel_read_u32le(b->data + c->out_mark);

                        if (end > c->out_pos)
                                break;
                        c->out_mark = end;
                        c->out_frames--;
                }
                for (unsigned i = 0; i < b->n_fds; i++)
                        (void)fd_close(b->fds[i]);
                b->n_fds = 0;
                if (c->out_pos < b->len)
                        return;
                c->out_head = b->next;
                if (!c->out_head)
                        c->out_tail = NULL;
                c->out_pos = c->out_mark = 0;
                (void)block_free(b);
        }
}

/* One sendmsg() of as many blocks as may go together. Bytes written or -errno. */
static ssize_t output_send(struct channel *c) {
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(sizeof(int) * CHANNEL_FDS_MAX)];
        } control;
        struct iovec iov[IOV_MAX_PER_CALL];
        struct msghdr msg = { .msg_iov = iov };
        struct channel_out *head = c->out_head;
        ssize_t n;

        for (struct channel_out *b = head; b && msg.msg_iovlen < IOV_MAX_PER_CALL; b = b->next) {
                size_t skip = b == head ? c->out_pos : 0;

                if (b != head && b->n_fds > 0)
                        break;
                iov[msg.msg_iovlen++] = (struct iovec){ .iov_base = b->data + skip, .iov_len = b->len - skip };
        }
        if (c->transfer && head->n_fds == 0)
                return c->transfer->send(c->transfer->userdata, iov, msg.msg_iovlen);
        if (head->n_fds > 0) {
                size_t bytes = sizeof(int) * head->n_fds;
                struct cmsghdr *h;

                memset(&control, 0, sizeof(control));
                msg.msg_control = control.space;
                msg.msg_controllen = CMSG_SPACE(bytes);
                h = CMSG_FIRSTHDR(&msg);
                h->cmsg_level = SOL_SOCKET;
                h->cmsg_type = SCM_RIGHTS;
                h->cmsg_len = CMSG_LEN(bytes);
                memcpy(CMSG_DATA(h), head->fds, bytes);
        }
        do
                n = sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        return n < 0 ? -errno : n;
}

int channel_flush(struct channel *c) {
        bool moved = false;

        while (c->out_head) {
                ssize_t n = output_send(c);

                if (n == -EAGAIN || n == -EWOULDBLOCK) {
                        if (moved || c->out_blocked_us == 0)
                                c->out_blocked_us = clock_now_us();
                        return 0;
                }
                if (n == -EPIPE || n == -ECONNRESET)
                        return CHANNEL_E_EOF;
                if (n < 0)
                        return (int)n;
                output_advance(c, (size_t)n);
                moved = true;
        }
        c->out_blocked_us = 0;
        return 1;
}
