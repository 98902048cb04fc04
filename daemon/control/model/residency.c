/* SPDX-License-Identifier: Apache-2.0 */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/log.h"
#include "base/words.h"
#include "engine.h"
#include "event.h"
#include "load.h"
#include "manager.h"
#include "residency-choose.h"
#include "residency.h"

#define SETTLE_US (2u * 1000000u)         /* after a model has gone its memory may take so long to be free, */
#define SETTLE_DEVICE_US (60u * 1000000u) /* and so long where a device's driver held it */
#define RETRY_MIN_MS 1000u
#define RETRY_US (5u * 1000000u)          /* one that is always to be there, after it failed; doubled with each time, */
#define RETRY_DOUBLED_MAX 7u              /* so often at most */

/* ---- what is known of a model ---- */

void residency_configure(struct model *model, const struct config_model *c) {
        const struct config *config = model->manager->config;
        uint64_t seconds = c && c->idle_seconds != CONFIG_UNSET ? c->idle_seconds : config->residency.idle_seconds;
        uint64_t resident = c ? c->resident : CONFIG_RESIDENT_DEMAND;

        if (resident == CONFIG_RESIDENT_AUTO)
                resident = c->is_default ? CONFIG_RESIDENT_ALWAYS : CONFIG_RESIDENT_DEMAND;
        model->residency.resident = resident;
        model->residency.idle_us = seconds * 1000000u;
        residency_forget(model);
}

void residency_use(struct model *model) {
        model->residency.used_us = manager_now_us();
        model->manager->residency.changed = true;
}

void residency_moved(struct model *model) {
        residency_done(model);
        residency_use(model);
        if (model->state == MODEL_READY) {
                model->residency.ready_us = model->residency.used_us;
                residency_forget(model);
        }
}

void residency_failed(struct model *model, const struct request_error *error) {
        uint64_t wait_us = (uint64_t)RETRY_US << MIN(model->residency.failures, RETRY_DOUBLED_MAX);

        if (model->residency.resident != CONFIG_RESIDENT_ALWAYS || error->code == SPARK__V1__ERROR_CODE__MODEL_INVALID)
                return;
        model->residency.failures++;
        model->residency.retry_us = manager_now_us() + wait_us;
        log_info("model '%s' is tried again in %" PRIu64 " s", model->name, wait_us / 1000000u);
}

void residency_forget(struct model *model) {
        model->residency.retry_us = 0;
        model->residency.failures = 0;
}

void residency_hold(struct model *model) {
        model->residency.holders++;
        model_kick(model);
}

void residency_release(struct model *model) {
        model->residency.holders--;
        residency_use(model);
        model_kick(model);
}

const char *residency_name(const struct model *model) {
        if (model->residency.holders > 0)
                return "held";
        if (model->residency.resident == CONFIG_RESIDENT_ALWAYS && model->load_wanted)
                return "always";
        if (model->state == MODEL_AVAILABLE || model->state == MODEL_UNLOADING || model->state == MODEL_FAILED)
                return "";
        return model->residency.by_hand ? "loaded" : "demand";
}

static bool is_pinned(const struct model *model) {
        return model->residency.holders > 0 || model->residency.by_hand || model->residency.resident == CONFIG_RESIDENT_ALWAYS;
}

static bool has_requests(const struct model *model) {
        return model->refs > 0 || !list_empty(&model->active) || !list_empty(&model->waiting);
}

uint64_t residency_bytes(const struct model *model) {
        uint64_t sum = model->image_bytes, kv, other;

        if (model->load) /* which fitted beside what was there */
                return sum + (model->load->planned && !model->load->waits ? model->load->plan.need : 0);
        kv = model->kv_promised;
        other = model->engine_promised;
        if (model->state == MODEL_READY || model->state == MODEL_UNLOADING) {
                kv = model_kv_is_away(model) ? 0 : model->facts.kv_bytes;
                other = model->facts.other_bytes;
        }
        if (!checked_add(sum, kv, &sum) || !checked_add(sum, other, &sum))
                return UINT64_MAX;
        return sum;
}

static uint64_t min_us(const struct model *model) {
        return model->manager->config->residency.min_seconds * 1000000u;
}

