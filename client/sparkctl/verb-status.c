/* SPDX-License-Identifier: Apache-2.0 */

/* status, models, ps: what the service knows and does. */

#include <stdio.h>
#include <string.h>

#include "memory.h"
#include "power.h"
#include "priority.h"
#include "status.h"
#include "users.h"
#include "weights.h"

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

static void print_stored(const struct spark_model *m) {
        char bytes[32], digest[16], alias[80];

        (void)printf("    stored as sha256:%.12s, %s%s%s", format_safe(m->digest, digest, sizeof(digest)),
                     words_bytes(m->stored_bytes, bytes), m->pinned ? ", pinned" : "",
                     m->damaged ? ", DAMAGED: import it again" : "");
        for (size_t i = 0; i < m->n_aliases; i++)
                (void)printf("%s%s", i ? ", " : "; also ", format_safe(m->aliases[i], alias, sizeof(alias)));
        (void)printf("\n");
}

static void print_device(const struct spark_model *m) {
        char device[80], placement[32], kv[32], bytes[32];

        (void)printf("    %s: weights in %s memory, KV cache in the %s's", format_safe(m->device, device, sizeof(device)),
                     format_safe(m->placement, placement, sizeof(placement)), format_safe(m->kv_memory, kv, sizeof(kv)));
        if (m->device_bytes)
                (void)printf("; %s of the device's own are taken", words_bytes(m->device_bytes, bytes));
        (void)printf("\n");
}

static void print_residency(const struct spark_model *m) {
        char reason[16], idle[32], left[32];

        (void)printf("    resident (%s", format_safe(m->resident, reason, sizeof(reason)));
        if (m->holders)
                (void)printf(" by %u", m->holders);
        (void)printf(")");
        if (m->idle_ms >= 1000)
                (void)printf(", idle for %s", format_duration((double)m->idle_ms / 1000, idle));
        if (m->unload_ms)
                (void)printf(", unloaded in %s unless it is used", format_duration((double)m->unload_ms / 1000, left));
        (void)printf("\n");
}

static void print_model(const struct spark_model *m) {
        char name[80], state[32], arch[32], format[32], bytes[32], kv[32], count[32], text[300];

        (void)printf("%c %-24s %-10s", m->is_default ? '*' : ' ', format_safe(m->name, name, sizeof(name)),
                     format_safe(m->state, state, sizeof(state)));
        if (strcmp(m->state, "loading") == 0)
                (void)printf("%s %u %%", strcmp(m->load_stage, "survey") == 0 ? " survey" : "", m->load_percent);
        if (m->architecture[0])
                (void)printf(" %s %s %s, context %u", format_safe(m->architecture, arch, sizeof(arch)),
                             format_count(m->parameters, count), format_safe(m->format, format, sizeof(format)),
                             m->context);
        if (m->missing_bytes)
                (void)printf(", %s of %s given back", words_bytes(m->missing_bytes, bytes),
                             words_bytes(m->image_bytes + m->missing_bytes, kv));
        else if (m->image_bytes)
                (void)printf(", %s + %s KV", words_bytes(m->image_bytes, bytes), words_bytes(m->kv_bytes, kv));
        if (m->lossless || m->packed)
                (void)printf("; %s%s%.2f bits per weight", m->packed ? "packed, " : "", m->lossless ? "losslessly coded, " : "",
                             weights_bits(m->weights));
        (void)printf("\n");
        if (m->digest[0])
                print_stored(m);
        if (m->backend[0])
                (void)printf("    on %s; %u running, %u waiting, %.1f tokens/s, %llu tokens since the start%s\n",
                             format_safe(m->backend, text, sizeof(text)), m->running, m->queued,
                             (double)m->tokens_per_second, (unsigned long long)m->generated_tokens,
                             m->has_chat_template ? "" : "; no chat template");
        if (strcmp(m->state, "ready") == 0 && m->resident[0])
                print_residency(m);
        if (m->device[0])
                print_device(m);
        if (m->held[0])
                (void)printf("    held back (%s); its requests wait\n", format_safe(m->held, text, sizeof(text)));
        if (m->engine_restarts)
                (void)printf("    its engine was restarted %u time%s\n", m->engine_restarts, words_s(m->engine_restarts));
        if (m->error[0])
                (void)printf("    %s\n", format_safe(m->error, text, sizeof(text)));
}

