/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Attributes, items and slices, with Jinja's order: `a.b` is a method of the type before it is an item, `a['b']` the
 * other way round. What is not there is an undefined that knows its name.
 */

#include <string.h>

#include "render.h"

static int fail_undefined(struct render *r, const struct value *v) {
        if (v->flags & VALUE_HINT)
                return render_fail(r, "%.*s", (int)MIN(v->n, 200u), v->text);
        return render_fail(r, "'%.*s' is undefined", (int)MIN(v->n, 200u), v->text);
}

static int undefined_member(struct render *r, const struct value *v, const char *what, size_t n, struct value *ret) {
        size_t mark = render_mark(r);
        int k = render_emit(r, "'", 1);

        if (!k)
                k = render_emit_str(r, value_type_name(v));
        if (!k)
                k = render_emit_str(r, " object' has no attribute '");
        if (!k)
                k = render_emit(r, what, MIN(n, 100u));
        if (!k)
                k = render_emit(r, "'", 1);
        k = render_take(r, mark, k, ret);
        if (!k) {
                ret->kind = V_UNDEFINED;
                ret->flags = VALUE_HINT;
        }
        return k;
}

static int macro_member(struct render *r, const struct node *m, const char *name, size_t n, struct value *ret,
                        bool *found) {
        static const struct {
                const char *name;
                unsigned flag;
        } flags[] = { { "catch_varargs", MACRO_VARARGS }, { "catch_kwargs", MACRO_KWARGS }, { "caller", MACRO_CALLER } };

        for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
                if (n == strlen(flags[i].name) && memcmp(name, flags[i].name, n) == 0) {
                        *ret = VALUE_BOOL(m->flags & flags[i].flag);
                        *found = true;
                }
        if (m->kind == N_MACRO && n == 4 && memcmp(name, "name", 4) == 0) {
                *ret = VALUE_TEXT(r->t->names[m->name].text, r->t->names[m->name].n);
                *found = true;
        }
        return 0;
}

/* What `v` has besides items: methods and the like. False where there is nothing of that name. */
static int member(struct render *r, const struct value *v, const char *name, size_t n, struct value *ret, bool *found) {
        static const char unsafe[] = "access to this attribute is unsafe";
        const struct function *f;
        struct value *self;
        int k;

        *found = false;
        if (v->kind == V_NAMESPACE) {
                for (size_t i = 0; !*found && i < v->namespace->n; i++)
                        if (v->namespace->entries[i].key.n == n &&
                            memcmp(v->namespace->entries[i].key.text, name, n) == 0) {
                                *ret = v->namespace->entries[i].value;
                                *found = true;
                        }
                return render_step(r, v->namespace->n / 8);
        }
        if (v->kind == V_MACRO)
                return macro_member(r, v->macro->node, name, n, ret, found);
        f = function_find_method(v->kind, name, n);
        if (!f)
                return 0;
        *found = true;
        if (!f->call) {
                *ret = (struct value){ .kind = V_UNDEFINED, .flags = VALUE_HINT, .text = unsafe, .n = sizeof(unsafe) - 1 };
                return 0;
        }
        if ((v->kind == V_LOOP || v->kind == V_CYCLER) && f->name[0] == '.') /* a property: computed at once */
                return f->call(r, v, NULL, ret);
        k = render_alloc(r, 1, sizeof(*self), &self);
        if (k)
                return k;
        *self = *v;
        *ret = (struct value){ .kind = V_FUNCTION, .function = f, .self = self };
        return 0;
}

int value_attribute(struct render *r, const struct value *v, const char *name, size_t n, struct value *ret) {
        const struct value *item;
        bool found;
        int k;

        if (v->kind == V_UNDEFINED)
                return fail_undefined(r, v);
        k = member(r, v, name, n, ret, &found);
        if (k || found)
                return k;
        if (v->kind == V_DICT) {
                k = dict_find_text(r, v->dict, name, n, &item);
                if (k)
                        return k;
                if (item) {
                        *ret = *item;
                        return 0;
                }
        }
        return undefined_member(r, v, name, n, ret);
}

/* Index into n items, negative from the end. */
static bool resolve_index(int64_t i, size_t n, size_t *ret) {
        if (i < 0)
                i += (int64_t)n;
        if (i < 0 || (uint64_t)i >= n)
                return false;
        *ret = (size_t)i;
        return true;
}

/* Walks only as far as it must: s[0] and s[-1] are cheap however long s is. */
static int text_item(struct render *r, const struct value *v, int64_t i, struct value *ret, bool *found) {
        size_t pos = 0;

        if (i >= 0) {
                pos = text_offset(v->text, v->n, (uint64_t)i > v->n ? v->n : (size_t)i);
                *found = pos < v->n;
        } else {
                for (pos = v->n; pos > 0 && i < 0;) {
                        pos--;
                        i += ((unsigned char)v->text[pos] & 0xc0) != 0x80;
                }
                *found = i == 0 && v->n > 0;
        }
        if (*found) {
                *ret = VALUE_TEXT(v->text + pos, text_char(v->text + pos, v->n - pos));
                ret->flags = v->flags;
        }
        return render_step(r, (i >= 0 ? pos : v->n - pos) / 2 + 1);
}

static int indexed(struct render *r, const struct value *v, int64_t i, struct value *ret, bool *found) {
        size_t at;

        *found = false;
        if (v->kind == V_STRING)
                return text_item(r, v, i, ret, found);
        if (value_is_sequence(v) && resolve_index(i, v->list->n, &at)) {
                *ret = v->list->items[at];
                *found = true;
        } else if (v->kind == V_RANGE && resolve_index(i, v->range->n, &at)) {
                *ret = VALUE_INT(v->range->start + (int64_t)at * v->range->step);
                *found = true;
        }
        return 0;
}

