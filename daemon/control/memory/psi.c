/* SPDX-License-Identifier: Apache-2.0 */

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "psi.h"

#define PSI_TEXT_MAX 512u

/* " avg10=12.34": digits and a point, whatever the locale. NULL: it is not there. */
static const char *take_share(const char *p, const char *name, float *ret) {
        size_t n = strlen(name);
        unsigned whole = 0, hundredths = 0;

        if (strncmp(p, name, n) != 0 || !isdigit((unsigned char)p[n]))
                return NULL;
        for (p += n; isdigit((unsigned char)*p) && whole < 1000; p++)
                whole = whole * 10 + (unsigned)(*p - '0');
        if (p[0] != '.' || !isdigit((unsigned char)p[1]) || !isdigit((unsigned char)p[2]) || whole > 100)
                return NULL;
        hundredths = (unsigned)(p[1] - '0') * 10 + (unsigned)(p[2] - '0');
        *ret = (float)whole + (float)hundredths / 100;
        return p + 3;
}

/* What follows "some" or "full". */
static bool take_line(const char *p, float *ret_10, uint64_t *ret_us) {
        float average, ignored;
        unsigned long long us;
        char *end;

        if (!(p = take_share(p, " avg10=", &average)) || !(p = take_share(p, " avg60=", &ignored)) ||
            !(p = take_share(p, " avg300=", &ignored)))
                return false;
        if (strncmp(p, " total=", 7) != 0 || !isdigit((unsigned char)p[7]))
                return false;
        errno = 0;
        us = strtoull(p + 7, &end, 10);
        if (errno || (*end && *end != '\n'))
                return false;
        *ret_10 = average;
        *ret_us = us;
        return true;
}

bool psi_parse(const char *text, struct psi *ret) {
        struct psi psi = { 0 };
        bool some = false;

        for (const char *line = text; line && *line; line = strchr(line, '\n')) {
                line += *line == '\n';
                if (strncmp(line, "some", 4) == 0) {
                        if (some || !take_line(line + 4, &psi.some10, &psi.some_us))
                                return false;
                        some = true;
                } else if (strncmp(line, "full", 4) == 0 && !take_line(line + 4, &psi.full10, &psi.full_us)) {
                        return false;
                }
        }
        if (!some)
                return false;
        *ret = psi;
        return true;
}

bool psi_read(int fd, struct psi *ret) {
        char text[PSI_TEXT_MAX];
        ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof(text) - 1, 0);

        if (n <= 0)
                return false;
        text[n] = 0;
        return psi_parse(text, ret);
}
