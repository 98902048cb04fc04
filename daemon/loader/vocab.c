/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The vocabulary: tokenizer.ggml.* keys (GGUF specification, "Tokenizer"). Token ids that only decorate (padding,
 * separator) may lie outside the vocabulary in files found in the wild and count as absent then; the others may not.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "daemon/image/schema.h"

#include "model.h"

#define K(name) "tokenizer.ggml." name

/* Gemma 4's is BPE with a way of its own to cut text, which its files name as the model. */
static bool is_gemma4(const char *s, size_t n) {
        return n == 6 && memcmp(s, "gemma4", 6) == 0;
}

static int read_model(struct gguf *g, enum image_vocab_model *ret) {
        char show[LOADER_SHOW_MAX];
        const char *s = NULL;
        size_t n = 0;
        int r;

        r = gguf_get_string(g, K("model"), &s, &n);
        if (r < 0)
                return LOADER_E_INVALID;
        if (r == GGUF_ABSENT || n == 0 || !gguf_find(g, K("tokens")))
                return loader_fail(g->error, LOADER_E_INVALID, "the file has no vocabulary: '%s' is missing",
                                   r == GGUF_ABSENT || n == 0 ? K("model") : K("tokens"));
        if (n == 5 && memcmp(s, "llama", 5) == 0)
                *ret = IMAGE_VOCAB_SPM;
        else if ((n == 4 && memcmp(s, "gpt2", 4) == 0) || is_gemma4(s, n))
                *ret = IMAGE_VOCAB_BPE;
        else
                return loader_fail(g->error, LOADER_E_UNSUPPORTED, "'" K("model") "' at offset %llu: the tokenizer '%s' is not supported",
                                   (unsigned long long)gguf_find(g, K("model"))->value, loader_show(show, s, n));
        return 0;
}

/* Copies an array of strings into one run of bytes with offsets. */
static int copy_strings(const struct gguf *g, const struct gguf_kv *kv, char **ret_bytes, uint64_t **ret_offsets) {
        _cleanup_free_ uint64_t *offsets = NULL;
        _cleanup_free_ char *bytes = NULL;
        uint64_t at = kv->value, total = 0, n;

        for (uint64_t i = 0; i < kv->n; i++) {
                (void)gguf_next_string(g, &at, &n);
                total += n; /* all of it is in memory: no overflow */
        }
        offsets = calloc(kv->n + 1, sizeof(*offsets));
        bytes = malloc(total + 1);
        if (!offsets || !bytes)
                return -ENOMEM;
        at = kv->value;
        for (uint64_t i = 0; i < kv->n; i++) {
                const char *s = gguf_next_string(g, &at, &n);

                (void)memcpy(bytes + offsets[i], s, n);
                offsets[i + 1] = offsets[i] + n;
        }
        bytes[total] = 0;
        *ret_bytes = steal_ptr(&bytes);
        *ret_offsets = steal_ptr(&offsets);
        return 0;
}

static int read_tokens(struct model *m, struct gguf *g, struct image_vocab *v) {
        const struct gguf_kv *kv = NULL;
        int r;

        r = gguf_get_array(g, K("tokens"), GGUF_STRING, &kv);
        if (r < 0)
                return LOADER_E_INVALID;
        if (kv->n < 1 || kv->n > IMAGE_VOCAB_MAX)
                return loader_fail(g->error, LOADER_E_INVALID, "'" K("tokens") "' at offset %llu has %llu tokens; 1 to %u are possible",
                                   (unsigned long long)kv->offset, (unsigned long long)kv->n, IMAGE_VOCAB_MAX);
        r = copy_strings(g, kv, &m->token_bytes, &m->token_offsets);
        if (r < 0)
                return r;
        v->n_tokens = kv->n;
        v->token_bytes = m->token_bytes;
        v->token_offsets = m->token_offsets;
        return 0;
}

