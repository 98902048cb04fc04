/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The life of a request about the store: checked when it comes, begun in a turn, moved on by jobs of the disk's thread and
 * by workers, answered once. Whoever asked may go at any time: then what has not begun to be written down is given up.
 */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/utf8.h"
#include "base/words.h"
#include "store-private.h"
#include "users/policy.h"

#define OP_OF(pos) LIST_ENTRY(pos, struct store_op, link)

struct store_op *store_op_of(struct store_worker *w) {
        return CONTAINER_OF(w, struct store_op, worker);
}

static void close_inputs(struct store_op *op) {
        for (size_t i = 0; i < op->n_inputs; i++)
                op->inputs[i] = fd_close(op->inputs[i]);
        op->output = fd_close(op->output);
}

static struct store_op *op_free(struct store_op *op) {
        if (!op)
                return NULL;
        if (op->request)
                op->request->store_op = NULL;
        store_worker_stop(&op->worker);
        list_remove(&op->link);
        if (op->subject)
                op->subject->readers--;
        if (op->store->changing == op) {
                op->store->changing = NULL;
                manager_kick(op->store->manager);
        }
        close_inputs(op);
        store_manifest_deinit(&op->manifest);
        free(op->inputs);
        model_files_deinit(&op->source);
        free(op->incoming);
        free(op->removal.names);
        free(op->removal.blobs);
        op->user = user_unref(op->user);
        free(op);
        return NULL;
}
DEFINE_CLEANUP(struct store_op *, op_free)

void store_ops_drop(struct store *s) {
        struct list *const lists[] = { &s->waiting, &s->running, &s->changes };
        struct list *node;

        for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
                while ((node = list_pop(lists[i])))
                        (void)op_free(OP_OF(node));
}

/* ---- the disk ---- */

static void on_job_done(struct disk_job *job) {
        struct store_op *op = CONTAINER_OF(job, struct store_op, job);

        op->on_disk = false;
        if (job->dropped || op->store->manager->state == MANAGER_CLOSING) {
                (void)op_free(op);
                return;
        }
        if (!op->request && !op->writing && op->next) {
                store_op_end(op);
                return;
        }
        op->writing = false;
        if (op->next)
                op->next(op);
        else
                (void)op_free(op);
}

void store_op_disk(struct store_op *op, void (*run)(struct disk_job *job), void (*next)(struct store_op *op)) {
        op->job = (struct disk_job){ .run = run, .done = on_job_done };
        op->next = next;
        op->on_disk = true;
        if (disk_submit(op->store->manager->disk, &op->job) == 0)
                return;
        op->on_disk = op->writing = false;
        if (next)
                store_op_fail(op, SPARK__V1__ERROR_CODE__BUSY, "The disk is too busy; try again.");
        else
                (void)op_free(op); /* the next start tidies up */
}

/* ---- ends ---- */

static void run_tidy(struct disk_job *job) {
        struct store_op *op = CONTAINER_OF(job, struct store_op, job);

        for (size_t i = 0; i < op->manifest.n_files; i++)
                if (*op->incoming[i])
                        (void)store_incoming_remove(&op->store->dirs, op->incoming[i]);
}

/* Removes what is left over, then the op. */
void store_op_end(struct store_op *op) {
        bool left = false;

        if (op->on_disk) /* the job's end brings it back here */
                return;
        store_worker_stop(&op->worker);
        close_inputs(op);
        for (size_t i = 0; op->incoming && i < op->manifest.n_files; i++)
                left = left || *op->incoming[i];
        if (left)
                store_op_disk(op, run_tidy, NULL);
        else
                (void)op_free(op);
}

static struct request *take_request(struct store_op *op) {
        struct request *r = steal_ptr(&op->request);

        if (r)
                r->store_op = NULL;
        return r;
}

void store_op_fail_with(struct store_op *op, const struct request_error *error) {
        struct request *r = take_request(op);

        if (r)
                request_fail(r, error);
        store_op_end(op);
}

