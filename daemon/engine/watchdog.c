/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Tried for the patience: a fixed one (a prompt of many rows takes as long as many decoded tokens, so what is right for one
 * is wrong for the other), and the prediction alone (it is off by a factor where steps so far were all of one size, and where
 * contexts have grown since). And one thread for both: the driver may have health() wait for what hangs, and then nobody looks at
 * the step any more.
 *
 * Where no call comes for a while the one that watches calls sleeps until the next one, which wakes it; the other one asks less
 * often. Who dozes says so before it looks a last time, and a call is counted before it looks who dozes, so that one of the
 * two sees the other.
 */

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "watchdog.h"

#define POLL_MS 100u
#define HEALTH_MS 200u
#define HEALTH_IDLE_MS 10000u /* a call asks at once, whatever is left of it */
#define QUIET_POLLS 10u          /* without a call: nothing is to be done */
#define UNKNOWN_US 30000000.0    /* first steps make graphs and take kernels to the device */
#define PREDICTED 4.0            /* times what was predicted */
#define ROW_US 10000.0           /* a row of the largest models beside others, with a context of 128 Ki tokens */
#define MOST_US 3600000000.0

struct watchdog {
        struct backend *be;
        uint64_t timeout_us;
        void (*lost)(const char *why);
        atomic_uint_fast64_t due_us; /* when the call in progress is overdue; 0 = there is none */
        atomic_uint calls;
        atomic_bool dozing;
        atomic_flag bitten;
        pthread_t steps, health;
        pthread_mutex_t lock;
        pthread_cond_t wake;
        unsigned woken; /* how often; under lock, as this: */
        bool stop;
};

uint64_t watchdog_patience_us(double expected_us, uint32_t rows) {
        double us = expected_us > 0 ? PREDICTED * expected_us + (rows > 1 ? ROW_US * rows : 0) : UNKNOWN_US;

        return us < MOST_US ? (uint64_t)us : (uint64_t)MOST_US;
}

static void wake(struct watchdog *w) {
        (void)pthread_mutex_lock(&w->lock);
        atomic_store(&w->dozing, false);
        w->woken++;
        (void)pthread_cond_broadcast(&w->wake);
        (void)pthread_mutex_unlock(&w->lock);
}

void watchdog_begin(struct watchdog *w, double expected_us, uint32_t rows) {
        if (!w)
                return;
        if (w->timeout_us > 0)
                atomic_store_explicit(&w->due_us, clock_now_us() + w->timeout_us + watchdog_patience_us(expected_us, rows),
                                      memory_order_release);
        atomic_fetch_add(&w->calls, 1);
        if (atomic_load(&w->dozing))
                wake(w);
}

void watchdog_end(struct watchdog *w) {
        if (w)
                atomic_store_explicit(&w->due_us, 0, memory_order_release);
}

static void bite(struct watchdog *w, const char *why) {
        if (!atomic_flag_test_and_set(&w->bitten))
                w->lost(why);
}

/* Until so many milliseconds are over, or somebody wakes it. False when it is to end. */
static bool rest(struct watchdog *w, unsigned ms) {
        struct timespec until;
        unsigned woken;
        bool ends;

        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += ms / 1000;
        until.tv_nsec += ms % 1000 * 1000000L;
        until.tv_sec += until.tv_nsec / 1000000000L;
        until.tv_nsec %= 1000000000L;
        (void)pthread_mutex_lock(&w->lock);
        woken = w->woken;
        while (!w->stop && w->woken == woken &&
               pthread_cond_clockwait(&w->wake, &w->lock, CLOCK_MONOTONIC, &until) != ETIMEDOUT)
                ;
        ends = w->stop;
        (void)pthread_mutex_unlock(&w->lock);
        return !ends;
}

/* Until a call comes behind so many. False when it is to end. */
static bool doze(struct watchdog *w, unsigned calls) {
        bool ends;

        (void)pthread_mutex_lock(&w->lock);
        atomic_store(&w->dozing, true);
        while (!w->stop && atomic_load(&w->dozing) && atomic_load(&w->calls) == calls)
                (void)pthread_cond_wait(&w->wake, &w->lock);
        atomic_store(&w->dozing, false);
        ends = w->stop;
        (void)pthread_mutex_unlock(&w->lock);
        return !ends;
}

static void *watch_steps(void *userdata) {
        struct watchdog *w = userdata;
        unsigned calls = 0, quiet = 0;

        while (quiet < QUIET_POLLS ? rest(w, POLL_MS) : doze(w, calls)) {
                unsigned before = calls;
                uint64_t due = atomic_load_explicit(&w->due_us, memory_order_acquire);

                calls = atomic_load(&w->calls);
                quiet = due || calls != before ? 0 : quiet + 1;
                if (due && clock_now_us() > due)
                        bite(w, "the device does not come to an end with a step");
        }
        return NULL;
}

static void *watch_health(void *userdata) {
        struct watchdog *w = userdata;

        while (rest(w, atomic_load(&w->dozing) ? HEALTH_IDLE_MS : HEALTH_MS))
                if (w->be->ops->health && w->be->ops->health(w->be) < 0)
                        bite(w, "the device is lost");
        return NULL;
}

/* Wakes the threads up to end them, as many as there are. */
static void stop(struct watchdog *w, bool has_health) {
        (void)pthread_mutex_lock(&w->lock);
        w->stop = true;
        (void)pthread_cond_broadcast(&w->wake);
        (void)pthread_mutex_unlock(&w->lock);
        (void)pthread_join(w->steps, NULL);
        if (has_health)
                (void)pthread_join(w->health, NULL);
}

static void destroy(struct watchdog *w) {
        (void)pthread_cond_destroy(&w->wake);
        (void)pthread_mutex_destroy(&w->lock);
        free(w);
}

int watchdog_new(struct watchdog **ret, struct backend *be, uint32_t timeout_ms, void (*lost)(const char *why)) {
        struct watchdog *w = calloc(1, sizeof(*w));
        int r;

        if (!w)
                return -ENOMEM;
        w->be = be;
        w->timeout_us = (uint64_t)timeout_ms * 1000u;
        w->lost = lost;
        (void)pthread_mutex_init(&w->lock, NULL);
        (void)pthread_cond_init(&w->wake, NULL);
        atomic_flag_clear(&w->bitten);
        r = pthread_create(&w->steps, NULL, watch_steps, w);
        if (r == 0) {
                r = pthread_create(&w->health, NULL, watch_health, w);
                if (r != 0)
                        stop(w, false);
        }
        if (r != 0) {
                destroy(w);
                return -r;
        }
        *ret = w;
        return 0;
}

struct watchdog *watchdog_free(struct watchdog *w) {
        if (!w)
                return NULL;
        stop(w, true);
        destroy(w);
        return NULL;
}
