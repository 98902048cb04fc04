/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include "base/macro.h"
#include "base/utf8.h"
#include "metaspace.h"
#include "nfc.h"
#include "tokenizer-internal.h"

#define TOKENS_MAX (1u << 26)
#define MERGES_MAX (1u << 27)
/* Offsets within a text are 32 bits, and SPM writes three bytes for a space. */
#define TEXT_MAX (UINT32_MAX / 4)
#define REMEMBER_MIN 4096u /* bytes of text that pay for remembering pairs */

void token_array_deinit(struct token_array *a) {
        free(a->ids);
        *a = (struct token_array){ 0 };
}

int token_array_append(struct token_array *a, int32_t id) {
        if (a->n == a->cap) {
                size_t cap = a->cap ? a->cap * 2 : 64;
                int32_t *p = realloc(a->ids, cap * sizeof(*p));

                if (!p)
                        return -ENOMEM;
                a->ids = p;
                a->cap = cap;
        }
        a->ids[a->n++] = id;
        return 0;
}

/* What a detokenizer may give for a text in the worst case: held bytes first, each byte that is no character as
 * U+FFFD. */
static size_t worst_piece(const char *text, size_t n) {
        size_t worst = 3 * 3;

        for (size_t i = 0; i < n;) {
                uint32_t c;
                size_t len = utf8_decode(text + i, n - i, &c);

                worst += len ? len : 3;
                i += len ? len : 1;
        }
        return worst;
}

static int check_tokens(const struct tokenizer_def *def, struct text_error *error) {
        for (size_t i = 0; i < def->n_tokens; i++) {
                uint64_t start = def->token_offsets[i], end = def->token_offsets[i + 1];

                if (end < start) {
                        (void)snprintf(error->text, sizeof(error->text),
                                       "tokenizer.ggml.tokens: token %zu has offsets %llu to %llu", i,
                                       (unsigned long long)start, (unsigned long long)end);
                        return TOKENIZER_E_INVALID;
                }
                if (end - start > DETOKENIZER_PIECE_MAX) {
                        (void)snprintf(error->text, sizeof(error->text),
                                       "tokenizer.ggml.tokens: token %zu has %llu bytes, more than %u", i,
                                       (unsigned long long)(end - start), DETOKENIZER_PIECE_MAX);
                        return TOKENIZER_E_INVALID;
                }
        }
        return 0;
}

static int check_around(const struct tokenizer_def *def, const struct tokenizer_around *a, struct text_error *error) {
        bool valid = a->n <= TOKENIZER_AROUND_MAX;

        for (size_t i = 0; valid && i < a->n; i++)
                valid = a->ids[i] >= 0 && (size_t)a->ids[i] < def->n_tokens;
        if (!valid)
                (void)snprintf(error->text, sizeof(error->text),
                               "the tokens around a prompt are more than %u, or not in the vocabulary", TOKENIZER_AROUND_MAX);
        return valid ? 0 : TOKENIZER_E_INVALID;
}

static int check_def(const struct tokenizer_def *def, struct text_error *error) {
        int r;

        if (def->model != TOKENIZER_SPM && def->model != TOKENIZER_BPE) {
                (void)snprintf(error->text, sizeof(error->text), "tokenizer.ggml.model: not supported");
                return TOKENIZER_E_UNSUPPORTED;
        }
        if (def->n_tokens == 0 || def->n_tokens > TOKENS_MAX || def->n_merges > MERGES_MAX) {
                (void)snprintf(error->text, sizeof(error->text),
                               "tokenizer.ggml: %zu tokens (1 to %u) and %zu merges (at most %u)", def->n_tokens,
                               TOKENS_MAX, def->n_merges, MERGES_MAX);
                return TOKENIZER_E_INVALID;
        }
        r = check_around(def, &def->opening, error);
        if (r == 0)
                r = check_around(def, &def->closing, error);
        return r ? r : check_tokens(def, error);
}

