/* SPDX-License-Identifier: Apache-2.0 */

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "splitname.h"

/* The number at p of exactly five digits; false for anything else. */
static bool five_digits(const char *p, unsigned *ret) {
        unsigned v = 0;

        for (int i = 0; i < 5; i++) {
                if (p[i] < '0' || p[i] > '9')
                        return false;
                v = v * 10 + (unsigned)(p[i] - '0');
        }
        *ret = v;
        return true;
}

unsigned splitname_part(const char *path, unsigned part, char *ret, size_t size) {
        static const char tail[] = "-00001-of-00003.gguf";
        size_t n = strlen(path), k = sizeof(tail) - 1;
        unsigned first, total;
        const char *p;

        if (n < k || n >= size)
                return 0;
        p = path + n - k;
        if (p[0] != '-' || !five_digits(p + 1, &first) || strncmp(p + 6, "-of-", 4) != 0 ||
            !five_digits(p + 10, &total) || strcmp(p + 15, ".gguf") != 0 || first != 1 || total < 2)
                return 0;
        (void)snprintf(ret, size, "%.*s-%05u-of-%05u.gguf", (int)(n - k), path, part % 100000u, total);
        return total;
}
