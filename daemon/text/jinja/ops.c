/* SPDX-License-Identifier: Apache-2.0 */

/* Operators: equality, order, membership, arithmetic. Integers are 64 bits: what Python would compute beyond that is
 * refused as a limit, never wrapped. */

#include <math.h>
#include <string.h>

#include "render.h"

/* Fails for an undefined operand, with what is known about it. */
static int check_defined(struct render *r, const struct value *v) {
        if (v->kind != V_UNDEFINED)
                return 0;
        if (v->flags & VALUE_HINT)
                return render_fail(r, "%.*s", (int)MIN(v->n, 200u), v->text);
        return render_fail(r, "'%.*s' is undefined", (int)MIN(v->n, 200u), v->text);
}

static int compare_text(const struct value *a, const struct value *b) {
        int c = memcmp(a->text, b->text, MIN(a->n, b->n));

        return c ? (c > 0) - (c < 0) : (a->n > b->n) - (a->n < b->n);
}

static int compare_big(const struct value *a, const struct value *b) {
        bool na = a->text[0] == '-', nb = b->text[0] == '-';
        int c;

        if (na != nb)
                return na ? -1 : 1;
        c = a->n != b->n ? (a->n > b->n) - (a->n < b->n) : memcmp(a->text, b->text, a->n);
        return na ? -c : c;
}

/* Exact, also between int64_t and double. NaN is unequal to all: 2. */
static int compare_numbers(const struct value *a, const struct value *b) {
        double x, y;

        if (value_is_int(a) && value_is_int(b))
                return (value_int(a) > value_int(b)) - (value_int(a) < value_int(b));
        if (a->kind == V_BIG && b->kind == V_BIG)
                return compare_big(a, b);
        if (a->kind == V_BIG && value_is_int(b))
                return a->text[0] == '-' ? -1 : 1;
        if (b->kind == V_BIG && value_is_int(a))
                return b->text[0] == '-' ? 1 : -1;
        x = value_double(a);
        y = value_double(b);
        if (isnan(x) || isnan(y))
                return 2;
        if (x == y && fabs(x) < 0x1p63 && a->kind != b->kind) {
                int64_t i = a->kind == V_FLOAT ? value_int(b) : value_int(a);
                int64_t j = (int64_t)(a->kind == V_FLOAT ? x : y);

                return a->kind == V_FLOAT ? (j > i) - (j < i) : (i > j) - (i < j);
        }
        return (x > y) - (x < y);
}

int key_order(struct render *r, const struct value *a, const struct value *b, int *ret) {
        int ka = value_is_number(a) ? V_INT : a->kind, kb = value_is_number(b) ? V_INT : b->kind, k = 0;

        k = render_step(r, STEP_NODE);
        *ret = (ka > kb) - (ka < kb);
        if (k || *ret)
                return k;
        if (ka == V_STRING) {
                *ret = compare_text(a, b);
                return render_step(r, MIN(a->n, b->n) / STEP_BYTES);
        }
        if (ka == V_INT) {
                *ret = compare_numbers(a, b);
                return 0;
        }
        if (ka != V_TUPLE)
                return 0;
        for (size_t i = 0; !k && *ret == 0 && i < a->list->n && i < b->list->n; i++)
                k = key_order(r, &a->list->items[i], &b->list->items[i], ret);
        if (*ret == 0)
                *ret = (a->list->n > b->list->n) - (a->list->n < b->list->n);
        return k;
}

static int equal_lists(struct render *r, const struct list *a, const struct list *b, bool *ret) {
        int k = 0;

        *ret = a->n == b->n;
        for (size_t i = 0; !k && *ret && i < a->n; i++)
                k = value_equal(r, &a->items[i], &b->items[i], ret);
        return k;
}

static int equal_dicts(struct render *r, const struct dict *a, const struct dict *b, bool *ret) {
        const struct value *v;
        int k = 0;

        *ret = a->n == b->n;
        for (size_t i = 0; !k && *ret && i < a->n; i++) {
                k = dict_find(r, b, &a->entries[i].key, &v);
                if (!k && !v)
                        *ret = false;
                else if (!k)
                        k = value_equal(r, &a->entries[i].value, v, ret);
        }
        return k;
}

static int equal_deep(struct render *r, const struct value *a, const struct value *b, bool *ret) {
        const struct range *g = a->range, *h = b->range;

        switch (a->kind) {
        case V_UNDEFINED:
        case V_NONE:
                *ret = true;
                return 0;
        case V_STRING:
                *ret = a->n == b->n && memcmp(a->text, b->text, a->n) == 0;
                return render_step(r, MIN(a->n, b->n) / STEP_BYTES);
        case V_LIST:
        case V_TUPLE:
                return equal_lists(r, a->list, b->list, ret);
        case V_DICT:
        case V_KEYS:
                return equal_dicts(r, a->dict, b->dict, ret);
        case V_RANGE:
                *ret = g->n == h->n && (g->n == 0 || (g->start == h->start && (g->n == 1 || g->step == h->step)));
                return 0;
        default:
                *ret = a->list == b->list;
                return 0;
        }
}

