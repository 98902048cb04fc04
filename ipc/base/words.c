/* SPDX-License-Identifier: Apache-2.0 */

#include <stdio.h>

#include "macro.h"
#include "words.h"

const char *words_bytes(uint64_t bytes, char out[WORDS_BYTES]) {
        static const struct {
                const char *name;
                int digits;
        } units[] = { { "B", 0 }, { "KiB", 1 }, { "MiB", 1 }, { "GiB", 2 }, { "TiB", 2 }, { "PiB", 2 }, { "EiB", 2 } };
        double v = (double)bytes;
        size_t u = 0;

        /* what would be rounded to 1024 of a unit is one of the next */
        while (u + 1 < ARRAY_SIZE(units) && v >= (units[u].digits ? 1023.95 : 1024)) {
                v /= 1024;
                u++;
        }
        (void)snprintf(out, WORDS_BYTES, "%.*f %s", units[u].digits, v, units[u].name);
        return out;
}
