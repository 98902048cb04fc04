/* SPDX-License-Identifier: Apache-2.0 */

/*
 * spark-bench clients: load. What the clients do is a list of groups (load-group.h), made from a mix, from --group
 * options, or from the plain counts; load-run.c does it, load-report.c tells what it gave. docs/load-testing.md is the
 * manual.
 */

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "bench.h"
#include "client/spark.h"
#include "load-report.h"
#include "load-run.h"

#define OVERRIDES_MAX 4u

struct options {
        struct load_options run;
        struct load_group groups[LOAD_GROUPS_MAX];
        size_t n_groups;
        const char *group_text[LOAD_GROUPS_MAX];
        size_t n_group_text;
        const char *mix;
        /* plain counts, as keys of a group: they hold over a mix, and groups hold over them */
        const char *override[OVERRIDES_MAX][2];
        size_t n_overrides;
        bool json, per_client;
};

static int usage(FILE *f, int status) {
        (void)fprintf(f,
                      "Usage: spark-bench clients [-S SOCKET | --http HOST:PORT] [-m MODEL] [OPTIONS]\n\n"
                      "  -S, --socket PATH      the daemon's socket (else $SPARK_SOCKET, else %s)\n"
                      "      --http HOST:PORT   a server with llama-server's /completion instead (loopback only)\n"
                      "  -c, --clients N        clients at once, each with a connection of its own (8)\n"
                      "  -r, --requests N       requests of each client (4)\n"
                      "  -n, --tokens N         tokens per answer, N or LOW-HIGH (64)\n"
                      "  -P, --prompt-tokens N  prompts of so many tokens, all different, N or LOW-HIGH\n"
                      "  -p, --prompt TEXT      the same text for all instead (\"Once upon a time\")\n"
                      "      --mix MIX          chat, long, burst, slow, cancel or mixed\n"
                      "      --group NAME:KEY=VALUE,...   a group of clients; any number of them\n"
                      "      --seconds S        ends after S seconds (else: when all requests are done)\n"
                      "      --warmup S         before that, S seconds that do not count\n"
                      "      --seed N           of everything random (1)\n"
                      "      --temperature T    of the sampling (0)\n"
                      "      --per-client       a row for each client\n"
                      "      --json             everything as JSON\n\n", SPARK_SOCKET_DEFAULT);
        load_group_help(f);
        return status;
}

static int complain(const char *what) {
        (void)fprintf(stderr, "spark-bench: %s\n", what);
        return 64;
}

static bool parse_double(const char *s, double max, double *ret) {
        char *end;
        double v;

        errno = 0;
        v = strtod(s, &end);
        if (errno || end == s || *end || !isfinite(v) || v < 0 || v > max)
                return false;
        *ret = v;
        return true;
}

static bool apply_overrides(const struct options *o, struct load_group *g, char *error, size_t size) {
        for (size_t i = 0; i < o->n_overrides; i++)
                if (!load_group_set(g, o->override[i][0], o->override[i][1], error, size))
                        return false;
        return true;
}

/* Groups from the mix: the counts that are given hold over what the mix says. */
static bool groups_from_mix(struct options *o, const struct load_group *base, char *error, size_t size) {
        o->groups[0] = *base;
        o->n_groups = 1;
        if (!o->mix)
                return true;
        if (strcmp(o->mix, "mixed") == 0) {
                o->n_groups = load_group_mixed(o->groups, base);
        } else if (load_group_set_mix(&o->groups[0], o->mix)) {
                (void)snprintf(o->groups[0].name, sizeof(o->groups[0].name), "%s", o->mix);
        } else {
                (void)snprintf(error, size, "no mix '%s'", o->mix);
                return false;
        }
        for (size_t i = 0; i < o->n_groups; i++) {
                uint32_t clients = o->groups[i].clients;

                if (!apply_overrides(o, &o->groups[i], error, size))
                        return false;
                o->groups[i].clients = clients;
        }
        return true;
}

static bool make_groups(struct options *o, char *error, size_t size) {
        struct load_group base = LOAD_GROUP_DEFAULT;

        if (!apply_overrides(o, &base, error, size))
                return false;
        if (o->n_group_text == 0 || o->mix) {
                if (o->n_group_text > 0) {
                        (void)snprintf(error, size, "--mix and --group exclude each other: a group has a key 'mix'");
                        return false;
                }
                if (!groups_from_mix(o, &base, error, size))
                        return false;
        }
        for (size_t i = 0; i < o->n_group_text; i++) {
                o->groups[i] = base;
                if (!load_group_parse(&o->groups[i], o->group_text[i], error, size))
                        return false;
                o->n_groups++;
        }
        for (size_t i = 0; i < o->n_groups; i++)
                if (!load_group_check(&o->groups[i], error, size))
                        return false;
        return true;
}

/* What a run needs of its groups as a whole, and of what it talks to. */
static bool check_groups(const struct options *o, char *error, size_t size) {
        const char *bad = NULL;
        bool ends = o->run.seconds > 0;

        for (size_t i = 0; i < o->n_groups; i++) {
                const struct load_group *g = &o->groups[i];

                ends = ends || g->requests > 0;
                if (o->run.target.http && g->read > 0)
                        bad = "a slow reader (read=) can't hold back an HTTP server";
                if (o->run.target.http && (g->has_uid || g->priority > 0))
                        bad = "an HTTP server knows no users and priorities (uid=, priority=)";
                for (size_t k = 0; k < i; k++)
                        if (strcmp(g->name, o->groups[k].name) == 0)
                                bad = "two groups have the same name";
        }
        if (!ends)
                bad = "nothing ends this run: give --seconds, or requests= to a group";
        if (bad)
                (void)snprintf(error, size, "%s", bad);
        return !bad;
}

