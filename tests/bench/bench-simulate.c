/* SPDX-License-Identifier: Apache-2.0 */

/*
 * spark-bench simulate: the scheduler on a virtual machine, with as many clients as one likes. Nothing is computed and
 * nobody waits: what a run gives depends on its arguments alone. Exit status 1 where a bound was exceeded or a scenario
 * did not show what it is about.
 */

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "bench.h"
#include "measure.h"
#include "sim-report.h"

struct options {
        struct sim_config config;
        const struct sim_scenario *scenario;
        uint64_t clients, slots, rows, kv_tokens, target_ms, base_us, row_us, quantum;
        bool has_target, json, markdown;
};

static int usage(FILE *f, int status) {
        (void)fprintf(f, "Usage: spark-bench simulate [--scenario NAME | --group SPEC...] [--machine NAME]\n"
                         "                            [--clients N] [--requests N] [--seed N] [--fifo]\n"
                         "                            [--slots N] [--rows N] [--kv-tokens N] [--target-ms N]\n"
                         "                            [--base-us N] [--row-us N] [--quantum N] [--json | --markdown]\n\n"
                         "Scenarios:\n");
        for (const struct sim_scenario *s = sim_scenarios(); s->name; s++)
                (void)fprintf(f, "  %-10s  %s (%u clients)\n", s->name, s->help, s->clients);
        (void)fprintf(f, "Machines:\n");
        for (const struct sim_machine *m = sim_machines(); m->name; m++)
                (void)fprintf(f, "  %-10s  %s: a step of r rows takes %.2f + %.2f r ms\n", m->name, m->help,
                              (double)m->base_ns / 1e6, (double)m->row_ns / 1e6);
        (void)fprintf(f, "\n  --quantum  units by which a user or a client may be ahead (0 = the scheduler's own)\n"
                         "  --fifo   everything is taken for one client's: first come, first served\n"
                         "  SPEC     user=UID,class=background|normal|interactive,weight=N,clients=N and one of flood=N\n"
                         "           (requests outstanding), every-ms=N (open loop), think-ms=N (closed loop); start-ms=N,\n"
                         "           churn=1 (a connection for each request), chat=N,long=N,short=N (parts of each kind)\n");
        return status;
}

static bool parse_number(const char *s, uint64_t least, uint64_t most, uint64_t *ret) {
        char *end;
        unsigned long long v;

        errno = 0;
        v = strtoull(s, &end, 10);
        if (errno || end == s || *end || *s == '-' || v < least || v > most) {
                (void)fprintf(stderr, "spark-bench: '%s' is not a number from %llu to %llu\n", s,
                              (unsigned long long)least, (unsigned long long)most);
                return false;
        }
        *ret = v;
        return true;
}

static bool parse_machine(struct options *o, const char *name) {
        const struct sim_machine *m = sim_machine_find(name);

        if (m)
                o->config.machine = *m;
        else
                (void)fprintf(stderr, "spark-bench: no machine '%s'\n", name);
        return m != NULL;
}

static bool parse_scenario(struct options *o, const char *name) {
        o->scenario = sim_scenario_find(name);
        if (!o->scenario)
                (void)fprintf(stderr, "spark-bench: no scenario '%s'\n", name);
        return o->scenario != NULL;
}

static bool parse_group(struct options *o, const char *text) {
        if (sim_group_parse(&o->config, text))
                return true;
        (void)fprintf(stderr, "spark-bench: '%s' does not describe a group of clients\n", text);
        return false;
}

static bool parse_option(struct options *o, int c) {
        switch (c) {
        case 's': return parse_scenario(o, optarg);
        case 'm': return parse_machine(o, optarg);
        case 'g': return parse_group(o, optarg);
        case 'c': return parse_number(optarg, 1, SIM_CLIENTS_MAX, &o->clients);
        case 'r': return parse_number(optarg, 1, 1000000000000, &o->config.requests);
        case 'S': return parse_number(optarg, 0, UINT64_MAX, &o->config.seed);
        case 'l': return parse_number(optarg, 1, 65536, &o->slots);
        case 'R': return parse_number(optarg, 1, 1048576, &o->rows);
        case 'k': return parse_number(optarg, 1024, 1ull << 36, &o->kv_tokens);
        case 't': return o->has_target = parse_number(optarg, 0, 1000000, &o->target_ms);
        case 'b': return parse_number(optarg, 0, 1000000000, &o->base_us);
        case 'w': return parse_number(optarg, 1, 1000000000, &o->row_us);
        case 'q': return parse_number(optarg, 1, 1000000000, &o->quantum);
        case 'f': return o->config.fifo = true;
        case 'j': return o->json = true;
        case 'M': return o->markdown = true;
        default: return false;
        }
}

