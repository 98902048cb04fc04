/* SPDX-License-Identifier: Apache-2.0 */

#include <string.h>

#include "base/utf8.h"
#include "text-ops.h"
#include "text.h"

int arg_int(struct render *r, const struct value *v, int64_t missing, int64_t *ret) {
        if (v->kind == V_MISSING)
                *ret = missing;
        else if (value_is_int(v))
                *ret = value_int(v);
        else
                return render_fail(r, "'%s' object cannot be interpreted as an integer", value_type_name(v));
        return 0;
}

int arg_text(struct render *r, const struct value *v) {
        if (v->kind == V_STRING)
                return 0;
        return render_fail(r, "a string is needed, not '%s'", value_type_name(v));
}

static bool is_cased(uint32_t c) {
        uint32_t a[3], b[3];

        return char_is_lower(c) || char_is_upper(c) || char_to_upper(c, a) != 1 || a[0] != c ||
               char_to_lower(c, b) != 1 || b[0] != c;
}

/* `start`: a word starts here */
static size_t map_one(uint32_t c, enum text_case mode, bool start, uint32_t out[3]) {
        switch (mode) {
        case CASE_UPPER:
                return char_to_upper(c, out);
        case CASE_LOWER:
                return char_to_lower(c, out);
        case CASE_SWAP:
                return char_is_upper(c) ? char_to_lower(c, out) : char_to_upper(c, out);
        case CASE_FILTER_TITLE:
                return start ? char_to_upper(c, out) : char_to_lower(c, out);
        default:
                return start ? char_to_title(c, out) : char_to_lower(c, out);
        }
}

static bool word_border(uint32_t c, enum text_case mode) {
        if (mode == CASE_TITLE)
                return !is_cased(c);
        return mode == CASE_FILTER_TITLE && (char_is_space(c) || (c < 0x80 && c && strchr("-({[<", (int)c)));
}

int text_map_case(struct render *r, const struct value *s, enum text_case mode, struct value *ret) {
        size_t mark = render_mark(r), n;
        bool start = true;
        uint32_t c, out[3];
        char buffer[12];
        int k = render_step(r, (uint64_t)s->n * 6); /* and what putting out each character costs */

        for (size_t i = 0; !k && i < s->n;) {
                size_t len = 0;

                i += text_decode(s->text + i, s->n - i, &c);
                n = map_one(c, mode, start, out);
                start = word_border(c, mode);
                for (size_t j = 0; j < n; j++)
                        len += utf8_encode(out[j], buffer + len);
                k = render_emit(r, buffer, len);
        }
        k = render_take(r, mark, k, ret);
        if (!k)
                ret->flags = s->flags;
        return k;
}

/* Replaces the empty string: `to` before every character and at the end. */
static int replace_empty(struct render *r, const struct value *s, const struct value *to, int64_t count) {
        size_t pos = 0, len;
        int k = 0;

        while (!k && count != 0) {
                k = render_emit(r, to->text, to->n);
                count--;
                if (pos == s->n)
                        break;
                len = text_char(s->text + pos, s->n - pos);
                if (!k)
                        k = render_emit(r, s->text + pos, len);
                pos += len;
        }
        return k ? k : render_emit(r, s->text + pos, s->n - pos);
}

int text_replace(struct render *r, const struct value *s, const struct value *from, const struct value *to, int64_t count,
                 struct value *ret) {
        const char *p = s->text, *end = s->text + s->n, *hit;
        size_t mark = render_mark(r);
        int k = render_step(r, s->n / STEP_SEARCH + 2);

        if (!k && from->n == 0) {
                k = replace_empty(r, s, to, count);
                p = end;
        }
        for (; !k && from->n && count != 0; count--) {
                hit = memmem(p, (size_t)(end - p), from->text, from->n);
                if (!hit)
                        break;
                k = render_emit(r, p, (size_t)(hit - p));
                if (!k)
                        k = render_emit(r, to->text, to->n);
                p = hit + from->n;
        }
        if (!k && p == s->text && from->n) { /* nothing found: the same text, not a copy */
                *ret = *s;
                return 0;
        }
        if (!k)
                k = render_emit(r, p, (size_t)(end - p));
        k = render_take(r, mark, k, ret);
        if (!k)
                ret->flags = s->flags;
        return k;
}