static enum residency_standing standing_of(const struct model *model, uint64_t now_us) {
        switch (model->state) {
        case MODEL_AVAILABLE:
                if (!model_is_part(model))
                        return RESIDENCY_GONE;
                return is_pinned(model) ? RESIDENCY_STAYS : has_requests(model) ? RESIDENCY_LATER : RESIDENCY_IDLE;
        case MODEL_FAILED:
                return RESIDENCY_GONE;
        case MODEL_UNLOADING:
                return RESIDENCY_GOING;
        case MODEL_READY:
                if (is_pinned(model))
                        return RESIDENCY_STAYS;
                return has_requests(model) || now_us < model->residency.ready_us + min_us(model) ? RESIDENCY_LATER
                                                                                                 : RESIDENCY_IDLE;
        default:
                /* one that waits for room itself has nothing to give */
                if (model->load && model->load->waits)
                        return RESIDENCY_GONE;
                return is_pinned(model) ? RESIDENCY_STAYS : RESIDENCY_LATER;
        }
}

uint64_t residency_unload_us(const struct model *model, uint64_t now_us) {
        uint64_t at = MAX(model->residency.used_us + model->residency.idle_us, model->residency.ready_us + min_us(model));

        if ((model->state != MODEL_READY && !model_is_part(model)) || is_pinned(model) || model->residency.idle_us == 0 || has_requests(model))
                return 0;
        return at > now_us ? at - now_us : 1;
}

/* ---- making room ---- */

struct view_list {
        struct residency_view *views;
        struct model **models;
        size_t n;
};

static void view_list_deinit(struct view_list *l) {
        free(l->views);
        free(l->models);
}

/* All models but `wanted` (NULL: all). False without memory. */
static bool view_list_init(struct view_list *l, struct manager *m, const struct model *wanted) {
        uint64_t now_us = manager_now_us();
        struct list *pos, *tmp;
        size_t n = 0;

        LIST_FOREACH(pos, tmp, &m->models.list)
                n++;
        *l = (struct view_list){ .views = calloc(n + 1, sizeof(*l->views)), .models = calloc(n + 1, sizeof(void *)) };
        if (!l->views || !l->models)
                return false;
        LIST_FOREACH(pos, tmp, &m->models.list) {
                struct model *model = LIST_ENTRY(pos, struct model, link);

                if (model == wanted)
                        continue;
                l->views[l->n] = (struct residency_view){ .standing = standing_of(model, now_us), .bytes = residency_bytes(model),
                                                          .used_us = model->residency.used_us };
                l->models[l->n++] = model;
        }
        return true;
}

static size_t count_loaded(const struct view_list *l) {
        size_t n = 0;

        for (size_t i = 0; i < l->n; i++)
                n += l->views[i].standing != RESIDENCY_GONE;
        return n;
}

static uint64_t sum_bytes(const struct view_list *l) {
        uint64_t sum = 0;

        for (size_t i = 0; i < l->n; i++)
                if (l->views[i].standing != RESIDENCY_GONE && !checked_add(sum, l->views[i].bytes, &sum))
                        return UINT64_MAX;
        return sum;
}

static size_t missing_models(const struct manager *m, const struct view_list *l, size_t more) {
        uint64_t max = m->config->residency.max_models, n = count_loaded(l) + more;

        return max && n > max ? (size_t)(n - max) : 0;
}

/* Beyond what all models together may take. */
static uint64_t missing_of_budget(const struct manager *m, const struct view_list *l, uint64_t more) {
        uint64_t max = m->config->residency.max_bytes, sum;

        if (max == 0)
                return 0;
        if (!checked_add(sum_bytes(l), more, &sum))
                sum = UINT64_MAX;
        return sum > max ? sum - max : 0;
}

static void evict(const struct view_list *l, const char *why) {
        for (size_t i = 0; i < l->n; i++)
                if (l->views[i].evict) {
                        event_log(EVENT_MODEL_EVICTED, l->models[i]->name, "model '%s' is unloaded: %s", l->models[i]->name, why);
                        model_unload_idle(l->models[i]);
                }
}

static enum residency_verdict ask(struct view_list *l, const struct model *wanted, const struct residency_lack *lack) {
        enum residency_verdict verdict = residency_choose(l->views, l->n, lack);
        char why[CONFIG_MODEL_NAME_MAX + 64];

        (void)snprintf(why, sizeof(why), "'%s' needs its room", wanted->name);
        if (verdict == RESIDENCY_SOON)
                evict(l, why);
        return verdict;
}

static void wait_for_room(struct model *model) {
        if (model->residency.waits_us)
                return;
        model->residency.waits_us = manager_now_us();
        log_info("model '%s' waits for room", model->name);
        model_tell_waiting(model, "room");
}

void residency_done(struct model *model) {
        model->residency.waits_us = 0;
}

