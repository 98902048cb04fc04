/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "json.h"

/* The escape of byte c, or NULL where it stands for itself. buffer: 7 bytes. */
static const char *escape_of(unsigned char c, char *buffer) {
        switch (c) {
        case '"':
                return "\\\"";
        case '\\':
                return "\\\\";
        case '\n':
                return "\\n";
        case '\r':
                return "\\r";
        case '\t':
                return "\\t";
        case '\b':
                return "\\b";
        case '\f':
                return "\\f";
        default:
                if (c >= 0x20)
                        return NULL;
                (void)snprintf(buffer, 7, "\\u%04x", c);
                return buffer;
        }
}

static int append_ascii_char(struct buf *b, uint32_t c) {
        if (c < 0x10000)
                return buf_printf(b, "\\u%04x", (unsigned)c);
        c -= 0x10000;
        return buf_printf(b, "\\u%04x\\u%04x", (unsigned)(0xd800 + (c >> 10)), (unsigned)(0xdc00 + (c & 0x3ff)));
}

static int append_string(struct buf *b, const char *s, size_t n, bool ascii) {
        size_t from = 0, i = 0, len;
        const char *esc;
        char buffer[8];
        uint32_t c;
        int r;

        r = buf_append(b, "\"", 1);
        while (!r && i < n) {
                len = 1;
                c = 0;
                esc = escape_of((unsigned char)s[i], buffer);
                if (!esc && ascii && (unsigned char)s[i] >= 0x80 && (len = utf8_decode(s + i, n - i, &c)) == 0)
                        return -EINVAL;
                if (esc || c) {
                        r = buf_append(b, s + from, i - from);
                        if (!r)
                                r = esc ? buf_append_str(b, esc) : append_ascii_char(b, c);
                        from = i + len;
                }
                i += len;
        }
        if (!r)
                r = buf_append(b, s + from, n - from);
        return r ? r : buf_append(b, "\"", 1);
}

int json_append_string(struct buf *b, const char *s, size_t n) {
        return append_string(b, s, n, false);
}

int json_append_string_ascii(struct buf *b, const char *s, size_t n) {
        return append_string(b, s, n, true);
}

/* Digits of the shortest decimal that reads back, without point, and its exponent (value = 0.DIGITS * 10^exp). */
static size_t shortest_digits(double v, char *digits, int *ret_exp) {
        char text[40];
        size_t n = 0;
        char *e;

        for (int precision = 1; precision <= 17; precision += precision == 1 ? 14 : 1) {
                (void)snprintf(text, sizeof(text), "%.*e", precision - 1, v);
                if (strtod(text, NULL) == v)
                        break;
        }
        e = strchr(text, 'e');
        *ret_exp = (e ? (int)strtol(e + 1, NULL, 10) : 0) + 1;
        for (const char *p = text; p != e && *p; p++)
                if (*p >= '0' && *p <= '9')
                        digits[n++] = *p;
        while (n > 1 && digits[n - 1] == '0')
                n--;
        return n;
}

size_t json_format_double(double v, char *buffer) {
        char digits[40] = "0", *p = buffer;
        int exp, n;

        if (isnan(v))
                return (size_t)sprintf(buffer, "nan");
        if (signbit(v)) {
                *p++ = '-';
                v = -v;
        }
        if (isinf(v))
                return (size_t)(p - buffer) + (size_t)sprintf(p, "inf");

        n = (int)shortest_digits(v, digits, &exp);
        if (v == 0)
                exp = 1;
        if (exp <= -4 || exp > 16) {
                *p++ = digits[0];
                if (n > 1)
                        p += sprintf(p, ".%.*s", n - 1, digits + 1);
                p += sprintf(p, "e%c%02d", exp - 1 < 0 ? '-' : '+', abs(exp - 1));
        } else if (exp <= 0) {
                p += sprintf(p, "0.%.*s%.*s", -exp, "0000", n, digits);
        } else if (n <= exp) {
                p += sprintf(p, "%.*s%.*s.0", n, digits, exp - n, "0000000000000000");
        } else {
                p += sprintf(p, "%.*s.%.*s", exp, digits, n - exp, digits + exp);
        }
        return (size_t)(p - buffer);
}