int value_equal(struct render *r, const struct value *a, const struct value *b, bool *ret) {
        int k = render_step(r, 1);

        *ret = false;
        if (k)
                return k;
        if (value_is_number(a) && value_is_number(b)) {
                *ret = compare_numbers(a, b) == 0;
                return 0;
        }
        if (a->kind != b->kind)
                return 0;
        k = render_enter(r);
        if (!k)
                k = equal_deep(r, a, b, ret);
        render_leave(r);
        return k;
}

int value_order(struct render *r, const struct value *a, const struct value *b, const char *op, int *ret) {
        bool equal = true;
        size_t i = 0;
        int k;

        k = render_step(r, STEP_NODE);
        if (!k)
                k = check_defined(r, a);
        if (!k)
                k = check_defined(r, b);
        if (k)
                return k;
        if (value_is_number(a) && value_is_number(b)) {
                *ret = compare_numbers(a, b);
                return 0;
        }
        if (a->kind == V_STRING && b->kind == V_STRING) {
                *ret = compare_text(a, b);
                return render_step(r, MIN(a->n, b->n) / STEP_BYTES);
        }
        if (a->kind != b->kind || !value_is_sequence(a))
                return render_fail(r, "'%s' not supported between instances of '%s' and '%s'", op, value_type_name(a),
                                   value_type_name(b));
        k = render_enter(r);
        for (; !k && i < a->list->n && i < b->list->n; i++) {
                k = value_equal(r, &a->list->items[i], &b->list->items[i], &equal);
                if (k || !equal)
                        break;
        }
        if (!k && !equal)
                k = value_order(r, &a->list->items[i], &b->list->items[i], op, ret);
        else
                *ret = (a->list->n > b->list->n) - (a->list->n < b->list->n);
        render_leave(r);
        return k;
}

static int contains_text(struct render *r, const struct value *v, const struct value *item, bool *ret) {
        int k;

        if (item->kind != V_STRING) {
                k = check_defined(r, item);
                return k ? render_fail(r, "'in <string>' requires string as left operand, not Undefined")
                         : render_fail(r, "'in <string>' requires string as left operand, not %s", value_type_name(item));
        }
        *ret = item->n == 0 || memmem(v->text, v->n, item->text, item->n);
        return render_step(r, v->n / STEP_SEARCH + 2);
}

int value_contains(struct render *r, const struct value *v, const struct value *item, bool *ret) {
        const struct value *found;
        struct list items;
        int k;

        *ret = false;
        if (v->kind == V_STRING)
                return contains_text(r, v, item, ret);
        if (v->kind == V_DICT || v->kind == V_KEYS) {
                if (item->kind == V_UNDEFINED)
                        return 0;
                if (!value_hashable(item))
                        return render_fail(r, "unhashable type: '%s'", value_type_name(item));
                k = dict_find(r, v->dict, item, &found);
                *ret = !k && found;
                return k;
        }
        if (!value_iterable(v))
                return render_fail(r, "argument of type '%s' is not iterable", value_type_name(v));
        k = value_iterate(r, v, &items);
        for (size_t i = 0; !k && !*ret && i < items.n; i++) {
                k = render_step(r, 1);
                if (!k)
                        k = value_equal(r, item, &items.items[i], ret);
        }
        return k;
}

static int too_large(struct render *r) {
        return render_limit(r, "number is too large");
}

static int power_int(struct render *r, int64_t a, int64_t b, struct value *ret) {
        int64_t v = 1;

        if (b < 0) {
                if (a == 0)
                        return render_fail(r, "0.0 cannot be raised to a negative power");
                *ret = VALUE_FLOAT(pow((double)a, (double)b));
                return 0;
        }
        if (a == 1 || a == 0 || a == -1) {
                *ret = VALUE_INT(b == 0 ? 1 : a == -1 && b % 2 == 0 ? 1 : a);
                return 0;
        }
        for (; b > 0; b--)
                if (__builtin_mul_overflow(v, a, &v))
                        return too_large(r);
        *ret = VALUE_INT(v);
        return 0;
}