static int wrong_count(struct gguf *g, const char *key, const struct gguf_kv *kv, size_t n_tokens) {
        return loader_fail(g->error, LOADER_E_INVALID, "'%s' at offset %llu has %llu elements for %zu tokens", key,
                           (unsigned long long)kv->offset, (unsigned long long)kv->n, n_tokens);
}

static int read_scores(struct model *m, struct gguf *g, struct image_vocab *v) {
        const struct gguf_kv *kv = NULL;
        int r;

        r = gguf_get_array(g, K("scores"), GGUF_FLOAT32, &kv);
        if (r < 0)
                return LOADER_E_INVALID;
        if (r == GGUF_ABSENT && v->model == IMAGE_VOCAB_SPM)
                return loader_fail(g->error, LOADER_E_INVALID, "'" K("scores") "' is missing");
        if (r == GGUF_ABSENT)
                return 0;
        if (kv->n != v->n_tokens)
                return wrong_count(g, K("scores"), kv, v->n_tokens);
        m->scores = calloc(kv->n, sizeof(*m->scores));
        if (!m->scores)
                return -ENOMEM;
        (void)memcpy(m->scores, g->data + kv->value, kv->n * sizeof(*m->scores));
        for (uint64_t i = 0; i < kv->n; i++)
                if (m->scores[i] != m->scores[i])
                        return loader_fail(g->error, LOADER_E_INVALID, "'" K("scores") "' at offset %llu: no number",
                                           (unsigned long long)(kv->value + i * sizeof(float)));
        v->scores = m->scores;
        return 0;
}

static int read_types(struct model *m, struct gguf *g, struct image_vocab *v) {
        const struct gguf_kv *kv = NULL;
        int r;

        kv = gguf_find(g, K("token_type"));
        r = gguf_get_array(g, K("token_type"), kv && kv->elem == GGUF_UINT32 ? GGUF_UINT32 : GGUF_INT32, &kv);
        if (r < 0)
                return LOADER_E_INVALID;
        if (r == GGUF_FOUND && kv->n != v->n_tokens)
                return wrong_count(g, K("token_type"), kv, v->n_tokens);
        m->types = malloc(v->n_tokens);
        if (!m->types)
                return -ENOMEM;
        for (uint64_t i = 0; i < v->n_tokens; i++) {
                uint32_t type = 1;

                if (r == GGUF_FOUND)
                        (void)memcpy(&type, g->data + kv->value + i * sizeof(type), sizeof(type));
                if (type > 6)
                        return loader_fail(g->error, LOADER_E_INVALID, "'" K("token_type") "' at offset %llu: %u is no type",
                                           (unsigned long long)(kv->value + i * sizeof(type)), type);
                m->types[i] = (uint8_t)(type ? type : 1); /* 0, undefined, counts as normal */
        }
        v->types = m->types;
        return 0;
}

/* Each merge is two symbols with one space between; a symbol may itself begin with what looks like one. */
static int check_merges(struct gguf *g, const struct gguf_kv *kv) {
        uint64_t at = kv->value, n;
        char show[LOADER_SHOW_MAX];

        for (uint64_t i = 0; i < kv->n; i++) {
                const char *s = gguf_next_string(g, &at, &n);
                const char *space = n > 2 ? memchr(s + 1, ' ', n - 2) : NULL;

                if (!space)
                        return loader_fail(g->error, LOADER_E_INVALID, "'" K("merges") "' at offset %llu: '%s' is no pair of symbols",
                                           (unsigned long long)(at - n), loader_show(show, s, n));
        }
        return 0;
}

