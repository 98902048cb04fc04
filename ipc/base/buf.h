/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A growable byte buffer with a hard limit. Embedded: `struct buf b = BUF_NULL(limit);`, then buf_deinit().
 * Contents are always followed by a NUL byte that `len` does not count (where data is not NULL).
 */

#include <stdarg.h>
#include <stddef.h>

#include "macro.h"

enum {
        BUF_E_LIMIT = 1, /* would grow past the limit; contents unchanged */
};

struct buf {
        char *data;
        size_t len;
        size_t cap;
        size_t limit; /* bytes, without the closing NUL */
};

#define BUF_NULL(max) ((struct buf){ .limit = (max) })

void buf_deinit(struct buf *b);

/* Makes room for `more` further bytes. 0, BUF_E_LIMIT, or -ENOMEM. */
int buf_reserve(struct buf *b, size_t more);
int buf_append(struct buf *b, const void *data, size_t len);
int buf_append_str(struct buf *b, const char *s);
int buf_printf(struct buf *b, const char *fmt, ...) _printf_(2, 3);
/* Removes the first n bytes (n <= len). */
void buf_consume(struct buf *b, size_t n);
static inline void buf_clear(struct buf *b) {
        b->len = 0;
        if (b->data)
                b->data[0] = 0;
}
