/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Packing a model: a loader writes its image into a file of incoming/ that has its whole size from the beginning, and brings it
 * to the disk; the file is hashed, looked at and named like any other that comes in, and becomes a blob by its renaming.
 * Nothing is written twice.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/fd.h"
#include "spawn.h"
#include "store-private.h"

#define SUFFIX ".packed" /* of what the file is called; to be told from a GGUF file, not to be read */

static struct store_file *output_of(struct store_op *op) {
        return &op->manifest.files[0];
}

/* The loader's link is being read: what is wrong is said when the loader is gone. */
static void give_up(struct store_op *op, Spark__V1__ErrorCode code, const char *text) {
        if (op->fault.code == SPARK__V1__ERROR_CODE__ERROR_CODE_UNSPECIFIED)
                request_error_set(&op->fault, code, "%s", text);
        spawn_kill(op->worker.pidfd, SIGKILL);
}

/* ---- hashing ---- */

static void on_hashed(struct store_worker *w, const siginfo_t *info) {
        struct store_op *op = store_op_of(w);
        struct store_file *f = output_of(op);

        if (!store_op_hashed(op, info, f->name))
                return;
        store_digest_format(op->said.digest, f->digest);
        f->size = op->said.done;
        op->wrote = true;
        store_import_complete(op);
}

