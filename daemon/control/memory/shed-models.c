/* SPDX-License-Identifier: Apache-2.0 */

/* What is known of models when memory is to be given back, and what is done to them. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "model/engine.h"
#include "model/load.h"
#include "model/model-keep.h"
#include "session/session.h"
#include "shed-private.h"

#define KV_LEAST 8u /* a pool works with one part in so many: what runs is parked, and goes on one after the other */

/* ---- what is known ---- */

static void view_engine(struct shed_view *v, const struct model *model) {
        const struct engine *e = model->engine;
        uint64_t kv = model_kv_is_away(model) ? 0 : model->facts.kv_bytes;

        if (v->kv != kv) { /* another one than before */
                v->kv = v->kv_limit = kv;
                v->kv_gain = (struct shed_gain){ 0 };
        }
        v->fixed = model->image_bytes + model->facts.other_bytes;
        v->image = model->image_bytes;
        v->kv_least = kv / KV_LEAST;
        if (kv == 0)
                return;
        v->kv_used = e->kv_used;
        v->kv_cached = e->kv_cached;
        v->kv_resident = MAX(e->kv_resident, e->kv_used + e->kv_cached);
        v->kv_sessions = sessions_idle_kv(model->manager->sessions, model);
}

static void view_promised(struct shed_view *v, uint64_t image, uint64_t other, uint64_t kv) {
        v->fixed = image + other;
        v->image = image;
        v->kv = v->kv_limit = v->kv_least = kv; /* it can only go with the weights */
        v->kv_resident = v->kv_used = v->kv_cached = v->kv_sessions = 0;
}

/* A part that is loaded again goes as the load does; what was there of the image may stay. */
static void view_load(struct shed_view *v, const struct model *model) {
        const struct load *load = model->load;

        view_promised(v, model->image_bytes, load ? load->image_bytes + load->plan.engine : 0, load ? load->plan.kv : 0);
}

static void view_fill(struct model *model) {
        struct shed_view *v = &model->shed.view;

        v->idle = list_empty(&model->active) && list_empty(&model->waiting);
        v->pinned = model->residency.resident == CONFIG_RESIDENT_ALWAYS || model->residency.holders > 0;
        v->used_us = model->residency.used_us;
        v->there = !v->weights &&
                   (model->state == MODEL_LOADING || model->state == MODEL_STARTING || model->state == MODEL_READY);
        model->shed.known = true;
        v->segment_bytes = model->segment_bytes;
        v->n_segments = model_has_parts(model) ? model->n_segments : 0; /* 0 after it went in another way, too */
        if (!v->there) {
                if (!v->weights)
                        shed_plan_reset(v); /* it went in another way */
                return;
        }
        v->away = model->missing;
        if (model->state == MODEL_LOADING)
                view_load(v, model);
        else if (model->state == MODEL_STARTING || !model->engine)
                view_promised(v, model->image_bytes, model->engine_promised, model->kv_promised);
        else
                view_engine(v, model);
        if (model->engine && !engine_resizes(model->engine))
                model->shed.flight = 0;
}

static int make_room(struct shed_table *t, size_t n) {
        struct shed_view *views;
        struct model **models;

        if (n <= t->cap)
                return 0;
        views = reallocarray(t->views, n, sizeof(*views));
        if (!views)
                return -ENOMEM;
        t->views = views;
        models = reallocarray(t->models, n, sizeof(struct model *));
        if (!models)
                return -ENOMEM;
        t->models = models;
        t->cap = n;
        return 0;
}

int shed_collect(struct shed_table *t) {
        struct list *pos, *tmp;
        size_t n = 0;

        LIST_FOREACH(pos, tmp, &t->manager->models.list)
                n++;
        t->n = 0;
        if (make_room(t, n) < 0)
                return -ENOMEM;
        LIST_FOREACH(pos, tmp, &t->manager->models.list) {
                struct model *model = LIST_ENTRY(pos, struct model, link);

                view_fill(model);
                t->models[t->n] = model;
                t->views[t->n++] = model->shed.view;
        }
        return 0;
}

/* What engines are about to free for this turn's steps is on its way until they say so. */
void shed_keep(struct shed_table *t) {
        for (size_t i = 0; i < t->n; i++) {
                struct shed_view *old = &t->models[i]->shed.view, *new = &t->views[i];
                uint64_t before = old->cache_gain.resident + old->kv_gain.resident,
                         after = new->cache_gain.resident + new->kv_gain.resident;

                if (after > before && !new->weights && t->models[i]->engine)
                        t->models[i]->shed.flight += after - before;
                *old = *new;
        }
}

