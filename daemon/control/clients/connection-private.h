/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the parts of a connection share: its output and its streams (connection-stream.c), its input
 * (connection-input.c), its socket and life (connection.c). */

#include "connection.h"
#include "manager.h"
#include "request/pending.h"

#define KEEP_AFTER_US 1000000u  /* who is there longer than that is kept, whatever it does */
#define COALESCE_FRAMES 1024u /* queued: from here on tokens are joined, blocked or not */

/* A request of this connection, under the id that the client gave it. */
struct stream {
        struct connection *connection;
        struct request *request;
        uint64_t id;
        struct list link;
        struct pending pending;
};

void connection_dirty(struct connection *c);
static inline bool connection_is_open(const struct connection *c) {
        return c->state == CONNECTION_NEW || c->state == CONNECTION_OPEN;
}

/* Ends it without a word: the client has gone, or memory has. */
void connection_kill(struct connection *c);
/* 0, or CHANNEL_E_OVERSIZE; a full queue or no memory ends the connection. */
int connection_send(struct connection *c, const Spark__V1__ServerFrame *frame);
void connection_send_done(struct connection *c, uint64_t id, const Spark__V1__Done *done);
void connection_send_error(struct connection *c, uint64_t id, Spark__V1__Error *error);
void connection_refuse(struct connection *c, uint64_t id, Spark__V1__ErrorCode code, const char *fmt, ...)
        _printf_(4, 5);

/* For its requests. */
struct request_origin connection_origin(struct connection *c);
/* Tells of a request that was not taken: r as request_submit() gave it. */
void connection_refuse_as(struct connection *c, uint64_t id, int r, struct request_error *refused);

extern const struct request_sink stream_sink; /* userdata: the stream */
struct stream *stream_find(struct connection *c, uint64_t id);
struct stream *stream_new(struct connection *c, uint64_t id);
void stream_free(struct stream *s);
void stream_send_pending(struct stream *s);
/* A later process would go on with its request. */
void stream_keep(struct stream *s);

/* ---- connection-keep.c; all do nothing for one that is not kept ---- */
/* A frame was queued. */
void connection_note_output(struct connection *c);
/* What was received has been looked at; `came` bytes of it were only peeked at before. */
void connection_note_input(struct connection *c, size_t came);
void connection_note_greeting(struct connection *c);
/* It stands otherwise than records of single things would say. */
void connection_note_all(struct connection *c);
/* Of one that is kept: looks at what came, with its effects committed before it is taken. Returns as channel_read(). */
int connection_receive(struct connection *c);
/* Its bytes leave in the way that tells how many did. */
void connection_start_transfer(struct connection *c);
/* It is about to be freed. */
void connection_note_end(struct connection *c);

/* Looks at the frames that came, a bounded number at once. */
void connection_handle_frames(struct connection *c);
/* What channel_read() or channel_next() found wrong. */
void connection_handle_channel_fault(struct connection *c, int r);
