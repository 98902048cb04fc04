/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * One render: limits, memory, output and the functions that share them. Every function that can fail returns 0,
 * TEMPLATE_E_*, or -ENOMEM, and has said why in r->error; results come last.
 *
 * All text is made at the end of the one output buffer and taken from there (render_mark, render_take), so that the
 * limit of output holds for what is captured too, and nothing is left over when a render fails.
 */

#include <errno.h>
#include <time.h>

#include "arena.h"
#include "ast.h"
#include "base/macro.h"
#include "function.h"
#include "value.h"

/* What statements return to leave a loop; never seen outside. */
enum {
        FLOW_BREAK = 100,
        FLOW_CONTINUE = 101,
};

#define RANGE_MAX 100000 /* as Jinja's sandbox */
/* A step is about ten nanoseconds of work. Costs are rough, but nothing a template can ask for is cheaper here than it
 * is in truth by more than a small factor, so that the limit of steps is one of time. */
#define STEP_BYTES 8u  /* bytes that are copied, compared or cleared for one step */
#define STEP_SEARCH 2u /* bytes that are searched for a text for one step */
#define STEP_NODE 4u   /* evaluating a node, walking an item */
#define STEP_NUMBER 300u /* between a decimal and a double */

struct binding {
        uint32_t name;
        struct value value;
};

struct scope {
        struct scope *parent;
        struct binding *bindings;
        uint32_t n;
        uint32_t cap;
        bool captured; /* a macro holds on to it */
};

struct macro {
        const struct node *node; /* N_MACRO or N_CALLBLOCK */
        struct scope *scope;
};

struct loop {
        struct list items;
        size_t i;
        unsigned depth;
        const struct node *node;
        struct scope *scope; /* around the loop */
        struct value changed;
};

struct render {
        const struct template *t;
        struct arena objects;
        struct arena texts;
        struct buf *out;
        size_t base; /* out->len before this render */
        size_t out_limit;
        uint64_t steps;
        unsigned depth, max_depth;
        unsigned calls, max_calls;
        struct value *globals; /* by name of the template */
        struct scope *scope;
        uint32_t line;
        struct tm now;
        unsigned now_us;
        struct template_error *error;
};

/* render.c: limits and memory */
void render_say(struct render *r, const char *fmt, ...) _printf_(2, 3); /* fills r->error */
/* Where it is called the compiler and the analyzer see that it fails. */
#define render_fail(r, ...) (render_say((r), __VA_ARGS__), TEMPLATE_E_RENDER)
#define render_limit(r, what) (render_say((r), "%s", (what)), TEMPLATE_E_LIMIT)
#define render_memory(r, arena) ((arena)->no_memory ? -ENOMEM : render_limit((r), "too much memory"))
static inline int render_step(struct render *r, uint64_t cost) {
        if (r->steps < cost)
                return render_limit(r, "too many steps");
        r->steps -= cost;
        return 0;
}
static inline int render_step_bytes(struct render *r, size_t n) {
        return render_step(r, n / STEP_BYTES + 2);
}
static inline int render_enter(struct render *r) {
        if (++r->depth > r->max_depth)
                return render_limit(r, "nested too deeply");
        return render_step(r, STEP_NODE);
}
static inline void render_leave(struct render *r) {
        r->depth--;
}
int render_alloc(struct render *r, size_t n, size_t size, void *ret); /* ret: pointer to a pointer; cleared */

/* output and text */
int render_emit(struct render *r, const char *p, size_t n);
int render_emit_str(struct render *r, const char *s);
int render_fill(struct render *r, char c, size_t n);
static inline size_t render_mark(const struct render *r) {
        return r->out->len;
}
void render_drop(struct render *r, size_t mark);
/* What was put out since mark as a string; on failure (k, then returned) it is dropped. */
int render_take(struct render *r, size_t mark, int k, struct value *ret);
int render_text(struct render *r, const char *p, size_t n, struct value *ret); /* a copy */

