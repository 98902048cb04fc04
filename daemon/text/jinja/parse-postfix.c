/* SPDX-License-Identifier: Apache-2.0 */

/* What follows a primary: attributes, items, calls with their arguments, filters and tests. */

#include <string.h>

#include "base/macro.h"
#include "function.h"
#include "parse.h"

static int add_argument(struct parser *p, struct node *owner, struct node_args *args) {
        const struct token *t = parse_current(p);
        struct node *kw, *v;
        int r;

        if (parse_skip(p, T_MUL) || parse_skip(p, T_POW)) {
                struct node **slot = t->kind == T_MUL ? &args->star : &args->star_star;

                if (args->star_star || *slot)
                        return parse_fail(p, t->line, "invalid arguments of a call");
                r = parse_expression(p, true, slot);
                return r ? r : parse_raise(p, owner, *slot);
        }
        if (t->kind == T_NAME && t[1].kind == T_ASSIGN) {
                p->pos += 2;
                if (args->star_star)
                        return parse_fail(p, t->line, "invalid arguments of a call");
                r = parse_node(p, N_PARAM, &kw);
                if (!r)
                        r = parse_name_id(p, t->text, t->n, &kw->name);
                if (!r)
                        r = parse_expression(p, true, &kw->a);
                if (!r)
                        r = parse_raise(p, kw, kw->a);
                return r ? r : parse_append(p, owner, &args->kw, kw);
        }
        if (args->star || args->star_star || args->kw.n)
                return parse_fail(p, t->line, "invalid arguments of a call");
        r = parse_expression(p, true, &v);
        return r ? r : parse_append(p, owner, &args->pos, v);
}

static int parse_arguments(struct parser *p, struct node *owner) {
        struct node_args *args = arena_calloc(&p->t->arena, 1, sizeof(*args));
        bool comma = false;
        int r = 0;

        if (!args)
                return parse_fail_memory(p, &p->t->arena);
        owner->args = args;
        p->pos++;
        while (!r && parse_current(p)->kind != T_RPAREN) {
                if (comma)
                        r = parse_expect(p, T_COMMA, "','");
                if (r || (comma && parse_current(p)->kind == T_RPAREN))
                        break;
                r = add_argument(p, owner, args);
                comma = true;
        }
        return r ? r : parse_expect(p, T_RPAREN, "')'");
}

static int parse_slice_part(struct parser *p, struct node *slice, struct node **part) {
        unsigned kind = parse_current(p)->kind;
        int r;

        if (kind == T_COLON || kind == T_RBRACKET || kind == T_COMMA)
                return 0;
        r = parse_expression(p, true, part);
        return r ? r : parse_raise(p, slice, *part);
}

static int parse_index(struct parser *p, struct node **ret) {
        struct node *first = NULL, *slice;
        int r;

        if (parse_current(p)->kind != T_COLON) {
                r = parse_expression(p, true, &first);
                if (r || parse_current(p)->kind != T_COLON) {
                        *ret = first;
                        return r;
                }
        }
        p->pos++;
        r = parse_node(p, N_SLICE, &slice);
        if (r)
                return r;
        slice->a = first;
        if (first)
                r = parse_raise(p, slice, first);
        if (!r)
                r = parse_slice_part(p, slice, &slice->b);
        if (!r && parse_skip(p, T_COLON))
                r = parse_slice_part(p, slice, &slice->c);
        *ret = slice;
        return r;
}

static int parse_subscript(struct parser *p, struct node **node) {
        struct node *index, *tuple = NULL;
        int r;

        p->pos++;
        r = parse_index(p, &index);
        while (!r && parse_skip(p, T_COMMA)) {
                if (!tuple) {
                        r = parse_node(p, N_TUPLE, &tuple);
                        if (!r)
                                r = parse_append(p, tuple, &tuple->list, index);
                }
                if (!r)
                        r = parse_index(p, &index);
                if (!r)
                        r = parse_append(p, tuple, &tuple->list, index);
        }
        if (!r)
                r = parse_expect(p, T_RBRACKET, "']'");
        return r ? r : parse_join(p, N_ITEM, 0, *node, tuple ? tuple : index, node);
}

