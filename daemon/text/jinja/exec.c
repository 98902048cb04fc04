/* SPDX-License-Identifier: Apache-2.0 */

/* Statements. */

#include <string.h>

#include "render.h"

static int exec(struct render *r, const struct node *n);

int exec_nodes(struct render *r, const struct nodes *list) {
        int k = 0;

        for (uint32_t i = 0; !k && i < list->n; i++)
                k = exec(r, list->items[i]);
        return k;
}

int exec_capture(struct render *r, const struct nodes *list, struct scope *scope, struct value *ret) {
        struct scope *outer = r->scope;
        size_t mark = render_mark(r);
        int k;

        r->scope = scope;
        k = exec_nodes(r, list);
        r->scope = outer;
        return render_take(r, mark, k, ret);
}

static int assign_namespace(struct render *r, const struct node *target, const struct value *v) {
        const struct name *attr = &r->t->names[target->attr];
        struct namespace *ns;
        struct dict_entry *e;
        struct value holder;
        size_t cap;
        int k;

        scope_get(r, target->name, &holder);
        if (holder.kind != V_NAMESPACE)
                return render_fail(r, "cannot assign attribute on non-namespace object");
        ns = holder.namespace;
        for (size_t i = 0; i < ns->n; i++)
                if (ns->entries[i].key.n == attr->n && memcmp(ns->entries[i].key.text, attr->text, attr->n) == 0) {
                        ns->entries[i].value = *v;
                        return render_step(r, i / 8);
                }
        if (ns->n == ns->cap) {
                cap = ns->cap ? ns->cap * 2 : 8;
                k = render_alloc(r, cap, sizeof(*e), &e);
                if (k)
                        return k;
                if (ns->n)
                        memcpy(e, ns->entries, ns->n * sizeof(*e));
                ns->entries = e;
                ns->cap = cap;
        }
        ns->entries[ns->n++] = (struct dict_entry){ .key = VALUE_TEXT(attr->text, attr->n), .value = *v };
        return render_step(r, ns->n / 8);
}

static int assign_tuple(struct render *r, const struct node *target, const struct value *v) {
        struct list items;
        int k = value_iterate(r, v, &items);

        if (k)
                return k;
        if (items.n != target->list.n)
                return render_fail(r, items.n < target->list.n ? "not enough values to unpack (expected %u, got %zu)"
                                                               : "too many values to unpack (expected %u, got %zu)",
                                   target->list.n, items.n);
        for (uint32_t i = 0; !k && i < target->list.n; i++)
                k = exec_assign(r, target->list.items[i], &items.items[i]);
        return k;
}

int exec_assign(struct render *r, const struct node *target, const struct value *v) {
        switch (target->kind) {
        case N_NAME:
                return scope_set(r, r->scope, target->name, v);
        case N_NSREF:
                return assign_namespace(r, target, v);
        default:
                return assign_tuple(r, target, v);
        }
}

/* The items for which the loop's condition holds; it sees the target, but not `loop`. */
static int filter_items(struct render *r, const struct node *n, struct list *items) {
        struct scope *outer = r->scope, *s;
        struct list *kept;
        struct value v;
        size_t out = 0;
        int k = list_new(r, items->n, &kept);

        if (!k)
                k = scope_push(r, outer, &s);
        if (k)
                return k;
        r->scope = s;
        for (size_t i = 0; !k && i < items->n; i++) {
                k = exec_assign(r, n->a, &items->items[i]);
                if (!k)
                        k = eval(r, n->c, &v);
                if (!k && value_truth(&v))
                        kept->items[out++] = items->items[i];
        }
        r->scope = outer;
        kept->n = out;
        *items = *kept;
        return k;
}

/* One turn in a scope of its own: what a turn sets is gone in the next. */
static int loop_turn(struct render *r, const struct node *n, struct loop *loop, struct scope **scope) {
        const struct value v = { .kind = V_LOOP, .loop = loop };
        int k = 0;

        if (!*scope || (*scope)->captured)
                k = scope_push(r, loop->scope, scope);
        else
                (*scope)->n = 0;
        if (k)
                return k;
        r->scope = *scope;
        k = scope_set(r, *scope, r->t->loop, &v);
        if (!k)
                k = exec_assign(r, n->a, &loop->items.items[loop->i]);
        if (!k)
                k = exec_nodes(r, &n->body);
        return k == FLOW_CONTINUE ? 0 : k;
}

int exec_for(struct render *r, const struct node *n, const struct value *iterable, unsigned depth) {
        struct scope *outer = r->scope, *scope = NULL;
        struct loop *loop;
        int k;

        k = render_alloc(r, 1, sizeof(*loop), &loop);
        if (k)
                return k;
        *loop = (struct loop){ .depth = depth, .node = n, .scope = outer };
        if (iterable->kind == V_LOOP)
                return render_fail(r, "a loop can't be walked");
        k = value_iterate(r, iterable, &loop->items);
        if (!k && n->c)
                k = filter_items(r, n, &loop->items);
        for (; !k && loop->i < loop->items.n; loop->i++) {
                k = render_step(r, STEP_NODE);
                if (!k)
                        k = loop_turn(r, n, loop, &scope);
        }
        r->scope = outer;
        if (k == FLOW_BREAK)
                return 0;
        if (!k && loop->items.n == 0 && n->orelse.n) {
                k = scope_push(r, outer, &r->scope);
                if (!k)
                        k = exec_nodes(r, &n->orelse);
                r->scope = outer;
        }
        return k;
}

