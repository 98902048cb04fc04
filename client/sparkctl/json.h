/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Writes JSON into a buffer. Commas are put by themselves; key is NULL for the elements of an array and for the
 * outermost value. Strings are made valid: what is not UTF-8 becomes U+FFFD. The first failure sticks and is found by
 * json_print().
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

struct json {
        struct buf buf;
        bool comma;
        int error;
};

#define JSON_NULL ((struct json){ .buf = BUF_NULL((size_t)1 << 30) })

static inline void json_deinit(struct json *j) {
        buf_deinit(&j->buf);
}
#define _cleanup_json_ _cleanup_(json_deinit)

void json_open(struct json *j, const char *key, char bracket); /* '{' or '[' */
void json_close(struct json *j, char bracket);
void json_text(struct json *j, const char *key, const char *text, size_t n);
void json_string(struct json *j, const char *key, const char *s);
void json_u64(struct json *j, const char *key, uint64_t v);
void json_i64(struct json *j, const char *key, int64_t v);
void json_bool(struct json *j, const char *key, bool v);
void json_null(struct json *j, const char *key);
/* Not-a-number and infinities become null. digits: 9 gives a float back exactly, 17 a double. */
void json_number(struct json *j, const char *key, double v, int digits);
void json_ids(struct json *j, const char *key, const uint32_t *ids, size_t n);
/* Prints it and a newline on standard output. 0 or -errno. */
int json_print(struct json *j);
