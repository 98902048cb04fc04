/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <string.h>

#include "base/macro.h"
#include "base/utf8.h"
#include "special.h"
#include "unicode.h"

#define NONE UINT32_MAX

struct node {
        uint32_t fail;   /* the longest proper suffix that is a node */
        uint32_t token;  /* the token that ends here, or NONE */
        uint32_t suffix; /* the longest proper suffix (a node) where a token ends, or NONE */
};

/* From a node by a byte to its child. An open hash table; slots without a child are free. */
struct edge {
        uint32_t node;
        uint32_t child;
        unsigned char byte;
};

struct special {
        struct special_token *tokens; /* by length, descending, then id */
        size_t n_tokens;
        bool leftmost; /* the automaton reads texts from behind, and so finds the longest that begins at a place */
        struct node *nodes;
        size_t n_nodes;
        struct edge *edges;
        size_t edge_mask;
        uint32_t root[256]; /* the root's children; 0 = none */
};

static struct edge *find_edge(const struct special *s, uint32_t node, unsigned char byte) {
        uint64_t hash = ((uint64_t)node << 8 | byte) * 0x9e3779b97f4a7c15ull;

        for (size_t i = (hash >> 32) & s->edge_mask;; i = (i + 1) & s->edge_mask) {
                struct edge *e = &s->edges[i];

                if (e->child == 0 || (e->node == node && e->byte == byte))
                        return e;
        }
}

static uint32_t child_of(const struct special *s, uint32_t node, unsigned char byte) {
        return node == 0 ? s->root[byte] : find_edge(s, node, byte)->child;
}

static uint32_t step(const struct special *s, uint32_t node, unsigned char byte) {
        for (;;) {
                uint32_t child = child_of(s, node, byte);

                if (child != 0 || node == 0)
                        return child;
                node = s->nodes[node].fail;
        }
}

/* The i-th byte of a token in the order of reading. */
static unsigned char token_byte(const struct special *s, const struct special_token *t, size_t i) {
        return (unsigned char)t->text[s->leftmost ? t->n - 1 - i : i];
}

static void add_token(struct special *s, uint32_t index) {
        const struct special_token *t = &s->tokens[index];
        uint32_t node = 0;

        for (size_t i = 0; i < t->n; i++) {
                unsigned char byte = token_byte(s, t, i);
                uint32_t child = child_of(s, node, byte);

                if (child == 0) {
                        child = (uint32_t)s->n_nodes++;
                        s->nodes[child] = (struct node){ 0, NONE, NONE };
                        if (node == 0)
                                s->root[byte] = child;
                        else
                                *find_edge(s, node, byte) = (struct edge){ node, child, byte };
                }
                node = child;
        }
        if (s->nodes[node].token == NONE)
                s->nodes[node].token = index;
}

/* Visits the nodes of one depth after those of the depth before, so that a node's suffixes are done before it is. */
static int link_suffixes(struct special *s) {
        _cleanup_free_ uint32_t *at = NULL;
        size_t longest = s->tokens[0].n, n_left = s->n_tokens;

        at = calloc(s->n_tokens, sizeof(*at));
        if (!at)
                return -ENOMEM;
        for (size_t depth = 0; depth < longest; depth++) {
                while (n_left > 0 && s->tokens[n_left - 1].n <= depth) /* sorted: the shortest stand last */
                        n_left--;
                for (size_t i = 0; i < n_left; i++) {
                        unsigned char byte = token_byte(s, &s->tokens[i], depth);
                        uint32_t child = child_of(s, at[i], byte);
                        struct node *node = &s->nodes[child];

                        if (at[i] != 0)
                                node->fail = step(s, s->nodes[at[i]].fail, byte);
                        node->suffix = s->nodes[node->fail].token != NONE ? node->fail : s->nodes[node->fail].suffix;
                        at[i] = child;
                }
        }
        return 0;
}