void status_model_show(const struct spark_model *m, bool json) {
        _cleanup_json_ struct json j = JSON_NULL;

        if (!json) {
                print_model(m);
                weights_print(m->weights);
                return;
        }
        json_open(&j, NULL, '{');
        status_json_model(&j, m);
        json_close(&j, '}');
        (void)json_print(&j);
}

static void print_requests(const struct spark_status_result *s) {
        struct user_names names = { 0 };

        (void)printf("%-16s %8s %-11s %-8s %-20s %-10s %8s %8s %8s %7s %10s  %s\n", "USER", "PID", "PRIORITY", "STATE", "MODEL",
                      "KIND", "PROMPT", "CACHED", "TOKENS", "TOK/S", "AGE", "UNIT");
        for (size_t i = 0; i < s->n_requests; i++) {
                const struct spark_request_info *q = s->requests[i];
                char model[24], kind[16], state[16], unit[80], age[32];

                (void)printf("%-16s %8u %-11s %-8s %-20s %-10s %8u %8u %8u %7.1f %10s  %s\n", user_name(&names, q->uid), q->pid,
                             priority_name(q->priority), format_safe(q->state, state, sizeof(state)),
                             format_safe(q->model, model, sizeof(model)), format_safe(q->kind, kind, sizeof(kind)),
                             q->prompt_tokens, q->cached_tokens, q->completion_tokens, (double)q->tokens_per_second,
                             format_duration((double)q->age_ms / 1000, age), format_safe(q->unit, unit, sizeof(unit)));
        }
}

static void print_users(const struct spark_status_result *s) {
        struct user_names names = { 0 };

        (void)printf("%-16s %6s %7s %7s %8s %10s %10s %12s %12s %10s\n", "USER", "CONN", "RUNNING", "WAITING", "TOK/S",
                     "KV USED", "PREFIXES", "TODAY", "A DAY", "ENERGY");
        for (size_t i = 0; i < s->n_users; i++) {
                const struct spark_user_info *u = s->users[i];
                char used[32], cached[32], joules[32], limit[32] = "-";

                if (u->tokens_per_day)
                        (void)snprintf(limit, sizeof(limit), "%llu", (unsigned long long)u->tokens_per_day);
                (void)printf("%-16s %6u %7u %7u %8.1f %10s %10s %12llu %12s %10s\n", user_name(&names, u->uid), u->connections,
                             u->running, u->queued, (double)u->tokens_per_second, words_bytes(u->kv_used_bytes, used),
                             words_bytes(u->kv_cached_bytes, cached), (unsigned long long)u->tokens_today, limit,
                             power_joules(u->energy_uj_today, u->energy_tokens_today, u->tokens_today, joules));
        }
}

static void print_power(const struct spark_power *p) {
        char line[POWER_LINE_MAX], note[400];

        (void)printf("Power: %s\n", power_supply_line(p, line));
        if (*power_caps_line(p, line))
                (void)printf("Caps:  %s\n", line);
        (void)printf("Sleep: %s\n", power_sleep_line(p, line));
        for (size_t i = 0; i < p->n_notes; i++)
                (void)printf("       %s\n", format_safe(p->notes[i], note, sizeof(note)));
}

