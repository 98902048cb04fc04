/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Prompts of a wanted number of tokens: rows of plain words. How many tokens a word is depends on the model, so each word
 * is measured once with the model's own tokenizer, behind another word; then a prompt's size is a sum. (Byte-level BPE
 * and SentencePiece models both split in front of a space, so the sum is what the whole text gives.)
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "load-random.h"

#define LOAD_WORDS 96u

struct load_words {
        uint32_t first;            /* tokens of load_words_first alone, with what the model puts in front of a prompt */
        uint32_t cost[LOAD_WORDS]; /* tokens that " word" adds */
};

/* The word each prompt begins with, and the others. */
extern const char load_words_first[];
extern const char *const load_words_all[LOAD_WORDS];

/* Takes the measures: `first` tokens for load_words_first, `with[i]` for "FIRST word". False when they make no sense. */
bool load_words_init(struct load_words *w, uint32_t first, const uint32_t with[LOAD_WORDS]);

/* Appends words until `tokens` more are reached, as near as the words' sizes allow and never beyond. Each has a space
 * in front. Returns the tokens that were added; *ret_error (may be NULL) is set to BUF_E_LIMIT or -ENOMEM on failure. */
uint32_t load_words_append(const struct load_words *w, struct buf *text, struct load_random *random, uint32_t tokens,
                           int *ret_error);

/* A whole prompt of `tokens` tokens, of which the first `shared` come from the stream `common` and the others from
 * `own`. Replaces what text holds. 0, BUF_E_LIMIT or -ENOMEM. */
int load_words_prompt(const struct load_words *w, struct buf *text, struct load_random common, struct load_random *own,
                      uint32_t shared, uint32_t tokens);