static int parse_attribute(struct parser *p, struct node **node) {
        const struct token *t = parse_current(p) + 1;
        struct node *index = NULL;
        int r;

        p->pos++;
        if (t->kind == T_INTEGER) {
                r = parse_number(p, &index);
                return r ? r : parse_join(p, N_ITEM, 0, *node, index, node);
        }
        if (t->kind != T_NAME)
                return parse_fail(p, t->line, "expected a name or a number behind '.'");
        p->pos++;
        r = parse_join(p, N_ATTR, 0, *node, NULL, node);
        return r ? r : parse_name_id(p, t->text, t->n, &(*node)->name);
}

static int parse_call(struct parser *p, struct node **node) {
        int r = parse_join(p, N_CALL, 0, *node, NULL, node);

        return r ? r : parse_arguments(p, *node);
}

int parse_postfix(struct parser *p, struct node **node) {
        int r = 0;

        while (!r)
                switch (parse_current(p)->kind) {
                case T_DOT:
                        r = parse_attribute(p, node);
                        break;
                case T_LBRACKET:
                        r = parse_subscript(p, node);
                        break;
                case T_LPAREN:
                        r = parse_call(p, node);
                        break;
                default:
                        return 0;
                }
        return r;
}

/* `name` or `a.b`, which names nothing we have but is well formed */
static int parse_function_name(struct parser *p, struct node *n, bool test) {
        const struct token *t = parse_current(p);
        int r;

        r = parse_expect(p, T_NAME, "a name");
        if (r)
                return r;
        r = parse_name_id(p, t->text, t->n, &n->name);
        if (r)
                return r;
        n->function = test ? function_find_test(t->text, t->n) : function_find_filter(t->text, t->n);
        while (!r && parse_skip(p, T_DOT)) {
                n->function = NULL;
                r = parse_expect(p, T_NAME, "a name");
        }
        if (!r && !n->function && !p->soft)
                return parse_fail(p, t->line, "no %s named '%.*s'", test ? "test" : "filter", (int)MIN(t->n, 60u), t->text);
        return r;
}

int parse_filter_chain(struct parser *p, struct node *input, bool first, struct node **ret) {
        struct node *n = input;
        int r = 0;

        *ret = input;
        while (!r && (first || parse_skip(p, T_PIPE))) {
                first = false;
                r = parse_node(p, N_FILTER, &n);
                if (!r && *ret)
                        r = parse_raise(p, n, *ret);
                if (r)
                        break;
                n->a = *ret;
                r = parse_function_name(p, n, false);
                if (!r && parse_current(p)->kind == T_LPAREN)
                        r = parse_arguments(p, n);
                *ret = n;
        }
        return r;
}

/* `is name`, `is not name(args)`, `is name argument` */
static int parse_test(struct parser *p, struct node **node) {
        static const uint8_t starts[] = { T_NAME, T_STRING, T_INTEGER, T_FLOAT, T_LPAREN, T_LBRACKET, T_LBRACE };
        bool negated;
        struct node *n, *arg;
        int r;

        negated = parse_skip_name(p, "not");
        r = parse_join(p, N_TEST, 0, *node, NULL, &n);
        if (!r)
                r = parse_function_name(p, n, true);
        if (r)
                return r;
        if (parse_current(p)->kind == T_LPAREN) {
                r = parse_arguments(p, n);
        } else if (memchr(starts, parse_current(p)->kind, sizeof(starts)) && !parse_is_name(p, "else") &&
                   !parse_is_name(p, "or") && !parse_is_name(p, "and")) {
                if (parse_is_name(p, "is"))
                        return parse_fail(p, parse_current(p)->line, "tests can't be chained with is");
                n->args = arena_calloc(&p->t->arena, 1, sizeof(*n->args));
                if (!n->args)
                        return parse_fail_memory(p, &p->t->arena);
                r = parse_target(p, 0, &arg);
                if (!r)
                        r = parse_postfix(p, &arg);
                if (!r)
                        r = parse_append(p, n, &n->args->pos, arg);
        }
        if (!r && negated)
                r = parse_join(p, N_NOT, 0, n, NULL, &n);
        *node = n;
        return r;
}

int parse_filters(struct parser *p, struct node **node) {
        int r = 0;

        while (!r) {
                if (parse_current(p)->kind == T_PIPE)
                        r = parse_filter_chain(p, *node, false, node);
                else if (parse_skip_name(p, "is"))
                        r = parse_test(p, node);
                else if (parse_current(p)->kind == T_LPAREN)
                        r = parse_call(p, node);
                else
                        return 0;
        }
        return r;
}
