/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>

#include "base/macro.h"
#include "load-report.h"

/* Sums of everything that is reported, made once. */
struct sums {
        struct load_stats all;
        struct load_stats *parties; /* [n_parties] */
        size_t n_parties;
        double jain_clients, jain_groups;
};

static void sums_deinit(struct sums *s) {
        load_stats_deinit(&s->all);
        for (size_t i = 0; i < s->n_parties; i++)
                load_stats_deinit(&s->parties[i]);
        free(s->parties);
}

static int sums_init(struct sums *s, const struct load_run *run) {
        _cleanup_free_ double *clients = calloc(run->n_clients, sizeof(*clients));
        _cleanup_free_ double *groups = calloc(run->n_parties, sizeof(*groups));
        int r = 0;

        s->parties = calloc(run->n_parties, sizeof(*s->parties));
        if (!clients || !groups || !s->parties)
                return -ENOMEM;
        s->n_parties = run->n_parties;
        for (size_t i = 0; i < run->n_clients && r == 0; i++) {
                const struct load_client *c = &run->clients[i];

                r = load_stats_add(&s->parties[c->party - run->parties], &c->stats);
                clients[i] = (double)load_stats_served(&c->stats);
        }
        for (size_t i = 0; i < run->n_parties && r == 0; i++) {
                r = load_stats_add(&s->all, &s->parties[i]);
                /* groups of different size are compared by what one client gets */
                groups[i] = (double)load_stats_served(&s->parties[i]) / run->parties[i].group->clients;
        }
        s->jain_clients = load_jain(clients, run->n_clients);
        s->jain_groups = load_jain(groups, run->n_parties);
        return r;
}

static double share(const struct load_stats *part, const struct load_stats *all) {
        uint64_t whole = load_stats_served(all);

        return whole > 0 ? (double)load_stats_served(part) / (double)whole : 0;
}

static double per_second(double n, const struct load_run *run) {
        double seconds = load_run_seconds(run);

        return seconds > 0 ? n / seconds : 0;
}

uint64_t load_report_failed(const struct load_run *run) {
        uint64_t failed = 0;

        for (size_t i = 0; i < run->n_clients; i++)
                failed += run->clients[i].stats.failed;
        return failed;
}

const char *load_report_error(const struct load_run *run) {
        for (size_t i = run->n_clients; i-- > 0;)
                if (run->clients[i].error[0])
                        return run->clients[i].error;
        return NULL;
}

/* ---- JSON ---- */

static void json_times(FILE *f, const char *name, struct samples *s) {
        (void)fprintf(f, ",\"%s_ms\":{\"n\":%zu,\"p50\":%.3f,\"p95\":%.3f,\"p99\":%.3f,\"max\":%.3f}", name, s->n,
                      samples_quantile(s, 0.50), samples_quantile(s, 0.95), samples_quantile(s, 0.99),
                      samples_quantile(s, 1));
}

/* The members that clients, groups and the whole have in common; the first one follows another. */
static void json_stats(FILE *f, struct load_stats *s, const struct load_stats *all, const struct load_run *run) {
        const char *comma = "";

        (void)fprintf(f, ",\"requests\":%llu,\"failed\":%llu,\"cancelled\":%llu,\"cut\":%llu,\"tokens\":%llu",
                      (unsigned long long)s->requests, (unsigned long long)s->failed, (unsigned long long)s->cancelled,
                      (unsigned long long)s->cut, (unsigned long long)s->tokens);
        (void)fprintf(f, ",\"tokens_per_second\":%.1f,\"requests_per_second\":%.2f,\"prompt_tokens\":%llu",
                      per_second((double)s->tokens, run), per_second((double)s->requests, run),
                      (unsigned long long)s->prompt_tokens);
        (void)fprintf(f, ",\"cached_tokens\":%llu,\"served_tokens\":%llu,\"share\":%.4f",
                      (unsigned long long)s->cached_tokens, (unsigned long long)load_stats_served(s), share(s, all));
        (void)fprintf(f, ",\"asked\":\"%016llx\",\"errors\":{", (unsigned long long)s->asked);
        for (size_t i = 0; i < LOAD_ERRORS; i++) {
                if (s->errors[i] == 0)
                        continue;
                (void)fprintf(f, "%s\"%s\":%llu", comma, load_error_name(i), (unsigned long long)s->errors[i]);
                comma = ",";
        }
        (void)fprintf(f, "}");
        json_times(f, "ttft", &s->ttft);
        json_times(f, "gap", &s->gap);
        json_times(f, "queue", &s->queue);
        json_times(f, "total", &s->total);
        json_times(f, "cancel", &s->cancel);
        json_times(f, "connect", &s->connect);
}

static void json_group(FILE *f, const struct load_party *party, struct sums *sums) {
        static const char *const priorities[] = { "unspecified", "background", "normal", "interactive" };
        const struct load_run *run = party->run;
        const struct load_group *g = party->group;

        (void)fprintf(f, "{\"group\":\"%s\",\"clients\":%u,\"mode\":\"%s\",\"priority\":\"%s\"", g->name, g->clients,
                      g->mode == LOAD_OPEN ? "open" : "closed", priorities[g->priority]);
        json_stats(f, &sums->parties[party - run->parties], &sums->all, run);
        (void)fprintf(f, "}");
}

static void json_client(FILE *f, struct load_client *c, const struct sums *sums) {
        const struct load_party *party = c->party;

        (void)fprintf(f, "{\"client\":%u,\"group\":\"%s\"", c->number, party->group->name);
        if (party->group->has_uid)
                (void)fprintf(f, ",\"uid\":%u", c->uid);
        (void)fprintf(f, ",\"gave_up\":%s", c->gone ? "true" : "false");
        json_stats(f, &c->stats, &sums->all, party->run);
        (void)fprintf(f, "}");
}