static bool settle_machine(struct options *o) {
        struct sim_machine *m = &o->config.machine;

        m->slots = o->slots ? (uint32_t)o->slots : m->slots;
        m->rows = o->rows ? (uint32_t)o->rows : m->rows;
        m->kv_tokens = o->kv_tokens ? o->kv_tokens : m->kv_tokens;
        m->target_us = o->has_target ? (uint32_t)o->target_ms * 1000 : m->target_us;
        m->base_ns = o->base_us ? o->base_us * 1000 : m->base_ns;
        m->row_ns = o->row_us ? o->row_us * 1000 : m->row_ns;
        if (m->rows < m->slots)
                (void)fprintf(stderr, "spark-bench: a step of %u rows is too small for %u slots\n", m->rows, m->slots);
        return m->rows >= m->slots;
}

static int simulate(const struct options *o) {
        const struct sim_config *c = &o->config;
        struct sim_verdict verdict;
        struct sim_result result;
        double began = measure_now_us(), wall_s;
        int r;

        r = sim_judge(o->scenario, c, &result, &verdict);
        if (r < 0) {
                (void)fprintf(stderr, "spark-bench: the simulation ended early: %s\n", strerror(-r));
                return r == -EINVAL ? 64 : 1;
        }
        wall_s = (measure_now_us() - began) / 1e6;
        if (o->json)
                r = sim_report_json(stdout, c, &result, &verdict, wall_s);
        else
                r = sim_report_tables(stdout, c, &result, &verdict, wall_s, o->markdown);
        for (uint32_t i = 0; i < verdict.n_faults; i++)
                (void)fprintf(stderr, "spark-bench: %s\n", verdict.faults[i]);
        sim_result_deinit(&result);
        return r < 0 || verdict.n_faults > 0;
}

int bench_simulate_main(int argc, char **argv) {
        static const struct option longs[] = {
                { "scenario", required_argument, NULL, 's' },  { "machine", required_argument, NULL, 'm' },
                { "group", required_argument, NULL, 'g' },     { "clients", required_argument, NULL, 'c' },
                { "requests", required_argument, NULL, 'r' },  { "seed", required_argument, NULL, 'S' },
                { "slots", required_argument, NULL, 'l' },     { "rows", required_argument, NULL, 'R' },
                { "kv-tokens", required_argument, NULL, 'k' }, { "target-ms", required_argument, NULL, 't' },
                { "base-us", required_argument, NULL, 'b' },   { "row-us", required_argument, NULL, 'w' },
                { "quantum", required_argument, NULL, 'q' },   { "fifo", no_argument, NULL, 'f' },
                { "json", no_argument, NULL, 'j' },
                { "markdown", no_argument, NULL, 'M' },        { "help", no_argument, NULL, 'h' },
                { NULL, 0, NULL, 0 },
        };
        _cleanup_free_ struct options *o = calloc(1, sizeof(*o));
        int c;

        if (!o)
                return 1;
        o->config.requests = 100000;
        o->config.seed = 1;
        (void)parse_machine(o, "laptop-8b");
        while ((c = getopt_long(argc, argv, "s:m:g:c:r:h", longs, NULL)) != -1) {
                if (c == 'h')
                        return usage(stdout, 0);
                if (!parse_option(o, c))
                        return usage(stderr, 64);
        }
        if (optind < argc || (o->scenario != NULL) == (o->config.n_groups > 0) || !settle_machine(o))
                return usage(stderr, 64);
        o->config.quantum[SCHEDULE_USER] = o->config.quantum[SCHEDULE_CLIENT] = o->quantum;
        if (o->scenario)
                o->scenario->fill(&o->config, o->clients ? (uint32_t)o->clients : o->scenario->clients);
        return simulate(o);
}
