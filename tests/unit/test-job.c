/* SPDX-License-Identifier: Apache-2.0 */

/* The list of jobs: which of a model's states are a load, and how it ended. Jobs of requests are tested over the bus. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/control/job.h"
#include "daemon/control/manager.h"

struct fixture {
        struct manager m;
        struct model model;
        size_t n_new, n_removed;
        enum job_result last;
};

static void on_told(void *userdata, const struct job *job, bool removed, enum job_result result) {
        struct fixture *f = userdata;

        assert_int_equal(job->kind, JOB_LOAD);
        assert_string_equal(job->model, "x");
        f->n_new += !removed;
        f->n_removed += removed;
        f->last = result;
}

static int set_up(void **state) {
        struct fixture *f = calloc(1, sizeof(*f));

        assert_non_null(f);
        list_init(&f->m.watchers);
        list_init(&f->model.waiting);
        (void)strcpy(f->model.name, "x");
        f->model.manager = &f->m;
        assert_int_equal(jobs_init(&f->m.jobs, &f->m), 0);
        f->m.jobs.told = on_told;
        f->m.jobs.userdata = f;
        *state = f;
        return 0;
}

static int tear_down(void **state) {
        struct fixture *f = *state;

        jobs_deinit(&f->m.jobs);
        free(f);
        return 0;
}

static void becomes(struct fixture *f, enum model_state state) {
        f->model.state = state;
        manager_model_changed(&f->m, &f->model, false);
}

static void expect(const struct fixture *f, size_t n_new, size_t n_removed, enum job_result last) {
        assert_int_equal(f->n_new, n_new);
        assert_int_equal(f->n_removed, n_removed);
        assert_int_equal(f->m.jobs.n, n_new - n_removed);
        if (n_removed)
                assert_int_equal(f->last, last);
}

static void test_a_load(void **state) {
        struct fixture *f = *state;
        struct job_progress p;
        struct job *job;
        uint64_t id;

        f->model.load_began_us = 1;
        becomes(f, MODEL_LOADING);
        becomes(f, MODEL_STARTING);
        expect(f, 1, 0, JOB_DONE);
        job = LIST_ENTRY(f->m.jobs.list.next, struct job, link);
        id = job->id;
        assert_ptr_equal(jobs_find(&f->m.jobs, id), job);
        assert_int_equal(job->uid, geteuid()); /* nobody waits for it */
        job_fill_progress(job, &p);
        assert_string_equal(p.state, "running");
        assert_string_equal(p.stage, "start");
        f->model.load_began_us = 0;
        becomes(f, MODEL_READY);
        expect(f, 1, 1, JOB_DONE);
        assert_null(jobs_find(&f->m.jobs, id));
}

static void test_how_loads_end(void **state) {
        static const struct {
                enum model_state state;
                enum job_result result;
        } cases[] = { { MODEL_READY, JOB_DONE }, { MODEL_FAILED, JOB_FAILED }, { MODEL_AVAILABLE, JOB_CANCELLED },
                      { MODEL_UNLOADING, JOB_CANCELLED } };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                f->model.load_began_us = 1;
                becomes(f, MODEL_LOADING);
                becomes(f, cases[i].state);
                expect(f, i + 1, i + 1, cases[i].result);
        }
        f->model.load_began_us = 1;
        becomes(f, MODEL_LOADING);
        manager_model_changed(&f->m, &f->model, true); /* it goes */
        expect(f, ARRAY_SIZE(cases) + 1, ARRAY_SIZE(cases) + 1, JOB_CANCELLED);
}

static void test_another_engine_is_no_load(void **state) {
        struct fixture *f = *state;

        becomes(f, MODEL_STARTING);
        becomes(f, MODEL_READY);
        becomes(f, MODEL_UNLOADING);
        becomes(f, MODEL_AVAILABLE);
        expect(f, 0, 0, JOB_DONE);
}

static void test_what_is_left_at_the_end(void **state) {
        struct fixture *f = *state;

        f->model.load_began_us = 1;
        becomes(f, MODEL_LOADING);
        jobs_deinit(&f->m.jobs);
        expect(f, 1, 1, JOB_CANCELLED);
        assert_int_equal(jobs_init(&f->m.jobs, &f->m), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_a_load, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_how_loads_end, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_another_engine_is_no_load, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_what_is_left_at_the_end, set_up, tear_down),
        };

        return cmocka_run_group_tests_name("job", tests, NULL, NULL);
}
