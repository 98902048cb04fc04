/* SPDX-License-Identifier: Apache-2.0 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "clients/connection.h"
#include "memory/lease.h"
#include "memory/memory-status.h"
#include "model/engine.h"
#include "model/load.h"
#include "power/power-status.h"
#include "status.h"
#include "store/store.h"

Spark__V1__Done *status_free(Spark__V1__Done *done) {
        if (done)
                spark__v1__done__free_unpacked(done, NULL);
        return NULL;
}

static void count_requests(const struct model *model, uint32_t *running, uint32_t *queued) {
        struct list *pos, *tmp;

        for (int k = 0; k < 2; k++)
                LIST_FOREACH(pos, tmp, (struct list *)(k ? &model->active : &model->waiting)) {
                        const struct request *r = LIST_ENTRY(pos, struct request, model_link);

                        if (!r->sink || r->kind == REQUEST_LOAD || r->kind == REQUEST_UNLOAD)
                                continue;
                        *(request_is_queued(r) ? queued : running) += 1;
                }
}

/* Of what is loaded, else of what the store knows; NULL where nothing is known. */
static const struct weights *weights_of(const struct model *model) {
        if (model->image_bytes > 0)
                return &model->plan.weights;
        return model->stored ? store_weights(model->stored) : NULL;
}

static void fill_weights(const struct model *model, Spark__V1__ModelInfo *info) {
        const struct weights *w = weights_of(model);

        if (!w)
                return;
        info->lossless = w->coded.params > 0;
        info->packed = w->packed;
        info->bits_per_weight = weights_bits(w);
}

static void fill_residency(const struct model *model, Spark__V1__ModelInfo *info) {
        uint64_t now_us = manager_now_us(), used_us = model->residency.used_us;

        info->resident = (char *)residency_name(model);
        info->holders = model->residency.holders;
        info->held = (char *)model_held_by(model);
        info->unload_ms = (residency_unload_us(model, now_us) + 999) / 1000;
        if (model->state == MODEL_READY && model->refs == 0 && now_us > used_us)
                info->idle_ms = (now_us - used_us) / 1000;
}

void status_fill_model(struct model *model, Spark__V1__ModelInfo *info) {
        const struct model_facts *f = &model->facts;

        *info = (Spark__V1__ModelInfo)SPARK__V1__MODEL_INFO__INIT;
        info->name = model->name;
        info->path = model->path;
        info->state = (char *)model_state_name(model);
        info->is_default = model->is_default;
        info->architecture = (char *)f->architecture;
        info->format = (char *)f->format;
        info->parameters = f->parameters;
        info->image_bytes = model->image_bytes;
        info->missing_bytes = model_missing_bytes(model);
        info->context = f->context;
        info->vocabulary = f->vocabulary;
        info->error = model->state == MODEL_FAILED ? model->error.text : (char *)"";
        count_requests(model, &info->running, &info->queued);
        info->has_chat_template = f->has_chat_template;
        info->kv_bytes = f->kv_bytes;
        if (model->engine) {
                info->kv_used_bytes = model->engine->kv_used;
                info->kv_cached_bytes = model->engine->kv_cached;
        }
        info->engine_restarts = model->restarts;
        info->backend = (char *)f->backend;
        info->device = (char *)f->device;
        info->placement = (char *)f->placement;
        info->kv_memory = (char *)f->kv_memory;
        info->device_bytes = f->device_bytes;
        info->generated_tokens = model->generated.total;
        info->tokens_per_second = rate_per_second(&model->generated);
        if (model->load) {
                const struct load *load = model->load;

                info->load_stage = (char *)load->stage;
                if (load->stage_total)
                        info->load_percent = (uint32_t)((double)load->stage_done * 100.0 / (double)load->stage_total);
        }
        if (model->stored)
                store_fill_info(model->stored, info);
        fill_weights(model, info);
        fill_residency(model, info);
}

