/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A group of the scheduler's tree, shared by who comes and goes (schedule.c) and whose turn it is (schedule-turn.c). */

#include "base/macro.h"
#include "schedule.h"

#define SCHEDULE_SCALE 65536u /* of v: units per weight, fixed point */

struct schedule_group {
        struct schedule_node node;
        struct schedule_group *next; /* in its bucket */
        struct schedule_user *user;  /* of a user's group and of what is below it */
        struct heap waiting, lingering;
        size_t n_children;           /* requests and groups right below, lingering ones included */
        size_t n_requests;           /* below, in any state */
        uint64_t id;
        uint64_t frontier;           /* highest v of a child so far, without its bias */
        enum schedule_level level;   /* of its children */
};

static inline struct schedule_group *group_of(struct schedule_node *n) {
        return CONTAINER_OF(n, struct schedule_group, node);
}

static inline struct schedule_node *waiting_of(struct heap_node *n) {
        return n ? CONTAINER_OF(n, struct schedule_node, waiting) : NULL;
}

/* A running request would have to make way for one of its own class. */
bool schedule_is_ahead(const struct schedule *s, struct schedule_request *r);
