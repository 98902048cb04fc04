/* SPDX-License-Identifier: Apache-2.0 */

/* What a request about the store asks for, checked before it waits for its turn. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/fd.h"
#include "store-private.h"

static int refuse(struct request_error *error, Spark__V1__ErrorCode code, const char *text) {
        request_error_set(error, code, "%s", text);
        return REQUEST_E_REFUSED;
}

static int take_file(struct store_op *op, size_t i, const Spark__V1__ModelFile *f, int *fd, struct request_error *error) {
        struct store_file *file = &op->manifest.files[i];
        int flags = fcntl(*fd, F_GETFL);
        struct stat st;

        if (flags < 0 || fstat(*fd, &st) < 0 || !S_ISREG(st.st_mode) || flags & O_PATH ||
            (flags & O_ACCMODE) == O_WRONLY)
                return refuse(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                              "input_fd: a descriptor sent along is no regular file open for reading.");
        if (!store_file_name_valid(f->name) || (*f->role && !store_role_valid(f->role)))
                return refuse(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                              "files: a name has 1 to 255 bytes and is relative; a role has 1 to 15 of a-z, 0-9 and '-'.");
        (void)snprintf(file->role, sizeof(file->role), "%s", f->role);
        (void)snprintf(file->name, sizeof(file->name), "%s", f->name);
        file->size = (uint64_t)st.st_size;
        if (!checked_add(op->total, file->size, &op->total))
                return refuse(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "files: they are too large together.");
        op->inputs[i] = fd_steal(fd);
        return 0;
}

static int compare_names(const void *a, const void *b, void *arg) {
        const struct store_file *files = arg;

        return strcmp(files[*(const size_t *)a].name, files[*(const size_t *)b].name);
}

/* A directory's files come in any order, and are to give one digest. */
static int sort_files(struct store_op *op) {
        const size_t n = op->manifest.n_files;
        struct store_file *files = calloc(n, sizeof(*files));
        int fds[STORE_FILES_MAX];
        size_t order[STORE_FILES_MAX];

        if (!files)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++)
                order[i] = i;
        qsort_r(order, n, sizeof(*order), compare_names, op->manifest.files);
        for (size_t i = 0; i < n; i++) {
                files[i] = op->manifest.files[order[i]];
                fds[i] = op->inputs[order[i]];
        }
        free(op->manifest.files);
        op->manifest.files = files;
        memcpy(op->inputs, fds, n * sizeof(*fds));
        return 0;
}

/* What the files are to each other: one, parts of one, or those of a directory, which have its names and no others. */
static int take_layout(struct store_op *op, struct request_error *error) {
        struct store_manifest *m = &op->manifest;
        size_t known = 0;
        int r;

        for (size_t i = 0; i < m->n_files; i++)
                known += modeldir_knows(m->files[i].name);
        if (known > 0) {
                r = sort_files(op);
                if (r < 0)
                        return r;
        }
        for (size_t i = 0; i < m->n_files; i++) {
                struct store_file *f = &m->files[i];

                if (known > 0 && (known < m->n_files || (i > 0 && strcmp(f->name, m->files[i - 1].name) == 0)))
                        return refuse(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                      "files: those of a directory have the names that are read there, each one once.");
                if (!*f->role)
                        (void)snprintf(f->role, sizeof(f->role), "%s", known > 0 ? "file" : i == 0 ? "model" : "part");
        }
        return 0;
}

static int take_name(struct store_op *op, const char *name, struct request_error *error) {
        if (!store_name_valid(name))
                return refuse(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                              "name: it has 1 to 64 letters, digits or \"._:-\" and does not begin with a dot or \"sha256:\".");
        (void)snprintf(op->name, sizeof(op->name), "%s", name);
        return 0;
}

static int take_files(struct store_op *op, Spark__V1__ModelFile *const *files, bool input_fd, size_t n_files, int *fds,
                      size_t n_fds, struct request_error *error) {
        int r = 0;

        if (!input_fd || n_fds != n_files || n_fds == 0 || n_fds > STORE_FILES_MAX)
                return refuse(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                              "input_fd: there must be 1 to 64 files, and as many descriptors sent along.");
        op->manifest.files = calloc(n_fds, sizeof(*op->manifest.files));
        op->inputs = calloc(n_fds, sizeof(*op->inputs));
        op->incoming = calloc(n_fds, sizeof(*op->incoming));
        if (!op->manifest.files || !op->inputs || !op->incoming)
                return -ENOMEM;
        op->manifest.n_files = op->n_inputs = n_fds;
        for (size_t i = 0; i < n_fds; i++)
                op->inputs[i] = -1;
        for (size_t i = 0; i < n_fds && r == 0; i++)
                r = take_file(op, i, files[i], &fds[i], error);
        return r ? r : take_layout(op, error);
}

