/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Which models make room for another one: a pure function over what is known of each. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum residency_standing {
        RESIDENCY_GONE,   /* takes nothing */
        RESIDENCY_GOING,  /* is being unloaded already */
        RESIDENCY_STAYS,  /* whatever comes */
        RESIDENCY_LATER,  /* cannot go now: in use, or here for too short a time */
        RESIDENCY_IDLE,   /* may go */
};

struct residency_view {
        enum residency_standing standing;
        uint64_t bytes;   /* that it takes, all of which come free when it goes */
        uint64_t used_us; /* when it was used last */
        bool evict;       /* the answer: it has to go */
};

/* What is missing. */
struct residency_lack {
        uint64_t bytes;
        size_t models;
};

enum residency_verdict {
        RESIDENCY_ROOM,  /* nothing is missing */
        RESIDENCY_SOON,  /* as soon as those are gone that are going, or are to be evicted */
        RESIDENCY_WAIT,  /* when those that cannot go now can: none is evicted for nothing */
        RESIDENCY_NEVER, /* not even then */
};

/* Marks those that have to go: the least recently used first, and none without which it is enough, too. */
enum residency_verdict residency_choose(struct residency_view *views, size_t n, const struct residency_lack *lack);
