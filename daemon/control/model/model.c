/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "aside.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/words.h"
#include "engine.h"
#include "event.h"
#include "load.h"
#include "manager.h"
#include "memory/lease.h"
#include "model-keep.h"
#include "model-private.h"
#include "model.h"
#include "power/power.h"
#include "session/session.h"

#define FAILED_REST_US (5u * 1000000u)      /* a model that failed is not tried again by ordinary requests for so long */

void model_set_state(struct model *model, enum model_state state) {
        if (model->state == state)
                return;
        model->state = state;
        residency_moved(model);
        log_debug("model '%s' is %s", model->name, model_state_name(model));
        manager_model_changed(model->manager, model, false);
        model_kick(model);
}

const char *model_state_name(const struct model *model) {
        static const char *const names[] = {
                [MODEL_AVAILABLE] = "available", [MODEL_LOADING] = "loading",       [MODEL_STARTING] = "starting",
                [MODEL_READY] = "ready",         [MODEL_UNLOADING] = "available", [MODEL_FAILED] = "failed",
        };

        const char *kept = power_model_state(model->manager->power, model);

        return kept ? kept : names[model->state];
}

void model_close_segments(const struct model *model, int *fds, size_t n) {
        if (!model->engine) {
                aside_close(fds, n);
                return;
        }
        for (size_t i = 0; i < n; i++) /* its engine has them mapped: nothing is freed yet */
                fds[i] = fd_close(fds[i]);
}

void model_close_image(struct model *model) {
        model_keep_gone(model);
        model_close_segments(model, model->segments, model->n_segments);
        model->n_segments = 0;
        model->missing = model->kept = 0;
}

void model_drop_image(struct model *model) {
        model_close_image(model);
        model->image_bytes = 0;
        model->plan = (struct plan){ 0 };
        model->kv_promised = model->engine_promised = 0;
}

struct model *model_free(struct model *model) {
        if (!model)
                return NULL;
        model->load = load_free(model->load);
        model->engine = engine_discard(model->engine);
        model->restart_timer = sd_event_source_disable_unref(model->restart_timer);
        model_drop_image(model);
        model->input_fd = fd_close(model->input_fd);
        list_remove(&model->link);
        list_remove(&model->kick_link);
        free(model->path);
        free(model);
        return NULL;
}
struct model *model_new(struct manager *m, const char *name, const char *path) {
        _cleanup_(model_freep) struct model *model = calloc(1, sizeof(*model));

        if (!model)
                return NULL;
        model->manager = m;
        model->input_fd = -1;
        list_init(&model->link);
        list_init(&model->kick_link);
        list_init(&model->waiting);
        list_init(&model->active);
        (void)snprintf(model->name, sizeof(model->name), "%s", name);
        model->path = strdup(path);
        if (!model->path)
                return NULL;
        residency_configure(model, NULL);
        list_append(&m->models.list, &model->link);
        return steal_ptr(&model);
}

/* ---- moving on ---- */

void model_kick(struct model *model) {
        if (list_empty(&model->kick_link))
                list_append(&model->manager->models.kicked, &model->kick_link);
        manager_kick(model->manager);
}

static void fail_all(struct list *requests, const struct request_error *error) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, requests)
                request_fail(LIST_ENTRY(pos, struct request, model_link), error);
}

void model_fail(struct model *model, enum event event, const struct request_error *error) {
        event_log(event, model->name, "model '%s': %s", model->name, error->text);
        model->error = *error;
        model->failed_us = manager_now_us();
        model->load_wanted = false;
        model_drop_image(model);
        fail_all(&model->active, error);
        fail_all(&model->waiting, error);
        leases_model_failed(model->manager->leases, model, error);
        model_set_state(model, MODEL_FAILED);
        residency_failed(model, error);
}

/* Coded weights are the same bits: one who asks for them decides for all who wait. */
static bool lossless_is_wanted(const struct model *model) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, (struct list *)&model->waiting)
                if (LIST_ENTRY(pos, struct request, model_link)->lossless)
                        return true;
        return model->lossless_configured;
}