void store_op_fail(struct store_op *op, Spark__V1__ErrorCode code, const char *fmt, ...) {
        struct request_error error = { .code = code };
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(error.text, sizeof(error.text), fmt, ap);
        utf8_mend(error.text);
        va_end(ap);
        if (code == SPARK__V1__ERROR_CODE__BUSY)
                error.retry_after_ms = 1000;
        store_op_fail_with(op, &error);
}

void store_op_detach(struct store_op *op) {
        op->request = NULL;
        if (!op->writing && op->store->changing != op)
                store_op_end(op);
}

/* ---- answers ---- */

struct answer {
        Spark__V1__StoredModel stored;
        Spark__V1__ModelFile *files;
        Spark__V1__ModelFile **file_list;
        char **names;
        struct weights_view weights;
};

static void answer_deinit(struct answer *a) {
        free(a->files);
        free(a->file_list);
        free(a->names);
}

static bool fill_files(struct answer *a, const struct store_manifest *m) {
        a->files = calloc(m->n_files + 1, sizeof(*a->files));
        a->file_list = calloc(m->n_files + 1, sizeof(*a->file_list));
        if (!a->files || !a->file_list)
                return false;
        for (size_t i = 0; i < m->n_files; i++) {
                a->files[i] = (Spark__V1__ModelFile)SPARK__V1__MODEL_FILE__INIT;
                a->files[i].role = m->files[i].role;
                a->files[i].name = m->files[i].name;
                a->files[i].size = m->files[i].size;
                a->files[i].sha256 = m->files[i].digest;
                a->file_list[i] = &a->files[i];
        }
        a->stored.files = a->file_list;
        a->stored.n_files = m->n_files;
        return true;
}

static bool fill_names(struct answer *a, const struct store_model *m) {
        struct list *pos, *tmp;
        size_t n = 0;

        LIST_FOREACH(pos, tmp, (struct list *)&m->names)
                n++;
        a->names = calloc(n + 1, sizeof(*a->names));
        if (!a->names)
                return false;
        a->stored.n_names = 0;
        LIST_FOREACH(pos, tmp, (struct list *)&m->names)
                a->names[a->stored.n_names++] = LIST_ENTRY(pos, struct store_alias, link)->name.name;
        a->stored.names = a->names;
        return true;
}

static void fill_facts(struct answer *a, const struct store_model *m) {
        const bool loaded = m->model && m->model->image_bytes > 0;
        Spark__V1__StoredModel *s = &a->stored;
        struct manager *mgr = m->store->manager;
        const struct store_facts *f = &m->manifest.facts;

        s->digest = (char *)m->manifest.id;
        s->bytes = store_manifest_bytes(&m->manifest);
        s->imported = m->manifest.imported_s;
        s->uid = m->manifest.uid;
        s->pinned = m->manifest.pinned;
        s->damaged = m->damaged;
        s->state = (char *)(m->model ? model_state_name(m->model) : "available");
        s->architecture = (char *)f->architecture;
        s->format = (char *)f->format;
        s->parameters = f->parameters;
        s->context = f->context;
        s->vocabulary = f->vocabulary;
        s->has_chat_template = f->has_chat_template;
        s->image_bytes = f->image_bytes;
        if (!checked_mul(f->kv_bytes_per_token, f->context, &s->kv_bytes))
                s->kv_bytes = UINT64_MAX;
        s->weights = weights_show(loaded ? &m->model->plan.weights : &f->weights, &a->weights);
        s->available_bytes = memory_available(&mgr->memory);
        s->floor_bytes = mgr->memory.floor;
}

static const char *method_name(const struct store_op *op) {
        if (op->verb == STORE_PACK)
                return "pack";
        if (op->verb != STORE_IMPORT)
                return "";
        return !op->wrote ? "known" : op->method == STORELINK_REFLINK ? "reflink" : "copy";
}