static int run_and_report(const struct options *o) {
        struct load_run run;
        char error[256] = "";
        const char *where = o->run.target.http ? o->run.target.http : o->run.target.socket, *last;
        int r = load_run(&run, o->groups, o->n_groups, &o->run, error, sizeof(error)), status = 1;

        if (r == 0) {
                r = o->json ? load_report_json(stdout, &run) : load_report_table(stdout, &run, o->per_client);
                if (r < 0)
                        (void)snprintf(error, sizeof(error), "writing the report: %s", strerror(-r));
                status = load_report_failed(&run) > 0 ? 1 : 0;
                last = load_report_error(&run);
                if (last)
                        (void)fprintf(stderr, "spark-bench: the last error was %s\n", last);
        }
        if (r != 0) {
                (void)fprintf(stderr, "spark-bench: %s: %s\n", where, error);
                if ((r == -ENOENT || r == -ECONNREFUSED) && !o->run.target.http)
                        (void)fprintf(stderr, "spark-bench: is sparkd running? Start it, or name its socket with -S.\n");
                status = r == -ENOENT || r == -ECONNREFUSED ? 69 : r == -EPERM || r == -EACCES ? 77 : 1;
        }
        load_run_deinit(&run);
        return status;
}

static void override(struct options *o, const char *key, const char *value) {
        size_t i = 0;

        while (i < o->n_overrides && strcmp(o->override[i][0], key) != 0)
                i++;
        o->override[i][0] = key;
        o->override[i][1] = value;
        o->n_overrides = MAX(o->n_overrides, i + 1);
}

enum { OPT_HTTP = 256, OPT_MIX, OPT_GROUP, OPT_SECONDS, OPT_WARMUP, OPT_SEED, OPT_TEMPERATURE, OPT_PER_CLIENT, OPT_JSON };

/* One option; false when it makes no sense. */
static bool take_option(struct options *o, int c) {
        double v;

        switch (c) {
        case 'S': o->run.target.socket = optarg; return true;
        case 'm': o->run.target.model = optarg; return true;
        case 'c': override(o, "clients", optarg); return true;
        case 'r': override(o, "requests", optarg); return true;
        case 'n': override(o, "tokens", optarg); return true;
        case 'P': override(o, "prompt", optarg); return true;
        case 'p': o->run.prompt = optarg; return true;
        case OPT_HTTP: o->run.target.http = optarg; return true;
        case OPT_MIX: o->mix = optarg; return true;
        case OPT_GROUP:
                if (o->n_group_text == LOAD_GROUPS_MAX)
                        return false;
                o->group_text[o->n_group_text++] = optarg;
                return true;
        case OPT_SECONDS: return parse_double(optarg, 1e6, &o->run.seconds) && o->run.seconds > 0;
        case OPT_WARMUP: return parse_double(optarg, 1e6, &o->run.warmup);
        case OPT_SEED:
                if (!parse_double(optarg, 0x1p53, &v) || v != floor(v))
                        return false;
                o->run.seed = (uint64_t)v;
                return true;
        case OPT_TEMPERATURE:
                if (!parse_double(optarg, 100, &v))
                        return false;
                o->run.target.temperature = (float)v;
                return true;
        case OPT_PER_CLIENT: o->per_client = true; return true;
        case OPT_JSON: o->json = true; return true;
        default: return false;
        }
}

int bench_clients_main(int argc, char **argv) {
        static const struct option longs[] = {
                { "socket", required_argument, NULL, 'S' },
                { "model", required_argument, NULL, 'm' },
                { "clients", required_argument, NULL, 'c' },
                { "requests", required_argument, NULL, 'r' },
                { "tokens", required_argument, NULL, 'n' },
                { "prompt-tokens", required_argument, NULL, 'P' },
                { "prompt", required_argument, NULL, 'p' },
                { "http", required_argument, NULL, OPT_HTTP },
                { "mix", required_argument, NULL, OPT_MIX },
                { "group", required_argument, NULL, OPT_GROUP },
                { "seconds", required_argument, NULL, OPT_SECONDS },
                { "warmup", required_argument, NULL, OPT_WARMUP },
                { "seed", required_argument, NULL, OPT_SEED },
                { "temperature", required_argument, NULL, OPT_TEMPERATURE },
                { "per-client", no_argument, NULL, OPT_PER_CLIENT },
                { "json", no_argument, NULL, OPT_JSON },
                { "help", no_argument, NULL, 'h' },
                { NULL, 0, NULL, 0 },
        };
        const char *socket = getenv("SPARK_SOCKET"); /* as sparkctl */
        static struct options o = { .run = { .prompt = "Once upon a time", .seed = 1 } };
        char error[256];
        int c;

        o.run.target.socket = socket && *socket ? socket : SPARK_SOCKET_DEFAULT;
        while ((c = getopt_long(argc, argv, "S:m:c:r:n:P:p:h", longs, NULL)) != -1) {
                if (c == 'h')
                        return usage(stdout, 0);
                if (c == '?')
                        return 64;
                if (!take_option(&o, c)) {
                        (void)fprintf(stderr, "spark-bench: '%s' makes no sense there\n", optarg);
                        return 64;
                }
        }
        if (optind < argc)
                return usage(stderr, 64);
        if (!make_groups(&o, error, sizeof(error)) || !check_groups(&o, error, sizeof(error)))
                return complain(error);
        (void)signal(SIGPIPE, SIG_IGN);
        return run_and_report(&o);
}
