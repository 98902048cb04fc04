/* SPDX-License-Identifier: Apache-2.0 */

/* Expressions. Precedence, lowest first: inline if, or, and, not, comparisons and in, + -, ~, * / // %, **, unary, then
 * what follows a primary (attribute, item, call), then filters and tests. ** groups to the left, as in Jinja. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ast.h"
#include "base/macro.h"
#include "function.h"

#define DEPTH_MAX 120u /* nested brackets and signs; each takes a dozen C frames */

static int parse_or(struct parser *p, struct node **ret);
static int parse_postfix(struct parser *p, struct node **node);
static int parse_filters(struct parser *p, struct node **node);

static int make_const(struct parser *p, struct value v, struct node **ret) {
        int r = parse_node(p, N_CONST, ret);

        if (!r)
                (*ret)->value = v;
        return r;
}

/* A node with one or two children; b may be NULL. */
static int make_node(struct parser *p, enum node_kind kind, unsigned op, struct node *a, struct node *b,
                     struct node **ret) {
        struct node *n;
        int r = parse_node(p, kind, &n);

        if (!r)
                r = parse_raise(p, n, a);
        if (!r && b)
                r = parse_raise(p, n, b);
        if (r)
                return r;
        n->op = (uint8_t)op;
        n->line = a->line;
        n->a = a;
        n->b = b;
        *ret = n;
        return 0;
}

int parse_expression(struct parser *p, bool with_cond, struct node **ret) {
        struct node *n, *c;
        int r;

        if (++p->depth > DEPTH_MAX) {
                parse_say(p, parse_current(p)->line, "nested too deeply");
                return TEMPLATE_E_LIMIT;
        }
        r = parse_or(p, &n);
        while (!r && with_cond && parse_skip_name(p, "if")) {
                bool soft = p->soft;

                r = parse_node(p, N_COND, &c);
                if (r)
                        break;
                c->b = n;
                r = parse_or(p, &c->a);
                p->soft = true;
                if (!r && parse_skip_name(p, "else"))
                        r = parse_expression(p, true, &c->c);
                p->soft = soft;
                for (struct node **k = &c->a; !r && k <= &c->c; k++)
                        if (*k)
                                r = parse_raise(p, c, *k);
                n = c;
        }
        p->depth--;
        if (!r)
                *ret = n;
        return r;
}

static int parse_not(struct parser *p, struct node **ret);

static int parse_and(struct parser *p, struct node **ret) {
        struct node *b;
        int r = parse_not(p, ret);

        while (!r && parse_skip_name(p, "and")) {
                r = parse_not(p, &b);
                if (!r)
                        r = make_node(p, N_AND, 0, *ret, b, ret);
        }
        return r;
}

static int parse_or(struct parser *p, struct node **ret) {
        struct node *b;
        int r = parse_and(p, ret);

        while (!r && parse_skip_name(p, "or")) {
                r = parse_and(p, &b);
                if (!r)
                        r = make_node(p, N_OR, 0, *ret, b, ret);
        }
        return r;
}

/* One level of left-associative operators: fills `op` where the current token is one of them, and steps over it. */
typedef bool (*operator_fn)(struct parser *p, unsigned *op);
typedef int (*operand_fn)(struct parser *p, struct node **ret);

static bool token_operator(struct parser *p, const uint8_t (*table)[2], size_t n, unsigned *op) {
        for (size_t i = 0; i < n; i++)
                if (parse_skip(p, table[i][0])) {
                        *op = table[i][1];
                        return true;
                }
        return false;
}

static bool sum_operator(struct parser *p, unsigned *op) {
        static const uint8_t table[][2] = { { T_ADD, OP_ADD }, { T_SUB, OP_SUB } };

        return token_operator(p, table, ARRAY_SIZE(table), op);
}

static bool product_operator(struct parser *p, unsigned *op) {
        static const uint8_t table[][2] = {
                { T_MUL, OP_MUL }, { T_DIV, OP_DIV }, { T_FLOORDIV, OP_FLOORDIV }, { T_MOD, OP_MOD },
        };

        return token_operator(p, table, ARRAY_SIZE(table), op);
}

static bool power_operator(struct parser *p, unsigned *op) {
        *op = OP_POW;
        return parse_skip(p, T_POW);
}