/* Pieces that come out as they are can be no longer than their text; only odd ones grow. */
static int check_pieces(const struct tokenizer *t, struct text_error *error) {
        for (uint32_t id = 0; id < t->n_tokens; id++) {
                char piece[DETOKENIZER_PIECE_MAX];
                size_t n;

                (void)token_text(t, id, &n);
                if (n <= DETOKENIZER_PIECE_MAX / 3 - 4)
                        continue;
                n = token_write_piece(t, id, true, piece);
                if (worst_piece(piece, n) > DETOKENIZER_PIECE_MAX) {
                        (void)snprintf(error->text, sizeof(error->text),
                                       "tokenizer.ggml.tokens: token %u could give more than %u bytes of text", id,
                                       DETOKENIZER_PIECE_MAX);
                        return TOKENIZER_E_INVALID;
                }
        }
        return 0;
}

/* Models of the Phi-3 family drop white space after special tokens; their files don't say so. */
static bool strips_after_special(const struct tokenizer *t, const char *text, size_t n) {
        static const char *const kept[] = { "<unk>", "<s>", "<|endoftext|>" };
        const char *name = t->def.name ? t->def.name : "";

        if (!strcasestr(name, "phi-3") && !strcasestr(name, "phi3"))
                return false;
        for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
                if (strlen(kept[i]) == n && memcmp(kept[i], text, n) == 0)
                        return false;
        return true;
}

/* Whether spaces become U+2581, and one is put in front, before tokens are looked for: else it is the pre-tokenizer that does
 * it. */
static bool normalizes_spaces(const struct tokenizer *t) {
        return t->raw && !t->def.prefix_missing;
}

/* What added tokens that are TOKEN_NORMALIZED are looked for in. */
static int normalize(const struct tokenizer *t, const char *text, size_t n, bool prefix, struct buf *out) {
        struct buf composed = BUF_NULL(UINT32_MAX);
        int r = 0;

        if (t->def.nfc && !nfc_is_ascii(text, n)) {
                r = nfc_normalize(text, n, &composed);
                text = composed.data;
                n = composed.len;
        }
        if (r == 0)
                r = normalizes_spaces(t) ? metaspace_escape(text, n, prefix, out) : buf_append(out, text, n);
        buf_deinit(&composed);
        return r ? -ENOMEM : 0;
}

static void describe_special(const struct tokenizer *t, uint32_t id, struct special_token *ret) {
        ret->id = (int32_t)id;
        ret->text = token_text(t, id, &ret->n);
        ret->strip = strips_after_special(t, ret->text, ret->n);
        ret->ascii = ret->strip;
        if (t->def.types) {
                ret->strip = ret->strip || t->def.types[id] & TOKEN_RSTRIP;
                ret->strip_left = t->def.types[id] & TOKEN_LSTRIP;
                ret->single_word = t->def.types[id] & TOKEN_SINGLE_WORD;
        }
}

/* Their texts become what normalized text has in their place. */
static int normalize_tokens(const struct tokenizer *t, struct special_token *tokens, size_t n, struct buf *texts) {
        size_t at = 0;

        for (size_t i = 0; i < n; i++) {
                size_t before = texts->len;
                int r = tokens[i].n == 0 ? 0 : normalize(t, tokens[i].text, tokens[i].n, t->add_space_prefix, texts);

                if (r < 0)
                        return r;
                tokens[i].n = texts->len - before;
        }
        for (size_t i = 0; i < n; at += tokens[i++].n)
                tokens[i].text = texts->data + at; /* not before: the buffer has moved */
        return 0;
}

static int collect_special(struct tokenizer *t, uint8_t flags, uint8_t but_not, bool late, struct special **ret) {
        _cleanup_free_ struct special_token *tokens = NULL;
        struct buf texts = BUF_NULL(UINT32_MAX);
        size_t n = 0, cap = 0;
        int r = 0;

        for (uint32_t id = 0; id < t->n_tokens; id++)
                cap += (t->flags[id] & flags) && !(t->flags[id] & but_not);
        tokens = calloc(cap ? cap : 1, sizeof(*tokens));
        if (!tokens)
                return -ENOMEM;
        for (uint32_t id = 0; id < t->n_tokens; id++)
                if ((t->flags[id] & flags) && !(t->flags[id] & but_not) &&
                    (t->def.types && t->def.types[id] & TOKEN_NORMALIZED) == late)
                        describe_special(t, id, &tokens[n++]);
        if (late && n > 0)
                r = normalize_tokens(t, tokens, n, &texts);
        if (r == 0)
                r = special_new(ret, tokens, n, t->def.exact);
        buf_deinit(&texts);
        return r;
}

