/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Inside of the model: binding an image. Functions return 0, MODEL_E_* with the error filled in, or negative: the
 * backend is lost. */

#include "daemon/image/arch.h"
#include "model.h"

struct binder {
        struct lm *m;
        struct image *image;
        const struct image_arch *arch;
        struct model_error *error;
        uint64_t bound_bytes; /* so far */
        uint64_t words_bytes[FMT_END]; /* of matrices, to tell the most used format */
};

int model_refuse(struct model_error *error, int code, const char *format, ...) _printf_(3, 4);
/* Waits for a tensor of an image that is still being written. 0, MODEL_E_INVALID, or what ended the waiting. */
int model_await(const struct binder *b, const struct image_tensor *t);
/* Waits until the backend has all weights that it was given (backend.h, settle). 0, or negative. */
int model_settle(const struct lm *m);
/* All weights. */
int model_bind(struct binder *b);
/* All rotary embeddings. */
int model_bind_rope(struct binder *b);
