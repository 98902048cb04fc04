/* SPDX-License-Identifier: Apache-2.0 */

/* A render's limits, output, and containers. */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "render.h"

void render_say(struct render *r, const char *fmt, ...) {
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(r->error->text, sizeof(r->error->text), fmt, ap);
        va_end(ap);
        r->error->line = r->line;
}

int render_alloc(struct render *r, size_t n, size_t size, void *ret) {
        size_t total;
        void *p;
        int k;

        if (__builtin_mul_overflow(n, size, &total))
                return render_limit(r, "too much memory");
        k = render_step(r, STEP_NODE + total / STEP_BYTES);
        if (k)
                return k;
        p = arena_calloc(&r->objects, n, size);
        if (!p)
                return render_memory(r, &r->objects);
        memcpy(ret, &p, sizeof(p));
        return 0;
}

int render_emit(struct render *r, const char *p, size_t n) {
        int k = render_step_bytes(r, n);

        if (k)
                return k;
        if (n > r->out_limit || r->out->len - r->base > r->out_limit - n)
                return render_limit(r, "too much output");
        k = buf_append(r->out, p, n);
        return k > 0 ? render_limit(r, "too much output") : k;
}

int render_emit_str(struct render *r, const char *s) {
        return render_emit(r, s, strlen(s));
}

int render_fill(struct render *r, char c, size_t n) {
        char block[64];
        int k = 0;

        memset(block, c, sizeof(block));
        for (; !k && n > 0; n -= MIN(n, sizeof(block)))
                k = render_emit(r, block, MIN(n, sizeof(block)));
        return k;
}

void render_drop(struct render *r, size_t mark) {
        r->out->len = mark;
        if (r->out->data)
                r->out->data[mark] = 0;
}

int render_take(struct render *r, size_t mark, int k, struct value *ret) {
        if (!k)
                k = render_text(r, r->out->len > mark ? r->out->data + mark : "", r->out->len - mark, ret);
        render_drop(r, mark);
        return k;
}

int render_text(struct render *r, const char *p, size_t n, struct value *ret) {
        char *d;
        int k = render_step_bytes(r, n);

        if (k)
                return k;
        d = arena_bytes(&r->texts, n);
        if (!d)
                return render_memory(r, &r->texts);
        if (n)
                memcpy(d, p, n);
        *ret = VALUE_TEXT(d, n);
        return 0;
}

int list_new(struct render *r, size_t n, struct list **ret) {
        struct list *l = NULL;
        int k = render_alloc(r, 1, sizeof(*l), &l);

        if (!k)
                k = render_alloc(r, n, sizeof(*l->items), &l->items);
        if (k)
                return k;
        l->n = n;
        *ret = l;
        return 0;
}

int list_value(struct render *r, enum value_kind kind, const struct value *items, size_t n, struct value *ret) {
        struct list *l;
        int k = list_new(r, n, &l);

        if (k)
                return k;
        if (n)
                memcpy(l->items, items, n * sizeof(*items));
        *ret = (struct value){ .kind = (uint8_t)kind, .list = l };
        return 0;
}

int iter_value(struct render *r, const char *name, const struct list *list, struct value *ret) {
        struct iter *i;
        int k = render_alloc(r, 1, sizeof(*i), &i);

        if (k)
                return k;
        *i = (struct iter){ .list = *list, .name = name };
        *ret = (struct value){ .kind = V_ITER, .iter = i };
        return 0;
}

int pair_value(struct render *r, const struct value *a, const struct value *b, struct value *ret) {
        struct value pair[2] = { *a, *b };

        return list_value(r, V_TUPLE, pair, 2, ret);
}

bool value_hashable(const struct value *v) {
        if (v->kind == V_TUPLE) {
                /* keys of templates are written out: a tuple of tuples is as deep as the source */
                for (size_t i = 0; i < v->list->n; i++)
                        if (v->list->items[i].kind == V_TUPLE || !value_hashable(&v->list->items[i]))
                                return false;
                return true;
        }
        return v->kind == V_NONE || value_is_number(v) || v->kind == V_STRING;
}

/* Sorts `sorted` by key with a merge sort: equal keys stay in order. */
static int sort_entries(struct render *r, const struct dict_entry *e, uint32_t *sorted, uint32_t *spare, size_t n) {
        int k = 0, order;

        for (size_t width = 1; !k && width < n; width *= 2) {
                for (size_t lo = 0; !k && lo < n; lo += 2 * width) {
                        size_t mid = MIN(lo + width, n), hi = MIN(lo + 2 * width, n), a = lo, b = mid;

                        for (size_t out = lo; !k && out < hi; out++) {
                                order = -1;
                                if (a < mid && b < hi)
                                        k = key_order(r, &e[sorted[a]].key, &e[sorted[b]].key, &order);
                                spare[out] = a < mid && (b >= hi || order <= 0) ? sorted[a++] : sorted[b++];
                        }
                }
                memcpy(sorted, spare, n * sizeof(*sorted));
        }
        return k;
}

