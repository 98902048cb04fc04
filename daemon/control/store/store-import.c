/* SPDX-License-Identifier: Apache-2.0 */

/*
 * An import: each file is hashed and copied in one go, unless the store has one of that size, in which case it is only
 * hashed first: what is known is not written again. Then the loader looks at the whole, and only what it would load gets
 * a name; that last step is a change like others (store-change.c).
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/utf8.h"
#include "base/words.h"
#include "config/config.h"
#include "spawn.h"
#include "store-private.h"

static void import_file(struct store_op *op);

static const struct config_store *limits(const struct store_op *op) {
        return &op->store->manager->config->store;
}

/* ---- the loader's word ---- */

void store_op_take_plan(struct store_op *op, const struct loadlink_record *rec) {
        struct store_facts *f = &op->manifest.facts;

        *f = (struct store_facts){
                .parameters = rec->n_params,
                .kv_bytes_per_token = rec->kv_bytes_per_token,
                .context = rec->context,
                .vocabulary = rec->vocabulary,
                .has_chat_template = rec->has_chat_template != 0,
                .weights = weights_of_plan(rec),
        };
        for (size_t i = 0; i < rec->n_segments; i++)
                if (__builtin_add_overflow(f->image_bytes, rec->segment_bytes[i], &f->image_bytes))
                        f->image_bytes = UINT64_MAX;
        (void)snprintf(f->architecture, sizeof(f->architecture), "%.*s", (int)sizeof(rec->architecture), rec->architecture);
        (void)snprintf(f->format, sizeof(f->format), "%.*s", (int)sizeof(rec->format), rec->format);
        for (char *p = f->architecture; *p; p++) /* from a hostile file: a word of the manifest has no other bytes */
                if (*p <= 0x20 || *p >= 0x7f)
                        *p = '?';
        for (char *p = f->format; *p; p++)
                if (*p <= 0x20 || *p >= 0x7f)
                        *p = '?';
        op->planned = true;
}

void store_op_take_refusal(struct store_op *op, const struct loadlink_record *rec) {
        char text[sizeof(rec->text)];
        bool ascii;

        (void)snprintf(text, sizeof(text), "%.*s", (int)sizeof(rec->text) - 1, rec->text);
        ascii = !utf8_valid(text, strlen(text), NULL);
        for (char *p = text; *p; p++)
                if ((unsigned char)*p < 0x20 || *p == 0x7f || (ascii && (unsigned char)*p >= 0x80))
                        *p = '?';
        request_error_set(&op->fault,
                          rec->code == LOADLINK_CODE_MODEL_INVALID || rec->code == LOADLINK_CODE_UNSUPPORTED
                                  ? SPARK__V1__ERROR_CODE__MODEL_INVALID
                                  : SPARK__V1__ERROR_CODE__INTERNAL, "%s", text);
}

bool store_op_read_loader(struct store_op *op, void (*on_record)(struct store_op *op, const struct loadlink_record *rec)) {
        struct loadlink_record rec;

        for (int i = 0; i < 16; i++) {
                int r = loadlink_recv_record(op->worker.link, &rec);

                if (r == -EAGAIN)
                        return true;
                if (r <= 0)
                        return false;
                on_record(op, &rec);
        }
        return true;
}

static void on_record(struct store_op *op, const struct loadlink_record *rec) {
        if (rec->type == LOADLINK_PLAN)
                store_op_take_plan(op, rec);
        else if (rec->type == LOADLINK_ERROR)
                store_op_take_refusal(op, rec);
}

static bool on_loader(struct store_worker *w) {
        return store_op_read_loader(store_op_of(w), on_record);
}

static void on_loader_exit(struct store_worker *w, const siginfo_t *info) {
        struct store_op *op = store_op_of(w);
        bool well = info->si_code == CLD_EXITED && info->si_status == 0;
        char how[64];

        if (well && op->planned) {
                store_op_change(op);
                return;
        }
        spawn_describe_exit(info, how, sizeof(how));
        if (op->fault.code != SPARK__V1__ERROR_CODE__ERROR_CODE_UNSPECIFIED)
                store_op_fail_with(op, &op->fault);
        else
                store_op_fail(op, SPARK__V1__ERROR_CODE__MODEL_INVALID,
                              "The loader ended with %s while it looked at the model.", how);
}

