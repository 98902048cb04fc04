/* SPDX-License-Identifier: Apache-2.0 */

/* Filters that look into items: map, select, sort and their like. */

#include <stdlib.h>
#include <string.h>

#include "render.h"
#include "text-ops.h"

/* `attribute=` of filters: a path of names and numbers between dots, looked up as items. */
struct pick {
        const struct value *path; /* V_MISSING or none: the item itself */
        const struct value *missing; /* what stands for an undefined; may be NULL */
        bool fold;                /* strings in lower case, for comparing */
};

static int pick_part(struct render *r, const char *p, size_t n, struct value *v) {
        struct value index = VALUE_TEXT(p, n);
        int64_t number = 0;
        bool digits = n > 0 && n < 18;

        for (size_t i = 0; i < n && digits; i++) {
                digits = p[i] >= '0' && p[i] <= '9';
                number = number * 10 + (p[i] - '0');
        }
        if (digits)
                index = VALUE_INT(number);
        return value_item(r, v, &index, v);
}

static int pick_value(struct render *r, const struct pick *p, const struct value *item, struct value *ret) {
        const char *s, *end, *dot;
        struct value v = *item;
        int k = render_step(r, STEP_NODE);

        if (k)
                return k;
        if (p->path->kind == V_STRING) {
                end = p->path->text + p->path->n;
                for (s = p->path->text; !k && s <= end; s = dot + 1) {
                        dot = memchr(s, '.', (size_t)(end - s));
                        if (!dot)
                                dot = end;
                        k = pick_part(r, s, (size_t)(dot - s), &v);
                        if (!k && v.kind == V_UNDEFINED && p->missing && p->missing->kind != V_MISSING &&
                            p->missing->kind != V_NONE)
                                v = *p->missing;
                }
        } else if (p->path->kind != V_MISSING && p->path->kind != V_NONE) {
                k = value_item(r, &v, p->path, &v);
        }
        if (!k && p->fold && v.kind == V_STRING)
                k = text_map_case(r, &v, CASE_LOWER, &v);
        if (!k)
                *ret = v;
        return k;
}

/* All items picked. */
static int pick_list(struct render *r, const struct pick *p, const struct list *items, struct list **ret) {
        int k = list_new(r, items->n, ret);

        for (size_t i = 0; !k && i < items->n; i++)
                k = pick_value(r, p, &items->items[i], &(*ret)->items[i]);
        return k;
}

static int filter_join(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "d", "attribute" };
        struct value v[2], separator = VALUE_LITERAL("");
        struct list items, *picked;
        int k = args_bind(r, "join", a, names, 2, 0, v);

        if (!k)
                k = value_iterate(r, self, &items);
        if (!k)
                k = pick_list(r, &(struct pick){ .path = &v[1] }, &items, &picked);
        if (!k && v[0].kind != V_MISSING)
                k = value_str(r, &v[0], &separator);
        return k ? k : text_join(r, &separator, picked, true, ret);
}

/* map(attribute=...) or map('filter', arguments...) */
static int filter_map(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "attribute", "default" };
        const struct function *f = NULL;
        struct args rest = *a;
        struct value v[2];
        struct list items, out = { 0 };
        int k;

        if (!value_truth(self)) /* none, too: Jinja does not look further */
                return iter_value(r, "generator object sync_do_map", &out, ret);
        k = value_iterate(r, self, &items);
        if (!k && a->n == 0 && a->n_kw) {
                k = args_bind(r, "map", a, names, 2, 1, v);
        } else if (!k) {
                if (!a->n || a->pos[0].kind != V_STRING)
                        return render_fail(r, "map requires a filter argument");
                f = function_find_filter(a->pos[0].text, a->pos[0].n);
                if (!f || !f->call)
                        return render_fail(r, "no filter named '%.*s'", (int)MIN(a->pos[0].n, 60u), a->pos[0].text);
                rest.pos++;
                rest.n--;
        }
        if (!k)
                k = render_alloc(r, items.n, sizeof(*out.items), &out.items);
        for (; !k && out.n < items.n; out.n++) {
                k = render_enter(r);
                if (!k && f)
                        k = f->call(r, &items.items[out.n], &rest, &out.items[out.n]);
                else if (!k)
                        k = pick_value(r, &(struct pick){ .path = &v[0], .missing = &v[1] }, &items.items[out.n],
                                       &out.items[out.n]);
                render_leave(r);
        }
        return k ? k : iter_value(r, "generator object sync_do_map", &out, ret);
}

