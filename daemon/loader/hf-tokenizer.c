/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "daemon/image/schema.h"

#include "hf-processor.h"
#include "hf-scheme.h"
#include "hf-tokenizer.h"

#define DEPTH_MAX 32
/* Ids that no token has, in all: a few are found in files from the wild, and become unused tokens. */
#define HOLES_MAX 1024u

struct hf {
        struct model *m;
        struct image_vocab *v;
        struct loader_error *error;
        struct json_object *root;
        struct json_object *config; /* NULL where there is none */
        struct json_object *model;
        struct json_object *tokens; /* model.vocab */
        struct json_object *added;  /* NULL where there is none */
        const char **texts;         /* [n_tokens], NULL where no token has the id */
        size_t *sizes;              /* [n_tokens] */
        struct hf_scheme scheme;
};

static int invalid(struct hf *h, const char *key, const char *what) {
        return loader_fail(h->error, LOADER_E_INVALID, "tokenizer.json: '%s' %s", key, what);
}

static struct json_object *get(struct json_object *o, const char *key, enum json_type type) {
        struct json_object *value = NULL;

        if (!o || !json_object_object_get_ex(o, key, &value) || !json_object_is_type(value, type))
                return NULL;
        return value;
}

static bool is_true(struct json_object *o, const char *key) {
        return json_object_get_boolean(get(o, key, json_type_boolean));
}

static bool is_set(struct json_object *o, const char *key) {
        struct json_object *value = NULL;

        return json_object_object_get_ex(o, key, &value) && !json_object_is_type(value, json_type_null);
}

/* Whether a string that is a key has a NUL in it: json-c would cut the key there, and two could become one. Only for
 * documents that json-c has read, and it takes no NUL but as an escape. */
static bool has_cut_key(const char *json, size_t n) {
        const char *end = json + n, *p = json;

        while ((p = memchr(p, '"', (size_t)(end - p)))) {
                bool nul = false;

                for (p++; p < end && *p != '"'; p++)
                        if (*p == '\\' && end - p > 5)
                                nul = memcmp(++p, "u0000", 5) == 0 || nul;
                p += p < end;
                while (nul && p < end && (*p == ' ' || (*p >= '\t' && *p <= '\r')))
                        p++;
                if (nul && p < end && *p == ':')
                        return true;
        }
        return false;
}

/* Parses a document whose outermost value is an object. */
static int parse(const char *name, const char *json, size_t n, struct json_object **ret, struct loader_error *error) {
        struct json_tokener *tokener;
        struct json_object *o;
        int r = 0;

        if (n > HF_TOKENIZER_SIZE_MAX)
                return loader_fail(error, LOADER_E_INVALID, "%s has %zu bytes, at most %u are read", name, n,
                                   HF_TOKENIZER_SIZE_MAX);
        tokener = json_tokener_new_ex(DEPTH_MAX);
        if (!tokener)
                return -ENOMEM;
        json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
        o = json_tokener_parse_ex(tokener, json, (int)n);
        if (!o || !json_object_is_type(o, json_type_object)) {
                enum json_tokener_error e = json_tokener_get_error(tokener);

                r = loader_fail(error, LOADER_E_INVALID, "%s at offset %zu: %s", name,
                                json_tokener_get_parse_end(tokener),
                                e == json_tokener_success ? "no object" : json_tokener_error_desc(e));
                (void)json_object_put(o);
        } else {
                *ret = o;
                if (has_cut_key(json, n))
                        r = loader_fail(error, LOADER_E_UNSUPPORTED, "%s: a key has \\u0000 in it, which is not supported", name);
        }
        json_tokener_free(tokener);
        return r;
}

/* "" or null: what other tokenizers than BPE of whole texts use. */
static bool is_plain_option(struct json_object *model, const char *key) {
        struct json_object *s = get(model, key, json_type_string);

        return !is_set(model, key) || (s && json_object_get_string_len(s) == 0);
}

