/* SPDX-License-Identifier: Apache-2.0 */

/* What a run has to show: no service difference beyond the bound, and what its scenario is about. */

#include <stdarg.h>
#include <stdio.h>

#include "base/macro.h"
#include "sim-scenario.h"

#define CHURN_GAIN_MOST 1.1

_printf_(2, 3) static void fault(struct sim_verdict *v, const char *format, ...) {
        va_list args;

        if (v->n_faults == SIM_FAULTS_MAX)
                return;
        va_start(args, format);
        (void)vsnprintf(v->faults[v->n_faults++], sizeof(v->faults[0]), format, args);
        va_end(args);
}

static void judge_bound(struct sim_verdict *v, const struct sim_set *set, const char *what) {
        struct fair_worst w;

        if (!fair_exceeded(&set->fair) || !fair_worst(&set->fair, &w))
                return;
        fault(v, "%s %u and %u both had something waiting and came %.0f units apart; the bound is %.0f", what,
              set->ids[w.a], set->ids[w.b], w.difference, w.bound);
}

static void judge_jain(struct sim_verdict *v, const struct sim_set *set, double least) {
        double jain = fair_jain(&set->fair);

        if (set->fair.n < 2)
                return;
        if (set->fair.n_together == 0)
                fault(v, "never had all users of a class something waiting: their shares say nothing");
        else if (jain < least)
                fault(v, "Jain's index over users is %.4f, wanted is %.2f", jain, least);
}

/* Twice what it is alone, and one step that has to end first. */
static int judge_alone(struct sim_verdict *v, const struct sim_config *c, const struct sim_result *r) {
        struct sim_config lone = *c;
        struct sim_result alone;
        uint64_t step = r->longest_step_ns / 1000;
        int e;

        lone.n_groups = 1;
        lone.requests = MAX(r->accounts[0].done, 1u);
        e = sim_run(&lone, &alone);
        if (e < 0)
                return e;
        v->ttft_p99 = sim_histogram_quantile(&r->accounts[0].ttft, 990);
        v->alone_p99 = sim_histogram_quantile(&alone.accounts[0].ttft, 990);
        if (r->accounts[0].done < 100)
                fault(v, "only %llu interactive requests were done: too few to judge",
                      (unsigned long long)r->accounts[0].done);
        else if (v->ttft_p99 > 2 * v->alone_p99 + step)
                fault(v, "p99 of the interactive clients' time to first token is %.1f ms; on an idle machine %.1f ms",
                      (double)v->ttft_p99 / 1000, (double)v->alone_p99 / 1000);
        sim_result_deinit(&alone);
        return 0;
}

static void judge_churn(struct sim_verdict *v, const struct sim_config *c, const struct sim_result *r) {
        double keeps = (double)r->accounts[0].units / c->groups[0].clients;
        double churns = (double)r->accounts[1].units / c->groups[1].clients;

        v->churn_gain = keeps > 0 ? churns / keeps : 0;
        if (keeps <= 0 || v->churn_gain > CHURN_GAIN_MOST)
                fault(v, "clients with a new connection for each request got %.2f times what others got", v->churn_gain);
}

int sim_judge(const struct sim_scenario *scenario, const struct sim_config *c, struct sim_result *ret,
              struct sim_verdict *ret_verdict) {
        struct sim_verdict v = { .scenario = scenario };
        int r = sim_run(c, ret);

        if (r < 0)
                return r;
        for (int i = 0; i < SCHEDULE_CLASSES; i++) {
                judge_bound(&v, &ret->users[i], "users");
                if (scenario && scenario->jain_least > 0)
                        judge_jain(&v, &ret->users[i], scenario->jain_least);
        }
        for (uint32_t i = 0; i < ret->n_client_sets; i++)
                judge_bound(&v, &ret->clients[i], "clients");
        if (scenario && scenario->churn)
                judge_churn(&v, c, ret);
        if (scenario && scenario->alone)
                r = judge_alone(&v, c, ret);
        if (r < 0) {
                sim_result_deinit(ret);
                return r;
        }
        *ret_verdict = v;
        return 0;
}
