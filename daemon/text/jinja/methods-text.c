/* SPDX-License-Identifier: Apache-2.0 */

/* Methods of str. */

#include <string.h>

#include "text-ops.h"
#include "text.h"

#define POSITIONAL(n) ((const char *const[]){ "", "", "", "" }), (n)

/* Binds up to n arguments that have no names, `required` of them strings where present. */
static int bind(struct render *r, const char *name, const struct args *a, size_t n, size_t required, struct value *out) {
        return args_bind(r, name, a, POSITIONAL(n), required, out);
}

static int map_case(struct render *r, const char *name, const struct value *self, const struct args *a,
                    enum text_case mode, struct value *ret) {
        int k = bind(r, name, a, 0, 0, NULL);

        return k ? k : text_map_case(r, self, mode, ret);
}

#define METHOD(name) \
        static int method_##name(struct render *r, const struct value *self, const struct args *a, struct value *ret)

METHOD(upper) {
        return map_case(r, "upper", self, a, CASE_UPPER, ret);
}

METHOD(lower) {
        return map_case(r, "lower", self, a, CASE_LOWER, ret);
}

METHOD(capitalize) {
        return map_case(r, "capitalize", self, a, CASE_CAPITALIZE, ret);
}

METHOD(title) {
        return map_case(r, "title", self, a, CASE_TITLE, ret);
}

METHOD(swapcase) {
        return map_case(r, "swapcase", self, a, CASE_SWAP, ret);
}

static int strip(struct render *r, const char *name, const struct value *self, const struct args *a, bool left,
                 bool right, struct value *ret) {
        struct value chars;
        int k = bind(r, name, a, 1, 0, &chars);

        return k ? k : text_strip(r, self, &chars, left, right, ret);
}

METHOD(strip) {
        return strip(r, "strip", self, a, true, true, ret);
}

METHOD(lstrip) {
        return strip(r, "lstrip", self, a, true, false, ret);
}

METHOD(rstrip) {
        return strip(r, "rstrip", self, a, false, true, ret);
}

/* self[start:end] of search methods, which take them as the last two arguments */
static int window(struct render *r, const struct value *self, const struct value *start, const struct value *end,
                  struct value *ret) {
        const struct value none = { .kind = V_MISSING };

        *ret = *self;
        if ((start->kind == V_MISSING || start->kind == V_NONE) && (end->kind == V_MISSING || end->kind == V_NONE))
                return 0;
        return value_slice(r, self, start, end, &none, ret);
}

static int affix(struct render *r, const char *name, const struct value *self, const struct args *a, bool at_end,
                 struct value *ret) {
        struct value v[3], s;
        struct list one = { .n = 1, .items = v }, *list = &one;
        bool found = false;
        int k = bind(r, name, a, 3, 1, v);

        if (!k)
                k = window(r, self, &v[1], &v[2], &s);
        if (!k && v[0].kind == V_TUPLE)
                list = v[0].list;
        for (size_t i = 0; !k && !found && i < list->n; i++) {
                const struct value *x = &list->items[i];

                k = arg_text(r, x);
                if (!k)
                        k = render_step_bytes(r, MIN(s.n, x->n));
                if (!k)
                        found = s.n >= x->n && memcmp(at_end ? s.text + s.n - x->n : s.text, x->text, x->n) == 0;
        }
        *ret = VALUE_BOOL(found);
        return k;
}

METHOD(startswith) {
        return affix(r, "startswith", self, a, false, ret);
}

METHOD(endswith) {
        return affix(r, "endswith", self, a, true, ret);
}

static int remove_affix(struct render *r, const char *name, const struct value *self, const struct args *a, bool at_end,
                        struct value *ret) {
        struct value x;
        int k = bind(r, name, a, 1, 1, &x);

        if (!k)
                k = arg_text(r, &x);
        if (!k)
                k = render_step_bytes(r, MIN(self->n, x.n));
        if (k)
                return k;
        *ret = *self;
        if (self->n < x.n || memcmp(at_end ? self->text + self->n - x.n : self->text, x.text, x.n) != 0)
                return 0;
        ret->text += at_end ? 0 : x.n;
        ret->n -= x.n;
        return 0;
}

METHOD(removeprefix) {
        return remove_affix(r, "removeprefix", self, a, false, ret);
}

METHOD(removesuffix) {
        return remove_affix(r, "removesuffix", self, a, true, ret);
}

