/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "connection-private.h"
#include "look.h"
#include "message.h"
#include "status.h"

#define FRAMES_PER_TURN 64 /* of one client, before others are served */
#define SOFTWARE_MAX 128u
#define FDS_MAX 64u           /* with a frame */

static void handle_hello(struct connection *c, const Spark__V1__Hello *hello) {
        Spark__V1__ServerFrame frame = SPARK__V1__SERVER_FRAME__INIT;
        Spark__V1__Hello answer = SPARK__V1__HELLO__INIT;
        char *authorization = (char *)"authorization";

        if (hello->protocol_version != 1) {
                connection_fail(c, SPARK__V1__ERROR_CODE__UNIMPLEMENTED,
                                "hello.protocol_version is %u; this daemon speaks version 1.", hello->protocol_version);
                return;
        }
        if (strlen(hello->software) > SOFTWARE_MAX) {
                connection_fail(c, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "hello.software has more than %u bytes.",
                                SOFTWARE_MAX);
                return;
        }
        for (size_t i = 0; i < hello->n_features; i++)
                if (strcmp(hello->features[i], "prefill-progress") == 0)
                        c->prefill_progress = true;
        c->state = CONNECTION_OPEN;
        answer.protocol_version = 1;
        answer.software = (char *)"sparkd " SPARK_VERSION;
        answer.max_priority = c->user->policy.max_priority;
        if (c->normal_only)
                answer.max_priority = MIN(answer.max_priority, (Spark__V1__Priority)SPARK__V1__PRIORITY__NORMAL);
        if (c->manager->config->bus == CONFIG_BUS_SYSTEM && !c->of_bus) {
                answer.features = &authorization;
                answer.n_features = 1;
        }
        frame.body_case = SPARK__V1__SERVER_FRAME__BODY_HELLO;
        frame.hello = &answer;
        connection_note_greeting(c);
        (void)connection_send(c, &frame);
}

static void handle_cancel(struct connection *c, uint64_t id) {
        struct stream *s = stream_find(c, id);

        if (!s)
                return;
        stream_send_pending(s);
        request_detach(s->request);
        stream_free(s);
        connection_refuse(c, id, SPARK__V1__ERROR_CODE__CANCELLED, "The request was cancelled.");
}

static void handle_credit(struct connection *c, uint64_t id, uint32_t tokens) {
        struct stream *s = stream_find(c, id);

        if (s)
                request_add_credit(s->request, tokens);
}

static bool frame_has_input(const Spark__V1__ClientFrame *f) {
        switch (f->body_case) {
        case SPARK__V1__CLIENT_FRAME__BODY_GENERATE:
                return f->generate->input_fd;
        case SPARK__V1__CLIENT_FRAME__BODY_TOKENIZE:
                return f->tokenize->input_fd;
        case SPARK__V1__CLIENT_FRAME__BODY_SCORE:
                return f->score->input_fd;
        case SPARK__V1__CLIENT_FRAME__BODY_LOAD:
                return f->load->input_fd;
        case SPARK__V1__CLIENT_FRAME__BODY_PREWARM:
                return f->prewarm->input_fd;
        case SPARK__V1__CLIENT_FRAME__BODY_SESSION_APPEND:
                return f->session_append->input_fd;
        default:
                return false;
        }
}

/* ModelImport and ModelPack alone come with several: one for each of their files. */
static size_t frame_count_fds(const Spark__V1__ClientFrame *f) {
        size_t n = 0;

        if (f->body_case == SPARK__V1__CLIENT_FRAME__BODY_MODEL_IMPORT && f->model_import->input_fd)
                n = f->model_import->n_files;
        else if (f->body_case == SPARK__V1__CLIENT_FRAME__BODY_MODEL_PACK && f->model_pack->input_fd)
                n = f->model_pack->n_files;
        return MIN(n, (size_t)FDS_MAX);
}

/* A client that asks for nothing of the kind is kept only when it stays: who wants to know a thing or two costs the service
 * manager nothing. */
static bool takes_time(const Spark__V1__ClientFrame *f) {
        switch (f->body_case) {
        case SPARK__V1__CLIENT_FRAME__BODY_GENERATE:
        case SPARK__V1__CLIENT_FRAME__BODY_CHAT:
        case SPARK__V1__CLIENT_FRAME__BODY_SCORE:
        case SPARK__V1__CLIENT_FRAME__BODY_LOAD:
        case SPARK__V1__CLIENT_FRAME__BODY_PREWARM:
        case SPARK__V1__CLIENT_FRAME__BODY_SESSION_CREATE:
        case SPARK__V1__CLIENT_FRAME__BODY_SESSION_APPEND:
        case SPARK__V1__CLIENT_FRAME__BODY_MODEL_IMPORT:
        case SPARK__V1__CLIENT_FRAME__BODY_MODEL_PACK:
        case SPARK__V1__CLIENT_FRAME__BODY_RESERVE_MEMORY:
        case SPARK__V1__CLIENT_FRAME__BODY_HOLD_WARM:
                return true;
        default:
                return false;
        }
}