/* A deep copy that owns everything; through the wire format, which is what it goes into anyway. */
Spark__V1__Done *status_copy(const Spark__V1__Done *done) {
        size_t size = spark__v1__done__get_packed_size(done);
        _cleanup_free_ uint8_t *packed = malloc(size + 1);

        if (!packed)
                return NULL;
        (void)spark__v1__done__pack(done, packed);
        return spark__v1__done__unpack(NULL, size, packed);
}

struct model_list {
        Spark__V1__ModelInfo *infos;
        Spark__V1__ModelInfo **pointers;
        struct weights_view *weights;
        size_t n;
};

static void model_list_deinit(struct model_list *l) {
        free(l->weights);
        free(l->infos);
        free(l->pointers);
}

/* A file that is only being planned or has not begun to load is nobody's model yet. */
static bool model_is_shown(const struct model *model) {
        return model->configured || model->stored || model->state != MODEL_AVAILABLE;
}

static bool model_list_init(struct model_list *l, struct manager *m) {
        struct list *pos, *tmp;
        size_t n = 0;

        LIST_FOREACH(pos, tmp, &m->models.list)
                n++;
        *l = (struct model_list){ .infos = calloc(n + 1, sizeof(*l->infos)),
                                  .pointers = calloc(n + 1, sizeof(void *)),
                                  .weights = calloc(n + 1, sizeof(*l->weights)) };
        if (!l->infos || !l->pointers || !l->weights)
                return false;
        LIST_FOREACH(pos, tmp, &m->models.list) {
                struct model *model = LIST_ENTRY(pos, struct model, link);
                const struct weights *w = weights_of(model);

                if (!model_is_shown(model))
                        continue;
                status_fill_model(model, &l->infos[l->n]);
                if (w)
                        l->infos[l->n].weights = weights_show(w, &l->weights[l->n]);
                l->pointers[l->n] = &l->infos[l->n];
                l->n++;
        }
        return true;
}

Spark__V1__Done *status_new_models(struct manager *m) {
        _cleanup_(model_list_deinit) struct model_list models;
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__ModelsResult result = SPARK__V1__MODELS_RESULT__INIT;

        if (!model_list_init(&models, m))
                return NULL;
        result.models = models.pointers;
        result.n_models = models.n;
        done.result_case = SPARK__V1__DONE__RESULT_MODELS;
        done.models = &result;
        return status_copy(&done);
}

static void fill_request(const struct request *r, uint64_t now_us, Spark__V1__RequestInfo *info) {
        *info = (Spark__V1__RequestInfo)SPARK__V1__REQUEST_INFO__INIT;
        info->uid = r->user->uid;
        info->pid = (uint32_t)r->origin.pid;
        info->unit = (char *)(r->origin.unit ? r->origin.unit : "");
        info->model = r->model ? r->model->name : (char *)"";
        info->kind = (char *)request_kind_name(r->kind);
        info->state = (char *)(request_is_queued(r) && r->kind != REQUEST_LEASE ? "queued"
                               : r->engine_paused                               ? "paused"
                                                                                : "running");
        info->prompt_tokens = (uint32_t)r->journal.n_prompt;
        info->completion_tokens = (uint32_t)r->journal.n_generated;
        info->age_ms = (float)((double)(now_us - r->arrived_us) / 1000.0);
        info->priority = r->priority;
        info->cached_tokens = r->cached_tokens;
        if (r->journal.n_generated > 1 && now_us > r->first_token_us)
                info->tokens_per_second =
                        (float)((double)(r->journal.n_generated - 1) * 1e6 / (double)(now_us - r->first_token_us));
}

struct request_list {
        Spark__V1__RequestInfo *infos;
        Spark__V1__RequestInfo **pointers;
        size_t n;
};

static void request_list_deinit(struct request_list *l) {
        free(l->infos);
        free(l->pointers);
}

static bool request_list_init(struct request_list *l, struct manager *m, uid_t viewer, bool all) {
        const struct requests *t = &m->requests;
        uint64_t now_us = manager_now_us();

        *l = (struct request_list){ .infos = calloc(t->count + 1, sizeof(*l->infos)),
                                    .pointers = calloc(t->count + 1, sizeof(void *)) };
        if (!l->infos || !l->pointers)
                return false;
        for (size_t i = 0; i < t->n_slots; i++) {
                const struct request *r = t->slots[i];

                if (!r || !r->sink || (r->user->uid != viewer && !all))
                        continue;
                fill_request(r, now_us, &l->infos[l->n]);
                l->pointers[l->n] = &l->infos[l->n];
                l->n++;
        }
        return true;
}

