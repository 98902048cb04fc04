/* SPDX-License-Identifier: Apache-2.0 */

/* Calls: functions of ours, macros, recursive loops, cyclers and joiners. */

#include <string.h>

#include "render.h"

static bool keyword_is(const struct keyword *kw, const char *name) {
        return kw->n == strlen(name) && memcmp(kw->name, name, kw->n) == 0;
}

static int too_many(struct render *r, const char *function, size_t expected, size_t got) {
        return render_fail(r, "%s() takes at most %zu argument(s) (%zu given)", function, expected, got);
}

int args_bind(struct render *r, const char *function, const struct args *a, const char *const *names, size_t n_names,
              size_t required, struct value *out) {
        size_t j;

        if (a->n > n_names)
                return too_many(r, function, n_names, a->n);
        for (size_t i = 0; i < n_names; i++)
                out[i] = i < a->n ? a->pos[i] : (struct value){ .kind = V_MISSING };
        for (size_t i = 0; i < a->n_kw; i++) {
                for (j = 0; j < n_names; j++)
                        if (names[j][0] && keyword_is(&a->kw[i], names[j]))
                                break;
                if (j == n_names || out[j].kind != V_MISSING)
                        return render_fail(r, "%s() got an unexpected keyword argument '%.*s'", function,
                                           (int)MIN(a->kw[i].n, 60u), a->kw[i].name);
                out[j] = a->kw[i].value;
        }
        for (size_t i = 0; i < required; i++)
                if (out[i].kind == V_MISSING)
                        return render_fail(r, "%s() is missing a required argument", function);
        return 0;
}

/* Index of the parameter of m called that, or -1. */
static int find_param(const struct render *r, const struct node *m, const struct keyword *kw) {
        for (uint32_t i = 0; i < m->list.n; i++) {
                const struct name *name = &r->t->names[m->list.items[i]->name];

                if (name->n == kw->n && memcmp(name->text, kw->name, kw->n) == 0)
                        return (int)i;
        }
        return -1;
}

/* Sorts keyword arguments: those of parameters into `given`, caller apart, the rest into `rest`. */
static int sort_keywords(struct render *r, const struct node *m, const struct args *a, struct value *given,
                         struct value *caller, struct dict_entry *rest, size_t *n_rest) {
        const char *name = "caller";
        int p, k;

        for (size_t i = 0; i < a->n_kw; i++) {
                const struct keyword *kw = &a->kw[i];

                k = render_step(r, m->list.n + 1);
                if (k)
                        return k;
                p = find_param(r, m, kw);
                if (p >= 0 && given[p].kind == V_MISSING) {
                        given[p] = kw->value;
                } else if (p < 0 && (m->flags & MACRO_CALLER) && keyword_is(kw, name)) {
                        *caller = kw->value;
                } else if (m->flags & MACRO_KWARGS) {
                        rest[*n_rest] = (struct dict_entry){ .key = VALUE_TEXT(kw->name, kw->n), .value = kw->value };
                        ++*n_rest;
                } else {
                        return render_fail(r, "macro takes no keyword argument '%.*s'", (int)MIN(kw->n, 60u), kw->name);
                }
        }
        return 0;
}

/* varargs, kwargs and caller, where the macro's body speaks of them */
static int bind_special(struct render *r, const struct node *m, struct scope *s, const struct args *a,
                        const struct value *caller, struct dict_entry *rest, size_t n_rest) {
        struct value v;
        int k = 0;

        if (m->flags & MACRO_CALLER && caller->kind != V_MISSING)
                k = scope_set(r, s, r->t->caller, caller);
        if (!k && m->flags & MACRO_KWARGS) {
                k = dict_new(r, rest, n_rest, &v);
                if (!k)
                        k = scope_set(r, s, r->t->kwargs, &v);
        }
        if (!k && m->flags & MACRO_VARARGS) {
                size_t used = MIN(a->n, m->list.n);

                k = list_value(r, V_TUPLE, a->pos + used, a->n - used, &v);
                if (!k)
                        k = scope_set(r, s, r->t->varargs, &v);
        }
        return k;
}

