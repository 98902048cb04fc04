/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SPARK_H
#include "spark.h" /* which includes this */
#elif !defined(SPARK_LEASE_H)
#define SPARK_LEASE_H

/*
 * Leases: memory that the service gives back and does without for a while, and models that it keeps resident. Part of
 * spark.h.
 *
 * A lease is a request that goes on until spark_cancel() or the end of the connection, or that of the process: nothing is
 * left behind by whoever is killed. Give it a callback: when it has got what it asked for it hears so as progress, and its
 * one last event is an error (SPARK_CANCELLED where it was cancelled).
 */

/* Asks for memory. Events: progress "yield" (done: bytes given back so far, total: those that are to be), once progress
 * "granted" (done: bytes that were given back; fewer than total where the service has no more), at last an error.
 * Errors: SPARK_INVALID_ARGUMENT (the message names the field), SPARK_PERMISSION_DENIED, SPARK_QUOTA_EXCEEDED. */
struct spark_reserve_memory_request {
        size_t size;
        uint64_t bytes;
        const char *who;           /* for people: the program, at most 128 bytes; NULL = "" */
        const char *why;           /* for people, at most 256 bytes; NULL = "" */
        int missing_only;          /* give back only what the machine has too little free for, above the floor */
        const char *policy;        /* of requests that need what was given away: "wait", "busy"; NULL: as the service is
                                    * configured */
};
#define SPARK_RESERVE_MEMORY_INIT { sizeof(struct spark_reserve_memory_request), 0, NULL, NULL, 0, NULL }
int spark_reserve_memory(struct spark *s, const struct spark_reserve_memory_request *request, spark_event_fn fn, void *userdata,
                         uint64_t *ret_id);

/* Holds a model resident; it is loaded where it is not. Events: progress as of a load, progress "warm" when it is ready (again
 * after it was away), at last an error, which is the model's where it can't be loaded. */
struct spark_hold_warm_request {
        size_t size;
        const char *model;         /* NULL: the default model */
        const char *who;           /* as above */
        const char *why;
};
#define SPARK_HOLD_WARM_INIT { sizeof(struct spark_hold_warm_request), NULL, NULL, NULL }
int spark_hold_warm(struct spark *s, const struct spark_hold_warm_request *request, spark_event_fn fn, void *userdata,
                    uint64_t *ret_id);

/* A lease that there is: spark_status_result.leases. */
struct spark_lease {
        uint64_t id;
        const char *kind;           /* "memory", "warm" */
        const char *state;          /* "yield" (memory comes back), "granted"; "load", "warm" */
        uint64_t bytes;             /* asked for */
        uint64_t given_bytes;       /* given back */
        const char *model;          /* of "warm" */
        const char *policy;         /* of "memory": "wait", "busy" */
        float age_s;                /* seconds */
        int own;                    /* the caller's user's */
        uint32_t uid;               /* this and what follows: zero and "" of other users', unless the caller is root or the
                                     * service's user */
        uint32_t pid;
        const char *unit;
        const char *who;
        const char *why;
};

#endif
