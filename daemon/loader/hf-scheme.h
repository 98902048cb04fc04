/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a tokenizer.json says about how text is prepared and cut before it is merged: its `normalizer` and its
 * `pre_tokenizer`, told from the ones that our tokenizer knows. What is not known is refused by its text. */

#include <json-c/json.h>
#include <stdbool.h>

#include "error.h"

struct hf_scheme {
        const char *pre;     /* the pre-tokenizer's name: pretokenizers.c */
        bool byte_level;     /* tokens are written in byte-level symbols; else spaces are U+2581 */
        bool nfc;            /* text is brought to normalization form C first */
        bool prefix;         /* a space is put in front of text */
        bool prefix_first;   /* ... at its very beginning only, not behind special tokens */
        bool prefix_missing; /* ... unless there is one */
};

/* 0 or LOADER_E_*. */
int hf_scheme_read(struct hf_scheme *ret, struct json_object *root, struct loader_error *error);
