/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Generate: an answer as text on a pipe. What the pipe does not take is kept, within a limit, and credit is passed on
 * only for what it has taken; so a reader that is slow holds up its own generation and nothing else, for as long as it
 * likes. A reader that closes the pipe cancels. What goes wrong after the pipe was handed out ends it, and is logged.
 *
 * A pipe outlives its request while the reader has not read everything, so it is charged on its own: one of the user's
 * connections, and the bytes that it keeps.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "bus-error.h"
#include "bus-internal.h"
#include "keep/carry.h"
#include "keep/inherited.h"
#include "keep/keep-clients.h"
#include "kept.h"
#include "request/request-keep.h"

#define CREDIT 128u                  /* tokens under way or waiting in `text` */
#define TEXT_MAX ((size_t)256 << 10) /* what they can be: 2 KiB each */

struct bus_pipe {
        struct bus *bus;
        struct list link;
        struct user *user;
        char unit[128];
        pid_t pid;
        uint64_t client;
        int fd;
        sd_event_source *source;
        uint32_t events;
        sd_bus_message *message; /* while it may be asked again without chat template */
        uint64_t message_charged;
        struct request *request; /* NULL: ended */
        struct bus_text text;
        uint32_t n_taken; /* tokens whose text went out, credit for them not passed on yet */
        uint32_t n_kept;  /* ... whose text is in `text` */
        bool charged, plain_due, dirty, broken;
        bool kept;        /* a later process would go on with it; then: */
        uint64_t key;     /* of its request, which may have ended */
        uint64_t written; /* bytes, since it was made */
};

static void pipe_dirty(struct bus_pipe *p) {
        p->dirty = true;
        p->bus->calls_dirty = true;
        manager_kick(p->bus->manager);
}

static void pipe_drop_message(struct bus_pipe *p) {
        p->message = sd_bus_message_unref(p->message);
        if (p->message_charged)
                user_release(p->user, USER_BYTES, p->message_charged);
        p->message_charged = 0;
}

/* ---- over restarts ---- */

static void pipe_name(const struct bus_pipe *p, char *out) {
        (void)snprintf(out, CLIENTS_NAME_MAX, "pipe.%llu", (unsigned long long)p->key);
}

static void pipe_record(const struct bus_pipe *p, struct keep *k) {
        Spark__State__V1__Request m = SPARK__STATE__V1__REQUEST__INIT;

        if (p->request)
                request_fill_record(p->request, &m);
        m.key = p->key;
        m.uid = (uint32_t)p->user->uid;
        m.pid = (uint32_t)p->pid;
        m.unit = (char *)p->unit;
        m.client = p->client;
        m.ended = !p->request;
        m.text = (ProtobufCBinaryData){ .len = p->text.buf.len, .data = (uint8_t *)p->text.buf.data };
        m.sent = p->written;
        KEEP_APPEND(k, REQUEST, request, &m);
}

/* From here on a later process would go on with it. */
static void pipe_keep(struct bus_pipe *p) {
        struct manager *m = p->bus->manager;
        char name[CLIENTS_NAME_MAX];

        if (p->kept || !keep_is_on(m->keep))
                return;
        clients_commit(m); /* where it was kept for another request, under another name, it is not any more */
        p->key = p->request->key;
        pipe_name(p, name);
        if (!keep_push_fd(m->keep, name, p->fd))
                return;
        p->kept = true;
        request_keep(p->request, 0, 0, NULL);
}

/* The request ended, the text is not out yet. */
static void pipe_request_ended(struct bus_pipe *p) {
        if (p->kept && p->request)
                p->request->kept = false; /* its end is not the pipe's */
        p->request = NULL;
        if (p->kept)
                pipe_record(p, p->bus->manager->keep);
}

static void pipe_note_end(struct bus_pipe *p) {
        Spark__State__V1__RequestGone m = SPARK__STATE__V1__REQUEST_GONE__INIT;
        char name[CLIENTS_NAME_MAX];

        if (!p->kept || clients_are_handed_on(p->bus->manager, true))
                return;
        p->kept = false;
        m.key = p->key;
        KEEP_APPEND(p->bus->manager->keep, REQUEST_GONE, request_gone, &m);
        pipe_name(p, name);
        clients_drop_fd(p->bus->manager, name);
        manager_kick(p->bus->manager);
}

