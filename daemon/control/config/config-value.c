/* SPDX-License-Identifier: Apache-2.0 */

/* Reads single values: type and range come from the key's row in its table. */

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <string.h>

#include "base/checked.h"
#include "config-private.h"

static int fault(struct reader *r, const char *file, unsigned line, const char *fmt, va_list ap) {
        char text[384];

        (void)vsnprintf(text, sizeof(text), fmt, ap);
        (void)snprintf(r->error->text, sizeof(r->error->text), "%.100s:%u: %s", file ? file : r->file, line, text);
        return CONFIG_E_INVALID;
}

int config_fault(struct reader *r, const config_setting_t *at, const char *fmt, ...) {
        va_list ap;
        int e;

        va_start(ap, fmt);
        e = fault(r, at ? config_setting_source_file(at) : NULL, at ? config_setting_source_line(at) : 0, fmt, ap);
        va_end(ap);
        return e;
}

int config_fault_at(struct reader *r, const char *file, unsigned line, const char *fmt, ...) {
        va_list ap;
        int e;

        va_start(ap, fmt);
        e = fault(r, file, line, fmt, ap);
        va_end(ap);
        return e;
}

static bool text_is_printable(const char *s) {
        for (; *s; s++)
                if ((unsigned char)*s < 0x20 || *s == 0x7f)
                        return false;
        return true;
}

/* The place of `word` among the words of a key, -1 where it is none of them. */
static int word_index(const char *words, const char *word) {
        size_t n = strlen(word);

        for (int i = 0; *words; i++) {
                size_t len = strcspn(words, " ");

                if (len == n && memcmp(words, word, n) == 0)
                        return i;
                words += len + (words[len] == ' ');
        }
        return -1;
}

int config_replace_string(char **p, char *value) {
        if (!value)
                return -ENOMEM;
        free(*p);
        *p = value;
        return 0;
}

static char *path_absolute(const char *folder, const char *path) {
        char *out = NULL;

        if (path[0] == '/')
                return strdup(path);
        if (asprintf(&out, "%s/%s", folder, path) < 0)
                return NULL;
        return out;
}

/* "6G" and the like: digits, then nothing or one of K M G T (powers of 1024). */
static bool size_parse(const char *text, uint64_t *ret) {
        static const char units[] = "KMGT";
        const char *unit;
        uint64_t v;
        char *end;

        if (!isdigit((unsigned char)text[0]))
                return false;
        errno = 0;
        v = strtoull(text, &end, 10);
        if (errno != 0)
                return false;
        if (*end) {
                unit = strchr(units, *end);
                if (!unit || end[1] || !checked_mul(v, 1ull << (10 * (unit - units + 1)), &v))
                        return false;
        }
        *ret = v;
        return true;
}

static int read_number(struct reader *r, const struct key *k, const config_setting_t *s, uint64_t *ret) {
        const char *text = config_setting_get_string(s);
        int type = config_setting_type(s);
        long long n;
        int e;

        if (text && k->type == KEY_MODE) {
                char *end;

                errno = 0;
                *ret = strtoull(text, &end, 8);
                if (!isdigit((unsigned char)text[0]) || *end || errno)
                        return config_fault(r, s, "'%s' must be an octal mode in quotes, such as \"0660\"", k->name);
                return 0;
        }
        if (text && k->type == KEY_SIZE) {
                if (!size_parse(text, ret))
                        return config_fault(r, s, "'%s' must be a size such as 1048576 or \"6G\" (units K, M, G, T)",
                                            k->name);
                return 0;
        }
        if (k->type == KEY_MODE || (type != CONFIG_TYPE_INT && type != CONFIG_TYPE_INT64))
                return config_fault(r, s, "'%s' must be %s", k->name,
                                    k->type == KEY_MODE ? "an octal mode in quotes" : "a whole number");
        e = config_check_numbers(r, s);
        if (e)
                return e;
        n = config_setting_get_int64(s);
        if (n < 0)
                return config_fault(r, s, "'%s' must not be negative", k->name);
        *ret = (uint64_t)n;
        return 0;
}

static int set_number(struct reader *r, const struct key *k, const config_setting_t *s, uint64_t *target) {
        uint64_t v = 0;
        int e;

        e = read_number(r, k, s, &v);
        if (e)
                return e;
        if (v < k->min || v > k->max)
                return config_fault(r, s, "'%s' is %llu, allowed are %llu to %llu", k->name, (unsigned long long)v,
                                    (unsigned long long)k->min, (unsigned long long)k->max);
        *target = v;
        return 0;
}

static int set_text(struct reader *r, const struct key *k, const config_setting_t *s, void *target) {
        const char *text = config_setting_get_string(s);
        int index;

        if (!text || config_setting_type(s) != CONFIG_TYPE_STRING)
                return config_fault(r, s, "'%s' must be a string", k->name);
        if (!text_is_printable(text))
                return config_fault(r, s, "'%s' contains a control character", k->name);
        switch (k->type) {
        case KEY_PATH:
                if (!*text || strlen(text) >= PATH_MAX)
                        return config_fault(r, s, "'%s' must be a path", k->name);
                return config_replace_string(target, path_absolute(r->folder, text));
        case KEY_ENUM:
        case KEY_INDEX:
                index = word_index(k->words, text);
                if (index < 0)
                        return config_fault(r, s, "'%s' is \"%.64s\", allowed are: %s", k->name, text, k->words);
                if (k->type == KEY_ENUM)
                        return config_replace_string(target, strdup(text));
                *(uint64_t *)target = k->min + (uint64_t)index;
                return 0;
        default:
                return config_replace_string(target, strdup(text));
        }
}

int config_set_key(struct reader *r, const struct key *k, const config_setting_t *s, void *base) {
        void *target = (char *)base + k->offset;

        switch (k->type) {
        case KEY_NUMBER:
        case KEY_SIZE:
        case KEY_MODE:
                return set_number(r, k, s, target);
        default:
                return set_text(r, k, s, target);
        }
}