int model_check_lossless(const struct model *model, struct request_error *error) {
        bool coded = model->lossless || model->plan.weights.coded.params > 0;

        if (coded || model->state == MODEL_AVAILABLE || model->state == MODEL_FAILED || model->state == MODEL_UNLOADING)
                return 0;
        request_error_set(error, SPARK__V1__ERROR_CODE__BUSY,
                          "Model '%s' is %s with its weights as they are in the file; unload it (`sparkctl unload %s`), then "
                          "load it with coded ones.", model->name, model->state == MODEL_READY ? "loaded" : "being loaded",
                          model->name);
        return REQUEST_E_REFUSED;
}

/* Whether weights are copied to a device, as far as is known: they can be while the image is still being written. */
static bool model_copies_weights(const struct model *model) {
        const struct config *c = model->manager->config;

        if (strcmp(c->backend, "cuda") != 0 && strcmp(c->backend, "auto") != 0)
                return false;
        return strcmp(c->cuda_placement, "device") == 0 ||
               (strcmp(c->cuda_placement, "auto") == 0 && model->manager->weights_are_copied);
}

void model_load_arrived(struct model *model, uint32_t tensors) {
        int r;

        if (!model->engine && !model->early_tried && !model->missing && model_copies_weights(model)) {
                model->early_tried = true;
                r = engine_start(&model->engine, model);
                if (r < 0)
                        log_warning("model '%s': no engine can be started before it is loaded: %s", model->name, strerror(-r));
        }
        if (model->engine)
                engine_tell_image(model->engine, tensors, false);
}

static void model_start(struct model *model) {
        struct request_error error;
        int r = 0;

        if (!residency_admits(model))
                return;
        if (!model->missing) /* else as what is there */
                model->lossless = lossless_is_wanted(model);
        model->deaths_in_row = model->start_failures = 0;
        model->early_tried = false;
        model->load_began_us = manager_now_us();
        if (model->n_segments > 0 && !model->missing) { /* only its engine went */
                model->kv_promised = model->plan.kv;
                model->engine_promised = model->plan.engine;
        }
        if (config_is_null_backend(model->manager->config) || (model->n_segments > 0 && !model->missing)) {
                model_set_state(model, MODEL_STARTING);
                model_start_engine(model);
                return;
        }
        r = load_start(&model->load, model, &error);
        if (r < 0)
                request_error_set(&error, SPARK__V1__ERROR_CODE__INTERNAL, "The loader could not be started: %s.",
                                  strerror(-r));
        if (r)
                model_fail(model, EVENT_LOAD_FAILED, &error);
        else
                model_set_state(model, MODEL_LOADING);
}

/* begun: it is being loaded, which goes on for those whom only a lower level of power keeps waiting: with a plug that is loose a
 * large model would be loaded from its beginning again and again. */
static bool waits_for_load(const struct model *model, bool begun) {
        const struct power *power = model->manager->power;
        struct list *pos, *tmp;

        if (model->load_wanted || model->residency.holders > 0)
                return true;
        LIST_FOREACH(pos, tmp, (struct list *)&model->waiting) {
                const struct request *r = LIST_ENTRY(pos, struct request, model_link);

                if (r->kind != REQUEST_UNLOAD && (!power_keeps_waiting(power, r) || (begun && !power_is_parked(power))))
                        return true;
        }
        return false;
}

static void answer_load(struct model *model, struct request *r) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__LoadResult load = SPARK__V1__LOAD_RESULT__INIT;
        struct weights_view weights;

        plan_show(&model->plan, &weights, &load);
        load.model = model->name;
        load.image_bytes = model->image_bytes;
        load.kv_bytes = model->facts.kv_bytes;
        load.floor_bytes = model->manager->memory.floor;
        load.kv_format = model->manager->config->kv_format;
        load.architecture = model->facts.architecture;
        load.format = model->facts.format;
        load.parameters = model->facts.parameters;
        load.context = model->facts.context;
        load.fits = true;
        load.load_ms = (float)((double)model->load_us / 1000.0);
        load.read_bytes = model->read_bytes;
        load.read_ms = (float)((double)model->read_us / 1000.0);
        if (model->read_us)
                load.bytes_per_second = (uint64_t)((double)model->read_bytes * 1e6 / (double)model->read_us);
        done.result_case = SPARK__V1__DONE__RESULT_LOAD;
        done.load = &load;
        model->residency.by_hand = true;
        request_finish(r, &done);
}

