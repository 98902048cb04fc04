/* SPDX-License-Identifier: Apache-2.0 */

#include <string.h>

#include "base/utf8.h"
#include "fake.h"

#define FIRST_PRINTABLE 32u

/* Byte-level vocabularies write a byte as a visible character: itself where it is one, else from U+0100 on, in the
 * order of the bytes (GPT-2's table). */
static uint32_t byte_character(unsigned byte) {
        uint32_t next = 0x100;

        for (unsigned b = 0; b < 256; b++) {
                bool visible = (b >= '!' && b <= '~') || (b >= 0xA1 && b != 0xAD);

                if (b == byte)
                        return visible ? b : next;
                if (!visible)
                        next++;
        }
        return 0;
}

static size_t put(struct fake_vocab *v, size_t id, size_t pos, const char *text, size_t n, uint8_t type) {
        memcpy(v->bytes + pos, text, n);
        v->types[id] = type;
        v->offsets[id + 1] = pos + n;
        return pos + n;
}

void fake_vocab_init(struct fake_vocab *v, struct tokenizer_def *ret) {
        size_t pos = 0;
        char text[4];

        memset(v, 0, sizeof(*v));
        for (unsigned i = 0; i < 256; i++)
                pos = put(v, i, pos, text, utf8_encode(byte_character((FIRST_PRINTABLE + i) % 256), text), 1);
        pos = put(v, FAKE_BOS, pos, "<s>", 3, 3);
        (void)put(v, FAKE_EOS, pos, "</s>", 4, 3);
        *ret = (struct tokenizer_def){
                .model = TOKENIZER_BPE,
                .pre = "gpt-2",
                .n_tokens = FAKE_VOCAB,
                .token_bytes = v->bytes,
                .token_offsets = v->offsets,
                .types = v->types,
                .merge_bytes = "",
                .merge_offsets = v->merge_offsets,
                .bos = FAKE_BOS,
                .eos = FAKE_EOS,
                .eot = -1,
                .eom = -1,
                .unk = -1,
                .sep = -1,
                .pad = -1,
                .add_bos = true,
                .has_add_bos = true,
        };
}
