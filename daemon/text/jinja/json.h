/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * JSON (RFC 8259) into an immutable tree in an arena, bounded in depth and memory; and the pieces to write it.
 * Objects keep their members in the order of the text, repeated names included. Integers stay integers: those that do
 * not fit 64 bits keep their digits. Text must be UTF-8; a surrogate escape without its other half is refused.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "arena.h"
#include "base/buf.h"

enum {
        JSON_E_SYNTAX = 1, /* not JSON, or not UTF-8 */
        JSON_E_LIMIT = 2,  /* too deep, or past the arena's limit */
};

enum json_kind {
        JSON_NULL,
        JSON_BOOL,
        JSON_INT,
        JSON_BIG, /* an integer outside int64_t; its digits are the text */
        JSON_FLOAT,
        JSON_STRING,
        JSON_ARRAY,
        JSON_OBJECT,
};

struct json_member;

struct json {
        enum json_kind kind;
        size_t n; /* bytes of text, items or members */
        union {
                bool boolean;
                int64_t integer;
                double number;
                const char *text; /* n bytes, may hold NUL, not terminated */
                const struct json *items;
                const struct json_member *members;
        };
};

struct json_member {
        const char *name;
        size_t name_len;
        struct json value;
};

struct json_error {
        char text[160];
        size_t offset; /* bytes from the start */
};

/* Parses one value with nothing but white space around it. text may go away afterwards. max_depth: nested arrays and
 * objects, at most JSON_DEPTH_MAX (0 = that). 0, JSON_E_*, or -ENOMEM. */
#define JSON_DEPTH_MAX 200u
int json_parse(struct arena *arena, const char *text, size_t n, unsigned max_depth, struct json *ret,
               struct json_error *error);

/* The last member of that name, or NULL; also where `object` is no object or NULL. */
const struct json *json_get(const struct json *object, const char *name);
/* True when v (which may be NULL) is a string equal to s. */
bool json_is_string(const struct json *v, const char *s);

/* Appends s as a JSON string with its quotes; bytes from 0x80 on go through as they are, or, with ascii, as \uXXXX (s
 * must then be UTF-8). 0, BUF_E_LIMIT or -ENOMEM. */
int json_append_string(struct buf *b, const char *s, size_t n);
int json_append_string_ascii(struct buf *b, const char *s, size_t n);
/* Shortest decimal that reads back as v, in Python's notation (1.0, 1e-07, inf, nan). buffer: FLOAT_REPR_MAX bytes;
 * returns the length. */
#define FLOAT_REPR_MAX 32u
size_t json_format_double(double v, char *buffer);
