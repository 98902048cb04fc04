/* SPDX-License-Identifier: Apache-2.0 */

/* Any bytes as a model file. What the loader accepts, the image's reader must accept too. */

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"
#include "daemon/image/image.h"
#include "daemon/loader/load.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Header and model only: most inputs end here, without threads and rings. */
static bool plans(int fd) {
        struct loader_error error = { 0 };
        struct source source = SOURCE_NULL;
        struct gguf g = GGUF_NULL;
        struct model m = MODEL_NULL;
        struct image_plan plan = IMAGE_PLAN_NULL;
        int r;

        r = source_init(&source, fd, &error);
        if (!r)
                r = gguf_read_metadata(&g, &source, &error);
        if (!r)
                r = model_plan(&m, &g, &plan, 1ull << 32);
        if (r < 0 || (r > 0 && !error.text[0]))
                abort();
        image_plan_deinit(&plan);
        model_deinit(&m);
        gguf_deinit(&g);
        source_deinit(&source);
        return r == 0;
}

static void load(int fd) {
        struct loader_error error = { 0 };
        struct image_error image_error;
        struct image image = IMAGE_NULL;
        int fds[IMAGE_SEGMENTS_MAX];
        size_t n_fds = 0;

        if (loader_load(fd, fds, &n_fds, &error) != 0 || image_open(&image, fds, n_fds, &image_error) != 0)
                abort();
        image_close(&image);
        for (size_t i = 0; i < n_fds; i++)
                fds[i] = fd_close(fds[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_fd_ int fd = fd_memfd_new("input", 0);

        if (fd < 0 || write(fd, data, size) != (ssize_t)size)
                return 0;
        if (plans(fd))
                load(fd);
        return 0;
}
