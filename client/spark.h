/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SPARK_H
#define SPARK_H

/*
 * libspark: use the machine's shared language model, which the service sparkd keeps resident, from C.
 *
 * A `struct spark` is a connection. Requests are started with spark_generate() and its siblings, any number at once;
 * each is known by an id that is never used twice on a connection. What comes back arrives as events: any number of
 * SPARK_EVENT_TOKEN and SPARK_EVENT_PROGRESS, then exactly one SPARK_EVENT_DONE or SPARK_EVENT_ERROR.
 *
 * There are two ways to receive them, which may be mixed on a connection:
 *   - with a callback: it is called from spark_process(), which an event loop calls whenever spark_fd() is readable, or
 *     from spark_wait();
 *   - without (callback NULL): the library collects, and spark_wait() returns the whole result.
 *
 * Errors: functions return 0 (or what they document), -errno when something failed on this side or the connection is
 * gone (-ENOTCONN), and, where documented, a positive enum spark_code when the service refused. Nothing in the library
 * ends the process, writes to standard error, or keeps global state.
 *
 * Threads: every function may be called from any thread with the same connection, which has one mutex. Callbacks run in
 * the thread that processes, one at a time per connection and without that mutex held, so they may call anything but
 * spark_process() and spark_wait() on the same connection (-EDEADLK). Different connections share nothing.
 *
 * Structures that the caller fills start with their size: initialise them with their _INIT macro, then set fields.
 * Zero means the default everywhere, so what a later version adds has no effect on older callers. Structures that the
 * library hands out may grow at their end: never copy them by sizeof.
 *
 * Text is UTF-8 unless a field says otherwise. Sizes are in bytes, times in milliseconds unless a name says otherwise.
 */

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#ifdef __GNUC__
#pragma GCC visibility push(default)
#endif

#define SPARK_SOCKET_DEFAULT "/run/sparkd/sparkd.sock"

struct spark;

/* What the service answers instead of a result. The numbers are the protocol's and stay. */
enum spark_code {
        SPARK_INVALID_ARGUMENT = 1,
        SPARK_INVALID_UTF8 = 2,
        SPARK_CONTEXT_OVERFLOW = 3, /* see spark_error.have and .max, in tokens */
        SPARK_MODEL_NOT_FOUND = 4,
        SPARK_MODEL_INVALID = 5,
        SPARK_BUSY = 6,             /* see spark_error.retry_after_ms */
        SPARK_QUOTA_EXCEEDED = 7,
        SPARK_PERMISSION_DENIED = 8,
        SPARK_NO_MEMORY = 9,        /* see spark_error.have and .max, in bytes */
        SPARK_CANCELLED = 10,
        SPARK_SLOW_READER = 11,
        SPARK_DEFERRED_ON_BATTERY = 12,
        SPARK_ENGINE_LOST = 13,
        SPARK_STOPPING = 14,
        SPARK_UNIMPLEMENTED = 15,
        SPARK_INTERNAL = 16,
        SPARK_DISCONNECTED = 1000,  /* made by the library: the connection ended before the request did */
        SPARK_PROTOCOL = 1001       /* made by the library: the service sent something that makes no sense */
};

/* Who is waiting for a request. Between users, clients and requests of one priority the service is shared out fairly;
 * a higher one comes first, and a lower one is never starved to nothing. The numbers are the protocol's and stay. */
enum spark_priority {
        SPARK_PRIORITY_DEFAULT = 0,     /* normal, or the highest that the caller may use where that is lower */
        SPARK_PRIORITY_BACKGROUND = 1,  /* takes what is left */
        SPARK_PRIORITY_NORMAL = 2,
        SPARK_PRIORITY_INTERACTIVE = 3  /* a person is waiting */
};

/* "INVALID_ARGUMENT", ...; "UNKNOWN" for a number this version does not know. */
const char *spark_code_name(int code);

struct spark_error {
        int code;                /* enum spark_code, or a number from a newer service */
        const char *message;     /* a sentence for a person */
        uint32_t retry_after_ms; /* SPARK_BUSY, SPARK_QUOTA_EXCEEDED: when it makes sense to try again; 0: not by waiting */
        uint64_t have;           /* SPARK_CONTEXT_OVERFLOW, SPARK_NO_MEMORY: what the request needs */
        uint64_t max;            /* ... and what there is */
        int needs_person;        /* SPARK_PERMISSION_DENIED: a person who is asked might allow it, see
                                  * spark_set_interactive_authorization() */
};