struct user_list {
        Spark__V1__UserInfo *infos;
        Spark__V1__UserInfo **pointers;
        size_t n;
};

static void user_list_deinit(struct user_list *l) {
        free(l->infos);
        free(l->pointers);
}

static void fill_user(const struct user *user, Spark__V1__UserInfo *info) {
        info->connections = (uint32_t)user->charged[USER_CONNECTIONS];
        info->sessions = (uint32_t)user->charged[USER_SESSIONS];
        info->running = user->running;
        info->queued = user->queued;
        info->bytes = user->charged[USER_BYTES];
        info->tokens_per_second = rate_per_second(&user->generated);
}

/* What holds for a uid whether or not it is here at the moment. */
static void fill_uid(struct manager *m, uid_t uid, Spark__V1__UserInfo *info) {
        struct policy p;

        policy_resolve(&p, m->config, uid);
        *info = (Spark__V1__UserInfo)SPARK__V1__USER_INFO__INIT;
        info->uid = uid;
        info->kv_limit_bytes = p.kv;
        info->tokens_today = usage_today(m->usage, uid);
        info->tokens_per_day = p.tokens_per_day;
        info->weight = p.weight;
        if (m->power)
                power_fill_user(m->power, uid, info);
}

static Spark__V1__UserInfo *user_list_get(struct user_list *l, struct manager *m, uid_t uid) {
        for (size_t i = 0; i < l->n; i++)
                if (l->infos[i].uid == uid)
                        return &l->infos[i];
        l->pointers[l->n] = &l->infos[l->n];
        fill_uid(m, uid, &l->infos[l->n]);
        return &l->infos[l->n++];
}

static void add_engine_users(struct user_list *l, struct manager *m, const struct engine *e, uid_t viewer, bool all) {
        for (size_t i = 0; e && i < e->n_users; i++) {
                Spark__V1__UserInfo *info;

                if (!all && e->users[i].uid != viewer)
                        continue;
                info = user_list_get(l, m, e->users[i].uid);
                info->kv_used_bytes += e->users[i].kv_used;
                info->kv_cached_bytes += e->users[i].kv_cached;
        }
}

/* Those who are here, and those whose prefixes an engine keeps. */
static bool user_list_init(struct user_list *l, struct manager *m, uid_t viewer, bool all) {
        struct list *pos, *tmp;
        size_t n = 0;

        LIST_FOREACH(pos, tmp, &m->users.list)
                n++;
        LIST_FOREACH(pos, tmp, &m->models.list) {
                const struct engine *e = LIST_ENTRY(pos, struct model, link)->engine;

                n += e ? e->n_users : 0;
        }
        *l = (struct user_list){ .infos = calloc(n + 1, sizeof(*l->infos)),
                                 .pointers = calloc(n + 1, sizeof(void *)) };
        if (!l->infos || !l->pointers)
                return false;
        LIST_FOREACH(pos, tmp, &m->users.list) {
                const struct user *user = LIST_ENTRY(pos, struct user, link);

                if (all || user->uid == viewer)
                        fill_user(user, user_list_get(l, m, user->uid));
        }
        LIST_FOREACH(pos, tmp, &m->models.list)
                add_engine_users(l, m, LIST_ENTRY(pos, struct model, link)->engine, viewer, all);
        return true;
}

struct lease_infos {
        Spark__V1__LeaseInfo *infos;
        Spark__V1__LeaseInfo **pointers;
        size_t n;
};

static void lease_infos_deinit(struct lease_infos *l) {
        free(l->infos);
        free(l->pointers);
}

