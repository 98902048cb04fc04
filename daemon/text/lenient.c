/* SPDX-License-Identifier: Apache-2.0 */

/*
 * How llama.cpp reads bytes that are not UTF-8 before byte-level BPE: it looks at the leading bits alone, so that
 * overlong forms and surrogates pass (and come out in their shortest form), and takes a byte that fits nowhere as
 * U+FFFD. Only comparisons want this; our own rule keeps the bytes as they are.
 */

#include <errno.h>

#include "tokenizer-internal.h"

/* Length of the character at s by its leading bits, 0 where its bytes are not of that form. */
static size_t read_form(const unsigned char *s, size_t n, uint32_t *ret_char) {
        size_t len = s[0] < 0x80 ? 1 : s[0] < 0xc0 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf8 ? 4 : 0;
        uint32_t c;

        if (len == 0 || len > n)
                return 0;
        c = len == 1 ? s[0] : s[0] & (0x7fu >> len);
        for (size_t i = 1; i < len; i++) {
                if ((s[i] & 0xc0) != 0x80)
                        return 0;
                c = c << 6 | (s[i] & 0x3f);
        }
        *ret_char = c;
        return len;
}

/* As utf8_encode(), surrogates included. */
static size_t write_form(uint32_t c, char out[4]) {
        size_t len = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;

        if (len == 1) {
                out[0] = (char)c;
                return 1;
        }
        for (size_t i = len - 1; i > 0; i--, c >>= 6)
                out[i] = (char)(0x80 | (c & 0x3f));
        out[0] = (char)((0xf00u >> len & 0xff) | c);
        return len;
}

int lenient_rewrite(const char *text, size_t n, struct buf *out) {
        int r = 0;

        for (size_t i = 0; r == 0 && i < n;) {
                uint32_t c;
                size_t len = read_form((const unsigned char *)text + i, n - i, &c);
                char form[4];

                if (len == 0 || c > 0x10ffff)
                        c = 0xfffd;
                r = buf_append(out, form, write_form(c, form));
                i += len ? len : 1;
        }
        return r ? -ENOMEM : 0;
}
