/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a GGUF file means: hyper-parameters, vocabulary, and which tensor goes into the image in which form. Fills an
 * image plan. Strings and tables point into the gguf and into struct model, which both must outlive the plan.
 */

#include "daemon/image/plan.h"

#include "gguf.h"

struct model {
        char *pre;               /* NUL-terminated */
        char *token_bytes;
        uint64_t *token_offsets;
        float *scores;
        uint8_t *types;
        char *merge_bytes;
        uint64_t *merge_offsets;
};

#define MODEL_NULL ((struct model){ 0 })

void model_deinit(struct model *m);
/* Reads the tensor infos too, once the architecture is known to be one of ours. A file without tensors of any
 * architecture gives a plan of its vocabulary. 0, LOADER_E_*, or -ENOMEM. */
int model_plan(struct model *m, struct gguf *g, struct image_plan *plan, uint64_t segment_max);

/* Parts of model_plan(). *ret_layers: the file's, with those that the model does without. */
int model_read_hparams(struct gguf *g, struct image_hparams *hp, uint32_t *ret_layers);
int model_read_vocab(struct model *m, struct gguf *g, struct image_vocab *vocab);
