/* SPDX-License-Identifier: Apache-2.0 */

#include "vocab.h"

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