static int init(struct tokenizer *t, struct text_error *error) {
        uint64_t seed;
        int r;

        if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
                return -EIO;
        r = token_map_init(&t->map, t->def.token_bytes, t->def.token_offsets, t->n_tokens, seed);
        if (r < 0)
                return r;
        t->flags = malloc(t->n_tokens);
        if (!t->flags)
                return -ENOMEM;
        tokenizer_assign_roles(t);
        r = t->model == TOKENIZER_SPM ? spm_init(t, error) : bpe_init(t, seed, error);
        if (r == 0)
                r = check_pieces(t, error);
        if (r == 0)
                r = collect_special(t, TOKEN_HIDDEN | TOKEN_USER_DEFINED, 0, false, &t->special);
        if (r == 0)
                r = collect_special(t, TOKEN_USER_DEFINED, TOKEN_HIDDEN, false, &t->user_defined);
        if (r == 0)
                r = collect_special(t, TOKEN_HIDDEN | TOKEN_USER_DEFINED, 0, true, &t->special_late);
        if (r == 0)
                r = collect_special(t, TOKEN_USER_DEFINED, TOKEN_HIDDEN, true, &t->user_defined_late);
        return r;
}

DEFINE_CLEANUP(struct tokenizer *, tokenizer_free)

int tokenizer_new(struct tokenizer **ret, const struct tokenizer_def *def, struct text_error *error) {
        _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;
        int r;

        r = check_def(def, error);
        if (r)
                return r;
        t = calloc(1, sizeof(*t));
        if (!t)
                return -ENOMEM;
        t->model = def->model;
        t->def = *def;
        t->n_tokens = (uint32_t)def->n_tokens;
        r = init(t, error);
        if (r)
                return r;
        *ret = steal_ptr(&t);
        return 0;
}

struct tokenizer *tokenizer_free(struct tokenizer *t) {
        if (!t)
                return NULL;
        (void)special_free(t->special);
        (void)special_free(t->user_defined);
        (void)special_free(t->special_late);
        (void)special_free(t->user_defined_late);
        merge_map_deinit(&t->merges);
        token_map_deinit(&t->map);
        free(t->pairs);
        free(t->flags);
        free(t);
        return NULL;
}

/* One call of tokenizer_encode(). */
struct encoding {
        const struct tokenizer *t;
        struct merge_row *row;
        unsigned flags;
        struct token_array *out;
};

typedef int encode_fn(const struct encoding *e, const char *text, size_t n, bool after_special);

static int encode_text(const struct encoding *e, const char *text, size_t n, bool after_special) {
        const struct tokenizer *t = e->t;
        bool lenient = e->flags & TOKENIZE_LENIENT && !utf8_valid(text, n, NULL);
        bool prefix = t->add_space_prefix && after_special;
        struct buf replaced = BUF_NULL(UINT32_MAX);
        int r;

        if (n == 0)
                return 0;
        if (t->def.prefix_missing && (text[0] == ' ' || (n >= SPM_SPACE_SIZE && !memcmp(text, SPM_SPACE, SPM_SPACE_SIZE))))
                prefix = false;
        if (t->model == TOKENIZER_SPM)
                return spm_encode(t, e->row, text, n, prefix, lenient, e->out);
        if (!lenient && (!t->def.nfc || nfc_is_ascii(text, n)))
                return bpe_encode(t, e->row, text, n, prefix, e->out);
        r = lenient ? lenient_rewrite(text, n, &replaced) : nfc_normalize(text, n, &replaced);
        if (r == 0)
                r = bpe_encode(t, e->row, replaced.data, replaced.len, prefix, e->out);
        buf_deinit(&replaced);
        return r;
}

/* Text that has its prefix already, or had it in a part before. */
static int encode_prefixed(const struct encoding *e, const char *text, size_t n, bool after_special) {
        (void)after_special;
        return encode_text(e, text, n, false);
}

