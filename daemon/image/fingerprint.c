/* SPDX-License-Identifier: Apache-2.0 */

#include <string.h>

#include "fingerprint.h"

#define SAMPLES 16u      /* of a tensor, spread evenly, its beginning and end among them */
#define SAMPLE_BYTES 64u

/* Two lanes of a multiply-and-rotate mix: for telling models apart, not against malice. */
struct mix {
        uint64_t a, b;
};

static void add_word(struct mix *m, uint64_t w) {
        m->a = (m->a ^ w) * 0x9E3779B97F4A7C15u;
        m->a ^= m->a >> 29;
        m->b = ((m->b << 23 | m->b >> 41) + w) * 0xD6E8FEB86659FD93u;
        m->b ^= m->b >> 32;
}

static void add_bytes(struct mix *m, const void *data, size_t n) {
        const uint8_t *p = data;

        add_word(m, n);
        for (; n > 0; p += 8, n -= n < 8 ? n : 8) {
                uint64_t w = 0;

                memcpy(&w, p, n < 8 ? n : 8);
                add_word(m, w);
        }
}

static void add_tensor(struct mix *m, const struct image *image, const struct image_tensor *t) {
        const uint8_t *data = image_data(image, t);
        uint64_t n = t->size < SAMPLE_BYTES ? t->size : SAMPLE_BYTES;

        add_bytes(m, t->name, strnlen(t->name, sizeof(t->name)));
        add_word(m, t->fmt);
        add_word(m, t->layout);
        add_bytes(m, t->dims, sizeof(t->dims));
        add_word(m, t->size);
        for (uint64_t i = 0; i < SAMPLES; i++)
                add_bytes(m, data + (t->size - n) / (SAMPLES - 1) * i, n);
        add_bytes(m, data + t->size - n, n);
}

void image_fingerprint(const struct image *image, uint32_t variant, uint8_t ret[IMAGE_FINGERPRINT_BYTES]) {
        const struct image_vocab *v = &image->vocab;
        struct mix m = { .a = 0x243F6A8885A308D3u, .b = 0x13198A2E03707344u };

        add_bytes(&m, image->hparams, sizeof(*image->hparams));
        add_word(&m, v->n_tokens);
        if (v->n_tokens > 0)
                add_bytes(&m, v->token_bytes, (size_t)v->token_offsets[v->n_tokens]);
        for (size_t i = 0; i < image->n_tensors; i++)
                add_tensor(&m, image, &image->tensors[i]);
        if (variant) /* 0 adds nothing: as before there were variants */
                add_word(&m, variant);
        memcpy(ret, &m.a, 8);
        memcpy(ret + 8, &m.b, 8);
}