void store_op_finish(struct store_op *op, const struct store_model *m) {
        struct answer a = { .stored = SPARK__V1__STORED_MODEL__INIT };
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        struct request *r;

        if (m && (!fill_files(&a, &m->manifest) || !fill_names(&a, m))) {
                answer_deinit(&a);
                store_op_fail(op, SPARK__V1__ERROR_CODE__INTERNAL, "Out of memory.");
                return;
        }
        if (m)
                fill_facts(&a, m);
        a.stored.freed_bytes = op->freed;
        a.stored.method = (char *)method_name(op);
        done.result_case = SPARK__V1__DONE__RESULT_STORED;
        done.stored = &a.stored;
        r = take_request(op);
        if (r)
                request_finish(r, &done);
        answer_deinit(&a);
        store_op_end(op);
}

void store_op_progress(struct store_op *op, const char *stage, uint64_t done) {
        speed_add(&op->speed, manager_now_us(), done);
        if (op->request)
                request_progress_at(op->request, stage, &op->speed, done, op->total);
}

struct store_model *store_op_target(struct store_op *op, struct store_alias **ret_alias) {
        struct request_error error;
        struct store_model *m = store_find(op->store, op->target, ret_alias, &error);

        if (!m)
                store_op_fail_with(op, &error);
        return m;
}

bool store_op_owns(const struct store_op *op, const struct store_model *m) {
        struct list *pos, *tmp;

        if (op->privileged)
                return true;
        LIST_FOREACH(pos, tmp, (struct list *)&m->names)
                if (LIST_ENTRY(pos, struct store_alias, link)->user == op->user)
                        return true;
        return false;
}

/* ---- moving on ---- */

void store_op_change(struct store_op *op) {
        list_remove(&op->link);
        list_append(&op->store->changes, &op->link);
        manager_kick(op->store->manager);
}

static void op_begin(struct store_op *op) {
        struct store_alias *alias;
        struct store_model *m;

        list_remove(&op->link);
        list_append(&op->store->running, &op->link);
        if (!op->store->open) {
                store_op_fail(op, SPARK__V1__ERROR_CODE__UNIMPLEMENTED, "There is no model store: %s.", op->store->why);
        } else if (op->verb == STORE_IMPORT) {
                store_import_begin(op);
        } else if (op->verb == STORE_PACK) {
                store_pack_begin(op);
        } else if (op->verb == STORE_VERIFY) {
                store_verify_begin(op);
        } else if (op->verb == STORE_SHOW) {
                m = store_op_target(op, &alias);
                if (m)
                        store_op_finish(op, m);
        } else {
                store_op_change(op);
        }
}

static bool verb_is_long(const struct store_op *op) {
        return op->verb == STORE_IMPORT || op->verb == STORE_VERIFY || op->verb == STORE_PACK;
}

static size_t count_long(const struct store *s) {
        struct list *pos, *tmp;
        size_t n = 0;

        LIST_FOREACH(pos, tmp, (struct list *)&s->running)
                n += verb_is_long(OP_OF(pos));
        return n;
}

/* The change that is made next; NULL while another one is under way, or where there is none. */
static struct store_op *pop_change(struct store *s) {
        struct list *node = s->changing ? NULL : list_pop(&s->changes);

        if (!node)
                return NULL;
        s->changing = OP_OF(node);
        return s->changing;
}

void store_turn(struct store *s) {
        struct list *pos, *tmp;
        struct store_op *next;

        if (!s || !s->ready || s->manager->state == MANAGER_CLOSING)
                return;
        LIST_FOREACH(pos, tmp, &s->waiting)
                if (!verb_is_long(OP_OF(pos)) || count_long(s) < s->manager->config->store.imports)
                        op_begin(OP_OF(pos));
        for (next = pop_change(s); next; next = pop_change(s))
                store_change_begin(next);
        if (!list_empty(&s->waiting) && count_long(s) < s->manager->config->store.imports)
                manager_kick(s->manager);
}

void store_tick(struct store *s, uint64_t now_us) {
        uint64_t limit_us = s->manager->config->limits.load_seconds * 1000000u;
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &s->running) {
                struct store_op *op = OP_OF(pos);

                if (op->worker.running && now_us > op->worker.active_us + limit_us)
                        store_op_fail(op, SPARK__V1__ERROR_CODE__INTERNAL,
                                      "The file did not move for too long and was given up.");
        }
}

