/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The event loop of a load run: descriptors (epoll) and timers, one thread. A watch is a member of what owns the
 * descriptor; it may be taken out at any time, but its memory must last as long as the loop runs, since an event for it
 * may be under way.
 */

#include <stdbool.h>
#include <stdint.h>

#include "load-timer.h"

struct load_watch {
        int fd; /* -1: not watched */
        void (*fn)(struct load_watch *w, uint32_t events);
};

struct load_loop {
        int epoll_fd;
        struct load_timers timers;
        int error; /* what ended it: 0, or -errno from load_loop_fail() */
        bool stop;
        uint64_t events; /* served so far */
};

#define LOAD_LOOP_NULL ((struct load_loop){ .epoll_fd = -1 })

/* 0 or -errno. */
int load_loop_init(struct load_loop *l);
void load_loop_deinit(struct load_loop *l);
/* Watches fd for these epoll events (level-triggered). 0 or -errno. */
int load_loop_watch(struct load_loop *l, struct load_watch *w, int fd, uint32_t events);
int load_loop_change(struct load_loop *l, struct load_watch *w, uint32_t events);
void load_loop_unwatch(struct load_loop *l, struct load_watch *w);
/* Calls t->fn once at that time (microseconds of measure_now_us()). Memory that is not there ends the loop. */
void load_loop_at(struct load_loop *l, struct load_timer *t, double at_us);
void load_loop_clear(struct load_loop *l, struct load_timer *t);
/* Ends the loop with this error. */
void load_loop_fail(struct load_loop *l, int error);
/* Serves what is due, or waits for something to be due. Returns `error`. */
int load_loop_turn(struct load_loop *l);
/* Serves until `stop`. Returns `error`. */
int load_loop_run(struct load_loop *l);
