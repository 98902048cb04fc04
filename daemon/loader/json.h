/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * JSON files of a model: parsed by json-c with a bound on size and depth, and read field by field. A key that occurs
 * twice in an object is refused, since readers differ in which one they take. Errors name the file and the key.
 */

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

#define JSON_DEPTH_MAX 32
#define JSON_SIZE_MAX (128u << 20)

/* One object of a file. `where` is what stands before its keys in messages: "" or "rope_scaling.". */
struct json_view {
        const char *file;
        const char *where;
        struct json_object *object;
        struct loader_error *error;
};

enum {
        JSON_ABSENT = 0, /* no such key, or null */
        JSON_FOUND = 1,
        JSON_E_FAULT = -1, /* of another type or out of range; the error is filled in */
};

/* Parses a file whose outermost value is an object; the caller puts it. 0, LOADER_E_INVALID, or -ENOMEM. */
int json_parse_file(const char *file, const char *text, size_t n, struct json_object **ret, struct loader_error *error);

/* Fields; *ret stays as it is unless JSON_FOUND. */
int json_get_u32(const struct json_view *v, const char *key, uint32_t min, uint32_t max, uint32_t *ret);
int json_get_float(const struct json_view *v, const char *key, float *ret);
int json_get_bool(const struct json_view *v, const char *key, bool *ret);
/* Of plain printable ASCII; lives as long as the object. */
int json_get_name(const struct json_view *v, const char *key, const char **ret);
int json_get_object(const struct json_view *v, const char *key, struct json_object **ret);
int json_get_array(const struct json_view *v, const char *key, struct json_object **ret);
/* A field's fault in a sentence: "config.json: 'rope_scaling.factor' <what>". Returns LOADER_E_INVALID. */
int json_invalid(const struct json_view *v, const char *key, const char *what);
/* The same for what is sound and not known here. Returns LOADER_E_UNSUPPORTED. */
int json_unsupported(const struct json_view *v, const char *key, const char *what);