static int take_import(struct store_op *op, const Spark__V1__ModelImport *m, int *fds, size_t n_fds,
                       struct request_error *error) {
        int r = take_name(op, m->name, error);

        op->verb = STORE_IMPORT;
        op->replace = m->replace;
        op->pin = m->pin;
        return r ? r : take_files(op, m->files, m->input_fd, m->n_files, fds, n_fds, error);
}

static int take_target(struct store_op *op, enum store_verb verb, const char *model, struct request_error *error) {
        op->verb = verb;
        if (!*model || strlen(model) >= sizeof(op->target))
                return refuse(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                              "model: a name, or \"sha256:\" and the digits of a digest, is wanted.");
        (void)snprintf(op->target, sizeof(op->target), "%s", model);
        return 0;
}

/* The files that came are what is packed; what comes of it is another one. */
static int move_to_source(struct store_op *op) {
        struct model_files *s = &op->source;

        if (store_manifest_is_directory(&op->manifest)) {
                s->names = calloc(op->n_inputs, sizeof(*s->names));
                if (!s->names)
                        return -ENOMEM;
        }
        for (; s->n < op->n_inputs; s->n++) {
                s->fds[s->n] = fd_steal(&op->inputs[s->n]);
                if (s->names)
                        (void)snprintf(s->names[s->n], sizeof(s->names[s->n]), "%.39s", op->manifest.files[s->n].name);
        }
        op->n_inputs = 0;
        free(op->incoming);
        op->incoming = NULL;
        op->total = 0;
        return 0;
}

static int take_pack(struct store_op *op, const Spark__V1__ModelPack *m, int *fds, size_t n_fds, struct request_error *error) {
        int r = take_name(op, m->name, error);

        op->verb = STORE_PACK;
        op->lossless = m->lossless;
        op->replace = m->replace;
        op->pin = m->pin;
        if (r == 0 && !*m->model == (m->n_files == 0))
                return refuse(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                              "model, files: one of them says what is packed.");
        if (r == 0 && *m->model)
                r = take_target(op, STORE_PACK, m->model, error);
        else if (r == 0)
                r = take_files(op, m->files, m->input_fd, m->n_files, fds, n_fds, error);
        return r == 0 && m->n_files > 0 ? move_to_source(op) : r;
}

int store_op_take_frame(struct store_op *op, const Spark__V1__ClientFrame *f, int *fds, size_t n_fds,
                        struct request_error *error) {
        int r;

        switch (f->body_case) {
        case SPARK__V1__CLIENT_FRAME__BODY_MODEL_IMPORT:
                return take_import(op, f->model_import, fds, n_fds, error);
        case SPARK__V1__CLIENT_FRAME__BODY_MODEL_PACK:
                return take_pack(op, f->model_pack, fds, n_fds, error);
        case SPARK__V1__CLIENT_FRAME__BODY_MODEL_SHOW:
                return take_target(op, STORE_SHOW, f->model_show->model, error);
        case SPARK__V1__CLIENT_FRAME__BODY_MODEL_VERIFY:
                return take_target(op, STORE_VERIFY, f->model_verify->model, error);
        case SPARK__V1__CLIENT_FRAME__BODY_MODEL_REMOVE:
                return take_target(op, STORE_REMOVE, f->model_remove->model, error);
        case SPARK__V1__CLIENT_FRAME__BODY_MODEL_PIN:
                op->pin = f->model_pin->pinned;
                return take_target(op, STORE_PIN, f->model_pin->model, error);
        default:
                r = take_target(op, STORE_ALIAS, f->model_alias->model, error);
                if (r == 0 && !store_name_valid(f->model_alias->alias))
                        return refuse(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                      "alias: it has 1 to 64 letters, digits or \"._:-\" and does not begin with a dot or "
                                      "\"sha256:\".");
                (void)snprintf(op->name, sizeof(op->name), "%.64s", f->model_alias->alias);
                op->replace = f->model_alias->replace;
                return r;
        }
}