METHOD(replace) {
        struct value v[3];
        int64_t count;
        int k = bind(r, "replace", a, 3, 2, v);

        for (unsigned i = 0; !k && i < 2; i++) {
                k = arg_text(r, &v[i]);
                if (!k && (self->flags & VALUE_MARKUP))
                        k = value_escape(r, &v[i], &v[i]);
        }
        if (!k)
                k = arg_int(r, &v[2], -1, &count);
        return k ? k : text_replace(r, self, &v[0], &v[1], count, ret);
}

METHOD(join) {
        struct list items;
        struct value v;
        int k = bind(r, "join", a, 1, 1, &v);

        if (!k)
                k = value_iterate(r, &v, &items);
        if (!k)
                k = text_join(r, self, &items, false, ret);
        if (!k)
                ret->flags = self->flags;
        return k;
}

static const char *last_match(const char *s, size_t n, const struct value *x) {
        for (size_t i = n - x->n + 1; n >= x->n && i > 0; i--)
                if (memcmp(s + i - 1, x->text, x->n) == 0)
                        return s + i - 1;
        return NULL;
}

static int find(struct render *r, const char *name, const struct value *self, const struct args *a, bool last,
                struct value *ret) {
        struct value v[3], s;
        const char *hit = NULL;
        int k = bind(r, name, a, 3, 1, v);

        if (!k)
                k = arg_text(r, &v[0]);
        if (!k)
                k = window(r, self, &v[1], &v[2], &s);
        if (!k)
                k = render_step(r, 1 + (last ? (uint64_t)s.n * (v[0].n / STEP_BYTES + 1) : s.n));
        if (k)
                return k;
        hit = last ? last_match(s.text, s.n, &v[0]) : v[0].n ? memmem(s.text, s.n, v[0].text, v[0].n) : s.text;
        *ret = VALUE_INT(hit ? (int64_t)text_length(self->text, (size_t)(hit - self->text)) : -1);
        return 0;
}

METHOD(find) {
        return find(r, "find", self, a, false, ret);
}

METHOD(rfind) {
        return find(r, "rfind", self, a, true, ret);
}

static int must_find(struct render *r, int k, struct value *ret) {
        return !k && ret->integer < 0 ? render_fail(r, "substring not found") : k;
}

METHOD(index) {
        return must_find(r, find(r, "index", self, a, false, ret), ret);
}

METHOD(rindex) {
        return must_find(r, find(r, "rindex", self, a, true, ret), ret);
}

METHOD(count) {
        struct value v[3], s;
        const char *p, *end;
        int64_t n = 0;
        int k = bind(r, "count", a, 3, 1, v);

        if (!k)
                k = arg_text(r, &v[0]);
        if (!k)
                k = window(r, self, &v[1], &v[2], &s);
        if (!k)
                k = render_step(r, s.n);
        if (k)
                return k;
        if (v[0].n == 0)
                n = (int64_t)text_length(s.text, s.n) + 1;
        for (p = s.text, end = s.text + s.n; v[0].n && (p = memmem(p, (size_t)(end - p), v[0].text, v[0].n)); p += v[0].n)
                n++;
        *ret = VALUE_INT(n);
        return 0;
}

METHOD(splitlines) {
        static const char *const names[] = { "keepends" };
        struct value keep;
        int k = args_bind(r, "splitlines", a, names, 1, 0, &keep);

        return k ? k : text_splitlines(r, self, value_truth(&keep), ret);
}

/* Collects pieces of one string; what is cut off grows with the text alone. */
struct pieces {
        struct value *items;
        size_t n;
        size_t cap;
        uint8_t flags;
};

static int add_piece(struct render *r, struct pieces *p, const char *s, size_t n) {
        struct value *items;
        size_t cap = p->cap ? p->cap * 2 : 8;
        int k;

        if (p->n == p->cap) {
                k = render_alloc(r, cap, sizeof(*items), &items);
                if (k)
                        return k;
                if (p->n)
                        memcpy(items, p->items, p->n * sizeof(*items));
                p->items = items;
                p->cap = cap;
        }
        p->items[p->n] = VALUE_TEXT(s, n);
        p->items[p->n++].flags = p->flags;
        return 0;
}

static int split_space(struct render *r, const char *s, size_t n, int64_t max, struct pieces *p) {
        size_t pos = text_lstrip(s, n), from;
        int k = 0;

        for (; !k && pos < n && max != 0; max--) {
                for (from = pos; pos < n && !text_space(s + pos, n - pos);)
                        pos += text_char(s + pos, n - pos);
                k = add_piece(r, p, s + from, pos - from);
                pos += text_lstrip(s + pos, n - pos);
        }
        if (!k && pos < n)
                k = add_piece(r, p, s + pos, text_rstrip(s + pos, n - pos));
        return k;
}

