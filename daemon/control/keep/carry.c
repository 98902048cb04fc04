/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What the next process reads is memory that this one shares with it, so what counts is the order in which it was written: each
 * step's figures stand there before its phase does. Processors and compilers keep to that with release stores.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/macro.h"
#include "carry.h"

#define PIPE_BYTES (1 << 20) /* what everybody may have (fs.pipe-max-size) */

static void set_phase(struct carry *c, enum carry_phase phase) {
        __atomic_store_n(&c->op->phase, (uint32_t)phase, __ATOMIC_RELEASE);
}

/* No figure of the next step is written before this one is over. */
static void order(void) {
        atomic_thread_fence(memory_order_seq_cst);
}

/* The two ends of one. */
static bool is_pipe(int read_fd, int write_fd) {
        struct stat r, w;

        return fstat(read_fd, &r) == 0 && fstat(write_fd, &w) == 0 && S_ISFIFO(r.st_mode) && r.st_dev == w.st_dev &&
               r.st_ino == w.st_ino && (fcntl(read_fd, F_GETFL) & O_ACCMODE) == O_RDONLY &&
               (fcntl(write_fd, F_GETFL) & O_ACCMODE) == O_WRONLY;
}

int carry_init_fds(struct carry *c, int read_fd, int write_fd) {
        int n;

        if (!is_pipe(read_fd, write_fd))
                return -EINVAL;
        (void)fcntl(write_fd, F_SETPIPE_SZ, PIPE_BYTES); /* a wish: users have a limit */
        n = fcntl(write_fd, F_GETPIPE_SZ);
        if (n < 0)
                return -errno;
        c->pipe[0] = read_fd;
        c->pipe[1] = write_fd;
        c->capacity = (size_t)n;
        return 0;
}

int carry_init(struct carry *c) {
        int fds[2], r;

        if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
                return -errno;
        r = carry_init_fds(c, fds[0], fds[1]);
        if (r < 0) {
                (void)fd_close(fds[0]);
                (void)fd_close(fds[1]);
        }
        return r;
}

void carry_deinit(struct carry *c) {
        for (int i = 0; i < 2; i++)
                c->pipe[i] = fd_close(c->pipe[i]);
        *c = CARRY_NULL;
}

/* Bytes that are in it, or -errno. */
static int64_t pipe_count(const struct carry *c) {
        int n;

        return ioctl(c->pipe[0], FIONREAD, &n) < 0 ? -errno : n;
}

static int pipe_drain(struct carry *c) {
        char bytes[16384];
        ssize_t n;

        do
                n = read(c->pipe[0], bytes, sizeof(bytes));
        while (n > 0 || (n < 0 && errno == EINTR));
        return n < 0 && errno != EAGAIN ? -errno : 0;
}

/* ---- sending ---- */

/* The first bytes of the vector, no more than fit. */
static size_t pipe_fill(struct carry *c, const struct iovec *iov, size_t n_iov) {
        size_t done = 0;

        for (size_t i = 0; i < n_iov && done < c->capacity; i++) {
                size_t size = MIN(iov[i].iov_len, c->capacity - done);
                ssize_t n = size ? write(c->pipe[1], iov[i].iov_base, size) : 0;

                done += n > 0 ? (size_t)n : 0;
                if (n < 0 || (size_t)n < size)
                        break;
        }
        return done;
}