static int read_model(struct hf *h) {
        struct json_object *type;

        h->model = get(h->root, "model", json_type_object);
        if (!h->model)
                return invalid(h, "model", "is missing");
        type = get(h->model, "type", json_type_string);
        if (type && strcmp(json_object_get_string(type), "BPE") != 0) {
                char show[LOADER_SHOW_MAX];

                return loader_fail(h->error, LOADER_E_UNSUPPORTED, "tokenizer.json: 'model.type': %s is not supported, only BPE is",
                                   loader_show(show, json_object_get_string(type),
                                               (size_t)json_object_get_string_len(type)));
        }
        if (!is_plain_option(h->model, "continuing_subword_prefix") || !is_plain_option(h->model, "end_of_word_suffix"))
                return loader_fail(h->error, LOADER_E_UNSUPPORTED, "tokenizer.json: 'model' has a prefix or suffix of words, which is not supported");
        h->tokens = get(h->model, "vocab", json_type_object);
        if (!h->tokens)
                return invalid(h, "model.vocab", "is missing");
        h->added = get(h->root, "added_tokens", json_type_array);
        return 0;
}

/* Adds the text of an id. */
static int put_token(struct hf *h, const char *key, const char *text, size_t n, struct json_object *id) {
        char show[LOADER_SHOW_MAX];
        int64_t i = json_object_get_int64(id);

        if (!json_object_is_type(id, json_type_int) || i < 0 || (uint64_t)i >= h->v->n_tokens)
                return loader_fail(h->error, LOADER_E_INVALID, "tokenizer.json: '%s': the id of '%s' is out of range", key,
                                   loader_show(show, text, n));
        if (h->texts[i] && (h->sizes[i] != n || memcmp(h->texts[i], text, n) != 0))
                return loader_fail(h->error, LOADER_E_INVALID, "tokenizer.json: '%s': '%s' has id %lld, which another token has",
                                   key, loader_show(show, text, n), (long long)i);
        h->texts[i] = text;
        h->sizes[i] = n;
        return 0;
}

static struct json_object *added_at(struct hf *h, size_t i, struct json_object **ret_id) {
        struct json_object *o = json_object_array_get_idx(h->added, i);

        if (!json_object_is_type(o, json_type_object))
                return NULL;
        *ret_id = get(o, "id", json_type_int);
        return *ret_id ? get(o, "content", json_type_string) : NULL;
}

/* One past the highest id. */
static int count_tokens(struct hf *h) {
        size_t n_given = (size_t)json_object_object_length(h->tokens), n_added;
        int64_t last = -1;

        n_added = h->added ? json_object_array_length(h->added) : 0;
        json_object_object_foreach(h->tokens, key, value) {
                (void)key;
                last = MAX(last, json_object_get_int64(value));
        }
        for (size_t i = 0; i < n_added; i++) {
                struct json_object *id = NULL;

                if (!added_at(h, i, &id))
                        return loader_fail(h->error, LOADER_E_INVALID, "tokenizer.json: 'added_tokens[%zu]' has no id or no content", i);
                last = MAX(last, json_object_get_int64(id));
        }
        if (last < 0 || last >= IMAGE_VOCAB_MAX || (uint64_t)last >= n_given + n_added + HOLES_MAX)
                return loader_fail(h->error, LOADER_E_INVALID, "tokenizer.json: 'model.vocab' and 'added_tokens' have ids up to %lld for %zu tokens",
                                   (long long)last, n_given + n_added);
        h->v->n_tokens = (size_t)last + 1;
        return 0;
}

static int put_tokens(struct hf *h) {
        size_t n_added = h->added ? json_object_array_length(h->added) : 0, n_holes = 0, total = 0;
        int r = 0;

        json_object_object_foreach(h->tokens, key, value) {
                r = put_token(h, "model.vocab", key, strlen(key), value);
                if (r)
                        return r;
        }
        for (size_t i = 0; i < n_added; i++) {
                struct json_object *id = NULL, *content = added_at(h, i, &id);

                r = put_token(h, "added_tokens", json_object_get_string(content),
                              (size_t)json_object_get_string_len(content), id);
                if (r)
                        return r;
        }
        for (size_t i = 0; i < h->v->n_tokens; i++) {
                n_holes += !h->texts[i];
                total += h->sizes[i]; /* all of it is in memory: no overflow */
        }
        if (n_holes > HOLES_MAX)
                return loader_fail(h->error, LOADER_E_INVALID, "tokenizer.json: 'model.vocab' leaves out %zu ids", n_holes);
        h->m->token_bytes = malloc(total + 1);
        h->m->token_offsets = calloc(h->v->n_tokens + 1, sizeof(uint64_t));
        h->m->types = malloc(h->v->n_tokens);
        return h->m->token_bytes && h->m->token_offsets && h->m->types ? 0 : -ENOMEM;
}

