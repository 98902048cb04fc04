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

struct manager;
struct shed;

enum shed_step {
        SHED_NOTHING,
        SHED_CACHE,    /* prefix caches are emptied and kept small */
        SHED_SESSIONS, /* idle sessions' KV goes to disk */
        SHED_KV,       /* the KV pools shrink to what running requests hold, then below */
        SHED_WEIGHTS,  /* models are unloaded: idle ones first, the least recently used first, then those in use; requests for them wait */
};

struct shed_want {
        uint64_t bytes;        /* to be given back in all */
        enum shed_step limit;  /* no further than this */
        bool exact;            /* of SHED_KV and SHED_WEIGHTS no more than is needed */
        /* How far it has got, and, with done set, that no more will come. */
        void (*told)(void *userdata, uint64_t freed, enum shed_step step, bool done);
        void *userdata;
};

/* 0 or -ENOMEM. */
int shed_new(struct shed **ret, struct manager *m, const struct shed_want *want);
/* More or less is wanted by now. */
void shed_change(struct shed *s, uint64_t bytes);
/* What it held back may be taken again. */
struct shed *shed_free(struct shed *s);
DEFINE_CLEANUP(struct shed *, shed_free)

/* What all holders together have brought about. */
enum shed_step shed_step_now(const struct manager *m);
const char *shed_step_name(enum shed_step step);
/* Bytes that are given away at the moment, and must not be taken: admission counts them as used. */
uint64_t shed_bytes(const struct manager *m);
