/* SPDX-License-Identifier: Apache-2.0 */

/* Filters that make text. Their input is turned into text first, whatever it is. */

#include <stdio.h>
#include <string.h>

#include "text-ops.h"
#include "text.h"

static int no_args(struct render *r, const char *name, const struct args *a) {
        return args_bind(r, name, a, NULL, 0, 0, NULL);
}

static int map_case(struct render *r, const char *name, const struct value *self, const struct args *a,
                    enum text_case mode, struct value *ret) {
        struct value s;
        int k = no_args(r, name, a);

        if (!k)
                k = value_str(r, self, &s);
        return k ? k : text_map_case(r, &s, mode, ret);
}

static int filter_upper(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        return map_case(r, "upper", self, a, CASE_UPPER, ret);
}

static int filter_lower(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        return map_case(r, "lower", self, a, CASE_LOWER, ret);
}

static int filter_capitalize(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        return map_case(r, "capitalize", self, a, CASE_CAPITALIZE, ret);
}

static int filter_title(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        return map_case(r, "title", self, a, CASE_FILTER_TITLE, ret);
}

static int filter_trim(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "chars" };
        struct value chars, s;
        int k = args_bind(r, "trim", a, names, 1, 0, &chars);

        if (!k)
                k = value_str(r, self, &s);
        return k ? k : text_strip(r, &s, &chars, true, true, ret);
}

static int filter_string(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        int k = no_args(r, "string", a);

        return k ? k : value_str(r, self, ret);
}

static int filter_safe(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        int k = no_args(r, "safe", a);

        if (!k)
                k = value_str(r, self, ret);
        if (!k)
                ret->flags |= VALUE_MARKUP;
        return k;
}

static int filter_escape(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        int k = no_args(r, "escape", a);

        return k ? k : value_escape(r, self, ret);
}

static int filter_forceescape(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        struct value s;
        int k = no_args(r, "forceescape", a);

        if (!k)
                k = value_str(r, self, &s);
        s.flags = 0;
        return k ? k : value_escape(r, &s, ret);
}

static int filter_replace(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "old", "new", "count" };
        struct value v[3], s, from, to;
        int64_t count = -1;
        int k = args_bind(r, "replace", a, names, 3, 2, v);

        if (!k && v[2].kind != V_NONE)
                k = arg_int(r, &v[2], -1, &count);
        if (!k)
                k = value_str(r, self, &s);
        if (!k)
                k = value_str(r, &v[0], &from);
        if (!k)
                k = value_str(r, &v[1], &to);
        if (!k)
                k = text_replace(r, &s, &from, &to, count, ret);
        if (!k)
                ret->flags = 0;
        return k;
}

static int indent_lines(struct render *r, const struct list *lines, const struct value *indent, bool first, bool blank) {
        int k = first ? render_emit(r, indent->text, indent->n) : 0;

        for (size_t i = 0; !k && i < lines->n; i++) {
                const struct value *line = &lines->items[i];

                if (i) {
                        k = render_emit(r, "\n", 1);
                        if (!k && (blank || line->n))
                                k = render_emit(r, indent->text, indent->n);
                }
                if (!k)
                        k = render_emit(r, line->text, line->n);
        }
        return k;
}

static int filter_indent(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "width", "first", "blank" };
        const struct value newline = VALUE_LITERAL("\n"), space = VALUE_LITERAL(" ");
        struct value v[3], s, lines;
        size_t mark = render_mark(r);
        int64_t width = 4;
        int k = args_bind(r, "indent", a, names, 3, 0, v);

        if (!k && v[0].kind != V_STRING) {
                k = arg_int(r, &v[0], 4, &width);
                if (!k)
                        k = value_repeat(r, &space, width, &v[0]);
        }
        if (!k) /* Jinja adds a newline without asking what it has */
                k = value_binary(r, OP_ADD, self, &newline, &s);
        if (!k)
                k = text_splitlines(r, &s, false, &lines);
        if (k)
                return k;
        k = render_take(r, mark, indent_lines(r, lines.list, &v[0], value_truth(&v[1]), value_truth(&v[2])), ret);
        if (!k)
                ret->flags = self->flags;
        return k;
}

static int filter_center(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "width" };
        const struct value space = VALUE_LITERAL(" ");
        struct value v, s;
        int64_t width;
        size_t n, pad;
        int k = args_bind(r, "center", a, names, 1, 0, &v);

        if (!k)
                k = arg_int(r, &v, 80, &width);
        if (!k)
                k = value_str(r, self, &s);
        if (k)
                return k;
        k = render_step(r, s.n / 2);
        if (k)
                return k;
        n = text_length(s.text, s.n);
        pad = width > (int64_t)n ? (size_t)width - n : 0;
        return text_pad(r, &s, pad / 2 + (pad & (size_t)width & 1), pad - pad / 2 - (pad & (size_t)width & 1), &space, ret);
}

static int truncate_at(struct render *r, const struct value *s, size_t keep, bool killwords, const struct value *end,
                       struct value *ret) {
        size_t mark = render_mark(r), n = text_offset(s->text, s->n, keep);
        const char *space;
        int k;

        space = killwords || !n ? NULL : memrchr(s->text, ' ', n);
        if (space)
                n = (size_t)(space - s->text);
        k = render_emit(r, s->text, n);
        if (!k)
                k = render_emit(r, end->text, end->n);
        return render_take(r, mark, k, ret);
}

