/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Changes of what the store has: names and models added or removed, pins. One at a time: each is checked against what is
 * in memory when its turn comes, written down by the disk's thread, and taken over into memory when it is on disk.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/words.h"
#include "store-private.h"

#define ALIAS_OF(pos) LIST_ENTRY(pos, struct store_alias, link)

static uint64_t now_s(void) {
        return (uint64_t)time(NULL);
}

static bool is_last_name(const struct store_alias *a) {
        return a->of->names.next == &a->link && a->of->names.prev == &a->link;
}

/* The disk did not do it. */
static void fail_disk(struct store_op *op) {
        if (op->result == -ENOSPC || op->result == -EDQUOT)
                store_op_fail(op, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED, "There is no room left where the store is.");
        else
                store_op_fail(op, SPARK__V1__ERROR_CODE__INTERNAL, "The store could not be written: %s.",
                              strerror(-op->result));
}

/* ---- removing ---- */

static void run_remove(struct disk_job *job) {
        struct store_op *op = CONTAINER_OF(job, struct store_op, job);

        op->result = store_file_remove(&op->store->dirs, &op->removal, &op->removed);
}

static void on_removed(struct store_op *op) {
        struct store_model *m = op->subject;

        op->subject = NULL;
        m->readers--;
        for (size_t i = 0; i < op->removed.n_names; i++) {
                struct store_alias *a = store_get_name(op->store, op->removal.names[i]);

                if (a)
                        store_drop_alias(a);
        }
        if (!op->removed.gone) { /* cut short: the model stays, with the names that are left */
                (void)store_sync(m);
                fail_disk(op);
                return;
        }
        if (op->result < 0)
                log_warning("store: something of model %.12s is left on disk until the next start: %s", m->manifest.id,
                            strerror(-op->result));
        if (*op->removal.id) {
                uint64_t before = op->store->bytes;

                log_info("store: model %.12s is removed", m->manifest.id);
                store_drop_model(m);
                op->freed = before - op->store->bytes;
                store_op_finish(op, NULL);
                return;
        }
        (void)store_sync(m);
        store_op_finish(op, m);
}

/* Notes which blobs no other model lists. */
static bool list_blobs(struct store_op *op, const struct store_model *m) {
        struct list *link = (struct list *)&m->link, *models = &op->store->models;

        op->removal.blobs = calloc(m->manifest.n_files, sizeof(*op->removal.blobs));
        if (!op->removal.blobs)
                return false;
        list_remove(link); /* out of sight, for as long as this takes */
        for (size_t i = 0; i < m->manifest.n_files; i++)
                if (!store_has_blob(op->store, m->manifest.files[i].digest))
                        memcpy(op->removal.blobs[op->removal.n_blobs++], m->manifest.files[i].digest,
                               STORE_DIGEST_TEXT + 1);
        list_append(models, link);
        return true;
}

static bool list_names(struct store_op *op, const struct store_model *m, const struct store_alias *only) {
        struct list *pos, *tmp;
        size_t n = 1;

        LIST_FOREACH(pos, tmp, (struct list *)&m->names)
                n++;
        op->removal.names = calloc(n, sizeof(*op->removal.names));
        if (!op->removal.names)
                return false;
        LIST_FOREACH(pos, tmp, (struct list *)&m->names)
                if (!only || ALIAS_OF(pos) == only)
                        memcpy(op->removal.names[op->removal.n_names++], ALIAS_OF(pos)->name.name,
                               sizeof(ALIAS_OF(pos)->name.name));
        return true;
}

/* NULL, or why the name (or, without one, the model) can't go now. */
static const char *why_not_removed(const struct store_op *op, const struct store_model *m, const struct store_alias *alias,
                                   Spark__V1__ErrorCode *code) {
        bool whole = !alias || is_last_name(alias);
        struct list *pos, *tmp;

        *code = SPARK__V1__ERROR_CODE__PERMISSION_DENIED;
        if (!op->privileged)
                LIST_FOREACH(pos, tmp, (struct list *)&m->names)
                        if ((!alias || ALIAS_OF(pos) == alias) && ALIAS_OF(pos)->user != op->user)
                                return "belongs to another user";
        *code = SPARK__V1__ERROR_CODE__INVALID_ARGUMENT;
        if (whole && m->manifest.pinned)
                return "is pinned; `sparkctl models pin --remove` comes first";
        *code = SPARK__V1__ERROR_CODE__BUSY;
        if (whole && m->readers > 0)
                return "is being verified";
        if (!store_is_idle(m) && (whole || strcmp(m->model->name, alias->name.name) == 0))
                return "is loaded or in use; unload it first";
        return NULL;
}

