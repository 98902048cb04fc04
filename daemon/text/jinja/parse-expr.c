/* SPDX-License-Identifier: Apache-2.0 */

/* Expressions. Precedence, lowest first: inline if, or, and, not, comparisons and in, + -, ~, * / // %, **, unary, then
 * what follows a primary (attribute, item, call), then filters and tests. ** groups to the left, as in Jinja. */

#include "base/macro.h"
#include "parse.h"

#define DEPTH_MAX 120u /* nested brackets and signs; each takes a dozen C frames */

static int parse_or(struct parser *p, struct node **ret);
static int parse_not(struct parser *p, struct node **ret);

int parse_join(struct parser *p, enum node_kind kind, unsigned op, struct node *a, struct node *b, struct node **ret) {
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

static int parse_and(struct parser *p, struct node **ret) {
        struct node *b;
        int r = parse_not(p, ret);

        while (!r && parse_skip_name(p, "and")) {
                r = parse_not(p, &b);
                if (!r)
                        r = parse_join(p, N_AND, 0, *ret, b, ret);
        }
        return r;
}

static int parse_or(struct parser *p, struct node **ret) {
        struct node *b;
        int r = parse_and(p, ret);

        while (!r && parse_skip_name(p, "or")) {
                r = parse_and(p, &b);
                if (!r)
                        r = parse_join(p, N_OR, 0, *ret, b, ret);
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
                        r = parse_join(p, N_BINARY, op, *ret, b, ret);
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
        struct node *item = NULL, *n;
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
                        r = parse_join(p, N_COMPARE, 0, *ret, NULL, &n);
                        *ret = n;
                }
                if (!r)
                        r = parse_sum(p, &b);
                if (!r)
                        r = parse_join(p, N_OPERAND, op, b, NULL, &operand);
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
                r = parse_join(p, N_NOT, 0, *ret, NULL, ret);
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
                        r = parse_join(p, kind == T_SUB ? N_NEG : N_POS, 0, a, NULL, ret);
                p->depth--;
        }
        if (!r)
                r = parse_postfix(p, ret);
        if (!r && with_filter)
                r = parse_filters(p, ret);
        return r;
}
