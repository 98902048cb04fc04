/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Who wants memory back, and what all of them together bring about. Everything happens once a turn: the models are looked at,
 * what is missing is taken at once (not one step after the other: whoever eats memory fast does not wait), what nobody needs any
 * more is taken back as far as there is room above the floor, and the holders hear how far it has got.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/words.h"
#include "event.h"
#include "model/engine.h"
#include "pressure.h"
#include "shed-private.h"

static const char *const step_names[] = {
        [SHED_NOTHING] = "nothing", [SHED_CACHE] = "cache",     [SHED_SESSIONS] = "sessions",
        [SHED_KV] = "kv",           [SHED_WEIGHTS] = "weights",
};

const char *shed_step_name(enum shed_step step) {
        return step_names[step];
}

/* ---- holders ---- */

int shed_new(struct shed **ret, struct manager *m, const struct shed_want *want) {
        struct shed *s = calloc(1, sizeof(*s));

        if (!s)
                return -ENOMEM;
        s->table = m->shed;
        s->want = *want;
        s->fresh = true;
        list_init(&s->link);
        list_append(&m->shed->holders, &s->link);
        manager_kick(m);
        *ret = s;
        return 0;
}

void shed_change(struct shed *s, uint64_t bytes) {
        s->want.bytes = bytes;
        s->done = false;
        s->fresh = true;
        manager_kick(s->table->manager);
}

void shed_more(struct shed *s, uint64_t bytes) {
        uint64_t others = 0, given = shed_given(s->table->manager), own, all;
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &s->table->holders)
                if (pos != &s->link)
                        others += LIST_ENTRY(pos, struct shed, link)->want.bytes;
        own = given > others ? given - others : 0;
        if (__builtin_add_overflow(own, bytes, &all))
                all = UINT64_MAX;
        shed_change(s, MAX(s->want.bytes, all));
}

struct shed *shed_free(struct shed *s) {
        if (!s)
                return NULL;
        list_remove(&s->link);
        manager_kick(s->table->manager);
        free(s);
        return NULL;
}

/* ---- sums ---- */

/* Of all that go at least so far. */
static struct shed_gain wanted(const struct shed_table *t, enum shed_step limit) {
        struct shed_gain sum = { 0 };
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, (struct list *)&t->holders) {
                const struct shed *s = LIST_ENTRY(pos, struct shed, link);

                if (s->want.limit < limit)
                        continue;
                if (__builtin_add_overflow(sum.resident, s->want.bytes, &sum.resident))
                        sum.resident = UINT64_MAX;
                if (s->want.exact && __builtin_add_overflow(sum.reserved, s->want.bytes, &sum.reserved))
                        sum.reserved = UINT64_MAX;
        }
        return sum;
}

static bool is_pressing(const struct shed_table *t) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, (struct list *)&t->holders)
                if (!LIST_ENTRY(pos, struct shed, link)->want.exact)
                        return true;
        return false;
}

enum shed_step shed_step_now(const struct manager *m) {
        return m->shed ? m->shed->step : SHED_NOTHING;
}

static struct shed_gain given_of(const struct manager *m) {
        struct shed_gain sum = { 0 };
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, (struct list *)&m->models.list) {
                struct shed_gain g = shed_plan_given(&LIST_ENTRY(pos, struct model, link)->shed.view, 1);

                sum.resident += g.resident;
                sum.reserved += g.reserved;
        }
        return sum;
}

uint64_t shed_given(const struct manager *m) {
        return given_of(m).resident;
}

uint64_t shed_pending(const struct manager *m) {
        uint64_t sum = 0;
        struct list *pos, *tmp;
        bool going = m->shed && m->shed->sessions_us && manager_now_us() - m->shed->sessions_us < SHED_SESSIONS_US;

        LIST_FOREACH(pos, tmp, (struct list *)&m->models.list) {
                const struct model *model = LIST_ENTRY(pos, struct model, link);
                const struct shed_view *v = &model->shed.view;

                sum += model->shed.flight;
                if (v->weights && model->state == MODEL_UNLOADING)
                        sum += shed_plan_given(v, 1).resident;
                else if (going)
                        sum += v->sessions_gain.resident;
        }
        return sum;
}

bool shed_has_more(const struct manager *m) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, (struct list *)&m->models.list) {
                const struct model *model = LIST_ENTRY(pos, struct model, link);

                if (model->n_segments > 0 || (model->state != MODEL_AVAILABLE && model->state != MODEL_FAILED))
                        return true;
        }
        return false;
}

uint64_t shed_bytes(const struct manager *m) {
        uint64_t kept = m->shed ? wanted(m->shed, SHED_NOTHING).reserved : 0;

        return MIN(kept, given_of(m).reserved);
}

/* ---- the turn ---- */

/* Those that go furthest first: what they take counts for the others. True where something was taken. */
static bool take(struct shed_table *t) {
        struct shed_action action;
        bool any = false;

        t->exhausted = false;
        for (enum shed_step limit = SHED_WEIGHTS; limit > SHED_NOTHING; limit--) {
                struct shed_gain want = wanted(t, limit), given;

                while (shed_plan_take(t->views, t->n, &want, limit, &t->order, &action)) {
                        shed_keep(t);
                        shed_act(t, &action, false);
                        any = true;
                }
                given = shed_plan_given(t->views, t->n);
                t->exhausted = t->exhausted || given.resident < want.resident || given.reserved < want.reserved;
        }
        return any;
}

