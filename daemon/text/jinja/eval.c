/* SPDX-License-Identifier: Apache-2.0 */

/* Expressions to values. */

#include <string.h>

#include "render.h"

static int eval_items(struct render *r, const struct nodes *list, enum value_kind kind, struct value *ret) {
        struct list *l;
        int k = list_new(r, list->n, &l);

        for (uint32_t i = 0; !k && i < list->n; i++)
                k = eval(r, list->items[i], &l->items[i]);
        if (!k)
                *ret = (struct value){ .kind = (uint8_t)kind, .list = l };
        return k;
}

static int eval_dict(struct render *r, const struct nodes *list, struct value *ret) {
        struct dict_entry *e;
        size_t n = list->n / 2;
        int k = render_alloc(r, n, sizeof(*e), &e);

        for (size_t i = 0; !k && i < n; i++) {
                k = eval(r, list->items[2 * i], &e[i].key);
                if (!k && !value_hashable(&e[i].key))
                        return render_fail(r, "unhashable type: '%s'", value_type_name(&e[i].key));
                if (!k)
                        k = eval(r, list->items[2 * i + 1], &e[i].value);
        }
        return k ? k : dict_new(r, e, n, ret);
}

static int eval_cond(struct render *r, const struct node *n, struct value *ret) {
        static const char hint[] = "the inline if-expression evaluated to false and no else section was defined.";
        struct value test;
        int k = eval(r, n->a, &test);

        if (k)
                return k;
        if (value_truth(&test))
                return eval(r, n->b, ret);
        if (n->c)
                return eval(r, n->c, ret);
        *ret = (struct value){ .kind = V_UNDEFINED, .flags = VALUE_HINT, .text = hint, .n = sizeof(hint) - 1 };
        return 0;
}

static int compare_one(struct render *r, enum node_op op, const struct value *a, const struct value *b, bool *ret) {
        static const char *const names[] = { [OP_LT] = "<", [OP_LE] = "<=", [OP_GT] = ">", [OP_GE] = ">=" };
        int k, order;

        switch (op) {
        case OP_EQ:
        case OP_NE:
                k = value_equal(r, a, b, ret);
                *ret = *ret == (op == OP_EQ);
                return k;
        case OP_IN:
        case OP_NOTIN:
                k = value_contains(r, b, a, ret);
                *ret = *ret == (op == OP_IN);
                return k;
        default:
                k = value_order(r, a, b, names[op], &order);
                if (k)
                        return k;
                *ret = op == OP_LT   ? order == -1
                       : op == OP_LE ? order == -1 || order == 0
                       : op == OP_GT ? order == 1
                                     : order == 1 || order == 0;
                return 0;
        }
}

static int eval_compare(struct render *r, const struct node *n, struct value *ret) {
        struct value left, right;
        bool result = true;
        int k = eval(r, n->a, &left);

        for (uint32_t i = 0; !k && result && i < n->list.n; i++) {
                const struct node *o = n->list.items[i];

                k = eval(r, o->a, &right);
                if (!k)
                        k = compare_one(r, o->op, &left, &right, &result);
                left = right;
        }
        if (!k)
                *ret = VALUE_BOOL(result);
        return k;
}

static int eval_binary(struct render *r, const struct node *n, struct value *ret) {
        struct value a, b;
        int k = eval(r, n->a, &a);

        if (!k)
                k = eval(r, n->b, &b);
        return k ? k : value_binary(r, n->op, &a, &b, ret);
}

/* All operands first: what they are made of must not land between the pieces. */
static int eval_concat(struct render *r, const struct node *n, struct value *ret) {
        const struct value empty = VALUE_LITERAL("");
        struct value v, s;
        struct list *l;
        int k = list_new(r, n->list.n, &l);

        for (uint32_t i = 0; !k && i < l->n; i++) {
                k = eval(r, n->list.items[i], &v);
                if (!k)
                        k = value_str(r, &v, &l->items[i]);
        }
        s = empty;
        for (uint32_t i = 0; !k && i < l->n; i++) {
                s.flags = 0;
                l->items[i].flags = 0;
                k = text_concat(r, &s, &l->items[i], &s);
        }
        if (!k)
                *ret = s;
        return k;
}