static void hash(struct store_op *op) {
        const struct store_dirs *d = &op->store->dirs;
        _cleanup_fd_ int fd = openat(d->incoming, op->incoming[0], O_RDONLY | O_DIRECT | O_NOFOLLOW | O_CLOEXEC);

        if (fd < 0 && errno == EINVAL) /* not every file system has it */
                fd = openat(d->incoming, op->incoming[0], O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                store_op_fail(op, SPARK__V1__ERROR_CODE__INTERNAL, "What was packed can't be read: %s.", strerror(errno));
        else
                (void)store_op_hash(op, fd, -1, on_hashed);
}

/* ---- room ---- */

static void no_room(struct store_op *op) {
        store_op_fail(op, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED, "There is no room left where the store is.");
}

static void on_room(struct store_op *op) {
        struct loadlink_record answer = { .type = LOADLINK_SEGMENTS, .n_segments = 1 };
        int r;

        if (op->result == -ENOSPC || op->result == -EDQUOT) {
                no_room(op);
                return;
        }
        r = op->result < 0 ? op->result : loadlink_send(op->worker.link, &answer, &op->output, 1);
        if (r < 0)
                store_op_fail(op, SPARK__V1__ERROR_CODE__INTERNAL, "The packed image has no file: %s.", strerror(-r));
}

static void run_room(struct disk_job *job) {
        struct store_op *op = CONTAINER_OF(job, struct store_op, job);
        const off_t size = (off_t)output_of(op)->size;

        op->result = 0;
        if (fallocate(op->output, 0, 0, size) == 0)
                return;
        op->unreserved = errno == EOPNOTSUPP || errno == ENOSYS;
        if (!op->unreserved || ftruncate(op->output, size) < 0)
                op->result = -errno;
}

static void on_created(struct store_op *op) {
        if (op->result < 0) {
                op->incoming[0][0] = 0;
                store_op_fail(op, SPARK__V1__ERROR_CODE__INTERNAL, "The store can't take a file: %s.", strerror(-op->result));
                return;
        }
        op->output = op->result;
        if (store_op_has_room(op, output_of(op)->name, output_of(op)->size))
                store_op_disk(op, run_room, on_room);
}

static void on_plan(struct store_op *op, const struct loadlink_record *rec) {
        struct store_file *f = output_of(op);

        if (op->planned)
                return;
        store_op_take_plan(op, rec);
        f->size = op->manifest.facts.image_bytes;
        op->total = f->size;
        if (f->size == 0 || f->size > INT64_MAX)
                give_up(op, SPARK__V1__ERROR_CODE__INTERNAL, "The loader's plan makes no sense.");
        else if (!store_op_fits(op, "packed image", f->size, &op->fault))
                spawn_kill(op->worker.pidfd, SIGKILL);
        else
                store_op_create(op, 0, on_created);
}

/* ---- the loader ---- */

static void on_record(void *userdata, const struct loadlink_record *rec) {
        struct store_op *op = userdata;

        switch (rec->type) {
        case LOADLINK_PLAN:
                on_plan(op, rec);
                return;
        case LOADLINK_ERROR:
                store_op_take_refusal(op, rec);
                return;
        case LOADLINK_DONE:
                op->packed = true;
                return;
        case LOADLINK_PROGRESS:
                op->total = rec->total;
                store_op_progress(op, rec->phase == LOADLINK_PHASE_SURVEY ? "survey" : "pack", MIN(rec->done, rec->total));
                return;
        default:
                give_up(op, SPARK__V1__ERROR_CODE__INTERNAL, "The loader sent a record that nobody knows.");
        }
}

static bool on_loader(struct store_worker *w) {
        return loadlink_read(w->link, on_record, store_op_of(w)) > 0;
}

/* It writes through a mapping: a page that there is no room for is a signal. */
static bool ran_out_of_room(const struct store_op *op, const siginfo_t *info) {
        return op->unreserved && info->si_code != CLD_EXITED && info->si_status == SIGBUS;
}

static void on_loader_exit(struct store_worker *w, const siginfo_t *info) {
        struct store_op *op = store_op_of(w);
        char how[64];

        if (op->fault.code != SPARK__V1__ERROR_CODE__ERROR_CODE_UNSPECIFIED) {
                store_op_fail_with(op, &op->fault);
                return;
        }
        if (ran_out_of_room(op, info)) {
                no_room(op);
                return;
        }
        if (info->si_code != CLD_EXITED || info->si_status != 0 || !op->packed || op->on_disk) {
                spawn_describe_exit(info, how, sizeof(how));
                store_op_fail(op, SPARK__V1__ERROR_CODE__MODEL_INVALID, "The loader ended with %s while it packed the model.",
                              how);
                return;
        }
        op->output = fd_close(op->output);
        op->planned = false; /* what was written is looked at anew */
        op->total = output_of(op)->size;
        hash(op);
}

static void start(struct store_op *op) {
        const char *const flags[] = { "--pack", "--lossless" };
        struct store_input inputs[MODEL_FILES_MAX];
        char unused[MODELDIR_NAME_MAX + 12];
        int r;

        for (size_t i = 0; i < op->source.n; i++)
                inputs[i] = (struct store_input){
                        .flag = model_files_argument(&op->source, i, i + 1, unused, sizeof(unused)),
                        .name = op->source.names ? op->source.names[i] : NULL,
                        .fd = op->source.fds[i],
                };
        op->worker.on_link = on_loader;
        op->worker.on_exit = on_loader_exit;
        r = store_worker_start(&op->worker, op->store->manager->event, "spark-loader", inputs, op->source.n, flags,
                               op->lossless ? 2 : 1);
        if (r == -ENOENT)
                store_op_fail(op, SPARK__V1__ERROR_CODE__INTERNAL, "spark-loader is not installed.");
        else if (r < 0)
                store_op_fail(op, SPARK__V1__ERROR_CODE__INTERNAL, "The loader could not be started: %s.", strerror(-r));
        else
                model_files_deinit(&op->source); /* the loader has its own */
}

/* ---- what is packed ---- */

static int open_source(struct store_op *op, struct request_error *error) {
        const struct model *model;

        if (op->source.n > 0)
                return 0;
        model = models_find(op->store->manager, op->target, error);
        return model ? model_files_open(&op->source, model, error) : REQUEST_E_REFUSED;
}

/* The one file that comes of it, in the place of those that came with the request. */
static bool make_manifest(struct store_op *op) {
        store_manifest_deinit(&op->manifest);
        op->manifest.files = calloc(1, sizeof(*op->manifest.files));
        op->incoming = calloc(1, sizeof(*op->incoming));
        if (!op->manifest.files || !op->incoming)
                return false;
        op->manifest.n_files = 1;
        op->manifest.uid = op->user->uid;
        (void)snprintf(output_of(op)->role, sizeof(output_of(op)->role), "model");
        (void)snprintf(output_of(op)->name, sizeof(output_of(op)->name), "%s" SUFFIX, op->name);
        return true;
}

void store_pack_begin(struct store_op *op) {
        struct request_error error;
        Spark__V1__ErrorCode code;
        const struct store_alias *old = store_get_name(op->store, op->name);
        const char *why = store_op_why_not_named(op, NULL, &code);
        int r;

        if (why && !(old && old->of->damaged)) { /* which would be so in the end, after all that work; the same again heals */
                store_op_fail(op, code, "'%s' %s.", op->name, why);
                return;
        }
        r = open_source(op, &error);
        if (r > 0) {
                store_op_fail_with(op, &error);
                return;
        }
        if (r < 0 || !make_manifest(op)) {
                store_op_fail(op, SPARK__V1__ERROR_CODE__INTERNAL, "The model could not be opened: %s.",
                              strerror(r < 0 ? -r : ENOMEM));
                return;
        }
        start(op);
}
