/* SPDX-License-Identifier: Apache-2.0 */

#include <string.h>

#include "utf8.h"

/* Length that a lead byte announces, 0 for a byte that cannot lead. */
static size_t lead_length(unsigned char c) {
        if (c < 0x80)
                return 1;
        if (c >= 0xc2 && c <= 0xdf)
                return 2;
        if (c >= 0xe0 && c <= 0xef)
                return 3;
        if (c >= 0xf0 && c <= 0xf4)
                return 4;
        return 0;
}

/* The second byte carries the limits against overlong forms, surrogates and values past U+10FFFF. */
static bool second_ok(unsigned char lead, unsigned char c) {
        switch (lead) {
        case 0xe0:
                return c >= 0xa0 && c <= 0xbf;
        case 0xed:
                return c >= 0x80 && c <= 0x9f;
        case 0xf0:
                return c >= 0x90 && c <= 0xbf;
        case 0xf4:
                return c >= 0x80 && c <= 0x8f;
        default:
                return c >= 0x80 && c <= 0xbf;
        }
}

size_t utf8_decode(const char *str, size_t n, uint32_t *ret_char) {
        const unsigned char *s = (const unsigned char *)str;
        size_t len = lead_length(s[0]);
        uint32_t c;

        if (len == 0 || len > n)
                return 0;
        if (len == 1) {
                *ret_char = s[0];
                return 1;
        }
        if (!second_ok(s[0], s[1]))
                return 0;
        c = s[0] & (0xffu >> (len + 1));
        for (size_t i = 1; i < len; i++) {
                if ((s[i] & 0xc0) != 0x80)
                        return 0;
                c = c << 6 | (s[i] & 0x3f);
        }
        *ret_char = c;
        return len;
}

size_t utf8_encode(uint32_t c, char out[4]) {
        if (c < 0x80) {
                out[0] = (char)c;
                return 1;
        }
        if (c < 0x800) {
                out[0] = (char)(0xc0 | c >> 6);
                out[1] = (char)(0x80 | (c & 0x3f));
                return 2;
        }
        if (c < 0x10000) {
                out[0] = (char)(0xe0 | c >> 12);
                out[1] = (char)(0x80 | (c >> 6 & 0x3f));
                out[2] = (char)(0x80 | (c & 0x3f));
                return 3;
        }
        out[0] = (char)(0xf0 | c >> 18);
        out[1] = (char)(0x80 | (c >> 12 & 0x3f));
        out[2] = (char)(0x80 | (c >> 6 & 0x3f));
        out[3] = (char)(0x80 | (c & 0x3f));
        return 4;
}

bool utf8_valid(const char *s, size_t n, size_t *ret_bad) {
        size_t i = 0;

        while (i < n) {
                uint32_t c;
                size_t len = utf8_decode(s + i, n - i, &c);

                if (len == 0) {
                        if (ret_bad)
                                *ret_bad = i;
                        return false;
                }
                i += len;
        }
        return true;
}

void utf8_mend(char *s) {
        size_t n = strlen(s), bad;

        while (!utf8_valid(s, n, &bad)) {
                s[bad] = '?';
                s += bad + 1;
                n -= bad + 1;
        }
}

size_t utf8_complete(const char *str, size_t n) {
        const unsigned char *s = (const unsigned char *)str;

        for (size_t back = 1; back <= 3 && back <= n; back++) {
                const unsigned char *p = s + n - back;
                size_t len = lead_length(*p);

                if ((*p & 0xc0) == 0x80)
                        continue;
                if (len <= back || (back >= 2 && !second_ok(p[0], p[1])))
                        return n;
                return n - back;
        }
        return n;
}
