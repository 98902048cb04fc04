/* SPDX-License-Identifier: Apache-2.0 */

/* What is in a channel, for a process that goes on with it. Output is told and taken back in whole frames, so that it is counted
 * in the same way by both. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "channel-private.h"

const uint8_t *channel_last_frame(const struct channel *c, size_t *ret_size) {
        *ret_size = c->out_tail->len - c->out_last;
        return c->out_tail->data + c->out_last;
}

uint8_t *channel_copy_output(const struct channel *c, size_t *ret_size, size_t *ret_skip) {
        size_t skip = c->out_pos - c->out_mark, size = c->out_bytes + skip, at = 0, from = c->out_mark;
        uint8_t *p;

        *ret_size = *ret_skip = 0;
        p = c->out_head ? malloc(size) : NULL;
        if (!p)
                return NULL;
        for (const struct channel_out *b = c->out_head; b; b = b->next, from = 0) {
                memcpy(p + at, b->data + from, b->len - from);
                at += b->len - from;
        }
        *ret_size = size;
        *ret_skip = skip;
        return p;
}

int channel_restore_input(struct channel *c, const uint8_t *data, size_t size) {
        if (size == 0)
                return 0;
        if (size > channel_input_limit(c))
                return CHANNEL_E_OVERSIZE;
        c->in = malloc(size);
        if (!c->in)
                return -ENOMEM;
        memcpy(c->in, data, size);
        c->in_len = c->in_cap = size;
        return 0;
}

/* 0 where the bytes are whole frames, and `skip` of them are less than one. */
static int check_frames(const struct channel *c, const uint8_t *data, size_t size, size_t skip) {
        size_t at = 0, n;

        while (at < size) {
                if (size - at < CHANNEL_HEADER_SIZE)
                        return CHANNEL_E_OVERSIZE;
                n = channel_read_u32le(data + at);
                if (n == 0 || n > c->limits.frame_max || n > size - at - CHANNEL_HEADER_SIZE)
                        return CHANNEL_E_OVERSIZE;
                n += CHANNEL_HEADER_SIZE;
                if (at == 0 && skip >= n)
                        return CHANNEL_E_OVERSIZE;
                at += n;
        }
        return 0;
}

int channel_restore_output(struct channel *c, const uint8_t *data, size_t size, size_t skip) {
        size_t at = 0, n;
        uint8_t *p;
        int r = check_frames(c, data, size, skip);

        while (r == 0 && at < size) {
                n = channel_read_u32le(data + at);
                r = channel_queue_reserve(c, n, &p);
                if (r == 0)
                        memcpy(p, data + at + CHANNEL_HEADER_SIZE, n);
                at += CHANNEL_HEADER_SIZE + n;
        }
        if (r)
                return r < 0 ? r : CHANNEL_E_OVERSIZE;
        if (size > 0) {
                c->out_pos = skip;
                c->out_bytes -= skip;
        }
        return 0;
}

int channel_take_output(struct channel *c, struct channel *from) {
        if (from->out_pos > 0)
                return -EINVAL;
        if (!from->out_head)
                return 0;
        if (c->out_tail)
                c->out_tail->next = from->out_head;
        else
                c->out_head = from->out_head;
        c->out_tail = from->out_tail;
        c->out_last = from->out_last;
        c->out_frames += from->out_frames;
        c->out_bytes += from->out_bytes;
        from->out_head = from->out_tail = NULL;
        from->out_frames = from->out_bytes = 0;
        return 0;
}

int channel_restore_fd(struct channel *c, int fd, uint64_t n) {
        int r = channel_keep_fds(c, &fd, 1);

        if (r)
                (void)fd_close(fd);
        else
                c->n_fds_received = n + 1;
        return r;
}
