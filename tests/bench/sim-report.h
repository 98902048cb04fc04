/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a simulated run was, for people (text or Markdown) and for programs. */

#include <stdio.h>

#include "sim-scenario.h"

/* 0 or -ENOMEM. wall_s: what the run took of real time. */
int sim_report_tables(FILE *f, const struct sim_config *c, const struct sim_result *r, const struct sim_verdict *v,
                      double wall_s, bool markdown);
int sim_report_json(FILE *f, const struct sim_config *c, const struct sim_result *r, const struct sim_verdict *v,
                    double wall_s);
