/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What a daemon finds when it starts. Something that can't be read might be what keeps other things alive, so then
 * nothing is removed but what was incoming.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "base/log.h"
#include "store-file.h"

#define ENTRIES_MAX 65536u

struct scan {
        const struct store_dirs *dirs;
        struct store_found found;
        bool *named; /* [n_models] */
        bool unsure; /* not everything could be read */
};

/* Calls for each entry that is no dot file. 0 or what fn returned, or -errno. */
static int for_each(struct scan *s, int dir, const char *what, int (*fn)(struct scan *s, const char *name)) {
        int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
        DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
        const struct dirent *e;
        unsigned n = 0;

        if (!d) {
                r = -errno;
                (void)fd_close(fd);
                return r;
        }
        errno = 0;
        while (r == 0 && (e = readdir(d))) {
                if (strcmp(e->d_name, ".new") == 0)
                        (void)unlinkat(dir, e->d_name, 0); /* of a writer that was interrupted */
                if (e->d_name[0] == '.')
                        continue;
                if (++n > ENTRIES_MAX) {
                        log_warning("store: more than %u entries in %s; the others are not looked at", ENTRIES_MAX, what);
                        s->unsure = true;
                        break;
                }
                r = fn(s, e->d_name);
                errno = 0;
        }
        if (!r && errno)
                r = -errno;
        (void)closedir(d);
        return r;
}

static int leave_out(struct scan *s, const char *what, const char *name, const char *why) {
        log_warning("store: %s/%.80s is left alone: %s", what, name, why);
        s->unsure = true;
        return 0;
}

/* Room for one more in an array that is grown in steps. */
static void *grow(void *p, size_t n, size_t size) {
        return n % 64 ? p : reallocarray(p, n + 64, size);
}

/* ---- models ---- */

