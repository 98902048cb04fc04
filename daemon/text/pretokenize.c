/* SPDX-License-Identifier: Apache-2.0 */

#include "pretokenize.h"

#include "base/utf8.h"
#include "unicode.h"

#define NO_MATCH SIZE_MAX

/* The text that a stage sees: it must not look past the end of its region. */
struct view {
        const char *text;
        size_t end;
};

struct character {
        uint32_t code;
        size_t len; /* 0 at the end */
};

/* Most bytes that are no UTF-8 show by the byte behind them. */
static inline bool is_broken(const struct view *v, size_t pos) {
        return (unsigned char)v->text[pos] < 0xc2 || pos + 1 >= v->end || ((unsigned char)v->text[pos + 1] & 0xc0) != 0x80;
}

static inline struct character char_at(const struct view *v, size_t pos) {
        struct character c = { 0 };

        if (pos >= v->end)
                return c;
        if ((unsigned char)v->text[pos] < 0x80) {
                c.code = (unsigned char)v->text[pos];
                c.len = 1;
                return c;
        }
        c.len = is_broken(v, pos) ? 0 : utf8_decode(v->text + pos, v->end - pos, &c.code);
        if (c.len == 0) {
                c.code = 0xfffd;
                c.len = 1;
        }
        return c;
}

static inline bool in_ranges(const struct char_range *ranges, size_t n, uint32_t c) {
        size_t lo = 0, hi = n;

        if (n == 0 || c < ranges[0].first || c > ranges[n - 1].last)
                return false;
        while (lo < hi) {
                size_t mid = lo + (hi - lo) / 2;

                if (c < ranges[mid].first)
                        hi = mid;
                else if (c > ranges[mid].last)
                        lo = mid + 1;
                else
                        return true;
        }
        return false;
}

static inline bool set_has(const struct char_set *set, uint32_t c) {
        uint8_t class = set->any | set->none ? unicode_class(c) : 0;

        if ((class & set->none) || in_ranges(set->out, set->n_out, c))
                return false;
        if (!set->any && set->n_in == 0)
                return true;
        return (class & set->any) || in_ranges(set->in, set->n_in, c);
}

static bool is_space(uint32_t c) {
        return unicode_class(c) & UNICODE_SPACE;
}

static bool is_break(uint32_t c) {
        return c == '\r' || c == '\n';
}

/* Each match_*() returns where its match at pos ends, or NO_MATCH. */

static inline size_t match_set(const struct view *v, size_t pos, const struct pretoken_part *part) {
        size_t n;

        for (n = 0; n < part->max; n++) {
                struct character c = char_at(v, pos);

                if (c.len == 0 || !set_has(part->set, c.code))
                        break;
                pos += c.len;
        }
        return n >= part->min ? pos : NO_MATCH;
}

static uint32_t fold(uint32_t c, enum pretoken_part_kind kind) {
        if (kind == PRETOKEN_CONTRACTION)
                return c;
        if (c == 0x17f && kind == PRETOKEN_CONTRACTION_WIDE)
                return 's';
        return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c;
}

static size_t match_contraction(const struct view *v, size_t pos, enum pretoken_part_kind kind) {
        struct character c = char_at(v, pos), first, second;
        uint32_t a, b;

        if (c.len == 0 || c.code != '\'')
                return NO_MATCH;
        pos += c.len;
        first = char_at(v, pos);
        if (first.len == 0)
                return NO_MATCH;
        a = fold(first.code, kind);
        if (a == 's' || a == 't' || a == 'm' || a == 'd')
                return pos + first.len;
        second = char_at(v, pos + first.len);
        if (second.len == 0)
                return NO_MATCH;
        b = fold(second.code, kind);
        if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
                return pos + first.len + second.len;
        return NO_MATCH;
}

static size_t match_spaces_but_last(const struct view *v, size_t pos) {
        size_t start = pos, last = pos;

        for (;;) {
                struct character c = char_at(v, pos);

                if (c.len == 0)
                        return pos > start ? pos : NO_MATCH;
                if (!is_space(c.code))
                        return last > start ? last : NO_MATCH;
                last = pos;
                pos += c.len;
        }
}

static size_t match_spaces_to_break(const struct view *v, size_t pos) {
        size_t end = NO_MATCH;

        for (;;) {
                struct character c = char_at(v, pos);

                if (c.len == 0 || !is_space(c.code))
                        return end;
                pos += c.len;
                if (is_break(c.code))
                        end = pos;
        }
}

/*
 * set* also+, both greedy, where the sets overlap. The first takes all it can. If the second then finds nothing to
 * take, the first gives characters back until the second can have one, which is the last one that is in both sets: what
 * follows that one is in `set` alone.
 */