/* select, reject, selectattr, rejectattr: the items whose (picked) value passes the test, or is true without one */
static int choose(struct render *r, const char *name, const struct value *self, const struct args *a, bool attribute,
                  bool want, struct value *ret) {
        const struct value none = { .kind = V_MISSING };
        const struct function *f = NULL;
        struct args rest = *a;
        struct list items, out = { 0 };
        struct value v, verdict;
        const struct value *path = &none;
        int k;

        if (!value_truth(self))
                return iter_value(r, "generator object select_or_reject", &out, ret);
        k = value_iterate(r, self, &items);
        if (!k && attribute) {
                if (!a->n)
                        return render_fail(r, "%s: missing parameter for attribute name", name);
                path = rest.pos++;
                rest.n--;
        }
        if (!k && rest.n) {
                if (rest.pos[0].kind == V_STRING)
                        f = function_find_test(rest.pos[0].text, rest.pos[0].n);
                if (!f || !f->call)
                        return render_fail(r, "%s: no test of that name", name);
                rest.pos++;
                rest.n--;
        }
        if (!k)
                k = render_alloc(r, items.n, sizeof(*out.items), &out.items);
        for (size_t i = 0; !k && i < items.n; i++) {
                k = pick_value(r, &(struct pick){ .path = path }, &items.items[i], &v);
                verdict = v;
                if (!k && f)
                        k = f->call(r, &v, &rest, &verdict);
                if (!k && value_truth(&verdict) == want)
                        out.items[out.n++] = items.items[i];
        }
        return k ? k : iter_value(r, "generator object select_or_reject", &out, ret);
}

static int filter_select(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        return choose(r, "select", self, a, false, true, ret);
}

static int filter_reject(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        return choose(r, "reject", self, a, false, false, ret);
}

static int filter_selectattr(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        return choose(r, "selectattr", self, a, true, true, ret);
}

static int filter_rejectattr(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        return choose(r, "rejectattr", self, a, true, false, ret);
}

/* Merge sort of items by keys, both lists of n; stable, also in reverse. */
static int sort_by(struct render *r, const struct value *keys, const struct value *items, size_t n, bool reverse,
                   struct value **ret) {
        uint32_t *order, *spare, *t;
        struct value *out = NULL;
        int k, c;

        k = render_alloc(r, n, sizeof(*order), &order);
        if (!k)
                k = render_alloc(r, n, sizeof(*spare), &spare);
        if (!k)
                k = render_alloc(r, n, sizeof(*out), &out);
        for (uint32_t i = 0; !k && i < n; i++)
                order[i] = i;
        for (size_t width = 1; !k && width < n; width *= 2) {
                for (size_t lo = 0; !k && lo < n; lo += 2 * width) {
                        size_t mid = MIN(lo + width, n), hi = MIN(lo + 2 * width, n), x = lo, y = mid;

                        for (size_t o = lo; !k && o < hi; o++) {
                                c = 0;
                                if (x < mid && y < hi)
                                        k = reverse ? value_order(r, &keys[order[x]], &keys[order[y]], "<", &c)
                                                    : value_order(r, &keys[order[y]], &keys[order[x]], "<", &c);
                                if (!k)
                                        k = render_step(r, 1);
                                spare[o] = x < mid && (y >= hi || c != -1) ? order[x++] : order[y++];
                        }
                }
                t = order;
                order = spare;
                spare = t;
        }
        for (size_t i = 0; !k && i < n; i++)
                out[i] = items[order[i]];
        *ret = out;
        return k;
}

/* sort(attribute='a,b'): by several attributes at once. A key is a list even for one attribute, so that items that all
 * lack it are equal, where two undefined values could not be ordered. */
