/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Sessions, as the rest of control sees them. A session is a text that grows: token ids, owned by a uid, known by an id
 * that we draw. That is all it takes for it to come back bit for bit, since the same tokens give the same KV and the same
 * continuation (promises 1 and 2): nothing here holds KV, the engine finds that by the tokens; what of it is on disk only
 * saves time.
 *
 * Every request that has to do with sessions is put on a list by request_submit() and looked at in the next turn, or, at
 * the daemon's start, once it is known which sessions there are. So looking up, waiting for a file and being asked again
 * are one way, and sinks are never called from where they must not be.
 *
 * session.c: the table, and answers. session-operate.c: what is asked of sessions themselves. session-turn.c: requests
 * that a session goes on with. session-store.c: their files. session-kv.c: KV to and from the engine.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine.pb-c.h"
#include "spark.pb-c.h"

struct engine;
struct manager;
struct model;
struct request;
struct sessions;

/* Begins to look for what is on disk. 0 or -errno. */
int sessions_new(struct sessions **ret, struct manager *m);
/* The disk must have been freed, and all requests be gone. */
struct sessions *sessions_free(struct sessions *t);
/* Takes up what requests wait for; once a turn, and once a second. */
void sessions_turn(struct sessions *t);
void sessions_tick(struct sessions *t, uint64_t now_us);
/* Writes what is not on disk now, before the machine may go to sleep; to be called until true: it is, or cannot be. */
bool sessions_sync(struct sessions *t);
/* Those that persist and are not on disk as they stand. */
size_t sessions_count_unsaved(const struct sessions *t);
/* While memory is short (on): idle sessions that persist go to disk, one KV after the other; to be called again. True when all
 * are there. */
bool sessions_put_away(struct sessions *t, bool on);
/* Bytes of KV in the model's cache that could go to disk so, as far as is known. */
uint64_t sessions_idle_kv(const struct sessions *t, const struct model *model);
/* A request whose frame names a session, or is about sessions or the prefix cache as such. */
void sessions_add(struct sessions *t, struct request *r);
/* The connection that bears this number has gone: so do the sessions that live no longer than it. */
void sessions_connection_gone(struct sessions *t, uint64_t client);

/* ---- a request that a session goes on with (r->session is set) ---- */

/* The model is ready. True: to the engine with it; false: not yet, its KV is being brought back, or it was ended. */
bool session_turn_prepare(struct request *r);
/* True where what the engine accepted begins with the session's text. */
bool session_turn_accepts(const struct request *r, const Spark__Engine__V1__Accepted *a);
/* It is done: the session takes over prompt and tokens, and the answer goes out, at once or when they are on disk. The
 * request is gone, or no longer the caller's. */
void session_turn_finish(struct request *r, const Spark__V1__Done *done);
/* It ended in another way: the session takes over prompt and tokens where the client has seen any. */
void session_turn_break(struct request *r);
/* It goes on in another process: the session stays as it was. */
void session_turn_leave(struct request *r);
/* Gives an answer that waits for the disk. The request is gone afterwards. */
void session_answer_now(struct request *r);

/* ---- the engine ---- */

/* Engines know errands of sessions by keys that no request has. */
#define SESSION_ERRAND_KEYS ((uint64_t)1 << 63)
static inline bool session_is_errand(uint64_t key) {
        return key & SESSION_ERRAND_KEYS;
}

void sessions_take_spilled(struct sessions *t, const Spark__Engine__V1__Spilled *s);
void sessions_take_restored(struct sessions *t, const Spark__Engine__V1__Restored *s);
/* The cache has dropped what it was to. */
void sessions_take_forgotten(struct sessions *t, uint64_t key);
/* Nothing that it was asked for will come. */
void sessions_engine_gone(struct sessions *t, const struct engine *e);
