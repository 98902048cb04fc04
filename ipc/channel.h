/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A channel: frames (u32 little-endian length, then that many bytes) over a connected, non-blocking stream socket,
 * with descriptors passed along, and bounded queues both ways. Used by control and engine for both protocols and by
 * libspark. It knows no message: callers pack and unpack protobuf.
 *
 * An idle channel owns no buffer: input and output memory is taken on demand and given back when empty.
 * Never blocks. One thread at a time.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/buf.h"

#define CHANNEL_FRAME_MAX (4u << 20)         /* public protocol: bytes of a message */
#define CHANNEL_FRAME_MAX_PRIVATE (8u << 20) /* control <-> engine */
#define CHANNEL_FDS_MAX 64u                  /* descriptors with one frame */

enum {
        CHANNEL_E_FULL = 1,      /* output queue at its limit in frames or bytes; nothing was queued */
        CHANNEL_E_OVERSIZE = 2,  /* a frame longer than the limit arrived (or was to be sent) */
        CHANNEL_E_EMPTY = 3,     /* a frame of length zero arrived */
        CHANNEL_E_FDS = 4,       /* more descriptors than allowed arrived, or one that belongs to no frame */
        CHANNEL_E_EOF = 5,       /* the other end closed; frames received before are still handed out */
        CHANNEL_E_TRUNCATED = 6, /* the other end closed within a frame */
};

struct channel_limits {
        size_t frame_max;    /* bytes of one message, in and out */
        size_t out_frames;   /* queued frames */
        size_t out_bytes;    /* queued bytes */
        unsigned in_fds;     /* received descriptors waiting for their frame */
};

struct channel_frame {
        const uint8_t *data; /* valid until the next channel_next(), channel_read() or channel_deinit() */
        size_t size;
};

/* Another way for bytes to leave: as writev() on the channel's socket, but negative errors (-EAGAIN: it takes none now). */
struct channel_transfer {
        ssize_t (*send)(void *userdata, const struct iovec *iov, size_t n_iov);
        void *userdata;
};

struct channel_out; /* queued frames, side by side; one that carries descriptors comes first in its block */

struct channel {
        int fd;
        struct channel_limits limits;
        uint8_t *in;          /* received bytes not handed out yet: [in_pos, in_len) */
        size_t in_pos, in_len, in_cap;
        int *in_fds;
        unsigned n_in_fds;
        uint64_t n_fds_received; /* since it was made */
        bool eof;
        const struct channel_transfer *transfer; /* borrowed; NULL: sendmsg() */
        struct channel_out *out_head, *out_tail;
        size_t out_frames, out_bytes, out_pos; /* out_pos: bytes of the head already written */
        size_t out_mark;      /* in the head: where the oldest frame that is not wholly written begins */
        size_t out_last;      /* in the tail: where the frame that was queued last begins */
        uint64_t out_total;   /* bytes written since it was made */
        uint64_t out_blocked_us; /* CLOCK_MONOTONIC when the queue last stopped moving; 0 = not blocked */
};

/* Takes ownership of fd (made non-blocking). */
int channel_init(struct channel *c, int fd, const struct channel_limits *limits);
void channel_deinit(struct channel *c);

/* Receives what is there, at most 256 KiB per call (so that one busy peer can't hold the loop). Hand out what came with
 * channel_next() before the next call: frames that wait fill the buffer, and a full one takes no more.
 * 1 = something came (or the buffer is full), 0 = nothing there now, CHANNEL_E_EOF, CHANNEL_E_FDS, or -errno.
 * CHANNEL_E_EOF is 5, CHANNEL_E_FDS 4: 1 here is never CHANNEL_E_FULL. A reset connection counts as EOF. */
int channel_read(struct channel *c);
/* The next whole frame. 1 = *ret is set, 0 = none complete yet, CHANNEL_E_OVERSIZE, CHANNEL_E_EMPTY,
 * CHANNEL_E_TRUNCATED (only after EOF). Note that 1 here is not CHANNEL_E_FULL: reading never gives that. */
int channel_next(struct channel *c, struct channel_frame *ret);
/* Takes the oldest received descriptor, -1 if there is none. */
int channel_take_fd(struct channel *c);
/* Descriptors received and not taken. After all whole frames were handled this must be 0 unless a frame is still
 * incomplete; callers treat more as CHANNEL_E_FDS. */
static inline unsigned channel_pending_fds(const struct channel *c) {
        return c->n_in_fds;
}
static inline bool channel_partial_frame(const struct channel *c) {
        return c->in_len > c->in_pos;
}

/* Queues one frame: a header is put before msg, both are copied; fds (borrowed, duplicated) go with its first byte.
 * 0, CHANNEL_E_FULL, CHANNEL_E_OVERSIZE, or -errno (-EINVAL: size 0, or too many fds). Does not write: call
 * channel_flush() once per turn. */
int channel_queue(struct channel *c, const void *msg, size_t size, const int *fds, size_t n_fds);
/* As channel_queue() for a message that the caller packs in place: reserves size bytes and returns where to write them
 * in *ret_data. Nothing is sent before channel_flush(). */
int channel_queue_reserve(struct channel *c, size_t size, uint8_t **ret_data);
int channel_queue_reserve_fds(struct channel *c, size_t size, const int *fds, size_t n_fds, uint8_t **ret_data);
/* Writes as much as the socket takes, many frames per system call. 1 = all is out, 0 = more to write (wait for
 * POLLOUT), CHANNEL_E_EOF = the other end is gone, or -errno. */
int channel_flush(struct channel *c);
static inline bool channel_wants_write(const struct channel *c) {
        return c->out_head != NULL;
}

/* ---- for connections that outlive their process ---- */

/* As channel_read(), but the socket keeps what came: *ret_n bytes, which the caller has to take from it before it calls this or
 * channel_read() again. At most `max` at once. */
int channel_peek(struct channel *c, size_t max, size_t *ret_n);
/* What was received and not handed out yet. */
static inline const uint8_t *channel_input(const struct channel *c, size_t *ret_n) {
        *ret_n = c->in_len - c->in_pos;
        return *ret_n ? c->in + c->in_pos : NULL;
}
/* The frame that was queued last, with its header; only right behind the queueing. */
const uint8_t *channel_last_frame(const struct channel *c, size_t *ret_size);
/* What is queued: whole frames, of which the first *ret_skip bytes are written. From malloc(), NULL without memory or where
 * there is nothing (*ret_size is 0 then). */
uint8_t *channel_copy_output(const struct channel *c, size_t *ret_size, size_t *ret_skip);
/* Puts back what another process had received, and what it had queued (as it came from channel_copy_output()), into a channel
 * that is new. 0, CHANNEL_E_OVERSIZE (that can't be), or -ENOMEM. */
int channel_restore_input(struct channel *c, const uint8_t *data, size_t size);
int channel_restore_output(struct channel *c, const uint8_t *data, size_t size, size_t skip);
/* What another channel had queued and not begun to write, behind what this one has. 0 or -EINVAL (it had begun). */
int channel_take_output(struct channel *c, struct channel *from);
/* A descriptor that it had received (taken over), the number `n` since it was made. 0, CHANNEL_E_FDS, or -ENOMEM. */
int channel_restore_fd(struct channel *c, int fd, uint64_t n);
