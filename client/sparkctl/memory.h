/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Who has the machine's memory, as the service says; for status and top. Each takes NULL: nothing is known. */

#include <stdbool.h>

#include "ctl.h"
#include "json.h"

#define MEMORY_LINES 2u
#define MEMORY_LINE_MAX 240u

/* Line `i` of what the ledger says beyond images and KV. False where there is nothing to say there. */
bool memory_line(const struct spark_memory *m, unsigned i, char *out, size_t size);
/* It is given back at the moment, or ought to be. */
bool memory_is_short(const struct spark_memory *m);
void memory_print(const struct spark_memory *m);
/* Keys within the object that is open. */
void memory_json(struct json *j, const struct spark_memory *m);
