/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Weights on their way to the device's memory. What one core copies to pinned memory is a fraction of what the link to the device
 * takes, so several do: a crew of threads fills stages, each with a piece of a weight, and the thread that calls the backend starts
 * the transfers, in order. It alone calls the runtime; the crew knows nothing but memcpy().
 *
 * The stages are a ring: piece k has stage k % ring, and waits for piece k - ring to be across. That is all that bounds the work:
 * put() returns when its last piece has a stage, so the next weight is begun while those before it are under way. Transfers have
 * a stream of their own: small copies of the load, of vectors, do not wait behind them.
 *
 * What the crew and the caller share is under the lock: which pieces were asked for, which are taken, and whether a stage is filled.
 * A stage's other fields are written before its piece is asked for and after it was filled, by the caller. Threads are started when a
 * piece finds none that is idle. Where none can be, the caller copies; where there is no pinned memory for all stages, some do.
 */

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/macro.h"
#include "cuda.h"

#define THREADS 6u

struct stage {
        struct cuda_stage pinned;
        void *dev;
        const void *host;
        size_t bytes;
        bool filled;
};

struct cuda_uploader {
        cudaStream_t stream;
        struct stage stages[CUDA_UPLOAD_STAGES];
        uint64_t sent; /* pieces whose transfers were started */

        pthread_mutex_t lock;
        pthread_cond_t asked_one, filled_one;
        uint64_t asked, taken; /* pieces */
        uint32_t ring;         /* stages in use; less than all where memory was lacking */
        unsigned n_threads, max_threads, n_idle;
        bool stopping;
        pthread_t threads[THREADS];
};

static struct stage *stage_of(struct cuda_uploader *u, uint64_t piece) {
        return u->stages + piece % u->ring;
}

static void fill(const struct stage *s) {
        memcpy(s->pinned.memory.data, s->host, s->bytes);
}

static void *crew_main(void *userdata) {
        struct cuda_uploader *u = userdata;

        pthread_mutex_lock(&u->lock);
        while (!u->stopping) {
                struct stage *s;

                if (u->taken == u->asked) {
                        u->n_idle++;
                        pthread_cond_wait(&u->asked_one, &u->lock);
                        u->n_idle--;
                        continue;
                }
                s = stage_of(u, u->taken++);
                pthread_mutex_unlock(&u->lock);
                fill(s);
                pthread_mutex_lock(&u->lock);
                s->filled = true;
                pthread_cond_signal(&u->filled_one);
        }
        pthread_mutex_unlock(&u->lock);
        return NULL;
}

/* It takes no signals: those are for threads that know what to do with them. */
static void start_thread(struct cuda_uploader *u) {
        sigset_t all, old;
        int r;

        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &old);
        r = pthread_create(u->threads + u->n_threads, NULL, crew_main, u);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        if (r == 0) {
                (void)pthread_setname_np(u->threads[u->n_threads++], "upload");
                return;
        }
        log_notice("no further thread for uploading weights than %u: %s", u->n_threads, strerror(r));
        u->max_threads = u->n_threads;
}

/* All cores but the caller's, which waits most of the time; at least one thread, so that transfers overlap with copying. */
static unsigned crew_max(void) {
        cpu_set_t cpus;

        if (sched_getaffinity(0, sizeof(cpus), &cpus) < 0)
                return THREADS; /* more than 1024 of them */
        return (unsigned)MIN(MAX(CPU_COUNT(&cpus) - 1, 1), (int)THREADS);
}

static int uploader_new(struct cuda_backend *be) {
        struct cuda_uploader *u = calloc(1, sizeof(*u));
        int r;

        if (!u)
                return BACKEND_E_NO_MEMORY;
        r = cuda_check_memory(be, cudaStreamCreateWithFlags(&u->stream, cudaStreamNonBlocking), "making a stream");
        if (r != 0) {
                free(u);
                return r;
        }
        u->ring = CUDA_UPLOAD_STAGES;
        u->max_threads = crew_max();
        pthread_mutex_init(&u->lock, NULL); /* with default attributes none of these fails */
        pthread_cond_init(&u->asked_one, NULL);
        pthread_cond_init(&u->filled_one, NULL);
        be->uploader = u;
        return 0;
}

static bool wait_filled(struct cuda_uploader *u, const struct stage *s, bool wait) {
        bool filled;

        pthread_mutex_lock(&u->lock);
        while (wait && !s->filled)
                pthread_cond_wait(&u->filled_one, &u->lock);
        filled = s->filled;
        pthread_mutex_unlock(&u->lock);
        return filled;
}