/* ---- connection ---------------------------------------------------------------------------------------------- */

/* Connects to the service at `path` (NULL: SPARK_SOCKET_DEFAULT) and greets it; `software` names the caller for people
 * who look at the service, e.g. "myeditor 2.1" (NULL: nothing; at most 128 bytes). Does not wait for the answer: see
 * spark_wait_hello(). 0 and the connection in *ret, or -errno: -ENOENT and -ECONNREFUSED when the service does not run,
 * -EACCES when the caller may not use its socket, -EAGAIN when too many wait to be let in.
 *
 * A service that is being restarted is waited for, three seconds at most: here, where it refuses (-ECONNREFUSED, -EAGAIN), and
 * later, in spark_process(), where the connection ends before the greeting was answered. Until then requests are held back,
 * so nothing can have been done twice. What comes later is never tried again. */
int spark_connect(struct spark **ret, const char *path, const char *software);

/* The same over a connected stream socket, such as org.sparkd.Spark1.Manager.OpenSession() hands out. Takes ownership
 * of fd when it succeeds. */
int spark_connect_fd(struct spark **ret, int fd, const char *software);

/* References. The last spark_unref() closes the connection, which cancels what still runs; callbacks are not called any
 * more. May be called from a callback. Both return their argument or NULL: `s = spark_unref(s)`. */
struct spark *spark_ref(struct spark *s);
struct spark *spark_unref(struct spark *s);

/* Waits until the service has answered the greeting, at most timeout_ms (-1: as long as it takes). 0, a positive enum
 * spark_code when the service refused, -ETIMEDOUT, -EINTR, -ENOTCONN. Needed only by those who want to know. */
int spark_wait_hello(struct spark *s, int timeout_ms);

/* What the service calls itself, e.g. "sparkd 0.1.0"; NULL until its greeting came. Lives as long as the connection. */
const char *spark_server_software(struct spark *s);

/* The highest enum spark_priority that the caller may ask for: above it requests are refused with
 * SPARK_PERMISSION_DENIED. SPARK_PRIORITY_DEFAULT until the service's greeting came, or where it doesn't say. */
int spark_max_priority(struct spark *s);

/* 1 when the connection has failed and *ret_error (may be NULL) says why, 0 when it is fine. The error lives as long as
 * the connection. */
int spark_failed(struct spark *s, struct spark_error *ret_error);

/* ---- event loop ---------------------------------------------------------------------------------------------- */

/* A descriptor to poll for POLLIN: readable when spark_process() has something to do, be it reading or writing. It
 * stays the same for the life of the connection and is not to be read, written or closed. */
int spark_fd(struct spark *s);
/* What to poll for: always POLLIN, for symmetry with other libraries. */
int spark_events(struct spark *s);

/* Reads, writes and calls callbacks; a bounded amount of work per call. Never waits for the service, only for another
 * thread that is processing the same connection. 1 = something was done, 0 = nothing to do, -ENOTCONN = the connection
 * is gone (after all events were delivered: every open request had its SPARK_EVENT_ERROR), -EDEADLK from a callback. */
int spark_process(struct spark *s);

/* ---- requests ------------------------------------------------------------------------------------------------
 *
 * Each function copies what it is given, starts the request and returns without waiting: 0 and the id in *ret_id (may
 * be NULL), -EINVAL for arguments that contradict each other, -E2BIG for a structure of a newer library with fields set
 * that this one does not know, -EMSGSIZE for a request that fits into no frame (4 MiB; prompts and texts of any size
 * do: they travel in a sealed memory file), -ENOBUFS when too much waits to be sent, -ENOTCONN, -ENOMEM. Everything
 * else is refused by the service and comes as SPARK_EVENT_ERROR. Where another thread processes, events may come before
 * the function has returned; *ret_id is set by then.
 */

struct spark_event;

/* Return 0 to go on; anything else cancels the request (it still ends with an event). What the callback has seen counts
 * as consumed: the service may send as many tokens again (unless SPARK_MANUAL_CREDIT). */
typedef int (*spark_event_fn)(struct spark *s, const struct spark_event *event, void *userdata);

/* By subject; each of them may be included alone, too, which is the same as including this one. */
#include "spark-event.h"
#include "spark-generate.h"
#include "spark-job.h"
#include "spark-lease.h"
#include "spark-model.h"
#include "spark-session.h"
#include "spark-status.h"
#include "spark-store.h"

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif

#endif
