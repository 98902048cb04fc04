/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "json.h"

static void append(struct json *j, const char *s, size_t n) {
        if (j->error == 0 && buf_append(&j->buf, s, n) != 0)
                j->error = -ENOMEM;
}

/* Escapes what JSON asks for, copies the rest in runs. */
static void append_quoted(struct json *j, const char *s, size_t n) {
        size_t start = 0, i = 0;

        append(j, "\"", 1);
        while (i < n) {
                unsigned char c = (unsigned char)s[i];
                char escape[8];
                uint32_t scalar;
                size_t len = utf8_decode(s + i, n - i, &scalar);

                if (len > 0 && c >= 0x20 && c != '"' && c != '\\' && c != 0x7f) {
                        i += len;
                        continue;
                }
                append(j, s + start, i - start);
                if (len == 0)
                        (void)snprintf(escape, sizeof(escape), "\xef\xbf\xbd");
                else if (c == '"' || c == '\\')
                        (void)snprintf(escape, sizeof(escape), "\\%c", c);
                else if (c == '\n')
                        (void)snprintf(escape, sizeof(escape), "\\n");
                else
                        (void)snprintf(escape, sizeof(escape), "\\u%04x", c);
                append(j, escape, strlen(escape));
                i++;
                start = i;
        }
        append(j, s + start, i - start);
        append(j, "\"", 1);
}

static void begin(struct json *j, const char *key) {
        if (j->comma)
                append(j, ",", 1);
        j->comma = true;
        if (key) {
                append_quoted(j, key, strlen(key));
                append(j, ":", 1);
        }
}

void json_open(struct json *j, const char *key, char bracket) {
        begin(j, key);
        append(j, &bracket, 1);
        j->comma = false;
}

void json_close(struct json *j, char bracket) {
        append(j, &bracket, 1);
        j->comma = true;
}

void json_text(struct json *j, const char *key, const char *text, size_t n) {
        begin(j, key);
        append_quoted(j, text, n);
}

void json_string(struct json *j, const char *key, const char *s) {
        json_text(j, key, s, strlen(s));
}

void json_u64(struct json *j, const char *key, uint64_t v) {
        char text[32];

        begin(j, key);
        (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)v);
        append(j, text, strlen(text));
}

void json_i64(struct json *j, const char *key, int64_t v) {
        char text[32];

        begin(j, key);
        (void)snprintf(text, sizeof(text), "%lld", (long long)v);
        append(j, text, strlen(text));
}

void json_bool(struct json *j, const char *key, bool v) {
        begin(j, key);
        append(j, v ? "true" : "false", v ? 4 : 5);
}

void json_null(struct json *j, const char *key) {
        begin(j, key);
        append(j, "null", 4);
}

void json_number(struct json *j, const char *key, double v, int digits) {
        char text[64];

        if (!isfinite(v)) {
                json_null(j, key);
                return;
        }
        begin(j, key);
        (void)snprintf(text, sizeof(text), "%.*g", digits, v);
        append(j, text, strlen(text));
}

void json_ids(struct json *j, const char *key, const uint32_t *ids, size_t n) {
        json_open(j, key, '[');
        for (size_t i = 0; i < n; i++)
                json_u64(j, NULL, ids[i]);
        json_close(j, ']');
}

int json_print(struct json *j) {
        append(j, "\n", 1);
        if (j->error)
                return j->error;
        if (fwrite(j->buf.data, 1, j->buf.len, stdout) != j->buf.len)
                return -EIO;
        return 0;
}
