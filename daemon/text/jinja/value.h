/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Values of a template: Python's, as far as templates can see them. A value is passed by copy; what it points to lives
 * in the arena of the render (or of the template, for constants) and never changes, apart from namespaces, cyclers,
 * joiners, loops and the position of an iterator.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum value_kind {
        V_MISSING, /* no value at all: an argument that was not given */
        V_UNDEFINED,
        V_NONE,
        V_BOOL,
        V_INT,
        V_BIG, /* an integer that fits no int64_t; its digits */
        V_FLOAT,
        V_STRING,
        V_LIST,
        V_TUPLE,
        V_DICT,
        V_KEYS, /* views of a dict */
        V_VALUES,
        V_ITEMS,
        V_RANGE,
        V_ITER, /* what Python would call a generator: can be walked once */
        V_NAMESPACE,
        V_FUNCTION, /* ours, by itself or bound to an object */
        V_MACRO,
        V_LOOP,
        V_CYCLER,
        V_JOINER,
};

enum {
        VALUE_MARKUP = 1u << 0, /* a string that `safe` or `escape` made: adding to it escapes */
        VALUE_HINT = 1u << 1,   /* an undefined whose text is a whole sentence, not a name */
};

struct value;

struct list {
        size_t n;
        struct value *items;
};

struct dict_entry;

struct dict {
        size_t n;
        struct dict_entry *entries; /* in order of insertion */
        uint32_t *sorted;           /* their order by key where there are many, else NULL */
};

struct range {
        int64_t start;
        int64_t stop; /* as it was given, for printing */
        int64_t step;
        size_t n;
};

struct iter {
        struct list list;
        size_t pos;
        const char *name; /* what Python prints */
};

struct function;
struct macro;
struct loop;
struct namespace;
struct cycler;

struct value {
        uint8_t kind;
        uint8_t flags;
        union {
                bool boolean;
                int64_t integer;
                double number;
                const char *text; /* n bytes; name or sentence of an undefined */
                struct list *list;
                struct dict *dict; /* also of the views */
                struct range *range;
                struct iter *iter;
                struct namespace *namespace;
                const struct function *function;
                struct macro *macro;
                struct loop *loop;
                struct cycler *cycler; /* also of joiners */
        };
        union {
                size_t n; /* bytes of text */
                const struct value *self; /* what a function is bound to */
        };
};

struct dict_entry {
        struct value key;
        struct value value;
};

/* Attributes by name; few, and the names come from the template. */
struct namespace {
        struct dict_entry *entries;
        size_t n;
        size_t cap;
};

struct cycler {
        struct list items; /* of a joiner: the separator */
        size_t pos;        /* of a joiner: 1 once it was used */
};

#define VALUE_NONE ((struct value){ .kind = V_NONE })
#define VALUE_BOOL(v) ((struct value){ .kind = V_BOOL, .boolean = (v) })
#define VALUE_INT(v) ((struct value){ .kind = V_INT, .integer = (v) })
#define VALUE_FLOAT(v) ((struct value){ .kind = V_FLOAT, .number = (v) })
#define VALUE_TEXT(p, len) ((struct value){ .kind = V_STRING, .text = (p), .n = (len) })
#define VALUE_LITERAL(s) VALUE_TEXT((s), sizeof(s) - 1)

static inline bool value_is_string(const struct value *v) {
        return v->kind == V_STRING;
}
static inline bool value_is_undefined(const struct value *v) {
        return v->kind == V_UNDEFINED;
}
/* bool, int and float: what Python's numbers.Number is */
static inline bool value_is_number(const struct value *v) {
        return v->kind >= V_BOOL && v->kind <= V_FLOAT;
}
static inline bool value_is_int(const struct value *v) {
        return v->kind == V_BOOL || v->kind == V_INT;
}
static inline int64_t value_int(const struct value *v) {
        return v->kind == V_BOOL ? v->boolean : v->integer;
}
static inline bool value_is_sequence(const struct value *v) {
        return v->kind == V_LIST || v->kind == V_TUPLE;
}

/* Python's name of the type. */
const char *value_type_name(const struct value *v);
/* As a double; big integers may become infinite. Only for numbers. */
double value_double(const struct value *v);
/* Python's truth of v. */
bool value_truth(const struct value *v);
/* Number of items of what has a len(); false where Python has none. Characters are counted for strings. */
bool value_length(const struct value *v, size_t *ret);

/* Characters of UTF-8 text (bytes that continue none are not counted). */
size_t text_length(const char *s, size_t n);
/* Byte offset of character i, or n past the end. */
size_t text_offset(const char *s, size_t n, size_t i);
/* Length in bytes of the character at s, at least 1, at most n. */
size_t text_char(const char *s, size_t n);
bool text_equal(const struct value *v, const char *s);
/* Decodes the character at s (n >= 1); U+FFFD for a byte that is none. Returns its bytes. */
size_t text_decode(const char *s, size_t n, uint32_t *ret);