static bool is_byte_token(const char *s, size_t n) {
        return n == 6 && memcmp(s, "<0x", 3) == 0 && s[5] == '>' && strspn(s + 3, "0123456789ABCDEF") == 2;
}

enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5, BYTE = 6 };

static void lay_out_tokens(struct hf *h) {
        bool bytes = is_true(h->model, "byte_fallback");
        uint64_t at = 0;

        for (size_t i = 0; i < h->v->n_tokens; i++) {
                h->m->types[i] = !h->texts[i] ? UNUSED : bytes && is_byte_token(h->texts[i], h->sizes[i]) ? BYTE : NORMAL;
                if (h->texts[i])
                        memcpy(h->m->token_bytes + at, h->texts[i], h->sizes[i]);
                at += h->sizes[i];
                h->m->token_offsets[i + 1] = at;
        }
        for (size_t i = 0; h->added && i < json_object_array_length(h->added); i++) {
                struct json_object *o = json_object_array_get_idx(h->added, i), *id = get(o, "id", json_type_int);
                uint8_t *type = &h->m->types[json_object_get_int64(id)];

                *type = is_true(o, "special") ? CONTROL : USER_DEFINED;
                *type |= (is_true(o, "lstrip") ? IMAGE_TOKEN_LSTRIP : 0) | (is_true(o, "rstrip") ? IMAGE_TOKEN_RSTRIP : 0) |
                         (is_true(o, "single_word") ? IMAGE_TOKEN_SINGLE_WORD : 0) |
                         (is_true(o, "normalized") ? IMAGE_TOKEN_NORMALIZED : 0);
        }
        h->v->token_bytes = h->m->token_bytes;
        h->v->token_offsets = h->m->token_offsets;
        h->v->types = h->m->types;
}

static int read_tokens(struct hf *h) {
        int r;

        r = count_tokens(h);
        if (r)
                return r;
        h->texts = calloc(h->v->n_tokens, sizeof(*h->texts));
        h->sizes = calloc(h->v->n_tokens, sizeof(*h->sizes));
        if (!h->texts || !h->sizes)
                return -ENOMEM;
        r = put_tokens(h);
        if (!r)
                lay_out_tokens(h);
        return r;
}

struct merge {
        const char *left;
        const char *right;
        size_t n_left;
        size_t n_right;
};

/* A merge is "left right" or ["left", "right"]. */
static bool split_merge(struct json_object *o, struct merge *ret) {
        struct json_object *left, *right;
        const char *s, *blank, *end;

        if (json_object_is_type(o, json_type_array)) {
                left = json_object_array_get_idx(o, 0);
                right = json_object_array_get_idx(o, 1);
                if (json_object_array_length(o) != 2 || !json_object_is_type(left, json_type_string) ||
                    !json_object_is_type(right, json_type_string))
                        return false;
                *ret = (struct merge){ json_object_get_string(left), json_object_get_string(right),
                                       (size_t)json_object_get_string_len(left),
                                       (size_t)json_object_get_string_len(right) };
                /* one space between is how an image has them */
                return ret->n_left && ret->n_right && !memchr(ret->left, ' ', ret->n_left) &&
                       !memchr(ret->right, ' ', ret->n_right);
        }
        s = json_object_is_type(o, json_type_string) ? json_object_get_string(o) : "";
        end = s + (*s ? (size_t)json_object_get_string_len(o) : 0);
        blank = memchr(s, ' ', (size_t)(end - s));
        if (!blank || blank == s || blank + 1 == end || memchr(blank + 1, ' ', (size_t)(end - blank - 1)))
                return false;
        *ret = (struct merge){ s, blank + 1, (size_t)(blank - s), (size_t)(end - blank - 1) };
        return true;
}