/* containers */
int list_new(struct render *r, size_t n, struct list **ret);
int list_value(struct render *r, enum value_kind kind, const struct value *items, size_t n, struct value *ret);
int iter_value(struct render *r, const char *name, const struct list *list, struct value *ret);
int pair_value(struct render *r, const struct value *a, const struct value *b, struct value *ret);
/* Sorts entries for lookup and lets the last of equal keys win; keys must be hashable. */
int dict_new(struct render *r, struct dict_entry *entries, size_t n, struct value *ret);
/* 0 with *ret NULL where there is no such key. */
int dict_find(struct render *r, const struct dict *d, const struct value *key, const struct value **ret);
int dict_find_text(struct render *r, const struct dict *d, const char *s, size_t n, const struct value **ret);
bool value_hashable(const struct value *v);
/* The items of anything that can be walked; an iterator is used up. The list is not the caller's to change. */
int value_iterate(struct render *r, const struct value *v, struct list *ret);
bool value_iterable(const struct value *v);

/* scope.c */
int scope_push(struct render *r, struct scope *parent, struct scope **ret);
int scope_set(struct render *r, struct scope *s, uint32_t name, const struct value *v);
void scope_get(struct render *r, uint32_t name, struct value *ret);
void scope_capture(struct scope *s);

/* ops.c */
int value_equal(struct render *r, const struct value *a, const struct value *b, bool *ret);
/* < 0, 0, > 0; TypeError for what Python can't order. */
int value_order(struct render *r, const struct value *a, const struct value *b, const char *op, int *ret);
int value_contains(struct render *r, const struct value *container, const struct value *item, bool *ret);
int value_binary(struct render *r, enum node_op op, const struct value *a, const struct value *b, struct value *ret);
int value_negate(struct render *r, const struct value *a, struct value *ret);
/* NaN-free ordering of any two hashable values, for lookup. */
int key_order(struct render *r, const struct value *a, const struct value *b, int *ret);

/* concat.c */
int text_concat(struct render *r, const struct value *a, const struct value *b, struct value *ret);
int value_escape(struct render *r, const struct value *v, struct value *ret);
int value_repeat(struct render *r, const struct value *v, int64_t times, struct value *ret);

/* repr.c */
int emit_str(struct render *r, const struct value *v);
int emit_repr(struct render *r, const struct value *v);
int value_str(struct render *r, const struct value *v, struct value *ret);

/* tojson.c, format.c, strftime.c */
int filter_tojson(struct render *r, const struct value *self, const struct args *a, struct value *ret);
int format_percent(struct render *r, const struct value *format, const struct value *arg, struct value *ret);
int method_format(struct render *r, const struct value *self, const struct args *a, struct value *ret);
int function_strftime_now(struct render *r, const struct value *self, const struct args *a, struct value *ret);
/* Reads ISO 8601 into r->now; false where it is none. */
bool render_set_now(struct render *r, const char *s, size_t n);

/* access.c */
int value_attribute(struct render *r, const struct value *v, const char *name, size_t n, struct value *ret);
int value_item(struct render *r, const struct value *v, const struct value *index, struct value *ret);
int value_slice(struct render *r, const struct value *v, const struct value *start, const struct value *stop,
                const struct value *step, struct value *ret);

/* eval.c, exec.c, call.c */
int eval(struct render *r, const struct node *n, struct value *ret);
int eval_args(struct render *r, const struct node_args *in, struct args *ret);
int eval_filter(struct render *r, const struct node *n, const struct value *input, struct value *ret);
int exec_nodes(struct render *r, const struct nodes *list);
int exec_capture(struct render *r, const struct nodes *list, struct scope *scope, struct value *ret);
int exec_assign(struct render *r, const struct node *target, const struct value *v);
int exec_for(struct render *r, const struct node *n, const struct value *items, unsigned depth);
int value_call(struct render *r, const struct value *callee, const struct args *a, struct value *ret);
