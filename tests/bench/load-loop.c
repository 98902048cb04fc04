/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <sys/epoll.h>
#include <time.h>

#include "base/fd.h"
#include "base/macro.h"
#include "load-loop.h"
#include "measure.h"

/* Timers served before descriptors have their turn, so that a thousand starts do not delay the first answers. */
#define TIMERS_PER_TURN 16
#define EVENTS_PER_TURN 64

int load_loop_init(struct load_loop *l) {
        *l = LOAD_LOOP_NULL;
        l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        return l->epoll_fd < 0 ? -errno : 0;
}

void load_loop_deinit(struct load_loop *l) {
        l->epoll_fd = fd_close(l->epoll_fd);
        load_timers_deinit(&l->timers);
}

int load_loop_watch(struct load_loop *l, struct load_watch *w, int fd, uint32_t events) {
        struct epoll_event e = { .events = events, .data.ptr = w };

        if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0)
                return -errno;
        w->fd = fd;
        return 0;
}

int load_loop_change(struct load_loop *l, struct load_watch *w, uint32_t events) {
        struct epoll_event e = { .events = events, .data.ptr = w };

        return epoll_ctl(l->epoll_fd, EPOLL_CTL_MOD, w->fd, &e) < 0 ? -errno : 0;
}

void load_loop_unwatch(struct load_loop *l, struct load_watch *w) {
        if (w->fd >= 0)
                (void)epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
        w->fd = -1;
}

void load_loop_fail(struct load_loop *l, int error) {
        if (l->error == 0)
                l->error = error;
        l->stop = true;
}

void load_loop_at(struct load_loop *l, struct load_timer *t, double at_us) {
        if (load_timers_set(&l->timers, t, at_us) < 0)
                load_loop_fail(l, -ENOMEM);
}

void load_loop_clear(struct load_loop *l, struct load_timer *t) {
        load_timers_clear(&l->timers, t);
}

/* Serves timers that are due; returns the microseconds until the next one, or -1. */
static double serve_timers(struct load_loop *l) {
        double now = measure_now_us();

        for (unsigned i = 0; i < TIMERS_PER_TURN && !l->stop; i++) {
                struct load_timer *t = load_timers_first(&l->timers);

                if (!t)
                        return -1;
                if (t->at_us > now)
                        return t->at_us - now;
                load_timers_clear(&l->timers, t);
                l->events++;
                t->fn(t, now);
        }
        return 0;
}

int load_loop_turn(struct load_loop *l) {
        struct epoll_event events[EVENTS_PER_TURN];
        double wait = serve_timers(l);
        struct timespec timeout = { .tv_sec = wait < 0 ? 0 : (time_t)(wait / 1e6) };
        int n;

        timeout.tv_nsec = wait < 0 ? 0 : (long)((wait - (double)timeout.tv_sec * 1e6) * 1e3);
        if (l->stop)
                return l->error;
        n = epoll_pwait2(l->epoll_fd, events, ARRAY_SIZE(events), wait < 0 ? NULL : &timeout, NULL);
        if (n < 0 && errno != EINTR)
                load_loop_fail(l, -errno);
        for (int i = 0; i < n && !l->stop; i++) {
                struct load_watch *w = events[i].data.ptr;

                l->events++;
                if (w->fd >= 0)
                        w->fn(w, events[i].events);
        }
        return l->error;
}

int load_loop_run(struct load_loop *l) {
        l->stop = false;
        while (!l->stop)
                (void)load_loop_turn(l);
        return l->error;
}
