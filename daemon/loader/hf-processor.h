/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a tokenizer.json puts around a prompt: its `post_processor`. */

#include <json-c/json.h>
#include <stddef.h>

#include "daemon/image/image.h"

#include "error.h"

struct hf_around {
        struct image_around before, after;
};

/* All ids are below n_tokens. 0 or LOADER_E_*. */
int hf_processor_read(struct hf_around *ret, struct json_object *root, size_t n_tokens, struct loader_error *error);
