/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Jobs: work that takes time and that somebody may want to look at or to end. The load of a model is one, from its beginning
 * until the model serves, whoever caused it; so is each request that imports, packs or verifies a model of the store or plans
 * a load. Here is the list of them; the work itself is the models' and the requests'. Embedded in the manager.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/list.h"
#include "config/config.h"
#include "spark.pb-c.h"

struct manager;
struct manager_watcher;
struct model;
struct request;
struct user;

enum job_kind { JOB_LOAD, JOB_DRY_RUN, JOB_IMPORT, JOB_PACK, JOB_VERIFY };
enum job_result { JOB_DONE, JOB_FAILED, JOB_CANCELLED };

struct job {
        struct jobs *jobs;
        struct list link;
        uint64_t id;           /* never comes again while the daemon runs */
        enum job_kind kind;
        uid_t uid;             /* whose it is */
        char model[CONFIG_MODEL_NAME_MAX + 1];
        struct model *load;    /* LOAD: of this model */
        struct request *request; /* else: for this request */
        char stage[16];        /* of the request's, as it was told last; "" = it has not begun */
        uint64_t done, total, bytes_per_second, eta_ms;
        bool cancel_due;       /* in the next turn */
        uid_t cancelled_by;
        bool cancel_all;       /* for whomever it is */
};

struct jobs {
        struct manager *manager;
        struct list list;
        size_t n;
        uint64_t last_id;
        bool cancels_due;
        struct manager_watcher *watcher;
        /* Whoever wants to tell others; NULL = nobody. removed: it is freed after that. */
        void (*told)(void *userdata, const struct job *job, bool removed, enum job_result result);
        void *userdata;
};

/* How far it is. */
struct job_progress {
        const char *state; /* "waiting", "running" */
        const char *stage; /* as in the protocol's Progress; "" = none yet */
        uint64_t done, total, bytes_per_second, eta_ms; /* 0 = not known */
};

/* 0 or -ENOMEM. */
int jobs_init(struct jobs *j, struct manager *m);
void jobs_deinit(struct jobs *j);
/* Ends those that are to be cancelled. */
void jobs_turn(struct jobs *j);

/* From request.c. The job of a request that has one (NULL without memory: it goes on without); how it gets on; its end. */
struct job *job_new_of_request(struct request *r, const Spark__V1__ClientFrame *frame);
void job_take_progress(struct job *job, const Spark__V1__Progress *p);
struct job *job_end(struct job *job, enum job_result result);

void job_fill_progress(const struct job *job, struct job_progress *ret);
const char *job_kind_name(const struct job *job);
const char *job_result_name(enum job_result result);
struct job *jobs_find(const struct jobs *j, uint64_t id);
/* Ends it in the next turn. A load goes on while others than `uid` wait for it, unless `all` is set; one whose engine starts
 * already ends when that is ready. */
void job_cancel(struct job *job, uid_t uid, bool all);
