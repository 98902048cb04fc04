/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "loadlink.h"
#include "modeldir.h"

#include "load.h"

_Static_assert(MODELDIR_TEXT_MAX == sizeof(((struct loader_error *)NULL)->text), "a sentence must fit");
_Static_assert(LOADLINK_SEGMENTS_MAX == IMAGE_SEGMENTS_MAX, "a plan must fit a record");

int loader_init(struct loader *l, int input_fd, struct loader_error *error) {
        int r;

        *l = (struct loader){ .error = error, .source = SOURCE_NULL };
        r = source_init(&l->source, input_fd, error);
        if (r)
                return r;
        return copy_init(&l->copy, &l->source);
}

int loader_init_directory(struct loader *l, const char *const *names, const int *fds, size_t n, struct loader_error *error) {
        *l = (struct loader){ .error = error, .source = SOURCE_NULL };
        l->hf = calloc(1, sizeof(*l->hf));
        return l->hf ? hf_init(l->hf, names, fds, n, error) : -ENOMEM;
}

void loader_deinit(struct loader *l) {
        if (l->hf)
                hf_deinit(l->hf);
        free(l->hf);
        copy_deinit(&l->copy);
        image_plan_deinit(&l->plan);
        model_deinit(&l->model);
        gguf_deinit(&l->gguf);
        source_deinit(&l->source);
}

int loader_plan(struct loader *l) {
        int r;

        if (l->hf)
                return hf_plan(l->hf, &l->model, &l->plan, LOADLINK_SEGMENT_BYTES);
        r = gguf_read_metadata(&l->gguf, &l->source, l->error);
        if (r)
                return r;
        return model_plan(&l->model, &l->gguf, &l->plan, LOADLINK_SEGMENT_BYTES);
}

uint64_t loader_total(const struct loader *l) {
        return l->hf ? l->hf->total : copy_total(&l->gguf);
}

static void unmap(const struct loader *l, void **maps) {
        for (size_t i = 0; i < l->plan.n_segments; i++)
                if (maps[i])
                        (void)munmap(maps[i], (size_t)l->plan.segment_size[i]);
}

static int map(const struct loader *l, const int *fds, size_t n_fds, void **maps) {
        struct stat st;

        if (n_fds != l->plan.n_segments)
                return -EINVAL;
        for (size_t i = 0; i < n_fds; i++) {
                void *p;

                if (fstat(fds[i], &st) < 0)
                        return -errno;
                if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != l->plan.segment_size[i])
                        return -EINVAL;
                p = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], 0);
                if (p == MAP_FAILED)
                        return -errno;
                maps[i] = p;
                (void)madvise(p, (size_t)st.st_size, MADV_HUGEPAGE); /* fewer faults, where memfds may have them */
        }
        return 0;
}

int loader_write(struct loader *l, const int *fds, size_t n_fds, const struct copy_progress *progress) {
        void *maps[IMAGE_SEGMENTS_MAX] = { 0 };
        int r;

        r = map(l, fds, n_fds, maps);
        if (!r) {
                image_plan_write_tables(&l->plan, maps[0]);
                r = l->hf ? hf_write(l->hf, &l->plan, maps, progress) :
                            copy_run(&l->copy, &l->gguf, &l->plan, maps, progress, l->error);
        }
        unmap(l, maps);
        return r;
}

static int make_segments(const struct image_plan *plan, int *fds) {
        for (size_t i = 0; i < plan->n_segments; i++) {
                fds[i] = fd_memfd_new("spark-image", plan->segment_size[i]);
                if (fds[i] < 0)
                        return fds[i];
        }
        return 0;
}

static int seal_segments(const struct image_plan *plan, const int *fds) {
        for (size_t i = 0; i < plan->n_segments; i++) {
                int r = fd_memfd_seal(fds[i]);

                if (r < 0)
                        return r;
        }
        return 0;
}

static int load(struct loader *l, int *fds) {
        int r;

        r = loader_plan(l);
        if (!r)
                r = make_segments(&l->plan, fds);
        if (!r)
                r = loader_write(l, fds, l->plan.n_segments, NULL);
        if (!r)
                r = seal_segments(&l->plan, fds);
        return r;
}

/* After loader_init(), whose result this takes. Deinits the loader. */
static int finish(struct loader *l, int r, int *ret_fds, size_t *ret_n_fds) {
        int fds[IMAGE_SEGMENTS_MAX];

        for (size_t i = 0; i < IMAGE_SEGMENTS_MAX; i++)
                fds[i] = -1;
        if (r == 0)
                r = load(l, fds);
        if (r == 0) {
                *ret_n_fds = l->plan.n_segments;
                (void)memcpy(ret_fds, fds, l->plan.n_segments * sizeof(*fds));
        } else {
                for (size_t i = 0; i < IMAGE_SEGMENTS_MAX; i++)
                        fds[i] = fd_close(fds[i]);
        }
        loader_deinit(l);
        return r;
}

int loader_load(int input_fd, int *ret_fds, size_t *ret_n_fds, struct loader_error *error) {
        struct loader l;

        return finish(&l, loader_init(&l, input_fd, error), ret_fds, ret_n_fds);
}

static int load_directory(int dir, const char *path, int *ret_fds, size_t *ret_n_fds, struct loader_error *error) {
        const char *names[MODELDIR_FILES_MAX];
        struct modeldir d = { .n = 0 };
        struct loader l;
        int r = modeldir_open(&d, dir, path, error->text);

        if (r)
                return r > 0 ? LOADER_E_IO : r;
        for (size_t i = 0; i < d.n; i++)
                names[i] = d.names[i];
        r = finish(&l, loader_init_directory(&l, names, d.fds, d.n, error), ret_fds, ret_n_fds);
        modeldir_close(&d);
        return r;
}

int loader_load_path(const char *path, int *ret_fds, size_t *ret_n_fds, struct loader_error *error) {
        _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        struct stat st;

        if (fd < 0)
                return loader_fail(error, LOADER_E_IO, "cannot open '%s': %s", path, strerror(errno));
        if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
                return load_directory(fd, path, ret_fds, ret_n_fds, error);
        return loader_load(fd, ret_fds, ret_n_fds, error);
}
