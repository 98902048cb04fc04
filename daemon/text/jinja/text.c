/* SPDX-License-Identifier: Apache-2.0 */

#include "base/macro.h"
#include "text.h"
#include "text-tables.h"
#include "value.h"

static bool in_ranges(const struct text_range *table, size_t n, uint32_t c) {
        size_t lo = 0, hi = n;

        while (lo < hi) {
                size_t mid = lo + (hi - lo) / 2;

                if (c > table[mid].last)
                        lo = mid + 1;
                else if (c < table[mid].first)
                        hi = mid;
                else
                        return true;
        }
        return false;
}

static uint32_t map_run(const struct text_run *table, size_t n, uint32_t c) {
        size_t lo = 0, hi = n;

        while (lo < hi) {
                size_t mid = lo + (hi - lo) / 2;

                if (c > table[mid].last)
                        lo = mid + 1;
                else if (c < table[mid].first)
                        hi = mid;
                else
                        return (c - table[mid].first) % table[mid].stride ? c : c + (uint32_t)table[mid].delta;
        }
        return c;
}

static size_t map_char(const struct text_run *runs, size_t n_runs, const struct text_several *several, size_t n_several,
                       uint32_t c, uint32_t out[3]) {
        size_t n = 0;

        for (size_t i = 0; i < n_several; i++)
                if (several[i].c == c) {
                        for (; n < 3 && several[i].to[n]; n++)
                                out[n] = several[i].to[n];
                        return n;
                }
        out[0] = map_run(runs, n_runs, c);
        return 1;
}

size_t char_to_upper(uint32_t c, uint32_t out[3]) {
        if (c < 0x80) {
                out[0] = c >= 'a' && c <= 'z' ? c - 32 : c;
                return 1;
        }
        return map_char(text_to_upper, text_n_to_upper, text_to_upper_several, text_n_to_upper_several, c, out);
}

size_t char_to_title(uint32_t c, uint32_t out[3]) {
        if (c < 0x80)
                return char_to_upper(c, out);
        return map_char(text_to_title, text_n_to_title, text_to_title_several, text_n_to_title_several, c, out);
}

size_t char_to_lower(uint32_t c, uint32_t out[3]) {
        if (c < 0x80) {
                out[0] = c >= 'A' && c <= 'Z' ? c + 32 : c;
                return 1;
        }
        return map_char(text_to_lower, text_n_to_lower, text_to_lower_several, text_n_to_lower_several, c, out);
}

bool char_is_space(uint32_t c) {
        return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
               (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool char_is_printable(uint32_t c) {
        if (c < 0x7f)
                return c >= 0x20;
        return !in_ranges(text_unprintable, text_n_unprintable, c);
}

bool char_is_alpha(uint32_t c) {
        return in_ranges(text_alpha, text_n_alpha, c);
}

bool char_is_numeric(uint32_t c) {
        return in_ranges(text_numeric, text_n_numeric, c);
}

bool char_is_decimal(uint32_t c) {
        return in_ranges(text_decimal, text_n_decimal, c);
}

bool char_is_lower(uint32_t c) {
        return in_ranges(text_lower, text_n_lower, c);
}

bool char_is_upper(uint32_t c) {
        return in_ranges(text_upper, text_n_upper, c);
}

size_t text_space(const char *s, size_t n) {
        uint32_t c;
        size_t len = text_decode(s, n, &c);

        return char_is_space(c) ? len : 0;
}

size_t text_rstrip(const char *s, size_t n) {
        while (n > 0) {
                size_t start = n - 1, len;

                while (start > 0 && ((unsigned char)s[start] & 0xc0) == 0x80 && n - start < 4)
                        start--;
                len = text_space(s + start, n - start);
                if (len != n - start)
                        break;
                n = start;
        }
        return n;
}

size_t text_lstrip(const char *s, size_t n) {
        size_t pos = 0, len;

        while (pos < n && (len = text_space(s + pos, n - pos)) > 0)
                pos += len;
        return pos;
}
