/* SPDX-License-Identifier: Apache-2.0 */

/*
 * One word says everything about the current job: its number in the upper half, the items not yet taken in the lower.
 * Taking an item is one compare-and-swap; it can only succeed while the job runs, so its fields, written before the
 * word, are safe to read from then on until the item is reported done.
 *
 * Sleeping: a worker announces itself in `sleepers`, then sleeps on `bell` unless that has moved since it last looked
 * for work; the caller moves the bell, then looks at `sleepers`. All four are sequentially consistent, so one of the two
 * sees the other.
 *
 * Workers that are not to take part sleep on `roster`, which moves with every change of who does: the bell would wake them with
 * every job.
 *
 * Items are not dealt out beforehand: the machine is shared, and with fixed shares a worker that is put aside would
 * delay the whole job.
 */

#include "pool.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SPINS 2000 /* pauses before a wait becomes a sleep: tens of microseconds, by the CPU */

typedef int (*pool_each_fn)(unsigned value);

struct pool {
        /* The current job. */
        pool_fn fn;
        void *context;
        uint32_t n_items;
        _Alignas(64) atomic_uint_fast64_t word; /* job number << 32 | items not yet taken */
        _Alignas(64) atomic_uint left;          /* items not yet done; bit 31: the caller sleeps on it */
        _Alignas(64) atomic_uint bell;          /* moves with every job */
        atomic_uint sleepers;
        atomic_bool busy, stopping;
        atomic_uint roster;  /* moves with each change of n_active */
        atomic_uint n_active;
        atomic_uint notices; /* moves with each pool_each_thread() */
        _Atomic(pool_each_fn) each;
        atomic_uint each_value;
        unsigned n_threads, n_started;
        struct worker {
                struct pool *pool;
                pthread_t thread;
                unsigned index;
                unsigned noticed;
        } workers[];
};

#define CALLER_SLEEPS 0x80000000u

