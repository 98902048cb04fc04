/* SPDX-License-Identifier: Apache-2.0 */

/* Any bytes as segment 0 of an image; everything that an accepted image hands out is touched. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "daemon/image/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t sum(const void *p, uint64_t n) {
        const unsigned char *b = p;
        uint64_t v = 0;

        for (uint64_t i = 0; i < n; i++)
                v += b[i];
        return v;
}

static uint64_t touch(const struct image *image) {
        const struct image_vocab *v = &image->vocab;
        uint64_t s = strlen(image->hparams->arch) + strlen(image->hparams->name) + strlen(v->pre);

        for (size_t i = 0; i < image->n_tensors; i++) {
                const struct image_tensor *t = image_find(image, image->tensors[i].name);

                if (t != &image->tensors[i])
                        abort();
                s += sum(image_data(image, t), t->size);
        }
        for (size_t i = 0; i < v->n_tokens; i++)
                s += sum(v->token_bytes + v->token_offsets[i], v->token_offsets[i + 1] - v->token_offsets[i]) + v->types[i] +
                     (v->scores ? v->scores[i] > 0 : 0);
        for (size_t i = 0; i < v->n_merges; i++)
                s += sum(v->merge_bytes + v->merge_offsets[i], v->merge_offsets[i + 1] - v->merge_offsets[i]);
        return s + (image->chat_template ? strlen(image->chat_template) - image->chat_template_size : 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_fd_ int fd = fd_memfd_new("input", 0);
        struct image_error error = { 0 };
        struct image image = IMAGE_NULL;
        int r;

        if (fd < 0 || write(fd, data, size) != (ssize_t)size)
                return 0;
        r = image_open(&image, &fd, 1, &error);
        if (r == 0 ? touch(&image) == UINT64_MAX : !error.text[0])
                abort(); /* no sum of small files is that large; the compiler cannot know and must touch all */
        image_close(&image);
        return 0;
}