#define SYMBOL_MAX 1024u

/* Whether the vocabulary has both halves and what they make. */
static bool is_merge_known(const struct hf *h, const struct merge *m) {
        char text[2 * SYMBOL_MAX + 1];
        struct json_object *id;

        if (m->n_left > SYMBOL_MAX || m->n_right > SYMBOL_MAX)
                return false;
        memcpy(text, m->left, m->n_left);
        memcpy(text + m->n_left, m->right, m->n_right);
        text[m->n_left + m->n_right] = 0;
        if (strlen(text) != m->n_left + m->n_right) /* no key has a NUL */
                return false;
        if (!json_object_object_get_ex(h->tokens, text, &id))
                return false;
        text[m->n_left] = 0;
        return json_object_object_get_ex(h->tokens, text, &id) &&
               json_object_object_get_ex(h->tokens, m->right, &id);
}

static int read_merges(struct hf *h) {
        struct json_object *list = get(h->model, "merges", json_type_array);
        size_t n, total = 0;
        uint64_t at = 0;

        if (!list)
                return invalid(h, "model.merges", "is missing");
        n = json_object_array_length(list);
        if (n > IMAGE_MERGES_MAX)
                return invalid(h, "model.merges", "has too many elements");
        for (size_t i = 0; i < n; i++) {
                struct merge merge;

                if (!split_merge(json_object_array_get_idx(list, i), &merge))
                        return loader_fail(h->error, LOADER_E_INVALID, "tokenizer.json: 'model.merges[%zu]' is no pair of symbols", i);
                if (!is_merge_known(h, &merge))
                        return loader_fail(h->error, LOADER_E_INVALID, "tokenizer.json: 'model.merges[%zu]' joins what 'model.vocab' does not have", i);
                total += merge.n_left + 1 + merge.n_right;
        }
        h->m->merge_bytes = malloc(total + 1);
        h->m->merge_offsets = calloc(n + 1, sizeof(uint64_t));
        if (!h->m->merge_bytes || !h->m->merge_offsets)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                struct merge merge;

                if (!split_merge(json_object_array_get_idx(list, i), &merge))
                        break; /* all were seen above */
                memcpy(h->m->merge_bytes + at, merge.left, merge.n_left);
                h->m->merge_bytes[at + merge.n_left] = ' ';
                memcpy(h->m->merge_bytes + at + merge.n_left + 1, merge.right, merge.n_right);
                at += merge.n_left + 1 + merge.n_right;
                h->m->merge_offsets[i + 1] = at;
        }
        h->v->n_merges = n;
        h->v->merge_bytes = h->m->merge_bytes;
        h->v->merge_offsets = h->m->merge_offsets;
        return 0;
}

/* -1 where no token has this text. Added tokens go first. */
static int32_t find_token(struct hf *h, struct json_object *name) {
        struct json_object *id = NULL;
        const char *s = json_object_get_string(name);

        if (!json_object_is_type(name, json_type_string))
                return -1;
        for (size_t i = 0; h->added && i < json_object_array_length(h->added); i++)
                if (json_object_equal(added_at(h, i, &id), name))
                        return json_object_get_int(id);
        if (strlen(s) != (size_t)json_object_get_string_len(name)) /* no key has a NUL */
                return -1;
        return json_object_object_get_ex(h->tokens, s, &id) ? json_object_get_int(id) : -1;
}

/* The configuration names special tokens by their text, bare or as an added token's "content". */
static int32_t find_configured(struct hf *h, const char *key) {
        struct json_object *o = get(h->config, key, json_type_object);

        return find_token(h, o ? get(o, "content", json_type_string) : get(h->config, key, json_type_string));
}

/* What stands around a prompt. A single token is BOS or EOS, whatever the configuration calls so; several are a list. */
static void set_around(struct hf *h, const struct hf_around *around) {
        struct image_vocab *v = h->v;

        v->add_bos = around->before.n > 0;
        v->add_eos = around->after.n > 0;
        if (around->before.n == 1)
                v->bos = around->before.ids[0];
        else
                v->opening = around->before;
        if (around->after.n == 1)
                v->eos = around->after.ids[0];
        else
                v->closing = around->after;
}