static void close_all(int *fds, size_t n) {
        for (size_t i = 0; i < n; i++)
                fds[i] = fd_close(fds[i]);
}

void connection_refuse_as(struct connection *c, uint64_t id, int r, struct request_error *refused) {
        Spark__V1__Error error = SPARK__V1__ERROR__INIT;

        if (r < 0)
                request_error_set(refused, SPARK__V1__ERROR_CODE__INTERNAL, "The request could not be taken: %s.",
                                  strerror(-r));
        error.code = refused->code;
        error.message = refused->text;
        error.retry_after_ms = refused->retry_after_ms;
        error.have = refused->have;
        error.max = refused->max;
        error.needs_person = refused->needs_person;
        connection_send_error(c, id, &error);
}

/* What the bus handed out has what its caller was granted there, and is not asked about again. What polkit has granted is that of the
 * process that connected, and ends with it. */
struct request_origin connection_origin(struct connection *c) {
        uint32_t rights = c->rights;

        if (!c->of_bus && (rights & ~RIGHTS_OF_SOCKET) && !peer_is_there(&c->peer))
                rights &= RIGHTS_OF_SOCKET;
        return (struct request_origin){ .user = c->user, .pid = c->peer.pid, .unit = c->peer.unit, .client = c->client,
                                        .peer = c->of_bus ? NULL : &c->peer, .granted = rights,
                                        .normal_only = c->normal_only };
}

static void handle_request(struct connection *c, const Spark__V1__ClientFrame *f, const struct channel_frame *packed) {
        uint64_t limit = c->manager->config->limits.requests_per_connection;
        struct request_error refused;
        struct stream *s;
        int fd = frame_has_input(f) ? channel_take_fd(&c->channel) : -1, fds[FDS_MAX], r;
        size_t n_fds = 0, wanted = frame_count_fds(f);

        while (n_fds < wanted && (fds[n_fds] = channel_take_fd(&c->channel)) >= 0)
                n_fds++;

        if (c->n_streams >= limit) {
                (void)fd_close(fd);
                close_all(fds, n_fds);
                (void)request_refuse_busy(&refused, &c->user->ended,
                                          "The connection has %llu requests, which is all it may have at once.",
                                          (unsigned long long)limit);
                request_note_refusal(c->manager, c->user, f);
                connection_refuse_as(c, f->id, REQUEST_E_REFUSED, &refused);
                return;
        }
        if (takes_time(f))
                connection_keep(c);
        s = stream_new(c, f->id);
        if (!s) {
                (void)fd_close(fd);
                close_all(fds, n_fds);
                connection_kill(c);
                return;
        }
        const struct request_submit submit = {
                .frame = f,
                .packed = packed->data,
                .packed_size = packed->size,
                .input_fd = fd,
                .input_fds = fds,
                .n_input_fds = n_fds,
                .origin = connection_origin(c),
                .sink = &stream_sink,
                .userdata = s,
        };

        r = request_submit(c->manager, &submit, &s->request, &refused);
        if (r) {
                stream_free(s);
                connection_refuse_as(c, f->id, r, &refused);
        } else if (c->kept) {
                stream_keep(s);
        }
}

/* What control answers by itself is answered at once, unless somebody has to be asked whether it may be. */
static void handle_look(struct connection *c, const Spark__V1__ClientFrame *f, const struct channel_frame *packed) {
        const struct request_origin origin = connection_origin(c);
        _cleanup_(status_freep) Spark__V1__Done *done = NULL;
        struct request_error refused;
        int r;

        if (!request_is_permitted(c->manager, &origin, f)) {
                handle_request(c, f, packed);
                return;
        }
        r = look_answer(c->manager, &origin, f, &done, &refused);
        if (r)
                connection_refuse_as(c, f->id, r, &refused);
        else
                connection_send_done(c, f->id, done);
}

static void dispatch_request(struct connection *c, const Spark__V1__ClientFrame *f, const struct channel_frame *packed) {
        if (f->id == 0) {
                connection_fail(c, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                "id is 0; a request needs an id of its own.");
                return;
        }
        if (stream_find(c, f->id)) {
                connection_fail(c, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                "id %llu is in use by a running request.", (unsigned long long)f->id);
                return;
        }
        switch (f->body_case) {
        case SPARK__V1__CLIENT_FRAME__BODY_MODELS:
        case SPARK__V1__CLIENT_FRAME__BODY_STATUS:
        case SPARK__V1__CLIENT_FRAME__BODY_JOBS:
        case SPARK__V1__CLIENT_FRAME__BODY_JOB_CANCEL:
                handle_look(c, f, packed);
                return;
        case SPARK__V1__CLIENT_FRAME__BODY__NOT_SET:
                connection_refuse(c, f->id, SPARK__V1__ERROR_CODE__UNIMPLEMENTED,
                                  "This version does not know the message.");
                return;
        default:
                handle_request(c, f, packed);
        }
}