static int sort_keys(struct render *r, const struct value *attribute, bool fold, const struct list *items,
                     struct list **ret) {
        const char *s, *end, *comma;
        struct value path, key[8];
        size_t n;
        int k;

        if (attribute->kind != V_STRING)
                return pick_list(r, &(struct pick){ .path = attribute, .fold = fold }, items, ret);
        end = attribute->text + attribute->n;
        k = list_new(r, items->n, ret);
        for (size_t i = 0; !k && i < items->n; i++) {
                for (s = attribute->text, n = 0; !k && s <= end && n < ARRAY_SIZE(key); s = comma + 1, n++) {
                        comma = memchr(s, ',', (size_t)(end - s));
                        if (!comma)
                                comma = end;
                        path = VALUE_TEXT(s, (size_t)(comma - s));
                        k = pick_value(r, &(struct pick){ .path = &path, .fold = fold }, &items->items[i], &key[n]);
                }
                if (!k)
                        k = list_value(r, V_LIST, key, n, &(*ret)->items[i]);
        }
        return k;
}

static int filter_sort(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "reverse", "case_sensitive", "attribute" };
        struct list items = { 0 }, *keys, out;
        struct value v[3];
        int k = args_bind(r, "sort", a, names, 3, 0, v);

        if (!k)
                k = value_iterate(r, self, &items);
        if (!k)
                k = sort_keys(r, &v[2], !value_truth(&v[1]), &items, &keys);
        if (!k)
                k = sort_by(r, keys->items, items.items, items.n, value_truth(&v[0]), &out.items);
        return k ? k : list_value(r, V_LIST, out.items, items.n, ret);
}

static int filter_dictsort(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "case_sensitive", "by", "reverse" };
        const struct value zero = VALUE_INT(0), one = VALUE_INT(1), view = { .kind = V_ITEMS, .dict = self->dict };
        struct list items, *keys, out;
        struct value v[3];
        bool by_value;
        int k = args_bind(r, "dictsort", a, names, 3, 0, v);

        if (k)
                return k;
        by_value = text_equal(&v[1], "value");
        if (v[1].kind != V_MISSING && !by_value && !text_equal(&v[1], "key"))
                return render_fail(r, "You can only sort by either \"key\" or \"value\"");
        if (self->kind != V_DICT)
                return render_fail(r, "'%s' object has no attribute 'items'", value_type_name(self));
        k = value_iterate(r, &view, &items);
        if (!k)
                k = pick_list(r, &(struct pick){ .path = by_value ? &one : &zero, .fold = !value_truth(&v[0]) }, &items,
                              &keys);
        if (!k)
                k = sort_by(r, keys->items, items.items, items.n, value_truth(&v[2]), &out.items);
        return k ? k : list_value(r, V_LIST, out.items, items.n, ret);
}

/* Keeps the first of equal items. A sort finds the equal ones in n log n where all can be ordered as keys. */
static int filter_unique(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "case_sensitive", "attribute" };
        struct list items, *keys, out = { 0 };
        const struct value *found;
        struct dict_entry *e;
        struct value v[2], seen;
        int k = args_bind(r, "unique", a, names, 2, 0, v);

        if (!k)
                k = value_iterate(r, self, &items);
        if (!k)
                k = pick_list(r, &(struct pick){ .path = &v[1], .fold = !value_truth(&v[0]) }, &items, &keys);
        if (!k)
                k = render_alloc(r, items.n, sizeof(*e), &e);
        /* from the end, so that the first one is what the dict keeps for its key */
        for (size_t i = 0; !k && i < items.n; i++) {
                const struct value *key = &keys->items[items.n - 1 - i];

                if (!value_hashable(key) && key->kind != V_UNDEFINED)
                        return render_fail(r, "unhashable type: '%s'", value_type_name(key));
                e[i] = (struct dict_entry){ .key = *key, .value = VALUE_INT((int64_t)(items.n - 1 - i)) };
        }
        if (!k)
                k = dict_new(r, e, items.n, &seen);
        if (!k)
                k = render_alloc(r, items.n, sizeof(*out.items), &out.items);
        for (size_t i = 0; !k && i < items.n; i++) {
                k = dict_find(r, seen.dict, &keys->items[i], &found);
                if (!k && found && found->integer == (int64_t)i)
                        out.items[out.n++] = items.items[i];
        }
        return k ? k : iter_value(r, "generator object sync_do_unique", &out, ret);
}