static bool blob_is_there(const struct store_dirs *d, const struct store_file *f) {
        struct stat st;

        return fstatat(d->blobs, f->digest, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
               (uint64_t)st.st_size == f->size;
}

static int add_model(struct scan *s, struct store_manifest *m) {
        struct store_found *f = &s->found;
        void *p;

        p = grow(f->models, f->n_models, sizeof(*f->models));
        if (!p)
                return -ENOMEM;
        f->models = p;
        p = grow(f->damaged, f->n_models, sizeof(*f->damaged));
        if (!p)
                return -ENOMEM;
        f->damaged = p;
        f->damaged[f->n_models] = false;
        for (size_t i = 0; i < m->n_files; i++)
                if (!blob_is_there(s->dirs, &m->files[i])) {
                        log_warning("store: model %.12s: file '%.80s' is missing or has another size", m->id,
                                    m->files[i].name);
                        f->damaged[f->n_models] = true;
                }
        f->models[f->n_models++] = *m;
        return 0;
}

static int scan_model(struct scan *s, const char *name) {
        struct store_manifest m = { .n_files = 0 };
        struct store_fault fault = { "" };
        _cleanup_free_ char *data = NULL;
        size_t size = 0;
        int r;

        if (!store_digest_valid(name))
                return leave_out(s, "models", name, "it is no name of a model");
        if (s->found.n_models == STORE_MODELS_MAX)
                return leave_out(s, "models", name, "there are too many");
        r = file_read_at(s->dirs->models, name, STORE_MANIFEST_MAX, &data, &size);
        if (r == -ENOMEM)
                return r;
        if (r < 0)
                return leave_out(s, "models", name, strerror(-r));
        r = store_manifest_parse(name, data, size, &m, &fault);
        if (r > 0)
                return leave_out(s, "models", name, fault.text);
        if (r == 0) {
                r = add_model(s, &m);
                if (r < 0)
                        store_manifest_deinit(&m);
        }
        return r;
}

static size_t find_model(const struct store_found *f, const char *id) {
        size_t i = 0;

        while (i < f->n_models && strcmp(f->models[i].id, id) != 0)
                i++;
        return i;
}

/* ---- names ---- */

static int scan_name(struct scan *s, const char *name) {
        struct store_found *f = &s->found;
        struct store_fault fault = { "" };
        struct store_name n;
        _cleanup_free_ char *data = NULL;
        size_t size = 0, i;
        void *p;
        int r;

        if (!store_name_valid(name))
                return leave_out(s, "names", name, "it is no name");
        if (f->n_names == STORE_NAMES_MAX)
                return leave_out(s, "names", name, "there are too many");
        r = file_read_at(s->dirs->names, name, STORE_MANIFEST_MAX, &data, &size);
        if (r == -ENOMEM)
                return r;
        if (r < 0)
                return leave_out(s, "names", name, strerror(-r));
        r = store_name_parse(name, data, size, &n, &fault);
        if (r)
                return leave_out(s, "names", name, fault.text);
        i = find_model(f, n.id);
        if (i == f->n_models)
                return leave_out(s, "names", name, "the model that it means is not there");
        p = grow(f->names, f->n_names, sizeof(*f->names));
        if (!p)
                return -ENOMEM;
        f->names = p;
        f->names[f->n_names++] = n;
        s->named[i] = true;
        return 0;
}

/* ---- what belongs to nobody ---- */

static int scan_incoming(struct scan *s, const char *name) {
        (void)unlinkat(s->dirs->incoming, name, 0);
        return 0;
}

/* An import or a removal was cut off between manifest and name. */
static void drop_nameless(struct scan *s) {
        struct store_found *f = &s->found;
        size_t kept = 0;

        for (size_t i = 0; i < f->n_models; i++) {
                if (!s->named[i] && !f->models[i].pinned &&
                    file_remove_at(s->dirs->models, f->models[i].id) == 0) {
                        log_info("store: model %.12s has no name; it is removed", f->models[i].id);
                        store_manifest_deinit(&f->models[i]);
                        continue;
                }
                f->models[kept] = f->models[i];
                f->damaged[kept++] = f->damaged[i];
        }
        f->n_models = kept;
}

static bool blob_is_listed(const struct store_found *f, const char *digest) {
        for (size_t i = 0; i < f->n_models; i++)
                for (size_t k = 0; k < f->models[i].n_files; k++)
                        if (strcmp(f->models[i].files[k].digest, digest) == 0)
                                return true;
        return false;
}

static int scan_blob(struct scan *s, const char *name) {
        if (blob_is_listed(&s->found, name))
                return 0;
        if (s->unsure || !store_digest_valid(name)) {
                log_warning("store: blobs/%.80s belongs to no model that could be read; it is left alone", name);
                return 0;
        }
        log_info("store: blob %.12s belongs to no model; it is removed", name);
        (void)unlinkat(s->dirs->blobs, name, 0);
        return 0;
}

int store_file_scan(const struct store_dirs *d, struct store_found *ret) {
        struct scan s = { .dirs = d };
        int r;

        r = for_each(&s, d->incoming, "incoming", scan_incoming);
        if (r == 0)
                r = for_each(&s, d->models, "models", scan_model);
        if (r == 0 && !(s.named = calloc(s.found.n_models + 1, sizeof(*s.named))))
                r = -ENOMEM;
        if (r == 0)
                r = for_each(&s, d->names, "names", scan_name);
        if (r == 0 && !s.unsure)
                drop_nameless(&s);
        if (r == 0)
                r = for_each(&s, d->blobs, "blobs", scan_blob);
        free(s.named);
        if (r < 0) {
                store_found_deinit(&s.found);
                return r;
        }
        *ret = s.found;
        return 0;
}

void store_found_deinit(struct store_found *f) {
        for (size_t i = 0; i < f->n_models; i++)
                store_manifest_deinit(&f->models[i]);
        free(f->models);
        free(f->damaged);
        free(f->names);
        *f = (struct store_found){ 0 };
}