static void print_status(const struct spark_status_result *s) {
        char version[40], state[40], warning[640], a[32], b[32], c[32], d[32], e[32];

        (void)printf("sparkd %s: %s for %s; %u connection%s, %u request%s running, %u waiting\n",
                     format_safe(s->version, version, sizeof(version)), format_safe(s->state, state, sizeof(state)),
                     format_duration((double)s->uptime_s, a), s->connections, words_s(s->connections), s->requests_running,
                     words_s(s->requests_running), s->requests_queued);
        (void)printf("Memory: %s available of %s, %s stay free", words_bytes(s->memory_available, a),
                     words_bytes(s->memory_total, b), words_bytes(s->memory_floor, c));
        (void)printf("; taken: %s images, %s KV cache (%s used, %s prefixes), %s else\n", words_bytes(s->memory_images, a),
                     words_bytes(s->memory_kv, b), words_bytes(s->memory_kv_used, c),
                     words_bytes(s->memory_kv_cached, d), words_bytes(s->memory_engine, e));
        memory_print(s->memory);
        if (s->power)
                print_power(s->power);
        for (size_t i = 0; i < s->n_warnings; i++)
                (void)printf("Warning: %s\n", format_safe(s->warnings[i], warning, sizeof(warning)));
        (void)printf("\n");
        if (s->n_models == 0)
                (void)printf("No models. `sparkctl load FILE` loads one.\n");
        for (size_t i = 0; i < s->n_models; i++)
                print_model(s->models[i]);
        if (s->n_leases > 0)
                (void)printf("\nMemory or models are held by %zu lease%s, %s in all: `sparkctl leases`\n", s->n_leases,
                             words_s(s->n_leases), words_bytes(s->leased_bytes, a));
        if (s->n_requests > 0) {
                (void)printf("\n");
                print_requests(s);
        }
        if (s->n_users > 0) {
                (void)printf("\n");
                print_users(s);
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
        status_json(&j, done->status);
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
        status_json_requests(&j, done->status);
        json_close(&j, '}');
        (void)json_print(&j);
}

static void done_models(struct call *call, const struct spark_done *done) {
        _cleanup_json_ struct json j = JSON_NULL;

        if (call->ctl->json) {
                json_open(&j, NULL, '{');
                status_json_models(&j, done->models, done->n_models);
                json_close(&j, '}');
                (void)json_print(&j);
                return;
        }
        for (size_t i = 0; i < done->n_models; i++)
                print_model(done->models[i]);
        if (done->n_models == 0)
                (void)printf("No models. `sparkctl load FILE` loads one.\n");
}

/* Reads a command line without arguments of its own, but for --all where that is not NULL. -1 = go on, connected. */
static int begin(struct ctl *ctl, const char *verb, const char *text, int argc, char **argv, bool *all) {
        const struct option options[] = { OPTION_ALL(all), OPTION_END };
        const struct option_spec spec = { .verb = verb, .usage = all ? "[--all]" : "", .text = text,
                                          .options = all ? options : NULL };
        int status = options_parse_bare(ctl, &spec, argc, argv);

        if (status >= 0)
                return status;
        return ctl_connect_asking(ctl, all && *all) ?: -1;
}

int verb_status(struct ctl *ctl, int argc, char **argv) {
        struct spark_status_request request = SPARK_STATUS_INIT;
        struct call call = { .ctl = ctl, .on_done = done_status };
        bool all = false;
        int status;

        status = begin(ctl, "status",
                       "Shows the service's state, the memory ledger, the models and what runs on them.\n"
                       "With --json: version, state, uptime_s, connections, requests_running, requests_queued,\n"
                       "memory, models, requests, users, leases, leased_bytes, warnings.\n", argc, argv, &all);
        if (status >= 0)
                return status;
        request.all_users = all;
        return call_wait(&call, spark_status_query(ctl->spark, &request, call_event, &call, &call.id));
}

int verb_ps(struct ctl *ctl, int argc, char **argv) {
        struct spark_status_request request = SPARK_STATUS_INIT;
        struct call call = { .ctl = ctl, .on_done = done_ps };
        bool all = false;
        int status;

        status = begin(ctl, "ps",
                       "Lists the requests that run or wait, with their priority, the tokens of their prompt, how many\n"
                       "of these the prefix cache had, the tokens generated and how many a second. Other users'\n"
                       "requests are shown to root, to the service's own user and, with --all, to who may observe\n"
                       "others. With --json: requests.\n", argc, argv, &all);
        if (status >= 0)
                return status;
        request.all_users = all;
        return call_wait(&call, spark_status_query(ctl->spark, &request, call_event, &call, &call.id));
}

int verb_models_list(struct ctl *ctl, int argc, char **argv) {
        struct call call = { .ctl = ctl, .on_done = done_models };
        int status;

        status = begin(ctl, "models ls", "Lists the models that the service knows; '*' marks the default one. With --json: models.\n",
                       argc, argv, NULL);
        if (status >= 0)
                return status;
        return call_wait(&call, spark_models(ctl->spark, call_event, &call, &call.id));
}