/* Unload requests where there is nothing to unload, or not now. */
static void answer_unloads(struct model *model, bool busy) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        struct request_error error;
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &model->waiting) {
                struct request *r = LIST_ENTRY(pos, struct request, model_link);

                if (r->kind != REQUEST_UNLOAD)
                        continue;
                if (!busy) {
                        residency_forget(model);
                        if (model->holds) { /* it does not come back by itself, and not in a later process */
                                model->load_wanted = false;
                                if (model->n_segments == 0)
                                        model_keep_gone(model);
                        }
                        request_finish(r, &done);
                        continue;
                }
                request_error_set(&error, SPARK__V1__ERROR_CODE__BUSY, "Model '%s' is %s; it cannot be unloaded now.",
                                  model->name, !list_empty(&model->active)      ? "in use"
                                               : model->residency.holders > 0 ? "held resident by somebody (`sparkctl leases`)"
                                                                              : model_state_name(model));
                error.retry_after_ms = 1000;
                request_fail(r, &error);
        }
}

static void model_unload(struct model *model) {
        residency_unloading(model);
        model_set_state(model, MODEL_UNLOADING);
        model_close_image(model); /* the engine's end frees it, not we */
        if (model->engine)
                engine_stop(model->engine);
}

void model_unload_idle(struct model *model) {
        if (!list_empty(&model->active) || !list_empty(&model->waiting))
                return;
        if (model->state == MODEL_READY) {
                model_unload(model);
        } else if (model_is_part(model)) {
                residency_unloading(model);
                model->load_wanted = false; /* so nobody needs what is left of it */
                model_kick(model);
        }
}

static void pump_ready(struct model *model) {
        struct list *pos, *tmp;
        bool unload = false, held = false;

        LIST_FOREACH(pos, tmp, &model->waiting) {
                struct request *r = LIST_ENTRY(pos, struct request, model_link);

                if (r->kind == REQUEST_LOAD)
                        answer_load(model, r);
                else if (r->kind == REQUEST_UNLOAD)
                        unload = true;
                else if (!model->holds && !power_keeps_waiting(model->manager->power, r) &&
                         (!r->session || session_turn_prepare(r)))
                        request_activate(r);
                else
                        held = true;
        }
        if (unload && list_empty(&model->active) && !held && model->residency.holders == 0)
                model_unload(model);
        else if (unload)
                answer_unloads(model, true);
}

static void pump_failed(struct model *model) {
        bool rested = manager_now_us() - model->failed_us > FAILED_REST_US, asked = rested && waits_for_load(model, false);
        struct list *pos, *tmp;

        answer_unloads(model, false);
        LIST_FOREACH(pos, tmp, &model->waiting)
                asked = asked || LIST_ENTRY(pos, struct request, model_link)->kind == REQUEST_LOAD;
        if (asked || model->load_wanted || model->residency.holders > 0) {
                if (!model->holds)
                        model_start(model);
        } else {
                fail_all(&model->waiting, &model->error);
        }
}

/* A load that was for requests which are all gone. */
static void end_abandoned_load(struct model *model) {
        log_info("model '%s': nobody waits for it any more, its load is given up", model->name);
        model->engine = engine_discard(model->engine);
        model->load = load_free(model->load);
        model_set_state(model, MODEL_AVAILABLE);
}

void model_give_up(struct model *model, const struct request_error *error) {
        event_log(EVENT_MEMORY_REFUSED, model->name, "model '%s': %s", model->name, error->text);
        model->engine = engine_discard(model->engine);
        model->load = load_free(model->load);
        model->load_wanted = false;
        model_set_state(model, MODEL_AVAILABLE);
        leases_model_failed(model->manager->leases, model, error);
        fail_all(&model->waiting, error);
        residency_failed(model, error);
}

