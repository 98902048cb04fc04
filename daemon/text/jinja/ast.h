/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a template is parsed into: a tree of nodes in the template's arena, its names as small numbers. `height` bounds
 * every recursion over the tree: the parser refuses trees higher than AST_HEIGHT_MAX.
 */

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
