/* SPDX-License-Identifier: Apache-2.0 */

/* Filters over sequences as a whole, and numbers. */

#include <string.h>

#include "text-ops.h"

static int no_args(struct render *r, const char *name, const struct args *a) {
        return args_bind(r, name, a, NULL, 0, 0, NULL);
}

static int filter_length(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        size_t n;
        int k = no_args(r, "length", a);

        if (!k && self->kind == V_STRING)
                k = render_step(r, self->n / 4);
        if (k)
                return k;
        if (self->kind == V_LOOP)
                n = self->loop->items.n;
        else if (!value_length(self, &n))
                return render_fail(r, "object of type '%s' has no len()", value_type_name(self));
        *ret = VALUE_INT((int64_t)n);
        return 0;
}

static void empty_hint(struct value *ret) {
        static const char hint[] = "No first or last item, sequence was empty.";

        *ret = (struct value){ .kind = V_UNDEFINED, .flags = VALUE_HINT, .text = hint, .n = sizeof(hint) - 1 };
}

static int filter_first(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        struct list items;
        int k = no_args(r, "first", a);

        if (!k && self->kind == V_ITER) { /* takes one and leaves the rest */
                empty_hint(ret);
                if (self->iter->pos < self->iter->list.n)
                        *ret = self->iter->list.items[self->iter->pos++];
                return 0;
        }
        if (!k)
                k = value_iterate(r, self, &items);
        if (k)
                return k;
        empty_hint(ret);
        if (items.n)
                *ret = items.items[0];
        return 0;
}

static int reversible(struct render *r, const struct value *self) {
        if (value_iterable(self) && self->kind != V_ITER && self->kind != V_UNDEFINED)
                return 0;
        return render_fail(r, "'%s' object is not reversible", value_type_name(self));
}

static int filter_last(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        struct list items;
        int k = no_args(r, "last", a);

        if (!k && self->kind != V_UNDEFINED)
                k = reversible(r, self);
        if (!k)
                k = value_iterate(r, self, &items);
        if (k)
                return k;
        empty_hint(ret);
        if (items.n)
                *ret = items.items[items.n - 1];
        return 0;
}

static int filter_list(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        struct list items;
        int k = no_args(r, "list", a);

        if (!k)
                k = value_iterate(r, self, &items);
        return k ? k : list_value(r, V_LIST, items.items, items.n, ret);
}

static int filter_reverse(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        struct list items, out = { 0 };
        size_t mark = render_mark(r);
        int k = no_args(r, "reverse", a);

        if (!k)
                k = value_iterate(r, self, &items);
        if (k)
                return k;
        if (self->kind == V_STRING) {
                for (size_t i = items.n; !k && i > 0; i--)
                        k = render_emit(r, items.items[i - 1].text, items.items[i - 1].n);
                return render_take(r, mark, k, ret);
        }
        k = render_alloc(r, items.n, sizeof(*out.items), &out.items);
        if (k)
                return k;
        for (out.n = 0; out.n < items.n; out.n++)
                out.items[out.n] = items.items[items.n - 1 - out.n];
        if (self->kind == V_ITER)
                return list_value(r, V_LIST, out.items, out.n, ret);
        return iter_value(r, "list_reverseiterator object", &out, ret);
}

static int filter_items(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        const struct value view = { .kind = V_ITEMS, .dict = self->dict };
        struct list items = { 0 };
        int k = no_args(r, "items", a);

        if (!k && self->kind != V_DICT && self->kind != V_UNDEFINED)
                return render_fail(r, "Can only get item pairs from a mapping.");
        if (!k && self->kind == V_DICT)
                k = value_iterate(r, &view, &items);
        return k ? k : iter_value(r, "generator object do_items", &items, ret);
}

static int filter_batch(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "linecount", "fill_with" };
        struct list items = { 0 }, out = { 0 }, *row;
        struct value v[2];
        int64_t size = 0;
        int k = args_bind(r, "batch", a, names, 2, 1, v);

        if (!k)
                k = arg_int(r, &v[0], 1, &size);
        if (!k)
                k = value_iterate(r, self, &items);
        if (!k && size < 1)
                return render_fail(r, "batch: rows must have at least one item");
        if (!k)
                k = render_alloc(r, items.n, sizeof(*out.items), &out.items);
        for (size_t i = 0, n; !k && i < items.n; i += n) {
                bool fill = v[1].kind != V_MISSING && v[1].kind != V_NONE;
                size_t rest = items.n - i;

                n = MIN((size_t)size, rest);
                k = list_new(r, fill ? (size_t)size : n, &row);
                for (size_t j = 0; !k && j < row->n; j++)
                        row->items[j] = j < n ? items.items[i + j] : v[1];
                if (!k)
                        out.items[out.n++] = (struct value){ .kind = V_LIST, .list = row };
        }
        return k ? k : iter_value(r, "generator object do_batch", &out, ret);
}

static int filter_slice(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "slices", "fill_with" };
        struct list items, out = { 0 }, *column;
        struct value v[2];
        size_t per, extra, from = 0;
        int64_t slices;
        int k = args_bind(r, "slice", a, names, 2, 1, v);

        if (!k)
                k = arg_int(r, &v[0], 1, &slices);
        if (!k)
                k = value_iterate(r, self, &items);
        if (k)
                return k;
        if (slices < 1)
                return render_fail(r, "slice: there must be at least one");
        per = items.n / (size_t)slices;
        extra = items.n % (size_t)slices;
        k = render_alloc(r, (size_t)slices, sizeof(*out.items), &out.items);
        for (; !k && out.n < (size_t)slices; out.n++) {
                size_t n = per + (out.n < extra);
                bool fill = v[1].kind != V_MISSING && v[1].kind != V_NONE && out.n >= extra;

                k = list_new(r, n + fill, &column);
                for (size_t j = 0; !k && j < column->n; j++)
                        column->items[j] = j < n ? items.items[from + j] : v[1];
                from += n;
                if (!k)
                        out.items[out.n] = (struct value){ .kind = V_LIST, .list = column };
        }
        return k ? k : iter_value(r, "generator object sync_do_slice", &out, ret);
}

static int filter_default(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "default_value", "boolean" };
        struct value v[2];
        int k = args_bind(r, "default", a, names, 2, 0, v);

        if (k)
                return k;
        if (v[0].kind == V_MISSING)
                v[0] = VALUE_LITERAL("");
        *ret = self->kind == V_UNDEFINED || (value_truth(&v[1]) && !value_truth(self)) ? v[0] : *self;
        return 0;
}

static int filter_attr(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "name" };
        struct value name, s;
        int k = args_bind(r, "attr", a, names, 1, 1, &name);

        if (!k)
                k = value_str(r, &name, &s);
        if (k)
                return k;
        if (self->kind != V_DICT || function_find_method(V_DICT, s.text, s.n))
                return value_attribute(r, self, s.text, s.n, ret);
        *ret = (struct value){ .kind = V_UNDEFINED, .text = s.text, .n = s.n }; /* never an item */
        return 0;
}

const struct function filters_sequence[] = {
        { "length", filter_length },
        { "count", filter_length },
        { "first", filter_first },
        { "last", filter_last },
        { "list", filter_list },
        { "reverse", filter_reverse },
        { "items", filter_items },
        { "batch", filter_batch },
        { "slice", filter_slice },
        { "default", filter_default },
        { "d", filter_default },
        { "attr", filter_attr },
        { NULL, NULL },
};
