/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the parts of the store share. store.c: what is there, and how it shows in the models table; store-op.c: the life
 * of a request about it; store-frame.c: what it asks for; store-import.c, store-verify.c, store-change.c: what such
 * requests do (store-pack.c, too); store-worker.h: the processes that touch bytes.
 */

#include <systemd/sd-event.h>

#include "base/list.h"
#include "disk.h"
#include "loadlink.h"
#include "manager.h"
#include "model/model-files.h"
#include "request/request.h"
#include "store-file.h"
#include "store-worker.h"
#include "store.h"
#include "storelink.h"

struct store_alias {
        struct list link; /* store_model.names, the oldest first */
        struct store_model *of;
        struct user *user;
        struct store_name name;
};

struct store_model {
        struct store *store;
        struct list link;
        struct list names;
        struct store_manifest manifest;
        struct model *model; /* as it stands in the models table */
        char **aliases;      /* further names, as lists show them: [n_aliases], borrowed from names */
        size_t n_aliases;
        bool damaged;
        unsigned readers;    /* requests that read its files */
};

struct store {
        struct manager *manager;
        struct store_dirs dirs;
        struct disk_job scan;
        char *state_dir;
        struct store_found found;
        int scan_result;
        bool ready;          /* the scan is over */
        bool open;           /* and there is a store */
        char why[160];       /* !open: why not */
        struct list models;
        uint64_t bytes;      /* of all blobs */
        uint64_t last_number; /* of incoming files */
        struct list waiting; /* to begin */
        struct list running; /* workers or files are busy for them */
        struct list changes; /* to be written down, one at a time */
        struct store_op *changing;
};

/* ---- requests ---- */

enum store_verb { STORE_IMPORT, STORE_SHOW, STORE_VERIFY, STORE_REMOVE, STORE_PIN, STORE_ALIAS, STORE_PACK };

struct store_op {
        struct disk_job job;
        struct list link;
        struct store *store;
        struct request *request; /* NULL: nobody waits for it */
        struct user *user;
        bool privileged;
        enum store_verb verb;
        char target[CONFIG_MODEL_NAME_MAX + 16]; /* what it is about: a name or a digest */
        char name[CONFIG_MODEL_NAME_MAX + 1];    /* that it shall have */
        bool replace, pin, lossless;
        bool on_disk;  /* a job is under way */
        bool writing;  /* and it is one that changes what counts */
        void (*next)(struct store_op *op); /* after the job */
        int result;    /* of the job: 0 or -errno */
        struct store_model *subject; /* that it reads */

        /* import, verify */
        struct store_manifest manifest;
        int *inputs;                /* [n_inputs], of the manifest's files, which a new model takes over */
        size_t n_inputs;
        int output;
        char (*incoming)[24];       /* [n_files], "" = none */
        size_t at;                  /* file */
        bool hashed, wrote;         /* file `at` was looked at to see whether it is known; something was copied */
        uint64_t total, done;       /* bytes; of files before `at` */
        struct speed speed;
        uint64_t free_bytes;
        struct store_worker worker;
        struct storelink_record said; /* spark-store's last word, type 0 = none */
        struct request_error fault;   /* the loader's; code 0 = none */
        bool planned, packed;         /* there was a plan; the loader has written everything */
        bool unreserved;              /* into a file that the file system could not keep room for */
        struct model_files source;    /* that is packed */
        enum storelink_method method;
        char bad_file[STORE_FILE_NAME_MAX + 1];
        unsigned n_bad;

        /* changes */
        struct store_name new_name;
        struct store_manifest *update; /* borrowed */
        struct store_removal removal;
        struct store_removed removed;
        uint64_t freed;
};

/* Fills a new op from what was asked; takes the descriptors that it keeps out of fds. 0, REQUEST_E_REFUSED with *error
 * filled, or -errno. */
int store_op_take_frame(struct store_op *op, const Spark__V1__ClientFrame *f, int *fds, size_t n_fds,
                        struct request_error *error);