static int extreme(struct render *r, const char *name, const struct value *self, const struct args *a, int want,
                   struct value *ret) {
        static const char *const names[] = { "case_sensitive", "attribute" };
        struct list items, *keys;
        struct value v[2];
        size_t best = 0;
        int c, k = args_bind(r, name, a, names, 2, 0, v);

        if (!k)
                k = value_iterate(r, self, &items);
        if (!k)
                k = pick_list(r, &(struct pick){ .path = &v[1], .fold = !value_truth(&v[0]) }, &items, &keys);
        for (size_t i = 1; !k && i < items.n; i++) {
                k = value_order(r, &keys->items[i], &keys->items[best], want < 0 ? "<" : ">", &c);
                if (!k && c == want)
                        best = i;
        }
        if (k)
                return k;
        *ret = items.n ? items.items[best]
                       : (struct value){ .kind = V_UNDEFINED, .flags = VALUE_HINT, .text = "No aggregated item, sequence was empty.", .n = 39 };
        return 0;
}

static int filter_min(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        return extreme(r, "min", self, a, -1, ret);
}

static int filter_max(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        return extreme(r, "max", self, a, 1, ret);
}

static int filter_sum(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "attribute", "start" };
        struct value v[2], item, total;
        struct list items;
        int k = args_bind(r, "sum", a, names, 2, 0, v);

        if (!k)
                k = value_iterate(r, self, &items);
        if (k)
                return k;
        total = v[1].kind == V_MISSING ? VALUE_INT(0) : v[1];
        if (total.kind == V_STRING)
                return render_fail(r, "sum() can't sum strings [use ''.join(seq) instead]");
        for (size_t i = 0; !k && i < items.n; i++) {
                k = pick_value(r, &(struct pick){ .path = &v[0] }, &items.items[i], &item);
                if (!k)
                        k = value_binary(r, OP_ADD, &total, &item, &total);
        }
        *ret = total;
        return k;
}

/* Items with equal keys, in order of the keys: pairs of key and list. */
static int filter_groupby(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "attribute", "default", "case_sensitive" };
        struct list items, *raw, *keys, *groups;
        struct value v[3], *sorted, *ordered, group;
        size_t from = 0;
        int k = args_bind(r, "groupby", a, names, 3, 1, v);

        if (!k)
                k = value_iterate(r, self, &items);
        if (!k)
                k = pick_list(r, &(struct pick){ .path = &v[0], .missing = &v[1] }, &items, &raw);
        if (!k)
                k = pick_list(r, &(struct pick){ .path = &(struct value){ .kind = V_MISSING }, .fold = !value_truth(&v[2]) },
                              raw, &keys);
        if (!k)
                k = sort_by(r, keys->items, items.items, items.n, false, &sorted);
        if (!k)
                k = sort_by(r, keys->items, keys->items, items.n, false, &ordered);
        if (!k)
                k = sort_by(r, keys->items, raw->items, items.n, false, &raw->items);
        if (!k)
                k = list_new(r, items.n, &groups);
        if (k)
                return k;
        groups->n = 0;
        for (size_t i = 1; !k && i <= items.n; i++) {
                bool same = false;

                if (i < items.n)
                        k = value_equal(r, &ordered[from], &ordered[i], &same);
                if (k || same)
                        continue;
                k = list_value(r, V_LIST, sorted + from, i - from, &group);
                if (!k)
                        k = pair_value(r, &raw->items[from], &group, &groups->items[groups->n++]);
                from = i;
        }
        *ret = (struct value){ .kind = V_LIST, .list = groups };
        return k;
}

const struct function filters_pick[] = {
        { "join", filter_join },
        { "map", filter_map },
        { "select", filter_select },
        { "reject", filter_reject },
        { "selectattr", filter_selectattr },
        { "rejectattr", filter_rejectattr },
        { "sort", filter_sort },
        { "dictsort", filter_dictsort },
        { "unique", filter_unique },
        { "min", filter_min },
        { "max", filter_max },
        { "sum", filter_sum },
        { "groupby", filter_groupby },
        { NULL, NULL },
};
