/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* How many of something there were per second, over the last seconds. Embedded; zero-initialised it has seen nothing. */

#include <stdint.h>

#define RATE_SECONDS 5u

struct rate {
        uint64_t total;
        uint64_t ring[RATE_SECONDS]; /* totals of the last seconds */
        unsigned pos;
};

/* Once a second. */
static inline void rate_tick(struct rate *r) {
        r->pos = (r->pos + 1) % RATE_SECONDS;
        r->ring[r->pos] = r->total;
}

static inline float rate_per_second(const struct rate *r) {
        uint64_t now = r->ring[r->pos], then = r->ring[(r->pos + 1) % RATE_SECONDS];

        return (float)(now - then) / (float)(RATE_SECONDS - 1);
}
