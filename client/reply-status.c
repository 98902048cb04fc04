/* SPDX-License-Identifier: Apache-2.0 */

/* What comes in: the service's state, with its models, requests, users, leases, memory and power. */

#include <errno.h>
#include <stdlib.h>

#include "internal.h"

static void model_show(struct spark_model *m, const Spark__V1__ModelInfo *p) {
        *m = (struct spark_model){
                .name = p->name,
                .path = p->path,
                .state = p->state,
                .is_default = p->is_default,
                .has_chat_template = p->has_chat_template,
                .architecture = p->architecture,
                .format = p->format,
                .backend = p->backend,
                .error = p->error,
                .parameters = p->parameters,
                .image_bytes = p->image_bytes,
                .missing_bytes = p->missing_bytes,
                .kv_bytes = p->kv_bytes,
                .generated_tokens = p->generated_tokens,
                .tokens_per_second = p->tokens_per_second,
                .context = p->context,
                .vocabulary = p->vocabulary,
                .running = p->running,
                .queued = p->queued,
                .engine_restarts = p->engine_restarts,
                .load_percent = p->load_percent,
                .kv_used_bytes = p->kv_used_bytes,
                .kv_cached_bytes = p->kv_cached_bytes,
                .digest = p->digest,
                .aliases = (const char *const *)p->aliases,
                .n_aliases = p->n_aliases,
                .stored_bytes = p->stored_bytes,
                .pinned = p->pinned,
                .damaged = p->damaged,
                .device = p->device,
                .placement = p->placement,
                .kv_memory = p->kv_memory,
                .device_bytes = p->device_bytes,
                .load_stage = p->load_stage,
                .lossless = p->lossless,
                .packed = p->packed,
                .resident = p->resident,
                .idle_ms = p->idle_ms,
                .unload_ms = p->unload_ms,
                .holders = p->holders,
                .held = p->held,
        };
}

int reply_show_models(struct reply *r, Spark__V1__ModelInfo *const *models, size_t n) {
        r->models = calloc(n ? n : 1, sizeof(*r->models));
        r->model_list = calloc(n ? n : 1, sizeof(struct spark_model *));
        if (!r->models || !r->model_list)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                model_show(&r->models[i], models[i]);
                if (weights_show(&r->weights, models[i]->weights, &r->models[i].weights) < 0)
                        return -ENOMEM;
                r->model_list[i] = &r->models[i];
        }
        return 0;
}

static int requests_show(struct reply *r, Spark__V1__RequestInfo *const *requests, size_t n) {
        r->requests = calloc(n ? n : 1, sizeof(*r->requests));
        r->request_list = calloc(n ? n : 1, sizeof(struct spark_request_info *));
        if (!r->requests || !r->request_list)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                const Spark__V1__RequestInfo *p = requests[i];

                r->requests[i] = (struct spark_request_info){
                        .uid = p->uid,
                        .pid = p->pid,
                        .unit = p->unit,
                        .model = p->model,
                        .kind = p->kind,
                        .state = p->state,
                        .prompt_tokens = p->prompt_tokens,
                        .completion_tokens = p->completion_tokens,
                        .age_ms = p->age_ms,
                        .priority = (int)p->priority,
                        .tokens_per_second = p->tokens_per_second,
                        .cached_tokens = p->cached_tokens,
                };
                r->request_list[i] = &r->requests[i];
        }
        return 0;
}

static int users_show(struct reply *r, Spark__V1__UserInfo *const *users, size_t n) {
        r->users = calloc(n ? n : 1, sizeof(*r->users));
        r->user_list = calloc(n ? n : 1, sizeof(struct spark_user_info *));
        if (!r->users || !r->user_list)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                const Spark__V1__UserInfo *p = users[i];

                r->users[i] = (struct spark_user_info){
                        .uid = p->uid,
                        .weight = p->weight,
                        .connections = p->connections,
                        .running = p->running,
                        .queued = p->queued,
                        .sessions = p->sessions,
                        .bytes = p->bytes,
                        .kv_used_bytes = p->kv_used_bytes,
                        .kv_cached_bytes = p->kv_cached_bytes,
                        .kv_limit_bytes = p->kv_limit_bytes,
                        .tokens_today = p->tokens_today,
                        .tokens_per_day = p->tokens_per_day,
                        .tokens_per_second = p->tokens_per_second,
                        .energy_uj_today = p->energy_uj_today,
                        .battery_tokens_today = p->battery_tokens_today,
                        .battery_energy_uj_today = p->battery_energy_uj_today,
                        .battery_tokens_per_day = p->battery_tokens_per_day,
                        .battery_joules_per_day = p->battery_joules_per_day,
                        .energy_tokens_today = p->energy_tokens_today,
                };
                r->user_list[i] = &r->users[i];
        }
        return 0;
}

