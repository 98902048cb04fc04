/* SPDX-License-Identifier: Apache-2.0 */

/* A model's engines: one after the other, and what becomes of the model and its requests when one has ended. */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/words.h"
#include "engine.h"
#include "event.h"
#include "manager.h"
#include "model-keep.h"
#include "model-private.h"
#include "model.h"

#define START_FAILURES_MAX 3u               /* engines that end before they were ready */
#define STABLE_US (10u * 1000000u)          /* an engine that lived for so long ends a row of deaths */
#define READY_ROW_MAX 3u                    /* deaths of engines that did serve delay the next one by no more than this many */
#define RESTART_DELAY_US (100u * 1000u)
#define RESTART_DELAY_MAX_US (5u * 1000000u)

void model_start_engine(struct model *model) {
        struct request_error error;
        int r;

        model->restart_timer = sd_event_source_disable_unref(model->restart_timer);
        if (model->holds)
                return; /* model_release() comes back to it */
        r = engine_start(&model->engine, model);
        if (r == 0)
                return;
        request_error_set(&error, SPARK__V1__ERROR_CODE__INTERNAL, "The engine could not be started: %s.", strerror(-r));
        model_fail(model, EVENT_ENGINE_GIVEN_UP, &error);
}

static void copy_text(char *out, size_t size, const char *text) {
        (void)snprintf(out, size, "%s", text);
}

void model_engine_ready(struct model *model, const Spark__Engine__V1__Ready *ready) {
        struct model_facts *f = &model->facts;
        char image[WORDS_BYTES];

        *f = (struct model_facts){
                .parameters = ready->parameters,
                .kv_bytes = ready->kv_bytes,
                .other_bytes = ready->other_bytes,
                .device_bytes = ready->device_bytes,
                .context = ready->context,
                .vocabulary = ready->vocabulary,
                .has_chat_template = ready->has_chat_template,
        };
        copy_text(f->architecture, sizeof(f->architecture), ready->architecture);
        copy_text(f->format, sizeof(f->format), ready->format);
        copy_text(f->backend, sizeof(f->backend), ready->backend);
        copy_text(f->device, sizeof(f->device), ready->device);
        copy_text(f->placement, sizeof(f->placement), ready->placement);
        copy_text(f->kv_memory, sizeof(f->kv_memory), ready->kv_memory);
        model->manager->weights_are_copied = strcmp(f->placement, "device") == 0;
        model->kv_promised = model->engine_promised = 0;
        if (model->load_began_us)
                model->load_us = manager_now_us() - model->load_began_us;
        model->load_began_us = 0;
        model->load_wanted = true; /* it stays until it is unloaded */
        model_keep(model);
        event_log(EVENT_MODEL_READY, model->name, "model '%s' is ready: %s %s, %s, on %s", model->name, f->architecture, f->format,
                  words_bytes(model->image_bytes, image), f->backend);
        model_set_state(model, MODEL_READY);
}

static int on_restart(sd_event_source *source, uint64_t usec, void *userdata) {
        model_start_engine(userdata);
        return 0;
}

/* What was in flight waits for the next engine, in the order it had. */
static void requeue_active(struct model *model) {
        struct list lost, *pos, *tmp;

        list_init(&lost);
        LIST_FOREACH(pos, tmp, &model->active) {
                struct request *r = LIST_ENTRY(pos, struct request, model_link);

                if (!(model->giving || model->slept ? request_take_back(r) : request_lost(r)))
                        continue;
                list_remove(pos);
                list_append(&lost, pos);
        }
        LIST_FOREACH(pos, tmp, &model->waiting) {
                list_remove(pos);
                list_append(&lost, pos);
        }
        LIST_FOREACH(pos, tmp, &lost) {
                list_remove(pos);
                list_append(&model->waiting, pos);
        }
}

static void model_restart_engine(struct model *model) {
        uint64_t delay = 0;

        if (model->deaths_in_row > 1) {
                unsigned shift = MIN(model->deaths_in_row - 2, 10u);

                delay = MIN((uint64_t)RESTART_DELAY_US << shift, (uint64_t)RESTART_DELAY_MAX_US);
        }
        model_set_state(model, MODEL_STARTING);
        if (delay == 0 ||
            sd_event_add_time_relative(model->manager->event, &model->restart_timer, CLOCK_MONOTONIC, delay, 1000,
                                       on_restart, model) < 0)
                model_start_engine(model);
}

void model_engine_gone(struct model *model, bool was_ready, bool lost, uint64_t lived_us,
                       const struct request_error *error) {
        bool said = error->code != SPARK__V1__ERROR_CODE__ERROR_CODE_UNSPECIFIED;
        struct request_error failed;

        model->engine = NULL;
        manager_kick(model->manager); /* which may be waiting for just this in order to end */
        if (model->manager->state == MANAGER_CLOSING && model->state == MODEL_LOADING)
                return;
        if (model->state == MODEL_LOADING && error->code == SPARK__V1__ERROR_CODE__NO_MEMORY) {
                model_load_failed(model, error); /* the next one would wait for memory, and say the same */
                return;
        }
        if (model->state == MODEL_LOADING) {
                log_notice("model '%s': the engine that was started ahead of its load has ended; another one follows it", model->name);
                return;
        }
        requeue_active(model);
        if (model->giving) {
                model_given_back(model);
                return;
        }
        if (model->state == MODEL_UNLOADING) {
                model_unloaded(model);
                return;
        }
        if (model->manager->state == MANAGER_CLOSING)
                return;
        if (was_ready) {
                /* streams wait: whatever kills engines that serve is met by the count of losses of each request */
                model->start_failures = 0;
                model->deaths_in_row = lived_us > STABLE_US ? 1 : MIN(model->deaths_in_row + 1, READY_ROW_MAX);
        } else {
                model->start_failures++;
                model->deaths_in_row++;
        }
        if (said && !was_ready && (!lost || model->start_failures >= START_FAILURES_MAX)) {
                model_fail(model, EVENT_ENGINE_GIVEN_UP, error); /* it said why: another one would say the same */
                return;
        }
        if (model->start_failures >= START_FAILURES_MAX) {
                request_error_set(&failed, SPARK__V1__ERROR_CODE__ENGINE_LOST,
                                  "The engine of model '%s' ended %u time%s before it was ready.", model->name,
                                  model->start_failures, words_s(model->start_failures));
                model_fail(model, EVENT_ENGINE_GIVEN_UP, &failed);
                return;
        }
        model->restarts++;
        model_restart_engine(model);
}