static ssize_t splice_some(int from, int to, size_t size) {
        ssize_t n;

        do
                n = splice(from, NULL, to, NULL, size, SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
        while (n < 0 && errno == EINTR);
        return n < 0 ? -errno : n;
}

/* Says how much of it was sent before the pipe, which says so until then, is emptied. */
static int settle_sent(struct carry *c) {
        int64_t left = pipe_count(c);

        if (left < 0)
                return (int)left;
        if ((uint64_t)left > c->op->bytes)
                return -EBADMSG;
        c->op->done = c->op->bytes - (uint64_t)left;
        set_phase(c, CARRY_SENT);
        order();
        return left ? pipe_drain(c) : 0;
}

ssize_t carry_send(struct carry *c, uint64_t id, uint64_t base, int fd, const struct iovec *iov, size_t n_iov) {
        size_t bytes;
        ssize_t n;
        int r;

        c->op->id = id;
        c->op->base = base;
        c->op->done = 0;
        set_phase(c, CARRY_WRITE);
        order();
        bytes = pipe_fill(c, iov, n_iov);
        c->op->bytes = bytes;
        set_phase(c, CARRY_SPLICE);
        order();
        n = bytes ? splice_some(c->pipe[0], fd, bytes) : 0;
        r = settle_sent(c);
        if (r < 0)
                return r;
        if (c->op->done > 0)
                return (ssize_t)c->op->done;
        carry_done(c);
        return n < 0 && n != -EAGAIN ? n : 0;
}

/* ---- taking ---- */

void carry_announce(struct carry *c, uint64_t id, uint64_t bytes) {
        c->op->id = id;
        c->op->base = atomic_load_explicit(c->committed, memory_order_relaxed);
        c->op->bytes = bytes;
        c->op->done = c->op->next = 0;
        set_phase(c, CARRY_ANNOUNCED);
        order();
}

/* What is in the pipe was taken: says so, and empties it. */
static int settle_taken(struct carry *c) {
        int64_t n = pipe_count(c);
        int r;

        if (n < 0)
                return (int)n;
        c->op->next = c->op->done + (uint64_t)n;
        set_phase(c, CARRY_DRAIN);
        order();
        r = n ? pipe_drain(c) : 0;
        if (r < 0)
                return r;
        order();
        c->op->done = c->op->next;
        set_phase(c, CARRY_TAKE);
        order();
        return 0;
}

int carry_take(struct carry *c, int fd) {
        set_phase(c, CARRY_TAKE);
        order();
        while (c->op->done < c->op->bytes) {
                ssize_t n = splice_some(fd, c->pipe[1], MIN(c->op->bytes - c->op->done, c->capacity));
                int r = n > 0 ? settle_taken(c) : 0;

                if (r < 0)
                        return r;
                if (n <= 0)
                        return n == 0 || n == -EAGAIN ? -ENODATA : (int)n;
        }
        return 0;
}

void carry_done(struct carry *c) {
        order();
        set_phase(c, CARRY_IDLE);
        order();
}

/* ---- afterwards ---- */

static int recover_sent(struct carry *c, struct carry_rest *ret) {
        int r = 0;

        if (c->op->phase == CARRY_SPLICE)
                r = settle_sent(c);
        else if (c->op->phase == CARRY_WRITE) {
                c->op->done = 0;
                set_phase(c, CARRY_SENT);
                order();
        }
        if (r == 0)
                r = pipe_drain(c);
        if (r < 0)
                return r;
        *ret = (struct carry_rest){ .id = c->op->id, .sending = true, .sent = c->op->base + c->op->done };
        return 1;
}

static int recover_taken(struct carry *c, struct carry_rest *ret) {
        int r;

        if (c->op->phase == CARRY_DRAIN) {
                r = pipe_drain(c);
                if (r < 0)
                        return r;
                order();
                c->op->done = c->op->next;
                set_phase(c, CARRY_TAKE);
        } else {
                r = settle_taken(c);
                if (r < 0)
                        return r;
        }
        *ret = (struct carry_rest){ .id = c->op->id, .taken = c->op->done, .to_take = c->op->bytes };
        return 1;
}

int carry_recover(struct carry *c, struct carry_rest *ret) {
        switch (c->op->phase) {
        case CARRY_IDLE:
                return pipe_drain(c);
        case CARRY_ANNOUNCED:
                if (c->op->base == atomic_load_explicit(c->committed, memory_order_relaxed)) {
                        carry_done(c); /* nothing of it counts */
                        return 0;
                }
                set_phase(c, CARRY_TAKE);
                return recover_taken(c, ret);
        case CARRY_TAKE:
        case CARRY_DRAIN:
                return recover_taken(c, ret);
        case CARRY_WRITE:
        case CARRY_SPLICE:
        case CARRY_SENT:
                return recover_sent(c, ret);
        default:
                return -EBADMSG;
        }
}
