/* SPDX-License-Identifier: Apache-2.0 */

/* Figures as the models' publishers give them in their configuration. */

#include <stdio.h>
#include <string.h>

#include "base/macro.h"

#include "arch.h"
#include "shapes.h"

static const struct shape {
        const char *name;
        bool tied;
        struct image_hparams hp;
} shapes[] = {
        { "llama-1b", true,
          { .arch = "llama", .n_vocab = 128256, .n_ctx = 131072, .n_embd = 2048, .n_layer = 16, .n_ff = 8192,
            .n_head = 32, .n_head_kv = 8, .head_dim = 64, .rope_base = 500000 } },
        { "llama-8b", false,
          { .arch = "llama", .n_vocab = 128256, .n_ctx = 131072, .n_embd = 4096, .n_layer = 32, .n_ff = 14336,
            .n_head = 32, .n_head_kv = 8, .head_dim = 128, .rope_base = 500000 } },
        { "llama-70b", false,
          { .arch = "llama", .n_vocab = 128256, .n_ctx = 131072, .n_embd = 8192, .n_layer = 80, .n_ff = 28672,
            .n_head = 64, .n_head_kv = 8, .head_dim = 128, .rope_base = 500000 } },
        { "qwen3-32b", false,
          { .arch = "qwen3", .n_vocab = 151936, .n_ctx = 40960, .n_embd = 5120, .n_layer = 64, .n_ff = 25600,
            .n_head = 64, .n_head_kv = 8, .head_dim = 128, .rope_base = 1000000 } },
        { "gpt-oss-20b", false,
          { .arch = "gpt-oss", .n_vocab = 201088, .n_ctx = 131072, .n_embd = 2880, .n_layer = 24, .n_ff = 2880,
            .n_head = 64, .n_head_kv = 8, .head_dim = 64, .rope_base = 150000, .window = 128, .n_expert = 32,
            .n_expert_used = 4, .n_ff_expert = 2880 } },
        { "gpt-oss-120b", false,
          { .arch = "gpt-oss", .n_vocab = 201088, .n_ctx = 131072, .n_embd = 2880, .n_layer = 36, .n_ff = 2880,
            .n_head = 64, .n_head_kv = 8, .head_dim = 64, .rope_base = 150000, .window = 128, .n_expert = 128,
            .n_expert_used = 4, .n_ff_expert = 2880 } },
};

bool image_shape_find(const char *name, struct image_hparams *ret, bool *ret_tied) {
        for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
                const struct image_arch *arch = image_arch_find(shapes[i].hp.arch);

                if (!arch || strcmp(shapes[i].name, name) != 0)
                        continue;
                *ret = shapes[i].hp;
                (void)snprintf(ret->name, sizeof(ret->name), "%s", name);
                ret->n_rot = ret->head_dim;
                ret->norm_eps = 1e-5f;
                if (ret->window)
                        ret->window_layers = image_arch_pattern(ret->n_layer, arch->window_period);
                image_arch_defaults(arch, ret);
                *ret_tied = shapes[i].tied;
                return true;
        }
        return false;
}

const char *image_shape_name(size_t i) {
        return i < ARRAY_SIZE(shapes) ? shapes[i].name : NULL;
}

const char *image_shape_names(char *out, size_t size) {
        size_t n = 0;

        *out = 0;
        for (size_t i = 0; i < ARRAY_SIZE(shapes) && n < size; i++) {
                int k = snprintf(out + n, size - n, "%s%s", i ? ", " : "", shapes[i].name);

                n += k > 0 ? (size_t)k : 0;
        }
        return out;
}