static int binary_int(struct render *r, enum node_op op, int64_t a, int64_t b, struct value *ret) {
        bool overflow = false;
        int64_t v = 0;

        if ((op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD) && b == 0)
                return render_fail(r, op == OP_DIV ? "division by zero" : "integer division or modulo by zero");
        switch (op) {
        case OP_ADD:
                overflow = __builtin_add_overflow(a, b, &v);
                break;
        case OP_SUB:
                overflow = __builtin_sub_overflow(a, b, &v);
                break;
        case OP_MUL:
                overflow = __builtin_mul_overflow(a, b, &v);
                break;
        case OP_DIV:
                *ret = VALUE_FLOAT((double)a / (double)b);
                return 0;
        case OP_FLOORDIV:
                overflow = a == INT64_MIN && b == -1;
                if (!overflow)
                        v = a / b - (a % b != 0 && (a < 0) != (b < 0));
                break;
        case OP_MOD:
                v = b == -1 ? 0 : a % b;
                if (v != 0 && (v < 0) != (b < 0))
                        v += b;
                break;
        default:
                return power_int(r, a, b, ret);
        }
        if (overflow)
                return too_large(r);
        *ret = VALUE_INT(v);
        return 0;
}

static int binary_float(struct render *r, enum node_op op, double a, double b, struct value *ret) {
        double v, mod;

        if ((op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD) && b == 0)
                return render_fail(r, "float division by zero");
        switch (op) {
        case OP_ADD:
                v = a + b;
                break;
        case OP_SUB:
                v = a - b;
                break;
        case OP_MUL:
                v = a * b;
                break;
        case OP_DIV:
                v = a / b;
                break;
        case OP_FLOORDIV:
        case OP_MOD:
                mod = fmod(a, b);
                if (mod != 0 && (mod < 0) != (b < 0))
                        mod += b;
                v = op == OP_MOD ? (mod == 0 ? copysign(0, b) : mod) : floor((a - mod) / b + 0.5);
                break;
        default:
                if (a == 0 && b < 0)
                        return render_fail(r, "0.0 cannot be raised to a negative power");
                if (a < 0 && b != floor(b))
                        return render_fail(r, "complex numbers are not supported");
                v = pow(a, b);
                if (isinf(v) && !isinf(a) && !isinf(b))
                        return render_fail(r, "Numerical result out of range");
                break;
        }
        *ret = VALUE_FLOAT(v);
        return 0;
}

static int binary_numbers(struct render *r, enum node_op op, const struct value *a, const struct value *b,
                          struct value *ret) {
        if (value_is_int(a) && value_is_int(b))
                return binary_int(r, op, value_int(a), value_int(b), ret);
        if (a->kind != V_FLOAT && b->kind != V_FLOAT)
                return too_large(r);
        return binary_float(r, op, value_double(a), value_double(b), ret);
}

static int add_lists(struct render *r, const struct value *a, const struct value *b, struct value *ret) {
        struct list *l;
        int k = list_new(r, a->list->n + b->list->n, &l);

        if (k)
                return k;
        if (a->list->n)
                memcpy(l->items, a->list->items, a->list->n * sizeof(*l->items));
        if (b->list->n)
                memcpy(l->items + a->list->n, b->list->items, b->list->n * sizeof(*l->items));
        *ret = (struct value){ .kind = a->kind, .list = l };
        return 0;
}

int value_binary(struct render *r, enum node_op op, const struct value *a, const struct value *b, struct value *ret) {
        static const char *const names[] = { "+", "-", "*", "/", "//", "%", "** or pow()" };
        int k;

        if (value_is_number(a) && value_is_number(b))
                return binary_numbers(r, op, a, b, ret);
        if (op == OP_ADD && a->kind == V_STRING && b->kind == V_STRING)
                return text_concat(r, a, b, ret);
        if (op == OP_MOD && a->kind == V_STRING)
                return format_percent(r, a, b, ret);
        k = check_defined(r, a);
        if (!k)
                k = check_defined(r, b);
        if (k)
                return k;
        if (op == OP_ADD && a->kind == b->kind && value_is_sequence(a))
                return add_lists(r, a, b, ret);
        if (op == OP_MUL && (a->kind == V_STRING || value_is_sequence(a)) && value_is_int(b))
                return value_repeat(r, a, value_int(b), ret);
        if (op == OP_MUL && (b->kind == V_STRING || value_is_sequence(b)) && value_is_int(a))
                return value_repeat(r, b, value_int(a), ret);
        return render_fail(r, "unsupported operand type(s) for %s: '%s' and '%s'", names[op], value_type_name(a),
                           value_type_name(b));
}

int value_negate(struct render *r, const struct value *a, struct value *ret) {
        int k = check_defined(r, a);

        if (k)
                return k;
        if (a->kind == V_FLOAT) {
                *ret = VALUE_FLOAT(-a->number);
                return 0;
        }
        if (a->kind == V_BIG || (value_is_int(a) && value_int(a) == INT64_MIN))
                return too_large(r);
        if (!value_is_int(a))
                return render_fail(r, "bad operand type for unary -: '%s'", value_type_name(a));
        *ret = VALUE_INT(-value_int(a));
        return 0;
}
