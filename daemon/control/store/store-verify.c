/* SPDX-License-Identifier: Apache-2.0 */

/* Hashes what is stored. A file that is not what its name says is put in quarantine, whoever's model it belongs to. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "store-private.h"
#include "users/policy.h"

static void verify_file(struct store_op *op);

static void mark_damaged(struct store *s, const char *digest) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &s->models) {
                struct store_model *m = LIST_ENTRY(pos, struct store_model, link);

                for (size_t i = 0; i < m->manifest.n_files; i++)
                        if (strcmp(m->manifest.files[i].digest, digest) == 0)
                                m->damaged = true;
        }
}

static void verify_end(struct store_op *op) {
        struct store_model *m = op->subject;

        if (op->n_bad == 0) {
                m->damaged = false; /* what was missing is there again */
                store_op_finish(op, m);
                return;
        }
        store_op_fail(op, SPARK__V1__ERROR_CODE__MODEL_INVALID,
                      "%u of %zu files of model %.12s are missing or damaged: '%.128s' is not what was stored. It is not "
                      "loaded any more; import it again.", op->n_bad, m->manifest.n_files, m->manifest.id, op->bad_file);
}

static void verify_next(struct store_op *op) {
        op->done += op->subject->manifest.files[op->at].size;
        op->at++;
        verify_file(op);
}

static void note_bad(struct store_op *op) {
        const struct store_file *f = &op->subject->manifest.files[op->at];

        if (op->n_bad++ == 0)
                (void)snprintf(op->bad_file, sizeof(op->bad_file), "%s", f->name);
        log_warning("store: model %.12s: file '%.80s' is missing or damaged", op->subject->manifest.id, f->name);
        mark_damaged(op->store, f->digest);
}

static void run_quarantine(struct disk_job *job) {
        struct store_op *op = CONTAINER_OF(job, struct store_op, job);

        op->result = store_file_quarantine(&op->store->dirs, op->subject->manifest.files[op->at].digest);
}

static void on_quarantined(struct store_op *op) {
        if (op->result < 0)
                log_warning("store: the damaged file could not be put in quarantine: %s", strerror(-op->result));
        verify_next(op);
}

static void on_verified(struct store_worker *w, const siginfo_t *info) {
        struct store_op *op = store_op_of(w);
        const struct store_file *f = &op->subject->manifest.files[op->at];
        char digest[STORE_DIGEST_TEXT + 1];

        /* a file that can't be read or is too short is damaged, too */
        if (op->said.type == STORELINK_ERROR &&
            (op->said.code == STORELINK_CODE_IO || op->said.code == STORELINK_CODE_CHANGED))
                log_warning("store: model %.12s: %s", op->subject->manifest.id, op->said.text);
        else if (!store_op_hashed(op, info, f->name))
                return;
        store_digest_format(op->said.digest, digest);
        if (op->said.type == STORELINK_DONE && strcmp(digest, f->digest) == 0 && op->said.done == f->size) {
                verify_next(op);
                return;
        }
        note_bad(op);
        store_op_disk(op, run_quarantine, on_quarantined);
}

static void verify_file(struct store_op *op) {
        const struct store_manifest *m = &op->subject->manifest;
        _cleanup_fd_ int fd = -1;

        if (op->at == m->n_files) {
                verify_end(op);
                return;
        }
        fd = openat(op->store->dirs.blobs, m->files[op->at].digest, O_RDONLY | O_DIRECT | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 && errno == EINVAL) /* not every file system has it */
                fd = openat(op->store->dirs.blobs, m->files[op->at].digest, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0) {
                note_bad(op);
                verify_next(op);
                return;
        }
        (void)store_op_hash(op, fd, -1, on_verified);
}

void store_verify_begin(struct store_op *op) {
        struct store_alias *alias;
        struct store_model *m = store_op_target(op, &alias);

        if (!m)
                return;
        if (!store_op_owns(op, m) && !policy_may_import(&op->user->policy, op->privileged)) {
                store_op_fail(op, SPARK__V1__ERROR_CODE__PERMISSION_DENIED,
                              "Your user may not verify models of others.");
                return;
        }
        op->subject = m;
        m->readers++;
        op->total = store_manifest_bytes(&m->manifest);
        verify_file(op);
}
