/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The time that only goes forward (CLOCK_MONOTONIC; the machine's sleep is not in it). Reading it can't fail. */

#include <stdint.h>
#include <time.h>

static inline uint64_t clock_now_us(void) {
        struct timespec ts;

        (void)clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

static inline int64_t clock_now_ms(void) {
        return (int64_t)(clock_now_us() / 1000u);
}