struct store_op *store_op_of(struct store_worker *w);
/* Runs a job on the disk's thread, then next() on the loop. */
void store_op_disk(struct store_op *op, void (*run)(struct disk_job *job), void (*next)(struct store_op *op));
/* Answers, where somebody waits, and ends the op. */
void store_op_fail(struct store_op *op, Spark__V1__ErrorCode code, const char *fmt, ...) _printf_(3, 4);
void store_op_fail_with(struct store_op *op, const struct request_error *error);
void store_op_finish(struct store_op *op, const struct store_model *m);
void store_op_end(struct store_op *op);
/* Frees them all, at the end of the daemon. */
void store_ops_drop(struct store *s);
/* Puts it at the end of the changes. */
void store_op_change(struct store_op *op);
void store_op_progress(struct store_op *op, const char *stage, uint64_t done);
/* The model it is about; NULL where it was answered instead. */
struct store_model *store_op_target(struct store_op *op, struct store_alias **ret_alias);
/* True where the asker may speak for the model: has a name for it, or is privileged. */
bool store_op_owns(const struct store_op *op, const struct store_model *m);

void store_import_begin(struct store_op *op);
void store_verify_begin(struct store_op *op);
void store_pack_begin(struct store_op *op);
/* Its files are there, hashed: looks at them, then it is a change. */
void store_import_complete(struct store_op *op);
/* Of loadlink: notes what the loader planned or refused. */
void store_op_take_plan(struct store_op *op, const struct loadlink_record *rec);
void store_op_take_refusal(struct store_op *op, const struct loadlink_record *rec);
/* False with *error filled where so many new bytes are certainly too many for the store or the user. what: "import". */
bool store_op_fits(struct store_op *op, const char *what, uint64_t fresh, struct request_error *error);
/* Makes the i-th incoming file; then next(), with the descriptor in op->result and the file system's free_bytes. */
void store_op_create(struct store_op *op, size_t i, void (*next)(struct store_op *op));
/* Whether a file fits where the store is, by what was found then; false: answered. */
bool store_op_has_room(struct store_op *op, const char *name, uint64_t size);
/* NULL, or what is wrong with the op's name for the model (NULL: a new one). */
const char *store_op_why_not_named(const struct store_op *op, const struct store_model *m, Spark__V1__ErrorCode *code);
/* The op is the one that changes things now. */
void store_change_begin(struct store_op *op);
/* Starts spark-store on a file; output -1: only hash. False: answered. */
bool store_op_hash(struct store_op *op, int input, int output, void (*on_exit)(struct store_worker *w, const siginfo_t *i));
/* True where spark-store did what it was asked to; else the op was answered. `what` names the file. */
bool store_op_hashed(struct store_op *op, const siginfo_t *info, const char *what);

/* ---- what is there (store.c) ---- */

struct store_model *store_get(const struct store *s, const char *id);
struct store_alias *store_get_name(const struct store *s, const char *name);
/* By name or digits; NULL with *error (may be NULL) filled. */
struct store_model *store_find(const struct store *s, const char *name, struct store_alias **ret_alias,
                               struct request_error *error);
bool store_has_blob(const struct store *s, const char *digest);
bool store_has_blob_of_size(const struct store *s, uint64_t size);
/* Takes the manifest over. NULL without memory. */
struct store_model *store_add_model(struct store *s, struct store_manifest *m);
/* With its names. */
void store_drop_model(struct store_model *m);
/* Charges the user, who must be good for it. 0 or -ENOMEM. */
int store_add_alias(struct store_model *m, const struct store_name *name);
void store_drop_alias(struct store_alias *a);
/* What a further name for the model would be charged to a user: nothing where it has one. */
uint64_t store_charge(const struct store_model *m, uid_t uid, uint64_t bytes);
/* Brings the models table in line with the model's names. 0 or -ENOMEM. */
int store_sync(struct store_model *m);
/* Nothing is loaded or asked of it. */
bool store_is_idle(const struct store_model *m);
