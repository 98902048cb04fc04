/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "buf.h"

void buf_deinit(struct buf *b) {
        free(b->data);
        *b = (struct buf){ .limit = b->limit };
}

int buf_reserve(struct buf *b, size_t more) {
        size_t need, cap;
        char *p;

        if (more > b->limit || b->len > b->limit - more)
                return BUF_E_LIMIT;
        need = b->len + more + 1;
        if (need <= b->cap)
                return 0;

        cap = b->cap ? b->cap : 64;
        while (cap < need && cap <= b->limit / 2)
                cap *= 2;
        if (cap < need)
                cap = need;
        p = realloc(b->data, cap);
        if (!p)
                return -ENOMEM;
        b->data = p;
        b->cap = cap;
        b->data[b->len] = 0;
        return 0;
}

int buf_append(struct buf *b, const void *data, size_t len) {
        int r;

        r = buf_reserve(b, len);
        if (r)
                return r;
        if (len)
                memcpy(b->data + b->len, data, len);
        b->len += len;
        b->data[b->len] = 0;
        return 0;
}

int buf_append_str(struct buf *b, const char *s) {
        return buf_append(b, s, strlen(s));
}

int buf_printf(struct buf *b, const char *fmt, ...) {
        va_list ap;
        int n, r;

        va_start(ap, fmt);
        n = vsnprintf(NULL, 0, fmt, ap);
        va_end(ap);
        if (n < 0)
                return -EINVAL;

        r = buf_reserve(b, (size_t)n);
        if (r)
                return r;

        va_start(ap, fmt);
        (void)vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap);
        va_end(ap);
        b->len += (size_t)n;
        return 0;
}

void buf_consume(struct buf *b, size_t n) {
        memmove(b->data, b->data + n, b->len - n);
        b->len -= n;
        b->data[b->len] = 0;
}
