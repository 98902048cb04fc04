/* SPDX-License-Identifier: Apache-2.0 */

/* The filter tojson, as transformers has it: json.dumps(x, ensure_ascii=False, indent, separators, sort_keys). */

#include <math.h>
#include <string.h>

#include "json.h"
#include "render.h"

struct dump {
        struct value item_separator;
        struct value key_separator;
        struct value indent; /* V_STRING, or V_MISSING for one line */
        bool ascii;
        bool sort;
        size_t level;
};

static int dump_value(struct render *r, struct dump *d, const struct value *v);

static int dump_text(struct render *r, const struct dump *d, const struct value *v) {
        int k = render_step(r, (uint64_t)v->n * 2);

        if (!k && r->out->len - r->base + v->n > r->out_limit)
                return render_limit(r, "too much output");
        if (!k)
                k = d->ascii ? json_append_string_ascii(r->out, v->text, v->n) : json_append_string(r->out, v->text, v->n);
        if (k > 0 || (!k && r->out->len - r->base > r->out_limit))
                return render_limit(r, "too much output");
        return k;
}

static int dump_number(struct render *r, const struct value *v) {
        if (v->kind == V_BOOL)
                return render_emit_str(r, v->boolean ? "true" : "false");
        if (v->kind == V_FLOAT && isnan(v->number))
                return render_emit_str(r, "NaN");
        if (v->kind == V_FLOAT && isinf(v->number))
                return render_emit_str(r, v->number < 0 ? "-Infinity" : "Infinity");
        return emit_repr(r, v);
}

static int dump_newline(struct render *r, const struct dump *d) {
        int k;

        if (d->indent.kind != V_STRING)
                return 0;
        k = render_emit(r, "\n", 1);
        for (size_t i = 0; !k && i < d->level; i++)
                k = render_emit(r, d->indent.text, d->indent.n);
        return k;
}

static int dump_separator(struct render *r, const struct dump *d, bool first) {
        int k = first ? 0 : render_emit(r, d->item_separator.text, d->item_separator.n);

        return k ? k : dump_newline(r, d);
}

static int dump_list(struct render *r, struct dump *d, const struct list *l) {
        int k = render_emit(r, "[", 1);

        d->level++;
        for (size_t i = 0; !k && i < l->n; i++) {
                k = dump_separator(r, d, i == 0);
                if (!k)
                        k = dump_value(r, d, &l->items[i]);
        }
        d->level--;
        if (!k && l->n)
                k = dump_newline(r, d);
        return k ? k : render_emit(r, "]", 1);
}

/* Keys that are no strings become some, as Python has it. */
static int dump_key(struct render *r, const struct dump *d, const struct value *key) {
        size_t mark = render_mark(r);
        struct value s;
        int k;

        if (key->kind == V_STRING)
                return dump_text(r, d, key);
        if (key->kind == V_NONE)
                s = VALUE_LITERAL("null");
        else if (!value_is_number(key))
                return render_fail(r, "keys must be str, int, float, bool or None, not %s", value_type_name(key));
        else if ((k = render_take(r, mark, dump_number(r, key), &s)))
                return k;
        return dump_text(r, d, &s);
}

/* The entries in the order in which they are written. */
static int sorted_entries(struct render *r, const struct dict *dict, struct dict_entry **ret) {
        const struct function *sort = function_find_filter("dictsort", 8);
        const struct keyword exact = { .name = "case_sensitive", .n = 14, .value = VALUE_BOOL(true) };
        const struct value v = { .kind = V_DICT, .dict = (struct dict *)dict };
        struct value sorted;
        int k = sort->call(r, &v, &(struct args){ .kw = &exact, .n_kw = 1 }, &sorted);

        if (!k)
                k = render_alloc(r, dict->n, sizeof(**ret), ret);
        for (size_t i = 0; !k && i < dict->n; i++) {
                const struct value *pair = sorted.list->items[i].list->items;

                (*ret)[i] = (struct dict_entry){ .key = pair[0], .value = pair[1] };
        }
        return k;
}

static int dump_dict(struct render *r, struct dump *d, const struct dict *dict) {
        struct dict_entry *e = dict->entries;
        int k = render_emit(r, "{", 1);

        if (!k && d->sort)
                k = sorted_entries(r, dict, &e);
        d->level++;
        for (size_t i = 0; !k && i < dict->n; i++) {
                k = dump_separator(r, d, i == 0);
                if (!k)
                        k = dump_key(r, d, &e[i].key);
                if (!k)
                        k = render_emit(r, d->key_separator.text, d->key_separator.n);
                if (!k)
                        k = dump_value(r, d, &e[i].value);
        }
        d->level--;
        if (!k && dict->n)
                k = dump_newline(r, d);
        return k ? k : render_emit(r, "}", 1);
}

static int dump_kind(struct render *r, struct dump *d, const struct value *v) {
        switch (v->kind) {
        case V_NONE:
                return render_emit_str(r, "null");
        case V_BOOL:
        case V_INT:
        case V_BIG:
        case V_FLOAT:
                return dump_number(r, v);
        case V_STRING:
                return dump_text(r, d, v);
        case V_LIST:
        case V_TUPLE:
                return dump_list(r, d, v->list);
        case V_DICT:
                return dump_dict(r, d, v->dict);
        default:
                return render_fail(r, "Object of type %s is not JSON serializable", value_type_name(v));
        }
}

static int dump_value(struct render *r, struct dump *d, const struct value *v) {
        int k = render_enter(r);

        if (!k)
                k = dump_kind(r, d, v);
        render_leave(r);
        return k;
}

static int read_indent(struct render *r, const struct value *v, struct value *ret) {
        const struct value space = VALUE_LITERAL(" ");

        *ret = (struct value){ .kind = V_MISSING };
        if (v->kind == V_MISSING || v->kind == V_NONE)
                return 0;
        if (v->kind == V_STRING) {
                *ret = *v;
                return 0;
        }
        if (!value_is_int(v))
                return render_fail(r, "indent must be a number or a string");
        return value_repeat(r, &space, value_int(v), ret);
}

static int read_separators(struct render *r, const struct value *v, struct dump *d) {
        struct list pair;
        int k;

        d->item_separator = d->indent.kind == V_STRING ? VALUE_LITERAL(",") : VALUE_LITERAL(", ");
        d->key_separator = VALUE_LITERAL(": ");
        if (v->kind == V_MISSING || v->kind == V_NONE)
                return 0;
        k = value_iterate(r, v, &pair);
        if (k)
                return k;
        if (pair.n != 2 || pair.items[0].kind != V_STRING || pair.items[1].kind != V_STRING)
                return render_fail(r, "separators must be two strings");
        d->item_separator = pair.items[0];
        d->key_separator = pair.items[1];
        return 0;
}

int filter_tojson(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "ensure_ascii", "indent", "separators", "sort_keys" };
        size_t mark = render_mark(r);
        struct dump d = { 0 };
        struct value v[4];
        int k = args_bind(r, "tojson", a, names, 4, 0, v);

        if (!k)
                k = read_indent(r, &v[1], &d.indent);
        if (!k)
                k = read_separators(r, &v[2], &d);
        d.ascii = !k && value_truth(&v[0]);
        d.sort = !k && value_truth(&v[3]);
        if (!k)
                k = dump_value(r, &d, self);
        return render_take(r, mark, k, ret);
}