/* Text, special token, text, ...: each text is encoded on its own. */
static int encode_parts(const struct encoding *e, const struct special *special, const char *text, size_t n,
                        bool after_special, encode_fn *encode) {
        _cleanup_free_ struct special_match *matches = NULL;
        size_t n_matches = 0, pos = 0;
        int r;

        r = special_find(special, text, (uint32_t)n, &matches, &n_matches);
        for (size_t i = 0; r == 0 && i < n_matches; i++) {
                r = encode(e, text + pos, matches[i].start - pos, after_special);
                if (r == 0)
                        r = token_array_append(e->out, matches[i].id);
                after_special = !e->t->def.prefix_first;
                pos = matches[i].end;
        }
        if (r == 0)
                r = encode(e, text + pos, n - pos, after_special);
        return r;
}

/* What is between the tokens that were found in the text as it was written. */
static int encode_rest(const struct encoding *e, const char *text, size_t n, bool after_special) {
        const struct tokenizer *t = e->t;
        const struct special *late = e->flags & TOKENIZE_SPECIAL ? t->special_late : t->user_defined_late;
        struct buf normalized = BUF_NULL(UINT32_MAX);
        int r;

        if (!late || n == 0)
                return encode_text(e, text, n, after_special);
        r = normalize(t, text, n, t->add_space_prefix && after_special, &normalized);
        if (r == 0)
                r = encode_parts(e, late, normalized.data, normalized.len, after_special,
                                 normalizes_spaces(t) ? encode_prefixed : encode_text);
        buf_deinit(&normalized);
        return r;
}

static int append_all(struct token_array *out, const int32_t *ids, size_t n) {
        int r = 0;

        for (size_t i = 0; r == 0 && i < n; i++)
                r = token_array_append(out, ids[i]);
        return r;
}

const int32_t *tokenizer_opening(const struct tokenizer *t, size_t *ret_n) {
        const struct tokenizer_around *a = &t->def.opening;

        *ret_n = !t->add_bos ? 0 : a->n ? a->n : t->bos >= 0;
        return a->n ? a->ids : &t->bos;
}

static const int32_t *closing(const struct tokenizer *t, size_t *ret_n) {
        const struct tokenizer_around *a = &t->def.closing;

        *ret_n = !t->add_eos ? 0 : a->n ? a->n : t->eos >= 0;
        return a->n ? a->ids : &t->eos;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, unsigned flags, struct token_array *out) {
        bool extra = flags & TOKENIZE_BOS_EOS;
        size_t n_before = out->n, n_opening, n_closing;
        const int32_t *first = tokenizer_opening(t, &n_opening), *last = closing(t, &n_closing);
        struct merge_row row;
        const struct encoding e = { t, &row, flags, out };
        int r = 0;

        if (n > TEXT_MAX)
                return -E2BIG;
        merge_row_init(&row);
        row.userdata = t;
        if (n >= REMEMBER_MIN)
                r = merge_row_remember(&row);
        if (r == 0 && extra)
                r = append_all(out, first, n_opening);
        if (r == 0)
                r = encode_parts(&e, flags & TOKENIZE_SPECIAL ? t->special : t->user_defined, text, n,
                                 !(flags & TOKENIZE_CONTINUE), encode_rest); /* the start counts as a special token */
        if (r == 0 && extra)
                r = append_all(out, last, n_closing);
        merge_row_deinit(&row);
        if (r < 0)
                out->n = n_before;
        return r;
}

size_t tokenizer_n_tokens(const struct tokenizer *t) {
        return t->n_tokens;
}

bool tokenizer_is_eog(const struct tokenizer *t, int32_t id) {
        return id >= 0 && (uint32_t)id < t->n_tokens && (t->flags[id] & TOKEN_ENDS);
}

int32_t tokenizer_bos(const struct tokenizer *t) {
        return t->bos;
}

int32_t tokenizer_eos(const struct tokenizer *t) {
        return t->eos;
}

bool tokenizer_cleans_spaces(const struct tokenizer *t) {
        return t->pre && t->pre->habits & PRETOKENIZER_CLEANS;
}
