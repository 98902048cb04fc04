/* SPDX-License-Identifier: Apache-2.0 */

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "value.h"

const char *value_type_name(const struct value *v) {
        static const char *const names[] = {
                [V_MISSING] = "missing",     [V_UNDEFINED] = "Undefined",
                [V_NONE] = "NoneType",       [V_BOOL] = "bool",
                [V_INT] = "int",             [V_BIG] = "int",
                [V_FLOAT] = "float",         [V_STRING] = "str",
                [V_LIST] = "list",           [V_TUPLE] = "tuple",
                [V_DICT] = "dict",           [V_KEYS] = "dict_keys",
                [V_VALUES] = "dict_values",  [V_ITEMS] = "dict_items",
                [V_RANGE] = "range",         [V_ITER] = "generator",
                [V_NAMESPACE] = "Namespace", [V_FUNCTION] = "function",
                [V_MACRO] = "Macro",         [V_LOOP] = "LoopContext",
                [V_CYCLER] = "Cycler",       [V_JOINER] = "Joiner",
        };

        return v->kind == V_STRING && (v->flags & VALUE_MARKUP) ? "Markup" : names[v->kind];
}

double value_double(const struct value *v) {
        char digits[400];
        size_t n;

        switch (v->kind) {
        case V_BIG:
                n = v->n < sizeof(digits) - 1 ? v->n : sizeof(digits) - 1;
                memcpy(digits, v->text, n);
                digits[n] = 0;
                return strtod(digits, NULL);
        case V_FLOAT:
                return v->number;
        default:
                return (double)value_int(v);
        }
}

bool value_truth(const struct value *v) {
        switch (v->kind) {
        case V_MISSING:
        case V_UNDEFINED:
        case V_NONE:
                return false;
        case V_BOOL:
                return v->boolean;
        case V_INT:
                return v->integer != 0;
        case V_FLOAT:
                return v->number != 0;
        case V_STRING:
                return v->n > 0;
        case V_LIST:
        case V_TUPLE:
                return v->list->n > 0;
        case V_DICT:
        case V_KEYS:
        case V_VALUES:
        case V_ITEMS:
                return v->dict->n > 0;
        case V_RANGE:
                return v->range->n > 0;
        default:
                return true;
        }
}

bool value_length(const struct value *v, size_t *ret) {
        switch (v->kind) {
        case V_UNDEFINED:
                *ret = 0;
                return true;
        case V_STRING:
                *ret = text_length(v->text, v->n);
                return true;
        case V_LIST:
        case V_TUPLE:
                *ret = v->list->n;
                return true;
        case V_DICT:
        case V_KEYS:
        case V_VALUES:
        case V_ITEMS:
                *ret = v->dict->n;
                return true;
        case V_RANGE:
                *ret = v->range->n;
                return true;
        default:
                return false;
        }
}

size_t text_length(const char *s, size_t n) {
        size_t chars = 0;

        for (size_t i = 0; i < n; i++)
                chars += ((unsigned char)s[i] & 0xc0) != 0x80;
        return chars;
}

size_t text_offset(const char *s, size_t n, size_t i) {
        size_t pos = 0;

        for (; i > 0 && pos < n; i--)
                pos += text_char(s + pos, n - pos);
        return pos;
}

size_t text_char(const char *s, size_t n) {
        size_t len = 1;

        while (len < n && ((unsigned char)s[len] & 0xc0) == 0x80)
                len++;
        return len;
}

bool text_equal(const struct value *v, const char *s) {
        return v->kind == V_STRING && v->n == strlen(s) && memcmp(v->text, s, v->n) == 0;
}

size_t text_decode(const char *s, size_t n, uint32_t *ret) {
        size_t len;

        if ((unsigned char)*s < 0x80) {
                *ret = (unsigned char)*s;
                return 1;
        }
        len = utf8_decode(s, n, ret);
        if (len)
                return len;
        *ret = 0xfffd;
        return 1;
}
