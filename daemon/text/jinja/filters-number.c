/* SPDX-License-Identifier: Apache-2.0 */

/* Filters that make numbers. */

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text-ops.h"
#include "text.h"

#define NUMBER_TEXT_MAX 400u

/* The text without white space around it and single underscores between digits, in buffer; false where it can't be a
 * number. */
static bool number_text(const struct value *v, char *buffer, char **ret) {
        size_t from = text_lstrip(v->text, v->n), n = text_rstrip(v->text, v->n), out = 0;

        if (n <= from || n - from >= NUMBER_TEXT_MAX)
                return false;
        for (size_t i = from; i < n; i++) {
                char c = v->text[i];

                if (c == 0 || (unsigned char)c >= 0x80)
                        return false;
                if (c != '_')
                        buffer[out++] = c;
                else if (i == from || i + 1 == n || v->text[i - 1] == '_' || v->text[i + 1] == '_')
                        return false;
        }
        buffer[out] = 0;
        *ret = buffer;
        return true;
}

static bool parse_float(const struct value *v, double *ret) {
        char buffer[NUMBER_TEXT_MAX], *s, *end;

        if (!number_text(v, buffer, &s) || strpbrk(s, "xX("))
                return false;
        *ret = strtod(s, &end);
        return end != s && !*end;
}

/* int(text, base): 1 a number, 0 none, -1 too large */
static int parse_int(const struct value *v, int64_t base, int64_t *ret) {
        static const char prefixes[] = "bBoOxX";
        char buffer[NUMBER_TEXT_MAX], *s, *end, *digits;
        const char *p;
        int prefix_base = 10;

        if (!number_text(v, buffer, &s))
                return 0;
        digits = s + (*s == '-' || *s == '+');
        if (digits[0] == '0' && digits[1] && (p = strchr(prefixes, digits[1]))) {
                prefix_base = p - prefixes < 2 ? 2 : p - prefixes < 4 ? 8 : 16;
                if (base == 0 || base == prefix_base) {
                        base = prefix_base;
                        memmove(digits, digits + 2, strlen(digits + 2) + 1);
                }
        }
        if (base == 0)
                base = 10;
        if (*digits == '+' || *digits == '-' || *digits == ' ' || !*digits)
                return 0;
        if ((digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X')))
                return 0;
        errno = 0;
        *ret = strtoll(s, &end, (int)base);
        return *end ? 0 : errno ? -1 : 1;
}

static int from_double(struct render *r, double v, const struct value *missing, struct value *ret) {
        if (isnan(v) || isinf(v)) {
                *ret = *missing;
                return 0;
        }
        if (fabs(v) >= 0x1p63)
                return render_limit(r, "number is too large");
        *ret = VALUE_INT((int64_t)v);
        return 0;
}

static int filter_int(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "default", "base" };
        struct value v[2];
        int64_t base, number;
        double d;
        int k = args_bind(r, "int", a, names, 2, 0, v), parsed;

        if (!k)
                k = render_step(r, STEP_NUMBER);
        if (!k)
                k = arg_int(r, &v[1], 10, &base);
        if (k)
                return k;
        if (v[0].kind == V_MISSING)
                v[0] = VALUE_INT(0);
        *ret = v[0];
        if (self->kind == V_UNDEFINED)
                return value_negate(r, self, ret); /* says what is undefined */
        if (value_is_int(self))
                *ret = VALUE_INT(value_int(self));
        else if (self->kind == V_BIG)
                *ret = *self;
        else if (self->kind == V_FLOAT && isinf(self->number))
                return render_fail(r, "cannot convert float infinity to integer");
        else if (self->kind == V_FLOAT)
                return from_double(r, self->number, &v[0], ret);
        if (self->kind != V_STRING)
                return 0;
        parsed = base == 0 || (base >= 2 && base <= 36) ? parse_int(self, base, &number) : 0;
        if (parsed < 0)
                return render_limit(r, "number is too large");
        if (parsed > 0)
                *ret = VALUE_INT(number);
        else if (parse_float(self, &d))
                return from_double(r, d, &v[0], ret);
        return 0;
}

static int filter_float(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "default" };
        struct value v;
        double d;
        int k = args_bind(r, "float", a, names, 1, 0, &v);

        if (!k)
                k = render_step(r, STEP_NUMBER);
        if (k)
                return k;
        if (self->kind == V_UNDEFINED)
                return value_negate(r, self, ret);
        *ret = v.kind == V_MISSING ? VALUE_FLOAT(0.0) : v;
        if (value_is_number(self))
                *ret = VALUE_FLOAT(value_double(self));
        else if (self->kind == V_STRING && parse_float(self, &d))
                *ret = VALUE_FLOAT(d);
        return 0;
}

static int filter_abs(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        int k = args_bind(r, "abs", a, NULL, 0, 0, NULL);

        if (k)
                return k;
        if (self->kind == V_UNDEFINED || !value_is_number(self))
                return render_fail(r, "bad operand type for abs(): '%s'", value_type_name(self));
        if (self->kind == V_FLOAT)
                *ret = VALUE_FLOAT(fabs(self->number));
        else if (self->kind == V_BIG && self->text[0] == '-')
                *ret = (struct value){ .kind = V_BIG, .text = self->text + 1, .n = self->n - 1 };
        else if (value_is_int(self) && value_int(self) < 0)
                return value_negate(r, self, ret);
        else
                *ret = self->kind == V_BOOL ? VALUE_INT(self->boolean) : *self;
        return 0;
}

/* Rounds correctly: the decimal that printf gives is exact, and ties go to even as in Python. */
static double round_digits(double v, int64_t precision) {
        char buffer[400];

        if (isnan(v) || isinf(v) || precision > 300)
                return v;
        if (precision >= 0) {
                (void)snprintf(buffer, sizeof(buffer), "%.*f", (int)precision, v);
                return strtod(buffer, NULL);
        }
        if (precision < -300)
                return copysign(0, v);
        return rint(v / pow(10, (double)-precision)) * pow(10, (double)-precision);
}

static int filter_round(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        static const char *const names[] = { "precision", "method" };
        struct value v[2];
        int64_t precision;
        double scale;
        bool up, down;
        int k = args_bind(r, "round", a, names, 2, 0, v);

        if (!k)
                k = arg_int(r, &v[0], 0, &precision);
        if (!k)
                k = render_step(r, STEP_NUMBER + (precision > 0 ? (uint64_t)MIN(precision, 300) * 6 : 0));
        if (k)
                return k;
        up = text_equal(&v[1], "ceil");
        down = text_equal(&v[1], "floor");
        if (v[1].kind != V_MISSING && !up && !down && !text_equal(&v[1], "common"))
                return render_fail(r, "method must be common, ceil or floor");
        if (!value_is_number(self))
                return render_fail(r, "type %s doesn't define __round__ method", value_type_name(self));
        if (up || down) {
                scale = pow(10, (double)precision);
                *ret = VALUE_FLOAT((up ? ceil(value_double(self) * scale) : floor(value_double(self) * scale)) / scale);
        } else if (self->kind == V_FLOAT) {
                *ret = VALUE_FLOAT(round_digits(self->number, precision));
        } else if (precision >= 0 || self->kind == V_BIG) {
                *ret = self->kind == V_BOOL ? VALUE_INT(self->boolean) : *self;
        } else {
                *ret = VALUE_INT((int64_t)round_digits((double)value_int(self), precision));
        }
        return 0;
}

const struct function filters_number[] = {
        { "int", filter_int },
        { "float", filter_float },
        { "abs", filter_abs },
        { "round", filter_round },
        { NULL, NULL },
};