int value_item(struct render *r, const struct value *v, const struct value *index, struct value *ret) {
        const struct value *item = NULL;
        struct value name;
        bool found = false;
        int k = 0;

        if (v->kind == V_UNDEFINED)
                return fail_undefined(r, v);
        if (v->kind == V_DICT) {
                if (value_hashable(index))
                        k = dict_find(r, v->dict, index, &item);
                if (item)
                        *ret = *item;
                found = item;
        } else if (value_is_int(index)) {
                k = indexed(r, v, value_int(index), ret, &found);
        }
        if (!k && !found && index->kind == V_STRING)
                k = member(r, v, index->text, index->n, ret, &found);
        if (k || found)
                return k;
        if (index->kind == V_UNDEFINED)
                return undefined_member(r, v, "", 0, ret);
        k = value_str(r, index, &name);
        return k ? k : undefined_member(r, v, name.text, name.n, ret);
}

/* One bound of a slice; `missing` where it is not given. */
static int slice_bound(struct render *r, const struct value *v, int64_t missing, int64_t *ret) {
        if (v->kind == V_MISSING || v->kind == V_NONE)
                *ret = missing;
        else if (value_is_int(v))
                *ret = value_int(v);
        else
                return render_fail(r, "slice indices must be integers or None or have an __index__ method");
        return 0;
}

static int64_t clamp_bound(int64_t i, int64_t n, int64_t low, int64_t high) {
        if (i < 0)
                i = i < -n - 1 ? -1 : i + n;
        return i < low ? low : i > high ? high : i;
}

/* Python's slice.indices(): where it starts, and how many items it has. */
static int slice_range(struct render *r, size_t length, const struct value *start, const struct value *stop,
                       int64_t step, int64_t *ret_start, size_t *ret_n) {
        int64_t n = (int64_t)length, low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n, a = 0, b = 0;
        bool has_a = start->kind != V_MISSING && start->kind != V_NONE;
        bool has_b = stop->kind != V_MISSING && stop->kind != V_NONE;
        int k;

        k = slice_bound(r, start, 0, &a);
        if (!k)
                k = slice_bound(r, stop, 0, &b);
        if (k)
                return k;
        a = has_a ? clamp_bound(a, n, low, high) : step < 0 ? high : low;
        b = has_b ? clamp_bound(b, n, low, high) : step < 0 ? low : high;
        *ret_start = a;
        if (step > 0)
                *ret_n = b > a ? (size_t)((b - a - 1) / step + 1) : 0;
        else
                *ret_n = a > b ? (size_t)((a - b - 1) / (step == INT64_MIN ? INT64_MAX : -step) + 1) : 0;
        return 0;
}

static int slice_list(struct render *r, const struct list *l, unsigned kind, int64_t at, int64_t step, size_t n,
                      struct value *ret) {
        struct list *out;
        int k = list_new(r, n, &out);

        for (size_t i = 0; !k && i < n; i++)
                out->items[i] = l->items[at + (int64_t)i * step];
        if (!k)
                *ret = (struct value){ .kind = (uint8_t)kind, .list = out };
        return k;
}

static int slice_text(struct render *r, const struct value *v, int64_t at, int64_t step, size_t n, struct value *ret) {
        size_t mark = render_mark(r), from, len;
        struct list chars;
        int k = 0;

        if (step == 1 || n == 0) {
                from = text_offset(v->text, v->n, (size_t)MAX(at, 0));
                len = n ? text_offset(v->text + from, v->n - from, n) : 0;
                *ret = VALUE_TEXT(v->text + from, len);
        } else {
                k = value_iterate(r, v, &chars);
                for (size_t i = 0; !k && i < n; i++) {
                        const struct value *c = &chars.items[at + (int64_t)i * step];

                        k = render_emit(r, c->text, c->n);
                }
                k = render_take(r, mark, k, ret);
        }
        if (!k)
                ret->flags = v->flags;
        return k;
}

int value_slice(struct render *r, const struct value *v, const struct value *start, const struct value *stop,
                const struct value *step_value, struct value *ret) {
        int64_t step = 1, at = 0;
        size_t length, n = 0;
        struct range *g;
        int k;

        if (v->kind == V_UNDEFINED)
                return fail_undefined(r, v);
        if (v->kind != V_STRING && !value_is_sequence(v) && v->kind != V_RANGE)
                return render_fail(r, "'%s' object is not subscriptable", value_type_name(v));
        (void)value_length(v, &length);
        k = render_step(r, v->kind == V_STRING ? v->n / 2 : 0);
        if (!k)
                k = slice_bound(r, step_value, 1, &step);
        if (!k && step == 0)
                return render_fail(r, "slice step cannot be zero");
        if (!k)
                k = slice_range(r, length, start, stop, step, &at, &n);
        if (k)
                return k;
        if (n <= 1 && v->kind != V_RANGE)
                step = 1;
        if (v->kind == V_STRING)
                return slice_text(r, v, at, step, n, ret);
        if (value_is_sequence(v))
                return slice_list(r, v->list, v->kind, at, step, n, ret);
        k = render_alloc(r, 1, sizeof(*g), &g);
        if (k)
                return k;
        if (__builtin_mul_overflow(v->range->step, step, &step))
                return render_limit(r, "range step is too large");
        *g = (struct range){ .start = v->range->start + at * v->range->step, .step = step, .n = n };
        g->stop = g->start + (int64_t)n * (n ? step : 0);
        *ret = (struct value){ .kind = V_RANGE, .range = g };
        return 0;
}
