/* SPDX-License-Identifier: Apache-2.0 */

/* strftime_now(format), and reading the fixed date of a render. */

#include <stdio.h>
#include <string.h>

#include "render.h"

static bool number(const char **p, const char *end, unsigned digits, int *ret) {
        int v = 0;

        for (unsigned i = 0; i < digits; i++, ++*p) {
                if (*p >= end || **p < '0' || **p > '9')
                        return false;
                v = v * 10 + (**p - '0');
        }
        *ret = v;
        return true;
}

static bool skip(const char **p, const char *end, char c) {
        if (*p >= end || **p != c)
                return false;
        ++*p;
        return true;
}

/* hh:mm[:ss[.ffffff]], anything behind it (a time zone) has no bearing on what is printed */
static bool read_time(struct tm *tm, unsigned *us, const char *p, const char *end) {
        int fraction = 0, digit;

        if (!number(&p, end, 2, &tm->tm_hour) || !skip(&p, end, ':') || !number(&p, end, 2, &tm->tm_min))
                return false;
        if (skip(&p, end, ':') && !number(&p, end, 2, &tm->tm_sec))
                return false;
        if (skip(&p, end, '.'))
                for (unsigned i = 0; i < 6; i++)
                        fraction = fraction * 10 + (number(&p, end, 1, &digit) ? digit : 0);
        *us = (unsigned)fraction;
        return tm->tm_hour < 24 && tm->tm_min < 60 && tm->tm_sec < 61;
}

bool render_set_now(struct render *r, const char *s, size_t n) {
        const char *p = s, *end = s + n;
        struct tm tm = { 0 }, back;
        unsigned us = 0;
        time_t t;

        if (!number(&p, end, 4, &tm.tm_year) || !skip(&p, end, '-') || !number(&p, end, 2, &tm.tm_mon) ||
            !skip(&p, end, '-') || !number(&p, end, 2, &tm.tm_mday))
                return false;
        if (tm.tm_mon < 1 || tm.tm_mon > 12 || tm.tm_mday < 1 || tm.tm_mday > 31)
                return false;
        tm.tm_year -= 1900;
        tm.tm_mon--;
        if (p < end && (!(skip(&p, end, 'T') || skip(&p, end, ' ')) || !read_time(&tm, &us, p, end)))
                return false;
        t = timegm(&tm); /* fills in the day of week and year */
        if (!gmtime_r(&t, &back))
                return false;
        r->now = back;
        r->now_us = us;
        return true;
}

static int emit_directive(struct render *r, const char *p, size_t n) {
        char format[8], text[256];
        size_t len;

        int k = render_step(r, STEP_NUMBER);

        if (k || n >= sizeof(format))
                return k;
        memcpy(format, p, n);
        format[n] = 0;
        if (format[n - 1] == 'z' || format[n - 1] == 'Z') /* a date without a zone */
                return 0;
        if (format[n - 1] == 'f') {
                (void)snprintf(text, sizeof(text), "%06u", r->now_us);
                return render_emit_str(r, text);
        }
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        len = strftime(text, sizeof(text), format, &r->now);
#pragma GCC diagnostic pop
        return render_emit(r, text, len);
}

int function_strftime_now(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "format" };
        size_t mark = render_mark(r);
        struct value format;
        int k = args_bind(r, "strftime_now", a, names, 1, 1, &format);

        if (!k && format.kind != V_STRING)
                return render_fail(r, "strftime() argument 1 must be str, not %s", value_type_name(&format));
        for (size_t i = 0, n; !k && i < format.n; i += n) {
                const char *p = format.text + i;
                size_t rest = format.n - i;

                n = 1;
                if (*p != '%') {
                        k = render_emit(r, p, 1);
                        continue;
                }
                while (n < rest && n < 4 && strchr("-_0^#EO", p[n]) && p[n])
                        n++;
                n += n < rest;
                k = n == 1 ? render_emit(r, p, 1) : emit_directive(r, p, n);
        }
        return render_take(r, mark, k, ret);
}