static int eval_slice(struct render *r, const struct node *n, const struct value *v, struct value *ret) {
        struct value parts[3] = { { .kind = V_MISSING } };
        const struct node *nodes[] = { n->a, n->b, n->c };
        int k = 0;

        for (unsigned i = 0; !k && i < 3; i++)
                if (nodes[i])
                        k = eval(r, nodes[i], &parts[i]);
        return k ? k : value_slice(r, v, &parts[0], &parts[1], &parts[2], ret);
}

static int eval_item(struct render *r, const struct node *n, struct value *ret) {
        struct value v, index;
        int k = eval(r, n->a, &v);

        if (k)
                return k;
        if (n->b->kind == N_SLICE)
                return eval_slice(r, n->b, &v, ret);
        k = eval(r, n->b, &index);
        return k ? k : value_item(r, &v, &index, ret);
}

static int eval_attribute(struct render *r, const struct node *n, struct value *ret) {
        const struct name *name = &r->t->names[n->name];
        const struct value *item;
        struct value v;
        int k = eval(r, n->a, &v);

        if (k)
                return k;
        if (v.kind == V_DICT && !name->dict_method) { /* nearly always */
                k = dict_find_text(r, v.dict, name->text, name->n, &item);
                if (k)
                        return k;
                if (item) {
                        *ret = *item;
                        return 0;
                }
        }
        return value_attribute(r, &v, name->text, name->n, ret);
}

static int add_star(struct render *r, const struct node *n, struct args *a) {
        struct value v, *pos;
        struct list items;
        int k = eval(r, n, &v);

        if (!k)
                k = value_iterate(r, &v, &items);
        if (!k)
                k = render_alloc(r, a->n + items.n, sizeof(*pos), &pos);
        if (k)
                return k;
        if (a->n)
                memcpy(pos, a->pos, a->n * sizeof(*pos));
        if (items.n)
                memcpy(pos + a->n, items.items, items.n * sizeof(*pos));
        a->pos = pos;
        a->n += items.n;
        return 0;
}

static int add_star_star(struct render *r, const struct node *n, struct args *a) {
        struct keyword *kw;
        struct value v;
        int k = eval(r, n, &v);

        if (!k && v.kind != V_DICT)
                return render_fail(r, "argument after ** must be a mapping, not %s", value_type_name(&v));
        if (!k)
                k = render_alloc(r, a->n_kw + v.dict->n, sizeof(*kw), &kw);
        if (k)
                return k;
        if (a->n_kw)
                memcpy(kw, a->kw, a->n_kw * sizeof(*kw));
        for (size_t i = 0; i < v.dict->n; i++) {
                const struct dict_entry *e = &v.dict->entries[i];

                if (e->key.kind != V_STRING)
                        return render_fail(r, "keywords must be strings");
                kw[a->n_kw++] = (struct keyword){ .name = e->key.text, .n = e->key.n, .value = e->value };
        }
        a->kw = kw;
        return 0;
}

int eval_args(struct render *r, const struct node_args *in, struct args *ret) {
        struct keyword *kw = NULL;
        struct value *pos = NULL;
        int k;

        *ret = (struct args){ 0 };
        if (!in)
                return 0;
        k = render_alloc(r, in->pos.n, sizeof(*pos), &pos);
        for (uint32_t i = 0; !k && i < in->pos.n; i++)
                k = eval(r, in->pos.items[i], &pos[i]);
        if (!k && in->kw.n)
                k = render_alloc(r, in->kw.n, sizeof(*kw), &kw);
        for (uint32_t i = 0; !k && i < in->kw.n; i++) {
                const struct name *name = &r->t->names[in->kw.items[i]->name];

                kw[i] = (struct keyword){ .name = name->text, .n = name->n };
                k = eval(r, in->kw.items[i]->a, &kw[i].value);
        }
        *ret = (struct args){ .pos = pos, .n = in->pos.n, .kw = kw, .n_kw = in->kw.n };
        if (!k && in->star)
                k = add_star(r, in->star, ret);
        if (!k && in->star_star)
                k = add_star_star(r, in->star_star, ret);
        return k;
}

