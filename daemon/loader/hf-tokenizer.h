/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * tokenizer.json, as Hugging Face's library "tokenizers" writes it, read into an image's vocabulary: BPE of bytes or of
 * characters. The twin of vocab.c, which reads GGUF's keys. Errors name the key that is wrong.
 */

#include <stddef.h>

#include "daemon/image/plan.h"

#include "error.h"
#include "model.h"

#define HF_TOKENIZER_SIZE_MAX (128u << 20)

/*
 * json is tokenizer.json; config_json is tokenizer_config.json, or NULL where there is none. Tables are allocated in *m
 * (see model_deinit(), also after a failure) and *vocab points there. 0, LOADER_E_INVALID, LOADER_E_UNSUPPORTED, or
 * -ENOMEM.
 */
int hf_tokenizer_read(struct model *m, const char *json, size_t n, const char *config_json, size_t n_config,
                      struct image_vocab *vocab, struct loader_error *error);

/* Adds unused tokens without text until there are n_tokens: models have more rows than their tokenizer has tokens. 0,
 * LOADER_E_INVALID where there are fewer, or -ENOMEM. */
int hf_tokenizer_pad(struct model *m, struct image_vocab *vocab, size_t n_tokens, struct loader_error *error);
