/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A machine that isn't there, with clients that want something of it: the engine's scheduler (daemon/engine/schedule.h)
 * under a virtual clock. sim_run() is a pure function of its configuration: the same on every machine.
 *
 * As the engine does: slots, steps of prompt chunks and decoding rows under a target, learning what a step takes, KV pages
 * taken as sequences grow, parking of who has to make way and of who is furthest ahead where pages run out, and reading
 * again what was lost. Not modelled: the prefix cache (what lost its pages is read again in full), credit, limits of
 * users, refusals of a full queue, the time between control and engine, and that decoding in a long context takes longer.
 */

#include <stdbool.h>
#include <stdint.h>

#include "daemon/engine/schedule.h"
#include "sim-fair.h"
#include "sim-figures.h"

#define SIM_GROUPS_MAX 64u
#define SIM_CLIENTS_MAX 10000000u
#define SIM_WATCHED_MAX 12u /* clients of a user whose service is compared */

struct sim_machine {
        const char *name;
        const char *help;
        uint64_t base_ns, row_ns; /* a step of r rows takes base + r * row */
        uint32_t slots, rows;
        uint64_t kv_tokens;
        uint32_t target_us;       /* 0 = none */
};

enum sim_arrivals {
        SIM_OPEN,   /* a Poisson process, whatever the machine manages */
        SIM_CLOSED, /* one request at a time; thinks between two of them */
        SIM_FLOOD,  /* so many requests outstanding, always */
};

enum sim_kind { SIM_CHAT, SIM_LONG, SIM_SHORT, SIM_KINDS };

/* Clients that are alike. Groups with the same uid are one user's; its weight is the same in all of them. */
struct sim_group {
        uint32_t uid, weight; /* weight 0 = 1 */
        enum schedule_class class;
        uint32_t clients;
        enum sim_arrivals arrivals;
        uint32_t outstanding; /* SIM_FLOOD */
        uint64_t mean_ns;     /* SIM_OPEN: between two requests of a client; SIM_CLOSED: of thinking; 0 = none */
        uint64_t start_ns;
        uint8_t mix[SIM_KINDS]; /* parts of each kind; all zero = 7 : 1 : 2 */
        bool churn;           /* every request comes over a connection of its own */
};

struct sim_config {
        struct sim_machine machine;
        struct sim_group groups[SIM_GROUPS_MAX];
        uint32_t n_groups;
        uint64_t requests; /* the run ends when so many are done ... */
        uint64_t most_ns;  /* ... or at this time; 0 = no limit */
        uint64_t seed;
        uint64_t quantum[SCHEDULE_LEVELS]; /* 0 = the scheduler's */
        bool fifo;         /* all are taken for one client: first come, first served, as a server without fairness does it */
};

/* What a group got. */
struct sim_account {
        uint64_t done, tokens, units;
        uint64_t rows, again; /* rows of prompts, and of those the ones that had been computed before */
        uint64_t parks;
        uint64_t reached;     /* clients that had anything */
        double client_jain;   /* of what its clients were served; 0 where fewer than ten requests of each were done */
        struct sim_histogram queue, ttft, gap; /* microseconds: until its first step, until its first token, between two */
};

/* A set of sim-fair.h, and whose it is. */
struct sim_set {
        struct fair_set fair;
        enum schedule_class class;
        uint32_t uid;    /* of clients */
        uint32_t *ids;   /* [fair.n] users' uids, or clients' numbers */
};

struct sim_result {
        struct sim_account *accounts; /* [n_groups] */
        struct sim_set users[SCHEDULE_CLASSES];
        struct sim_set *clients;      /* [n_client_sets] */
        uint32_t n_client_sets;
        uint64_t elapsed_ns, steps, rows, longest_step_ns;
        uint64_t done, tokens, units, parks, again;
        uint64_t pages_lost;          /* not given back at the end: 0, or there is a defect */
};

/* 0, -ENOMEM, -EINVAL (the configuration makes no sense), or -EDEADLK (something waits and nothing can run: a defect).
 * sim_result_deinit() after success only. */
int sim_run(const struct sim_config *config, struct sim_result *ret);
void sim_result_deinit(struct sim_result *r);
