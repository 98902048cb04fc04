/* SPDX-License-Identifier: Apache-2.0 */

#include <stdarg.h>
#include <stdio.h>

#include "error.h"

int loader_fail(struct loader_error *error, int code, const char *fmt, ...) {
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(error->text, sizeof(error->text), fmt, ap);
        va_end(ap);
        return code;
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
