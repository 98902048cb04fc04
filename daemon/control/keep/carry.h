/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Moves bytes to and from sockets so that a later process knows how many, even where this one is killed right behind the
 * system call, before it could write down what that returned.
 *
 * A pipe, which the file descriptor store holds, makes that possible: what the kernel moves between pipe and socket
 * (splice(2)) it takes away at one end as it adds it at the other, and how much is in a pipe can be asked (FIONREAD). In memory
 * that outlives us (struct carry_op) stands what is being done:
 *
 *   to a socket:    WRITE: the bytes go into the pipe; SPLICE: from the pipe to the socket. Killed in WRITE: nothing was sent.
 *                   Killed in SPLICE: all was but what is left in the pipe. SENT: `done` bytes were, whatever is in the pipe.
 *   from a socket:  the bytes were only looked at (MSG_PEEK), what they mean was committed. TAKE: they go into the pipe, DRAIN:
 *                   they are thrown away. Killed in TAKE: `done` and what is in the pipe were taken; in DRAIN: `next`.
 *                   The next process takes the rest. What was announced only counts where that commit was made.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

enum carry_phase { CARRY_IDLE, CARRY_WRITE, CARRY_SPLICE, CARRY_TAKE, CARRY_DRAIN, CARRY_SENT, CARRY_ANNOUNCED };

/* In the head of the log. */
struct carry_op {
        uint32_t phase; /* enum carry_phase; written last */
        uint32_t reserved;
        uint64_t id;    /* of the connection, or of the request that writes to a pipe */
        uint64_t base;  /* bytes that were sent to it before; ANNOUNCED: what was committed then */
        uint64_t bytes; /* that are to be moved */
        uint64_t done, next;
};

struct carry {
        struct carry_op *op;
        const _Atomic uint64_t *committed; /* grows with every commit */
        int pipe[2];
        size_t capacity;
};

#define CARRY_NULL ((struct carry){ .pipe = { -1, -1 } })

/* Makes the pipe, or takes one over. 0 or -errno (-EINVAL: these are no two ends of one): nothing has changed. */
int carry_init(struct carry *c);
int carry_init_fds(struct carry *c, int read_fd, int write_fd);
void carry_deinit(struct carry *c);

/* Sends what fits, at most the pipe's capacity at once. Bytes sent, 0 = it takes none now, or -errno (-EPIPE: nobody reads any
 * more). fd is a stream socket or a pipe, and does not block. The caller writes down what was sent (ConnectionSent), commits, and
 * then calls carry_done(); after 0 and -errno there is nothing to be written down. */
ssize_t carry_send(struct carry *c, uint64_t id, uint64_t base, int fd, const struct iovec *iov, size_t n_iov);
/* Announces that `bytes`, which were looked at, are to be taken from it: before the commit that says what they mean, which has
 * to be made (with a record that was appended for it). */
void carry_announce(struct carry *c, uint64_t id, uint64_t bytes);
/* Takes them: behind that commit; then carry_done(). Descriptors that came with them are lost: whoever looked has copies. 0, or
 * -errno (-ENODATA: there are not as many). */
int carry_take(struct carry *c, int fd);
void carry_done(struct carry *c);

/* At the start: what the last process was about. */
struct carry_rest {
        uint64_t id;
        bool sending;
        uint64_t sent;  /* to it, since it was made */
        uint64_t taken; /* of it, by the last take: */
        uint64_t to_take;
};
/* 0 = nothing was under way, 1 = *ret is set, or -errno. The pipe is empty afterwards. It may be asked again, by a later
 * process, too, until carry_done(). What was being sent is done with when `sent` stands in the log that keep_taken() begins,
 * which ends it. Where `taken` is less than `to_take`, the rest is to be taken (carry_take(), carry_done()) before anything else
 * is moved. */
int carry_recover(struct carry *c, struct carry_rest *ret);
