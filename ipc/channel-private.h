/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the parts of a channel share: moving bytes (channel.c), and putting them back where another process left off
 * (channel-restore.c). */

#include "channel.h"

#define CHANNEL_HEADER_SIZE 4u

struct channel_out {
        struct channel_out *next;
        size_t len; /* bytes in data */
        size_t cap;
        unsigned n_fds;
        int *fds;
        uint8_t data[];
};

static inline uint32_t channel_read_u32le(const uint8_t *p) {
        return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Bytes that the input buffer grows to at most. */
size_t channel_input_limit(const struct channel *c);
/* Received descriptors, the channel's from now on where this is 0. 0, CHANNEL_E_FDS, or -ENOMEM. */
int channel_keep_fds(struct channel *c, const int *fds, size_t n);