static void begin_remove(struct store_op *op) {
        struct store_alias *alias;
        struct store_model *m = store_op_target(op, &alias);
        Spark__V1__ErrorCode code;
        const char *why;

        if (!m)
                return;
        why = why_not_removed(op, m, alias, &code);
        if (why) {
                store_op_fail(op, code, "Model '%.80s' %s.", op->target, why);
                return;
        }
        if (!list_names(op, m, alias) || ((!alias || is_last_name(alias)) && !list_blobs(op, m))) {
                store_op_fail(op, SPARK__V1__ERROR_CODE__INTERNAL, "Out of memory.");
                return;
        }
        op->removal.id = !alias || is_last_name(alias) ? m->manifest.id : "";
        op->subject = m;
        m->readers++;
        op->writing = true;
        store_op_disk(op, run_remove, on_removed);
}

/* A model whose last name means another one now. */
static void remove_nameless(struct store *s, struct store_model *m) {
        struct store_op *op;

        if (!list_empty(&m->names) || m->manifest.pinned || !(op = calloc(1, sizeof(*op))))
                return; /* what is not removed now is at the next start */
        op->store = s;
        op->output = -1;
        op->verb = STORE_REMOVE;
        op->privileged = true;
        (void)snprintf(op->target, sizeof(op->target), STORE_DIGEST_PREFIX "%s", m->manifest.id);
        list_init(&op->link);
        store_op_change(op);
}

/* ---- adding ---- */

static void run_add(struct disk_job *job) {
        struct store_op *op = CONTAINER_OF(job, struct store_op, job);
        const struct store_addition a = { .manifest = op->update, .incoming = op->incoming, .name = &op->new_name };

        op->result = store_file_add(&op->store->dirs, &a);
}

/* Moves the name here where it meant something else. */
static int take_name(struct store_op *op, struct store_model *m) {
        struct store_alias *old = store_get_name(op->store, op->name);
        struct store_model *other;
        int r;

        if (old && old->of == m)
                return 0;
        if (old) {
                other = old->of;
                store_drop_alias(old);
                r = store_sync(other);
                remove_nameless(op->store, other);
                if (r < 0)
                        return r;
        }
        return store_add_alias(m, &op->new_name);
}

static void on_added(struct store_op *op) {
        struct store_model *m;
        int r;

        if (op->result < 0) {
                fail_disk(op);
                return;
        }
        for (size_t i = 0; op->incoming && i < op->manifest.n_files; i++)
                op->incoming[i][0] = 0; /* they have become blobs, or there were none */
        m = store_get(op->store, op->new_name.id);
        if (m && op->update) {
                m->manifest.pinned = op->update->pinned;
                m->manifest.pinned_by = op->update->pinned_by;
                m->damaged = false;
        } else if (!m) {
                m = store_add_model(op->store, &op->manifest);
        }
        r = m ? take_name(op, m) : -ENOMEM;
        if (r == 0)
                r = store_sync(m);
        if (r < 0) {
                store_op_fail(op, SPARK__V1__ERROR_CODE__INTERNAL, "Out of memory.");
                return;
        }
        log_info("store: '%s' is model %.12s now, by uid %u", op->name, m->manifest.id, (unsigned)op->user->uid);
        store_op_finish(op, m);
}

const char *store_op_why_not_named(const struct store_op *op, const struct store_model *m, Spark__V1__ErrorCode *code) {
        const struct store_alias *old = store_get_name(op->store, op->name);
        struct list *pos, *tmp;

        *code = SPARK__V1__ERROR_CODE__INVALID_ARGUMENT;
        LIST_FOREACH(pos, tmp, &op->store->manager->models.list) {
                const struct model *other = LIST_ENTRY(pos, struct model, link);

                if (!other->stored && strcmp(other->name, op->name) == 0)
                        return "is the name of a model that is configured or was loaded from a file";
        }
        if (!old || old->of == m)
                return NULL;
        if (!op->replace)
                return "means another model already; replace it, or choose another name";
        return why_not_removed(op, old->of, old, code);
}

static bool name_fits(struct store_op *op, const struct store_model *m, uint64_t bytes, uint64_t fresh) {
        uint64_t max = op->store->manager->config->store.max_bytes, more = store_charge(m, op->user->uid, bytes);
        char a[WORDS_BYTES], b[WORDS_BYTES], c[WORDS_BYTES];

        (void)words_bytes(op->store->bytes, b);
        if (max && fresh && (fresh > max || op->store->bytes > max - fresh)) {
                (void)words_bytes(fresh, a);
                (void)words_bytes(max, c);
                store_op_fail(op, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                              "It adds %s to the %s of the store, which may have %s (store.max_bytes).", a, b, c);
                return false;
        }
        max = op->user->limits[USER_STORE];
        if (op->privileged || (more <= max && op->user->charged[USER_STORE] <= max - more))
                return true;
        (void)words_bytes(more, a);
        (void)words_bytes(op->user->charged[USER_STORE], b);
        (void)words_bytes(max, c);
        store_op_fail(op, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                      "The model has %s, your user has %s in the store, and may have %s.", a, b, c);
        return false;
}

