/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SPARK_H
#include "spark.h" /* which includes this */
#elif !defined(SPARK_SESSION_H)
#define SPARK_SESSION_H

/*
 * Sessions, and the prefix cache. Part of spark.h.
 *
 * A session is a text that grows, kept by the service: a sequence of tokens, with what was computed for them where there
 * is room. It belongs to the user who made it and is named by an id. It lives as long as the connection that made it, or,
 * if persistent, until it is closed: over disconnects, the loss of engines and restarts of the service. What comes out
 * of it is what a request with the whole text as its prompt would get, bit for bit.
 *
 * One request at a time goes on with a session; a second one is SPARK_BUSY. A request that ends early (cancelled, an
 * error) leaves the session with the prompt and the tokens that were delivered, or, where none were, as it was.
 */

struct spark_session {
        const char *id;
        const char *model;
        const char *name;           /* for people; may be "" */
        const char *state;          /* "idle", "busy", "stored" (on disk; comes back by itself) */
        uint32_t uid;
        int persistent;
        uint64_t tokens;
        uint64_t stored_bytes;      /* on disk; 0: not there as it stands now */
        float idle_s;               /* seconds since it was used */
};

struct spark_session_create_request {
        size_t size;
        const char *model;
        const char *name;          /* for people; at most 64 bytes */
        int persistent;            /* outlives this connection */
};
#define SPARK_SESSION_CREATE_INIT { sizeof(struct spark_session_create_request), NULL, NULL, 0 }
/* An empty session: spark_done.session. The model need not be loaded. */
int spark_session_create(struct spark *s, const struct spark_session_create_request *request, spark_event_fn fn,
                         void *userdata, uint64_t *ret_id);

/* Adds text or tokens to the end of a session and reads them ahead. To the first text the beginning-of-sequence token
 * is added where the model wants one. Events: progress, done (spark_done.session). */
struct spark_session_append_request {
        size_t size;
        const char *session;
        const char *text;          /* UTF-8 */
        size_t text_size;
        const uint32_t *tokens;    /* [n_tokens], instead of text */
        size_t n_tokens;
        int special;               /* recognise the text of special tokens */
        int no_bos;
        uint32_t priority;
};
#define SPARK_SESSION_APPEND_INIT { sizeof(struct spark_session_append_request), NULL, NULL, 0, NULL, 0, 0, 0, 0 }
int spark_session_append(struct spark *s, const struct spark_session_append_request *request, spark_event_fn fn,
                         void *userdata, uint64_t *ret_id);

/* Another session with the same text, which then goes its own way; costs next to nothing. A session that is busy is
 * forked as it stood when its last request ended. spark_done.session is the new one. */
struct spark_session_fork_request {
        size_t size;
        const char *session;
        const char *name;          /* NULL or "": as the other one */
        int persistent;
};
#define SPARK_SESSION_FORK_INIT { sizeof(struct spark_session_fork_request), NULL, NULL, 0 }
int spark_session_fork(struct spark *s, const struct spark_session_fork_request *request, spark_event_fn fn,
                       void *userdata, uint64_t *ret_id);

/* Cuts a session back to its first `tokens` tokens. */
struct spark_session_rewind_request {
        size_t size;
        const char *session;
        uint64_t tokens;
};
#define SPARK_SESSION_REWIND_INIT { sizeof(struct spark_session_rewind_request), NULL, 0 }
int spark_session_rewind(struct spark *s, const struct spark_session_rewind_request *request, spark_event_fn fn,
                         void *userdata, uint64_t *ret_id);

/* Ends a session, with what is on disk of it; a request that goes on with it ends with SPARK_CANCELLED. */
int spark_session_close(struct spark *s, const char *session, spark_event_fn fn, void *userdata, uint64_t *ret_id);
/* The user's sessions (root and the service's user: everybody's): spark_done.sessions. */
int spark_session_list(struct spark *s, spark_event_fn fn, void *userdata, uint64_t *ret_id);

/* ---- prefix cache -------------------------------------------------------------------------------------------- */

/* Reads the beginning of prompts to come ahead of time, so that they start at once: a text, tokens, or the beginning of
 * a conversation as the model's chat template renders it; exactly one of these. What is cached serves this user's
 * requests only, unless it is shared (which not everybody may). Events: progress, done (prompt_tokens, cached_tokens). */
struct spark_prewarm_request {
        size_t size;
        const char *model;
        const char *text;
        size_t text_size;
        const uint32_t *tokens;    /* [n_tokens] */
        size_t n_tokens;
        const struct spark_chat_message *messages; /* [n_messages], all of the same `size` */
        size_t n_messages;
        const char *tools_json;         /* with messages; so the next one */
        const char *template_args_json;
        int special;               /* with text; so the next one */
        int no_bos;
        int share;                 /* let every user's requests profit */
        uint32_t priority;
        const char *messages_json; /* instead of messages: JSON array of objects */
};
#define SPARK_PREWARM_INIT \
        { sizeof(struct spark_prewarm_request), NULL, NULL, 0, NULL, 0, NULL, 0, NULL, NULL, 0, 0, 0, 0, NULL }
int spark_prewarm(struct spark *s, const struct spark_prewarm_request *request, spark_event_fn fn, void *userdata,
                  uint64_t *ret_id);

/* Drops what the prefix cache holds for this user: of one model, or of all (NULL). */
struct spark_forget_prefixes_request {
        size_t size;
        const char *model;
        int all_users;             /* everybody's, shared ones included (takes the right "manage-models") */
};
#define SPARK_FORGET_PREFIXES_INIT { sizeof(struct spark_forget_prefixes_request), NULL, 0 }
int spark_forget_prefixes(struct spark *s, const struct spark_forget_prefixes_request *request, spark_event_fn fn,
                          void *userdata, uint64_t *ret_id);

#endif
