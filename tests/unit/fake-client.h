/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* libspark connected to a played service (fake-service.h), for its tests. */

#include "client/spark.h"
#include "fake-service.h"

/* Starts the service with its script and connects; `data` is the script's. */
static inline struct spark *client_start(struct fake *f, void (*script)(struct fake *f), void *data) {
        struct spark *s = NULL;
        int fd = fake_start(f, script, data);

        assert_true(fd >= 0);
        assert_int_equal(spark_connect_fd(&s, fd, "test 1.0"), 0);
        return s;
}

/* Lets go of the connection and fails where the service found something wrong. */
static inline void client_finish(struct fake *f, struct spark *s) {
        assert_null(spark_unref(s));
        fake_stop(f);
        if (f->fault[0])
                fail_msg("service: %s", f->fault);
}
