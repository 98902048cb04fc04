/* SPDX-License-Identifier: Apache-2.0 */

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"
#include "power.h"
#include "priority.h"
#include "top.h"

#define BAR_WIDTH 20u

const char *top_sort_name(enum top_sort sort) {
        static const char *const names[] = {
                [TOP_SORT_RATE] = "tokens/s", [TOP_SORT_PRIORITY] = "priority", [TOP_SORT_TOKENS] = "tokens",
                [TOP_SORT_AGE] = "age",       [TOP_SORT_USER] = "user",
        };

        return names[sort];
}

void top_lines_deinit(struct top_lines *l) {
        free(l->lines);
        *l = (struct top_lines){ 0 };
}

_printf_(3, 4) static void add(struct top_lines *l, enum top_style style, const char *fmt, ...) {
        va_list ap;

        if (l->n == l->cap) {
                size_t cap = l->cap ? l->cap * 2 : 32;
                struct top_line *lines = reallocarray(l->lines, cap, sizeof(*lines));

                if (!lines) {
                        l->failed = true;
                        return;
                }
                l->lines = lines;
                l->cap = cap;
        }
        l->lines[l->n].style = style;
        va_start(ap, fmt);
        (void)vsnprintf(l->lines[l->n].text, sizeof(l->lines[l->n].text), fmt, ap);
        va_end(ap);
        l->n++;
}

/* ---- the service, its memory, its models ---- */

static void add_service(struct top_lines *l, const struct spark_status_result *s) {
        char version[40], state[40], uptime[32];
        double rate = 0;

        for (size_t i = 0; i < s->n_models; i++)
                rate += (double)s->models[i]->tokens_per_second;
        add(l, TOP_STRONG, "sparkd %s  %s for %s  %u connection%s  %u running  %u waiting  %.1f tokens/s",
            format_safe(s->version, version, sizeof(version)), format_safe(s->state, state, sizeof(state)),
            format_duration((double)s->uptime_s, uptime), s->connections, words_s(s->connections),
            s->requests_running, s->requests_queued, rate);
}

static void add_memory(struct top_lines *l, const struct spark_status_result *s) {
        char a[32], b[32], c[32], d[32], e[32];
        char line[MEMORY_LINE_MAX];
        bool low = s->memory_available < s->memory_floor;

        add(l, low ? TOP_ALERT : TOP_PLAIN, "memory  %s available of %s, %s stay free", words_bytes(s->memory_available, a),
            words_bytes(s->memory_total, b), words_bytes(s->memory_floor, c));
        add(l, TOP_PLAIN, "taken   %s images  %s KV cache (%s used, %s prefixes)  %s else", words_bytes(s->memory_images, a),
            words_bytes(s->memory_kv, b), words_bytes(s->memory_kv_used, c), words_bytes(s->memory_kv_cached, d),
            words_bytes(s->memory_engine, e));
        for (unsigned i = 0; i < MEMORY_LINES; i++)
                if (memory_line(s->memory, i, line, sizeof(line)))
                        add(l, memory_is_short(s->memory) ? TOP_ALERT : TOP_PLAIN, "%s", line);
}

static void add_power(struct top_lines *l, const struct spark_power *p) {
        char line[POWER_LINE_MAX];
        bool poor = p && (p->throttled || strcmp(p->supply, "low") == 0 || strcmp(p->supply, "critical") == 0);

        if (!p)
                return;
        add(l, poor ? TOP_ALERT : TOP_PLAIN, "power   %s", power_supply_line(p, line));
        if (*power_caps_line(p, line))
                add(l, TOP_PLAIN, "caps    %s", line);
        if (strcmp(p->sleep, "awake") != 0)
                add(l, TOP_ALERT, "sleep   %s", power_sleep_line(p, line));
}

/* "[####==......]": used, cached, free. */
static const char *bar(uint64_t used, uint64_t cached, uint64_t total, char out[BAR_WIDTH + 3]) {
        double scale = total ? (double)BAR_WIDTH / (double)total : 0;
        size_t n_used = (size_t)((double)used * scale + 0.5), n_both = (size_t)((double)(used + cached) * scale + 0.5);

        n_both = MIN(n_both, (size_t)BAR_WIDTH);
        n_used = MIN(n_used, n_both);
        out[0] = '[';
        memset(out + 1, '.', BAR_WIDTH);
        memset(out + 1, '=', n_both);
        memset(out + 1, '#', n_used);
        out[BAR_WIDTH + 1] = ']';
        out[BAR_WIDTH + 2] = 0;
        return out;
}

static void add_models(struct top_lines *l, const struct spark_status_result *s) {
        add(l, TOP_PLAIN, "%s", "");
        add(l, TOP_HEADING, "%-24s %-10s %7s %7s %8s  %-22s %s", "MODEL", "STATE", "RUNNING", "WAITING", "TOK/S", "KV",
            "USED, PREFIXES, OF");
        for (size_t i = 0; i < s->n_models; i++) {
                const struct spark_model *m = s->models[i];
                char name[72], state[24], used[32], cached[32], total[32], kv[BAR_WIDTH + 3];

                if (strcmp(m->state, "loading") == 0)
                        (void)snprintf(state, sizeof(state), "%u %%", m->load_percent);
                else
                        (void)format_safe(m->state, state, sizeof(state));
                add(l, strcmp(m->state, "failed") == 0 ? TOP_ALERT : TOP_PLAIN,
                    "%-24s %-10s %7u %7u %8.1f  %s %s, %s, %s", format_safe(m->name, name, sizeof(name)), state, m->running,
                    m->queued, (double)m->tokens_per_second, bar(m->kv_used_bytes, m->kv_cached_bytes, m->kv_bytes, kv),
                    words_bytes(m->kv_used_bytes, used), words_bytes(m->kv_cached_bytes, cached),
                    words_bytes(m->kv_bytes, total));
                if (m->missing_bytes)
                        add(l, TOP_PLAIN, "  %s of %s given back", words_bytes(m->missing_bytes, used),
                            words_bytes(m->image_bytes + m->missing_bytes, total));
        }
}

