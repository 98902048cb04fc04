/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SPARK_H
#include "spark.h" /* which includes this */
#elif !defined(SPARK_JOB_H)
#define SPARK_JOB_H

/*
 * Rights and jobs. Part of spark.h.
 *
 * Who may connect may use the service. For more (loading and unloading, the model store, what is other users') it asks polkit, where
 * there is one on the system bus, while the request waits: about the process that connected, whoever has the connection now.
 */

/* From here on requests of this connection allow that a person is asked for a password (on != 0), or not (0: as it begins). A request
 * may take two minutes longer then. Without, what a person would have to allow ends with SPARK_PERMISSION_DENIED, and
 * spark_error.needs_person says so. On a terminal somebody has to do the asking: polkit's pkttyagent, as sparkctl has it. 0. */
int spark_set_interactive_authorization(struct spark *s, int on);

/* 1 where the service's greeting names this feature: "authorization" (what the caller may not do by itself polkit is asked about).
 * 0: it does not, or did not come yet. */
int spark_server_has(struct spark *s, const char *feature);

/* As spark_status() and spark_session_list(), with what is others': takes the right "observe-others", which root and the service's
 * user have. */
struct spark_status_request {
        size_t size;
        int all_users;
};
#define SPARK_STATUS_INIT { sizeof(struct spark_status_request), 0 }
int spark_status_query(struct spark *s, const struct spark_status_request *request, spark_event_fn fn, void *userdata,
                       uint64_t *ret_id);

struct spark_session_list_request {
        size_t size;
        int all_users;
};
#define SPARK_SESSION_LIST_INIT { sizeof(struct spark_session_list_request), 0 }
int spark_session_query(struct spark *s, const struct spark_session_list_request *request, spark_event_fn fn, void *userdata,
                        uint64_t *ret_id);

/* Work that takes time: a load is a job from its beginning until the model serves, whoever caused it, and so is each request that
 * imports, packs or verifies a model or plans a load. Ids are those that D-Bus has. */
struct spark_job {
        uint64_t id;                /* does not come again while the service runs */
        const char *kind;           /* "load", "dry-run", "import", "pack", "verify" */
        const char *model;
        const char *state;          /* "waiting", "running" */
        const char *stage;          /* as spark_progress.stage; "" = not begun; of a load at last "start" (of its engine) */
        uint64_t done;              /* this and what follows: as in spark_progress */
        uint64_t total;
        uint64_t bytes_per_second;
        uint64_t eta_ms;
        uint32_t uid;               /* who waits for it; of what nobody waits for the service's own */
        int own;                    /* the caller's user's */
};

/* The caller's own: spark_done.jobs. Root and the service's user see everybody's. */
struct spark_jobs_request {
        size_t size;
        int all_users;              /* as above */
};
#define SPARK_JOBS_INIT { sizeof(struct spark_jobs_request), 0 }
int spark_jobs(struct spark *s, const struct spark_jobs_request *request, spark_event_fn fn, void *userdata, uint64_t *ret_id);

/* Ends a job: its request ends with SPARK_CANCELLED. A load goes on while others wait for it, unless the caller may manage models.
 * Others' jobs take that right. SPARK_INVALID_ARGUMENT where there is no such job (any more). */
int spark_job_cancel(struct spark *s, uint64_t job, spark_event_fn fn, void *userdata, uint64_t *ret_id);

#endif