static int read_roles(struct hf *h) {
        struct image_vocab *v = h->v;
        struct hf_around around;
        int r;

        r = hf_processor_read(&around, h->root, v->n_tokens, h->error);
        if (r)
                return r;

        v->bos = find_configured(h, "bos_token");
        v->eos = find_configured(h, "eos_token");
        v->pad = find_configured(h, "pad_token");
        v->sep = find_configured(h, "sep_token");
        v->unk = find_token(h, get(h->model, "unk_token", json_type_string));
        v->eot = v->eom = -1;
        set_around(h, &around);
        if (get(h->config, "add_bos_token", json_type_boolean))
                v->add_bos = is_true(h->config, "add_bos_token") && (v->bos >= 0 || v->opening.n > 0);
        if (get(h->config, "add_eos_token", json_type_boolean))
                v->add_eos = is_true(h->config, "add_eos_token") && (v->eos >= 0 || v->closing.n > 0);
        v->has_add_bos = true;
        if (v->unk >= 0 && (h->m->types[v->unk] & IMAGE_TOKEN_TYPE) != USER_DEFINED)
                h->m->types[v->unk] = (uint8_t)((h->m->types[v->unk] & ~IMAGE_TOKEN_TYPE) | UNKNOWN);
        return 0;
}

static int read_scheme(struct hf *h) {
        struct image_vocab *v = h->v;
        int r;

        r = hf_scheme_read(&h->scheme, h->root, h->error);
        if (r)
                return r;
        h->m->pre = strdup(h->scheme.pre);
        if (!h->m->pre)
                return -ENOMEM;
        v->model = IMAGE_VOCAB_BPE;
        v->pre = h->m->pre;
        v->has_add_space_prefix = true;
        v->add_space_prefix = h->scheme.prefix;
        v->prefix_first = h->scheme.prefix_first;
        v->prefix_missing = h->scheme.prefix_missing;
        v->nfc = h->scheme.nfc;
        v->exact = true;
        v->ignore_merges = is_true(h->model, "ignore_merges");
        return 0;
}

static int read_all(struct hf *h, const char *json, size_t n, const char *config_json, size_t n_config) {
        int r;

        r = parse("tokenizer.json", json, n, &h->root, h->error);
        if (!r && config_json)
                r = parse("tokenizer_config.json", config_json, n_config, &h->config, h->error);
        if (!r)
                r = read_model(h);
        if (!r)
                r = read_scheme(h);
        if (!r)
                r = read_tokens(h);
        if (!r)
                r = read_merges(h);
        if (!r)
                r = read_roles(h);
        return r;
}

int hf_tokenizer_read(struct model *m, const char *json, size_t n, const char *config_json, size_t n_config,
                      struct image_vocab *vocab, struct loader_error *error) {
        struct image_vocab v = { 0 };
        struct hf h = { .m = m, .v = &v, .error = error };
        int r;

        r = read_all(&h, json, n, config_json, n_config);
        if (!r)
                *vocab = v;
        free(h.texts);
        free(h.sizes);
        (void)json_object_put(h.root);
        (void)json_object_put(h.config);
        return r;
}

int hf_tokenizer_pad(struct model *m, struct image_vocab *vocab, size_t n_tokens, struct loader_error *error) {
        uint64_t *offsets;
        uint8_t *types;

        if (n_tokens < vocab->n_tokens || n_tokens > IMAGE_VOCAB_MAX)
                return loader_fail(error, LOADER_E_INVALID, "tokenizer.json has %zu tokens, the model has %zu", vocab->n_tokens,
                                   n_tokens);
        offsets = realloc(m->token_offsets, (n_tokens + 1) * sizeof(*offsets));
        if (!offsets)
                return -ENOMEM;
        vocab->token_offsets = m->token_offsets = offsets;
        types = realloc(m->types, n_tokens);
        if (!types)
                return -ENOMEM;
        vocab->types = m->types = types;
        for (size_t i = vocab->n_tokens; i < n_tokens; i++) {
                offsets[i + 1] = offsets[i];
                types[i] = UNUSED;
        }
        vocab->n_tokens = n_tokens;
        return 0;
}
