/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Timers in a binary heap, intrusive: a timer is a member of what it belongs to and is set, moved and taken out in
 * logarithmic time. Those that are due at the same time come in the order in which they were set.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct load_timer {
        void (*fn)(struct load_timer *t, double now_us);
        double at_us;   /* CLOCK_MONOTONIC */
        uint64_t order;
        size_t place;   /* in the heap, from 1; 0 = not set */
};

struct load_timers {
        struct load_timer **heap;
        size_t n, cap;
        uint64_t order;
};

void load_timers_deinit(struct load_timers *s);
/* Sets a timer, also one that is set already. 0 or -ENOMEM. */
int load_timers_set(struct load_timers *s, struct load_timer *t, double at_us);
/* Takes a timer out; harmless when it is not set. */
void load_timers_clear(struct load_timers *s, struct load_timer *t);
/* The timer due next, or NULL; stays set. */
struct load_timer *load_timers_first(const struct load_timers *s);
