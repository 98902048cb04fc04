/* SPDX-License-Identifier: Apache-2.0 */

#include "metaspace.h"

#include <errno.h>
#include <string.h>

int metaspace_escape(const char *text, size_t n, bool prefix, struct buf *out) {
        size_t n_spaces = prefix, at = 0;
        int r;

        for (size_t i = 0; i < n; i++)
                n_spaces += text[i] == ' ';
        r = buf_reserve(out, n + n_spaces * SPM_SPACE_SIZE);
        if (r)
                return -ENOMEM;
        if (prefix)
                (void)buf_append(out, SPM_SPACE, SPM_SPACE_SIZE);
        while (at < n) {
                const char *blank = memchr(text + at, ' ', n - at);
                size_t len = blank ? (size_t)(blank - (text + at)) : n - at;

                (void)buf_append(out, text + at, len);
                if (blank)
                        (void)buf_append(out, SPM_SPACE, SPM_SPACE_SIZE);
                at += len + 1;
        }
        return 0;
}

static bool is_space(const char *s, size_t n) {
        return n >= SPM_SPACE_SIZE && memcmp(s, SPM_SPACE, SPM_SPACE_SIZE) == 0;
}

size_t metaspace_word_length(const char *s, size_t n) {
        size_t i = 0;

        while (is_space(s + i, n - i))
                i += SPM_SPACE_SIZE;
        while (i < n && !is_space(s + i, n - i))
                i++;
        return i;
}
