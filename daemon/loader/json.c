/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <math.h>
#include <string.h>

#include "gguf-read.h"
#include "json.h"

/* Colons outside of strings: one for each key of a text that is known to be JSON. */
static uint64_t count_colons(const char *text, size_t n) {
        uint64_t colons = 0;
        bool string = false;

        for (size_t i = 0; i < n; i++) {
                if (string && text[i] == '\\')
                        i++;
                else if (text[i] == '"')
                        string = !string;
                else if (!string && text[i] == ':')
                        colons++;
        }
        return colons;
}

/* Depth is what the parser allowed. */
static uint64_t count_keys(struct json_object *o) { /* NOLINT(misc-no-recursion) */
        uint64_t keys = 0;

        if (json_object_is_type(o, json_type_array)) {
                for (size_t i = 0; i < json_object_array_length(o); i++)
                        keys += count_keys(json_object_array_get_idx(o, i));
        } else if (json_object_is_type(o, json_type_object)) {
                struct json_object_iterator it = json_object_iter_begin(o), end = json_object_iter_end(o);

                for (; !json_object_iter_equal(&it, &end); json_object_iter_next(&it))
                        keys += 1 + count_keys(json_object_iter_peek_value(&it));
        }
        return keys;
}

static bool is_blank(const char *text, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (text[i] != ' ' && text[i] != '\n' && text[i] != '\r' && text[i] != '\t')
                        return false;
        return true;
}

static int parse(struct json_tokener *tokener, const char *file, const char *text, size_t n, struct json_object **ret,
                 struct loader_error *error) {
        struct json_object *o = json_tokener_parse_ex(tokener, text, (int)n);
        size_t end = json_tokener_get_parse_end(tokener);
        enum json_tokener_error e = json_tokener_get_error(tokener);
        const char *fault = NULL;

        if (e != json_tokener_success)
                fault = e == json_tokener_continue ? "the text ends too early" : json_tokener_error_desc(e);
        else if (!json_object_is_type(o, json_type_object))
                fault = "not an object";
        else if (!is_blank(text + end, n - end))
                fault = "more text after the end";
        else if (count_colons(text, end) != count_keys(o))
                fault = "a key occurs twice in an object that ends here";
        if (!fault) {
                *ret = o;
                return 0;
        }
        (void)json_object_put(o);
        return loader_fail(error, LOADER_E_INVALID, "%s at offset %zu: %s", file, end, fault);
}

int json_parse_file(const char *file, const char *text, size_t n, struct json_object **ret, struct loader_error *error) {
        struct json_tokener *tokener;
        int r;

        if (n > JSON_SIZE_MAX)
                return loader_fail(error, LOADER_E_INVALID, "%s has %zu bytes, at most %u are read", file, n, JSON_SIZE_MAX);
        tokener = json_tokener_new_ex(JSON_DEPTH_MAX);
        if (!tokener)
                return -ENOMEM;
        json_tokener_set_flags(tokener,
                               JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8 | JSON_TOKENER_ALLOW_TRAILING_CHARS);
        r = parse(tokener, file, text, n, ret, error);
        json_tokener_free(tokener);
        return r;
}

static int fail(const struct json_view *v, int code, const char *key, const char *what) {
        char show[LOADER_SHOW_MAX];

        return loader_fail(v->error, code, "%s: '%s%s' %s", v->file, v->where, loader_show(show, key, strlen(key)), what);
}

int json_invalid(const struct json_view *v, const char *key, const char *what) {
        return fail(v, LOADER_E_INVALID, key, what);
}

int json_unsupported(const struct json_view *v, const char *key, const char *what) {
        return fail(v, LOADER_E_UNSUPPORTED, key, what);
}

static int fault(const struct json_view *v, const char *key, const char *what) {
        (void)json_invalid(v, key, what);
        return JSON_E_FAULT;
}

static int get(const struct json_view *v, const char *key, enum json_type type, const char *what, struct json_object **ret) {
        struct json_object *o = NULL;

        if (!v->object || !json_object_object_get_ex(v->object, key, &o) || !o)
                return JSON_ABSENT;
        if (!json_object_is_type(o, type))
                return fault(v, key, what);
        *ret = o;
        return JSON_FOUND;
}

static int json_get_uint(const struct json_view *v, const char *key, uint64_t min, uint64_t max, uint64_t *ret) {
        struct json_object *o = NULL;
        uint64_t value;
        int r = get(v, key, json_type_int, "is not a whole number", &o);

        if (r != JSON_FOUND)
                return r;
        value = json_object_get_uint64(o); /* negative ones become 0 */
        if (json_object_get_int64(o) < 0 || value < min || value > max)
                return fault(v, key, "is out of range");
        *ret = value;
        return JSON_FOUND;
}

int json_get_u32(const struct json_view *v, const char *key, uint32_t min, uint32_t max, uint32_t *ret) {
        uint64_t value = 0;
        int r = json_get_uint(v, key, min, max, &value);

        if (r == JSON_FOUND)
                *ret = (uint32_t)value;
        return r;
}

int json_get_float(const struct json_view *v, const char *key, float *ret) {
        struct json_object *o = NULL;
        float value;

        if (!v->object || !json_object_object_get_ex(v->object, key, &o) || !o)
                return JSON_ABSENT;
        if (!json_object_is_type(o, json_type_double) && !json_object_is_type(o, json_type_int))
                return fault(v, key, "is not a number");
        value = (float)json_object_get_double(o);
        if (!isfinite(value))
                return fault(v, key, "is out of range");
        *ret = value;
        return JSON_FOUND;
}

int json_get_bool(const struct json_view *v, const char *key, bool *ret) {
        struct json_object *o = NULL;
        int r = get(v, key, json_type_boolean, "is neither true nor false", &o);

        if (r == JSON_FOUND)
                *ret = json_object_get_boolean(o);
        return r;
}

/* Any text without NUL. */
static int json_get_text(const struct json_view *v, const char *key, const char **ret) {
        struct json_object *o = NULL;
        int r = get(v, key, json_type_string, "is not a text", &o);

        if (r != JSON_FOUND)
                return r;
        if (strlen(json_object_get_string(o)) != (size_t)json_object_get_string_len(o))
                return fault(v, key, "has a NUL in it");
        *ret = json_object_get_string(o);
        return JSON_FOUND;
}

int json_get_name(const struct json_view *v, const char *key, const char **ret) {
        const char *s = NULL;
        int r = json_get_text(v, key, &s);

        if (r != JSON_FOUND)
                return r;
        if (!gguf_plain_name(s, strlen(s)))
                return fault(v, key, "is not plain ASCII");
        *ret = s;
        return JSON_FOUND;
}

int json_get_object(const struct json_view *v, const char *key, struct json_object **ret) {
        return get(v, key, json_type_object, "is not an object", ret);
}

int json_get_array(const struct json_view *v, const char *key, struct json_object **ret) {
        return get(v, key, json_type_array, "is not a list", ret);
}