static bool compare_operator(struct parser *p, unsigned *op) {
        static const uint8_t table[][2] = {
                { T_EQ, OP_EQ }, { T_NE, OP_NE }, { T_LT, OP_LT }, { T_LE, OP_LE }, { T_GT, OP_GT }, { T_GE, OP_GE },
        };

        if (token_operator(p, table, ARRAY_SIZE(table), op))
                return true;
        if (parse_skip_name(p, "in")) {
                *op = OP_IN;
                return true;
        }
        if (!parse_is_name(p, "not"))
                return false;
        p->pos++;
        if (parse_skip_name(p, "in")) {
                *op = OP_NOTIN;
                return true;
        }
        p->pos--;
        return false;
}

static int parse_level(struct parser *p, operand_fn operand, operator_fn operator, struct node **ret) {
        struct node *b;
        unsigned op;
        int r = operand(p, ret);

        while (!r && operator(p, &op)) {
                r = operand(p, &b);
                if (!r)
                        r = make_node(p, N_BINARY, op, *ret, b, ret);
        }
        return r;
}

static int parse_power_operand(struct parser *p, struct node **ret) {
        return parse_unary(p, true, ret);
}

static int parse_power(struct parser *p, struct node **ret) {
        return parse_level(p, parse_power_operand, power_operator, ret);
}

static int parse_product(struct parser *p, struct node **ret) {
        return parse_level(p, parse_power, product_operator, ret);
}

static int parse_concat(struct parser *p, struct node **ret) {
        struct node *item, *n;
        int r = parse_product(p, &item);

        if (r || parse_current(p)->kind != T_TILDE) {
                *ret = item;
                return r;
        }
        r = parse_node(p, N_CONCAT, &n);
        if (!r)
                r = parse_append(p, n, &n->list, item);
        while (!r && parse_skip(p, T_TILDE)) {
                r = parse_product(p, &item);
                if (!r)
                        r = parse_append(p, n, &n->list, item);
        }
        *ret = n;
        return r;
}

static int parse_sum(struct parser *p, struct node **ret) {
        return parse_level(p, parse_concat, sum_operator, ret);
}

static int parse_compare(struct parser *p, struct node **ret) {
        struct node *n = NULL, *operand, *b;
        unsigned op;
        int r = parse_sum(p, ret);

        while (!r && compare_operator(p, &op)) {
                if (!n) {
                        r = make_node(p, N_COMPARE, 0, *ret, NULL, &n);
                        *ret = n;
                }
                if (!r)
                        r = parse_sum(p, &b);
                if (!r)
                        r = make_node(p, N_OPERAND, op, b, NULL, &operand);
                if (!r)
                        r = parse_append(p, n, &n->list, operand);
        }
        return r;
}

static int parse_not(struct parser *p, struct node **ret) {
        unsigned negations = 0;
        int r;

        while (parse_skip_name(p, "not"))
                negations++;
        r = parse_compare(p, ret);
        for (; !r && negations > 0; negations--)
                r = make_node(p, N_NOT, 0, *ret, NULL, ret);
        return r;
}

int parse_unary(struct parser *p, bool with_filter, struct node **ret) {
        unsigned kind = parse_current(p)->kind;
        struct node *a;
        int r;

        if (kind != T_SUB && kind != T_ADD) {
                r = parse_target(p, TUPLE_NO_COND, ret);
        } else {
                if (++p->depth > DEPTH_MAX) {
                        parse_say(p, parse_current(p)->line, "nested too deeply");
                        return TEMPLATE_E_LIMIT;
                }
                p->pos++;
                r = parse_unary(p, false, &a);
                if (!r)
                        r = make_node(p, kind == T_SUB ? N_NEG : N_POS, 0, a, NULL, ret);
                p->depth--;
        }
        if (!r)
                r = parse_postfix(p, ret);
        if (!r && with_filter)
                r = parse_filters(p, ret);
        return r;
}

/* The digits of a number without underscores, in buffer (cut to fit). */
static void plain_digits(const struct token *t, char *buffer, size_t size) {
        size_t n = 0;

        for (size_t i = 0; i < t->n && n + 1 < size; i++)
                if (t->text[i] != '_')
                        buffer[n++] = t->text[i];
        buffer[n] = 0;
}

