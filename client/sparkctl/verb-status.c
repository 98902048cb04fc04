/* SPDX-License-Identifier: Apache-2.0 */

/* status, models, ps: what the service knows and does. */

#include <stdio.h>
#include <string.h>

#include "json.h"
#include "options.h"

static void json_model(struct json *j, const struct spark_model *m) {
        json_open(j, NULL, '{');
        json_string(j, "name", m->name);
        json_string(j, "state", m->state);
        json_bool(j, "default", m->is_default);
        json_string(j, "path", m->path);
        json_string(j, "architecture", m->architecture);
        json_string(j, "format", m->format);
        json_string(j, "backend", m->backend);
        json_u64(j, "parameters", m->parameters);
        json_u64(j, "context", m->context);
        json_u64(j, "vocabulary", m->vocabulary);
        json_bool(j, "has_chat_template", m->has_chat_template);
        json_u64(j, "image_bytes", m->image_bytes);
        json_u64(j, "kv_bytes", m->kv_bytes);
        json_u64(j, "running", m->running);
        json_u64(j, "queued", m->queued);
        json_u64(j, "engine_restarts", m->engine_restarts);
        json_u64(j, "generated_tokens", m->generated_tokens);
        json_number(j, "tokens_per_second", m->tokens_per_second, 9);
        json_u64(j, "load_percent", m->load_percent);
        if (m->error[0])
                json_string(j, "error", m->error);
        json_close(j, '}');
}

static void json_models(struct json *j, const struct spark_model *const *models, size_t n) {
        json_open(j, "models", '[');
        for (size_t i = 0; i < n; i++)
                json_model(j, models[i]);
        json_close(j, ']');
}

static void json_requests(struct json *j, const struct spark_status_result *s) {
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
                json_close(j, '}');
        }
        json_close(j, ']');
}

static void json_status(struct json *j, const struct spark_status_result *s) {
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
        json_close(j, '}');
        json_models(j, s->models, s->n_models);
        json_requests(j, s);
        json_close(j, '}');
}

/* "7.2 B", "260 K": how people speak of parameters. */
static const char *format_count(uint64_t n, char out[32]) {
        if (n >= 1000000000)
                (void)snprintf(out, 32, "%.1fB", (double)n / 1e9);
        else if (n >= 1000000)
                (void)snprintf(out, 32, "%.1fM", (double)n / 1e6);
        else if (n >= 1000)
                (void)snprintf(out, 32, "%.0fK", (double)n / 1e3);
        else
                (void)snprintf(out, 32, "%llu", (unsigned long long)n);
        return out;
}

static void print_model(const struct spark_model *m) {
        char name[80], state[32], arch[32], format[32], bytes[32], kv[32], count[32], text[300];

        (void)printf("%c %-24s %-10s", m->is_default ? '*' : ' ', format_safe(m->name, name, sizeof(name)),
                     format_safe(m->state, state, sizeof(state)));
        if (strcmp(m->state, "loading") == 0)
                (void)printf(" %u %%", m->load_percent);
        if (m->architecture[0])
                (void)printf(" %s %s %s, context %u, %s + %s KV", format_safe(m->architecture, arch, sizeof(arch)),
                             format_count(m->parameters, count), format_safe(m->format, format, sizeof(format)),
                             m->context, format_bytes(m->image_bytes, bytes), format_bytes(m->kv_bytes, kv));
        (void)printf("\n");
        if (m->backend[0])
                (void)printf("    on %s; %u running, %u queued, %.1f tokens/s, %llu tokens since the start%s\n",
                             format_safe(m->backend, text, sizeof(text)), m->running, m->queued,
                             (double)m->tokens_per_second, (unsigned long long)m->generated_tokens,
                             m->has_chat_template ? "" : "; no chat template");
        if (m->engine_restarts)
                (void)printf("    its engine was restarted %u times\n", m->engine_restarts);
        if (m->error[0])
                (void)printf("    %s\n", format_safe(m->error, text, sizeof(text)));
}

static void print_requests(const struct spark_status_result *s) {
        (void)printf("%8s %7s %-20s %-10s %-8s %8s %8s %10s  %s\n", "PID", "UID", "MODEL", "KIND", "STATE", "PROMPT",
                     "TOKENS", "AGE", "UNIT");
        for (size_t i = 0; i < s->n_requests; i++) {
                const struct spark_request_info *q = s->requests[i];
                char model[24], kind[16], state[16], unit[80], age[32];

                (void)printf("%8u %7u %-20s %-10s %-8s %8u %8u %10s  %s\n", q->pid, q->uid,
                             format_safe(q->model, model, sizeof(model)), format_safe(q->kind, kind, sizeof(kind)),
                             format_safe(q->state, state, sizeof(state)), q->prompt_tokens, q->completion_tokens,
                             format_duration((double)q->age_ms / 1000, age), format_safe(q->unit, unit, sizeof(unit)));
        }
}