static size_t match_cased(const struct view *v, size_t pos, const struct pretoken_part *part) {
        const struct pretoken_part rest = { PRETOKEN_SET, 1, SIZE_MAX, part->also, NULL };
        size_t shared = NO_MATCH, end;

        for (;;) {
                struct character c = char_at(v, pos);

                if (c.len == 0 || !set_has(part->set, c.code))
                        break;
                pos += c.len;
                if (set_has(part->also, c.code))
                        shared = pos;
        }
        end = match_set(v, pos, &rest);
        return end != NO_MATCH ? end : shared;
}

static bool is_number(const struct view *v, size_t pos) {
        return unicode_class(char_at(v, pos).code) & UNICODE_NUMBER;
}

/* Where the character before pos begins. */
static size_t step_back(const struct view *v, size_t pos) {
        size_t start = pos - 1;

        while (start > 0 && pos - start < 4 && ((unsigned char)v->text[start] & 0xc0) == 0x80)
                start--;
        return start;
}

/* A run is counted once, at its beginning: behind a number that is already cut off, threes are left. */
static size_t match_thousands(const struct view *v, size_t pos) {
        size_t end = pos, n = 0, least = 3;

        if (pos >= v->end || !is_number(v, pos))
                return NO_MATCH;
        if (pos == 0 || !is_number(v, step_back(v, pos))) {
                for (; end < v->end && is_number(v, end); end += char_at(v, end).len)
                        n++;
                least = n % 3 ? n % 3 : 3;
        }
        for (n = 0; n < least && pos < v->end && is_number(v, pos); n++)
                pos += char_at(v, pos).len;
        return pos;
}

static size_t match_phrase(const struct view *v, size_t pos, const struct pretoken_part *part) {
        const struct pretoken_part more = { PRETOKEN_SET, 0, SIZE_MAX, part->also, NULL };
        size_t end = NO_MATCH;

        for (;;) {
                struct character c = char_at(v, pos);

                if (c.len && c.code == ' ' && end != NO_MATCH) {
                        pos += c.len;
                        c = char_at(v, pos);
                }
                if (c.len == 0 || !set_has(part->set, c.code))
                        return end;
                end = pos = match_set(v, pos + c.len, &more);
        }
}

static inline size_t match_part(const struct view *v, size_t pos, const struct pretoken_part *part) {
        size_t end;

        switch (part->kind) {
        case PRETOKEN_END:
                return pos;
        case PRETOKEN_SET:
                return match_set(v, pos, part);
        case PRETOKEN_CONTRACTION:
        case PRETOKEN_CONTRACTION_FOLD:
        case PRETOKEN_CONTRACTION_WIDE:
                end = match_contraction(v, pos, part->kind);
                return end == NO_MATCH && part->min == 0 ? pos : end;
        case PRETOKEN_SPACES_BUT_LAST:
                return match_spaces_but_last(v, pos);
        case PRETOKEN_SPACES_TO_BREAK:
                return match_spaces_to_break(v, pos);
        case PRETOKEN_CASED:
                return match_cased(v, pos, part);
        case PRETOKEN_THOUSANDS:
                return match_thousands(v, pos);
        case PRETOKEN_PHRASE:
                return match_phrase(v, pos, part);
        }
        return NO_MATCH;
}

static inline size_t match_parts(const struct view *v, size_t pos, const struct pretoken_part *parts, size_t n) {
        for (size_t i = 0; i < n && parts[i].kind != PRETOKEN_END; i++) {
                pos = match_part(v, pos, &parts[i]);
                if (pos == NO_MATCH)
                        return NO_MATCH;
        }
        return pos;
}

/* An optional first character is taken, or given up again where the rest then doesn't match. */
static inline size_t match_rule(const struct view *v, size_t pos, const struct pretoken_rule *rule) {
        const struct pretoken_part *first = &rule->parts[0];
        size_t start, end;

        if (first->kind != PRETOKEN_SET || first->min != 0)
                return match_parts(v, pos, rule->parts, PRETOKEN_PARTS_MAX);
        start = match_set(v, pos, first);
        if (start != pos) {
                end = match_parts(v, start, rule->parts + 1, PRETOKEN_PARTS_MAX - 1);
                if (end != NO_MATCH)
                        return end;
        }
        return match_parts(v, pos, rule->parts + 1, PRETOKEN_PARTS_MAX - 1);
}

/* A stage and its row of the index. */
struct stage {
        const struct pretoken_rule *rules;
        const uint8_t *begins;
};

