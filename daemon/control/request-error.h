/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What is said to whoever is refused: the protocol's error, as all of control puts it together. */

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/macro.h"
#include "model/plan.h"
#include "spark.pb-c.h"

enum {
        REQUEST_E_REFUSED = 1, /* see struct request_error */
};

struct request_error {
        Spark__V1__ErrorCode code;
        char text[512];
        uint32_t retry_after_ms;
        uint64_t have, max;
        bool needs_person; /* as the protocol's */
        bool has_plan; /* a load's sums come along */
        struct plan plan;
};

void request_error_set(struct request_error *e, Spark__V1__ErrorCode code, const char *fmt, ...) _printf_(3, 4);
/* The same. REQUEST_E_REFUSED. */
int request_refuse(struct request_error *e, Spark__V1__ErrorCode code, const char *fmt, ...) _printf_(3, 4);
void request_error_set_va(struct request_error *e, Spark__V1__ErrorCode code, const char *fmt, va_list ap)
        _printf_(3, 0);
