/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the files of the sessions share. */

#include "base/list.h"
#include "manager.h"
#include "request/request.h"
#include "session-file.h"
#include "session-text.h"
#include "session-view.h"
#include "session.h"
#include "disk.h"

#define SESSION_BUCKETS 256u
#define SESSION_BUSY_RETRY_MS 200u
#define SESSION_SCAN_PATIENCE_US (5u * 1000000u)    /* requests wait for the scan of the folder for so long */
#define SESSION_WRITE_PATIENCE_US (10u * 1000000u)  /* answers wait for the disk for so long */
#define SESSION_RETRY_US (2u * 1000000u)            /* after a file could not be written */
#define SESSION_HURRY_US (2u * 1000000u)              /* while memory is short: idle after that */
#define SESSION_ERRAND_US (60u * 1000000u)          /* an engine has so long to spill or restore */

struct errand;
struct file_job;

struct sessions {
        struct manager *manager;
        struct list buckets[SESSION_BUCKETS];
        size_t n_bound;        /* that live as long as a connection */
        struct list incoming;  /* requests to be looked at */
        struct list doomed;    /* sessions whose connection has gone */
        struct list errands;
        uint64_t last_errand;
        size_t n_spills;       /* under way; one at a time */
        bool scanned;
        bool hurry;            /* memory is short: idle sessions go to disk soon */
        bool complained;       /* of a file that could not be written, since one could */
        uint64_t since_us;
        void (*told)(void *userdata, const struct session *s, bool removed);
        void *told_userdata;
};

struct session {
        struct sessions *table;
        struct list link, doomed_link;
        char id[SESSION_ID_TEXT + 1];
        char model[CONFIG_MODEL_NAME_MAX + 1];
        char name[SESSION_NAME_MAX + 1];
        struct user *user;
        bool persistent;
        bool closing;            /* its files are being removed */
        bool stored;             /* on disk only: the text has to be read first */
        uint64_t connection;     /* not persistent: lives as long as that */
        bool kept;               /* not persistent: a later process knows of it, */
        uint64_t kept_n;         /* and of so many of its tokens, as they are */
        struct session_text *text;
        uint64_t n;              /* tokens, of the text's */
        uint32_t vocabulary;     /* of the model that made the text; 0 = not known */
        uint64_t parameters;
        uint64_t used_us;        /* CLOCK_MONOTONIC; 0 = not since the daemon started, then: */
        uint64_t used_s;         /* wall clock */
        struct request *turn;    /* that is running */
        struct list waiting;     /* requests, for the text */
        struct list finishing;   /* requests that are done, but for the file */
        uint64_t version;        /* of the text; saved: on disk, tried: the last one that was to be written */
        uint64_t saved, tried;
        uint64_t retry_us;
        struct file_job *saving, *loading;
        uint64_t file_bytes, kv_bytes; /* on disk, charged */
        uint64_t kv_version;     /* whose KV is on disk, or was to be */
        uint64_t kv_engine;      /* the engine (its start) that has the KV in its cache, or had it */
        struct errand *errand;
};

/* Work of the disk's thread for a session, or for the table. */
struct file_job {
        struct disk_job base;
        struct sessions *table;
        struct session *session; /* NULL: gone meanwhile */
        char *state_dir;
        struct session_head head;
        struct session_text *text; /* to be written */
        uint64_t version;
        uint64_t bytes_before;
        uint32_t *ids;           /* read */
        struct user *user;       /* charged for ids */
        uint64_t charged;
        struct session_fault fault;
        struct session_scan scan;
        uint64_t request;        /* key of the one that waits for it */
        uint64_t errand;         /* key */
        int fd;
        uint64_t bytes;
        bool unfinished;
        int result;
};

/* ---- session.c ---- */
/* NULL without memory. */
struct session *session_new(struct sessions *t, struct user *user, const char *id);
/* Ends what runs on it; its files stay. */
struct session *session_free(struct session *s);
/* The one that `id` names, where this user may use it; NULL with *error filled. */
struct session *session_get(struct sessions *t, const char *id, const struct user *user, struct request_error *error);
/* True when the text is there. Else r waits for it, to be looked at again, or has failed. */
bool session_need_text(struct session *s, struct request *r);
/* Replaces the text (the reference is taken over). */
void session_set_text(struct session *s, struct session_text *text, uint64_t n);
/* Something that is on disk has changed; see to it. */
void session_changed(struct session *s);
/* Gives an empty Done, or `done`, with the session as it stands: when that is on disk, or need not be. */
void session_answer(struct request *r, struct session *s, const Spark__V1__Done *done);
/* The answers that waited, up to what was tried (all: every one). */
void session_answer_waiting(struct session *s, bool all);

/* ---- session-operate.c ---- */
/* Does what the request asks for, or finds out what it waits for. */
void session_operate(struct sessions *t, struct request *r);

/* ---- session-turn.c ---- */
/* A Generate or SessionAppend: its session goes on with it. */
void session_turn_begin(struct sessions *t, struct request *r, const Spark__V1__ClientFrame *f);

/* ---- session-store.c ---- */
struct file_job *file_job_new(struct sessions *t, struct session *s, void (*run)(struct disk_job *job),
                              void (*done)(struct disk_job *job));
void file_job_free(struct file_job *job);
/* Frees the job on failure. 0 or -errno (-EAGAIN: too much is under way). */
int file_job_submit(struct file_job *job);
int session_store_scan(struct sessions *t);
/* Writes the text, where that has not been done; one write at a time. */
void session_store_save(struct session *s);
/* Reads the text; the requests that wait for it are looked at again, or fail. 0 or -errno. */
int session_store_load(struct session *s);
/* Removes the files of a session that is being closed; then the request with this key (0 = none) is done. 0 or -errno. */
int session_store_remove(struct session *s, uint64_t request);
/* Forgets the KV on disk. */
void session_store_remove_kv(struct session *s);
/* Charges `bytes` to the disk of its user; other sessions' KV goes where it must. False: that is not enough. */
bool session_store_charge(struct session *s, uint64_t bytes);
void session_store_tick(struct session *s, uint64_t now_us);

/* ---- session-kv.c ---- */
/* True where the engine's cache has what can be had; false: it is being brought back, and the model is kicked then. */
bool session_kv_ready(struct session *s, struct engine *e);
/* Begins to write the KV of an idle session. False where there is nothing to write, or no way to. */
bool session_kv_spill(struct session *s);
/* Asks the engine to drop what its cache has of a user, or of all, for this request. False: it has nothing. */
bool session_kv_drop(struct sessions *t, struct engine *engine, struct request *r, bool all_users);
void session_kv_deinit(struct sessions *t);
void session_kv_tick(struct sessions *t, uint64_t now_us);
void session_kv_forget(struct session *s); /* the session goes: what is under way for it is for nobody */
