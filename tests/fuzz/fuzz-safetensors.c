/* SPDX-License-Identifier: Apache-2.0 */

/* Any bytes as a safetensors file: refused with a sentence, or its tensors lie within the file. */

#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "daemon/loader/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct safetensors *s, uint64_t size) {
        for (size_t i = 0; i < s->n_tensors; i++) {
                const struct safetensors_tensor *t = &s->tensors[i];

                if (t->offset > size || t->size > size - t->offset || safetensors_find(s, t->name) != t)
                        abort();
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static const char *const names[] = { "input.safetensors" };
        _cleanup_fd_ int fd = fd_memfd_new("input", 0);
        struct safetensors s = SAFETENSORS_NULL;
        struct source source = SOURCE_NULL;
        struct loader_error error = { 0 };
        int r;

        if (fd < 0 || write(fd, data, size) != (ssize_t)size)
                return 0;
        r = source_init(&source, fd, &error);
        if (!r)
                r = safetensors_read(&s, names[0], 0, &source, &error);
        if (!r)
                r = safetensors_sort(&s, names, &error);
        if (r < 0 || (r > 0 && !error.text[0]))
                abort();
        if (r == 0)
                check(&s, size);
        safetensors_deinit(&s);
        source_deinit(&source);
        return 0;
}
