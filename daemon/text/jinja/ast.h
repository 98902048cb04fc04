/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a template is parsed into: a tree of nodes in the template's arena, its names as small numbers. `height` bounds
 * every recursion over the tree: the parser refuses trees higher than AST_HEIGHT_MAX.
 */

#include <errno.h>

#include "arena.h"
#include "base/macro.h"
#include "daemon/text/template.h"
#include "value.h"

#define AST_HEIGHT_MAX 250u
#define AST_SOURCE_MAX (512u << 10)
#define AST_MEMORY_MAX (128u << 20)
#define AST_NAMES_MAX 1024u /* the largest templates have a hundred */

enum node_kind {
        /* expressions */
        N_CONST,   /* value */
        N_NAME,    /* name */
        N_TUPLE,   /* list */
        N_LIST,    /* list */
        N_DICT,    /* list: key, value, key, value... */
        N_COND,    /* a: test, b: then, c: else or NULL */
        N_OR,      /* a, b */
        N_AND,
        N_NOT,     /* a */
        N_NEG,
        N_POS,
        N_COMPARE, /* a; list: N_OPERAND (op, a)... */
        N_OPERAND,
        N_BINARY,  /* op, a, b */
        N_CONCAT,  /* list */
        N_ATTR,    /* a, name, methods */
        N_ITEM,    /* a, b */
        N_SLICE,   /* a: start, b: stop, c: step; each may be NULL */
        N_CALL,    /* a; args */
        N_FILTER,  /* a (NULL in filter blocks); name, function; args */
        N_TEST,    /* a; name, function; args */
        N_NSREF,   /* name, attr: target of an assignment */
        /* statements */
        N_TEXT,     /* value */
        N_PRINT,    /* a */
        N_IF,       /* list: N_BRANCH..., body: else */
        N_BRANCH,   /* a, body */
        N_FOR,      /* a: target, b: iterable, c: condition or NULL; body, orelse; flag: recursive */
        N_SET,      /* a: target, b: value */
        N_SETBLOCK, /* a: target, b: filter or NULL; body */
        N_MACRO,    /* name; list: N_PARAM...; body; flags */
        N_PARAM,    /* name, a: default or NULL */
        N_CALLBLOCK, /* a: N_CALL; list: N_PARAM; body */
        N_FILTERBLOCK, /* b: filter; body */
        N_WITH,     /* list: target, value, target, value...; body */
        N_SCOPE,    /* body, in a scope of its own: {% block %} */
        N_GENERATION, /* body */
        N_BREAK,
        N_CONTINUE,
        N_DO,       /* a */
        N_UNSUPPORTED, /* name: a statement that needs further templates */
};

enum node_op {
        OP_ADD,
        OP_SUB,
        OP_MUL,
        OP_DIV,
        OP_FLOORDIV,
        OP_MOD,
        OP_POW,
        OP_EQ,
        OP_NE,
        OP_LT,
        OP_LE,
        OP_GT,
        OP_GE,
        OP_IN,
        OP_NOTIN,
};

enum {
        MACRO_VARARGS = 1u << 0,
        MACRO_KWARGS = 1u << 1,
        MACRO_CALLER = 1u << 2,
        FOR_RECURSIVE = 1u << 3,
};

struct node;

struct nodes {
        struct node **items;
        uint32_t n;
        uint32_t cap;
};

/* Arguments of a call; keywords by name. */
struct node_args {
        struct nodes pos;
        struct nodes kw; /* N_PARAM */
        struct node *star;
        struct node *star_star;
};

struct function;

struct node {
        uint8_t kind;
        uint8_t op;
        uint8_t flags;
        uint16_t height;
        uint32_t line;
        uint32_t name; /* index into template.names */
        uint32_t attr;
        struct node *a, *b, *c;
        union {
                struct value value;
                struct nodes list;
        };
        struct nodes body;
        struct nodes orelse;
        struct node_args *args;
        const struct function *function; /* of a filter or test; NULL where none is known by that name */
};

struct name {
        const char *text;
        size_t n;
        bool dict_method; /* attributes of these names are methods before they are items */
};

struct template {
        struct arena arena;
        struct nodes body;
        struct name *names;
        uint32_t n_names;
        uint32_t cap_names;
        uint32_t loop, caller, varargs, kwargs; /* names that mean something to us */
};

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