static int exec_if(struct render *r, const struct node *n) {
        struct value v;
        int k;

        for (uint32_t i = 0; i < n->list.n; i++) {
                k = eval(r, n->list.items[i]->a, &v);
                if (k)
                        return k;
                if (value_truth(&v))
                        return exec_nodes(r, &n->list.items[i]->body);
        }
        return exec_nodes(r, &n->body);
}

static int exec_print(struct render *r, const struct node *n) {
        struct value v;
        int k = eval(r, n->a, &v);

        return k ? k : emit_str(r, &v);
}

static int exec_set(struct render *r, const struct node *n) {
        struct value v;
        int k = eval(r, n->b, &v);

        return k ? k : exec_assign(r, n->a, &v);
}

static int exec_loop(struct render *r, const struct node *n) {
        struct value v;
        int k = eval(r, n->b, &v);

        return k ? k : exec_for(r, n, &v, 1);
}

static int exec_set_block(struct render *r, const struct node *n) {
        struct scope *s;
        struct value v;
        int k = scope_push(r, r->scope, &s);

        if (!k)
                k = exec_capture(r, &n->body, s, &v);
        if (!k && n->b)
                k = eval_filter(r, n->b, &v, &v);
        return k ? k : exec_assign(r, n->a, &v);
}

static int exec_filter_block(struct render *r, const struct node *n) {
        struct scope *s;
        struct value v;
        int k = scope_push(r, r->scope, &s);

        if (!k)
                k = exec_capture(r, &n->body, s, &v);
        if (!k)
                k = eval_filter(r, n->b, &v, &v);
        return k ? k : emit_str(r, &v);
}

static int make_macro(struct render *r, const struct node *n, struct value *ret) {
        struct macro *m;
        int k = render_alloc(r, 1, sizeof(*m), &m);

        if (k)
                return k;
        *m = (struct macro){ .node = n, .scope = r->scope };
        scope_capture(r->scope);
        *ret = (struct value){ .kind = V_MACRO, .macro = m };
        return 0;
}

static int exec_macro(struct render *r, const struct node *n) {
        struct value v;
        int k = make_macro(r, n, &v);

        return k ? k : scope_set(r, r->scope, n->name, &v);
}

/* {% call %}: the call gets one more keyword, the block as a macro named caller. */
static int exec_call_block(struct render *r, const struct node *n) {
        struct value callee, caller, v;
        struct keyword *kw;
        struct args a;
        int k = eval(r, n->a->a, &callee);

        if (!k)
                k = eval_args(r, n->a->args, &a);
        if (!k)
                k = make_macro(r, n, &caller);
        if (!k)
                k = render_alloc(r, a.n_kw + 1, sizeof(*kw), &kw);
        if (k)
                return k;
        if (a.n_kw)
                memcpy(kw, a.kw, a.n_kw * sizeof(*kw));
        kw[a.n_kw] = (struct keyword){ .name = "caller", .n = 6, .value = caller };
        a.kw = kw;
        a.n_kw++;
        k = value_call(r, &callee, &a, &v);
        return k ? k : emit_str(r, &v);
}

static int exec_scope(struct render *r, const struct node *n) {
        struct scope *outer = r->scope, *s;
        struct value v;
        int k = scope_push(r, outer, &s);

        for (uint32_t i = 0; !k && n->kind == N_WITH && i + 1 < n->list.n; i += 2) {
                k = eval(r, n->list.items[i + 1], &v); /* in the scope outside */
                r->scope = s;
                if (!k)
                        k = exec_assign(r, n->list.items[i], &v);
                r->scope = outer;
        }
        if (k)
                return k;
        r->scope = s;
        k = exec_nodes(r, &n->body);
        r->scope = outer;
        return k;
}

static int exec_unsupported(struct render *r, const struct node *n) {
        const struct name *name = &r->t->names[n->name];

        return render_fail(r, "there are no further templates for '%.*s'", (int)MIN(name->n, 60u), name->text);
}

static int exec_kind(struct render *r, const struct node *n) {
        switch (n->kind) {
        case N_TEXT:
                return render_emit(r, n->value.text, n->value.n);
        case N_PRINT:
                return exec_print(r, n);
        case N_IF:
                return exec_if(r, n);
        case N_FOR:
                return exec_loop(r, n);
        case N_SET:
                return exec_set(r, n);
        case N_SETBLOCK:
                return exec_set_block(r, n);
        case N_MACRO:
                return exec_macro(r, n);
        case N_CALLBLOCK:
                return exec_call_block(r, n);
        case N_FILTERBLOCK:
                return exec_filter_block(r, n);
        case N_WITH:
        case N_SCOPE:
        case N_GENERATION:
                return exec_scope(r, n);
        case N_BREAK:
                return FLOW_BREAK;
        case N_CONTINUE:
                return FLOW_CONTINUE;
        default:
                return exec_unsupported(r, n);
        }
}

static int exec(struct render *r, const struct node *n) {
        int k = render_enter(r);

        r->line = n->line;
        if (!k)
                k = exec_kind(r, n);
        render_leave(r);
        return k;
}
