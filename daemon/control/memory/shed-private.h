/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What giving memory back shares: who wants it and how far it has got (shed.c), what is done to models (shed-models.c). */

#include "base/list.h"
#include "manager.h"
#include "shed.h"

#define SHED_SESSIONS_US 1000000u /* so long idle sessions may take to go to disk before more is taken */

struct shed {
        struct shed_table *table;
        struct list link;
        struct shed_want want;
        uint64_t freed;    /* as it was told last */
        enum shed_step step;
        bool done, fresh;  /* fresh: something is to be told whatever it is */
};

struct shed_table {
        struct manager *manager;
        struct list holders;      /* struct shed, the oldest first */
        uint64_t order;
        struct shed_view *views;  /* of this turn */
        struct model **models;
        size_t n, cap;
        enum shed_step step;
        uint64_t given;           /* as of the last turn: resident bytes */
        uint64_t sessions_us;     /* since when sessions are to go to disk */
        bool exhausted;           /* somebody wants more than there is */
};

/* Fills views and models. 0 or -ENOMEM. */
int shed_collect(struct shed_table *t);
/* Writes the views back to the models. */
void shed_keep(struct shed_table *t);
/* What an action that the views show as taken, or as taken back, means. */
void shed_act(struct shed_table *t, const struct shed_action *action, bool back);
/* Tells engines how much KV they may have now, and holds models back or lets them go. urgent: sessions' KV that is not on disk is
 * dropped. pressing: nothing is loaded meanwhile. */
void shed_apply(struct shed_table *t, bool urgent, bool pressing);