static bool in_set(const struct value *set, const char *p, size_t len) {
        for (size_t i = 0, n; i < set->n; i += n) {
                n = text_char(set->text + i, set->n - i);
                if (n == len && memcmp(set->text + i, p, n) == 0)
                        return true;
        }
        return false;
}

int text_strip(struct render *r, const struct value *s, const struct value *chars, bool left, bool right,
               struct value *ret) {
        const char *p = s->text;
        size_t n = s->n, len, start;
        int k = 0;

        if (chars->kind != V_MISSING && chars->kind != V_NONE) {
                k = arg_text(r, chars);
                if (!k)
                        k = render_step(r, chars->n);
                while (!k && left && n > 0 && in_set(chars, p, len = text_char(p, n))) {
                        p += len;
                        n -= len;
                        k = render_step(r, chars->n + 1);
                }
                while (!k && right && n > 0) {
                        for (start = n - 1; start > 0 && ((unsigned char)p[start] & 0xc0) == 0x80;)
                                start--;
                        if (!in_set(chars, p + start, n - start))
                                break;
                        n = start;
                        k = render_step(r, chars->n + 1);
                }
        } else {
                if (left) {
                        len = text_lstrip(p, n);
                        p += len;
                        n -= len;
                }
                if (right)
                        n = text_rstrip(p, n);
                k = render_step(r, s->n - n);
        }
        *ret = (struct value){ .kind = V_STRING, .flags = s->flags, .text = p, .n = n };
        return k;
}

int text_join(struct render *r, const struct value *separator, const struct list *items, bool convert,
              struct value *ret) {
        size_t mark = render_mark(r);
        int k = 0;

        for (size_t i = 0; !k && i < items->n; i++) {
                if (i)
                        k = render_emit(r, separator->text, separator->n);
                if (!k && !convert)
                        k = arg_text(r, &items->items[i]);
                if (!k)
                        k = emit_str(r, &items->items[i]);
        }
        return render_take(r, mark, k, ret);
}

static bool is_line_end(uint32_t c) {
        return (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

int text_splitlines(struct render *r, const struct value *s, bool keep, struct value *ret) {
        struct list *l;
        size_t n = 0, from, pos, len;
        uint32_t c;
        int k = render_step(r, (uint64_t)s->n * 2);

        for (pos = 0; pos < s->n; pos += len) {
                len = text_decode(s->text + pos, s->n - pos, &c);
                n += is_line_end(c);
        }
        if (!k)
                k = list_new(r, n + 1, &l);
        if (k)
                return k;
        l->n = 0;
        for (pos = from = 0; pos < s->n; pos += len) {
                len = text_decode(s->text + pos, s->n - pos, &c);
                if (!is_line_end(c))
                        continue;
                if (c == '\r' && pos + 1 < s->n && s->text[pos + 1] == '\n')
                        len = 2;
                l->items[l->n] = VALUE_TEXT(s->text + from, pos - from + (keep ? len : 0));
                l->items[l->n++].flags = s->flags;
                from = pos + len;
        }
        if (from < s->n) {
                l->items[l->n] = VALUE_TEXT(s->text + from, s->n - from);
                l->items[l->n++].flags = s->flags;
        }
        *ret = (struct value){ .kind = V_LIST, .list = l };
        return 0;
}

int text_pad(struct render *r, const struct value *s, size_t left, size_t right, const struct value *fill,
             struct value *ret) {
        size_t mark = render_mark(r);
        int k = 0;

        for (size_t i = 0; !k && i < left; i++)
                k = render_emit(r, fill->text, fill->n);
        if (!k)
                k = render_emit(r, s->text, s->n);
        for (size_t i = 0; !k && i < right; i++)
                k = render_emit(r, fill->text, fill->n);
        k = render_take(r, mark, k, ret);
        if (!k)
                ret->flags = s->flags;
        return k;
}
