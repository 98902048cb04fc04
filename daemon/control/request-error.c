/* SPDX-License-Identifier: Apache-2.0 */

#include <stdarg.h>
#include <stdio.h>

#include "base/utf8.h"
#include "request-error.h"

void request_error_set_va(struct request_error *e, Spark__V1__ErrorCode code, const char *fmt, va_list ap) {
        *e = (struct request_error){ .code = code };
        (void)vsnprintf(e->text, sizeof(e->text), fmt, ap);
        utf8_mend(e->text); /* what was cut out of somebody's text may end within a character, and no message may */
}

void request_error_set(struct request_error *e, Spark__V1__ErrorCode code, const char *fmt, ...) {
        va_list ap;

        va_start(ap, fmt);
        request_error_set_va(e, code, fmt, ap);
        va_end(ap);
}

int request_refuse(struct request_error *e, Spark__V1__ErrorCode code, const char *fmt, ...) {
        va_list ap;

        va_start(ap, fmt);
        request_error_set_va(e, code, fmt, ap);
        va_end(ap);
        return REQUEST_E_REFUSED;
}