static int parse_number(struct parser *p, struct node **ret) {
        const struct token *t = parse_current(p);
        char buffer[400];
        int base = 10;
        long long v;
        char *digits = buffer;

        p->pos++;
        if (t->n >= sizeof(buffer))
                return parse_fail(p, t->line, "number is too long");
        plain_digits(t, buffer, sizeof(buffer));
        if (t->kind == T_FLOAT)
                return make_const(p, VALUE_FLOAT(strtod(buffer, NULL)), ret);
        if (buffer[0] == '0' && buffer[1]) {
                base = (buffer[1] | 32) == 'x' ? 16 : (buffer[1] | 32) == 'o' ? 8 : (buffer[1] | 32) == 'b' ? 2 : 10;
                if (base != 10)
                        digits += 2;
        }
        errno = 0;
        v = strtoll(digits, NULL, base);
        if (errno == 0)
                return make_const(p, VALUE_INT(v), ret);
        if (base != 10)
                return parse_fail(p, t->line, "number is too large");
        digits = arena_memdup(&p->t->arena, buffer, strlen(buffer));
        if (!digits)
                return parse_fail_memory(p, &p->t->arena);
        return make_const(p, (struct value){ .kind = V_BIG, .text = digits, .n = strlen(buffer) }, ret);
}

/* Adjacent strings are one. */
static int parse_strings(struct parser *p, struct node **ret) {
        size_t n = 0, first = p->pos, end = p->pos;
        char *text, *out;

        for (; p->tokens[end].kind == T_STRING; end++)
                n += p->tokens[end].n;
        p->pos = end;
        if (end == first + 1)
                return make_const(p, VALUE_TEXT(p->tokens[first].text, n), ret);
        text = out = arena_bytes(&p->t->arena, n);
        if (!text)
                return parse_fail_memory(p, &p->t->arena);
        for (; first < end; first++)
                out = mempcpy(out, p->tokens[first].text, p->tokens[first].n);
        return make_const(p, VALUE_TEXT(text, n), ret);
}

static int parse_name(struct parser *p, struct node **ret) {
        const struct token *t = parse_current(p);
        struct node *n;
        int r;

        p->pos++;
        if (t->n == 4 && (memcmp(t->text, "true", 4) == 0 || memcmp(t->text, "True", 4) == 0))
                return make_const(p, VALUE_BOOL(true), ret);
        if (t->n == 5 && (memcmp(t->text, "false", 5) == 0 || memcmp(t->text, "False", 5) == 0))
                return make_const(p, VALUE_BOOL(false), ret);
        if (t->n == 4 && (memcmp(t->text, "none", 4) == 0 || memcmp(t->text, "None", 4) == 0))
                return make_const(p, VALUE_NONE, ret);

        r = parse_node(p, N_NAME, &n);
        if (!r)
                r = parse_name_id(p, t->text, t->n, &n->name);
        if (r)
                return r;
        n->line = t->line;
        if (p->macro_flags) {
                if (n->name == p->t->varargs)
                        *p->macro_flags |= MACRO_VARARGS;
                if (n->name == p->t->kwargs)
                        *p->macro_flags |= MACRO_KWARGS;
                if (n->name == p->t->caller)
                        *p->macro_flags |= MACRO_CALLER;
        }
        *ret = n;
        return 0;
}

static int parse_list(struct parser *p, struct node **ret) {
        struct node *n, *item;
        int r;

        p->pos++;
        r = parse_node(p, N_LIST, &n);
        while (!r && parse_current(p)->kind != T_RBRACKET) {
                if (n->list.n)
                        r = parse_expect(p, T_COMMA, "','");
                if (r || parse_current(p)->kind == T_RBRACKET)
                        break;
                r = parse_expression(p, true, &item);
                if (!r)
                        r = parse_append(p, n, &n->list, item);
        }
        *ret = n;
        return r ? r : parse_expect(p, T_RBRACKET, "']'");
}

static int parse_dict(struct parser *p, struct node **ret) {
        struct node *n, *item;
        int r;

        p->pos++;
        r = parse_node(p, N_DICT, &n);
        while (!r && parse_current(p)->kind != T_RBRACE) {
                if (n->list.n)
                        r = parse_expect(p, T_COMMA, "','");
                if (r || parse_current(p)->kind == T_RBRACE)
                        break;
                r = parse_expression(p, true, &item);
                if (!r)
                        r = parse_append(p, n, &n->list, item);
                if (!r)
                        r = parse_expect(p, T_COLON, "':'");
                if (!r)
                        r = parse_expression(p, true, &item);
                if (!r)
                        r = parse_append(p, n, &n->list, item);
        }
        *ret = n;
        return r ? r : parse_expect(p, T_RBRACE, "'}'");
}

