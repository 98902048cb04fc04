/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "json.h"

#define DIGITS_MAX 4300u /* of an integer; Python refuses longer ones too */

struct reader {
        struct arena *arena;
        const char *text;
        size_t n;
        size_t pos;
        unsigned depth;
        unsigned max_depth;
        struct json_error *error;
};

static int read_value(struct reader *r, struct json *ret);

static int fail(struct reader *r, const char *what) {
        (void)snprintf(r->error->text, sizeof(r->error->text), "%s", what);
        r->error->offset = r->pos;
        return JSON_E_SYNTAX;
}

static int fail_memory(struct reader *r) {
        if (r->arena->no_memory)
                return -ENOMEM;
        (void)fail(r, "more memory than is allowed");
        return JSON_E_LIMIT;
}

static int peek(const struct reader *r) {
        return r->pos < r->n ? (unsigned char)r->text[r->pos] : -1;
}

static int skip_space(struct reader *r) {
        int c;

        while ((c = peek(r)) == ' ' || c == '\n' || c == '\r' || c == '\t')
                r->pos++;
        return c;
}

static int hex4(struct reader *r, uint32_t *ret) {
        uint32_t v = 0;

        if (r->n - r->pos < 4)
                return fail(r, "escape is cut off");
        for (unsigned i = 0; i < 4; i++, r->pos++) {
                int c = peek(r);

                if (c >= '0' && c <= '9')
                        v = v * 16 + (uint32_t)(c - '0');
                else if ((c | 32) >= 'a' && (c | 32) <= 'f')
                        v = v * 16 + (uint32_t)((c | 32) - 'a' + 10);
                else
                        return fail(r, "\\u needs four hexadecimal digits");
        }
        *ret = v;
        return 0;
}

/* Behind "\u": one character, which may take a second escape. */
static int read_unicode(struct reader *r, char **out) {
        uint32_t c, low;
        int k;

        k = hex4(r, &c);
        if (k)
                return k;
        if (c >= 0xdc00 && c <= 0xdfff)
                return fail(r, "surrogate without its first half");
        if (c >= 0xd800 && c <= 0xdbff) {
                if (r->n - r->pos < 2 || r->text[r->pos] != '\\' || r->text[r->pos + 1] != 'u')
                        return fail(r, "surrogate without its second half");
                r->pos += 2;
                k = hex4(r, &low);
                if (k)
                        return k;
                if (low < 0xdc00 || low > 0xdfff)
                        return fail(r, "surrogate without its second half");
                c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
        }
        *out += utf8_encode(c, *out);
        return 0;
}

static int read_escape(struct reader *r, char **out) {
        static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
        int c = peek(r);
        const char *p;

        r->pos++;
        if (c == 'u')
                return read_unicode(r, out);
        p = c > 0 ? strchr(from, c) : NULL;
        if (!p)
                return fail(r, "unknown escape");
        *(*out)++ = to[p - from];
        return 0;
}

/* The closing quote of a string that begins at pos, so that its room is known beforehand: no escape is shorter than
 * what it stands for. */
static int string_end(struct reader *r, size_t *ret) {
        size_t i = r->pos;

        for (; i < r->n && r->text[i] != '"'; i++)
                if (r->text[i] == '\\')
                        i++;
        if (i >= r->n)
                return fail(r, "string without end");
        *ret = i;
        return 0;
}

static int read_string(struct reader *r, const char **ret, size_t *ret_n) {
        char *start, *out;
        size_t end = 0, len;
        uint32_t c;
        int k;

        r->pos++;
        k = string_end(r, &end);
        if (k)
                return k;
        start = out = arena_bytes(r->arena, end - r->pos);
        if (!start)
                return fail_memory(r);
        while (r->pos < end) {
                unsigned char b = (unsigned char)r->text[r->pos];

                if (b < 0x20)
                        return fail(r, "control character in a string");
                if (b == '\\') {
                        r->pos++;
                        k = read_escape(r, &out);
                        if (k)
                                return k;
                        continue;
                }
                len = b < 0x80 ? 1 : utf8_decode(r->text + r->pos, end - r->pos, &c);
                if (!len)
                        return fail(r, "not UTF-8");
                memcpy(out, r->text + r->pos, len);
                out += len;
                r->pos += len;
        }
        r->pos++;
        *ret = start;
        *ret_n = (size_t)(out - start);
        return 0;
}