static int compare_tokens(const void *a, const void *b) {
        const struct special_token *x = a, *y = b;

        if (x->n != y->n)
                return x->n > y->n ? -1 : 1;
        return (x->id > y->id) - (x->id < y->id);
}

static int allocate(struct special *s, const struct special_token *tokens, size_t n) {
        size_t n_bytes = 0, n_edges = 16;

        s->tokens = malloc(n * sizeof(*s->tokens));
        if (!s->tokens)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++)
                if (tokens[i].n > 0) {
                        s->tokens[s->n_tokens++] = tokens[i];
                        n_bytes += tokens[i].n;
                }
        if (n_bytes >= UINT32_MAX / 2)
                return -E2BIG;
        while (n_edges < n_bytes + n_bytes / 2)
                n_edges *= 2;
        s->nodes = malloc((n_bytes + 1) * sizeof(*s->nodes));
        s->edges = calloc(n_edges, sizeof(*s->edges));
        if (!s->nodes || !s->edges)
                return -ENOMEM;
        s->edge_mask = n_edges - 1;
        s->nodes[0] = (struct node){ 0, NONE, NONE };
        s->n_nodes = 1;
        return 0;
}

DEFINE_CLEANUP(struct special *, special_free)

int special_new(struct special **ret, const struct special_token *tokens, size_t n, bool leftmost) {
        _cleanup_(special_freep) struct special *s = NULL;
        int r;

        s = n > 0 ? calloc(1, sizeof(*s)) : NULL;
        if (!s) {
                *ret = NULL;
                return n > 0 ? -ENOMEM : 0;
        }
        s->leftmost = leftmost;
        r = allocate(s, tokens, n);
        if (r < 0)
                return r;
        if (s->n_tokens == 0) {
                *ret = NULL;
                return 0;
        }
        qsort(s->tokens, s->n_tokens, sizeof(*s->tokens), compare_tokens);
        for (size_t i = 0; i < s->n_tokens; i++)
                add_token(s, (uint32_t)i);
        r = link_suffixes(s);
        if (r < 0)
                return r;
        *ret = steal_ptr(&s);
        return 0;
}

struct special *special_free(struct special *s) {
        if (!s)
                return NULL;
        free(s->tokens);
        free(s->nodes);
        free(s->edges);
        free(s);
        return NULL;
}

/* A place where a token could be. Only the longest that ends there is kept: the next longest follows from it. Leftmost:
 * the longest that begins there, which is where it ends in the order of reading. */
struct candidate {
        uint32_t end;
        uint32_t node;
};

struct candidates {
        struct candidate *items;
        size_t n;
        size_t cap;
};

static int candidates_append(struct candidates *c, uint32_t end, uint32_t node) {
        if (c->n == c->cap) {
                size_t cap = c->cap ? c->cap * 2 : 16;
                struct candidate *p = realloc(c->items, cap * sizeof(*p));

                if (!p)
                        return -ENOMEM;
                c->items = p;
                c->cap = cap;
        }
        c->items[c->n++] = (struct candidate){ end, node };
        return 0;
}

