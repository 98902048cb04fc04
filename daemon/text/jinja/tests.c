/* SPDX-License-Identifier: Apache-2.0 */

/* What `is` asks. */

#include <string.h>

#include "render.h"
#include "text.h"

static int verdict(struct render *r, const char *name, const struct args *a, bool v, struct value *ret) {
        int k = args_bind(r, name, a, NULL, 0, 0, NULL);

        if (!k)
                *ret = VALUE_BOOL(v);
        return k;
}

#define TEST(name, condition)                                                                                    \
        static int test_##name(struct render *r, const struct value *v, const struct args *a, struct value *ret) { \
                return verdict(r, #name, a, (condition), ret);                                                   \
        }

TEST(defined, v->kind != V_UNDEFINED)
TEST(undefined, v->kind == V_UNDEFINED)
TEST(none, v->kind == V_NONE)
TEST(boolean, v->kind == V_BOOL)
TEST(true, v->kind == V_BOOL && v->boolean)
TEST(false, v->kind == V_BOOL && !v->boolean)
TEST(integer, v->kind == V_INT || v->kind == V_BIG)
TEST(float, v->kind == V_FLOAT)
TEST(number, value_is_number(v))
TEST(string, v->kind == V_STRING)
TEST(mapping, v->kind == V_DICT)
TEST(iterable, value_iterable(v))
TEST(sequence, v->kind == V_STRING || v->kind == V_LIST || v->kind == V_TUPLE || v->kind == V_DICT || v->kind == V_RANGE ||
                       v->kind == V_UNDEFINED)
TEST(callable, v->kind == V_FUNCTION || v->kind == V_MACRO || v->kind == V_LOOP || v->kind == V_JOINER ||
                       v->kind == V_UNDEFINED)
TEST(escaped, v->kind == V_STRING && (v->flags & VALUE_MARKUP))

static int one_arg(struct render *r, const char *name, const struct args *a, struct value *ret) {
        static const char *const names[] = { "other" };

        return args_bind(r, name, a, names, 1, 1, ret);
}

static int modulo(struct render *r, const struct value *v, int64_t by, int64_t want, struct value *ret) {
        const struct value divisor = VALUE_INT(by), wanted = VALUE_INT(want);
        struct value rest;
        bool equal = false;
        int k = value_binary(r, OP_MOD, v, &divisor, &rest);

        if (!k)
                k = value_equal(r, &rest, &wanted, &equal);
        *ret = VALUE_BOOL(equal);
        return k;
}

static int test_odd(struct render *r, const struct value *v, const struct args *a, struct value *ret) {
        int k = args_bind(r, "odd", a, NULL, 0, 0, NULL);

        return k ? k : modulo(r, v, 2, 1, ret);
}

static int test_even(struct render *r, const struct value *v, const struct args *a, struct value *ret) {
        int k = args_bind(r, "even", a, NULL, 0, 0, NULL);

        return k ? k : modulo(r, v, 2, 0, ret);
}

static int test_divisibleby(struct render *r, const struct value *v, const struct args *a, struct value *ret) {
        static const char *const names[] = { "num" };
        const struct value zero = VALUE_INT(0);
        struct value by, rest;
        bool equal = false;
        int k = args_bind(r, "divisibleby", a, names, 1, 1, &by);

        if (!k)
                k = value_binary(r, OP_MOD, v, &by, &rest);
        if (!k)
                k = value_equal(r, &rest, &zero, &equal);
        *ret = VALUE_BOOL(equal);
        return k;
}

/* All cased characters are of that case, and there is one. */
static int text_case(struct render *r, const struct value *v, const struct args *a, bool upper, struct value *ret) {
        bool found = false, other = false;
        struct value s;
        uint32_t c;
        int k = args_bind(r, upper ? "upper" : "lower", a, NULL, 0, 0, NULL);

        if (!k)
                k = value_str(r, v, &s);
        if (!k)
                k = render_step(r, (uint64_t)s.n * 4);
        for (size_t i = 0; !k && i < s.n;) {
                i += text_decode(s.text + i, s.n - i, &c);
                found |= upper ? char_is_upper(c) : char_is_lower(c);
                other |= upper ? char_is_lower(c) : char_is_upper(c);
        }
        if (!k)
                *ret = VALUE_BOOL(found && !other);
        return k;
}

