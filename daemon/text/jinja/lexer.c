/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Source to tokens, with Jinja's rules for white space as chat templates have them set: the newline behind a block or
 * comment goes (trim_blocks), so does white space between the start of a line and a block or comment (lstrip_blocks);
 * `-` strips further, `+` keeps. One newline at the end of the source goes too.
 */

#include <string.h>

#include "base/macro.h"
#include "base/utf8.h"
#include "parse.h"
#include "text.h"

struct lexer {
        struct parser *p;
        const char *s;
        size_t n;
        size_t pos;
        uint32_t line;
        size_t cap;
        unsigned braces;
        bool at_line_start; /* what the last tag ended with was a newline, or the source starts here */
};

static int lexer_add(struct lexer *l, enum token_kind kind, const char *text, size_t n) {
        struct parser *p = l->p;
        struct token *t;

        if (p->n_tokens == l->cap) {
                l->cap = l->cap ? l->cap * 2 : 256;
                t = arena_calloc(&p->t->arena, l->cap, sizeof(*t));
                if (!t)
                        return parse_fail_memory(p, &p->t->arena);
                if (p->n_tokens)
                        memcpy(t, p->tokens, p->n_tokens * sizeof(*t));
                p->tokens = t;
        }
        p->tokens[p->n_tokens++] = (struct token){ .kind = kind, .line = l->line, .text = text, .n = n };
        return 0;
}

static void lexer_advance(struct lexer *l, size_t n) {
        for (size_t i = 0; i < n; i++)
                l->line += l->s[l->pos + i] == '\n';
        l->pos += n;
}

static bool lexer_at(const struct lexer *l, size_t pos, const char *text) {
        size_t len = strlen(text);

        return pos <= l->n && l->n - pos >= len && memcmp(l->s + pos, text, len) == 0;
}

static size_t skip_space(const struct lexer *l, size_t pos) {
        size_t len;

        while (pos < l->n && (len = text_space(l->s + pos, l->n - pos)) > 0)
                pos += len;
        return pos;
}

/* The text before a tag whose `{x` stands at `tag`, stripped as its sign and place say. */
static int lexer_data(struct lexer *l, size_t tag, bool variable) {
        const char *s = l->s + l->pos;
        size_t n = tag - l->pos, from;
        char sign = tag + 2 < l->n ? l->s[tag + 2] : 0;

        if (sign == '-') {
                n = text_rstrip(s, n);
        } else if (sign != '+' && !variable) {
                for (from = n; from > 0 && s[from - 1] != '\n'; from--)
                        ;
                if ((from > 0 || l->at_line_start) && text_rstrip(s + from, n - from) == 0)
                        n = from;
        }
        if (n) {
                int r = lexer_add(l, T_DATA, s, n);

                if (r)
                        return r;
        }
        lexer_advance(l, tag - l->pos);
        return 0;
}

/* Behind the `%}` or `#}` whose optional sign stands at pos: how much goes with it. 0 where it is none. */
static size_t tag_end(const struct lexer *l, size_t pos, const char *close, bool trim) {
        size_t p = pos;

        if (lexer_at(l, p, "-") && lexer_at(l, p + 1, close))
                return skip_space(l, p + 3) - pos;
        if (trim && lexer_at(l, p, "+") && lexer_at(l, p + 1, close))
                return 3;
        if (!lexer_at(l, p, close))
                return 0;
        p += 2;
        if (trim && p < l->n && l->s[p] == '\n')
                p++;
        return p - pos;
}

static void finish_tag(struct lexer *l, size_t len) {
        lexer_advance(l, len);
        l->at_line_start = l->s[l->pos - 1] == '\n';
}

static int lexer_comment(struct lexer *l) {
        uint32_t line = l->line;
        size_t len;

        lexer_advance(l, 2);
        for (size_t pos = l->pos; pos < l->n; pos++) {
                len = tag_end(l, pos, "#}", true);
                if (len) {
                        finish_tag(l, pos - l->pos + len);
                        return 0;
                }
        }
        return parse_fail(l->p, line, "missing end of comment tag");
}