/* Where keys are equal, the first entry takes the last one's value, and the others go. */
static int drop_doubles(struct render *r, struct dict *d) {
        size_t kept = 0, out = 0;
        bool *gone;
        int k, order;

        k = render_alloc(r, d->n, sizeof(*gone), &gone);
        for (size_t i = 1, first = 0; !k && i < d->n; i++) {
                k = key_order(r, &d->entries[d->sorted[first]].key, &d->entries[d->sorted[i]].key, &order);
                if (!k && order == 0) {
                        d->entries[d->sorted[first]].value = d->entries[d->sorted[i]].value;
                        gone[d->sorted[i]] = true;
                        kept++;
                } else {
                        first = i;
                }
        }
        if (k || !kept)
                return k;
        for (size_t i = 0; i < d->n; i++)
                if (!gone[i])
                        d->entries[out++] = d->entries[i];
        d->n = out;
        return 1;
}

int dict_new(struct render *r, struct dict_entry *entries, size_t n, struct value *ret) {
        uint32_t *spare;
        struct dict *d;
        int k, again = 1;

        k = render_alloc(r, 1, sizeof(*d), &d);
        if (k)
                return k;
        *d = (struct dict){ .n = n, .entries = entries };
        *ret = (struct value){ .kind = V_DICT, .dict = d };
        if (n < 2)
                return 0;
        k = render_alloc(r, n, sizeof(*spare), &d->sorted);
        if (!k)
                k = render_alloc(r, n, sizeof(*spare), &spare);
        for (; !k && again; ) {
                for (uint32_t i = 0; i < d->n; i++)
                        d->sorted[i] = i;
                k = sort_entries(r, d->entries, d->sorted, spare, d->n);
                again = k ? 0 : drop_doubles(r, d);
                if (again != 1)
                        return k ? k : again;
        }
        return k;
}

int dict_find(struct render *r, const struct dict *d, const struct value *key, const struct value **ret) {
        size_t lo = 0, hi = d->n;
        int k, order;

        *ret = NULL;
        if (d->n == 1) {
                k = key_order(r, key, &d->entries[0].key, &order);
                if (!k && order == 0)
                        *ret = &d->entries[0].value;
                return k;
        }
        while (lo < hi) {
                size_t mid = lo + (hi - lo) / 2;

                k = key_order(r, key, &d->entries[d->sorted[mid]].key, &order);
                if (k)
                        return k;
                if (order == 0) {
                        *ret = &d->entries[d->sorted[mid]].value;
                        return 0;
                }
                if (order < 0)
                        hi = mid;
                else
                        lo = mid + 1;
        }
        return 0;
}

int dict_find_text(struct render *r, const struct dict *d, const char *s, size_t n, const struct value **ret) {
        const struct value key = VALUE_TEXT(s, n);

        return dict_find(r, d, &key, ret);
}

bool value_iterable(const struct value *v) {
        return v->kind == V_UNDEFINED || (v->kind >= V_STRING && v->kind <= V_ITER) || v->kind == V_LOOP;
}

static int iterate_text(struct render *r, const struct value *v, struct list *ret) {
        size_t n, pos = 0, len;
        int k = render_step(r, v->n);

        if (k)
                return k;
        n = text_length(v->text, v->n);
        k = render_alloc(r, n, sizeof(*ret->items), &ret->items);
        if (k)
                return k;
        for (ret->n = 0; ret->n < n && pos < v->n; pos += len) {
                len = text_char(v->text + pos, v->n - pos);
                ret->items[ret->n++] = VALUE_TEXT(v->text + pos, len);
        }
        return 0;
}

static int iterate_dict(struct render *r, const struct value *v, struct list *ret) {
        const struct dict *d = v->dict;
        int k = render_alloc(r, d->n, sizeof(*ret->items), &ret->items);

        ret->n = k ? 0 : d->n;
        for (size_t i = 0; !k && i < d->n; i++) {
                if (v->kind == V_ITEMS)
                        k = pair_value(r, &d->entries[i].key, &d->entries[i].value, &ret->items[i]);
                else
                        ret->items[i] = v->kind == V_VALUES ? d->entries[i].value : d->entries[i].key;
        }
        return k;
}

static int iterate_range(struct render *r, const struct range *g, struct list *ret) {
        int k = render_alloc(r, g->n, sizeof(*ret->items), &ret->items);

        if (k)
                return k;
        ret->n = g->n;
        for (size_t i = 0; i < g->n; i++)
                ret->items[i] = VALUE_INT(g->start + (int64_t)i * g->step);
        return 0;
}

int value_iterate(struct render *r, const struct value *v, struct list *ret) {
        *ret = (struct list){ 0 };
        switch (v->kind) {
        case V_UNDEFINED:
                return 0;
        case V_STRING:
                return iterate_text(r, v, ret);
        case V_LIST:
        case V_TUPLE:
                *ret = *v->list;
                return 0;
        case V_DICT:
        case V_KEYS:
        case V_VALUES:
        case V_ITEMS:
                return iterate_dict(r, v, ret);
        case V_RANGE:
                return iterate_range(r, v->range, ret);
        case V_ITER:
                if (v->iter->pos < v->iter->list.n)
                        *ret = (struct list){ v->iter->list.n - v->iter->pos, v->iter->list.items + v->iter->pos };
                v->iter->pos = v->iter->list.n;
                return 0;
        default:
                return render_fail(r, "'%s' object is not iterable", value_type_name(v));
        }
}
