/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Power supply, sleep, heat and energy: lines for people and keys of JSON, for status and top. */

#include <stddef.h>

#include "json.h"
#include "client/spark.h"

#define POWER_LINE_MAX 240u

/* "battery 37 % (upower), ...": the supply, heat and energy. */
const char *power_supply_line(const struct spark_power *p, char out[POWER_LINE_MAX]);
/* "awake, ...": sleep. */
const char *power_sleep_line(const struct spark_power *p, char out[POWER_LINE_MAX]);
/* "batch 128, ...": what engines do without; "" where that is nothing. */
const char *power_caps_line(const struct spark_power *p, char out[POWER_LINE_MAX]);
/* "12.3 J", measured for `measured` of so many tokens: "unknown" where that is none, ">12.3 J" where it is not nearly all, "-" where
 * there were no tokens. */
const char *power_joules(uint64_t uj, uint64_t measured, uint64_t tokens, char out[32]);
/* The same as a key: microjoules, or "unknown". */
void power_json_joules(struct json *j, const char *name, uint64_t uj, uint64_t measured);
/* Keys of "power" of an object. */
void power_json(struct json *j, const struct spark_power *p);
/* What of a user is about energy, for an open object. */
void power_json_user(struct json *j, const struct spark_user_info *u);