int load_report_json(FILE *f, const struct load_run *run) {
        _cleanup_(sums_deinit) struct sums sums = { 0 };
        int r = sums_init(&sums, run);

        if (r < 0)
                return r;
        (void)fprintf(f, "{\"target\":\"%s\",\"clients\":%zu,\"seconds\":%.3f,\"jain\":%.4f,\"jain_groups\":%.4f",
                      run->transport->name, run->n_clients, load_run_seconds(run), sums.jain_clients, sums.jain_groups);
        json_stats(f, &sums.all, &sums.all, run);
        (void)fprintf(f, ",\"groups\":[");
        for (size_t i = 0; i < run->n_parties; i++) {
                (void)fprintf(f, "%s", i ? "," : "");
                json_group(f, &run->parties[i], &sums);
        }
        (void)fprintf(f, "],\"per_client\":[");
        for (size_t i = 0; i < run->n_clients; i++) {
                (void)fprintf(f, "%s", i ? "," : "");
                json_client(f, &run->clients[i], &sums);
        }
        (void)fprintf(f, "]}\n");
        return fflush(f) == 0 ? 0 : -errno;
}

/* ---- for people ---- */

static void print_times(FILE *f, const char *name, struct samples *s) {
        if (s->n > 0)
                (void)fprintf(f, "  %-22s p50 %9.3f ms   p95 %9.3f ms   p99 %9.3f ms\n", name, samples_quantile(s, 0.50),
                              samples_quantile(s, 0.95), samples_quantile(s, 0.99));
}

static void print_row(FILE *f, const char *name, size_t clients, struct load_stats *s, const struct load_stats *all,
                      const struct load_run *run) {
        double prompt = (double)s->prompt_tokens;

        (void)fprintf(f, "%-14s %7zu %8llu %6llu %6llu %9.1f %6.1f%% %9.1f %9.1f %9.1f %8.2f %8.2f %9.1f %6.1f%%\n", name,
                      clients, (unsigned long long)s->requests, (unsigned long long)s->failed,
                      (unsigned long long)s->cancelled, per_second((double)s->tokens, run), 100 * share(s, all),
                      samples_quantile(&s->ttft, 0.50), samples_quantile(&s->ttft, 0.95),
                      samples_quantile(&s->ttft, 0.99), samples_quantile(&s->gap, 0.50),
                      samples_quantile(&s->gap, 0.99), samples_quantile(&s->queue, 0.50),
                      prompt > 0 ? 100 * (double)s->cached_tokens / prompt : 0);
}

static void print_head(FILE *f, const char *what) {
        (void)fprintf(f, "\n%-14s %7s %8s %6s %6s %9s %7s %29s %17s %9s %7s\n", "", "", "", "", "", "", "",
                      "time to first token, ms  ", "gap, ms     ", "queue, ms", "");
        (void)fprintf(f, "%-14s %7s %8s %6s %6s %9s %7s %9s %9s %9s %8s %8s %9s %7s\n", what, "clients", "requests",
                      "failed", "cancel", "tokens/s", "share", "p50", "p95", "p99", "p50", "p99", "p50", "cached");
}

static void print_summary(FILE *f, const struct load_run *run, struct sums *sums) {
        struct load_stats *s = &sums->all;

        (void)fprintf(f, "%zu clients, %llu requests (%llu failed), %llu tokens in %.2f s: %.1f tokens/s\n",
                      run->n_clients, (unsigned long long)s->requests, (unsigned long long)s->failed,
                      (unsigned long long)s->tokens, load_run_seconds(run), per_second((double)s->tokens, run));
        print_times(f, "time to first token", &s->ttft);
        print_times(f, "inter-token gap", &s->gap);
        print_times(f, "whole answer", &s->total);
        print_times(f, "cancel to end", &s->cancel);
        print_times(f, "connecting", &s->connect);
        (void)fprintf(f, "  fairness (Jain)        clients %.4f   groups %.4f\n", sums->jain_clients,
                      sums->jain_groups);
        for (size_t i = 0; i < LOAD_ERRORS; i++)
                if (s->errors[i] > 0)
                        (void)fprintf(f, "  failed with %s: %llu\n", load_error_name(i),
                                      (unsigned long long)s->errors[i]);
        if (s->cut > 0)
                (void)fprintf(f, "  under way at the end: %llu\n", (unsigned long long)s->cut);
}

int load_report_table(FILE *f, const struct load_run *run, bool clients) {
        _cleanup_(sums_deinit) struct sums sums = { 0 };
        int r = sums_init(&sums, run);

        if (r < 0)
                return r;
        print_summary(f, run, &sums);
        if (run->n_parties > 1) {
                print_head(f, "group");
                for (size_t i = 0; i < run->n_parties; i++)
                        print_row(f, run->parties[i].group->name, run->parties[i].group->clients, &sums.parties[i],
                                  &sums.all, run);
        }
        if (clients) {
                print_head(f, "client");
                for (size_t i = 0; i < run->n_clients; i++) {
                        struct load_client *c = &run->clients[i];
                        char name[64];

                        (void)snprintf(name, sizeof(name), "%s/%zu", c->party->group->name,
                                       (size_t)(c - c->party->clients));
                        print_row(f, name, 1, &c->stats, &sums.all, run);
                }
        }
        return fflush(f) == 0 ? 0 : -errno;
}
