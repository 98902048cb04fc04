/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A load run: groups of clients connect, ask, read (or read slowly, or cancel) and are measured. One thread and one event
 * loop serve all of them; what is random is drawn from named streams (load-random.h).
 *
 * A time to first token begins when the request was due: an open loop that falls behind its clock shows as latency.
 * During the warm-up everything runs and nothing counts; requests that began in it do not count towards a client's number.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "load-group.h"
#include "load-stats.h"
#include "load-transport.h"
#include "load-words.h"

struct load_options {
        struct load_target target;
        const char *prompt; /* the text where a group names no size */
        double seconds;     /* 0 = until all requests of the groups that have a number are done */
        double warmup;      /* seconds, before those */
        uint64_t seed;
};

struct load_caller;
struct load_party;
struct load_run;

struct load_client {
        struct load_party *party;
        struct load_link *link;
        struct load_timer connecting;
        struct list requests; /* all that it ever had under way at once */
        struct load_stats stats;
        uint32_t number;      /* in the run */
        uint32_t uid;         /* of its connection, where the group names one */
        double connect_us;    /* first try */
        uint64_t begun;       /* requests, whether they count or not */
        uint64_t counted;     /* requests begun that count */
        uint32_t under_way;
        uint32_t failures;    /* in a row */
        bool connected, gone; /* gone: lost, or gave up after failures in a row */
        char error[200];      /* the last one, "" = none */
};

/* A group at work. */
struct load_party {
        struct load_run *run;
        const struct load_group *group;
        struct load_client *clients; /* [group->clients] */
        struct load_timer arrival;   /* open loop: the next request */
        struct load_arrivals arrivals;
        struct load_random shared;   /* the stream of the shared prefix */
        uint64_t arrived;
        struct load_caller *callers; /* [n_callers] helpers of other users */
        size_t n_callers;
        uint64_t owed;               /* requests that count and have not begun; UINT64_MAX = no end */
        size_t under_way;            /* requests */
        size_t alive;                /* clients */
        bool finished;
};

struct load_run {
        const struct load_options *options;
        const struct load_transport *transport;
        struct load_context context;
        struct load_loop loop;
        struct load_words words;
        struct load_party *parties; /* [n_parties] */
        size_t n_parties;
        struct load_client *clients; /* [n_clients], of all groups in order */
        size_t n_clients;
        size_t waiting;      /* clients without a greeting yet */
        size_t under_way;    /* requests */
        size_t alive;        /* clients */
        size_t unfinished;   /* groups with a number of requests that are not through */
        bool started, measuring, ending;
        double started_us, measured_us, ended_us;
        struct load_timer measure, end, drain, watchdog;
        uint64_t watched;    /* loop events at the watchdog's last look */
};

#define LOAD_RUN_NULL ((struct load_run){ .loop = LOAD_LOOP_NULL })

/* Connects, runs and measures. The groups and options are borrowed and must outlive the run. 0, -errno, or a positive enum
 * spark_code, with a sentence in `error` that says what was being done. What is measured stands in the clients. */
int load_run(struct load_run *run, const struct load_group *groups, size_t n_groups, const struct load_options *options,
             char *error, size_t error_size);
void load_run_deinit(struct load_run *run);
/* Seconds that were measured. */
double load_run_seconds(const struct load_run *run);
