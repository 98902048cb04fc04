/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <string.h>

#include "base/utf8.h"
#include "bus-text.h"

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

void bus_text_init(struct bus_text *t, struct user *user, size_t limit) {
        *t = (struct bus_text){ .buf = BUF_NULL(limit), .user = user };
}

void bus_text_deinit(struct bus_text *t) {
        buf_deinit(&t->buf);
        if (t->charged)
                user_release(t->user, USER_BYTES, t->charged);
        t->charged = 0;
}

/* Charge, then allocate: by the growth that the buffer is about to make, corrected by what it made of it. */
static int reserve(struct bus_text *t, size_t more) {
        uint64_t extra;
        int r;

        if (more > t->buf.limit || t->buf.len > t->buf.limit - more)
                return BUS_TEXT_E_LIMIT;
        if (t->buf.len + more + 1 <= t->buf.cap)
                return 0;
        extra = 2 * (t->buf.len + more + 1) + 64;
        if (user_charge(t->user, USER_BYTES, extra))
                return BUS_TEXT_E_QUOTA;
        r = buf_reserve(&t->buf, more);
        user_release(t->user, USER_BYTES, t->charged + extra - t->buf.cap);
        t->charged = t->buf.cap;
        return r;
}

int bus_text_append(struct bus_text *t, const void *data, size_t n) {
        int r = reserve(t, n);

        return r ? r : buf_append(&t->buf, data, n);
}

/* The good prefix of s: up to the first NUL or byte that is no UTF-8. */
static size_t good_prefix(const char *s, size_t n) {
        size_t k = strnlen(s, n), bad;

        return utf8_valid(s, k, &bad) ? k : bad;
}

int bus_text_append_string(struct bus_text *t, const void *data, size_t n) {
        const char *s = data;
        size_t size = 0, good;
        int r;

        for (size_t i = 0; i < n; i += good + 1) {
                good = good_prefix(s + i, n - i);
                size += good + (i + good < n ? strlen(REPLACEMENT) : 0);
        }
        r = reserve(t, size);
        for (size_t i = 0; i < n && !r; i += good + 1) {
                good = good_prefix(s + i, n - i);
                r = buf_append(&t->buf, s + i, good);
                if (!r && i + good < n)
                        r = buf_append_str(&t->buf, REPLACEMENT);
        }
        return r;
}

void bus_text_consume(struct bus_text *t, size_t n) {
        if (n == t->buf.len)
                bus_text_deinit(t);
        else
                buf_consume(&t->buf, n);
}

char *bus_text_clean(const char *s) {
        size_t n = strlen(s), out = 0, good;
        char *copy = malloc(3 * n + 1);

        if (!copy)
                return NULL;
        for (size_t i = 0; i < n; i += good + 1) {
                good = good_prefix(s + i, n - i);
                memcpy(copy + out, s + i, good);
                out += good;
                if (i + good < n) {
                        memcpy(copy + out, REPLACEMENT, strlen(REPLACEMENT));
                        out += strlen(REPLACEMENT);
                }
        }
        copy[out] = 0;
        return copy;
}