static int test_upper(struct render *r, const struct value *v, const struct args *a, struct value *ret) {
        return text_case(r, v, a, true, ret);
}

static int test_lower(struct render *r, const struct value *v, const struct args *a, struct value *ret) {
        return text_case(r, v, a, false, ret);
}

static int test_eq(struct render *r, const struct value *v, const struct args *a, struct value *ret) {
        struct value other;
        bool equal = false;
        int k = one_arg(r, "eq", a, &other);

        if (!k)
                k = value_equal(r, v, &other, &equal);
        *ret = VALUE_BOOL(equal);
        return k;
}

static int test_ne(struct render *r, const struct value *v, const struct args *a, struct value *ret) {
        int k = test_eq(r, v, a, ret);

        ret->boolean = !ret->boolean;
        return k;
}

static int ordered(struct render *r, const struct value *v, const struct args *a, const char *op, struct value *ret) {
        struct value other;
        int c = 2, k = one_arg(r, op, a, &other);

        if (!k)
                k = value_order(r, v, &other, op, &c);
        *ret = VALUE_BOOL((c == 0 && op[1] == '=') || c == (op[0] == '<' ? -1 : 1));
        return k;
}

static int test_lt(struct render *r, const struct value *v, const struct args *a, struct value *ret) {
        return ordered(r, v, a, "<", ret);
}

static int test_le(struct render *r, const struct value *v, const struct args *a, struct value *ret) {
        return ordered(r, v, a, "<=", ret);
}

static int test_gt(struct render *r, const struct value *v, const struct args *a, struct value *ret) {
        return ordered(r, v, a, ">", ret);
}

static int test_ge(struct render *r, const struct value *v, const struct args *a, struct value *ret) {
        return ordered(r, v, a, ">=", ret);
}

static int test_in(struct render *r, const struct value *v, const struct args *a, struct value *ret) {
        struct value seq;
        bool found = false;
        int k = one_arg(r, "in", a, &seq);

        if (!k)
                k = value_contains(r, &seq, v, &found);
        *ret = VALUE_BOOL(found);
        return k;
}

static int test_sameas(struct render *r, const struct value *v, const struct args *a, struct value *ret) {
        struct value other;
        bool same = false;
        int k = one_arg(r, "sameas", a, &other);

        if (!k && v->kind == other.kind) {
                if (v->kind <= V_STRING) /* Python keeps one of most small values */
                        k = value_equal(r, v, &other, &same);
                else
                        same = v->list == other.list;
        }
        *ret = VALUE_BOOL(same);
        return k;
}

static int test_filter(struct render *r, const struct value *v, const struct args *a, struct value *ret) {
        return verdict(r, "filter", a, v->kind == V_STRING && function_find_filter(v->text, v->n), ret);
}

static int test_test(struct render *r, const struct value *v, const struct args *a, struct value *ret) {
        return verdict(r, "test", a, v->kind == V_STRING && function_find_test(v->text, v->n), ret);
}

const struct function tests_all[] = {
        { "defined", test_defined },
        { "undefined", test_undefined },
        { "none", test_none },
        { "string", test_string },
        { "mapping", test_mapping },
        { "iterable", test_iterable },
        { "sequence", test_sequence },
        { "boolean", test_boolean },
        { "true", test_true },
        { "false", test_false },
        { "integer", test_integer },
        { "float", test_float },
        { "number", test_number },
        { "callable", test_callable },
        { "escaped", test_escaped },
        { "odd", test_odd },
        { "even", test_even },
        { "divisibleby", test_divisibleby },
        { "upper", test_upper },
        { "lower", test_lower },
        { "in", test_in },
        { "sameas", test_sameas },
        { "filter", test_filter },
        { "test", test_test },
        { "eq", test_eq },
        { "equalto", test_eq },
        { "==", test_eq },
        { "ne", test_ne },
        { "!=", test_ne },
        { "lt", test_lt },
        { "lessthan", test_lt },
        { "<", test_lt },
        { "le", test_le },
        { "<=", test_le },
        { "gt", test_gt },
        { "greaterthan", test_gt },
        { ">", test_gt },
        { "ge", test_ge },
        { ">=", test_ge },
        { NULL, NULL },
};
