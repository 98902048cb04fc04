/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The simulator's state, shared by its clients (sim-run.c) and its machine (sim-machine.c). */

#include "base/heap.h"
#include "base/list.h"
#include "base/macro.h"
#include "sim.h"

#define SIM_PAGE_TOKENS 32u /* as the engine's */
#define SIM_NOBODY UINT32_MAX

struct sim_client {
        struct heap_node event;  /* when it sends its next request */
        uint64_t units;
        uint32_t n_requests;     /* so far: numbers its draws */
        uint32_t group;
        uint32_t watched;        /* its node in its group's set of clients, SIM_NOBODY where it isn't */
};

struct sim_request {
        struct schedule_request turn;
        struct list link;       /* parked with pages, or free */
        struct sim_client *client;
        uint32_t n_prompt, limit; /* tokens: of the prompt, and at most of the answer */
        uint32_t n_tokens, n_past; /* that it has, and that the KV cache holds of them */
        uint32_t n_computed;    /* the most that n_past ever was */
        uint32_t pages;
        uint64_t arrived, last; /* ns; its latest token, 0 before the first */
        bool started;
};

/* What a group's clients share. */
struct sim_place {
        struct sim_account *account;
        struct sim_set *users, *clients;
        uint32_t user;          /* its node among users */
};

struct sim {
        const struct sim_config *config;
        struct sim_result *result;
        struct sim_place places[SIM_GROUPS_MAX];
        struct schedule schedule;
        struct schedule_pace pace;
        struct schedule_limits limits;
        uint64_t now; /* ns */
        struct heap events;
        struct sim_client *clients; /* [n_clients] */
        uint32_t n_clients;
        uint64_t connections;   /* of churning clients */
        struct list parked, free;
        struct list slabs;      /* of requests */
        uint64_t pages_free;
};

/* --- the machine (sim-machine.c) --- */

/* A request comes. 0 or -ENOMEM. */
int sim_submit(struct sim *m, struct sim_client *c, uint32_t n_prompt, uint32_t limit, uint64_t arrived);
/* One step; *ret_rows = 0: there was nothing to do. 0 or negative. */
int sim_step(struct sim *m, uint32_t *ret_rows);
void sim_drop(struct sim *m, struct sim_request *r);

/* --- the clients (sim-run.c) --- */

/* A request of the client has been answered. 0 or negative. */
int sim_answered(struct sim *m, struct sim_client *c);