/* Parameters in order: a default may speak of those before it. r->scope is the macro's. */
static int bind_params(struct render *r, const struct node *m, const struct value *given) {
        struct value v;
        int k = 0;

        for (uint32_t i = 0; !k && i < m->list.n; i++) {
                const struct node *p = m->list.items[i];

                v = given[i];
                if (v.kind == V_MISSING && p->a)
                        k = eval(r, p->a, &v);
                else if (v.kind == V_MISSING)
                        v = (struct value){ .kind = V_UNDEFINED, .text = r->t->names[p->name].text,
                                            .n = r->t->names[p->name].n };
                if (!k)
                        k = scope_set(r, r->scope, p->name, &v);
        }
        return k;
}

static int enter_macro(struct render *r, const struct macro *macro, const struct args *a, struct scope *s) {
        const struct node *m = macro->node;
        struct value *given, caller = { .kind = V_UNDEFINED, .text = "caller", .n = 6 };
        struct dict_entry *rest;
        size_t n_rest = 0;
        int k;

        if (a->n > m->list.n && !(m->flags & MACRO_VARARGS))
                return too_many(r, "macro", m->list.n, a->n);
        k = render_alloc(r, m->list.n, sizeof(*given), &given);
        if (!k)
                k = render_alloc(r, a->n_kw, sizeof(*rest), &rest);
        if (k)
                return k;
        for (uint32_t i = 0; i < m->list.n; i++)
                given[i] = i < a->n ? a->pos[i] : (struct value){ .kind = V_MISSING };
        k = sort_keywords(r, m, a, given, &caller, rest, &n_rest);
        r->scope = s;
        if (!k)
                k = bind_special(r, m, s, a, &caller, rest, n_rest);
        return k ? k : bind_params(r, m, given);
}

static int call_macro(struct render *r, const struct macro *macro, const struct args *a, struct value *ret) {
        struct scope *outer = r->scope, *s;
        int k;

        if (++r->calls > r->max_calls)
                return render_limit(r, "macros call each other too deeply");
        k = scope_push(r, macro->scope, &s);
        if (!k)
                k = enter_macro(r, macro, a, s);
        if (!k)
                k = exec_capture(r, &macro->node->body, s, ret);
        r->scope = outer;
        r->calls--;
        return k;
}

/* loop(items) of a recursive loop: the same loop over other items, as text */
static int call_loop(struct render *r, const struct loop *loop, const struct args *a, struct value *ret) {
        struct scope *outer = r->scope;
        size_t mark = render_mark(r);
        int k;

        if (!(loop->node->flags & FOR_RECURSIVE))
                return render_fail(r, "the loop must have the 'recursive' marker to be called");
        if (a->n != 1 || a->n_kw)
                return render_fail(r, "loop() takes one argument");
        if (++r->calls > r->max_calls)
                return render_limit(r, "loops call each other too deeply");
        r->scope = loop->scope;
        k = exec_for(r, loop->node, &a->pos[0], loop->depth + 1);
        r->scope = outer;
        r->calls--;
        return render_take(r, mark, k, ret);
}

static int call_joiner(struct render *r, struct cycler *j, const struct args *a, struct value *ret) {
        int k = args_bind(r, "joiner", a, NULL, 0, 0, NULL);

        *ret = j->pos ? j->items.items[0] : VALUE_LITERAL("");
        j->pos = 1;
        return k;
}

int value_call(struct render *r, const struct value *callee, const struct args *a, struct value *ret) {
        int k;

        switch (callee->kind) {
        case V_FUNCTION:
                return callee->function->call(r, callee->self, a, ret);
        case V_MACRO:
                k = render_enter(r);
                if (!k)
                        k = call_macro(r, callee->macro, a, ret);
                render_leave(r);
                return k;
        case V_LOOP:
                return call_loop(r, callee->loop, a, ret);
        case V_JOINER:
                return call_joiner(r, callee->cycler, a, ret);
        case V_UNDEFINED:
                if (callee->flags & VALUE_HINT)
                        return render_fail(r, "%.*s", (int)MIN(callee->n, 200u), callee->text);
                return render_fail(r, "'%.*s' is undefined", (int)MIN(callee->n, 200u), callee->text);
        default:
                return render_fail(r, "'%s' object is not callable", value_type_name(callee));
        }
}
