/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The vocabulary that goes with a backend that fakes: 256 tokens of one byte each, a beginning and an end. The
 * printable ASCII characters come first, and of the others the null backend never gives any by itself, so that its
 * streams are readable text; the end comes where a logit bias asks for it.
 */

#include "daemon/text/tokenizer.h"

#define FAKE_VOCAB 258u
#define FAKE_LIKELY 95u /* tokens that are given */
#define FAKE_BOS 256
#define FAKE_EOS 257
#define FAKE_CONTEXT (1u << 20)

struct fake_vocab {
        uint64_t offsets[FAKE_VOCAB + 1];
        uint64_t merge_offsets[1];
        uint8_t types[FAKE_VOCAB];
        char bytes[1024];
};

/* Fills v and a definition that points into it. */
void fake_vocab_init(struct fake_vocab *v, struct tokenizer_def *ret);