static void print_status(const struct spark_status_result *s) {
        char version[40], state[40], a[32], b[32], c[32], d[32];

        (void)printf("sparkd %s: %s for %s; %u connections, %u requests running, %u waiting\n",
                     format_safe(s->version, version, sizeof(version)), format_safe(s->state, state, sizeof(state)),
                     format_duration((double)s->uptime_s, a), s->connections, s->requests_running, s->requests_queued);
        (void)printf("Memory: %s available of %s, %s stay free", format_bytes(s->memory_available, a),
                     format_bytes(s->memory_total, b), format_bytes(s->memory_floor, c));
        (void)printf("; taken: %s images, %s KV cache, %s else\n\n", format_bytes(s->memory_images, a),
                     format_bytes(s->memory_kv, b), format_bytes(s->memory_engine, d));
        if (s->n_models == 0)
                (void)printf("No models. `sparkctl load FILE` loads one.\n");
        for (size_t i = 0; i < s->n_models; i++)
                print_model(s->models[i]);
        if (s->n_requests > 0) {
                (void)printf("\n");
                print_requests(s);
        }
}

static void done_status(struct call *call, const struct spark_done *done) {
        _cleanup_json_ struct json j = JSON_NULL;

        if (!done->status)
                return;
        if (!call->ctl->json) {
                print_status(done->status);
                return;
        }
        json_status(&j, done->status);
        (void)json_print(&j);
}

static void done_ps(struct call *call, const struct spark_done *done) {
        _cleanup_json_ struct json j = JSON_NULL;

        if (!done->status)
                return;
        if (!call->ctl->json) {
                print_requests(done->status);
                return;
        }
        json_open(&j, NULL, '{');
        json_requests(&j, done->status);
        json_close(&j, '}');
        (void)json_print(&j);
}

static void done_models(struct call *call, const struct spark_done *done) {
        _cleanup_json_ struct json j = JSON_NULL;

        if (call->ctl->json) {
                json_open(&j, NULL, '{');
                json_models(&j, done->models, done->n_models);
                json_close(&j, '}');
                (void)json_print(&j);
                return;
        }
        for (size_t i = 0; i < done->n_models; i++)
                print_model(done->models[i]);
        if (done->n_models == 0)
                (void)printf("No models. `sparkctl load FILE` loads one.\n");
}

/* Reads a command line without arguments of its own. -1 = go on, connected. */
static int begin(struct ctl *ctl, const char *verb, const char *text, int argc, char **argv) {
        const struct option_spec spec = { .verb = verb, .usage = "", .text = text };
        struct string_list arguments = { 0 };
        int status;

        status = options_parse(ctl, &spec, argc, argv, &arguments);
        string_list_deinit(&arguments);
        if (status >= 0)
                return status;
        status = ctl_connect(ctl);
        return status ? status : -1;
}

int verb_status(struct ctl *ctl, int argc, char **argv) {
        struct call call = { .ctl = ctl, .on_done = done_status };
        int status;

        status = begin(ctl, "status",
                       "Shows the service's state, the memory ledger, the models and what runs on them.\n"
                       "With --json: version, state, uptime_s, connections, requests_running, requests_queued,\n"
                       "memory, models, requests.\n", argc, argv);
        if (status >= 0)
                return status;
        return call_wait(&call, spark_status(ctl->spark, call_event, &call, &call.id));
}

int verb_ps(struct ctl *ctl, int argc, char **argv) {
        struct call call = { .ctl = ctl, .on_done = done_ps };
        int status;

        status = begin(ctl, "ps",
                       "Lists the requests that run or wait. Other users' requests are shown to root and to the\n"
                       "service's own user only. With --json: requests.\n", argc, argv);
        if (status >= 0)
                return status;
        return call_wait(&call, spark_status(ctl->spark, call_event, &call, &call.id));
}

int verb_models(struct ctl *ctl, int argc, char **argv) {
        struct call call = { .ctl = ctl, .on_done = done_models };
        int status;

        status = begin(ctl, "models", "Lists the models that the service knows; '*' marks the default one.\n"
                       "With --json: models.\n", argc, argv);
        if (status >= 0)
                return status;
        return call_wait(&call, spark_models(ctl->spark, call_event, &call, &call.id));
}
