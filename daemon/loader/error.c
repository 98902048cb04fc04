/* SPDX-License-Identifier: Apache-2.0 */

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "error.h"

int loader_fail(struct loader_error *error, int code, const char *fmt, ...) {
        size_t n = 0;
        va_list ap;

        if (error->part)
                n = (size_t)snprintf(error->text, sizeof(error->text), "part %u: ", error->part);
        va_start(ap, fmt);
        (void)vsnprintf(error->text + n, sizeof(error->text) - n, fmt, ap);
        va_end(ap);
        return code;
}

void loader_add(struct loader_error *error, const char *fmt, ...) {
        size_t n = strnlen(error->text, sizeof(error->text) - 1);
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(error->text + n, sizeof(error->text) - n, fmt, ap);
        va_end(ap);
}

const char *loader_show(char out[LOADER_SHOW_MAX], const char *bytes, size_t n) {
        size_t at = 0;

        for (size_t i = 0; i < n; i++) {
                unsigned char c = (unsigned char)bytes[i];

                if (at + 8 > LOADER_SHOW_MAX) {
                        at += (size_t)snprintf(out + at, LOADER_SHOW_MAX - at, "...");
                        break;
                }
                if (c >= 0x20 && c < 0x7f)
                        out[at++] = (char)c;
                else
                        at += (size_t)snprintf(out + at, LOADER_SHOW_MAX - at, "\\x%02x", c);
        }
        out[at] = 0;
        return out;
}
