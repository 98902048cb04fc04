/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Two channels that are connected with each other. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include <sys/socket.h>

#include "channel.h"

static const struct channel_limits limits = {
        .frame_max = CHANNEL_FRAME_MAX,
        .out_frames = 1u << 20,
        .out_bytes = 64u << 20,
        .in_fds = 4,
};

struct pair {
        struct channel a, b;
};

static inline int setup(void **state) {
        struct pair *p = calloc(1, sizeof(*p));
        int sv[2];

        assert_non_null(p);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
        assert_int_equal(channel_init(&p->a, sv[0], &limits), 0);
        assert_int_equal(channel_init(&p->b, sv[1], &limits), 0);
        *state = p;
        return 0;
}

static inline int teardown(void **state) {
        struct pair *p = *state;

        channel_deinit(&p->a);
        channel_deinit(&p->b);
        free(p);
        return 0;
}

static inline void send_raw(struct pair *p, const void *data, size_t n) {
        assert_int_equal(send(p->a.fd, data, n, MSG_NOSIGNAL), (ssize_t)n);
}

static inline void expect_frame(struct channel *c, const void *data, size_t size) {
        struct channel_frame f;

        assert_int_equal(channel_next(c, &f), 1);
        assert_int_equal(f.size, size);
        assert_memory_equal(f.data, data, size);
}

#define CHANNEL_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
