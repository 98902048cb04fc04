/* SPDX-License-Identifier: Apache-2.0 */

/* What expressions start from: names, numbers, strings, lists, dicts, tuples; and targets of assignments. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "parse.h"

static int make_const(struct parser *p, struct value v, struct node **ret) {
        int r = parse_node(p, N_CONST, ret);

        if (!r)
                (*ret)->value = v;
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

int parse_number(struct parser *p, struct node **ret) {
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
        const struct token *first = parse_current(p), *end;
        size_t n = 0;
        char *text, *out;

        for (end = first; end->kind == T_STRING; end++)
                n += end->n;
        p->pos += (size_t)(end - first);
        if (end == first + 1)
                return make_const(p, VALUE_TEXT(first->text, n), ret);
        text = out = arena_bytes(&p->t->arena, n);
        if (!text)
                return parse_fail_memory(p, &p->t->arena);
        for (; first < end; first++)
                out = mempcpy(out, first->text, first->n);
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
