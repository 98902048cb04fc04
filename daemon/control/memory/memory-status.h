/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The ledger, for status. */

#include <stddef.h>

#include "spark.pb-c.h"

struct manager;

#define MEMORY_WARNING_MAX 400u

/* Strings are borrowed for good. */
void memory_fill_info(struct manager *m, Spark__V1__MemoryInfo *info);
/* What of memory cannot be watched, as a sentence; NULL where there is nothing to say. */
const char *memory_warning(struct manager *m, char *out, size_t size);