/* What is looked at is what was stored, not what the client's descriptor shows by now. */
static int open_stored(const struct store_op *op, size_t i) {
        const struct store_dirs *d = &op->store->dirs;
        int fd;

        if (*op->incoming[i])
                fd = openat(d->incoming, op->incoming[i], O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        else
                fd = openat(d->blobs, op->manifest.files[i].digest, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

static void import_check(struct store_op *op) {
        const char *const plan_only = "--plan-only";
        const bool directory = store_manifest_is_directory(&op->manifest);
        struct store_input inputs[STORE_FILES_MAX];
        size_t n = 0;
        int r = 0;

        for (; n < op->manifest.n_files && r >= 0; n++) {
                inputs[n].flag = directory ? "--file" : n == 0 ? "--input" : "--split";
                inputs[n].name = directory ? op->manifest.files[n].name : NULL;
                r = inputs[n].fd = open_stored(op, n);
        }
        op->worker.on_link = on_loader;
        op->worker.on_exit = on_loader_exit;
        if (r >= 0)
                r = store_worker_start(&op->worker, op->store->manager->event, "spark-loader", inputs, n, &plan_only,
                                       1);
        while (n > 0)
                (void)fd_close(inputs[--n].fd);
        if (r == -ENOENT)
                store_op_fail(op, SPARK__V1__ERROR_CODE__BUSY, "What the import needs has just been removed; try again.");
        else if (r < 0)
                store_op_fail(op, SPARK__V1__ERROR_CODE__INTERNAL, "The model could not be looked at: %s.", strerror(-r));
}

/* All files are stored, or known. */
void store_import_complete(struct store_op *op) {
        const struct store_model *known;

        store_manifest_id(op->manifest.files, op->manifest.n_files, op->manifest.id);
        known = store_get(op->store, op->manifest.id);
        if (known && !known->damaged)
                store_op_change(op); /* was looked at when it came */
        else
                import_check(op);
}

/* ---- a file ---- */

static void import_next(struct store_op *op) {
        op->done += op->manifest.files[op->at].size;
        op->at++;
        op->hashed = false;
        import_file(op);
}

static void on_copied(struct store_worker *w, const siginfo_t *info) {
        struct store_op *op = store_op_of(w);
        struct store_file *f = &op->manifest.files[op->at];

        op->output = fd_close(op->output);
        if (!store_op_hashed(op, info, f->name))
                return;
        store_digest_format(op->said.digest, f->digest);
        f->size = op->said.done;
        op->method = (enum storelink_method)op->said.method;
        op->wrote = true;
        import_next(op);
}

static void run_create(struct disk_job *job) {
        struct store_op *op = CONTAINER_OF(job, struct store_op, job);

        op->result = store_free_bytes(&op->store->dirs, &op->free_bytes);
        if (op->result == 0)
                op->result = store_incoming_create(&op->store->dirs, op->incoming[op->at]);
}

void store_op_create(struct store_op *op, size_t i, void (*next)(struct store_op *op)) {
        op->at = i;
        (void)snprintf(op->incoming[i], sizeof(op->incoming[i]), "%" PRIu64, ++op->store->last_number);
        store_op_disk(op, run_create, next);
}

bool store_op_has_room(struct store_op *op, const char *name, uint64_t size) {
        char need[WORDS_BYTES], have[WORDS_BYTES], reserve[WORDS_BYTES];

        if (size <= op->free_bytes && op->free_bytes - size >= limits(op)->reserve)
                return true;
        (void)words_bytes(size, need);
        (void)words_bytes(op->free_bytes, have);
        (void)words_bytes(limits(op)->reserve, reserve);
        store_op_fail(op, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                      "File '%.100s' has %s; %s are free where the store is, of which %s stay free (store.reserve).", name, need,
                      have, reserve);
        return false;
}

static void import_copy(struct store_op *op) {
        const struct store_file *f = &op->manifest.files[op->at];

        if (op->result < 0) {
                op->incoming[op->at][0] = 0;
                store_op_fail(op, SPARK__V1__ERROR_CODE__INTERNAL, "The store can't take a file: %s.", strerror(-op->result));
                return;
        }
        op->output = op->result;
        if (store_op_has_room(op, f->name, f->size))
                (void)store_op_hash(op, op->inputs[op->at], op->output, on_copied);
}

static void import_create(struct store_op *op) {
        store_op_create(op, op->at, import_copy);
}

/* Hashed, to see whether it is known. */
static void on_looked(struct store_worker *w, const siginfo_t *info) {
        struct store_op *op = store_op_of(w);
        struct store_file *f = &op->manifest.files[op->at];

        if (!store_op_hashed(op, info, f->name))
                return;
        store_digest_format(op->said.digest, f->digest);
        f->size = op->said.done;
        if (store_has_blob(op->store, f->digest) && store_has_blob_of_size(op->store, f->size))
                import_next(op);
        else
                import_create(op);
}

static void import_file(struct store_op *op) {
        if (op->at == op->manifest.n_files) {
                store_import_complete(op);
                return;
        }
        if (!op->hashed && store_has_blob_of_size(op->store, op->manifest.files[op->at].size)) {
                op->hashed = true;
                (void)store_op_hash(op, op->inputs[op->at], -1, on_looked);
                return;
        }
        import_create(op);
}

/* What is certainly too much is refused before a byte is read; the exact sums are done with the name. */
bool store_op_fits(struct store_op *op, const char *what, uint64_t fresh, struct request_error *error) {
        uint64_t max = limits(op)->max_bytes;
        char need[WORDS_BYTES], have[WORDS_BYTES], most[WORDS_BYTES];

        (void)words_bytes(fresh, need);
        (void)words_bytes(op->store->bytes, have);
        (void)words_bytes(max, most);
        if (max && (fresh > max || op->store->bytes > max - fresh)) {
                request_error_set(error, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                                  "The %s has %s and the store %s; together it may have %s (store.max_bytes).", what, need, have,
                                  most);
                return false;
        }
        max = op->user->limits[USER_STORE];
        (void)words_bytes(op->user->charged[USER_STORE], have);
        (void)words_bytes(max, most);
        if (!op->privileged && (fresh > max || op->user->charged[USER_STORE] > max - fresh)) {
                request_error_set(error, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                                  "The %s has %s, your user has %s in the store, and may have %s.", what, need, have, most);
                return false;
        }
        return true;
}

void store_import_begin(struct store_op *op) {
        struct request_error error;
        uint64_t fresh = 0;

        op->manifest.uid = op->user->uid;
        for (size_t i = 0; i < op->manifest.n_files; i++)
                if (!store_has_blob_of_size(op->store, op->manifest.files[i].size))
                        fresh += op->manifest.files[i].size;
        if (store_op_fits(op, "import", fresh, &error))
                import_file(op);
        else
                store_op_fail_with(op, &error);
}
