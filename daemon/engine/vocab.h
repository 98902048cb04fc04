/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What an image says of its vocabulary, as the tokenizer wants to hear it. The text room knows no images and images
 * know no tokenizers; this is the one place that knows both. Nothing is copied: the image must stay open for as long
 * as the tokenizer that is made from *ret.
 */

#include "daemon/image/image.h"
#include "daemon/text/tokenizer.h"

enum {
        VOCAB_E_NONE = 1, /* the image has no vocabulary */
};

/* 0 or VOCAB_E_NONE. */
int vocab_to_tokenizer_def(const struct image *image, struct tokenizer_def *ret);
