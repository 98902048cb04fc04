/* SPDX-License-Identifier: Apache-2.0 */

/* Finding functions by name, and the global ones. */

#include <string.h>

#include "render.h"
#include "text-ops.h"

static const struct function *find_in(const struct function *table, const char *name, size_t n) {
        for (; table->name; table++) {
                const char *own = table->name + (table->name[0] == '.');

                if (strlen(own) == n && memcmp(own, name, n) == 0)
                        return table;
        }
        return NULL;
}

const struct function *function_find_filter(const char *name, size_t n) {
        const struct function *const tables[] = { filters_text, filters_sequence, filters_pick, filters_number };
        const struct function *f = NULL;

        for (size_t i = 0; !f && i < ARRAY_SIZE(tables); i++)
                f = find_in(tables[i], name, n);
        return f;
}

const struct function *function_find_test(const char *name, size_t n) {
        return find_in(tests_all, name, n);
}

const struct function *function_find_method(unsigned kind, const char *name, size_t n) {
        const struct function *f;

        switch (kind) {
        case V_STRING:
                f = find_in(methods_text, name, n);
                return f ? f : find_in(methods_char, name, n);
        case V_DICT:
                return find_in(methods_dict, name, n);
        case V_LIST:
                return find_in(methods_list, name, n);
        case V_TUPLE:
                return find_in(methods_tuple, name, n);
        case V_RANGE:
                return find_in(methods_range, name, n);
        case V_LOOP:
                return find_in(methods_loop, name, n);
        case V_CYCLER:
                return find_in(methods_cycler, name, n);
        default:
                return NULL;
        }
}

bool function_is_dict_method(const char *name, size_t n) {
        return find_in(methods_dict, name, n);
}

const struct function *function_find_global(const char *name, size_t n) {
        return find_in(functions_global, name, n);
}

static int global_raise(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "message" };
        struct value message, s;
        int k = args_bind(r, "raise_exception", a, names, 1, 1, &message);

        if (!k)
                k = value_str(r, &message, &s);
        return k ? k : render_fail(r, "%.*s", (int)MIN(s.n, 500u), s.text);
}

static int global_range(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "", "", "" };
        int64_t v[3] = { 0, 0, 1 }, span;
        struct value arg[3];
        struct range *g;
        uint64_t n = 0;
        int k = args_bind(r, "range", a, names, 3, 1, arg);

        for (size_t i = 0; !k && i < a->n; i++)
                k = arg_int(r, &arg[i], 0, &v[a->n == 1 ? 1 : i]);
        if (k)
                return k;
        if (v[2] == 0)
                return render_fail(r, "range() arg 3 must not be zero");
        if (v[2] > 0 ? v[1] > v[0] : v[1] < v[0]) {
                if (__builtin_sub_overflow(v[1], v[0], &span) || v[2] == INT64_MIN)
                        return render_limit(r, "range too big");
                n = v[2] > 0 ? ((uint64_t)span - 1) / (uint64_t)v[2] + 1 : ((uint64_t)-span - 1) / (uint64_t)-v[2] + 1;
        }
        if (n > RANGE_MAX)
                return render_limit(r, "range too big: the sandbox blocks ranges larger than 100000");
        k = render_alloc(r, 1, sizeof(*g), &g);
        if (k)
                return k;
        *g = (struct range){ .start = v[0], .stop = v[1], .step = v[2], .n = (size_t)n };
        *ret = (struct value){ .kind = V_RANGE, .range = g };
        return 0;
}

/* Entries from a dict, or pairs, or nothing, and then keywords: dict() and namespace() */
static int collect_entries(struct render *r, const char *name, const struct args *a, struct dict_entry **ret, size_t *ret_n) {
        struct list items = { 0 }, pair;
        struct dict_entry *e = NULL;
        size_t n = 0;
        int k = 0;

        if (a->n > 1)
                return render_fail(r, "%s expected at most 1 argument", name);
        if (a->n && a->pos[0].kind == V_DICT)
                k = value_iterate(r, &(struct value){ .kind = V_ITEMS, .dict = a->pos[0].dict }, &items);
        else if (a->n)
                k = value_iterate(r, &a->pos[0], &items);
        if (!k)
                k = render_alloc(r, items.n + a->n_kw, sizeof(*e), &e);
        for (size_t i = 0; !k && i < items.n; i++) {
                k = value_iterate(r, &items.items[i], &pair);
                if (k)
                        break;
                if (pair.n != 2 || !value_hashable(&pair.items[0]))
                        return render_fail(r, "%s: not a sequence of pairs", name);
                e[n++] = (struct dict_entry){ .key = pair.items[0], .value = pair.items[1] };
        }
        for (size_t i = 0; !k && i < a->n_kw; i++, n++) {
                e[n].key = VALUE_TEXT(a->kw[i].name, a->kw[i].n);
                e[n].value = a->kw[i].value;
        }
        *ret = e;
        *ret_n = n;
        return k;
}

static int global_dict(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        struct dict_entry *e;
        size_t n;
        int k = collect_entries(r, "dict", a, &e, &n);

        return k ? k : dict_new(r, e, n, ret);
}

static int global_namespace(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        struct namespace *ns;
        struct value d;
        int k = global_dict(r, self, a, &d);

        if (!k)
                k = render_alloc(r, 1, sizeof(*ns), &ns);
        if (!k)
                k = render_alloc(r, d.dict->n, sizeof(*ns->entries), &ns->entries);
        if (k)
                return k;
        for (size_t i = 0; i < d.dict->n; i++)
                if (d.dict->entries[i].key.kind == V_STRING)
                        ns->entries[ns->n++] = d.dict->entries[i];
        ns->cap = d.dict->n;
        *ret = (struct value){ .kind = V_NAMESPACE, .namespace = ns };
        return 0;
}

static int new_cycler(struct render *r, enum value_kind kind, const struct value *items, size_t n, struct value *ret) {
        struct cycler *c;
        struct value l;
        int k = list_value(r, V_LIST, items, n, &l);

        if (!k)
                k = render_alloc(r, 1, sizeof(*c), &c);
        if (k)
                return k;
        c->items = *l.list;
        *ret = (struct value){ .kind = (uint8_t)kind, .cycler = c };
        return 0;
}

static int global_cycler(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        if (!a->n || a->n_kw)
                return render_fail(r, "at least one item has to be provided");
        return new_cycler(r, V_CYCLER, a->pos, a->n, ret);
}

static int global_joiner(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "sep" };
        struct value separator;
        int k = args_bind(r, "joiner", a, names, 1, 0, &separator);

        if (k)
                return k;
        if (separator.kind == V_MISSING)
                separator = VALUE_LITERAL(", ");
        return new_cycler(r, V_JOINER, &separator, 1, ret);
}

static int global_lipsum(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        return render_fail(r, "lipsum is not supported");
}

const struct function functions_global[] = {
        { "raise_exception", global_raise },
        { "strftime_now", function_strftime_now },
        { "range", global_range },
        { "dict", global_dict },
        { "namespace", global_namespace },
        { "cycler", global_cycler },
        { "joiner", global_joiner },
        { "lipsum", global_lipsum },
        { NULL, NULL },
};