static int read_merges(struct model *m, struct gguf *g, struct image_vocab *v) {
        const struct gguf_kv *kv = NULL;
        int r;

        r = gguf_get_array(g, K("merges"), GGUF_STRING, &kv);
        if (r < 0)
                return LOADER_E_INVALID;
        if (r == GGUF_ABSENT && v->model == IMAGE_VOCAB_BPE)
                return loader_fail(g->error, LOADER_E_INVALID, "'" K("merges") "' is missing");
        if (r == GGUF_ABSENT)
                return 0;
        if (kv->n > IMAGE_MERGES_MAX)
                return loader_fail(g->error, LOADER_E_INVALID, "'" K("merges") "' at offset %llu has %llu elements, too many",
                                   (unsigned long long)kv->offset, (unsigned long long)kv->n);
        r = check_merges(g, kv);
        if (!r)
                r = copy_strings(g, kv, &m->merge_bytes, &m->merge_offsets);
        if (r)
                return r;
        v->n_merges = kv->n;
        v->merge_bytes = m->merge_bytes;
        v->merge_offsets = m->merge_offsets;
        return 0;
}

static int read_ids(struct gguf *g, struct image_vocab *v) {
        const struct {
                const char *key;
                int32_t *ret;
                bool lenient;
        } ids[] = {
                { K("bos_token_id"), &v->bos, false },       { K("eos_token_id"), &v->eos, false },
                { K("eot_token_id"), &v->eot, false },       { K("eom_token_id"), &v->eom, false },
                { K("unknown_token_id"), &v->unk, false },   { K("seperator_token_id"), &v->sep, true },
                { K("padding_token_id"), &v->pad, true },
        };

        for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
                uint64_t id = UINT32_MAX;

                *ids[i].ret = -1;
                if (gguf_get_uint(g, ids[i].key, 0, UINT32_MAX, &id) < 0)
                        return LOADER_E_INVALID;
                if (id < v->n_tokens)
                        *ids[i].ret = (int32_t)id;
                else if (id != UINT32_MAX && !ids[i].lenient)
                        return loader_fail(g->error, LOADER_E_INVALID, "'%s' at offset %llu is %llu, there are %zu tokens",
                                           ids[i].key, (unsigned long long)gguf_find(g, ids[i].key)->value,
                                           (unsigned long long)id, v->n_tokens);
        }
        return 0;
}

static int read_flags(struct gguf *g, struct image_vocab *v) {
        int bos, space;

        bos = gguf_get_bool(g, K("add_bos_token"), &v->add_bos);
        space = gguf_get_bool(g, K("add_space_prefix"), &v->add_space_prefix);
        if (bos < 0 || space < 0 || gguf_get_bool(g, K("add_eos_token"), &v->add_eos) < 0 ||
            gguf_get_bool(g, K("remove_extra_whitespaces"), &v->remove_extra_whitespaces) < 0 ||
            gguf_get_bool(g, K("ignore_merges"), &v->ignore_merges) < 0)
                return LOADER_E_INVALID;
        v->has_add_bos = bos == GGUF_FOUND;
        v->has_add_space_prefix = space == GGUF_FOUND;
        return 0;
}

static int read_pre(struct model *m, struct gguf *g, struct image_vocab *v) {
        const char *s = "";
        size_t n = 0;

        if (gguf_get_string(g, K("model"), &s, &n) < 0)
                return LOADER_E_INVALID;
        if (!is_gemma4(s, n)) {
                s = "";
                n = 0;
                if (gguf_get_string(g, K("pre"), &s, &n) < 0)
                        return LOADER_E_INVALID;
        }
        m->pre = strndup(s, n);
        if (!m->pre)
                return -ENOMEM;
        v->pre = m->pre;
        return 0;
}

int model_read_vocab(struct model *m, struct gguf *g, struct image_vocab *v) {
        int r;

        r = read_model(g, &v->model);
        if (!r)
                r = read_tokens(m, g, v);
        if (!r)
                r = read_scores(m, g, v);
        if (!r)
                r = read_types(m, g, v);
        if (!r)
                r = read_merges(m, g, v);
        if (!r)
                r = read_ids(g, v);
        if (!r)
                r = read_flags(g, v);
        if (!r)
                r = read_pre(m, g, v);
        return r;
}
