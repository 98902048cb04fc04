/* SPDX-License-Identifier: Apache-2.0 */

/* Whole loads within the calling process, for tools and tests. */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/splitname.h"
#include "modeldir.h"

#include "load.h"

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

/* What a load within this process is to give. */
struct order {
        bool lossless;
        int file; /* the image goes there, packed; -1 = to memfds */
        int *ret_fds;
        size_t *ret_n_fds;
};

static int load(struct loader *l, const struct order *o, int *fds) {
        int r;

        l->options = (struct loader_options){ .lossless = o->lossless, .pack = o->file >= 0 };
        r = loader_plan(l);
        if (!r && o->file >= 0) {
                if (ftruncate(o->file, 0) < 0 || ftruncate(o->file, (off_t)pack_size(&l->plan)) < 0)
                        return -errno;
                return loader_write(l, &o->file, 1, NULL);
        }
        if (!r)
                r = make_segments(&l->plan, fds);
        if (!r)
                r = loader_write(l, fds, l->plan.n_segments, NULL);
        if (!r)
                r = seal_segments(&l->plan, fds);
        return r;
}

/* After an init, whose result this takes. Deinits the loader. */
static int finish(struct loader *l, int r, const struct order *o) {
        int fds[IMAGE_SEGMENTS_MAX];

        for (size_t i = 0; i < IMAGE_SEGMENTS_MAX; i++)
                fds[i] = -1;
        if (r == 0)
                r = load(l, o, fds);
        if (r == 0 && o->file < 0) {
                *o->ret_n_fds = l->plan.n_segments;
                (void)memcpy(o->ret_fds, fds, l->plan.n_segments * sizeof(*fds));
        } else {
                for (size_t i = 0; i < IMAGE_SEGMENTS_MAX; i++)
                        fds[i] = fd_close(fds[i]);
        }
        loader_deinit(l);
        return r;
}

int loader_load_files(const int *inputs, size_t n_inputs, int *ret_fds, size_t *ret_n_fds,
                      struct loader_error *error) {
        const struct order o = { .file = -1, .ret_fds = ret_fds, .ret_n_fds = ret_n_fds };
        struct loader l;

        return finish(&l, loader_init(&l, inputs, n_inputs, error), &o);
}

static int load_directory(int dir, const char *path, const struct order *o, struct loader_error *error) {
        const char *names[MODELDIR_FILES_MAX];
        struct modeldir d = { .n = 0 };
        struct loader l;
        int r = modeldir_open(&d, dir, path, error->text);

        if (r)
                return r > 0 ? LOADER_E_IO : r;
        for (size_t i = 0; i < d.n; i++)
                names[i] = d.names[i];
        r = finish(&l, loader_init_directory(&l, names, d.fds, d.n, error), o);
        modeldir_close(&d);
        return r;
}

int loader_load(int input_fd, int *ret_fds, size_t *ret_n_fds, struct loader_error *error) {
        return loader_load_files(&input_fd, 1, ret_fds, ret_n_fds, error);
}

static int load_path(const char *path, const struct order *o, struct loader_error *error) {
        char name[PATH_MAX];
        unsigned n = splitname_part(path, 1, name, sizeof(name));
        int fds[SOURCES_MAX], r = 0;
        struct loader l;
        size_t n_fds = 0;
        _cleanup_fd_ int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        error->part = 0;
        if (dir >= 0)
                return load_directory(dir, path, o, error);
        if (n > SOURCES_MAX)
                return loader_fail(error, LOADER_E_UNSUPPORTED, "'%s' has %u parts; %u are possible", path, n, SOURCES_MAX);
        while (n_fds < MAX(n, 1u) && !r) {
                const char *p = n ? name : path;

                if (n)
                        (void)splitname_part(path, (unsigned)n_fds + 1, name, sizeof(name));
                fds[n_fds] = open(p, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
                if (fds[n_fds] < 0)
                        r = loader_fail(error, LOADER_E_IO, "cannot open '%s': %s", p, strerror(errno));
                else
                        n_fds++;
        }
        if (!r)
                r = finish(&l, loader_init(&l, fds, n_fds, error), o);
        while (n_fds > 0)
                (void)fd_close(fds[--n_fds]);
        return r;
}

int loader_load_path(const char *path, int *ret_fds, size_t *ret_n_fds, struct loader_error *error) {
        return loader_load_path_as(path, false, ret_fds, ret_n_fds, error);
}

int loader_load_path_as(const char *path, bool lossless, int *ret_fds, size_t *ret_n_fds, struct loader_error *error) {
        const struct order o = { .lossless = lossless, .file = -1, .ret_fds = ret_fds, .ret_n_fds = ret_n_fds };

        return load_path(path, &o, error);
}

int loader_pack_path(const char *path, bool lossless, int file, struct loader_error *error) {
        const struct order o = { .lossless = lossless, .file = file };

        return load_path(path, &o, error);
}