static bool any_restores(const struct shed_table *t) {
        for (size_t i = 0; i < t->n; i++)
                if (t->models[i]->shed.restoring || (t->views[i].weights && t->models[i]->state == MODEL_UNLOADING))
                        return true;
        return false;
}

/* A model at a time: what it takes is known when it is there. */
static bool give(struct shed_table *t) {
        struct manager *m = t->manager;
        struct shed_gain want = wanted(t, SHED_NOTHING), before, after;
        struct shed_action action;
        uint64_t room, margin = pressure_margin(m->memory.floor);
        bool any = false;

        if (any_restores(t))
                return false;
        models_count_memory(m);
        room = memory_free_for_us(&m->memory);
        room -= MIN(room, margin);
        for (;;) {
                before = shed_plan_given(t->views, t->n);
                if (!shed_plan_return(t->views, t->n, &want, room, &action))
                        return any;
                after = shed_plan_given(t->views, t->n);
                room -= MIN(room, before.reserved - after.reserved);
                shed_keep(t);
                shed_act(t, &action, true);
                any = true;
                if (action.step == SHED_WEIGHTS)
                        return true;
        }
}

/* Whoever came first has what was freed first. */
static void tell(struct shed_table *t) {
        uint64_t freed = shed_given(t->manager), pending = shed_pending(t->manager);
        struct list *pos, *tmp;

        freed -= MIN(freed, pending);
        LIST_FOREACH(pos, tmp, &t->holders) {
                struct shed *s = LIST_ENTRY(pos, struct shed, link);
                uint64_t own = MIN(freed, s->want.bytes);
                bool done = own == s->want.bytes || (t->exhausted && pending == 0);

                freed -= own;
                if (!s->fresh && own == s->freed && done == s->done && t->step == s->step)
                        continue;
                s->freed = own;
                s->done = done;
                s->step = t->step;
                s->fresh = false;
                if (s->want.told)
                        s->want.told(s->want.userdata, own, t->step, done);
        }
}

static void log_step(struct shed_table *t, enum shed_step before, enum shed_step step) {
        char given[WORDS_BYTES];

        (void)words_bytes(shed_given(t->manager), given);
        if (step > before)
                event_log(EVENT_MEMORY_SHED, NULL, "memory is given back: step '%s', %s in all", shed_step_name(step), given);
        else
                event_log(EVENT_MEMORY_RESTORED, NULL, "memory is taken again: step '%s', %s are still given back",
                          shed_step_name(step), given);
}

void shed_turn(struct manager *m) {
        struct shed_table *t = m->shed;
        enum shed_step before;
        uint64_t given;

        if (!t || (list_empty(&t->holders) && t->step == SHED_NOTHING) || m->state == MANAGER_CLOSING)
                return;
        if (shed_collect(t) < 0) {
                log_error("out of memory while giving memory back");
                return;
        }
        shed_keep(t);
        before = t->step;
        given = t->given;
        if (!take(t))
                (void)give(t);
        t->step = shed_plan_step(t->views, t->n);
        shed_apply(t, memory_missing(&m->memory) > m->memory.floor / 2, is_pressing(t));
        t->given = shed_given(m);
        if (t->step != before)
                log_step(t, before, t->step);
        tell(t);
        if (t->step != before || t->given != given)
                manager_memory_changed(m);
}

/* ---- time ---- */

/* Requests that waited for a model long enough: whoever asked can do something else meanwhile. Those with an answer begun wait
 * on. */
static void refuse_waiting(struct model *model, uint64_t now_us) {
        const struct config *c = model->manager->config;
        struct list *pos, *tmp;
        struct request_error error;

        LIST_FOREACH(pos, tmp, &model->waiting) {
                struct request *r = LIST_ENTRY(pos, struct request, model_link);
                uint64_t since = MAX(r->arrived_us, model->shed.away_us);

                if (r->kind == REQUEST_UNLOAD || r->journal.n_generated > 0 || now_us < since + c->memory_wait_seconds * 1000000u)
                        continue;
                request_error_set(&error, SPARK__V1__ERROR_CODE__BUSY,
                                  "The machine is short of memory; model '%s' is loaded again when there is room.", model->name);
                error.retry_after_ms = (uint32_t)MIN(c->memory_restore_seconds * 1000u, (uint64_t)UINT32_MAX);
                request_fail(r, &error);
        }
}

void shed_tick(struct manager *m, uint64_t now_us) {
        struct list *pos, *tmp;
        bool kept = wanted(m->shed, SHED_NOTHING).reserved > 0; /* whoever has it decides what requests do */

        LIST_FOREACH(pos, tmp, &m->models.list) {
                struct model *model = LIST_ENTRY(pos, struct model, link);

                if (!kept && (model->holds & MODEL_HOLD_PRESSURE))
                        refuse_waiting(model, now_us);
        }
        if (m->shed->step != SHED_NOTHING)
                manager_kick(m); /* there may be room again */
}

/* ---- life ---- */

int shed_table_new(struct shed_table **ret, struct manager *m) {
        struct shed_table *t = calloc(1, sizeof(*t));

        if (!t)
                return -ENOMEM;
        t->manager = m;
        list_init(&t->holders);
        *ret = t;
        return 0;
}

struct shed_table *shed_table_free(struct shed_table *t) {
        if (!t)
                return NULL;
        free(t->views);
        free(t->models);
        free(t);
        return NULL;
}
