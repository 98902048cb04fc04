/* SPDX-License-Identifier: Apache-2.0 */

/* Joining and repeating text and lists. Adding to the newest text extends it in place, so a template that collects its
 * output in a variable takes time and memory linear in it. */

#include <string.h>

#include "render.h"

int value_escape(struct render *r, const struct value *v, struct value *ret) {
        static const struct {
                char c;
                const char *text;
        } escapes[] = { { '&', "&amp;" }, { '<', "&lt;" }, { '>', "&gt;" }, { '\'', "&#39;" }, { '"', "&#34;" } };
        size_t mark = render_mark(r), from = 0;
        struct value s;
        int k;

        if (v->kind == V_STRING && (v->flags & VALUE_MARKUP)) {
                *ret = *v;
                return 0;
        }
        k = value_str(r, v, &s);
        if (!k)
                k = render_step(r, s.n);
        for (size_t i = 0; !k && i < s.n; i++)
                for (size_t e = 0; !k && e < ARRAY_SIZE(escapes); e++)
                        if (s.text[i] == escapes[e].c) {
                                k = render_emit(r, s.text + from, i - from);
                                if (!k)
                                        k = render_emit_str(r, escapes[e].text);
                                from = i + 1;
                        }
        if (!k)
                k = render_emit(r, s.text + from, s.n - from);
        k = render_take(r, mark, k, ret);
        if (!k)
                ret->flags |= VALUE_MARKUP;
        return k;
}

static int concat_plain(struct render *r, const struct value *a, const struct value *b, struct value *ret) {
        size_t n, spare;
        char *p;
        int k;

        if (a->n == 0 || b->n == 0) {
                *ret = a->n ? *a : *b;
                return 0;
        }
        if (arena_extend(&r->texts, a->text + a->n, b->n)) {
                p = (char *)a->text;
                memcpy(p + a->n, b->text, b->n);
                *ret = VALUE_TEXT(p, a->n + b->n);
                return render_step_bytes(r, b->n);
        }
        if (__builtin_add_overflow(a->n, b->n, &n))
                return render_limit(r, "too much memory");
        k = render_step_bytes(r, n);
        if (k)
                return k;
        spare = n > 4096 ? n : 0;
        p = spare ? arena_bytes(&r->texts, n + spare) : NULL;
        if (p)
                r->texts.cur -= spare;
        else
                p = arena_bytes(&r->texts, n);
        if (!p)
                return render_memory(r, &r->texts);
        memcpy(p, a->text, a->n);
        memcpy(p + a->n, b->text, b->n);
        *ret = VALUE_TEXT(p, n);
        return 0;
}

int text_concat(struct render *r, const struct value *a, const struct value *b, struct value *ret) {
        struct value left, right;
        int k;

        if (!((a->flags | b->flags) & VALUE_MARKUP))
                return concat_plain(r, a, b, ret);
        k = value_escape(r, a, &left);
        if (!k)
                k = value_escape(r, b, &right);
        if (!k)
                k = concat_plain(r, &left, &right, ret);
        if (!k)
                ret->flags |= VALUE_MARKUP;
        return k;
}

static int repeat_list(struct render *r, const struct list *l, size_t times, unsigned kind, struct value *ret) {
        struct list *out;
        size_t n;
        int k;

        if (__builtin_mul_overflow(l->n, times, &n))
                return render_limit(r, "too much memory");
        k = list_new(r, n, &out);
        if (k)
                return k;
        for (size_t i = 0, j = 0; i < n; i++, j = j + 1 < l->n ? j + 1 : 0)
                out->items[i] = l->items[j];
        *ret = (struct value){ .kind = (uint8_t)kind, .list = out };
        return 0;
}

int value_repeat(struct render *r, const struct value *v, int64_t times, struct value *ret) {
        size_t count = times > 0 ? (size_t)times : 0, mark = render_mark(r), n;
        int k = 0;

        if (v->kind != V_STRING)
                return repeat_list(r, v->list, v->list->n ? count : 0, v->kind, ret);
        if (__builtin_mul_overflow(v->n, count, &n) || n > r->out_limit)
                return render_limit(r, "text is too long");
        for (size_t i = 0; !k && v->n && i < count; i++)
                k = render_emit(r, v->text, v->n);
        k = render_take(r, mark, k, ret);
        if (!k)
                ret->flags = v->flags;
        return k;
}
