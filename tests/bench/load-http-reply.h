/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * An HTTP/1.1 response as it arrives (RFC 9112: status line, headers, a body that is chunked, of a given length or up to
 * the end of the connection), and in it, where the content is text/event-stream, server-sent events: one call per `data:`
 * line. Other bodies are collected. Bounded: lines and bodies have limits, and what does not fit the grammar ends it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

#define HTTP_LINE_MAX ((size_t)8 << 10)    /* status line, header, chunk size */
#define HTTP_HEADERS_MAX ((size_t)32 << 10)
#define HTTP_BODY_MAX ((size_t)16 << 20)   /* a body that is collected; one event's line */

enum {
        HTTP_E_MALFORMED = 1, /* no HTTP, or past a limit */
        HTTP_E_DONE = 2,      /* the response is complete */
};

enum http_state {
        HTTP_STATUS,
        HTTP_HEADERS,
        HTTP_BODY,
        HTTP_CHUNK_SIZE,
        HTTP_CHUNK,
        HTTP_CHUNK_END,
        HTTP_TRAILERS,
        HTTP_ENDED,
};

struct http_reply {
        enum http_state state;
        int status;          /* 100-599 */
        bool chunked, has_length, event_stream;
        bool keep_alive;     /* the connection can be used again */
        uint64_t left;       /* of the body or chunk */
        size_t header_bytes;
        struct buf line;     /* of the head, or of an event */
        struct buf body;     /* what is no event stream */
        /* One event's data; not zero: stop here, http_reply_feed() returns it. */
        int (*on_event)(void *userdata, const char *data, size_t n);
        void *userdata;
};

/* Ready for the first response; on_event and userdata are the caller's. */
void http_reply_init(struct http_reply *r, int (*on_event)(void *userdata, const char *data, size_t n), void *userdata);
/* Ready for the next one. */
void http_reply_reset(struct http_reply *r);
void http_reply_deinit(struct http_reply *r);
/* Takes what was received. 0: more is needed; HTTP_E_DONE: complete (what came behind it is dropped: nothing was asked
 * for); HTTP_E_MALFORMED; -ENOMEM; or what on_event returned. */
int http_reply_feed(struct http_reply *r, const char *data, size_t n);
/* The connection has ended: HTTP_E_DONE where that completes the response, else HTTP_E_MALFORMED. */
int http_reply_eof(struct http_reply *r);
