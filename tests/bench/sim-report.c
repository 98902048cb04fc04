/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "sim-report.h"

/* A line of the tables: a user in a class, or all of a class. */
struct line {
        uint32_t uid, weight, clients;
        enum schedule_class class;
        struct sim_account sum;
};

static const char *const class_names[SCHEDULE_CLASSES] = { "background", "normal", "interactive" };

/* --- lines --------------------------------------------------------------------------------------------------------- */

static void sum_up(struct line *line, const struct sim_group *g, const struct sim_account *a) {
        struct sim_account *sum = &line->sum;

        line->clients += g->clients;
        sum->done += a->done;
        sum->tokens += a->tokens;
        sum->units += a->units;
        sum->rows += a->rows;
        sum->again += a->again;
        sum->parks += a->parks;
        sum->client_jain = a->client_jain;
        sim_histogram_merge(&sum->queue, &a->queue);
        sim_histogram_merge(&sum->ttft, &a->ttft);
        sim_histogram_merge(&sum->gap, &a->gap);
}

/* One of each user and class, at most n_groups. Returns how many. */
static uint32_t lines_of_users(const struct sim_config *c, const struct sim_result *r, struct line *lines) {
        uint32_t n = 0;

        for (uint32_t i = 0; i < c->n_groups; i++) {
                const struct sim_group *g = &c->groups[i];
                uint32_t k = 0;

                while (k < n && (lines[k].uid != g->uid || lines[k].class != g->class))
                        k++;
                if (k == n) {
                        lines[n].uid = g->uid;
                        lines[n].class = g->class;
                        lines[n++].weight = MAX(g->weight, 1u);
                }
                sum_up(&lines[k], g, &r->accounts[i]);
        }
        return n;
}

static uint32_t lines_of_classes(const struct sim_config *c, const struct sim_result *r, struct line *lines) {
        uint32_t n = 0;

        for (int class = SCHEDULE_INTERACTIVE; class >= 0; class--) {
                bool any = false;

                for (uint32_t i = 0; i < c->n_groups; i++) {
                        if ((int)c->groups[i].class != class)
                                continue;
                        any = true;
                        lines[n].class = (enum schedule_class)class;
                        sum_up(&lines[n], &c->groups[i], &r->accounts[i]);
                }
                n += any;
        }
        return n;
}

/* --- tables -------------------------------------------------------------------------------------------------------- */

#define CELLS 13u

struct row {
        char cells[CELLS][40];
        uint32_t n;
};

_printf_(2, 3) static void cell(struct row *row, const char *format, ...) {
        va_list args;

        if (row->n == CELLS)
                return;
        va_start(args, format);
        (void)vsnprintf(row->cells[row->n++], sizeof(row->cells[0]), format, args);
        va_end(args);
}

/* "50 / 95 / 99", in milliseconds or, where the last is long, in seconds. */
static void cell_times(struct row *row, const struct sim_histogram *h, bool with_95) {
        static const uint32_t per_mille[] = { 500, 950, 990 };
        bool seconds = sim_histogram_quantile(h, 990) >= 10000000;
        char text[sizeof(row->cells[0])] = "";
        size_t n = 0;

        for (size_t i = 0; i < ARRAY_SIZE(per_mille) && h->n > 0; i++) {
                double v = (double)sim_histogram_quantile(h, per_mille[i]) / (seconds ? 1e6 : 1e3);

                if (i != 1 || with_95)
                        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%.*f", i ? " / " : "", v < 10 ? 1 : 0, v);
                n = MIN(n, sizeof(text) - 1);
        }
        cell(row, "%s%s", h->n ? text : "-", h->n == 0 ? "" : seconds ? " s" : " ms");
}

static void print_table(FILE *f, const struct row *rows, uint32_t n, bool markdown) {
        size_t widths[CELLS] = { 0 };

        for (uint32_t i = 0; i < n; i++)
                for (uint32_t k = 0; k < rows[i].n; k++)
                        widths[k] = MAX(widths[k], strlen(rows[i].cells[k]));
        for (uint32_t i = 0; i < n; i++) {
                for (uint32_t k = 0; k < rows[i].n; k++) {
                        if (markdown)
                                (void)fprintf(f, "| %s ", rows[i].cells[k]);
                        else
                                (void)fprintf(f, "%*s  ", (int)widths[k], rows[i].cells[k]);
                }
                (void)fputs(markdown ? "|\n" : "\n", f);
                for (uint32_t k = 0; markdown && i == 0 && k < rows[0].n; k++)
                        (void)fputs(k + 1 < rows[0].n ? "|---" : "|---|\n", f);
        }
        (void)fputc('\n', f);
}

static void head_row(struct row *row, bool users) {
        static const char *const names[] = { "class", "clients", "requests", "tokens", "share", "queue 50/95/99",
                                             "first token 50/95/99", "gap 50/99", "parked", "read again" };

        if (users) {
                cell(row, "user");
                cell(row, "weight");
        }
        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                cell(row, "%s", names[i]);
}