static int eval_call(struct render *r, const struct node *n, struct value *ret) {
        struct value callee;
        struct args a;
        int k = eval(r, n->a, &callee);

        if (!k)
                k = eval_args(r, n->args, &a);
        r->line = n->line;
        return k ? k : value_call(r, &callee, &a, ret);
}

/* n->function, or the error that there is none */
static int known_function(struct render *r, const struct node *n, const char *what) {
        const struct name *name = &r->t->names[n->name];

        if (n->function && n->function->call)
                return 0;
        return render_fail(r, "%s '%.*s' is not %s", what, (int)MIN(name->n, 60u), name->text,
                           n->function ? "supported" : "known");
}

int eval_filter(struct render *r, const struct node *n, const struct value *input, struct value *ret) {
        struct value v = { .kind = V_UNDEFINED };
        struct args a;
        int k = 0;

        /* a chain in a filter block or block assignment starts with what the block made */
        if (n->a)
                k = input && n->a->kind == N_FILTER ? eval_filter(r, n->a, input, &v) : eval(r, n->a, &v);
        else if (input)
                v = *input;
        if (!k)
                k = known_function(r, n, "filter");
        if (!k)
                k = eval_args(r, n->args, &a);
        return k ? k : n->function->call(r, &v, &a, ret);
}

static int eval_test(struct render *r, const struct node *n, struct value *ret) {
        struct value v;
        struct args a;
        int k = eval(r, n->a, &v);

        if (!k)
                k = known_function(r, n, "test");
        if (!k)
                k = eval_args(r, n->args, &a);
        return k ? k : n->function->call(r, &v, &a, ret);
}

static int eval_logic(struct render *r, const struct node *n, struct value *ret) {
        int k = eval(r, n->a, ret);

        if (k || value_truth(ret) == (n->kind == N_OR))
                return k;
        return eval(r, n->b, ret);
}

static int eval_sign(struct render *r, const struct node *n, struct value *ret) {
        struct value v, minus;
        int k = eval(r, n->a, &v);

        if (k)
                return k;
        if (n->kind == N_NOT) {
                *ret = VALUE_BOOL(!value_truth(&v));
                return 0;
        }
        k = value_negate(r, &v, &minus);
        *ret = n->kind == N_NEG ? minus : v.kind == V_BOOL ? VALUE_INT(v.boolean) : v;
        return k;
}

static int eval_kind(struct render *r, const struct node *n, struct value *ret) {
        switch (n->kind) {
        case N_CONST:
                *ret = n->value;
                return 0;
        case N_NAME:
                scope_get(r, n->name, ret);
                return 0;
        case N_TUPLE:
                return eval_items(r, &n->list, V_TUPLE, ret);
        case N_LIST:
                return eval_items(r, &n->list, V_LIST, ret);
        case N_DICT:
                return eval_dict(r, &n->list, ret);
        case N_COND:
                return eval_cond(r, n, ret);
        case N_OR:
        case N_AND:
                return eval_logic(r, n, ret);
        case N_NOT:
        case N_NEG:
        case N_POS:
                return eval_sign(r, n, ret);
        case N_COMPARE:
                return eval_compare(r, n, ret);
        case N_BINARY:
                return eval_binary(r, n, ret);
        case N_CONCAT:
                return eval_concat(r, n, ret);
        case N_ATTR:
                return eval_attribute(r, n, ret);
        case N_ITEM:
                return eval_item(r, n, ret);
        case N_CALL:
                return eval_call(r, n, ret);
        case N_FILTER:
                return eval_filter(r, n, NULL, ret);
        case N_TEST:
                return eval_test(r, n, ret);
        default:
                return render_fail(r, "this can't be evaluated here");
        }
}

int eval(struct render *r, const struct node *n, struct value *ret) {
        int k = render_enter(r);

        if (!k)
                k = eval_kind(r, n, ret);
        render_leave(r);
        return k;
}