static bool lease_infos_init(struct lease_infos *l, struct manager *m, uid_t viewer, bool all) {
        struct list *pos, *tmp;
        size_t n = 0;

        LIST_FOREACH(pos, tmp, leases_list(m->leases))
                n++;
        *l = (struct lease_infos){ .infos = calloc(n + 1, sizeof(*l->infos)), .pointers = calloc(n + 1, sizeof(void *)) };
        if (!l->infos || !l->pointers)
                return false;
        LIST_FOREACH(pos, tmp, leases_list(m->leases)) {
                lease_show(LIST_ENTRY(pos, struct lease, link), viewer, all, &l->infos[l->n]);
                l->pointers[l->n] = &l->infos[l->n];
                l->n++;
        }
        return true;
}

static const char *state_name(const struct manager *m) {
        switch (m->state) {
        case MANAGER_STARTING:
                return "starting";
        case MANAGER_READY:
                return "ready";
        default:
                return "stopping";
        }
}

/* The older fields, and the whole ledger. */
static void fill_memory(struct manager *m, Spark__V1__StatusResult *s, Spark__V1__MemoryInfo *info) {
        memory_fill_info(m, info);
        s->memory = info;
        s->memory_total = m->memory.total;
        s->memory_available = info->available;
        s->memory_floor = info->floor;
        s->memory_images = info->images;
        s->memory_kv = info->kv;
        s->memory_engine = info->engine;
        s->memory_kv_used = info->kv_used;
        s->memory_kv_cached = info->kv_cached;
}

/* A path may hold any bytes, a string of the protocol may not. */
static void make_utf8(char *text) {
        if (utf8_valid(text, strlen(text), NULL))
                return;
        for (; *text; text++)
                if ((unsigned char)*text >= 0x80)
                        *text = '?';
}

Spark__V1__Done *status_new_status(struct manager *m, uid_t viewer, bool all) {
        _cleanup_(model_list_deinit) struct model_list models = { 0 };
        _cleanup_(request_list_deinit) struct request_list requests = { 0 };
        _cleanup_(user_list_deinit) struct user_list users = { 0 };
        _cleanup_(lease_infos_deinit) struct lease_infos leases = { 0 };
        char usage_warning[640], memory_text[MEMORY_WARNING_MAX], *warnings[2];
        Spark__V1__MemoryInfo memory;
        Spark__V1__PowerInfo power;
        struct power_view power_view;
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__StatusResult s = SPARK__V1__STATUS_RESULT__INIT;
        struct list *pos, *tmp;

        if (!model_list_init(&models, m) || !request_list_init(&requests, m, viewer, all) ||
            !user_list_init(&users, m, viewer, all) || !lease_infos_init(&leases, m, viewer, all))
                return NULL;
        s.version = (char *)SPARK_VERSION;
        s.uptime_s = (float)((double)(manager_now_us() - m->started_us) / 1e6);
        s.connections = (uint32_t)m->n_connections;
        s.state = (char *)state_name(m);
        LIST_FOREACH(pos, tmp, &m->models.list)
                count_requests(LIST_ENTRY(pos, struct model, link), &s.requests_running, &s.requests_queued);
        fill_memory(m, &s, &memory);
        if (m->power) {
                power_fill_info(m->power, &power_view, &power);
                s.power = &power;
        }
        s.models = models.pointers;
        s.n_models = models.n;
        s.requests = requests.pointers;
        s.n_requests = requests.n;
        s.users = users.pointers;
        s.n_users = users.n;
        s.leases = leases.pointers;
        s.n_leases = leases.n;
        s.leased_bytes = leases_bytes(m->leases);
        s.warnings = warnings;
        if (usage_trouble(m->usage)) {
                (void)snprintf(usage_warning, sizeof(usage_warning), "Usage is not kept over a restart: %s.",
                               usage_trouble(m->usage));
                make_utf8(usage_warning);
                warnings[s.n_warnings++] = usage_warning;
        }
        if (memory_warning(m, memory_text, sizeof(memory_text))) {
                make_utf8(memory_text);
                warnings[s.n_warnings++] = memory_text;
        }
        done.result_case = SPARK__V1__DONE__RESULT_STATUS;
        done.status = &s;
        return status_copy(&done);
}
