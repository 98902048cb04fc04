/* SPDX-License-Identifier: Apache-2.0 */

/* Methods of dicts, lists, tuples, ranges, loops and cyclers. What would change a dict or list is there but may not be
 * used, as in Jinja's immutable sandbox. A name that starts with '.' is a property. */

#include <string.h>

#include "text-ops.h"

static int view(struct render *r, const char *name, const struct value *self, const struct args *a, unsigned kind,
                struct value *ret) {
        int k = args_bind(r, name, a, NULL, 0, 0, NULL);

        *ret = (struct value){ .kind = (uint8_t)kind, .dict = self->dict };
        return k;
}

static int method_items(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        return view(r, "items", self, a, V_ITEMS, ret);
}

static int method_keys(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        return view(r, "keys", self, a, V_KEYS, ret);
}

static int method_values(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        return view(r, "values", self, a, V_VALUES, ret);
}

static int method_copy(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        return view(r, "copy", self, a, self->kind, ret); /* nothing changes it: the same one will do */
}

static int method_get(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "", "" };
        const struct value *found = NULL;
        struct value v[2];
        int k = args_bind(r, "get", a, names, 2, 1, v);

        if (!k && v[0].kind != V_UNDEFINED) {
                if (!value_hashable(&v[0]))
                        return render_fail(r, "unhashable type: '%s'", value_type_name(&v[0]));
                k = dict_find(r, self->dict, &v[0], &found);
        }
        *ret = found ? *found : v[1].kind == V_MISSING ? VALUE_NONE : v[1];
        return k;
}

static int method_list_count(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "" };
        struct list items;
        struct value v;
        int64_t n = 0;
        bool equal;
        int k = args_bind(r, "count", a, names, 1, 1, &v);

        if (!k)
                k = value_iterate(r, self, &items);
        for (size_t i = 0; !k && i < items.n; i++) {
                k = value_equal(r, &items.items[i], &v, &equal);
                if (!k)
                        k = render_step(r, 1);
                n += !k && equal;
        }
        *ret = VALUE_INT(n);
        return k;
}

static int method_list_index(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "", "", "" };
        int64_t start = 0, stop = INT64_MAX;
        struct list items = { 0 };
        struct value v[3];
        bool equal;
        int k = args_bind(r, "index", a, names, self->kind == V_RANGE ? 1 : 3, 1, v);

        if (!k)
                k = value_iterate(r, self, &items);
        if (!k && a->n > 1)
                k = arg_int(r, &v[1], 0, &start);
        if (!k && a->n > 2)
                k = arg_int(r, &v[2], 0, &stop);
        start = start < 0 ? MAX(start + (int64_t)items.n, 0) : start;
        stop = stop < 0 ? stop + (int64_t)items.n : MIN(stop, (int64_t)items.n);
        for (int64_t i = start; !k && i < stop; i++) {
                k = value_equal(r, &items.items[i], &v[0], &equal);
                if (!k)
                        k = render_step(r, 1);
                if (!k && equal) {
                        *ret = VALUE_INT(i);
                        return 0;
                }
        }
        return k ? k : render_fail(r, "value is not in list");
}

#define LOOP_PROPERTY(name, expression)                                                                                 \
        static int loop_##name(struct render *r, const struct value *self, const struct args *a, struct value *ret) {  \
                const struct loop *l = self->loop;                                                                      \
                                                                                                                        \
                *ret = (expression);                                                                                    \
                return 0;                                                                                               \
        }

LOOP_PROPERTY(index, VALUE_INT((int64_t)l->i + 1))
LOOP_PROPERTY(index0, VALUE_INT((int64_t)l->i))
LOOP_PROPERTY(revindex, VALUE_INT((int64_t)(l->items.n - l->i)))
LOOP_PROPERTY(revindex0, VALUE_INT((int64_t)(l->items.n - l->i) - 1))
LOOP_PROPERTY(first, VALUE_BOOL(l->i == 0))
LOOP_PROPERTY(last, VALUE_BOOL(l->i + 1 >= l->items.n))
LOOP_PROPERTY(length, VALUE_INT((int64_t)l->items.n))
LOOP_PROPERTY(depth, VALUE_INT(l->depth))
LOOP_PROPERTY(depth0, VALUE_INT(l->depth - 1))

static struct value no_neighbour(const char *text) {
        return (struct value){ .kind = V_UNDEFINED, .flags = VALUE_HINT, .text = text, .n = strlen(text) };
}

LOOP_PROPERTY(previtem, l->i > 0 && l->i <= l->items.n ? l->items.items[l->i - 1] : no_neighbour("there is no previous item"))
LOOP_PROPERTY(nextitem, l->i + 1 < l->items.n ? l->items.items[l->i + 1] : no_neighbour("there is no next item"))

static int loop_cycle(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        if (!a->n)
                return render_fail(r, "no items for cycling given");
        *ret = a->pos[self->loop->i % a->n];
        return 0;
}

/* True when the arguments are others than last time. */
static int loop_changed(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        struct loop *l = self->loop;
        bool same = false;
        struct value now;
        int k = list_value(r, V_TUPLE, a->pos, a->n, &now);

        if (!k && l->changed.kind == V_TUPLE)
                k = value_equal(r, &now, &l->changed, &same);
        l->changed = now;
        *ret = VALUE_BOOL(!same);
        return k;
}

static int cycler_current(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        *ret = self->cycler->items.items[self->cycler->pos];
        return 0;
}

static int cycler_next(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        int k = args_bind(r, "next", a, NULL, 0, 0, NULL);

        *ret = self->cycler->items.items[self->cycler->pos];
        self->cycler->pos = (self->cycler->pos + 1) % self->cycler->items.n;
        return k;
}

static int cycler_reset(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        self->cycler->pos = 0;
        *ret = VALUE_NONE;
        return args_bind(r, "reset", a, NULL, 0, 0, NULL);
}

const struct function methods_dict[] = {
        { "items", method_items }, { "keys", method_keys }, { "values", method_values }, { "get", method_get },
        { "copy", method_copy },   { "clear", NULL },       { "fromkeys", NULL },        { "pop", NULL },
        { "popitem", NULL },       { "setdefault", NULL },  { "update", NULL },          { NULL, NULL },
};

const struct function methods_list[] = {
        { "count", method_list_count }, { "index", method_list_index }, { "copy", method_copy }, { "append", NULL },
        { "clear", NULL },  { "extend", NULL }, { "insert", NULL }, { "pop", NULL },
        { "remove", NULL }, { "reverse", NULL }, { "sort", NULL },  { NULL, NULL },
};

const struct function methods_tuple[] = {
        { "count", method_list_count },
        { "index", method_list_index },
        { NULL, NULL },
};

const struct function methods_range[] = {
        { "count", method_list_count },
        { "index", method_list_index },
        { NULL, NULL },
};

const struct function methods_loop[] = {
        { ".index", loop_index },       { ".index0", loop_index0 },     { ".revindex", loop_revindex },
        { ".revindex0", loop_revindex0 }, { ".first", loop_first },     { ".last", loop_last },
        { ".length", loop_length },     { ".depth", loop_depth },       { ".depth0", loop_depth0 },
        { ".previtem", loop_previtem }, { ".nextitem", loop_nextitem }, { "cycle", loop_cycle },
        { "changed", loop_changed },    { NULL, NULL },
};

const struct function methods_cycler[] = {
        { ".current", cycler_current },
        { "next", cycler_next },
        { "reset", cycler_reset },
        { NULL, NULL },
};
