/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Loop and thread share one struct under one mutex. It is counted: a thread that hangs on a dead disk keeps it when the
 * loop has gone. The eventfd is written only when the list of completions was empty, so that a burst is one wake-up.
 */

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "disk.h"

struct job_list {
        struct disk_job *head, *tail;
};

struct shared {
        pthread_mutex_t lock;
        pthread_cond_t wake;    /* the thread: there is work, or the end */
        pthread_cond_t changed; /* disk_drain(): a job has completed, or the thread has ended */
        struct job_list waiting, completed;
        int event_fd;
        unsigned refs;
        bool ending, ended;
};

struct disk {
        struct shared *shared;
        pthread_t thread;
        sd_event_source *source;
        size_t max_jobs, pending; /* the loop's alone */
};

static void job_append(struct job_list *l, struct disk_job *job) {
        job->next = NULL;
        if (l->tail)
                l->tail->next = job;
        else
                l->head = job;
        l->tail = job;
}

static struct disk_job *job_pop(struct job_list *l) {
        struct disk_job *job = l->head;

        if (!job)
                return NULL;
        l->head = job->next;
        if (!l->head)
                l->tail = NULL;
        job->next = NULL;
        return job;
}

static struct job_list job_take_all(struct job_list *l) {
        struct job_list all = *l;

        *l = (struct job_list){ 0 };
        return all;
}

/* ---- what both sides hold ---- */

static struct shared *shared_new(void) {
        struct shared *s = calloc(1, sizeof(*s));
        pthread_condattr_t attr;

