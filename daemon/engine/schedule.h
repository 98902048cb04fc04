/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Who runs, and who gets rows in a step: pure code over numbers that it is told, no clock, no model, so that a simulator
 * and the property tests run it as the engine does. docs/scheduling.md derives the bounds that stand here.
 *
 * A tree: priority classes, in each its users, in each their clients (connections), in each their requests. Every node
 * has a virtual service v: what it was served, in units (rows, weighted by what they cost), divided by its weight. The
 * waiting child with the least v comes next; among a client's requests the one that came first. A child that begins to
 * wait starts at the v of the least that waits already, so that nobody saves up for later; where none waits, at the highest
 * of all, so that nobody pays for having been alone. A connection that is new takes over how far one that has gone was
 * ahead, so that nobody gains by coming and going.
 * That is start-time fair queueing (Goyal, Vin, Cheng 1996) on tokens actually served (Sheng et al. 2024), in a hierarchy.
 *
 * A request waits for one of max_running slots, or runs, or is idle (paused: it wants nothing). What runs keeps its slot
 * until it ends, is parked for want of memory, or a sibling at some level of the tree has fallen behind by more than that
 * level's quantum and waits: then it has to make way. So between two steps nothing runs that is further ahead of a waiting
 * sibling than the quantum, and, since one step serves at most schedule_step_max() units:
 *
 *   of the children of a user or of a class that have something waiting, no two virtual services differ by more than
 *   quantum + schedule_step_max() / weight, and what two were served while both had something waiting by no more than
 *   twice that.
 *
 * Classes have weights far apart, and a higher one counts as behind by a quantum: it gets the slot of a lower one at once,
 * and the lower one gets what is left, and of a fully loaded engine its weight's part, which is never nothing: a slot when it is
 * behind, and another one for each quarter of a quantum more.
 *
 * Requests of one client take turns: one that has generated for a quantum makes way for those that wait, and stands behind
 * them. What had to make way before that for another client's or user's goes on before its client's younger ones.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/heap.h"
#include "base/list.h"
#include "schedule-pace.h"

enum schedule_class {
        SCHEDULE_BACKGROUND = 0,
        SCHEDULE_NORMAL = 1,
        SCHEDULE_INTERACTIVE = 2,
        SCHEDULE_CLASSES = 3,
};

enum schedule_level { SCHEDULE_CLASS, SCHEDULE_USER, SCHEDULE_CLIENT, SCHEDULE_REQUEST, SCHEDULE_LEVELS };

#define SCHEDULE_WEIGHT_MAX 10000u
#define SCHEDULE_PREFILL_COST 1u /* units of a prompt's row ... */
#define SCHEDULE_DECODE_COST 2u  /* ... and of a row that decodes: it shares the reading of the weights with fewer */

/* Zero means the default everywhere. */
struct schedule_config {
        uint32_t max_running;
        uint32_t max_rows;                          /* of a step */
        uint32_t class_weight[SCHEDULE_CLASSES];    /* 2, 16, 64 */
        uint64_t quantum[SCHEDULE_LEVELS];          /* units per weight; 1024, 16384, 16384, 8192 */
};

struct schedule_group;

struct schedule_node {
        struct heap_node waiting; /* among the parent's children that have something waiting, by v; a group without
                                   * requests: among those that linger */
        struct schedule_group *parent;
        uint64_t v;               /* fixed point, bias included; of a request: what it generated of its turn */
        uint64_t bias;            /* of a class */
        uint32_t weight, rest;    /* rest: of the last division by the weight */
        uint32_t n_running;       /* requests below (or this one) that hold a slot */
        bool fresh;               /* waits, had nothing at all before, and has got no slot since */
};

/* A user, over all classes. Lives as long as anything of it does. */
struct schedule_user {
        struct schedule_user *next; /* in its bucket */
        struct schedule_group *groups[SCHEDULE_CLASSES];
        uint32_t uid;
        uint32_t n_running, n_waiting, n_idle;
        uint32_t running_limit; /* 0 = none */
        bool blocked;           /* nothing of it may start: at its limit, or held by schedule_hold() */
        bool held;
        uint64_t pages;         /* for whoever counts them */
};

enum schedule_state { SCHEDULE_NEW, SCHEDULE_WAITING, SCHEDULE_RUNNING, SCHEDULE_IDLE };

struct schedule_request {
        struct schedule_node node;
        struct list suspended; /* among those that made way without being ahead */
        struct schedule_user *user;
        enum schedule_state state;
        enum schedule_class class;
        size_t slot;     /* place among the running */
        /* Of the next step; set by the owner for what runs, before schedule_rows(). */
        uint32_t want;   /* rows it could use: 1 = decoding or a prompt's last row, more = a prompt's rest, 0 = none */
        bool decoding;   /* has generated already: somebody watches its tokens come */
        bool all_logits; /* every row needs logits, not just the last one */
        uint32_t rows;   /* out */
};