/* Where a tag `{% WORD %}` starts at pos: the place behind it, or 0. trim: as for endraw. */
static size_t word_tag(const struct lexer *l, size_t pos, const char *word, bool trim) {
        size_t p = pos + 2, len;

        if (p < l->n && (l->s[p] == '-' || l->s[p] == '+'))
                p++;
        p = skip_space(l, p);
        if (!lexer_at(l, p, word))
                return 0;
        p = skip_space(l, p + strlen(word));
        len = tag_end(l, p, "%}", trim);
        if (len && !trim && !lexer_at(l, p, "-"))
                len = 2;
        return len ? p + len : 0;
}

static int lexer_raw(struct lexer *l, size_t body) {
        uint32_t line = l->line;
        size_t end;
        int r;

        lexer_advance(l, body - l->pos);
        l->at_line_start = l->s[l->pos - 1] == '\n';
        for (size_t pos = l->pos; pos + 1 < l->n; pos++) {
                if (!lexer_at(l, pos, "{%"))
                        continue;
                end = word_tag(l, pos, "endraw", true);
                if (!end)
                        continue;
                r = lexer_data(l, pos, false);
                if (r)
                        return r;
                finish_tag(l, end - l->pos);
                return 0;
        }
        return parse_fail(l->p, line, "missing end of raw directive");
}

static bool is_digit(int c) {
        return c >= '0' && c <= '9';
}

/* Digits with single underscores between them. */
static size_t digits(const struct lexer *l, size_t pos, const char *set) {
        size_t p = pos;

        while (p < l->n) {
                bool under = l->s[p] == '_' && p > pos && l->s[p - 1] != '_' && p + 1 < l->n;

                if (!(l->s[p] && strchr(set, l->s[p])) && !(under && l->s[p + 1] && strchr(set, l->s[p + 1])))
                        break;
                p++;
        }
        return p - pos;
}

#define DECIMAL "0123456789"

static size_t exponent(const struct lexer *l, size_t pos) {
        size_t p = pos, d;

        if (p >= l->n || (l->s[p] != 'e' && l->s[p] != 'E'))
                return 0;
        p++;
        if (p < l->n && (l->s[p] == '+' || l->s[p] == '-'))
                p++;
        d = digits(l, p, DECIMAL);
        return d ? p + d - pos : 0;
}

static int lexer_number(struct lexer *l) {
        size_t start = l->pos, n = 0, d, fraction;
        bool is_float = false, after_dot = start > 0 && l->s[start - 1] == '.';

        if (l->s[start] == '0' && start + 1 < l->n && strchr("bBoOxX", l->s[start + 1])) {
                char c = (char)(l->s[start + 1] | 32);
                size_t p = start + 2 + (lexer_at(l, start + 2, "_") ? 1 : 0);

                d = digits(l, p, c == 'b' ? "01" : c == 'o' ? "01234567" : "0123456789abcdefABCDEF");
                if (d)
                        n = p + d - start;
        }
        if (!n) {
                n = digits(l, start, DECIMAL);
                if (!after_dot) {
                        fraction = lexer_at(l, start + n, ".") ? digits(l, start + n + 1, DECIMAL) : 0;
                        if (fraction)
                                n += 1 + fraction;
                        d = exponent(l, start + n);
                        n += d;
                        is_float = fraction || d;
                }
                if (!is_float && l->s[start] == '0')
                        n = digits(l, start, "0");
        }
        lexer_advance(l, n);
        return lexer_add(l, is_float ? T_FLOAT : T_INTEGER, l->s + start, n);
}

static int lexer_name(struct lexer *l) {
        size_t start = l->pos, p = start;

        while (p < l->n && (is_digit(l->s[p]) || l->s[p] == '_' || ((l->s[p] | 32) >= 'a' && (l->s[p] | 32) <= 'z') ||
                            (unsigned char)l->s[p] >= 0x80))
                p++;
        l->pos = p;
        return lexer_add(l, T_NAME, l->s + start, p - start);
}

