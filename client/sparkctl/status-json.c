/* SPDX-License-Identifier: Apache-2.0 */

/* What the service says of itself, as JSON. The keys stay. */

#include "memory.h"
#include "power.h"
#include "priority.h"
#include "status.h"
#include "weights.h"

void status_json_model(struct json *j, const struct spark_model *m) {
        json_string(j, "name", m->name);
        json_string(j, "state", m->state);
        json_bool(j, "default", m->is_default);
        json_string(j, "path", m->path);
        json_string(j, "architecture", m->architecture);
        json_string(j, "format", m->format);
        json_string(j, "backend", m->backend);
        json_string(j, "device", m->device);
        json_string(j, "placement", m->placement);
        json_string(j, "kv_memory", m->kv_memory);
        json_u64(j, "device_bytes", m->device_bytes);
        json_u64(j, "parameters", m->parameters);
        json_u64(j, "context", m->context);
        json_u64(j, "vocabulary", m->vocabulary);
        json_bool(j, "has_chat_template", m->has_chat_template);
        json_u64(j, "image_bytes", m->image_bytes);
        json_u64(j, "missing_bytes", m->missing_bytes);
        json_u64(j, "kv_bytes", m->kv_bytes);
        json_u64(j, "kv_used_bytes", m->kv_used_bytes);
        json_u64(j, "kv_cached_bytes", m->kv_cached_bytes);
        json_u64(j, "running", m->running);
        json_u64(j, "queued", m->queued);
        json_u64(j, "engine_restarts", m->engine_restarts);
        json_u64(j, "generated_tokens", m->generated_tokens);
        json_number(j, "tokens_per_second", m->tokens_per_second, 9);
        json_u64(j, "load_percent", m->load_percent);
        json_string(j, "load_stage", m->load_stage);
        json_string(j, "resident", m->resident);
        json_u64(j, "idle_ms", m->idle_ms);
        json_u64(j, "unload_ms", m->unload_ms);
        json_u64(j, "holders", m->holders);
        json_string(j, "held", m->held);
        json_bool(j, "lossless", m->lossless);
        weights_json(j, m->weights);
        if (m->digest[0]) {
                json_string(j, "digest", m->digest);
                json_open(j, "aliases", '[');
                for (size_t i = 0; i < m->n_aliases; i++)
                        json_string(j, NULL, m->aliases[i]);
                json_close(j, ']');
                json_u64(j, "stored_bytes", m->stored_bytes);
                json_bool(j, "pinned", m->pinned);
                json_bool(j, "damaged", m->damaged);
        }
        if (m->error[0])
                json_string(j, "error", m->error);
}

void status_json_models(struct json *j, const struct spark_model *const *models, size_t n) {
        json_open(j, "models", '[');
        for (size_t i = 0; i < n; i++) {
                json_open(j, NULL, '{');
                status_json_model(j, models[i]);
                json_close(j, '}');
        }
        json_close(j, ']');
}

void status_json_requests(struct json *j, const struct spark_status_result *s) {
        json_open(j, "requests", '[');
        for (size_t i = 0; i < s->n_requests; i++) {
                const struct spark_request_info *q = s->requests[i];

                json_open(j, NULL, '{');
                json_u64(j, "uid", q->uid);
                json_u64(j, "pid", q->pid);
                json_string(j, "unit", q->unit);
                json_string(j, "model", q->model);
                json_string(j, "kind", q->kind);
                json_string(j, "state", q->state);
                json_u64(j, "prompt_tokens", q->prompt_tokens);
                json_u64(j, "completion_tokens", q->completion_tokens);
                json_number(j, "age_ms", q->age_ms, 9);
                json_string(j, "priority", priority_name(q->priority));
                json_u64(j, "cached_tokens", q->cached_tokens);
                json_number(j, "tokens_per_second", q->tokens_per_second, 9);
                json_close(j, '}');
        }
        json_close(j, ']');
}

static void json_users(struct json *j, const struct spark_status_result *s) {
        json_open(j, "users", '[');
        for (size_t i = 0; i < s->n_users; i++) {
                const struct spark_user_info *u = s->users[i];

                json_open(j, NULL, '{');
                json_u64(j, "uid", u->uid);
                json_u64(j, "weight", u->weight);
                json_u64(j, "connections", u->connections);
                json_u64(j, "running", u->running);
                json_u64(j, "queued", u->queued);
                json_u64(j, "sessions", u->sessions);
                json_u64(j, "bytes", u->bytes);
                json_u64(j, "kv_used_bytes", u->kv_used_bytes);
                json_u64(j, "kv_cached_bytes", u->kv_cached_bytes);
                json_u64(j, "kv_limit_bytes", u->kv_limit_bytes);
                json_u64(j, "tokens_today", u->tokens_today);
                json_u64(j, "tokens_per_day", u->tokens_per_day);
                json_number(j, "tokens_per_second", u->tokens_per_second, 9);
                power_json_user(j, u);
                json_close(j, '}');
        }
        json_close(j, ']');
}

void status_json(struct json *j, const struct spark_status_result *s) {
        json_open(j, NULL, '{');
        json_string(j, "version", s->version);
        json_string(j, "state", s->state);
        json_number(j, "uptime_s", s->uptime_s, 9);
        json_u64(j, "connections", s->connections);
        json_u64(j, "requests_running", s->requests_running);
        json_u64(j, "requests_queued", s->requests_queued);
        json_open(j, "memory", '{');
        json_u64(j, "total", s->memory_total);
        json_u64(j, "available", s->memory_available);
        json_u64(j, "floor", s->memory_floor);
        json_u64(j, "images", s->memory_images);
        json_u64(j, "kv", s->memory_kv);
        json_u64(j, "engine", s->memory_engine);
        json_u64(j, "kv_used", s->memory_kv_used);
        json_u64(j, "kv_cached", s->memory_kv_cached);
        memory_json(j, s->memory);
        json_close(j, '}');
        power_json(j, s->power);
        status_json_models(j, s->models, s->n_models);
        status_json_requests(j, s);
        json_users(j, s);
        status_json_leases(j, s);
        json_open(j, "warnings", '[');
        for (size_t i = 0; i < s->n_warnings; i++)
                json_string(j, NULL, s->warnings[i]);
        json_close(j, ']');
        json_close(j, '}');
}