static void refuse_number(struct model *model) {
        struct request_error error;

        request_error_set(&error, SPARK__V1__ERROR_CODE__NO_MEMORY,
                          "Model '%s' cannot be loaded: residency.max_models is %" PRIu64 ", and those that are resident stay.",
                          model->name, model->manager->config->residency.max_models);
        model_give_up(model, &error);
}

bool residency_admits(struct model *model) {
        struct manager *m = model->manager;
        _cleanup_(view_list_deinit) struct view_list list = { 0 };
        struct residency_lack lack = { 0 };

        if (m->config->residency.max_models == 0 || !view_list_init(&list, m, model))
                return true;
        lack.models = missing_models(m, &list, 1);
        switch (ask(&list, model, &lack)) {
        case RESIDENCY_ROOM:
                residency_done(model);
                return true;
        case RESIDENCY_NEVER: /* those that are configured may be more than the number, but nothing comes in their stead */
                residency_done(model);
                if (model->residency.resident == CONFIG_RESIDENT_ALWAYS)
                        return true;
                refuse_number(model);
                return false;
        default:
                break;
        }
        wait_for_room(model);
        return false;
}

/* With a part that is there already. */
static uint64_t all_of(const struct model *model, uint64_t need) {
        return checked_add(need, model->image_bytes, &need) ? need : UINT64_MAX;
}

bool residency_allows(const struct model *model, const struct plan *plan) {
        _cleanup_(view_list_deinit) struct view_list list = { 0 };

        return model->manager->config->residency.max_bytes == 0 || !view_list_init(&list, model->manager, model) ||
               missing_of_budget(model->manager, &list, all_of(model, plan->need)) == 0;
}

static struct residency_lack lack_of(const struct model *model, const struct view_list *l, const struct plan *plan,
                                     uint64_t more) {
        uint64_t need = plan->need, bytes, of_memory;

        if (!checked_add(need, more, &need))
                need = UINT64_MAX;
        of_memory = need > plan->room ? need - plan->room : 0;
        bytes = missing_of_budget(model->manager, l, all_of(model, need));
        bytes = MAX(bytes, of_memory);
        return (struct residency_lack){ .bytes = bytes };
}

/* What is missing of a KV cache for one whole context, where the plan had to do with the smallest one. */
static uint64_t wish_of(const struct plan *plan) {
        uint64_t bytes;

        if (!checked_mul(plan->context_wanted, plan->kv_per_1000, &bytes))
                return 0;
        bytes /= 1000;
        return bytes > plan->kv ? bytes - plan->kv : 0;
}

bool residency_make_room(struct model *model, const struct plan *plan) {
        struct manager *m = model->manager;
        _cleanup_(view_list_deinit) struct view_list list = { 0 };
        enum residency_verdict verdict;
        struct residency_lack lack;

        if (manager_now_us() < m->residency.settle_us) { /* what is to come free is not all there yet */
                wait_for_room(model);
                return true;
        }
        if (!view_list_init(&list, m, model))
                return false;
        lack = lack_of(model, &list, plan, wish_of(plan));
        verdict = ask(&list, model, &lack);
        if (verdict != RESIDENCY_SOON) {
                lack = lack_of(model, &list, plan, 0);
                verdict = ask(&list, model, &lack);
        }
        if (verdict == RESIDENCY_NEVER) {
                residency_done(model);
                return false;
        }
        wait_for_room(model);
        return true;
}

const char *residency_explain(const struct model *model, char *out, size_t size) {
        _cleanup_(view_list_deinit) struct view_list list = { 0 };
        uint64_t idle = 0, later = 0, budget = model->manager->config->residency.max_bytes;
        char most[WORDS_BYTES], unused[WORDS_BYTES], used[WORDS_BYTES];
        int n = 0;

        *out = 0;
        if (budget)
                n = snprintf(out, size, " All models together may take %s (residency.max_bytes).", words_bytes(budget, most));
        if (!view_list_init(&list, model->manager, model))
                return out;
        for (size_t i = 0; i < list.n; i++) {
                idle += list.views[i].standing == RESIDENCY_IDLE ? list.views[i].bytes : 0;
                later += list.views[i].standing == RESIDENCY_LATER ? list.views[i].bytes : 0;
        }
        if (idle + later > 0)
                (void)snprintf(out + n, size - (size_t)n, " Models that may be unloaded hold %s, those in use %s.",
                               words_bytes(idle, unused), words_bytes(later, used));
        return out;
}