static void fill_row(struct row *row, const struct line *l, const struct sim_result *r, bool users) {
        if (users) {
                cell(row, "%u", l->uid);
                cell(row, "%u", l->weight);
        }
        cell(row, "%s", class_names[l->class]);
        cell(row, "%u", l->clients);
        cell(row, "%llu", (unsigned long long)l->sum.done);
        cell(row, "%llu", (unsigned long long)l->sum.tokens);
        cell(row, "%.2f %%", r->units ? 100.0 * (double)l->sum.units / (double)r->units : 0);
        cell_times(row, &l->sum.queue, true);
        cell_times(row, &l->sum.ttft, true);
        cell_times(row, &l->sum.gap, false);
        cell(row, "%llu", (unsigned long long)l->sum.parks);
        cell(row, "%llu", (unsigned long long)l->sum.again);
}

static void print_lines(FILE *f, const struct line *lines, uint32_t n, struct row *rows, const struct sim_result *r,
                        bool users, bool markdown) {
        memset(rows, 0, (n + 1) * sizeof(*rows));
        head_row(&rows[0], users);
        for (uint32_t i = 0; i < n; i++)
                fill_row(&rows[i + 1], &lines[i], r, users);
        print_table(f, rows, n + 1, markdown);
}

/* A row for each set of siblings of which two ever had something waiting at a time. */
static void print_fairness(FILE *f, const struct sim_result *r, struct row *rows, bool markdown) {
        static const char *const names[] = { "siblings", "class", "number", "all waited", "Jain", "furthest apart, units",
                                             "bound" };
        uint32_t n = 1;

        memset(rows, 0, (SIM_GROUPS_MAX + SCHEDULE_CLASSES + 1) * sizeof(*rows));
        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                cell(&rows[0], "%s", names[i]);
        for (uint32_t i = 0; i < SCHEDULE_CLASSES + r->n_client_sets; i++) {
                const struct sim_set *set = i < SCHEDULE_CLASSES ? &r->users[i] : &r->clients[i - SCHEDULE_CLASSES];
                struct fair_worst w;

                if (!fair_worst(&set->fair, &w))
                        continue;
                if (i < SCHEDULE_CLASSES)
                        cell(&rows[n], "users");
                else
                        cell(&rows[n], "clients of %u", set->uid);
                cell(&rows[n], "%s", class_names[set->class]);
                cell(&rows[n], "%u", set->fair.n);
                cell(&rows[n], "%.0f %%", 100.0 * (double)set->fair.n_together / (double)set->fair.n_steps);
                if (set->fair.n_together > 0)
                        cell(&rows[n], "%.4f", fair_jain(&set->fair));
                else
                        cell(&rows[n], "-");
                cell(&rows[n], "%.0f", w.difference);
                cell(&rows[n++], "%.0f", w.bound);
        }
        if (n > 1)
                print_table(f, rows, n, markdown);
}

static void print_verdict(FILE *f, const struct sim_verdict *v) {
        if (v->churn_gain > 0)
                (void)fprintf(f, "A client with a new connection for each request got %.3f times what one got that keeps its "
                                 "own.\n", v->churn_gain);
        if (v->alone_p99 > 0)
                (void)fprintf(f, "Interactive, p99 of the time to first token: %.1f ms; on an idle machine %.1f ms.\n",
                              (double)v->ttft_p99 / 1000, (double)v->alone_p99 / 1000);
        for (uint32_t i = 0; i < v->n_faults; i++)
                (void)fprintf(f, "FAILED: %s.\n", v->faults[i]);
        if (v->n_faults == 0)
                (void)fputs("All as it should be.\n", f);
}

int sim_report_tables(FILE *f, const struct sim_config *c, const struct sim_result *r, const struct sim_verdict *v,
                      double wall_s, bool markdown) {
        _cleanup_free_ struct line *lines = calloc(c->n_groups + SCHEDULE_CLASSES, sizeof(*lines));
        _cleanup_free_ struct row *rows = calloc(SIM_GROUPS_MAX + SCHEDULE_CLASSES + 1, sizeof(*rows));
        double seconds = (double)r->elapsed_ns / 1e9;
        uint32_t n;

        if (!lines || !rows)
                return -ENOMEM;
        (void)fprintf(f, "%s%s on %s%s: %llu requests in %llu steps, %.0f s of virtual time (%.1f s of real time); "
                         "%.0f tokens/s, %.1f rows a step.\n\n",
                      markdown ? "### " : "", v->scenario ? v->scenario->name : "groups", c->machine.name,
                      c->fifo ? ", first come first served" : "", (unsigned long long)r->done,
                      (unsigned long long)r->steps, seconds, wall_s, seconds > 0 ? (double)r->tokens / seconds : 0,
                      r->steps ? (double)r->rows / (double)r->steps : 0);
        n = lines_of_users(c, r, lines);
        print_lines(f, lines, n, rows, r, true, markdown);
        memset(lines, 0, (c->n_groups + SCHEDULE_CLASSES) * sizeof(*lines));
        n = lines_of_classes(c, r, lines);
        print_lines(f, lines, n, rows, r, false, markdown);
        print_fairness(f, r, rows, markdown);
        print_verdict(f, v);
        return 0;
}