static void futex_wait(atomic_uint *word, unsigned expected) {
        (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake(atomic_uint *word, int n) {
        (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static inline void pause_briefly(void) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("isb" ::: "memory");
#endif
}

/* Takes an item of the current job; false when there is none left. */
static bool take(struct pool *pool, uint32_t *ret_item) {
        uint_fast64_t word = atomic_load(&pool->word);

        while ((uint32_t)word > 0)
                if (atomic_compare_exchange_weak(&pool->word, &word, word - 1)) {
                        *ret_item = pool->n_items - (uint32_t)word;
                        return true;
                }
        return false;
}

static void work(struct pool *pool, unsigned index) {
        uint32_t item;

        while (take(pool, &item)) {
                pool->fn(pool->context, item, index);
                if (atomic_fetch_sub(&pool->left, 1) == (CALLER_SLEEPS | 1u))
                        futex_wake(&pool->left, 1);
        }
}

static bool have_work(struct pool *pool) {
        return (uint32_t)atomic_load(&pool->word) > 0;
}

static void wait_for_work(struct pool *pool) {
        unsigned bell = atomic_load(&pool->bell);

        for (unsigned i = 0; i < SPINS && atomic_load_explicit(&pool->busy, memory_order_relaxed); i++) {
                if (have_work(pool))
                        return;
                pause_briefly();
        }
        atomic_fetch_add(&pool->sleepers, 1);
        if (!have_work(pool) && !atomic_load(&pool->stopping))
                futex_wait(&pool->bell, bell);
        atomic_fetch_sub(&pool->sleepers, 1);
}

/* False where it is not its turn to sleep: it takes part. */
static bool sit_out(struct pool *pool, unsigned index) {
        unsigned roster = atomic_load(&pool->roster);

        if (index < atomic_load(&pool->n_active))
                return false;
        if (!atomic_load(&pool->stopping))
                futex_wait(&pool->roster, roster);
        return true;
}

static void heed(struct worker *w) {
        unsigned notices = atomic_load(&w->pool->notices);

        if (notices == w->noticed)
                return;
        w->noticed = notices;
        (void)atomic_load(&w->pool->each)(atomic_load(&w->pool->each_value));
}

static void *worker_main(void *userdata) {
        struct worker *w = userdata;

        (void)pthread_setname_np(pthread_self(), "kernels"); /* another one's takes a file, which a sandbox may not let us open */
        while (!atomic_load(&w->pool->stopping)) {
                if (sit_out(w->pool, w->index))
                        continue;
                heed(w);
                work(w->pool, w->index);
                wait_for_work(w->pool);
        }
        return NULL;
}

static void ring(struct pool *pool) {
        atomic_fetch_add(&pool->bell, 1);
        if (atomic_load(&pool->sleepers) > 0)
                futex_wake(&pool->bell, INT_MAX);
}

static void wait_until_done(struct pool *pool) {
        unsigned left;

        for (unsigned i = 0; i < SPINS; i++) {
                if (atomic_load(&pool->left) == 0)
                        return;
                pause_briefly();
        }
        left = atomic_fetch_or(&pool->left, CALLER_SLEEPS) | CALLER_SLEEPS;
        while ((left & ~CALLER_SLEEPS) > 0) {
                futex_wait(&pool->left, left);
                left = atomic_load(&pool->left);
        }
}

void pool_run(struct pool *pool, uint32_t n_items, pool_fn fn, void *context) {
        uint32_t job;

        if (n_items <= 1 || atomic_load_explicit(&pool->n_active, memory_order_relaxed) == 1) {
                for (uint32_t i = 0; i < n_items; i++)
                        fn(context, i, 0);
                return;
        }
        pool->fn = fn;
        pool->context = context;
        pool->n_items = n_items;
        atomic_store(&pool->left, n_items);
        job = (uint32_t)(atomic_load(&pool->word) >> 32) + 1;
        atomic_store(&pool->word, (uint_fast64_t)job << 32 | n_items);
        ring(pool);
        work(pool, 0);
        wait_until_done(pool);
}

void pool_busy(struct pool *pool) {
        atomic_store(&pool->busy, true);
}

void pool_idle(struct pool *pool) {
        atomic_store(&pool->busy, false);
}

unsigned pool_threads(const struct pool *pool) {
        return pool->n_threads;
}

static void change_roster(struct pool *pool) {
        atomic_fetch_add(&pool->roster, 1);
        futex_wake(&pool->roster, INT_MAX);
}

unsigned pool_limit(struct pool *pool, unsigned n_threads) {
        unsigned n = n_threads < 1 ? 1 : n_threads < pool->n_threads ? n_threads : pool->n_threads;

        if (atomic_exchange(&pool->n_active, n) != n)
                change_roster(pool);
        return n;
}

int pool_each_thread(struct pool *pool, int (*fn)(unsigned value), unsigned value) {
        atomic_store(&pool->each_value, value);
        atomic_store(&pool->each, fn);
        atomic_fetch_add(&pool->notices, 1);
        return fn(value);
}

/* Workers take no signals: those are for the threads that know what to do with them. */
static int start_workers(struct pool *pool) {
        sigset_t all, old;
        int r = 0;

        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &old);
        for (unsigned i = 1; i < pool->n_threads && r == 0; i++) {
                pool->workers[i] = (struct worker){ .pool = pool, .index = i };
                r = pthread_create(&pool->workers[i].thread, NULL, worker_main, &pool->workers[i]);
                if (r == 0)
                        pool->n_started = i;
        }
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        return -r;
}

int pool_new(unsigned n_threads, struct pool **ret) {
        struct pool *pool;
        size_t bytes = sizeof(*pool) + n_threads * sizeof(struct worker);
        int r;

        if (posix_memalign((void **)&pool, 64, bytes) != 0)
                return -ENOMEM;
        *pool = (struct pool){ .n_threads = n_threads, .n_active = n_threads };
        r = start_workers(pool);
        if (r < 0) {
                pool_free(pool);
                return r;
        }
        *ret = pool;
        return 0;
}

struct pool *pool_free(struct pool *pool) {
        if (!pool)
                return NULL;
        atomic_store(&pool->stopping, true);
        ring(pool);
        change_roster(pool);
        for (unsigned i = 1; i <= pool->n_started; i++)
                (void)pthread_join(pool->workers[i].thread, NULL);
        free(pool);
        return NULL;
}