struct schedule_who {
        uint32_t uid;
        uint64_t client;
        enum schedule_class class;
        uint32_t weight;        /* of the user; 1 .. SCHEDULE_WEIGHT_MAX, 0 = 1 */
        uint32_t running_limit; /* of the user; 0 = none */
};

struct schedule {
        struct schedule_config config;
        struct schedule_group *root;
        struct schedule_user **users;     /* buckets */
        struct schedule_group **groups;   /* buckets, by parent and id */
        size_t n_users, user_buckets, n_groups, group_buckets;
        struct schedule_request **running; /* [max_running] */
        struct list suspended;
        uint32_t n_running, n_waiting, n_idle;
        uint32_t slots; /* of max_running, that are given out */
        uint64_t arrivals;
};

int schedule_init(struct schedule *s, const struct schedule_config *config); /* 0 or -ENOMEM */
void schedule_deinit(struct schedule *s);

/* It comes, and waits. 0 or -ENOMEM. The request must stay where it is until schedule_remove(). */
int schedule_add(struct schedule *s, struct schedule_request *r, const struct schedule_who *who);
/* It goes, from whatever state. */
void schedule_remove(struct schedule *s, struct schedule_request *r);

/* The waiting request that comes next, NULL where there is none (or none that its user's limits let run). */
struct schedule_request *schedule_next(const struct schedule *s);
static inline bool schedule_has_slot(const struct schedule *s) {
        return s->n_running < s->slots;
}
/* So many slots from now on, at least 1, at most max_running. Where more run, the caller has some make way. */
void schedule_limit(struct schedule *s, uint32_t slots);
/* From waiting to running; there must be a slot. */
void schedule_start(struct schedule *s, struct schedule_request *r);
/* From running to waiting: parked, for want of memory. */
void schedule_park(struct schedule *s, struct schedule_request *r);
/* ... for another one, as schedule_swap() says. Where that wasn't for being ahead, but for a higher class or a newcomer, it
 * goes on as soon as its class has a slot again, before those that have not begun. */
void schedule_make_way(struct schedule *s, struct schedule_request *r);
/* Wants nothing for now; gives up its slot. And wants again: it waits. */
void schedule_pause(struct schedule *s, struct schedule_request *r);
void schedule_wake(struct schedule *s, struct schedule_request *r);

/* True where a running request has to make way for a waiting one (both are given): at the level at which they part, the
 * waiting side is behind by more than the quantum; or it had nothing until it came and has got no slot yet, and the other side
 * is not behind it and has more than one; or it is a higher class, or a lower one that is behind its weight's part; or they
 * are the same client's, and the running one's turn is over. */
bool schedule_swap(const struct schedule *s, struct schedule_request **ret_victim, struct schedule_request **ret_next);
/* Of the running requests (of one user, or of all: NULL) the one that is furthest ahead: the first to be parked for want of
 * memory. NULL where there is none. */
struct schedule_request *schedule_worst(const struct schedule *s, const struct schedule_user *user);

/* Nothing of the user starts while it is held (for a limit that the caller counts). */
void schedule_hold(struct schedule *s, struct schedule_user *user, bool hold);
/* NULL where nothing of that uid is there. */
struct schedule_user *schedule_find_user(const struct schedule *s, uint32_t uid);

/* It was served: rows of this step. */
void schedule_charge(struct schedule *s, struct schedule_request *r, uint32_t rows);
/* The most units that one step can serve, to one or to all. */
uint64_t schedule_step_max(const struct schedule *s);
/* Virtual service of a node in units, and the node above (a request's client, its user, its class), for tests and for
 * people. */
double schedule_service(const struct schedule_node *node);
const struct schedule_node *schedule_parent(const struct schedule_node *node);

/* Brings the running requests into order, furthest behind first. */
void schedule_sort(struct schedule *s);

/* --- a step (schedule-step.c) ------------------------------------------------------------------------------------ */

struct schedule_limits {
        uint32_t max_rows;
        uint32_t max_logits;   /* rows that can have logits */
        uint32_t target_us;    /* wanted gap between two tokens of a running stream; 0 = none */
        const struct schedule_pace *pace;
};

/* Shares a step out among the running requests: sets their `rows`, returns the sum. What decodes gets its row; prompts
 * share what is left, the one furthest behind first, as long as the step stays within the target where anything decodes
 * (within twice that where nothing does), or within half as long again as decoding alone takes (thrice a step of one row
 * where nothing decodes); a sixteenth of the target where only background prompts are read, since whoever comes meanwhile
 * waits for that step. While a request waits for its first token, rows of classes below its own may make
 * that step longer by a quarter, or by one row; unless such a class has fallen behind its weight's part, and is served
 * first. */
uint32_t schedule_rows(struct schedule *s, const struct schedule_limits *limits);