/* Writes down that op->name means the model `id`, and with `update` the model. */
static void write_name(struct store_op *op, const char *id, struct store_manifest *update) {
        const struct store_alias *old = store_get_name(op->store, op->name);

        op->new_name = (struct store_name){ .uid = op->user->uid, .created_s = now_s() };
        if (old && strcmp(old->of->manifest.id, id) == 0)
                op->new_name = old->name; /* stays whose it is */
        memcpy(op->new_name.name, op->name, sizeof(op->name));
        (void)snprintf(op->new_name.id, sizeof(op->new_name.id), "%s", id);
        op->update = update;
        op->writing = true;
        store_op_disk(op, run_add, on_added);
}

static void begin_alias(struct store_op *op) {
        struct store_alias *alias;
        struct store_model *m = store_op_target(op, &alias);
        Spark__V1__ErrorCode code;
        const char *why;

        if (!m)
                return;
        why = store_op_why_not_named(op, m, &code);
        if (why)
                store_op_fail(op, code, "'%s' %s.", op->name, why);
        else if (name_fits(op, m, store_manifest_bytes(&m->manifest), 0))
                write_name(op, m->manifest.id, NULL);
}

static void begin_import(struct store_op *op) {
        struct store_manifest *manifest = &op->manifest;
        const struct store_model *m = store_get(op->store, manifest->id);
        Spark__V1__ErrorCode code;
        uint64_t fresh = 0;
        const char *why;

        for (size_t i = 0; i < manifest->n_files; i++) {
                if (*op->incoming[i] && !store_has_blob(op->store, manifest->files[i].digest)) {
                        fresh += manifest->files[i].size;
                } else if (!*op->incoming[i] && !store_has_blob(op->store, manifest->files[i].digest)) {
                        store_op_fail(op, SPARK__V1__ERROR_CODE__BUSY,
                                      "A file that the store had was removed meanwhile; try again.");
                        return;
                }
        }
        why = store_op_why_not_named(op, m, &code);
        if (why) {
                store_op_fail(op, code, "'%s' %s.", op->name, why);
                return;
        }
        if (!name_fits(op, m, store_manifest_bytes(manifest), fresh))
                return;
        manifest->imported_s = now_s();
        if (m) {
                /* a single file goes by its content, and is what it was when it was looked at, whatever it is called now */
                memcpy(manifest->files, m->manifest.files, manifest->n_files * sizeof(*manifest->files));
                manifest->uid = m->manifest.uid;
                manifest->imported_s = m->manifest.imported_s;
                manifest->pinned = m->manifest.pinned;
                manifest->pinned_by = m->manifest.pinned_by;
                if (!m->damaged)
                        manifest->facts = m->manifest.facts;
        }
        if (op->pin && !manifest->pinned) {
                manifest->pinned = true;
                manifest->pinned_by = op->user->uid;
        }
        write_name(op, manifest->id, manifest);
}

/* ---- pins ---- */

static void run_update(struct disk_job *job) {
        struct store_op *op = CONTAINER_OF(job, struct store_op, job);

        op->result = store_file_update(&op->store->dirs, op->update);
}

static void on_updated(struct store_op *op) {
        struct store_model *m = op->subject;

        if (op->result < 0) {
                m->manifest.pinned = !m->manifest.pinned;
                fail_disk(op);
                return;
        }
        op->subject = NULL;
        m->readers--;
        if (!m->manifest.pinned)
                remove_nameless(op->store, m);
        store_op_finish(op, m);
}

static void begin_pin(struct store_op *op) {
        struct store_alias *alias;
        struct store_model *m = store_op_target(op, &alias);

        if (!m)
                return;
        if (!store_op_owns(op, m) ||
            (m->manifest.pinned && !op->pin && !op->privileged && m->manifest.pinned_by != op->user->uid)) {
                store_op_fail(op, SPARK__V1__ERROR_CODE__PERMISSION_DENIED, "Model '%.80s' %s another user.", op->target,
                              store_op_owns(op, m) ? "was pinned by" : "belongs to");
                return;
        }
        if (m->manifest.pinned == op->pin) {
                store_op_finish(op, m);
                return;
        }
        op->subject = m;
        m->readers++;
        m->manifest.pinned = op->pin; /* changes go one at a time: nobody looks at it before it is on disk */
        m->manifest.pinned_by = op->user->uid;
        op->update = &m->manifest;
        op->writing = true;
        store_op_disk(op, run_update, on_updated);
}

void store_change_begin(struct store_op *op) {
        switch (op->verb) {
        case STORE_IMPORT:
        case STORE_PACK:
                begin_import(op);
                return;
        case STORE_ALIAS:
                begin_alias(op);
                return;
        case STORE_PIN:
                begin_pin(op);
                return;
        default:
                begin_remove(op);
        }
}
