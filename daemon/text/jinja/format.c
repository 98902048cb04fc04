/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Formatting: `'%s' % x` and `'{}'.format(x)`. Of the mini-language of format() what templates use: fill, alignment,
 * sign, width, precision and the types s d f e g x o b %; anything else is refused.
 */

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "json.h"
#include "text-ops.h"

#define WIDTH_MAX 100000
#define PRECISION_MAX 300

struct spec {
        struct value fill;
        char align; /* < > ^ = or 0 */
        char sign;  /* + space or 0 */
        bool alternate;
        bool group; /* thousands with commas */
        bool zero;  /* the alignment is '=' for a 0 in front of the width: numbers only */
        int64_t width;
        int64_t precision; /* -1: none */
        char type;
};

static int read_digits(struct render *r, const char **p, const char *end, int64_t max, int64_t *ret) {
        int64_t v = 0;

        for (; *p < end && **p >= '0' && **p <= '9'; ++*p) {
                v = v * 10 + (**p - '0');
                if (v > max)
                        return render_limit(r, "width or precision is too large");
        }
        *ret = v;
        return 0;
}

static int format_binary(uint64_t v, unsigned bits, bool upper, char *out) {
        const char *digits = upper ? "0123456789ABCDEF" : "0123456789abcdef";
        char reversed[72];
        int n = 0, len = 0;

        do
                reversed[n++] = digits[v & ((1u << bits) - 1)];
        while (v >>= bits);
        while (n)
                out[len++] = reversed[--n];
        return len;
}

/* Digits of |v| in out (at least 700 bytes); 0 where the type fits no number. */
static size_t number_digits(const struct value *v, const struct spec *s, char *out) {
        int precision = s->precision < 0 ? 6 : (int)s->precision;
        double d = fabs(value_double(v));
        uint64_t u;

        switch (s->type) {
        case 'f':
        case 'F':
                return (size_t)snprintf(out, 700, s->alternate ? "%#.*f" : "%.*f", precision, d);
        case 'e':
                return (size_t)snprintf(out, 700, "%.*e", precision, d);
        case 'E':
                return (size_t)snprintf(out, 700, "%.*E", precision, d);
        case 'g':
                return (size_t)snprintf(out, 700, "%.*g", precision, d);
        case 'G':
                return (size_t)snprintf(out, 700, "%.*G", precision, d);
        case '%':
                return (size_t)snprintf(out, 700, "%.*f%%", precision, d * 100);
        default:
                break;
        }
        if (!value_is_int(v))
                return 0;
        u = value_int(v) < 0 ? 0 - (uint64_t)value_int(v) : (uint64_t)value_int(v);
        switch (s->type) {
        case 'd':
                return (size_t)snprintf(out, 700, "%" PRIu64, u);
        case 'x':
        case 'X':
                return (size_t)format_binary(u, 4, s->type == 'X', out);
        case 'o':
                return (size_t)format_binary(u, 3, false, out);
        case 'b':
                return (size_t)format_binary(u, 1, false, out);
        default:
                return 0;
        }
}

static size_t group_digits(char *digits, size_t n) {
        size_t whole = strspn(digits, "0123456789"), commas = whole ? (whole - 1) / 3 : 0;

        if (n + commas >= 700)
                return n;
        memmove(digits + whole + commas, digits + whole, n - whole);
        for (size_t from = whole, to = whole + commas, k = 0; to > from; k++) {
                if (k && k % 3 == 0)
                        digits[--to] = ',';
                digits[--to] = digits[--from];
        }
        return n + commas;
}

static int pad_text(struct render *r, const struct spec *s, char align, const struct value *sign,
                    const struct value *body, struct value *ret) {
        size_t n = text_length(body->text, body->n) + sign->n, pad = s->width > (int64_t)n ? (size_t)s->width - n : 0;
        size_t left = align == '>' ? pad : align == '^' ? pad / 2 : 0;
        struct value all;
        int k;

        if (align == '=') {
                k = text_pad(r, body, pad, 0, &s->fill, &all);
                return k ? k : text_concat(r, sign, &all, ret);
        }
        k = text_concat(r, sign, body, &all);
        return k ? k : text_pad(r, &all, left, pad - left, &s->fill, ret);
}

