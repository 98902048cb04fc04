/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Where leases have memory from: models give all of theirs back, idle ones first, of these the least recently used first, until
 * what all leases want together is there.
 */

#include <errno.h>
#include <stdlib.h>

#include "base/list.h"
#include "lease.h"
#include "manager.h"

#define LOOK_US (20u * 1000u) /* while models go */

struct shed {
        struct manager *manager;
        struct list link; /* manager->residency.lenders */
        struct shed_want want;
        sd_event_source *timer;
        bool done;
};

static uint64_t wanted(const struct manager *m) {
        struct list *pos, *tmp;
        uint64_t sum = 0;

        LIST_FOREACH(pos, tmp, (struct list *)&m->residency.lenders)
                sum += LIST_ENTRY(pos, struct shed, link)->want.bytes;
        return sum;
}

static uint64_t given(const struct manager *m, bool *ret_going) {
        struct list *pos, *tmp;
        uint64_t sum = 0;

        *ret_going = false;
        LIST_FOREACH(pos, tmp, (struct list *)&m->models.list) {
                const struct model *model = LIST_ENTRY(pos, struct model, link);

                if (!(model->holds & MODEL_HOLD_LEASE))
                        continue;
                sum += model->residency.lent;
                *ret_going = *ret_going || model->state == MODEL_UNLOADING;
        }
        return sum;
}

static struct model *next_model(struct manager *m) {
        struct model *best = NULL;
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &m->models.list) {
                struct model *model = LIST_ENTRY(pos, struct model, link);
                bool idle = model->refs == 0;

                if (model->holds & MODEL_HOLD_LEASE || residency_bytes(model) == 0)
                        continue;
                if (!best || idle > (best->refs == 0) ||
                    (idle == (best->refs == 0) && model->residency.used_us < best->residency.used_us))
                        best = model;
        }
        return best;
}

/* Takes and gives back what has become too little or too much. */
static void balance(struct manager *m) {
        uint64_t want = wanted(m), have;
        struct list *pos, *tmp;
        struct model *model;
        bool going;

        while ((have = given(m, &going)) < want && (model = next_model(m))) {
                model->residency.lent = residency_bytes(model);
                model_give_back(model, MODEL_HOLD_LEASE);
        }
        LIST_FOREACH(pos, tmp, &m->models.list) {
                model = LIST_ENTRY(pos, struct model, link);
                have = given(m, &going);
                if (!(model->holds & MODEL_HOLD_LEASE) || have - model->residency.lent < want)
                        continue;
                model->residency.lent = 0;
                model_release(model, MODEL_HOLD_LEASE);
        }
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        struct shed *s = userdata;
        uint64_t others = wanted(s->manager) - s->want.bytes, have;
        bool going;

        have = given(s->manager, &going);
        s->done = !going;
        s->want.told(s->want.userdata, going ? 0 : MIN(have > others ? have - others : 0, have), SHED_WEIGHTS, s->done);
        if (s->done)
                return 0;
        (void)sd_event_source_set_time_relative(source, LOOK_US);
        return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

static int weights_begin(struct shed **ret, struct manager *m, const struct shed_want *want) {
        struct shed *s = calloc(1, sizeof(*s));

        if (!s)
                return -ENOMEM;
        s->manager = m;
        s->want = *want;
        list_append(&m->residency.lenders, &s->link);
        if (sd_event_add_time_relative(m->event, &s->timer, CLOCK_MONOTONIC, 0, 1000, on_timer, s) < 0) {
                list_remove(&s->link);
                free(s);
                return -ENOMEM;
        }
        balance(m);
        *ret = s;
        return 0;
}

static struct shed *weights_end(struct shed *s) {
        if (!s)
                return NULL;
        list_remove(&s->link);
        s->timer = sd_event_source_disable_unref(s->timer);
        balance(s->manager);
        free(s);
        return NULL;
}

static uint64_t weights_bytes(const struct manager *m) {
        bool going;

        return MIN(wanted(m), given(m, &going));
}

const struct lease_source lease_source_weights = { .begin = weights_begin, .end = weights_end, .bytes = weights_bytes };