static struct bus_pipe *pipe_free(struct bus_pipe *p) {
        if (!p)
                return NULL;
        pipe_note_end(p);
        if (p->request)
                request_detach(p->request);
        list_remove(&p->link);
        p->source = sd_event_source_disable_unref(p->source);
        p->fd = fd_close(p->fd);
        pipe_drop_message(p);
        bus_text_deinit(&p->text);
        if (p->charged)
                user_release(p->user, USER_CONNECTIONS, 1);
        p->user = user_unref(p->user);
        free(p);
        return NULL;
}
DEFINE_CLEANUP(struct bus_pipe *, pipe_free)

static void pipe_watch(struct bus_pipe *p) {
        uint32_t events = p->text.buf.len ? (uint32_t)EPOLLOUT : 0u; /* EPOLLERR comes anyway: the reader is gone */

        if (events != p->events && sd_event_source_set_io_events(p->source, events) >= 0)
                p->events = events;
}

static void pipe_break(struct bus_pipe *p, const char *why) {
        log_debug("a pipe of pid %d ends: %s", (int)p->pid, why);
        p->broken = true;
        pipe_dirty(p);
}

static void pipe_grant(struct bus_pipe *p) {
        if (!p->request || p->n_taken < CREDIT / 2)
                return;
        request_add_credit(p->request, p->n_taken);
        p->n_taken = 0;
}

/* Bytes written, or -errno. */
static ssize_t pipe_move(struct bus_pipe *p) {
        const struct iovec iov = { .iov_base = p->text.buf.data, .iov_len = p->text.buf.len };
        Spark__State__V1__RequestSent sent = SPARK__STATE__V1__REQUEST_SENT__INIT;
        struct keep *k = p->bus->manager->keep;
        struct carry *carry = p->kept ? keep_carry(k) : NULL;
        ssize_t n;

        if (!carry) {
                n = write(p->fd, p->text.buf.data, p->text.buf.len);
                return n < 0 ? -errno : n;
        }
        clients_commit(p->bus->manager);
        n = carry_send(carry, p->key | CLIENTS_OF_PIPE, p->written, p->fd, &iov, 1);
        if (n > 0) {
                p->written += (uint64_t)n;
                sent.key = p->key;
                sent.sent = p->written;
                KEEP_APPEND(k, REQUEST_SENT, request_sent, &sent);
                keep_commit(k);
        }
        carry_done(carry);
        return n ? n : -EAGAIN;
}

static void pipe_write(struct bus_pipe *p) {
        ssize_t n;

        while (p->text.buf.len > 0) {
                n = pipe_move(p);
                if (n == -EINTR)
                        continue;
                if (n == -EAGAIN)
                        break;
                if (n < 0) {
                        pipe_break(p, "its reader has closed it");
                        return;
                }
                bus_text_consume(&p->text, (size_t)n);
        }
        if (p->text.buf.len == 0) {
                p->n_taken += p->n_kept;
                p->n_kept = 0;
        }
        pipe_grant(p);
        pipe_watch(p);
}

static void on_token(void *userdata, struct request *r, const Spark__V1__Token *token) {
        struct bus_pipe *p = userdata;
        int e;

        pipe_drop_message(p);
        if (p->broken)
                return;
        e = bus_text_append(&p->text, token->text.data, token->text.len);
        if (e) {
                pipe_break(p, e > 0 ? "its user may not keep so much" : "out of memory");
                return;
        }
        request_note_tokens(r, token, true);
        p->n_kept += (uint32_t)token->n_ids;
        pipe_dirty(p); /* written in the turn, together with what else comes in it */
}

static void on_progress(void *userdata, struct request *r, const Spark__V1__Progress *progress) {
}

static void on_done(void *userdata, struct request *r, const Spark__V1__Done *done) {
        struct bus_pipe *p = userdata;

        pipe_request_ended(p);
        pipe_dirty(p);
}