static int parse_namespace_target(struct parser *p, struct node **ret) {
        const struct token *name = parse_current(p), *attr = name + 2;
        int r;

        if (attr->kind != T_NAME)
                return parse_fail(p, name->line, "expected a name behind '.'");
        p->pos += 3;
        r = parse_node(p, N_NSREF, ret);
        if (!r)
                r = parse_name_id(p, name->text, name->n, &(*ret)->name);
        if (!r)
                r = parse_name_id(p, attr->text, attr->n, &(*ret)->attr);
        return r;
}

/* One primary; with TUPLE_NAMESPACE it may be ns.attr. */
int parse_target(struct parser *p, unsigned flags, struct node **ret) {
        const struct token *t = parse_current(p);
        int r;

        switch (t->kind) {
        case T_NAME:
                if ((flags & TUPLE_NAMESPACE) && t[1].kind == T_DOT)
                        return parse_namespace_target(p, ret);
                return parse_name(p, ret);
        case T_STRING:
                return parse_strings(p, ret);
        case T_INTEGER:
        case T_FLOAT:
                return parse_number(p, ret);
        case T_LPAREN:
                p->pos++;
                r = parse_tuple(p, TUPLE_PARENTHESES, ret);
                return r ? r : parse_expect(p, T_RPAREN, "')'");
        case T_LBRACKET:
                return parse_list(p, ret);
        case T_LBRACE:
                return parse_dict(p, ret);
        default:
                return parse_fail(p, t->line, "expected an expression");
        }
}

static bool tuple_ends(const struct parser *p, unsigned flags) {
        unsigned kind = parse_current(p)->kind;

        return kind == T_VARIABLE_END || kind == T_BLOCK_END || kind == T_RPAREN ||
               ((flags & TUPLE_END_IN) && parse_is_name(p, "in")) ||
               ((flags & TUPLE_END_RECURSIVE) && parse_is_name(p, "recursive"));
}

int parse_tuple(struct parser *p, unsigned flags, struct node **ret) {
        struct node *tuple = NULL, *item = NULL;
        uint32_t line = parse_current(p)->line;
        int r = 0;

        for (bool comma = false; !tuple_ends(p, flags); comma = true) {
                if (comma && !parse_skip(p, T_COMMA))
                        break;
                if (comma && !tuple) {
                        r = parse_node(p, N_TUPLE, &tuple);
                        if (!r)
                                r = parse_append(p, tuple, &tuple->list, item);
                }
                if (r || (comma && tuple_ends(p, flags)))
                        break;
                r = flags & TUPLE_SIMPLE ? parse_target(p, flags, &item)
                                         : parse_expression(p, !(flags & TUPLE_NO_COND), &item);
                if (!r && tuple)
                        r = parse_append(p, tuple, &tuple->list, item);
                if (r)
                        break;
        }
        if (!r && !item) {
                if (!(flags & TUPLE_PARENTHESES))
                        return parse_fail(p, line, "expected an expression");
                r = parse_node(p, N_TUPLE, &tuple);
        }
        *ret = tuple ? tuple : item;
        return r;
}

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
        return r ? r : make_node(p, N_ITEM, 0, *node, tuple ? tuple : index, node);
}

static int parse_attribute(struct parser *p, struct node **node) {
        const struct token *t = parse_current(p) + 1;
        struct node *index;
        int r;

        p->pos++;
        if (t->kind == T_INTEGER) {
                r = parse_number(p, &index);
                return r ? r : make_node(p, N_ITEM, 0, *node, index, node);
        }
        if (t->kind != T_NAME)
                return parse_fail(p, t->line, "expected a name or a number behind '.'");
        p->pos++;
        r = make_node(p, N_ATTR, 0, *node, NULL, node);
        return r ? r : parse_name_id(p, t->text, t->n, &(*node)->name);
}

static int parse_call(struct parser *p, struct node **node) {
        int r = make_node(p, N_CALL, 0, *node, NULL, node);

        return r ? r : parse_arguments(p, *node);
}

static int parse_postfix(struct parser *p, struct node **node) {
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
        r = make_node(p, N_TEST, 0, *node, NULL, &n);
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
                r = make_node(p, N_NOT, 0, n, NULL, &n);
        *node = n;
        return r;
}

static int parse_filters(struct parser *p, struct node **node) {
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