static const struct spark_memory *memory_show(struct reply *r, const Spark__V1__MemoryInfo *p) {
        if (!p)
                return NULL;
        r->memory = (struct spark_memory){
                .machine = p->machine,
                .machine_available = p->machine_available,
                .limit = p->limit,
                .available = p->available,
                .floor = p->floor,
                .headroom = p->headroom,
                .missing = p->missing,
                .promised = p->promised,
                .given = p->given,
                .images = p->images,
                .kv = p->kv,
                .kv_used = p->kv_used,
                .kv_cached = p->kv_cached,
                .kv_resident = p->kv_resident,
                .engine = p->engine,
                .control = p->control,
                .users = p->users,
                .device = p->device,
                .ours = p->ours,
                .others = p->others,
                .pressure_known = p->pressure_known,
                .pressure_some = p->pressure_some,
                .pressure_full = p->pressure_full,
                .pressure_source = p->pressure_source,
                .pressure = p->pressure,
                .step = p->step,
                .shed = p->shed,
        };
        return &r->memory;
}

static void power_show(struct spark_power *power, const Spark__V1__PowerInfo *p) {
        *power = (struct spark_power){
                .supply = p->supply,
                .source = p->source,
                .has_battery = p->has_battery,
                .percent = p->percent,
                .profile = p->profile,
                .serves = p->serves,
                .throttled = p->throttled,
                .temperature_known = p->temperature_known,
                .temperature_c = p->temperature_c,
                .temperature_source = p->temperature_source,
                .sleep = p->sleep,
                .inhibitor = p->inhibitor,
                .awake = p->awake,
                .sleeps = p->sleeps,
                .sleep_ms = p->sleep_ms,
                .resume_ms = p->resume_ms,
                .energy_source = p->energy_source,
                .energy_uj = p->energy_uj,
                .energy_tokens = p->energy_tokens,
                .joules_per_token = p->joules_per_token,
                .watts_known = p->watts_known,
                .watts = p->watts,
                .notes = (const char *const *)p->notes,
                .n_notes = p->n_notes,
                .batch = p->batch,
                .threads = p->threads,
                .clocks = p->clocks,
                .in_force = p->in_force,
                .clocks_by = p->clocks_by,
                .refused = p->refused,
        };
}

int reply_show_status(struct reply *r, const Spark__V1__StatusResult *p) {
        int k;

        k = reply_show_models(r, p->models, p->n_models);
        if (k == 0)
                k = requests_show(r, p->requests, p->n_requests);
        if (k == 0)
                k = users_show(r, p->users, p->n_users);
        if (k == 0)
                k = leases_show(r, p->leases, p->n_leases);
        if (k < 0)
                return k;
        r->status = (struct spark_status_result){
                .version = p->version,
                .state = p->state,
                .uptime_s = p->uptime_s,
                .connections = p->connections,
                .requests_running = p->requests_running,
                .requests_queued = p->requests_queued,
                .memory_total = p->memory_total,
                .memory_available = p->memory_available,
                .memory_floor = p->memory_floor,
                .memory_images = p->memory_images,
                .memory_kv = p->memory_kv,
                .memory_engine = p->memory_engine,
                .models = r->model_list,
                .n_models = p->n_models,
                .requests = r->request_list,
                .n_requests = p->n_requests,
                .users = r->user_list,
                .n_users = p->n_users,
                .memory_kv_used = p->memory_kv_used,
                .memory_kv_cached = p->memory_kv_cached,
                .warnings = (const char *const *)p->warnings,
                .n_warnings = p->n_warnings,
                .leases = r->lease_list,
                .n_leases = p->n_leases,
                .leased_bytes = p->leased_bytes,
                .memory = memory_show(r, p->memory),
        };
        if (p->power) {
                power_show(&r->power, p->power);
                r->status.power = &r->power;
        }
        r->done.status = &r->status;
        return 0;
}
