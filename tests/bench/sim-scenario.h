/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Machines and populations by name, and what each of them is expected to show. */

#include "sim.h"

struct sim_scenario {
        const char *name;
        const char *help;
        uint32_t clients;  /* where the caller doesn't say */
        void (*fill)(struct sim_config *c, uint32_t clients);
        double jain_least; /* of the users of a class; 0 = not looked at */
        bool alone;        /* its interactive clients are compared with themselves on an idle machine */
        bool churn;        /* its first two groups are one user's, alike but for the second one's new connections */
};

/* NULL where there is none of that name. The tables end with a NULL name. */
const struct sim_machine *sim_machine_find(const char *name);
const struct sim_scenario *sim_scenario_find(const char *name);
const struct sim_machine *sim_machines(void);
const struct sim_scenario *sim_scenarios(void);

/* "user=1,class=background,clients=100,flood=4": adds a group. False where that makes no sense. */
bool sim_group_parse(struct sim_config *c, const char *text);

#define SIM_FAULTS_MAX 8u

/* What a run showed. */
struct sim_verdict {
        const struct sim_scenario *scenario;
        double churn_gain;      /* service per client that churns, by that of one that doesn't */
        uint64_t ttft_p99, alone_p99; /* microseconds */
        uint32_t n_faults;
        char faults[SIM_FAULTS_MAX][160];
};

/* Runs it, with what it is compared with, and judges. 0, or sim_run()'s negative error; sim_result_deinit() after
 * success only. scenario NULL: only the bounds are judged. */
int sim_judge(const struct sim_scenario *scenario, const struct sim_config *c, struct sim_result *ret,
              struct sim_verdict *ret_verdict);