void shed_engine_resized(struct engine *e, uint64_t freed) {
        struct shed_model *s = &e->model->shed;
        struct shed_gain *gains[] = { &s->view.kv_gain, &s->view.cache_gain };
        uint64_t less = s->flight > freed ? s->flight - freed : 0;

        if (freed > s->flight)
                s->view.cache_gain.resident += freed - s->flight;
        for (size_t i = 0; i < 2; i++) { /* it was less than reckoned */
                uint64_t part = MIN(less, gains[i]->resident);

                gains[i]->resident -= part;
                less -= part;
        }
        s->flight = 0;
        manager_kick(e->manager);
}

/* ---- what is done ---- */

/* The views are the models', so that a record of it says what is the case. */
static void act_weights(struct model *model, uint64_t segments) {
        struct shed_view *v = &model->shed.view;

        model->shed.restoring = false;
        if (!(model->holds & MODEL_HOLD_PRESSURE))
                model->shed.away_us = manager_now_us();
        model->shed.flight = 0;
        if (!model_give_back_part(model, MODEL_HOLD_PRESSURE, segments))
                (void)shed_plan_part(v, SHED_WHOLE); /* more than was reckoned */
        model_keep_away(model);
}

static void return_weights(struct model *model) {
        model->shed.restoring = true;
        model->shed.away_us = model->shed.flight = 0;
        model_release(model, MODEL_HOLD_PRESSURE);
}

void shed_adopt(struct model *model, struct shed_gain given) {
        struct shed_table *t = model->manager->shed;
        struct shed_view *v = &model->shed.view;
        uint64_t missing = model_missing_bytes(model);

        *v = (struct shed_view){ .weights = true, .image = model->image_bytes + missing, .image_gain = missing,
                                 .away = model->missing, .order = ++t->order };
        v->fixed = v->image;
        v->weights_gain.resident = MAX(given.resident, missing);
        v->weights_gain.reserved = MAX(given.reserved, missing);
        model->shed.known = true;
        model->shed.away_us = manager_now_us();
        t->step = SHED_WEIGHTS;
        model_hold(model, MODEL_HOLD_PRESSURE);
}

void shed_act(struct shed_table *t, const struct shed_action *action, bool back) {
        switch (action->step) {
        case SHED_WEIGHTS:
                if (back)
                        return_weights(t->models[action->model]);
                else
                        act_weights(t->models[action->model], action->segments);
                t->views[action->model] = t->models[action->model]->shed.view;
                return;
        case SHED_SESSIONS:
                t->sessions_us = back ? 0 : manager_now_us();
                return;
        case SHED_CACHE:
        case SHED_KV:
        case SHED_NOTHING:
                return; /* engines are told by shed_apply() */
        }
}

static void apply_to_engine(struct shed_view *v, struct engine *e, bool urgent) {
        uint64_t cache = !v->cache ? UINT64_MAX : urgent ? 0 : v->kv_sessions;

        if (v->kv == 0) /* there is none, or not in the host's memory */
                return;
        engine_limit_kv(e, cache, v->kv_limit < v->kv ? v->kv_limit : UINT64_MAX);
}

/* What is not there is not loaded while memory is so short that weights went. */
static void hold_others(struct model *model, bool hold) {
        if (model->shed.view.weights || model->shed.restoring)
                return;
        if (!hold)
                model_release(model, MODEL_HOLD_PRESSURE);
        else if (model->state == MODEL_AVAILABLE || model->state == MODEL_FAILED)
                model_hold(model, MODEL_HOLD_PRESSURE);
}

void shed_apply(struct shed_table *t, bool urgent, bool pressing) {
        bool sessions = false;

        for (size_t i = 0; i < t->n; i++) {
                struct model *model = t->models[i];

                sessions = sessions || model->shed.view.sessions;
                if (model->shed.restoring && (model->state == MODEL_READY || model->state == MODEL_FAILED ||
                                              (model->state == MODEL_AVAILABLE && !model->load_wanted)))
                        model->shed.restoring = false;
                if (model->state == MODEL_READY && model->engine)
                        apply_to_engine(&model->shed.view, model->engine, urgent);
                hold_others(model, pressing && t->step == SHED_WEIGHTS);
        }
        if (sessions || t->sessions_us)
                (void)sessions_put_away(t->manager->sessions, sessions);
}