/* ---- users ---- */

static void add_users(struct top_lines *l, const struct spark_status_result *s, struct user_names *names) {
        add(l, TOP_PLAIN, "%s", "");
        add(l, TOP_HEADING, "%-16s %6s %7s %7s %8s %8s %10s %10s %12s %12s %10s", "USER", "CONN", "RUNNING", "WAITING",
            "SESSIONS", "TOK/S", "KV USED", "PREFIXES", "TODAY", "A DAY", "ENERGY");
        for (size_t i = 0; i < s->n_users; i++) {
                const struct spark_user_info *u = s->users[i];
                bool spent = u->tokens_per_day && u->tokens_today >= u->tokens_per_day;
                char used[32], cached[32], joules[32], limit[32] = "-";

                if (u->tokens_per_day)
                        (void)snprintf(limit, sizeof(limit), "%llu", (unsigned long long)u->tokens_per_day);
                add(l, spent ? TOP_ALERT : TOP_PLAIN, "%-16s %6u %7u %7u %8u %8.1f %10s %10s %12llu %12s %10s",
                    user_name(names, u->uid), u->connections, u->running, u->queued, u->sessions,
                    (double)u->tokens_per_second, words_bytes(u->kv_used_bytes, used),
                    words_bytes(u->kv_cached_bytes, cached), (unsigned long long)u->tokens_today, limit,
                    power_joules(u->energy_uj_today, u->energy_tokens_today, u->tokens_today, joules));
        }
}

/* ---- requests ---- */

typedef const struct spark_request_info *request_pointer;

static int compare(double a, double b) {
        return a < b ? 1 : a > b ? -1 : 0; /* most first */
}

/* Running ones before waiting ones, then by what was asked for; the oldest first among equals. */
static int compare_requests(const void *pa, const void *pb, void *data) {
        const struct spark_request_info *a = *(const request_pointer *)pa, *b = *(const request_pointer *)pb;
        enum top_sort sort = *(const enum top_sort *)data;
        int r = compare(strcmp(a->state, "queued") != 0, strcmp(b->state, "queued") != 0);

        if (r)
                return r;
        switch (sort) {
        case TOP_SORT_PRIORITY:
                r = compare(a->priority, b->priority);
                break;
        case TOP_SORT_TOKENS:
                r = compare(a->completion_tokens, b->completion_tokens);
                break;
        case TOP_SORT_USER:
                r = compare(b->uid, a->uid);
                break;
        case TOP_SORT_RATE:
                r = compare((double)a->tokens_per_second, (double)b->tokens_per_second);
                break;
        default:
                break;
        }
        return r ? r : compare((double)a->age_ms, (double)b->age_ms);
}

static void add_request(struct top_lines *l, const struct spark_request_info *q, struct user_names *names) {
        char model[20], kind[12], state[12], unit[80], age[32];

        add(l, TOP_PLAIN, "%-16s %8u %-11s %-8s %-18s %-10s %8u %8u %8u %8.1f %10s  %s", user_name(names, q->uid), q->pid,
            priority_name(q->priority), format_safe(q->state, state, sizeof(state)),
            format_safe(q->model, model, sizeof(model)), format_safe(q->kind, kind, sizeof(kind)), q->prompt_tokens,
            q->cached_tokens, q->completion_tokens, (double)q->tokens_per_second,
            format_duration((double)q->age_ms / 1000, age), format_safe(q->unit, unit, sizeof(unit)));
}

static void add_requests(struct top_lines *l, const struct spark_status_result *s, enum top_sort sort,
                         struct user_names *names) {
        _cleanup_free_ request_pointer *order = calloc(s->n_requests + 1, sizeof(*order));

        if (!order) {
                l->failed = true;
                return;
        }
        for (size_t i = 0; i < s->n_requests; i++)
                order[i] = s->requests[i];
        qsort_r(order, s->n_requests, sizeof(*order), compare_requests, &sort);
        add(l, TOP_PLAIN, "%s", "");
        add(l, TOP_HEADING, "%-16s %8s %-11s %-8s %-18s %-10s %8s %8s %8s %8s %10s  %s", "USER", "PID", "PRIORITY", "STATE",
            "MODEL", "KIND", "PROMPT", "CACHED", "TOKENS", "TOK/S", "AGE", "UNIT");
        for (size_t i = 0; i < s->n_requests; i++)
                add_request(l, order[i], names);
}

void top_lines_fill(struct top_lines *l, const struct spark_status_result *s, enum top_sort sort,
                    struct user_names *names) {
        char warning[TOP_LINE_MAX];

        l->n = 0;
        l->failed = false;
        add_service(l, s);
        add_memory(l, s);
        add_power(l, s->power);
        for (size_t i = 0; i < s->n_warnings; i++)
                add(l, TOP_ALERT, "%s", format_safe(s->warnings[i], warning, sizeof(warning)));
        add_models(l, s);
        add_users(l, s, names);
        add_requests(l, s, sort, names);
}