/* ---- spark-store ---- */

static bool on_record(struct store_worker *w) {
        struct store_op *op = store_op_of(w);
        struct storelink_record record;

        for (int i = 0; i < 16; i++) {
                int r = storelink_recv(w->link, &record);

                if (r == -EAGAIN)
                        return true;
                if (r <= 0)
                        return false;
                if (record.type == STORELINK_PROGRESS)
                        store_op_progress(op, op->verb == STORE_VERIFY ? "verify" : op->verb == STORE_PACK ? "hash" : "import",
                                          op->done + record.done);
                else
                        op->said = record;
        }
        return true;
}

bool store_op_hash(struct store_op *op, int input, int output,
                   void (*on_exit)(struct store_worker *w, const siginfo_t *i)) {
        const struct store_input fds[] = { { .flag = "--input", .fd = input }, { .flag = "--output", .fd = output } };
        int r;

        op->said = (struct storelink_record){ .type = 0 };
        op->worker.on_link = on_record;
        op->worker.on_exit = on_exit;
        r = store_worker_start(&op->worker, op->store->manager->event, "spark-store", fds, output < 0 ? 1 : 2, NULL, 0);
        if (r == -ENOENT)
                store_op_fail(op, SPARK__V1__ERROR_CODE__INTERNAL, "spark-store is not installed.");
        else if (r < 0)
                store_op_fail(op, SPARK__V1__ERROR_CODE__INTERNAL, "spark-store could not be started: %s.", strerror(-r));
        return r == 0;
}

bool store_op_hashed(struct store_op *op, const siginfo_t *info, const char *what) {
        char need[WORDS_BYTES], have[WORDS_BYTES];

        if (op->said.type == STORELINK_DONE && info->si_code == CLD_EXITED && info->si_status == 0)
                return true;
        (void)words_bytes(op->total, need);
        (void)words_bytes(op->free_bytes, have);
        if (op->said.type == STORELINK_ERROR && op->said.code == STORELINK_CODE_CHANGED)
                store_op_fail(op, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "File '%.200s': %s.", what, op->said.text);
        else if (op->said.type == STORELINK_ERROR && op->said.code == STORELINK_CODE_SPACE)
                store_op_fail(op, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                              "File '%.100s' does not fit: %s. The import has %s; %s were free when it began.", what,
                              op->said.text, need, have);
        else if (op->said.type == STORELINK_ERROR)
                store_op_fail(op, SPARK__V1__ERROR_CODE__INTERNAL, "File '%.200s': %s.", what, op->said.text);
        else
                store_op_fail(op, SPARK__V1__ERROR_CODE__INTERNAL, "spark-store ended without a word.");
        return false;
}

/* ---- submitting ---- */

int store_submit(struct store *s, struct request *r, const Spark__V1__ClientFrame *frame, int *fds, size_t n_fds,
                 struct request_error *error) {
        _cleanup_(op_freep) struct store_op *op = calloc(1, sizeof(*op));
        int e = op ? 0 : -ENOMEM;

        if (op) {
                op->store = s;
                op->output = -1;
                list_init(&op->link);
                op->user = user_ref(r->user);
                op->privileged = request_origin_may(&r->origin, RIGHT_MANAGE_MODELS);
                e = store_op_take_frame(op, frame, fds, n_fds, error);
        }
        for (size_t i = 0; i < n_fds; i++)
                fds[i] = fd_close(fds[i]);
        if (e == 0 && (op->verb == STORE_IMPORT || op->verb == STORE_ALIAS || op->verb == STORE_PACK) &&
            !policy_may_import(&r->user->policy, op->privileged)) {
                request_error_set(error, SPARK__V1__ERROR_CODE__PERMISSION_DENIED,
                                  "Your user may not put models into the store (store.import in the configuration).");
                e = REQUEST_E_REFUSED;
        }
        if (e)
                return e;
        op->request = r;
        r->store_op = op;
        list_append(&s->waiting, &op->link);
        manager_kick(s->manager);
        (void)steal_ptr(&op);
        return 0;
}