static int format_number(struct render *r, const struct value *v, const struct spec *s, struct value *ret) {
        char digits[704];
        const char *sign;
        struct value text, prefix;
        size_t n;
        bool negative = v->kind == V_FLOAT ? signbit(v->number) : value_is_int(v) && value_int(v) < 0;
        int k = render_step(r, STEP_NUMBER + (s->precision > 0 ? (uint64_t)s->precision * 6 : 0));

        if (k)
                return k;
        n = number_digits(v, s, digits);
        if (!n || n >= 700)
                return render_fail(r, "format '%c' does not fit a value of type '%s'", s->type, value_type_name(v));
        if (s->group)
                n = group_digits(digits, n);
        sign = negative ? "-" : s->sign == '+' ? "+" : s->sign == ' ' ? " " : "";
        if (s->alternate && strchr("xXob", s->type))
                sign = negative ? (s->type == 'b' ? "-0b" : s->type == 'o' ? "-0o" : s->type == 'X' ? "-0X" : "-0x")
                                : (s->type == 'b' ? "0b" : s->type == 'o' ? "0o" : s->type == 'X' ? "0X" : "0x");
        prefix = VALUE_TEXT(sign, strlen(sign));
        k = render_text(r, digits, n, &text);
        return k ? k : pad_text(r, s, s->align ? s->align : '>', &prefix, &text, ret);
}

static int format_text(struct render *r, const struct value *v, const struct spec *s, char align, struct value *ret) {
        const struct value none = VALUE_LITERAL("");
        struct value text = *v;
        int k = render_step(r, v->n / 2);

        text.flags = 0;
        if (s->precision >= 0)
                text.n = text_offset(text.text, text.n, (size_t)s->precision);
        return k ? k : pad_text(r, s, s->align ? s->align : align, &none, &text, ret);
}

/* %: -- flags, width, precision, type, behind the (name) */
static int percent_spec(struct render *r, const char **p, const char *end, struct spec *s) {
        bool zero = false;
        int k;

        *s = (struct spec){ .fill = VALUE_LITERAL(" "), .precision = -1 };
        for (; *p < end && **p && strchr("-+ #0", **p); ++*p) {
                zero |= **p == '0';
                s->alternate |= **p == '#';
                if (**p == '-')
                        s->align = '<';
                if (**p == '+' || (**p == ' ' && !s->sign))
                        s->sign = **p;
        }
        k = read_digits(r, p, end, WIDTH_MAX, &s->width);
        if (!k && *p < end && **p == '.') {
                ++*p;
                k = read_digits(r, p, end, PRECISION_MAX, &s->precision);
        }
        if (k)
                return k;
        if (*p >= end)
                return render_fail(r, "incomplete format");
        s->type = *(*p)++;
        if (zero && !s->align && !strchr("sra", s->type)) {
                s->align = '=';
                s->fill = VALUE_LITERAL("0");
        }
        return 0;
}

/* ascii(): what repr() made, with everything beyond ASCII escaped */
static int text_ascii(struct render *r, const struct value *s, struct value *ret) {
        size_t mark = render_mark(r), len;
        char escape[16];
        uint32_t c;
        int k = render_step(r, (uint64_t)s->n * 2);

        for (size_t i = 0; !k && i < s->n; i += len) {
                len = text_decode(s->text + i, s->n - i, &c);
                (void)snprintf(escape, sizeof(escape), c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x",
                               (unsigned)c);
                k = c < 0x80 ? render_emit(r, s->text + i, 1) : render_emit_str(r, escape);
        }
        return render_take(r, mark, k, ret);
}

/* %c: a character, or the number of one */
static int percent_char(struct render *r, const struct value *v, const struct spec *s, struct value *ret) {
        struct value text = *v;
        char bytes[4];
        int k;

        if (value_is_int(v)) {
                if (value_int(v) < 0 || value_int(v) > 0x10ffff || (value_int(v) >= 0xd800 && value_int(v) < 0xe000))
                        return render_fail(r, "%%c arg not in range(0x110000)");
                k = render_text(r, bytes, utf8_encode((uint32_t)value_int(v), bytes), &text);
                if (k)
                        return k;
        } else if (v->kind != V_STRING || text_length(v->text, v->n) != 1) {
                return render_fail(r, "%%c requires int or char");
        }
        return format_text(r, &text, s, '>', ret);
}

static int percent_one(struct render *r, const struct value *v, struct spec *s, struct value *ret) {
        struct value text, number = *v;
        size_t mark = render_mark(r);
        int k;

        if (v->kind == V_UNDEFINED && s->type != 's' && s->type != 'r' && s->type != 'a')
                return render_fail(r, "%%%c format: a number is required, not Undefined", s->type);
        switch (s->type) {
        case 's':
        case 'r':
        case 'a':
                k = s->type == 's' ? value_str(r, v, &text) : render_take(r, mark, emit_repr(r, v), &text);
                if (!k && s->type == 'a')
                        k = text_ascii(r, &text, &text);
                return k ? k : format_text(r, &text, s, '>', ret);
        case 'c':
                return percent_char(r, v, s, ret);
        case 'i':
        case 'u':
                s->type = 'd';
                break;
        default:
                break;
        }
        if (!strchr("diuxXofFeEgG", s->type))
                return render_fail(r, "unsupported format character '%c'", s->type);
        if (!value_is_number(v))
                return render_fail(r, "%%%c format: a number is required, not %s", s->type, value_type_name(v));
        if (s->type == 'd' && v->kind == V_FLOAT) {
                if (!(fabs(v->number) < 0x1p63))
                        return render_limit(r, "number is too large");
                number = VALUE_INT((int64_t)v->number);
        }
        return format_number(r, &number, s, ret);
}