static size_t skip_digits(struct reader *r) {
        size_t from = r->pos;

        while (peek(r) >= '0' && peek(r) <= '9')
                r->pos++;
        return r->pos - from;
}

static int make_integer(struct reader *r, size_t from, struct json *ret) {
        const char *p = r->text + from, *end = r->text + r->pos;
        bool negative = *p == '-';
        int64_t v = 0;

        for (const char *q = p + negative; q < end; q++) {
                int digit = negative ? '0' - *q : *q - '0';

                if (!__builtin_mul_overflow(v, 10, &v) && !__builtin_add_overflow(v, digit, &v))
                        continue;
                ret->kind = JSON_BIG;
                ret->n = (size_t)(end - p);
                ret->text = arena_memdup(r->arena, p, ret->n);
                return ret->text ? 0 : fail_memory(r);
        }
        ret->kind = JSON_INT;
        ret->integer = v;
        return 0;
}

static int make_float(struct reader *r, size_t from, struct json *ret) {
        size_t n = r->pos - from;
        char local[64], *text = local;

        if (n >= sizeof(local))
                text = arena_bytes(r->arena, n + 1);
        if (!text)
                return fail_memory(r);
        memcpy(text, r->text + from, n);
        text[n] = 0;
        ret->kind = JSON_FLOAT;
        ret->number = strtod(text, NULL);
        return 0;
}

static int read_number(struct reader *r, struct json *ret) {
        size_t from = r->pos, digits;
        bool integer = true;

        if (peek(r) == '-')
                r->pos++;
        if (peek(r) == '0') {
                r->pos++;
        } else {
                digits = skip_digits(r);
                if (!digits)
                        return fail(r, "not a value");
                if (digits > DIGITS_MAX)
                        return fail(r, "number is too long");
        }
        if (peek(r) == '.') {
                integer = false;
                r->pos++;
                if (!skip_digits(r))
                        return fail(r, "digits are missing behind the point");
        }
        if (peek(r) == 'e' || peek(r) == 'E') {
                integer = false;
                r->pos++;
                if (peek(r) == '+' || peek(r) == '-')
                        r->pos++;
                if (!skip_digits(r))
                        return fail(r, "digits are missing in the exponent");
        }
        return integer ? make_integer(r, from, ret) : make_float(r, from, ret);
}

/* Makes room for one more item of `size` bytes in an array that doubles. */
static int grow(struct reader *r, void **items, size_t n, size_t *cap, size_t size) {
        size_t c = *cap ? *cap * 2 : 4;
        void *p;

        if (n < *cap)
                return 0;
        p = arena_calloc(r->arena, c, size);
        if (!p)
                return fail_memory(r);
        if (n)
                memcpy(p, *items, n * size);
        *items = p;
        *cap = c;
        return 0;
}

static int read_array(struct reader *r, struct json *ret) {
        struct json *items = NULL;
        size_t n = 0, cap = 0;
        int c, k;

        r->pos++;
        c = skip_space(r);
        for (; c != ']'; n++) {
                k = grow(r, (void **)&items, n, &cap, sizeof(*items));
                if (k)
                        return k;
                k = read_value(r, &items[n]);
                if (k)
                        return k;
                c = skip_space(r);
                if (c != ',' && c != ']')
                        return fail(r, "expected ',' or ']'");
                if (c == ',') {
                        r->pos++;
                        if (skip_space(r) == ']')
                                return fail(r, "not a value");
                }
        }
        r->pos++;
        *ret = (struct json){ .kind = JSON_ARRAY, .n = n, .items = items };
        return 0;
}

