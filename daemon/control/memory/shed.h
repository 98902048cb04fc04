/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Gives memory back, in the documented order, and takes it again: the prefix caches, idle sessions' KV (to disk, where the
 * session is persistent), the KV pools, at last the weights of models. Who wants memory back holds a struct shed; each
 * step stays taken as long as somebody holds one that needs it, and is reversed when nobody does any more. Memory
 * pressure is such a holder, and so is every lease.
 *
 * Owned by whoever asked. Everything is asynchronous; `told` is called from the loop, never from within shed_new().
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/macro.h"
#include "shed-plan.h"

struct manager;
struct engine;
struct model;
struct shed;
struct shed_table;

struct shed_want {
        uint64_t bytes;        /* to be given back in all */
        enum shed_step limit;  /* no further than this */
        /* They are kept for whoever asked, to the last byte: admission does without them, and what was only promised to ourselves
         * (a pool that nobody filled) counts as ours, too. Else what leaves the host's memory counts, and nothing is kept. */
        bool exact;
        /* How far it has got, and, with done set, that no more will come. */
        void (*told)(void *userdata, uint64_t freed, enum shed_step step, bool done);
        void *userdata;
};

/* 0 or -ENOMEM. */
int shed_new(struct shed **ret, struct manager *m, const struct shed_want *want);
/* More or less is wanted by now. */
void shed_change(struct shed *s, uint64_t bytes);
/* So many bytes more than were, or are about to be, given back by now. */
void shed_more(struct shed *s, uint64_t bytes);
/* What it held back may be taken again: as there is room above the floor, the last first. */
struct shed *shed_free(struct shed *s);
DEFINE_CLEANUP(struct shed *, shed_free)

/* What all holders together have brought about. */
enum shed_step shed_step_now(const struct manager *m);
const char *shed_step_name(enum shed_step step);
/* Bytes that are given away at the moment, and must not be taken: admission counts them as used. */
uint64_t shed_bytes(const struct manager *m);
/* Bytes that left the host's memory, or are about to. */
uint64_t shed_given(const struct manager *m);
/* Bytes that are about to leave it. */
uint64_t shed_pending(const struct manager *m);

/* Whether anything is left that could be given back, or is about to be. */
bool shed_has_more(const struct manager *m);

/* The manager's. 0 or -ENOMEM. */
int shed_table_new(struct shed_table **ret, struct manager *m);
/* All holders must have gone. */
struct shed_table *shed_table_free(struct shed_table *t);
/* Once a turn: takes, gives, and tells. */
void shed_turn(struct manager *m);
/* Once a second. */
void shed_tick(struct manager *m, uint64_t now_us);
/* The model is one that gave so much back in an earlier process, where a part of its image stayed: it stays so for those who have the
 * memory, and comes back as others do where nobody has it any more. */
void shed_adopt(struct model *model, struct shed_gain given);
/* An engine has answered a Resize. */
void shed_engine_resized(struct engine *e, uint64_t freed);