        if (!s)
                return NULL;
        s->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (s->event_fd < 0) {
                free(s);
                return NULL;
        }
        s->refs = 1;
        (void)pthread_mutex_init(&s->lock, NULL);
        (void)pthread_condattr_init(&attr);
        (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        (void)pthread_cond_init(&s->wake, &attr);
        (void)pthread_cond_init(&s->changed, &attr);
        (void)pthread_condattr_destroy(&attr);
        return s;
}

/* Called and left without the lock. */
static void shared_unref(struct shared *s) {
        bool last;

        pthread_mutex_lock(&s->lock);
        last = --s->refs == 0;
        pthread_mutex_unlock(&s->lock);
        if (!last)
                return;
        (void)fd_close(s->event_fd);
        (void)pthread_cond_destroy(&s->wake);
        (void)pthread_cond_destroy(&s->changed);
        (void)pthread_mutex_destroy(&s->lock);
        free(s);
}

/* ---- the thread ---- */

static void *thread_main(void *userdata) {
        struct shared *s = userdata;
        struct disk_job *job;

        pthread_mutex_lock(&s->lock);
        while (!s->ending || s->waiting.head) {
                job = job_pop(&s->waiting);
                if (!job) {
                        (void)pthread_cond_wait(&s->wake, &s->lock);
                        continue;
                }
                pthread_mutex_unlock(&s->lock);
                job->run(job);
                pthread_mutex_lock(&s->lock);
                if (!s->completed.head)
                        (void)eventfd_write(s->event_fd, 1);
                job_append(&s->completed, job);
                (void)pthread_cond_signal(&s->changed);
        }
        s->ended = true;
        (void)pthread_cond_signal(&s->changed);
        pthread_mutex_unlock(&s->lock);
        shared_unref(s);
        return NULL;
}

/* The loop takes its signals from descriptors: they must be blocked everywhere. */
static int thread_start(struct disk *d) {
        sigset_t all, before;
        int r;

        (void)sigfillset(&all);
        r = pthread_sigmask(SIG_SETMASK, &all, &before);
        if (r != 0)
                return -r;
        d->shared->refs++;
        r = pthread_create(&d->thread, NULL, thread_main, d->shared);
        if (r != 0)
                d->shared->refs--;
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
        return -r;
}

/* ---- the loop ---- */

static void complete(struct disk *d, struct job_list jobs) {
        struct disk_job *job;

        while ((job = job_pop(&jobs))) {
                d->pending--;
                job->done(job);
        }
}

static void collect(struct disk *d) {
        struct shared *s = d->shared;
        struct job_list jobs;
        eventfd_t waste;

        pthread_mutex_lock(&s->lock);
        (void)eventfd_read(s->event_fd, &waste);
        jobs = job_take_all(&s->completed);
        pthread_mutex_unlock(&s->lock);
        complete(d, jobs);
}

static int on_completed(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        collect(userdata);
        return 0;
}

int disk_submit(struct disk *d, struct disk_job *job) {
        struct shared *s = d->shared;

        if (d->pending >= d->max_jobs)
                return DISK_E_FULL;
        d->pending++;
        job->dropped = false;
        pthread_mutex_lock(&s->lock);
        job_append(&s->waiting, job);
        (void)pthread_cond_signal(&s->wake);
        pthread_mutex_unlock(&s->lock);
        return 0;
}

size_t disk_pending(const struct disk *d) {
        return d->pending;
}

/* Called with the lock held. False: the deadline has passed. */
static bool wait_changed(struct shared *s, uint64_t deadline_us) {
        const struct timespec ts = { .tv_sec = (time_t)(deadline_us / 1000000u),
                                     .tv_nsec = (long)(deadline_us % 1000000u) * 1000 };

        return pthread_cond_timedwait(&s->changed, &s->lock, &ts) != ETIMEDOUT;
}

bool disk_drain(struct disk *d, uint64_t timeout_us) {
        uint64_t deadline_us = clock_now_us() + timeout_us;
        struct shared *s = d->shared;
        bool in_time = true;

        while (d->pending > 0 && in_time) {
                pthread_mutex_lock(&s->lock);
                while (!s->completed.head && in_time)
                        in_time = wait_changed(s, deadline_us);
                pthread_mutex_unlock(&s->lock);
                collect(d);
        }
        return d->pending == 0;
}

/* Tells the thread to end and takes the jobs that it has not begun. True where it has ended. */
static bool thread_end(struct disk *d, uint64_t deadline_us, struct job_list *ret_unbegun) {
        struct shared *s = d->shared;
        bool in_time = true, ended;

        pthread_mutex_lock(&s->lock);
        s->ending = true;
        *ret_unbegun = job_take_all(&s->waiting);
        (void)pthread_cond_signal(&s->wake);
        while (!s->ended && in_time)
                in_time = wait_changed(s, deadline_us);
        ended = s->ended;
        pthread_mutex_unlock(&s->lock);
        return ended;
}

struct disk *disk_free(struct disk *d, uint64_t drain_us) {
        uint64_t deadline_us = clock_now_us() + drain_us;
        struct job_list unbegun;

        if (!d)
                return NULL;
        (void)disk_drain(d, drain_us);
        d->max_jobs = 0; /* nothing further is taken, whatever completions ask for */
        /* a thread with nothing to do ends at once, even where there was no time to drain */
        if (thread_end(d, MAX(deadline_us, clock_now_us() + 100000u), &unbegun)) {
                (void)pthread_join(d->thread, NULL);
        } else {
                log_warning("the disk does not answer; what is being written is given up");
                (void)pthread_detach(d->thread);
        }
        collect(d);
        for (struct disk_job *job = unbegun.head; job; job = job->next)
                job->dropped = true;
        complete(d, unbegun);
        d->source = sd_event_source_disable_unref(d->source);
        shared_unref(d->shared);
        free(d);
        return NULL;
}

int disk_new(struct disk **ret, sd_event *event, size_t max_jobs) {
        struct disk *d = calloc(1, sizeof(*d));
        int r;

        if (!d)
                return -ENOMEM;
        d->max_jobs = max_jobs;
        d->shared = shared_new();
        if (!d->shared) {
                free(d);
                return -ENOMEM;
        }
        r = sd_event_add_io(event, &d->source, d->shared->event_fd, EPOLLIN, on_completed, d);
        if (r >= 0)
                r = thread_start(d);
        if (r < 0) {
                d->source = sd_event_source_disable_unref(d->source);
                shared_unref(d->shared);
                free(d);
                return r;
        }
        *ret = d;
        return 0;
}