/* Which value a conversion takes: by name from a dict, or the next one. */
static int percent_value(struct render *r, const struct value *arg, const char **p, const char *end, size_t *next,
                         const struct value **ret) {
        const char *close;
        int k;

        if (*p < end && **p == '(') {
                close = memchr(*p, ')', (size_t)(end - *p));
                if (!close || arg->kind != V_DICT)
                        return render_fail(r, "format requires a mapping");
                k = dict_find_text(r, arg->dict, *p + 1, (size_t)(close - *p - 1), ret);
                if (!k && !*ret)
                        return render_fail(r, "KeyError in a format");
                *p = close + 1;
                return k;
        }
        if (arg->kind == V_TUPLE ? *next >= arg->list->n : *next > 0)
                return render_fail(r, "not enough arguments for format string");
        *ret = arg->kind == V_TUPLE ? &arg->list->items[*next] : arg;
        ++*next;
        return 0;
}

/* All text is collected first and put together at the end: conversions use the output themselves. */
static int add_text(struct render *r, struct value *all, const char *p, size_t n) {
        const struct value part = VALUE_TEXT(p, n);

        return text_concat(r, all, &part, all);
}

/* What can be subscribed is a mapping to Python here, of which nothing need be used. */
static bool percent_mapping(const struct value *v) {
        return v->kind == V_DICT || v->kind == V_LIST || v->kind == V_RANGE || v->kind == V_UNDEFINED;
}

int format_percent(struct render *r, const struct value *format, const struct value *arg, struct value *ret) {
        const char *p = format->text, *end = p + format->n, *percent;
        struct value all = VALUE_LITERAL(""), part;
        const struct value *v = NULL;
        size_t next = 0;
        struct spec s;
        int k = 0;

        while (!k && p < end) {
                percent = memchr(p, '%', (size_t)(end - p));
                k = add_text(r, &all, p, (size_t)((percent ? percent : end) - p));
                if (k || !percent)
                        break;
                p = percent + 1;
                if (p < end && *p == '%') {
                        k = add_text(r, &all, "%", 1);
                        p++;
                        continue;
                }
                k = percent_value(r, arg, &p, end, &next, &v);
                if (!k)
                        k = percent_spec(r, &p, end, &s);
                if (!k)
                        k = percent_one(r, v, &s, &part);
                if (!k && (format->flags & VALUE_MARKUP))
                        k = value_escape(r, &part, &part);
                part.flags = 0;
                if (!k)
                        k = text_concat(r, &all, &part, &all);
        }
        if (!k && (arg->kind == V_TUPLE ? next < arg->list->n : next == 0 && !percent_mapping(arg)))
                return render_fail(r, "not all arguments converted during string formatting");
        all.flags = format->flags;
        *ret = all;
        return k;
}

/* [[fill]align][sign][#][0][width][,][.precision][type] */
static int brace_spec(struct render *r, const char *p, const char *end, struct spec *s) {
        size_t fill = p < end ? text_char(p, (size_t)(end - p)) : 0;
        int k;

        *s = (struct spec){ .fill = VALUE_LITERAL(" "), .precision = -1 };
        if (fill && p + fill < end && p[fill] && strchr("<>^=", p[fill])) {
                s->fill = VALUE_TEXT(p, fill);
                s->align = p[fill];
                p += fill + 1;
        } else if (p < end && *p && strchr("<>^=", *p)) {
                s->align = *p++;
        }
        if (p < end && *p && strchr("+- ", *p))
                s->sign = *p++;
        if (p < end && *p == '#') {
                s->alternate = true;
                p++;
        }
        if (p < end && *p == '0' && !s->align) {
                s->align = '=';
                s->fill = VALUE_LITERAL("0");
                s->zero = true;
        }
        k = read_digits(r, &p, end, WIDTH_MAX, &s->width);
        if (!k && p < end && *p == ',') {
                s->group = true;
                p++;
        }
        if (!k && p < end && *p == '.') {
                p++;
                k = read_digits(r, &p, end, PRECISION_MAX, &s->precision);
        }
        if (!k && p < end)
                s->type = *p++;
        return k ? k : p < end ? render_fail(r, "invalid format specifier") : 0;
}

