/* SPDX-License-Identifier: Apache-2.0 */

/* The vocabulary of an image: checked, and handed out. */

#include "base/macro.h"

#include "image-private.h"
#include "schema.h"

static int check_offsets(struct image_reader *r, enum image_section i, const uint64_t *offsets, uint64_t n, uint64_t bytes) {
        for (uint64_t k = 0; k <= n; k++)
                if (offsets[k] > bytes || (k > 0 ? offsets[k] < offsets[k - 1] : offsets[k] != 0))
                        return image_fault(r, image_table_offset(r, i, k * sizeof(uint64_t)), "'%s' is out of order or range",
                                           image_section_names[i]);
        if (offsets[n] != bytes)
                return image_fault(r, image_table_offset(r, i, n * sizeof(uint64_t)), "'%s' does not end at the end",
                                   image_section_names[i]);
        return 0;
}

static int check_token_ids(struct image_reader *r, const struct image_vocab_record *v) {
        const int32_t ids[] = { v->bos, v->eos, v->eot, v->eom, v->unk, v->sep, v->pad };

        for (size_t i = 0; i < ARRAY_SIZE(ids); i++)
                if (ids[i] < -1 || (ids[i] >= 0 && (uint64_t)ids[i] >= v->n_tokens))
                        return image_fault(r, image_table_offset(r, IMAGE_SECTION_VOCAB,
                                                                 offsetof(struct image_vocab_record, bos) + i * sizeof(int32_t)),
                                           "token id %d is not in the vocabulary", ids[i]);
        return 0;
}

static int check_around(struct image_reader *r, const struct image_vocab_record *v, const struct image_around *a) {
        size_t at = (size_t)((const char *)a - (const char *)v);

        if (a->n > IMAGE_AROUND_MAX)
                return image_fault(r, image_table_offset(r, IMAGE_SECTION_VOCAB, at),
                                   "%u tokens around a prompt, at most %u are allowed", a->n, IMAGE_AROUND_MAX);
        for (size_t i = 0; i < a->n; i++)
                if (a->ids[i] < 0 || (uint64_t)a->ids[i] >= v->n_tokens)
                        return image_fault(r, image_table_offset(r, IMAGE_SECTION_VOCAB, at),
                                           "token id %d is not in the vocabulary", a->ids[i]);
        return 0;
}

static int check_vocab_record(struct image_reader *r, const struct image_vocab_record *v) {
        int e;

        if (v->model != IMAGE_VOCAB_SPM && v->model != IMAGE_VOCAB_BPE)
                return image_fault(r, image_table_offset(r, IMAGE_SECTION_VOCAB, 0),
                                   "vocabulary model %u is not known", v->model);
        if (v->flags & ~(uint32_t)IMAGE_VOCAB_FLAGS_ALL)
                return image_fault(r, image_table_offset(r, IMAGE_SECTION_VOCAB, 4), "unknown vocabulary flags");
        if (v->n_tokens < 1 || v->n_tokens > IMAGE_VOCAB_MAX || v->n_merges > IMAGE_MERGES_MAX)
                return image_fault(r, image_table_offset(r, IMAGE_SECTION_VOCAB, 8), "%llu tokens, %llu merges: out of range",
                                   (unsigned long long)v->n_tokens, (unsigned long long)v->n_merges);
        e = check_token_ids(r, v);
        if (!e)
                e = check_around(r, v, &v->opening);
        if (!e)
                e = check_around(r, v, &v->closing);
        if (!e)
                e = image_expect_size(r, IMAGE_SECTION_TOKEN_OFFSETS, v->n_tokens + 1, sizeof(uint64_t));
        if (!e && (r->header->sections[IMAGE_SECTION_SCORES].size > 0 || v->model == IMAGE_VOCAB_SPM))
                e = image_expect_size(r, IMAGE_SECTION_SCORES, v->n_tokens, sizeof(float));
        if (!e)
                e = image_expect_size(r, IMAGE_SECTION_TYPES, v->n_tokens, 1);
        if (!e)
                e = image_expect_size(r, IMAGE_SECTION_MERGE_OFFSETS, v->n_merges + 1, sizeof(uint64_t));
        return e;
}

