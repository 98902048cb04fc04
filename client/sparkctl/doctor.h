/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the checks of `sparkctl doctor` share: the report that each adds lines to. */

#include "json.h"
#include "options.h"

enum level { LEVEL_OK, LEVEL_WARN, LEVEL_FAIL };

struct doctor {
        struct ctl *ctl;
        struct json json;
        unsigned n_warn, n_fail;
};

/* advice may be NULL. */
void doctor_note(struct doctor *d, enum level level, const char *check, const char *advice, const char *fmt, ...)
        _printf_(5, 6);
/* The beginning of a small file, without the line break; "" where it can't be read. */
const char *doctor_read_line(const char *path, char *out, size_t size);

/* Sleep, power supply and energy, as the service sees them (doctor-power.c). */
void doctor_judge_power(struct doctor *d, const struct spark_power *p);
/* The GPU, its driver, and whether the service can use them (doctor-gpu.c). */
void doctor_check_gpu(struct doctor *d);