static int filter_truncate(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "length", "killwords", "end", "leeway" };
        struct value v[4];
        int64_t length, leeway, end_len;
        size_t n;
        int k = args_bind(r, "truncate", a, names, 4, 0, v);

        if (!k && v[2].kind == V_MISSING)
                v[2] = VALUE_LITERAL("...");
        if (!k && v[3].kind == V_NONE)
                v[3].kind = V_MISSING;
        if (!k)
                k = arg_int(r, &v[0], 255, &length);
        if (!k)
                k = arg_text(r, &v[2]);
        if (!k)
                k = arg_int(r, &v[3], 5, &leeway);
        if (!k)
                k = render_step(r, (value_is_string(self) ? self->n / 2 : 0) + v[2].n);
        if (k)
                return k;
        end_len = (int64_t)text_length(v[2].text, v[2].n);
        if (length < end_len || leeway < 0 || leeway > INT32_MAX || length > INT32_MAX)
                return render_fail(r, "truncate: length or leeway out of range");
        if (!value_length(self, &n))
                return render_fail(r, "object of type '%s' has no len()", value_type_name(self));
        if ((int64_t)n <= length + leeway) {
                *ret = *self;
                return 0;
        }
        if (!value_is_string(self))
                return render_fail(r, "'%s' object can't be truncated", value_type_name(self));
        return truncate_at(r, self, (size_t)(length - end_len), value_truth(&v[1]), &v[2], ret);
}

static int filter_wordcount(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        bool in_word = false, word;
        struct value s;
        int64_t n = 0;
        uint32_t c;
        int k = no_args(r, "wordcount", a);

        if (!k)
                k = value_str(r, self, &s);
        if (!k)
                k = render_step(r, (uint64_t)s.n * 4);
        for (size_t i = 0; !k && i < s.n;) {
                i += text_decode(s.text + i, s.n - i, &c);
                word = c == '_' || char_is_alpha(c) || char_is_numeric(c);
                n += word && !in_word;
                in_word = word;
        }
        if (!k)
                *ret = VALUE_INT(n);
        return k;
}

static int filter_format(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        struct value s, arg;
        struct dict_entry *e;
        int k = value_str(r, self, &s);

        if (k)
                return k;
        if (a->n && a->n_kw)
                return render_fail(r, "can't handle positional and keyword arguments at the same time");
        if (!a->n_kw) {
                k = list_value(r, V_TUPLE, a->pos, a->n, &arg);
                return k ? k : format_percent(r, &s, &arg, ret);
        }
        k = render_alloc(r, a->n_kw, sizeof(*e), &e);
        for (size_t i = 0; !k && i < a->n_kw; i++)
                e[i] = (struct dict_entry){ .key = VALUE_TEXT(a->kw[i].name, a->kw[i].n), .value = a->kw[i].value };
        if (!k)
                k = dict_new(r, e, a->n_kw, &arg);
        return k ? k : format_percent(r, &s, &arg, ret);
}

static int filter_urlencode(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char keep[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-~/";
        static const char digits[] = "0123456789ABCDEF";
        size_t mark = render_mark(r);
        struct value s;
        char hex[3] = "%";
        int k = no_args(r, "urlencode", a);

        if (!k && self->kind != V_STRING && value_iterable(self) && self->kind != V_UNDEFINED)
                return render_fail(r, "urlencode of '%s' is not supported", value_type_name(self));
        if (!k)
                k = value_str(r, self, &s);
        for (size_t i = 0; !k && i < s.n; i++) {
                if (s.text[i] && strchr(keep, s.text[i])) {
                        k = render_emit(r, s.text + i, 1);
                } else {
                        hex[1] = digits[(unsigned char)s.text[i] >> 4];
                        hex[2] = digits[(unsigned char)s.text[i] & 15];
                        k = render_emit(r, hex, sizeof(hex));
                }
        }
        return render_take(r, mark, k, ret);
}

/* Known to Jinja, of no use in a prompt: reaching one is an error, naming one is not. */
const struct function filters_text[] = {
        { "upper", filter_upper },
        { "lower", filter_lower },
        { "capitalize", filter_capitalize },
        { "title", filter_title },
        { "trim", filter_trim },
        { "string", filter_string },
        { "safe", filter_safe },
        { "escape", filter_escape },
        { "e", filter_escape },
        { "forceescape", filter_forceescape },
        { "replace", filter_replace },
        { "indent", filter_indent },
        { "center", filter_center },
        { "truncate", filter_truncate },
        { "wordcount", filter_wordcount },
        { "format", filter_format },
        { "urlencode", filter_urlencode },
        { "tojson", filter_tojson },
        { "filesizeformat", NULL },
        { "pprint", NULL },
        { "random", NULL },
        { "striptags", NULL },
        { "urlize", NULL },
        { "wordwrap", NULL },
        { "xmlattr", NULL },
        { NULL, NULL },
};