static inline size_t match_stage(const struct view *v, size_t pos, const struct stage *stage) {
        unsigned char byte = (unsigned char)v->text[pos];
        unsigned left = stage->begins[byte >= 0x80 && is_broken(v, pos) ? 0x80 : byte];

        for (; left; left &= left - 1) {
                size_t end = match_rule(v, pos, &stage->rules[__builtin_ctz(left)]);

                if (end != NO_MATCH && end > pos)
                        return end;
        }
        return NO_MATCH;
}

/* Where the white space at the end of the view begins, no earlier than pos. */
static size_t find_trailing_space(const struct view *v, size_t pos) {
        size_t end = v->end;

        while (end > pos) {
                size_t start = step_back(v, end);
                struct character c = char_at(v, start);

                if (start < pos || start + c.len != end || !is_space(c.code))
                        break;
                end = start;
        }
        return end;
}

/* Where the word at pos ends: a match, or the gap before the next one. */
static size_t cut(const struct view *v, size_t pos, const struct stage *stage) {
        size_t end, gap;

        if (!stage->rules) {
                end = find_trailing_space(v, pos);
                return end > pos ? end : v->end;
        }
        end = match_stage(v, pos, stage);
        if (end != NO_MATCH)
                return end;
        for (gap = pos + char_at(v, pos).len; gap < v->end; gap += char_at(v, gap).len)
                if (match_stage(v, gap, stage) != NO_MATCH)
                        break;
        return gap;
}

/* Whether a match of a part may begin with c; a part that may also match nothing is taken to. */
static bool part_begins(const struct pretoken_part *part, uint32_t c) {
        switch (part->kind) {
        case PRETOKEN_SET:
        case PRETOKEN_PHRASE:
                return set_has(part->set, c);
        case PRETOKEN_CASED:
                return set_has(part->set, c) || set_has(part->also, c);
        case PRETOKEN_CONTRACTION:
        case PRETOKEN_CONTRACTION_FOLD:
        case PRETOKEN_CONTRACTION_WIDE:
                return c == '\'';
        case PRETOKEN_SPACES_BUT_LAST:
        case PRETOKEN_SPACES_TO_BREAK:
                return is_space(c);
        case PRETOKEN_THOUSANDS:
                return unicode_class(c) & UNICODE_NUMBER;
        case PRETOKEN_END:
                break;
        }
        return false;
}

static bool rule_begins(const struct pretoken_rule *rule, uint32_t c) {
        for (size_t i = 0; i < PRETOKEN_PARTS_MAX && rule->parts[i].kind != PRETOKEN_END; i++) {
                if (part_begins(&rule->parts[i], c))
                        return true;
                if (rule->parts[i].min > 0)
                        return false;
        }
        return false;
}

/* Bytes that begin characters of several bytes may begin anything. */
static uint8_t rules_at(const struct pretoken_stage *stage, unsigned byte) {
        uint8_t rules = 0;

        for (size_t i = 0; i < stage->n_rules; i++)
                if ((byte >= 0xc2 && byte <= 0xf4) || rule_begins(&stage->rules[i], byte < 0x80 ? byte : 0xfffd))
                        rules |= (uint8_t)(1u << i);
        return rules;
}

void pretokenizer_index_init(struct pretokenizer_index *index, const struct pretokenizer *pretokenizer) {
        *index = (struct pretokenizer_index){ 0 };
        for (size_t i = 0; i < pretokenizer->n_stages; i++)
                for (unsigned byte = 0; byte < 256; byte++)
                        index->rules[i][byte] = rules_at(&pretokenizer->stages[i], byte);
}

void pretokenize_begin(struct pretokenize *p, const struct pretokenizer *pretokenizer,
                       const struct pretokenizer_index *index, const char *text, size_t n) {
        *p = (struct pretokenize){ .index = index, .pretokenizer = pretokenizer, .text = text };
        p->region[0].end = n;
}

bool pretokenize_next(struct pretokenize *p, size_t *ret_start, size_t *ret_end) {
        size_t last = p->pretokenizer->n_stages - 1, i = last;

        while (p->region[i].pos == p->region[i].end)
                if (i-- == 0)
                        return false;
        for (;; i++) {
                struct view v = { p->text, p->region[i].end };
                struct stage stage = { p->pretokenizer->stages[i].rules, p->index->rules[i] };
                size_t start = p->region[i].pos, end = cut(&v, start, &stage);

                p->region[i].pos = end;
                if (i == last || end - start == 1) { /* of one byte, no stage makes two words */
                        *ret_start = start;
                        *ret_end = end;
                        return true;
                }
                p->region[i + 1].pos = start;
                p->region[i + 1].end = end;
        }
}