void residency_unloading(struct model *model) {
        struct manager *m = model->manager;
        uint64_t settle = manager_now_us() + (*model->facts.device ? SETTLE_DEVICE_US : SETTLE_US);

        m->residency.settle_us = MAX(m->residency.settle_us, settle);
        m->residency.changed = true;
        model->residency.by_hand = false;
}

/* ---- as time goes by ---- */

static void unload_idle(struct model *model, uint64_t now_us) {
        if (residency_unload_us(model, now_us) != 1)
                return;
        event_log(EVENT_MODEL_IDLE, model->name, "model '%s' is unloaded: it was idle for %" PRIu64 " s", model->name,
                  (now_us - model->residency.used_us) / 1000000u);
        model_unload_idle(model);
}

static void retry_failed(struct model *model, uint64_t now_us) {
        if (model->residency.retry_us == 0 || now_us < model->residency.retry_us)
                return;
        model->residency.retry_us = 0;
        if (model->state != MODEL_FAILED && model->state != MODEL_AVAILABLE)
                return;
        model->load_wanted = true;
        model_kick(model);
}

/* No more than idle ones can make up for. */
static void clamp_lack(const struct view_list *l, struct residency_lack *lack) {
        struct residency_lack most = { 0 };

        for (size_t i = 0; i < l->n; i++) {
                enum residency_standing standing = l->views[i].standing;

                if (standing != RESIDENCY_IDLE && standing != RESIDENCY_GOING)
                        continue;
                most.models++;
                if (!checked_add(most.bytes, l->views[i].bytes, &most.bytes))
                        most.bytes = UINT64_MAX;
        }
        lack->models = MIN(lack->models, most.models);
        lack->bytes = MIN(lack->bytes, most.bytes);
}

/* A limit may have been lowered: idle models go, also where that is not enough, since others are used or stay. */
static void keep_limits(struct manager *m) {
        _cleanup_(view_list_deinit) struct view_list list = { 0 };
        struct residency_lack lack;

        if ((m->config->residency.max_models == 0 && m->config->residency.max_bytes == 0) || !view_list_init(&list, m, NULL))
                return;
        lack = (struct residency_lack){ .bytes = missing_of_budget(m, &list, 0), .models = missing_models(m, &list, 0) };
        clamp_lack(&list, &lack);
        if (residency_choose(list.views, list.n, &lack) == RESIDENCY_SOON)
                evict(&list, "there are more models than the configuration allows by now");
}

static void give_up_waiting(struct model *model) {
        struct request_error error;

        request_error_set(&error, SPARK__V1__ERROR_CODE__BUSY,
                          "There is no room for model '%s' now: the models that are resident are in use, or came a moment ago.",
                          model->name);
        error.retry_after_ms = MAX((uint32_t)RETRY_MIN_MS, (uint32_t)model->manager->config->residency.min_seconds * 1000u);
        residency_done(model);
        model_give_up(model, &error);
}

/* Asks again; or gives up. */
static void retry(struct model *model, uint64_t now_us) {
        uint64_t limit = model->manager->config->residency.wait_seconds * 1000000u;

        if (model->load && !model->load->waits)
                return;
        if (now_us >= model->residency.waits_us + limit && now_us >= model->manager->residency.settle_us) {
                give_up_waiting(model);
                return;
        }
        model_tell_waiting(model, "room");
        if (model->load)
                load_retry(model->load);
        else if (model->state == MODEL_AVAILABLE || model->state == MODEL_FAILED)
                model_kick(model);
        else
                residency_done(model);
}

static void retry_all(struct manager *m, uint64_t now_us) {
        struct list *pos, *tmp;

        m->residency.changed = false;
        if (!manager_accepts(m))
                return;
        LIST_FOREACH(pos, tmp, &m->models.list) {
                struct model *model = LIST_ENTRY(pos, struct model, link);

                if (model->residency.waits_us)
                        retry(model, now_us);
        }
}

void residency_turn(struct manager *m) {
        if (m->residency.changed)
                retry_all(m, manager_now_us());
}

void residency_tick(struct manager *m, uint64_t now_us) {
        struct list *pos, *tmp;

        if (!manager_accepts(m))
                return;
        LIST_FOREACH(pos, tmp, &m->models.list) {
                struct model *model = LIST_ENTRY(pos, struct model, link);

                if (has_requests(model))
                        model->residency.used_us = now_us;
                unload_idle(model, now_us);
                retry_failed(model, now_us);
        }
        keep_limits(m);
        retry_all(m, now_us);
}
