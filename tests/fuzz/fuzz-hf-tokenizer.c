/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Any bytes as tokenizer.json. What must hold: it is refused with a sentence, or it gives a vocabulary that the image's
 * rules allow and a tokenizer that either is refused or takes a text.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/engine/vocab.h"
#include "daemon/loader/hf-tokenizer.h"
#include "daemon/text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds) {
        if (!holds)
                abort();
}

static void check_vocab(const struct image_vocab *v) {
        const int32_t ids[] = { v->bos, v->eos, v->eot, v->eom, v->unk, v->sep, v->pad };

        must(v->n_tokens > 0 && v->pre && v->token_offsets[0] == 0);
        for (size_t i = 0; i < v->n_tokens; i++)
                must(v->token_offsets[i] <= v->token_offsets[i + 1] && (v->types[i] & IMAGE_TOKEN_TYPE) >= 1 &&
                     (v->types[i] & IMAGE_TOKEN_TYPE) <= 6);
        for (size_t i = 0; i < v->n_merges; i++)
                must(v->merge_offsets[i] + 3 <= v->merge_offsets[i + 1]);
        for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++)
                must(ids[i] >= -1 && ids[i] < (int32_t)v->n_tokens);
        must(v->opening.n <= IMAGE_AROUND_MAX && v->closing.n <= IMAGE_AROUND_MAX);
        for (size_t i = 0; i < IMAGE_AROUND_MAX; i++)
                must(v->opening.ids[i] >= 0 && v->opening.ids[i] < (int32_t)v->n_tokens && v->closing.ids[i] >= 0 &&
                     v->closing.ids[i] < (int32_t)v->n_tokens);
}

static void use_tokenizer(const struct image_vocab *v) {
        static const char text[] = "Hello <s> a\xcc\x81\xff 123\n\n  w\xc3\xb6rld";
        struct image image = { .vocab = *v };
        struct token_array ids = { 0 };
        struct tokenizer *t = NULL;
        struct tokenizer_def def;
        struct text_error error = { 0 };
        int r;

        must(vocab_to_tokenizer_def(&image, &def) == 0);
        r = tokenizer_new(&t, &def, &error);
        must(r == 0 || (r > 0 && error.text[0]));
        if (r)
                return;
        must(tokenizer_encode(t, text, sizeof(text) - 1, TOKENIZE_SPECIAL | TOKENIZE_BOS_EOS, &ids) == 0);
        for (size_t i = 0; i < ids.n; i++)
                must(ids.ids[i] >= 0 && (size_t)ids.ids[i] < v->n_tokens);
        token_array_deinit(&ids);
        (void)tokenizer_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct loader_error error = { 0 };
        struct image_vocab v = { 0 };
        struct model m = MODEL_NULL;
        const char *json = (const char *)data;
        const char *config = size ? memchr(json, '\n', size) : NULL; /* a second line: tokenizer_config.json */
        size_t n = config ? (size_t)(config - json) : size;
        int r;

        if (config)
                config++;
        r = hf_tokenizer_read(&m, json, n, config, config ? size - n - 1 : 0, &v, &error);
        must(r == 0 || (r > 0 && error.text[0]));
        if (r == 0) {
                check_vocab(&v);
                use_tokenizer(&v);
        }
        model_deinit(&m);
        return 0;
}
