/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The sums of a load, for people and for programs. */

#include "client/spark.h"
#include "json.h"

/* A table on standard output. */
void load_plan_print(const struct spark_load_result *r);
/* Adds the keys to an open object. */
void load_plan_json(struct json *j, const struct spark_load_result *r, bool dry_run);