static int scan(const struct special *s, const char *text, uint32_t n, struct candidates *c) {
        uint32_t node = 0;

        for (uint32_t i = 0; i < n; i++) {
                uint32_t found;
                int r;

                node = step(s, node, (unsigned char)text[s->leftmost ? n - 1 - i : i]);
                if (node == 0)
                        continue;
                found = s->nodes[node].token != NONE ? node : s->nodes[node].suffix;
                if (found == NONE)
                        continue;
                r = candidates_append(c, i + 1, found);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* Which bytes of the text are taken. Two takings of different length meet in an end of the shorter one. */
struct taken {
        uint64_t *bits;
};

static bool taken_has(const struct taken *t, uint32_t i) {
        return t->bits[i / 64] >> (i % 64) & 1;
}

static void taken_add(struct taken *t, uint32_t start, uint32_t end) {
        for (uint32_t i = start; i < end; i++)
                t->bits[i / 64] |= 1ull << (i % 64);
}

/* Length of the white space character at pos, 0 where there is another. */
static uint32_t space_at(const char *text, uint32_t n, uint32_t pos, bool ascii) {
        uint32_t c;
        size_t len;

        if (pos >= n)
                return 0;
        if (ascii)
                return text[pos] == ' ' || (text[pos] >= '\t' && text[pos] <= '\r');
        len = utf8_decode(text + pos, n - pos, &c);
        return len && unicode_class(c) & UNICODE_SPACE ? (uint32_t)len : 0;
}

/* Where the character before pos, which is not 0, begins. */
static uint32_t step_back(const char *text, uint32_t pos) {
        uint32_t start = pos - 1;

        while (start > 0 && pos - start < 4 && ((unsigned char)text[start] & 0xc0) == 0x80)
                start--;
        return start;
}

/*
 * Gives the places to tokens in their order. Candidates wait in `heads`, one list for each token: a candidate whose
 * place is taken goes on to the list of the next shorter token that ends there. Lists run from left to right, so what
 * is moved must be put where it belongs: they are sorted when their turn comes.
 */
static int compare_candidates(const void *a, const void *b) {
        const struct candidate *x = a, *y = b;

        return (x->end > y->end) - (x->end < y->end);
}

static int compare_matches(const void *a, const void *b) {
        const struct special_match *x = a, *y = b;

        return (x->start > y->start) - (x->start < y->start);
}

struct find {
        const struct special *special;
        const char *text;
        uint32_t n;
        struct taken taken;
        struct candidates *by_token; /* [n_tokens] */
        struct special_match *matches;
        size_t n_matches;
};

static void take(struct find *f, const struct special_token *token, uint32_t start, uint32_t end) {
        uint32_t len, before;

        while (token->strip_left && start > 0 && !taken_has(&f->taken, start - 1)) {
                before = step_back(f->text, start);
                if (before + space_at(f->text, f->n, before, token->ascii) != start)
                        break;
                start = before;
        }
        while (token->strip && (len = space_at(f->text, f->n, end, token->ascii)) && !taken_has(&f->taken, end))
                end += len;
        taken_add(&f->taken, start, end);
        f->matches[f->n_matches++] = (struct special_match){ start, end, token->id };
}

/* Numbers that are signs of their own, no digits or letters (No), as far as texts have them: superscripts, fractions,
 * enclosed ones. */
static bool is_sign(uint32_t c) {
        return c == 0xb2 || c == 0xb3 || c == 0xb9 || (c >= 0xbc && c <= 0xbe) || (c >= 0x2070 && c <= 0x2089) ||
               (c >= 0x2150 && c <= 0x215f) || (c >= 0x2460 && c <= 0x249b) || (c >= 0x24ea && c <= 0x24ff) ||
               (c >= 0x2776 && c <= 0x2793);
}

/* What connects (Pc) and joins. */
static bool is_joint(uint32_t c) {
        return c == '_' || c == 0x200c || c == 0x200d || c == 0x203f || c == 0x2040 || c == 0x2054 || c == 0xfe33 ||
               c == 0xfe34 || (c >= 0xfe4d && c <= 0xfe4f) || c == 0xff3f;
}

static bool is_word_at(const struct find *f, uint32_t pos) {
        uint32_t c;

        if (pos >= f->n || !utf8_decode(f->text + pos, f->n - pos, &c))
                return false;
        return is_joint(c) || (unicode_class(c) & (UNICODE_LETTER | UNICODE_MARK | UNICODE_NUMBER) && !is_sign(c));
}

static bool is_within_word(const struct find *f, uint32_t start, uint32_t end) {
        return (start > 0 && is_word_at(f, step_back(f->text, start))) || is_word_at(f, end);
}

static int settle(struct find *f, size_t index) {
        const struct special_token *token = &f->special->tokens[index];
        struct candidates *c = &f->by_token[index];

        qsort(c->items, c->n, sizeof(*c->items), compare_candidates);
        for (size_t i = 0; i < c->n; i++) {
                struct candidate it = c->items[i];
                uint32_t start = it.end - (uint32_t)token->n, node;
                int r;

                if (taken_has(&f->taken, it.end - 1))
                        continue;
                if (!taken_has(&f->taken, start) && !(token->single_word && is_within_word(f, start, it.end))) {
                        take(f, token, start, it.end);
                        continue;
                }
                node = f->special->nodes[it.node].suffix;
                if (node == NONE)
                        continue;
                r = candidates_append(&f->by_token[f->special->nodes[node].token], it.end, node);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int settle_all(struct find *f, const struct candidates *all) {
        f->by_token = calloc(f->special->n_tokens, sizeof(*f->by_token));
        f->taken.bits = calloc((size_t)f->n / 64 + 1, sizeof(uint64_t));
        f->matches = malloc(all->n * sizeof(*f->matches));
        if (!f->by_token || !f->taken.bits || !f->matches)
                return -ENOMEM;
        for (size_t i = 0; i < all->n; i++) {
                uint32_t node = all->items[i].node;
                int r;

                r = candidates_append(&f->by_token[f->special->nodes[node].token], all->items[i].end, node);
                if (r < 0)
                        return r;
        }
        for (size_t i = 0; i < f->special->n_tokens; i++) {
                int r;

                if (f->by_token[i].n == 0)
                        continue;
                r = settle(f, i);
                if (r < 0)
                        return r;
        }
        qsort(f->matches, f->n_matches, sizeof(*f->matches), compare_matches);
        return 0;
}

/* Where the white space before start begins, at `least` or behind it. */
static uint32_t strip_left(const struct find *f, const struct special_token *token, uint32_t start, uint32_t least) {
        while (start > least) {
                uint32_t before = step_back(f->text, start);

                if (before < least || before + space_at(f->text, f->n, before, token->ascii) != start)
                        break;
                start = before;
        }
        return start;
}

/*
 * From left to right. White space that a match strips to its right still may hold tokens, which then are found once more:
 * that is what the reference does. `stripped`: all between there and the token that went furthest is white space, so that
 * no place is looked at again and again.
 */
static int settle_leftmost(struct find *f, const struct candidates *all) {
        uint32_t taken = 0, passed = 0, stripped = 0;

        f->matches = malloc(all->n * sizeof(*f->matches));
        if (!f->matches)
                return -ENOMEM;
        for (size_t i = all->n; i-- > 0;) { /* found from behind */
                const struct special_token *token = &f->special->tokens[f->special->nodes[all->items[i].node].token];
                uint32_t start = f->n - all->items[i].end, end = start + (uint32_t)token->n, len;

                if (start < passed)
                        continue;
                passed = end;
                if (token->single_word && is_within_word(f, start, end))
                        continue;
                if (token->strip_left) {
                        start = MAX(strip_left(f, token, start, taken), taken);
                        if (start >= end) /* nothing is left of it */
                                continue;
                }
                if (token->strip)
                        end = MAX(end, stripped);
                while (token->strip && (len = space_at(f->text, f->n, end, token->ascii)))
                        stripped = end += len;
                start = MAX(start, taken);
                f->matches[f->n_matches++] = (struct special_match){ start, end, token->id };
                taken = end;
        }
        return 0;
}

int special_find(const struct special *s, const char *text, uint32_t n, struct special_match **ret_matches,
                 size_t *ret_n) {
        struct find f = { .special = s, .text = text, .n = n };
        struct candidates all = { 0 };
        int r = 0;

        if (s)
                r = scan(s, text, n, &all);
        if (r == 0 && all.n > 0)
                r = s->leftmost ? settle_leftmost(&f, &all) : settle_all(&f, &all);
        if (f.by_token)
                for (size_t i = 0; i < s->n_tokens; i++)
                        free(f.by_token[i].items);
        free(f.by_token);
        free(f.taken.bits);
        free(all.items);
        if (r < 0) {
                free(f.matches);
                return r;
        }
        *ret_matches = f.matches;
        *ret_n = f.n_matches;
        return 0;
}