static int read_member(struct reader *r, struct json_member *m) {
        int k;

        if (skip_space(r) != '"')
                return fail(r, "expected a name in quotes");
        k = read_string(r, &m->name, &m->name_len);
        if (k)
                return k;
        if (skip_space(r) != ':')
                return fail(r, "expected ':'");
        r->pos++;
        return read_value(r, &m->value);
}

static int read_object(struct reader *r, struct json *ret) {
        struct json_member *members = NULL;
        size_t n = 0, cap = 0;
        int c, k;

        r->pos++;
        c = skip_space(r);
        for (; c != '}'; n++) {
                k = grow(r, (void **)&members, n, &cap, sizeof(*members));
                if (k)
                        return k;
                k = read_member(r, &members[n]);
                if (k)
                        return k;
                c = skip_space(r);
                if (c != ',' && c != '}')
                        return fail(r, "expected ',' or '}'");
                if (c == ',') {
                        r->pos++;
                        if (skip_space(r) == '}')
                                return fail(r, "expected a name in quotes");
                }
        }
        r->pos++;
        *ret = (struct json){ .kind = JSON_OBJECT, .n = n, .members = members };
        return 0;
}

static int read_word(struct reader *r, struct json *ret) {
        static const struct {
                const char *text;
                struct json value;
        } words[] = {
                { "null", { .kind = JSON_NULL } },
                { "true", { .kind = JSON_BOOL, .boolean = true } },
                { "false", { .kind = JSON_BOOL, .boolean = false } },
        };

        for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
                size_t len = strlen(words[i].text);

                if (r->n - r->pos >= len && memcmp(r->text + r->pos, words[i].text, len) == 0) {
                        r->pos += len;
                        *ret = words[i].value;
                        return 0;
                }
        }
        return fail(r, r->pos < r->n ? "not a value" : "text ends where a value should be");
}

static int read_value(struct reader *r, struct json *ret) {
        int c = skip_space(r), k;

        *ret = (struct json){ .kind = JSON_NULL };
        if (c == '"') {
                ret->kind = JSON_STRING;
                return read_string(r, &ret->text, &ret->n);
        }
        if (c == '-' || (c >= '0' && c <= '9'))
                return read_number(r, ret);
        if (c != '[' && c != '{')
                return read_word(r, ret);

        if (r->depth >= r->max_depth) {
                (void)fail(r, "nested too deeply");
                return JSON_E_LIMIT;
        }
        r->depth++;
        k = c == '[' ? read_array(r, ret) : read_object(r, ret);
        r->depth--;
        return k;
}

int json_parse(struct arena *arena, const char *text, size_t n, unsigned max_depth, struct json *ret,
               struct json_error *error) {
        struct reader r = { .arena = arena, .text = text, .n = n, .max_depth = max_depth, .error = error };
        struct json v;
        int k;

        if (max_depth == 0 || max_depth > JSON_DEPTH_MAX)
                r.max_depth = JSON_DEPTH_MAX;
        *error = (struct json_error){ 0 };
        k = read_value(&r, &v);
        if (k)
                return k;
        if (skip_space(&r) >= 0)
                return fail(&r, "more text behind the value");
        *ret = v;
        return 0;
}

const struct json *json_get(const struct json *object, const char *name) {
        size_t len = strlen(name);

        if (!object || object->kind != JSON_OBJECT)
                return NULL;
        for (size_t i = object->n; i > 0; i--) {
                const struct json_member *m = &object->members[i - 1];

                if (m->name_len == len && memcmp(m->name, name, len) == 0)
                        return &m->value;
        }
        return NULL;
}

bool json_is_string(const struct json *v, const char *s) {
        return v && v->kind == JSON_STRING && v->n == strlen(s) && memcmp(v->text, s, v->n) == 0;
}
