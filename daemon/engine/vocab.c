/* SPDX-License-Identifier: Apache-2.0 */

#include <string.h>

#include "vocab.h"

static struct tokenizer_around copy_around(const struct image_around *a) {
        struct tokenizer_around around = { .n = a->n };

        _Static_assert(TOKENIZER_AROUND_MAX == IMAGE_AROUND_MAX, "both ends hold as many");
        memcpy(around.ids, a->ids, sizeof(around.ids));
        return around;
}

int vocab_to_tokenizer_def(const struct image *image, struct tokenizer_def *ret) {
        const struct image_vocab *v = &image->vocab;

        if (v->model == IMAGE_VOCAB_NONE || v->n_tokens == 0)
                return VOCAB_E_NONE;

        *ret = (struct tokenizer_def){
                .model = v->model == IMAGE_VOCAB_SPM ? TOKENIZER_SPM : TOKENIZER_BPE,
                .pre = v->pre ? v->pre : "",
                .name = image->hparams ? image->hparams->name : "",
                .n_tokens = v->n_tokens,
                .token_bytes = v->token_bytes,
                .token_offsets = v->token_offsets,
                .scores = v->scores,
                .types = v->types,
                .n_merges = v->n_merges,
                .merge_bytes = v->merge_bytes,
                .merge_offsets = v->merge_offsets,
                .bos = v->bos,
                .eos = v->eos,
                .eot = v->eot,
                .eom = v->eom,
                .unk = v->unk,
                .sep = v->sep,
                .pad = v->pad,
                .opening = copy_around(&v->opening),
                .closing = copy_around(&v->closing),
                .add_bos = v->add_bos,
                .add_eos = v->add_eos,
                .add_space_prefix = v->add_space_prefix,
                .remove_extra_whitespaces = v->remove_extra_whitespaces,
                .ignore_merges = v->ignore_merges,
                .has_add_bos = v->has_add_bos,
                .has_add_space_prefix = v->has_add_space_prefix,
                .exact = v->exact,
                .nfc = v->nfc,
                .prefix_first = v->prefix_first,
                .prefix_missing = v->prefix_missing,
        };
        return 0;
}
