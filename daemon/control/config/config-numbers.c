/* SPDX-License-Identifier: Apache-2.0 */

/*
 * libconfig keeps a number in 32 bits, or in 64 where an L stands behind it, and says nothing of one that has no room there: it
 * reads 4294967296 as 0 and 4294967295 as -1. Its settings do not tell any more, so the text that they were read from is looked
 * through for numbers, by the same rules.
 */

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "config-private.h"

/* Behind what is passed over without being looked at: a comment, a string. p itself: neither. */
static const char *skip_passage(const char *p) {
        const char *end;

        if (*p == '#' || (p[0] == '/' && p[1] == '/'))
                return p + strcspn(p, "\n");
        if (p[0] == '/' && p[1] == '*') {
                end = strstr(p + 2, "*/");
                return end ? end + 2 : p + strlen(p);
        }
        if (*p != '"')
                return p;
        for (p++; *p && *p != '"'; p++)
                if (p[0] == '\\' && p[1])
                        p++;
        return *p ? p + 1 : p;
}

enum fit { FITS, NEEDS_L, TOO_BIG };

/* p: a number of n bytes. */
static enum fit number_fits(const char *p, size_t n) {
        bool hex = p[0] == '0' && (p[1] == 'x' || p[1] == 'X');
        long long v;
        char *end;

        if (!hex && (memchr(p, '.', n) || memchr(p, 'e', n) || memchr(p, 'E', n)))
                return FITS; /* no whole number */
        errno = 0;
        v = strtoll(p, &end, hex ? 16 : 10);
        if (errno != 0)
                return TOO_BIG;
        return *end == 'L' || (v >= INT32_MIN && v <= INT32_MAX) ? FITS : NEEDS_L;
}

static unsigned line_of(const char *text, const char *p) {
        unsigned line = 1;

        for (; text < p; text++)
                line += *text == '\n';
        return line;
}

/* file: what the fault names. 0 or CONFIG_E_INVALID. */
static int check_text(struct reader *r, const char *file, const char *text) {
        static const char in_names[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-*";
        const char *name = "", *p = text, *next;
        int n_name = 0, n;
        enum fit fit;

        for (; *p; p = next) {
                next = skip_passage(p);
                if (next != p)
                        continue;
                next = p + 1;
                if (isalpha((unsigned char)*p) || *p == '*') {
                        next = p + strspn(p, in_names);
                        name = p;
                        n_name = (int)MIN(next - p, 64);
                } else if (isdigit((unsigned char)*p) || (strchr("+-.", *p) && isdigit((unsigned char)p[1]))) {
                        next = p + 1 + strspn(p + 1, "0123456789abcdefABCDEFxXL.+-");
                        n = (int)MIN(next - p, 64);
                        fit = number_fits(p, (size_t)(next - p));
                        if (fit == NEEDS_L)
                                return config_fault_at(r, file, line_of(text, p), "'%.*s' is %.*s: a number of more than 32 bits "
                                                       "needs an L behind it", n_name, name, n, p);
                        if (fit == TOO_BIG)
                                return config_fault_at(r, file, line_of(text, p), "'%.*s' is %.*s, which is more than any number "
                                                       "may be", n_name, name, n, p);
                }
        }
        return 0;
}

/* An included file is named as it was there, which is within the folder of the one that was read. NULL with errno. */
static FILE *open_source(const struct reader *r, const char *file) {
        _cleanup_free_ char *within = NULL;
        FILE *f = NULL;

        if (strcmp(file, r->file) != 0) {
                if (asprintf(&within, "%s/%s", r->folder, file) < 0) {
                        within = NULL;
                        return NULL;
                }
                f = fopen(within, "re");
        }
        return f ? f : fopen(file, "re");
}

int config_check_numbers(struct reader *r, const config_setting_t *s) {
        const char *file = config_setting_source_file(s);
        _cleanup_free_ char *text = NULL;
        size_t size = 0;
        FILE *f;
        ssize_t n;

        if (r->checked && r->checked == (file ? file : r->text))
                return 0;
        r->checked = file ? file : r->text;
        if (!file)
                return check_text(r, r->file, r->text);
        f = open_source(r, file);
        if (!f)
                return -errno;
        n = getdelim(&text, &size, 0, f);
        (void)fclose(f);
        return n < 0 ? 0 : check_text(r, file, text);
}