static void handle_message(struct connection *c, const Spark__V1__ClientFrame *f, const struct channel_frame *packed) {
        bool hello = f->body_case == SPARK__V1__CLIENT_FRAME__BODY_HELLO;

        if (c->state == CONNECTION_NEW && !hello) {
                connection_fail(c, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "The first frame must be Hello.");
                return;
        }
        if (c->state == CONNECTION_OPEN && hello) {
                connection_fail(c, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "A second Hello.");
                return;
        }
        switch (f->body_case) {
        case SPARK__V1__CLIENT_FRAME__BODY_HELLO:
                handle_hello(c, f->hello);
                return;
        case SPARK__V1__CLIENT_FRAME__BODY_CANCEL:
                handle_cancel(c, f->id);
                return;
        case SPARK__V1__CLIENT_FRAME__BODY_CREDIT:
                handle_credit(c, f->id, f->credit->tokens);
                return;
        default:
                dispatch_request(c, f, packed);
        }
}

/* A frame that is no message. What lies in a text field of a request is that request's fault, all else the
 * connection's. */
static void handle_fault(struct connection *c, int code, const struct message_fault *fault) {
        Spark__V1__ErrorCode error = code == MESSAGE_E_UTF8 ? SPARK__V1__ERROR_CODE__INVALID_UTF8
                                                            : SPARK__V1__ERROR_CODE__INVALID_ARGUMENT;
        bool of_request = (code == MESSAGE_E_UTF8 || code == MESSAGE_E_NUL) && fault->id != 0;

        if (c->state == CONNECTION_OPEN && of_request && !stream_find(c, fault->id))
                connection_refuse(c, fault->id, error, "%s", fault->text);
        else
                connection_fail(c, error, "%s", fault->text);
}

static void handle_frame(struct connection *c, const struct channel_frame *frame) {
        struct message_fault fault;
        ProtobufCMessage *m;
        int r;

        r = message_unpack(&spark__v1__client_frame__descriptor, frame->data, frame->size, &m, &fault);
        if (r < 0) {
                connection_kill(c);
                return;
        }
        if (r > 0) {
                handle_fault(c, r, &fault);
                return;
        }
        handle_message(c, (Spark__V1__ClientFrame *)m, frame);
        (void)message_free(m);
}

void connection_handle_channel_fault(struct connection *c, int r) {
        switch (r) {
        case CHANNEL_E_OVERSIZE:
                connection_fail(c, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "A frame of more than %u bytes.",
                                CHANNEL_FRAME_MAX);
                return;
        case CHANNEL_E_EMPTY:
                connection_fail(c, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "A frame of length zero.");
                return;
        case CHANNEL_E_FDS:
                connection_fail(c, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                "Descriptors were sent that belong to no frame.");
                return;
        default:
                connection_kill(c); /* gone, or the socket is broken */
        }
}

/* Input that waits to become a frame is the user's, too. */
static void charge_input(struct connection *c) {
        uint64_t cap = c->channel.in_cap;

        if (cap < c->input_charged) {
                user_release(c->user, USER_BYTES, c->input_charged - cap);
                c->input_charged = cap;
        } else if (cap > c->input_charged) {
                if (user_charge(c->user, USER_BYTES, cap - c->input_charged)) {
                        connection_fail(c, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                                        "The requests of your user take more than %llu bytes.",
                                        (unsigned long long)c->user->limits[USER_BYTES]);
                        return;
                }
                c->input_charged = cap;
        }
}

void connection_handle_frames(struct connection *c) {
        struct channel_frame frame;
        int r = 0;

        c->frames_left = false;
        for (int i = 0; i < FRAMES_PER_TURN && connection_is_open(c); i++) {
                r = channel_next(&c->channel, &frame);
                if (r != 1)
                        break;
                handle_frame(c, &frame);
        }
        if (!connection_is_open(c))
                return;
        if (r == 1) {
                c->frames_left = true;
                connection_dirty(c);
        } else if (r == 0 && channel_pending_fds(&c->channel) > 0 && !channel_partial_frame(&c->channel)) {
                connection_handle_channel_fault(c, CHANNEL_E_FDS);
        } else if (r > 1) {
                connection_handle_channel_fault(c, r);
        }
        charge_input(c);
}