static int rsplit_space(struct render *r, const char *s, size_t n, int64_t max, struct pieces *p) {
        size_t end = text_rstrip(s, n), from;
        int k = 0;

        for (; !k && end > 0 && max != 0; max--) {
                for (from = end; from > 0; from--) {
                        size_t c = from - 1;

                        while (c > 0 && ((unsigned char)s[c] & 0xc0) == 0x80)
                                c--;
                        if (text_space(s + c, from - c))
                                break;
                        from = c + 1;
                }
                k = add_piece(r, p, s + from, end - from);
                end = text_rstrip(s, from);
        }
        if (!k && end > 0) {
                from = text_lstrip(s, end);
                if (from < end)
                        k = add_piece(r, p, s + from, end - from);
        }
        return k;
}

static int split_by(struct render *r, const struct value *s, const struct value *sep, int64_t max, struct pieces *p) {
        const char *from = s->text, *end = s->text + s->n, *hit;
        int k = render_step(r, s->n / STEP_SEARCH);

        for (; !k && max != 0; max--) {
                hit = memmem(from, (size_t)(end - from), sep->text, sep->n);
                if (!hit)
                        break;
                k = add_piece(r, p, from, (size_t)(hit - from));
                from = hit + sep->n;
        }
        return k ? k : add_piece(r, p, from, (size_t)(end - from));
}

static int rsplit_by(struct render *r, const struct value *s, const struct value *sep, int64_t max, struct pieces *p) {
        size_t end = s->n;
        const char *hit;
        int k = render_step(r, (uint64_t)s->n * (sep->n / STEP_BYTES + 1) / 4);

        for (; !k && max != 0; max--) {
                hit = last_match(s->text, end, sep);
                if (!hit)
                        break;
                k = add_piece(r, p, hit + sep->n, end - (size_t)(hit + sep->n - s->text));
                end = (size_t)(hit - s->text);
        }
        return k ? k : add_piece(r, p, s->text, end);
}

static void reverse_pieces(struct pieces *p) {
        for (size_t i = 0; i < p->n / 2; i++) {
                struct value t = p->items[i];

                p->items[i] = p->items[p->n - 1 - i];
                p->items[p->n - 1 - i] = t;
        }
}

static int split(struct render *r, const char *name, const struct value *self, const struct args *a, bool right,
                 struct value *ret) {
        static const char *const names[] = { "sep", "maxsplit" };
        struct pieces p = { .flags = self->flags };
        struct value v[2];
        int64_t max;
        int k = args_bind(r, name, a, names, 2, 0, v);

        if (!k)
                k = arg_int(r, &v[1], -1, &max);
        if (!k)
                k = render_step(r, (uint64_t)self->n * 2);
        if (!k && v[0].kind != V_MISSING && v[0].kind != V_NONE) {
                k = arg_text(r, &v[0]);
                if (!k && v[0].n == 0)
                        return render_fail(r, "empty separator");
                if (!k)
                        k = right ? rsplit_by(r, self, &v[0], max, &p) : split_by(r, self, &v[0], max, &p);
        } else if (!k) {
                k = right ? rsplit_space(r, self->text, self->n, max, &p)
                          : split_space(r, self->text, self->n, max, &p);
        }
        if (right)
                reverse_pieces(&p);
        return k ? k : list_value(r, V_LIST, p.items, p.n, ret);
}

METHOD(split) {
        return split(r, "split", self, a, false, ret);
}

METHOD(rsplit) {
        return split(r, "rsplit", self, a, true, ret);
}

static int partition(struct render *r, const char *name, const struct value *self, const struct args *a, bool last,
                     struct value *ret) {
        struct value sep, parts[3];
        const char *hit;
        size_t at;
        int k = bind(r, name, a, 1, 1, &sep);

        if (!k)
                k = arg_text(r, &sep);
        if (!k && sep.n == 0)
                return render_fail(r, "empty separator");
        if (!k)
                k = render_step(r, 1 + (last ? (uint64_t)self->n * (sep.n / STEP_BYTES + 1) : self->n / STEP_SEARCH));
        if (k)
                return k;
        hit = last ? last_match(self->text, self->n, &sep) : memmem(self->text, self->n, sep.text, sep.n);
        for (unsigned i = 0; i < 3; i++)
                parts[i] = VALUE_LITERAL("");
        if (hit) {
                at = (size_t)(hit - self->text);
                parts[0] = VALUE_TEXT(self->text, at);
                parts[1] = sep;
                parts[2] = VALUE_TEXT(hit + sep.n, self->n - at - sep.n);
        } else {
                parts[last ? 2 : 0] = *self;
        }
        return list_value(r, V_TUPLE, parts, 3, ret);
}