static void on_error(void *userdata, struct request *r, const Spark__V1__Error *error) {
        struct bus_pipe *p = userdata;

        /* what the sentence says may quote the prompt: the log gets the name */
        p->plain_due = p->message && bus_prompt_wants_plain(r, error);
        if (p->plain_due) {
                pipe_note_end(p);
                p->request = NULL;
        } else {
                pipe_request_ended(p);
        }
        if (!p->plain_due)
                log_info("the answer on a pipe of pid %d ended early: %s", (int)p->pid, bus_error_name(error->code));
        pipe_dirty(p);
}

static const struct request_sink pipe_sink = {
        .token = on_token, .progress = on_progress, .done = on_done, .error = on_error
};

static int pipe_submit(struct bus_pipe *p, bool plain, struct request_error *error) {
        const struct bus_prompt prompt = {
                .message = p->message,
                .plain = plain,
                .credit = CREDIT,
                .origin = { .user = p->user, .pid = p->pid, .unit = p->unit, .client = p->client },
                .sink = &pipe_sink,
                .userdata = p,
        };

        return bus_prompt_submit(p->bus, &prompt, &p->request, error);
}

static void pipe_submit_plain(struct bus_pipe *p) {
        struct request_error error;
        int r;

        p->plain_due = false;
        r = pipe_submit(p, true, &error);
        if (r) {
                p->request = NULL;
                pipe_break(p, r < 0 ? strerror(-r) : bus_error_name(error.code));
        } else {
                pipe_keep(p);
        }
        pipe_drop_message(p);
}

/* Works off what is due; may free it. */
static void pipe_turn(struct bus_pipe *p) {
        p->dirty = false;
        if (p->plain_due)
                pipe_submit_plain(p);
        if (!p->broken)
                pipe_write(p);
        if (p->broken || (!p->request && p->text.buf.len == 0))
                (void)pipe_free(p);
}

static int on_io(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        struct bus_pipe *p = userdata;

        if (events & (EPOLLERR | EPOLLHUP))
                p->broken = true;
        pipe_turn(p);
        return 0;
}

/* fd is taken over. */
static int pipe_make(struct bus *b, struct user *user, int fd, struct bus_pipe **ret) {
        _cleanup_(pipe_freep) struct bus_pipe *p = calloc(1, sizeof(*p));
        int r;

        if (!p) {
                (void)fd_close(fd);
                return -ENOMEM;
        }
        p->bus = b;
        p->fd = fd;
        p->user = user_ref(user);
        bus_text_init(&p->text, p->user, TEXT_MAX);
        list_append(&b->pipes, &p->link);
        r = fd_set_nonblock(fd, 1);
        if (r >= 0)
                r = sd_event_add_io(b->manager->event, &p->source, fd, 0, on_io, p);
        if (r < 0)
                return r;
        *ret = steal_ptr(&p);
        return 0;
}

static int pipe_new(struct bus_call *c, int fd, struct bus_pipe **ret) {
        _cleanup_(pipe_freep) struct bus_pipe *p = NULL;
        int r = pipe_make(c->peer->bus, c->peer->user, fd, &p);

        if (r < 0)
                return r;
        p->pid = c->peer->peer.pid;
        p->client = c->peer->client;
        (void)snprintf(p->unit, sizeof(p->unit), "%s", c->peer->peer.unit);
        if (user_charge(p->user, USER_CONNECTIONS, 1))
                return REQUEST_E_REFUSED;
        p->charged = true;
        *ret = steal_ptr(&p);
        return 0;
}

static int start_generate(struct bus_call *c, int fds[2], struct request_error *error) {
        _cleanup_(pipe_freep) struct bus_pipe *p = NULL;
        int r;

        if (pipe2(fds, O_CLOEXEC) < 0)
                return -errno;
        r = pipe_new(c, fd_steal(&fds[1]), &p);
        if (r == REQUEST_E_REFUSED)
                request_error_set(error, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                                  "Your user has as many connections and pipes as it may have.");
        if (r)
                return r;
        r = bus_prompt_charge(p->user, c->message, &p->message_charged, error);
        if (r)
                return r;
        p->message = sd_bus_message_ref(c->message);
        r = pipe_submit(p, false, error);
        if (r) {
                p->request = NULL;
                return r;
        }
        pipe_keep(p);
        (void)steal_ptr(&p);
        return 0;
}

