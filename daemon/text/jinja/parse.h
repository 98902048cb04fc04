/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Inside of the parser: tokens, and what lexer, statements and expressions know of each other. What comes of it is ast.h. */

#include <errno.h>

#include "ast.h"

enum token_kind {
        T_END,
        T_DATA,
        T_BLOCK_BEGIN,
        T_BLOCK_END,
        T_VARIABLE_BEGIN,
        T_VARIABLE_END,
        T_NAME,
        T_STRING,
        T_INTEGER,
        T_FLOAT,
        T_ADD, T_SUB, T_MUL, T_DIV, T_FLOORDIV, T_MOD, T_POW, T_TILDE,
        T_EQ, T_NE, T_LT, T_LE, T_GT, T_GE, T_ASSIGN,
        T_DOT, T_COLON, T_PIPE, T_COMMA, T_SEMICOLON,
        T_LPAREN, T_RPAREN, T_LBRACKET, T_RBRACKET, T_LBRACE, T_RBRACE,
};

struct token {
        uint8_t kind;
        uint32_t line;
        const char *text; /* of the source: names, numbers, data; strings decoded, in the arena */
        size_t n;
};

struct parser {
        struct template *t;
        struct token *tokens;
        size_t n_tokens;
        size_t pos;
        unsigned depth;
        unsigned loops;   /* {% for %} around this place, within the macro */
        bool soft;        /* unknown filters are an error only when they are reached */
        uint8_t *macro_flags; /* of the macro that is being parsed, or NULL */
        struct template_error *error;
        uint16_t name_slots[2 * AST_NAMES_MAX]; /* numbers of names, plus one */
};

/* Source to tokens, in the template's arena. 0, TEMPLATE_E_SYNTAX, TEMPLATE_E_LIMIT or -ENOMEM. */
int lexer_run(struct parser *p, const char *source, size_t size);

/* Pieces of the parser that lexer, statements and expressions share. */
void parse_say(struct parser *p, uint32_t line, const char *fmt, ...) _printf_(3, 4); /* fills p->error */
/* Where it is called the compiler and the analyzer see that it fails. */
#define parse_fail(p, line, ...) (parse_say((p), (line), __VA_ARGS__), TEMPLATE_E_SYNTAX)
#define parse_fail_memory(p, arena) \
        ((arena)->no_memory ? -ENOMEM : (parse_say((p), 0, "template is too large"), TEMPLATE_E_LIMIT))
int parse_name_id(struct parser *p, const char *text, size_t n, uint32_t *ret);
int parse_node(struct parser *p, enum node_kind kind, struct node **ret);
/* A node with one or two children; b may be NULL. */
int parse_join(struct parser *p, enum node_kind kind, unsigned op, struct node *a, struct node *b, struct node **ret);
/* Appends and raises parent's height (parent may be NULL). */
int parse_append(struct parser *p, struct node *parent, struct nodes *list, struct node *item);
int parse_raise(struct parser *p, struct node *parent, const struct node *child);
int parse_expect(struct parser *p, enum token_kind kind, const char *what);
bool parse_skip(struct parser *p, enum token_kind kind);
bool parse_is_name(const struct parser *p, const char *word);
bool parse_skip_name(struct parser *p, const char *word);
static inline const struct token *parse_current(const struct parser *p) {
        return &p->tokens[p->pos];
}

enum {
        TUPLE_NO_COND = 1u << 0,    /* no inline if */
        TUPLE_SIMPLE = 1u << 1,     /* primaries only: targets of assignments */
        TUPLE_NAMESPACE = 1u << 2,  /* and ns.attr */
        TUPLE_PARENTHESES = 1u << 3, /* may be empty */
        TUPLE_END_IN = 1u << 4,     /* ends at `in` */
        TUPLE_END_RECURSIVE = 1u << 5,
};

int parse_expression(struct parser *p, bool with_cond, struct node **ret);
int parse_tuple(struct parser *p, unsigned flags, struct node **ret);
int parse_target(struct parser *p, unsigned flags, struct node **ret);
int parse_unary(struct parser *p, bool with_filter, struct node **ret);
int parse_number(struct parser *p, struct node **ret);
/* Wrap *node in what follows it: attributes, items and calls; filters, tests and calls of their results. */
int parse_postfix(struct parser *p, struct node **node);
int parse_filters(struct parser *p, struct node **node);
/* `name(args)|name...`; with `first` the bar before the first name has been read. a of the innermost is NULL. */
int parse_filter_chain(struct parser *p, struct node *input, bool first, struct node **ret);
/* Statements up to one of the NULL-terminated `ends`, which is left as the current token; NULL = end of the source. */
int parse_body(struct parser *p, struct node *owner, struct nodes *list, const char *const *ends);