static int check_vocab_tables(struct image_reader *r, const struct image_vocab_record *v) {
        const uint8_t *types = image_table(r, IMAGE_SECTION_TYPES);
        const float *scores = image_table(r, IMAGE_SECTION_SCORES);
        bool has_scores = r->header->sections[IMAGE_SECTION_SCORES].size > 0;
        int e;

        e = check_offsets(r, IMAGE_SECTION_TOKEN_OFFSETS, image_table(r, IMAGE_SECTION_TOKEN_OFFSETS), v->n_tokens,
                          r->header->sections[IMAGE_SECTION_TOKEN_BYTES].size);
        if (!e)
                e = check_offsets(r, IMAGE_SECTION_MERGE_OFFSETS, image_table(r, IMAGE_SECTION_MERGE_OFFSETS), v->n_merges,
                                  r->header->sections[IMAGE_SECTION_MERGE_BYTES].size);
        for (uint64_t i = 0; i < v->n_tokens && !e; i++)
                if ((types[i] & IMAGE_TOKEN_TYPE) < 1 || (types[i] & IMAGE_TOKEN_TYPE) > 6)
                        e = image_fault(r, image_table_offset(r, IMAGE_SECTION_TYPES, i), "token type %u is not known", types[i]);
                else if (has_scores && scores[i] != scores[i])
                        e = image_fault(r, image_table_offset(r, IMAGE_SECTION_SCORES, i * sizeof(float)),
                                        "the score of token %llu is not a number", (unsigned long long)i);
        return e;
}

static void publish_vocab(struct image_reader *r, const struct image_vocab_record *v) {
        r->image->vocab = (struct image_vocab){
                .model = (enum image_vocab_model)v->model,
                .pre = image_table(r, IMAGE_SECTION_PRE),
                .n_tokens = v->n_tokens,
                .token_bytes = image_table(r, IMAGE_SECTION_TOKEN_BYTES),
                .token_offsets = image_table(r, IMAGE_SECTION_TOKEN_OFFSETS),
                .scores = r->header->sections[IMAGE_SECTION_SCORES].size ? image_table(r, IMAGE_SECTION_SCORES) : NULL,
                .types = image_table(r, IMAGE_SECTION_TYPES),
                .n_merges = v->n_merges,
                .merge_bytes = image_table(r, IMAGE_SECTION_MERGE_BYTES),
                .merge_offsets = image_table(r, IMAGE_SECTION_MERGE_OFFSETS),
                .bos = v->bos,
                .eos = v->eos,
                .eot = v->eot,
                .eom = v->eom,
                .unk = v->unk,
                .sep = v->sep,
                .pad = v->pad,
                .opening = v->opening,
                .closing = v->closing,
                .add_bos = v->flags & IMAGE_VOCAB_ADD_BOS,
                .add_eos = v->flags & IMAGE_VOCAB_ADD_EOS,
                .add_space_prefix = v->flags & IMAGE_VOCAB_ADD_SPACE_PREFIX,
                .remove_extra_whitespaces = v->flags & IMAGE_VOCAB_REMOVE_EXTRA_WHITESPACES,
                .ignore_merges = v->flags & IMAGE_VOCAB_IGNORE_MERGES,
                .has_add_bos = v->flags & IMAGE_VOCAB_HAS_ADD_BOS,
                .has_add_space_prefix = v->flags & IMAGE_VOCAB_HAS_ADD_SPACE_PREFIX,
                .exact = v->flags & IMAGE_VOCAB_EXACT,
                .nfc = v->flags & IMAGE_VOCAB_NFC,
                .prefix_first = v->flags & IMAGE_VOCAB_PREFIX_FIRST,
                .prefix_missing = v->flags & IMAGE_VOCAB_PREFIX_MISSING,
        };
}

int image_check_vocab(struct image_reader *r) {
        const struct image_vocab_record *v = image_table(r, IMAGE_SECTION_VOCAB);
        int e;

        e = image_expect_size(r, IMAGE_SECTION_VOCAB, 1, sizeof(*v));
        if (!e)
                e = check_vocab_record(r, v);
        if (!e)
                e = check_vocab_tables(r, v);
        if (!e)
                e = image_check_string(r, IMAGE_SECTION_PRE);
        if (!e)
                publish_vocab(r, v);
        return e;
}