METHOD(partition) {
        return partition(r, "partition", self, a, false, ret);
}

METHOD(rpartition) {
        return partition(r, "rpartition", self, a, true, ret);
}

/* ljust, rjust, center: -1, 1, 0 */
static int justify(struct render *r, const char *name, const struct value *self, const struct args *a, int side,
                   struct value *ret) {
        struct value v[2];
        size_t n, pad, left;
        int64_t width;
        int k = bind(r, name, a, 2, 1, v);

        if (!k)
                k = arg_int(r, &v[0], 0, &width);
        if (!k && v[1].kind == V_MISSING)
                v[1] = VALUE_LITERAL(" ");
        if (!k)
                k = arg_text(r, &v[1]);
        if (!k)
                k = render_step(r, self->n / 2 + v[1].n);
        if (k)
                return k;
        if (text_length(v[1].text, v[1].n) != 1)
                return render_fail(r, "The fill character must be exactly one character long");
        n = text_length(self->text, self->n);
        pad = width > (int64_t)n ? (size_t)width - n : 0;
        left = side > 0 ? pad : side < 0 ? 0 : pad / 2 + (pad & (size_t)width & 1);
        return text_pad(r, self, left, pad - left, &v[1], ret);
}

METHOD(ljust) {
        return justify(r, "ljust", self, a, -1, ret);
}

METHOD(rjust) {
        return justify(r, "rjust", self, a, 1, ret);
}

METHOD(center) {
        return justify(r, "center", self, a, 0, ret);
}

METHOD(zfill) {
        const struct value zero = VALUE_LITERAL("0");
        struct value v, sign, rest = *self;
        size_t n, pad, signs;
        int64_t width;
        int k = bind(r, "zfill", a, 1, 1, &v);

        if (!k)
                k = arg_int(r, &v, 0, &width);
        if (!k)
                k = render_step_bytes(r, self->n);
        if (k)
                return k;
        n = text_length(self->text, self->n);
        pad = width > (int64_t)n ? (size_t)width - n : 0;
        signs = self->n && (self->text[0] == '-' || self->text[0] == '+');
        sign = VALUE_TEXT(self->text, signs);
        rest.text += signs;
        rest.n -= signs;
        k = text_pad(r, &rest, pad, 0, &zero, &rest);
        return k ? k : text_concat(r, &sign, &rest, ret);
}

METHOD(expandtabs) {
        static const char *const names[] = { "tabsize" };
        size_t mark = render_mark(r), len;
        int64_t size, column = 0;
        struct value v;
        int k = args_bind(r, "expandtabs", a, names, 1, 0, &v);

        if (!k)
                k = arg_int(r, &v, 8, &size);
        if (!k)
                k = render_step(r, (uint64_t)self->n * 2);
        for (size_t i = 0; !k && i < self->n; i += len) {
                const char *p = self->text + i;

                len = text_char(p, self->n - i);
                if (*p != '\t') {
                        column = *p == '\n' || *p == '\r' ? 0 : column + 1;
                        k = render_emit(r, p, len);
                } else if (size > 0) {
                        k = render_fill(r, ' ', (size_t)(size - column % size));
                        column += size - column % size;
                }
        }
        k = render_take(r, mark, k, ret);
        if (!k)
                ret->flags = self->flags;
        return k;
}

const struct function methods_text[] = {
        { "upper", method_upper },
        { "lower", method_lower },
        { "capitalize", method_capitalize },
        { "title", method_title },
        { "swapcase", method_swapcase },
        { "casefold", method_lower },
        { "strip", method_strip },
        { "lstrip", method_lstrip },
        { "rstrip", method_rstrip },
        { "startswith", method_startswith },
        { "endswith", method_endswith },
        { "removeprefix", method_removeprefix },
        { "removesuffix", method_removesuffix },
        { "replace", method_replace },
        { "join", method_join },
        { "find", method_find },
        { "rfind", method_rfind },
        { "index", method_index },
        { "rindex", method_rindex },
        { "count", method_count },
        { "split", method_split },
        { "rsplit", method_rsplit },
        { "splitlines", method_splitlines },
        { "partition", method_partition },
        { "rpartition", method_rpartition },
        { "ljust", method_ljust },
        { "rjust", method_rjust },
        { "center", method_center },
        { "zfill", method_zfill },
        { "expandtabs", method_expandtabs },
        { "format", method_format },
        { "format_map", NULL },
        { "encode", NULL },
        { "isidentifier", NULL },
        { "maketrans", NULL },
        { "translate", NULL },
        { NULL, NULL },
};