/* Its memory was given away, and whoever has it wants it to be said. What had begun waits all the same. */
static void refuse_held(struct model *model) {
        struct request_error error;
        struct list *pos, *tmp;

        if (!(model->holds & (MODEL_HOLD_LEASE | MODEL_HOLD_PRESSURE)) || !leases_refuse(model->manager->leases, model, &error))
                return;
        LIST_FOREACH(pos, tmp, &model->waiting) {
                struct request *r = LIST_ENTRY(pos, struct request, model_link);

                if (!r->begun && !r->journal.accepted)
                        request_fail(r, &error);
        }
}

/* It may be hours until there is power again: whoever waits for that hears so, once. */
static void tell_power(struct model *model) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &model->waiting) {
                struct request *r = LIST_ENTRY(pos, struct request, model_link);
                bool waits = power_keeps_waiting(model->manager->power, r);

                if (waits && !r->told_power)
                        request_progress(r, "power", 0, 0);
                r->told_power = waits;
        }
}

static void model_pump(struct model *model) {
        tell_power(model);
        switch (model->state) {
        case MODEL_AVAILABLE:
                answer_unloads(model, false);
                refuse_held(model);
                if ((model->n_segments > 0 || (model->keep_id && !model->holds)) && !waits_for_load(model, false))
                        model_drop_image(model); /* a part that was left for somebody, or the word that it was given back */
                if (waits_for_load(model, false) && !model->holds)
                        model_start(model);
                else
                        residency_done(model);
                break;
        case MODEL_LOADING:
                answer_unloads(model, true);
                if (!waits_for_load(model, true))
                        end_abandoned_load(model);
                break;
        case MODEL_STARTING:
                answer_unloads(model, true);
                break;
        case MODEL_READY:
                pump_ready(model);
                break;
        case MODEL_FAILED:
                pump_failed(model);
                break;
        case MODEL_UNLOADING:
                break;
        }
        if (!model->configured && !model->stored && model_is_idle(model)) {
                manager_model_changed(model->manager, model, true);
                (void)model_free(model);
        }
}

void models_pump(struct manager *m) {
        struct list now, *pos, *tmp;

        list_init(&now);
        LIST_FOREACH(pos, tmp, &m->models.kicked) {
                list_remove(pos);
                list_append(&now, pos);
        }
        for (struct list *node; (node = list_pop(&now));)
                model_pump(LIST_ENTRY(node, struct model, kick_link));
}

/* ---- what loads and engines tell ---- */

void model_load_progress(struct model *model, const struct load *load) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &model->waiting)
                request_progress_at(LIST_ENTRY(pos, struct request, model_link), load->stage, &load->speed, load->stage_done,
                                    load->stage_total);
}

void model_tell_waiting(struct model *model, const char *stage) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &model->waiting)
                request_progress(LIST_ENTRY(pos, struct request, model_link), stage, 0, 0);
}

void model_load_done(struct model *model) {
        struct load *load = model->load;

        model_take_image(model, load);
        model->kv_promised = load->plan.kv;
        model->engine_promised = load->plan.engine;
        model->plan = load->plan;
        model->read_bytes = load->read_bytes;
        model->read_us = load->written_us - load->handed_us;
        model->load = load_free(load);
        model_keep(model);
        model_set_state(model, MODEL_STARTING);
        if (model->engine)
                engine_tell_image(model->engine, 0, true);
        else
                model_start_engine(model);
}

void model_adopted(struct model *model) {
        model_set_state(model, MODEL_STARTING);
        model_start_engine(model);
}

void model_load_failed(struct model *model, const struct request_error *error) {
        model->engine = engine_discard(model->engine);
        model->load = load_free(model->load);
        model_fail(model, error->has_plan ? EVENT_MEMORY_REFUSED : EVENT_LOAD_FAILED, error);
}

void model_unloaded(struct model *model) {
        model_drop_image(model);
        model->facts = (struct model_facts){ 0 };
        model->load_wanted = model->residency.again;
        model->residency.again = false;
        model_set_state(model, MODEL_AVAILABLE);
        event_log(EVENT_MODEL_UNLOADED, model->name, "model '%s' is unloaded", model->name);
        answer_unloads(model, false);
}