/* Starts transfers in order, as far as stages are filled; waits for the crew with those before `until`. */
static int send(struct cuda_backend *be, struct cuda_uploader *u, uint64_t until) {
        int r = atomic_load(&be->lost);

        while (r == 0 && u->sent < u->asked) {
                struct stage *s = stage_of(u, u->sent);

                if (!wait_filled(u, s, u->sent < until))
                        break;
                r = cuda_stage_start(be, &s->pinned, u->stream, s->dev, s->pinned.memory.data, s->bytes);
                u->sent++;
        }
        return r;
}

/* The next piece's stage, if it has not been used before; the first ones are used again if there is no memory for more. */
static int open_stage(struct cuda_backend *be, struct cuda_uploader *u) {
        struct stage *s = stage_of(u, u->asked);
        int r = cuda_stage_open(be, &s->pinned);

        if (r != BACKEND_E_NO_MEMORY || u->asked == 0)
                return r;
        log_info("weights are uploaded through %u of %u buffers: there is no pinned memory for more", (unsigned)u->asked,
                 CUDA_UPLOAD_STAGES);
        pthread_mutex_lock(&u->lock);
        u->ring = (uint32_t)u->asked; /* all pieces so far are below: each stays where it is */
        pthread_mutex_unlock(&u->lock);
        return 0;
}

/* One that is free. */
static int next_stage(struct cuda_backend *be, struct cuda_uploader *u, struct stage **ret) {
        int r = u->asked < u->ring ? open_stage(be, u) : 0;

        r = r ? r : send(be, u, u->asked < u->ring ? 0 : u->asked - u->ring + 1);
        if (r != 0)
                return r;
        *ret = stage_of(u, u->asked);
        return cuda_wait_event(be, (*ret)->pinned.done, "waiting for a weight's upload");
}

/* To whoever has time. */
static void ask(struct cuda_uploader *u, struct stage *s) {
        pthread_mutex_lock(&u->lock);
        s->filled = false;
        u->asked++;
        if (u->asked - u->taken > u->n_idle && u->n_threads < u->max_threads)
                start_thread(u);
        if (u->n_threads == 0) {
                u->taken++;
                fill(s);
                s->filled = true;
        }
        pthread_cond_signal(&u->asked_one);
        pthread_mutex_unlock(&u->lock);
}

int cuda_uploader_put(struct cuda_backend *be, void *dev, const void *host, size_t bytes) {
        int r = atomic_load(&be->lost);

        if (r == 0 && !be->uploader)
                r = uploader_new(be);
        for (size_t at = 0, n; r == 0 && at < bytes; at += n) {
                struct stage *s;

                n = MIN(bytes - at, (size_t)CUDA_STAGE_BYTES);
                r = next_stage(be, be->uploader, &s);
                if (r != 0)
                        break;
                s->dev = (uint8_t *)dev + at;
                s->host = (const uint8_t *)host + at;
                s->bytes = n;
                ask(be->uploader, s);
        }
        return r ? r : send(be, be->uploader, 0);
}

/* The end of the last transfer that was started, and so of all. */
static int wait_sent(struct cuda_backend *be, struct cuda_uploader *u) {
        int r = atomic_load(&be->lost);

        return r || u->sent == 0 ? r : cuda_wait_event(be, stage_of(u, u->sent - 1)->pinned.done, "waiting for weights' uploads");
}

int cuda_uploader_finish(struct cuda_backend *be) {
        int r = atomic_load(&be->lost);

        if (!be->uploader)
                return r;
        r = send(be, be->uploader, be->uploader->asked);
        r = r ? r : wait_sent(be, be->uploader);
        cuda_uploader_close(be);
        return r;
}

void cuda_uploader_close(struct cuda_backend *be) {
        struct cuda_uploader *u = be->uploader;

        if (!u)
                return;
        pthread_mutex_lock(&u->lock);
        u->stopping = true;
        pthread_cond_broadcast(&u->asked_one);
        pthread_mutex_unlock(&u->lock);
        for (unsigned i = 0; i < u->n_threads; i++)
                (void)pthread_join(u->threads[i], NULL);
        (void)wait_sent(be, u);
        for (size_t i = 0; i < CUDA_UPLOAD_STAGES; i++)
                cuda_stage_close(be, &u->stages[i].pinned);
        if (cuda_answers(be))
                (void)cudaStreamDestroy(u->stream);
        pthread_cond_destroy(&u->filled_one);
        pthread_cond_destroy(&u->asked_one);
        pthread_mutex_destroy(&u->lock);
        free(u);
        be->uploader = NULL;
}
