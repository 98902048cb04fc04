/* SPDX-License-Identifier: Apache-2.0 */

/* The disk's thread: order, bounds, completions on the loop, its end with and without patience. */

#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/control/disk.h"

#define PATIENCE_US (20u * 1000000u)

struct counts {
        struct disk *disk;
        pthread_t loop;
        size_t run, done, dropped; /* run: the thread's, read when it has ended or by way of completions */
        size_t order[512];
        size_t again; /* completions submit so many further jobs */
        sem_t gate; /* gated jobs wait for it, between posting these: */
        sem_t begun, ran;
        sigset_t blocked;
};

struct job {
        struct disk_job base;
        struct counts *counts;
        size_t number;
        bool gated;
        pthread_t ran_on;
};

static void run(struct disk_job *base) {
        struct job *job = CONTAINER_OF(base, struct job, base);

        if (job->gated) {
                (void)sem_post(&job->counts->begun);
                (void)sem_wait(&job->counts->gate);
        }
        job->ran_on = pthread_self();
        (void)pthread_sigmask(SIG_SETMASK, NULL, &job->counts->blocked);
        job->counts->order[job->counts->run++ % ARRAY_SIZE(job->counts->order)] = job->number;
        if (job->gated)
                (void)sem_post(&job->counts->ran);
}

static void submit(struct counts *c, size_t number, bool gated);

static void done(struct disk_job *base) {
        struct job *job = CONTAINER_OF(base, struct job, base);
        struct counts *c = job->counts;

        assert_true(pthread_equal(c->loop, pthread_self()));
        c->done++;
        if (base->dropped)
                c->dropped++;
        else
                assert_false(pthread_equal(job->ran_on, c->loop));
        if (c->again > 0) {
                c->again--;
                submit(c, 1000 + c->again, false);
        }
        free(job);
}

static int try_submit(struct counts *c, size_t number, bool gated) {
        struct job *job = calloc(1, sizeof(*job));
        int r;

        assert_non_null(job);
        job->base.run = run;
        job->base.done = done;
        job->counts = c;
        job->number = number;
        job->gated = gated;
        r = disk_submit(c->disk, &job->base);
        if (r)
                free(job);
        return r;
}

static void submit(struct counts *c, size_t number, bool gated) {
        assert_int_equal(try_submit(c, number, gated), 0);
}

static sd_event *counts_init(struct counts *c, size_t max_jobs) {
        sd_event *event = NULL;

        *c = (struct counts){ .loop = pthread_self() };
        assert_int_equal(sem_init(&c->gate, 0, 0), 0);
        assert_int_equal(sem_init(&c->begun, 0, 0), 0);
        assert_int_equal(sem_init(&c->ran, 0, 0), 0);
        assert_true(sd_event_new(&event) >= 0);
        assert_int_equal(disk_new(&c->disk, event, max_jobs), 0);
        return event;
}

static void test_order_and_completions_on_the_loop(void **state) {
        struct counts c;
        sd_event *event = counts_init(&c, 512);

        for (size_t i = 0; i < 300; i++)
                submit(&c, i, false);
        assert_int_equal(disk_pending(c.disk), 300);
        while (c.done < 300)
                assert_true(sd_event_run(event, PATIENCE_US) > 0);
        assert_int_equal(disk_pending(c.disk), 0);
        assert_int_equal(c.run, 300);
        for (size_t i = 0; i < 300; i++)
                assert_int_equal(c.order[i], i);
        assert_int_equal(sigismember(&c.blocked, SIGTERM), 1);
        assert_int_equal(sigismember(&c.blocked, SIGHUP), 1);
        c.disk = disk_free(c.disk, 0);
        (void)sd_event_unref(event);
}

static void test_bound(void **state) {
        struct counts c;
        sd_event *event = counts_init(&c, 3);

        submit(&c, 0, true);
        submit(&c, 1, false);
        submit(&c, 2, false);
        assert_int_equal(try_submit(&c, 3, false), DISK_E_FULL);
        (void)sem_post(&c.gate);
        while (c.done < 1)
                assert_true(sd_event_run(event, PATIENCE_US) > 0);
        submit(&c, 3, false); /* only a completion that was taken makes room */
        assert_true(disk_drain(c.disk, PATIENCE_US));
        assert_int_equal(c.run, 4);
        c.disk = disk_free(c.disk, 0);
        (void)sd_event_unref(event);
}

/* What completions ask for is waited for, too. */
static void test_drain(void **state) {
        struct counts c;
        sd_event *event = counts_init(&c, 4);

        assert_true(disk_drain(c.disk, 0)); /* nothing to do */
        submit(&c, 0, true);
        assert_false(disk_drain(c.disk, 1000));
        assert_int_equal(c.done, 0);
        (void)sem_post(&c.gate);
        c.again = 20;
        assert_true(disk_drain(c.disk, PATIENCE_US));
        assert_int_equal(c.done, 21);
        c.disk = disk_free(c.disk, 0);
        (void)sd_event_unref(event);
}

static void test_free_runs_what_waits(void **state) {
        struct counts c;
        sd_event *event = counts_init(&c, 64);

        c.again = 5;
        for (size_t i = 0; i < 50; i++)
                submit(&c, i, false);
        c.disk = disk_free(c.disk, PATIENCE_US);
        assert_int_equal(c.run, 55);
        assert_int_equal(c.done, 55);
        assert_int_equal(c.dropped, 0);
        (void)sd_event_unref(event);
}

static void *open_gate(void *userdata) {
        struct counts *c = userdata;

        (void)usleep(20000);
        (void)sem_post(&c->gate);
        return NULL;
}

/* A thread that hangs is left to itself: what it had begun is never heard of again, the rest is dropped. */
static void test_free_drops_what_was_not_begun(void **state) {
        /* the thread has hold of these at any time afterwards */
        static struct counts c;
        static struct job stuck = { .base = { .run = run, .done = done }, .counts = &c, .gated = true };
        sd_event *event = counts_init(&c, 64);

        submit(&c, 0, false);
        assert_true(disk_drain(c.disk, PATIENCE_US));
        assert_int_equal(disk_submit(c.disk, &stuck.base), 0);
        for (size_t i = 2; i < 10; i++)
                submit(&c, i, false);
        (void)sem_wait(&c.begun);
        c.disk = disk_free(c.disk, 1000);
        assert_int_equal(c.done, 9);
        assert_int_equal(c.dropped, 8);
        (void)sem_post(&c.gate);
        (void)sem_wait(&c.ran);
        assert_int_equal(c.run, 2);
        (void)sd_event_unref(event);
}

static void test_free_waits_for_the_one_under_way(void **state) {
        struct counts c;
        sd_event *event = counts_init(&c, 64);
        pthread_t opener;

        submit(&c, 0, true);
        submit(&c, 1, false);
        assert_int_equal(pthread_create(&opener, NULL, open_gate, &c), 0);
        c.disk = disk_free(c.disk, PATIENCE_US);
        (void)pthread_join(opener, NULL);
        assert_int_equal(c.run, 2);
        assert_int_equal(c.dropped, 0);
        (void)sd_event_unref(event);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_order_and_completions_on_the_loop),
                cmocka_unit_test(test_bound),
                cmocka_unit_test(test_drain),
                cmocka_unit_test(test_free_runs_what_waits),
                cmocka_unit_test(test_free_drops_what_was_not_begun),
                cmocka_unit_test(test_free_waits_for_the_one_under_way),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