void bus_operation_generate(struct bus_call *c) {
        sd_bus_message *reply = NULL;
        struct request_error error;
        int fds[2] = { -1, -1 }, r;

        r = start_generate(c, fds, &error);
        if (r) {
                bus_call_refuse(c, r, &error);
        } else {
                r = sd_bus_message_new_method_return(c->message, &reply);
                if (r >= 0)
                        r = sd_bus_message_append(reply, "h", fds[0]); /* makes a copy */
                bus_call_reply(c, r < 0 ? sd_bus_message_unref(reply) : reply);
        }
        fds[0] = fd_close(fds[0]); /* where the reply failed the pipe has no reader, and ends */
}

void bus_pipes_turn(struct bus *b) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &b->pipes) {
                struct bus_pipe *p = LIST_ENTRY(pos, struct bus_pipe, link);

                if (p->dirty)
                        pipe_turn(p);
        }
}

/* ---- over restarts: the whole ---- */

void bus_write(struct bus *b, struct keep *k) {
        struct list *pos, *tmp;

        if (!b)
                return;
        LIST_FOREACH(pos, tmp, &b->pipes)
                if (LIST_ENTRY(pos, struct bus_pipe, link)->kept)
                        pipe_record(LIST_ENTRY(pos, struct bus_pipe, link), k);
}

static void pipe_keep_again(struct bus_pipe *p) {
        char name[CLIENTS_NAME_MAX];

        if (p->request)
                p->key = p->request->key;
        else if (!p->kept)
                return; /* it is nobody's in the log */
        pipe_name(p, name);
        p->kept = keep_push_fd(p->bus->manager->keep, name, p->fd);
        if (!p->request)
                return;
        p->request->kept = p->request->input_kept = false;
        if (p->kept)
                request_keep_again(p->request);
}

void bus_keep_again(struct bus *b) {
        struct list *pos, *tmp;

        if (!b)
                return;
        LIST_FOREACH(pos, tmp, &b->pipes)
                pipe_keep_again(LIST_ENTRY(pos, struct bus_pipe, link));
}

static int pipe_take_up(struct bus_pipe *p, const struct kept_request *kept, int input_fd) {
        const struct request_origin origin = { .user = p->user, .pid = p->pid, .unit = p->unit, .client = p->client };
        struct request_error error;
        int r;

        if (kept->text.len > 0 && bus_text_append(&p->text, kept->text.data, kept->text.len) != 0) {
                (void)fd_close(input_fd);
                return -ENOBUFS;
        }
        p->n_kept = CREDIT - (uint32_t)MIN(kept->credit, (uint64_t)CREDIT); /* comes back when the text is out */
        if (kept->ended) {
                (void)fd_close(input_fd);
                return 0;
        }
        r = request_restore(p->bus->manager, kept, &origin, &pipe_sink, p, input_fd, &p->request, &error);
        if (r)
                p->request = NULL; /* it ends behind the text there is */
        return 0;
}

void bus_restore_pipe(struct bus *b, const struct kept_request *kept, struct inherited *in, int input_fd) {
        struct user *user = b ? users_get(&b->manager->users, kept->uid) : NULL;
        struct bus_pipe *p = NULL;
        char name[CLIENTS_NAME_MAX];
        int fd;

        if (!user || kept->bad) {
                (void)user_unref(user);
                (void)fd_close(input_fd);
                return; /* the pipe is closed with what nobody takes */
        }
        (void)snprintf(name, sizeof(name), "pipe.%llu", (unsigned long long)kept->key);
        fd = inherited_take(in, name);
        if (fd < 0 || pipe_make(b, user, fd, &p) < 0) {
                (void)user_unref(user);
                (void)fd_close(input_fd);
                clients_drop_fd(b->manager, name);
                return;
        }
        (void)user_unref(user);
        p->key = kept->key;
        p->kept = true;
        p->pid = (pid_t)kept->pid;
        p->client = kept->client;
        p->written = kept->sent;
        (void)snprintf(p->unit, sizeof(p->unit), "%s", kept->unit);
        user_charge_found(p->user, USER_CONNECTIONS, 1);
        p->charged = true;
        if (pipe_take_up(p, kept, input_fd) < 0)
                p->broken = true;
        pipe_dirty(p);
}

void bus_pipes_deinit(struct bus *b) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &b->pipes)
                (void)pipe_free(LIST_ENTRY(pos, struct bus_pipe, link));
}