static int escape_number(const char *s, size_t n, unsigned base, unsigned max, uint32_t *ret) {
        uint32_t v = 0;
        unsigned i = 0;

        for (; i < n && i < max; i++) {
                int c = s[i], d = is_digit(c) ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : 99;

                if (d >= (int)base)
                        break;
                v = v * base + (uint32_t)d;
        }
        *ret = v;
        return (int)i;
}

/* The escape behind a backslash at s: writes what it stands for, returns bytes read, 0 where it is malformed. */
static size_t unescape(const char *s, size_t n, char **out) {
        static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
        const char *p = strchr(from, *s);
        unsigned want;
        uint32_t c;

        if (*s == '\n')
                return 1;
        if (*s && p) {
                *(*out)++ = to[p - from];
                return 1;
        }
        if (*s >= '0' && *s <= '7') {
                int k = escape_number(s, n, 8, 3, &c);

                *out += utf8_encode(c, *out);
                return (size_t)k;
        }
        want = *s == 'x' ? 2 : *s == 'u' ? 4 : *s == 'U' ? 8 : 0;
        if (want) {
                if (escape_number(s + 1, n - 1, 16, want, &c) != (int)want || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
                        return 0;
                *out += utf8_encode(c, *out);
                return 1 + want;
        }
        *(*out)++ = '\\';
        *(*out)++ = *s;
        return 1;
}

static int lexer_string(struct lexer *l) {
        char quote = l->s[l->pos], *text, *out;
        size_t start = l->pos + 1, end = start, k;
        uint32_t line = l->line;
        bool plain = true;
        int r;

        for (; end < l->n && l->s[end] != quote; end++)
                if (l->s[end] == '\\') {
                        plain = false;
                        end++;
                }
        if (end >= l->n)
                return parse_fail(l->p, line, "string without end");
        if (plain) {
                r = lexer_add(l, T_STRING, l->s + start, end - start);
        } else {
                text = out = arena_bytes(&l->p->t->arena, end - start);
                if (!text)
                        return parse_fail_memory(l->p, &l->p->t->arena);
                for (size_t i = start; i < end; i++) {
                        if (l->s[i] != '\\') {
                                *out++ = l->s[i];
                                continue;
                        }
                        k = unescape(l->s + i + 1, end - i - 1, &out);
                        if (!k)
                                return parse_fail(l->p, line, "malformed escape in a string");
                        i += k;
                }
                r = lexer_add(l, T_STRING, text, (size_t)(out - text));
        }
        lexer_advance(l, end + 1 - l->pos);
        return r;
}

static int lexer_operator(struct lexer *l) {
        static const struct {
                char text[3];
                uint8_t kind;
        } operators[] = {
                { "//", T_FLOORDIV }, { "**", T_POW }, { "==", T_EQ }, { "!=", T_NE }, { ">=", T_GE }, { "<=", T_LE },
                { "+", T_ADD }, { "-", T_SUB }, { "*", T_MUL }, { "/", T_DIV }, { "%", T_MOD }, { "~", T_TILDE },
                { "<", T_LT }, { ">", T_GT }, { "=", T_ASSIGN }, { ".", T_DOT }, { ":", T_COLON }, { "|", T_PIPE },
                { ",", T_COMMA }, { ";", T_SEMICOLON }, { "(", T_LPAREN }, { ")", T_RPAREN }, { "[", T_LBRACKET },
                { "]", T_RBRACKET }, { "{", T_LBRACE }, { "}", T_RBRACE },
        };

        for (size_t i = 0; i < ARRAY_SIZE(operators); i++) {
                if (!lexer_at(l, l->pos, operators[i].text))
                        continue;
                if (operators[i].kind >= T_LPAREN) {
                        bool open = (operators[i].kind - T_LPAREN) % 2 == 0;

                        if (!open && l->braces == 0)
                                return parse_fail(l->p, l->line, "unexpected '%s'", operators[i].text);
                        l->braces += open ? 1u : -1u;
                }
                l->pos += strlen(operators[i].text);
                return lexer_add(l, operators[i].kind, operators[i].text, 0);
        }
        return parse_fail(l->p, l->line, "unexpected character at '%.*s'",
                          (int)text_char(l->s + l->pos, l->n - l->pos), l->s + l->pos);
}

/* From behind `{%` or `{{` to behind its end. */
static int lexer_tag(struct lexer *l, bool variable) {
        const char *close = variable ? "}}" : "%}";
        uint32_t line = l->line;
        size_t len;
        int r = 0;

        l->braces = 0;
        lexer_advance(l, 2);
        if (l->pos < l->n && (l->s[l->pos] == '-' || l->s[l->pos] == '+'))
                l->pos++;
        while (!r) {
                lexer_advance(l, skip_space(l, l->pos) - l->pos);
                if (l->pos >= l->n)
                        return parse_fail(l->p, line, "tag without end");
                len = l->braces ? 0 : tag_end(l, l->pos, close, !variable);
                if (len) {
                        r = lexer_add(l, variable ? T_VARIABLE_END : T_BLOCK_END, NULL, 0);
                        finish_tag(l, len);
                        return r;
                }
                if (is_digit(l->s[l->pos]))
                        r = lexer_number(l);
                else if (l->s[l->pos] == '"' || l->s[l->pos] == '\'')
                        r = lexer_string(l);
                else if (l->s[l->pos] == '_' || ((l->s[l->pos] | 32) >= 'a' && (l->s[l->pos] | 32) <= 'z') ||
                         (unsigned char)l->s[l->pos] >= 0x80)
                        r = lexer_name(l);
                else
                        r = lexer_operator(l);
        }
        return r;
}

/* Newlines become \n, one at the end goes. */
static int lexer_normalize(struct lexer *l, const char *source, size_t size) {
        char *s = arena_bytes(&l->p->t->arena, size + 1);

        if (!s)
                return parse_fail_memory(l->p, &l->p->t->arena);
        for (size_t i = 0; i < size; i++) {
                if (source[i] == '\r' && i + 1 < size && source[i + 1] == '\n')
                        continue;
                s[l->n++] = source[i] == '\r' ? '\n' : source[i];
        }
        if (l->n && s[l->n - 1] == '\n')
                l->n--;
        l->s = s;
        return 0;
}

/* The next `{%`, `{{` or `{#`, or the end. */
static size_t next_tag(const struct lexer *l) {
        size_t pos = l->pos;

        for (; pos + 1 < l->n; pos++)
                if (l->s[pos] == '{' && (l->s[pos + 1] == '%' || l->s[pos + 1] == '{' || l->s[pos + 1] == '#'))
                        return pos;
        return l->n;
}

int lexer_run(struct parser *p, const char *source, size_t size) {
        struct lexer l = { .p = p, .line = 1, .at_line_start = true };
        size_t tag, body;
        int r;

        r = lexer_normalize(&l, source, size);
        while (!r && l.pos < l.n) {
                tag = next_tag(&l);
                if (tag == l.n) {
                        r = lexer_add(&l, T_DATA, l.s + l.pos, l.n - l.pos);
                        break;
                }
                r = lexer_data(&l, tag, l.s[tag + 1] == '{');
                if (r)
                        break;
                body = l.s[tag + 1] == '%' ? word_tag(&l, tag, "raw", false) : 0;
                if (body) {
                        r = lexer_raw(&l, body);
                } else if (l.s[tag + 1] == '#') {
                        r = lexer_comment(&l);
                } else {
                        bool variable = l.s[tag + 1] == '{';

                        r = lexer_add(&l, variable ? T_VARIABLE_BEGIN : T_BLOCK_BEGIN, NULL, 0);
                        if (!r)
                                r = lexer_tag(&l, variable);
                }
        }
        return r ? r : lexer_add(&l, T_END, NULL, 0);
}