/* --- JSON ---------------------------------------------------------------------------------------------------------- */

static void json_times(FILE *f, const char *name, const struct sim_histogram *h) {
        (void)fprintf(f, ",\"%s_ms\":{\"p50\":%.3f,\"p95\":%.3f,\"p99\":%.3f,\"max\":%.3f}", name,
                      (double)sim_histogram_quantile(h, 500) / 1000, (double)sim_histogram_quantile(h, 950) / 1000,
                      (double)sim_histogram_quantile(h, 990) / 1000, (double)h->most / 1000);
}

static void json_lines(FILE *f, const char *name, const struct line *lines, uint32_t n, const struct sim_result *r,
                       bool users) {
        (void)fprintf(f, ",\"%s\":[", name);
        for (uint32_t i = 0; i < n; i++) {
                const struct sim_account *a = &lines[i].sum;

                (void)fprintf(f, "%s{\"class\":\"%s\"", i ? "," : "", class_names[lines[i].class]);
                if (users)
                        (void)fprintf(f, ",\"user\":%u,\"weight\":%u", lines[i].uid, lines[i].weight);
                (void)fprintf(f, ",\"clients\":%u,\"requests\":%llu,\"tokens\":%llu,\"units\":%llu,\"share\":%.6f,"
                                 "\"parked\":%llu,\"read_again\":%llu,\"client_jain\":%.4f",
                              lines[i].clients, (unsigned long long)a->done, (unsigned long long)a->tokens,
                              (unsigned long long)a->units, r->units ? (double)a->units / (double)r->units : 0,
                              (unsigned long long)a->parks, (unsigned long long)a->again, a->client_jain);
                json_times(f, "queue", &a->queue);
                json_times(f, "ttft", &a->ttft);
                json_times(f, "gap", &a->gap);
                (void)fputc('}', f);
        }
        (void)fputc(']', f);
}

static void json_fairness(FILE *f, const struct sim_result *r) {
        bool first = true;

        (void)fputs(",\"fairness\":[", f);
        for (uint32_t i = 0; i < SCHEDULE_CLASSES + r->n_client_sets; i++) {
                const struct sim_set *set = i < SCHEDULE_CLASSES ? &r->users[i] : &r->clients[i - SCHEDULE_CLASSES];
                struct fair_worst w;

                if (!fair_worst(&set->fair, &w))
                        continue;
                (void)fprintf(f, "%s{\"of\":\"%s\",\"class\":\"%s\"", first ? "" : ",",
                              i < SCHEDULE_CLASSES ? "users" : "clients", class_names[set->class]);
                if (i >= SCHEDULE_CLASSES)
                        (void)fprintf(f, ",\"user\":%u", set->uid);
                (void)fprintf(f, ",\"n\":%u,\"jain\":%.6f,\"steps_together\":%llu,\"steps\":%llu,\"difference\":%.3f,"
                                 "\"bound\":%.3f,\"between\":[%u,%u]}",
                              set->fair.n, fair_jain(&set->fair), (unsigned long long)set->fair.n_together,
                              (unsigned long long)set->fair.n_steps, w.difference, w.bound, set->ids[w.a], set->ids[w.b]);
                first = false;
        }
        (void)fputc(']', f);
}

int sim_report_json(FILE *f, const struct sim_config *c, const struct sim_result *r, const struct sim_verdict *v,
                    double wall_s) {
        _cleanup_free_ struct line *lines = calloc(c->n_groups + SCHEDULE_CLASSES, sizeof(*lines));
        uint32_t n;

        if (!lines)
                return -ENOMEM;
        (void)fprintf(f, "{\"scenario\":\"%s\",\"machine\":\"%s\",\"seed\":%llu,\"fifo\":%s,\"requests\":%llu,"
                         "\"steps\":%llu,\"rows\":%llu,\"tokens\":%llu,\"virtual_seconds\":%.6f,\"wall_seconds\":%.3f",
                      v->scenario ? v->scenario->name : "groups", c->machine.name, (unsigned long long)c->seed,
                      c->fifo ? "true" : "false", (unsigned long long)r->done, (unsigned long long)r->steps,
                      (unsigned long long)r->rows, (unsigned long long)r->tokens, (double)r->elapsed_ns / 1e9, wall_s);
        n = lines_of_users(c, r, lines);
        json_lines(f, "users", lines, n, r, true);
        memset(lines, 0, (c->n_groups + SCHEDULE_CLASSES) * sizeof(*lines));
        n = lines_of_classes(c, r, lines);
        json_lines(f, "classes", lines, n, r, false);
        json_fairness(f, r);
        (void)fprintf(f, ",\"churn_gain\":%.4f,\"ttft_p99_ms\":%.3f,\"alone_ttft_p99_ms\":%.3f,\"failed\":[", v->churn_gain,
                      (double)v->ttft_p99 / 1000, (double)v->alone_p99 / 1000);
        for (uint32_t i = 0; i < v->n_faults; i++)
                (void)fprintf(f, "%s\"%s\"", i ? "," : "", v->faults[i]);
        (void)fputs("]}\n", f);
        return 0;
}
