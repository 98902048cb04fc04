/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a load run gave, for people and as JSON. docs/load-testing.md says what the columns and keys mean. */

#include <stdbool.h>
#include <stdio.h>

#include "load-run.h"

/* Prints it. clients: the table has a row for each client, too (JSON always has). 0 or -errno. */
int load_report_table(FILE *f, const struct load_run *run, bool clients);
int load_report_json(FILE *f, const struct load_run *run);
/* Requests and connections that failed. */
uint64_t load_report_failed(const struct load_run *run);
/* The last error of any client, or NULL. */
const char *load_report_error(const struct load_run *run);
