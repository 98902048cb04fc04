/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Filters, tests, methods and global functions: const tables of names and C functions, found by name. A filter or test
 * gets its input as `self`, a method what it is bound to; a test returns a bool.
 */

#include "value.h"

struct render;

struct keyword {
        const char *name;
        size_t n;
        struct value value;
};

struct args {
        const struct value *pos;
        size_t n;
        const struct keyword *kw;
        size_t n_kw;
};

typedef int (*function_fn)(struct render *r, const struct value *self, const struct args *a, struct value *ret);

struct function {
        const char *name;
        function_fn call; /* NULL: it exists, but templates may not use it */
};

const struct function *function_find_filter(const char *name, size_t n);
const struct function *function_find_test(const char *name, size_t n);
/* The method `name` of values of that kind, or NULL. */
const struct function *function_find_method(unsigned kind, const char *name, size_t n);
const struct function *function_find_global(const char *name, size_t n);
bool function_is_dict_method(const char *name, size_t n);
const struct function *function_find(const struct function *table, size_t n_table, const char *name, size_t n);

/* The tables; each ends with a NULL name. */
extern const struct function filters_text[];
extern const struct function filters_sequence[];
extern const struct function filters_pick[];
extern const struct function filters_number[];
extern const struct function tests_all[];
extern const struct function methods_text[];
extern const struct function methods_char[];
extern const struct function methods_dict[];
extern const struct function methods_list[];
extern const struct function methods_tuple[];
extern const struct function methods_range[];
extern const struct function methods_loop[];
extern const struct function methods_cycler[];
extern const struct function functions_global[];

/* Spreads arguments over parameters: names[i] is parameter i ("" where it can't be given by name), the first
 * `required` must be given; the others become V_MISSING. Raises TypeError as Python does. */
int args_bind(struct render *r, const char *function, const struct args *a, const char *const *names, size_t n_names,
              size_t required, struct value *out);