static int brace_one(struct render *r, const struct value *v, struct spec *s, bool plain, struct value *ret) {
        struct value text;
        int k;

        if (plain)
                return value_str(r, v, ret);
        if (v->kind == V_STRING && (!s->type || s->type == 's')) {
                if (s->zero)
                        s->align = '<';
                if (s->sign || s->alternate || s->group || s->align == '=')
                        return render_fail(r, "sign, '#', ',' and '=' are not allowed in the format of a string");
                return format_text(r, v, s, '<', ret);
        }
        if (v->kind == V_STRING || !value_is_number(v) || (s->type && !strchr("dfFeEgGxXob%", s->type)))
                return render_fail(r, "unsupported format for a value of type '%s'", value_type_name(v));
        if (!s->type && v->kind != V_FLOAT)
                s->type = 'd';
        if (!s->type && s->precision >= 0)
                s->type = 'g';
        if (s->type)
                return format_number(r, v, s, ret);
        k = value_str(r, v, &text);
        return k ? k : format_text(r, &text, s, '>', ret);
}

/* `0`, `name` or nothing, then .attribute and [item] */
static int brace_field(struct render *r, const struct args *a, const char *p, const char *end, size_t *next,
                       struct value *ret) {
        const char *stop = p, *close;
        struct value key;
        int64_t i = 0;
        int k = 0;

        while (stop < end && *stop != '.' && *stop != '[')
                stop++;
        if (stop == p || (*p >= '0' && *p <= '9')) {
                if (stop == p)
                        i = (int64_t)(*next)++;
                else
                        k = read_digits(r, &p, stop, INT32_MAX, &i);
                if (k || (size_t)i >= a->n)
                        return k ? k : render_fail(r, "Replacement index %d out of range", (int)i);
                *ret = a->pos[i];
        } else {
                size_t n = (size_t)(stop - p), j = 0;

                while (j < a->n_kw && !(a->kw[j].n == n && memcmp(a->kw[j].name, p, n) == 0))
                        j++;
                if (j == a->n_kw)
                        return render_fail(r, "KeyError: '%.*s'", (int)MIN(n, 60u), p);
                *ret = a->kw[j].value;
        }
        for (p = stop; !k && p < end; p = close) {
                bool item = *p++ == '[';

                for (close = p; close < end && *close != (item ? ']' : '.') && (item || *close != '[');)
                        close++;
                key = VALUE_TEXT(p, (size_t)(close - p));
                if (item && key.n && key.n < 10 && strspn(p, "0123456789") >= key.n)
                        key = VALUE_INT(strtol(p, NULL, 10));
                k = item ? value_item(r, ret, &key, ret) : value_attribute(r, ret, key.text, key.n, ret);
                close += item && close < end;
        }
        return k;
}

static int brace_replacement(struct render *r, const struct args *a, const char *p, const char *end, size_t *next,
                             struct value *ret) {
        const char *colon = memchr(p, ':', (size_t)(end - p)), *name_end = colon ? colon : end;
        bool plain = !colon || colon + 1 == end;
        char conversion = 0;
        size_t mark = render_mark(r);
        struct value v;
        struct spec s = { .precision = -1 };
        int k;

        if (memchr(p, '{', (size_t)(end - p)))
                return render_fail(r, "nested replacement fields are not supported");
        if (name_end - p >= 2 && name_end[-2] == '!') {
                conversion = name_end[-1];
                if (conversion != 'r' && conversion != 's' && conversion != 'a')
                        return render_fail(r, "Unknown conversion specifier");
                name_end -= 2;
        }
        k = brace_field(r, a, p, name_end, next, &v);
        if (!k && conversion)
                k = render_take(r, mark, conversion == 's' ? emit_str(r, &v) : emit_repr(r, &v), &v);
        if (!k && conversion == 'a')
                k = text_ascii(r, &v, &v);
        if (!k && !plain)
                k = brace_spec(r, colon + 1, end, &s);
        return k ? k : brace_one(r, &v, &s, plain, ret);
}

int method_format(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        const char *p = self->text, *end = p + self->n, *close;
        struct value all = VALUE_LITERAL(""), part;
        size_t next = 0, n;
        int k = 0;

        while (!k && p < end) {
                for (n = 0; p + n < end && p[n] != '{' && p[n] != '}';)
                        n++;
                k = add_text(r, &all, p, n);
                p += n;
                if (k || p == end)
                        break;
                if (p + 1 < end && p[1] == *p) {
                        k = add_text(r, &all, p, 1);
                        p += 2;
                        continue;
                }
                close = *p == '{' ? memchr(p, '}', (size_t)(end - p)) : NULL;
                if (!close)
                        return render_fail(r, "Single '%c' encountered in format string", *p);
                k = brace_replacement(r, a, p + 1, close, &next, &part);
                if (!k && (self->flags & VALUE_MARKUP))
                        k = value_escape(r, &part, &part);
                part.flags = 0;
                if (!k)
                        k = text_concat(r, &all, &part, &all);
                p = close + 1;
        }
        all.flags = self->flags;
        *ret = all;
        return k;
}
