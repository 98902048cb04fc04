/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A connection over restarts. What is written down of it: all, when it becomes kept; then what came and was not dealt with yet,
 * what was queued, and how much of that is out. Nothing is taken from the socket, or put into it, in a way that a later process
 * could not tell how far it came (carry.h).
 */

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/log.h"
#include "connection-private.h"
#include "keep/carry.h"
#include "keep/keep-clients.h"
#include "kept.h"
#include "request/request-keep.h"

/* ---- as it stands ---- */

/* m borrows from c and from *ret_output, which is from malloc(). False without memory. */
static bool fill(struct connection *c, Spark__State__V1__Connection *m, uint8_t **ret_output) {
        size_t n_input, n_output, skip;
        const uint8_t *input = channel_input(&c->channel, &n_input);
        uint8_t *output = channel_copy_output(&c->channel, &n_output, &skip);

        if (!output && channel_wants_write(&c->channel))
                return false;
        *m = (Spark__State__V1__Connection)SPARK__STATE__V1__CONNECTION__INIT;
        m->id = c->client;
        m->uid = (uint32_t)c->peer.uid;
        m->pid = (uint32_t)c->peer.pid;
        m->unit = c->peer.unit;
        m->greeted = c->state != CONNECTION_NEW;
        m->prefill_progress = c->prefill_progress;
        m->of_bus = c->of_bus;
        m->normal_only = c->normal_only;
        m->start_time = c->peer.start_time;
        m->rights = c->rights;
        m->closing = c->state == CONNECTION_CLOSING;
        m->sent = c->channel.out_total;
        m->input = (ProtobufCBinaryData){ .len = n_input, .data = (uint8_t *)input };
        m->output = (ProtobufCBinaryData){ .len = n_output, .data = output };
        m->output_skip = skip;
        m->descriptors_kept = channel_pending_fds(&c->channel);
        m->descriptors = c->channel.n_fds_received - m->descriptors_kept;
        *ret_output = output;
        return true;
}

static void write_connection(struct connection *c, struct keep *k) {
        _cleanup_free_ uint8_t *output = NULL;
        Spark__State__V1__Connection m;

        if (!fill(c, &m, &output)) {
                log_error("out of memory: a connection of pid %d is not kept any more", (int)c->peer.pid);
                c->kept = false;
                return;
        }
        KEEP_APPEND(k, CONNECTION, connection, &m);
        c->input_kept = m.input.len;
        c->input_new = 0;
}

void connection_write(struct connection *c, struct keep *k) {
        struct list *pos, *tmp;

        if (!c->kept || c->state == CONNECTION_DEAD)
                return;
        write_connection(c, k);
        LIST_FOREACH(pos, tmp, &c->streams) {
                struct stream *s = LIST_ENTRY(pos, struct stream, link);

                if (s->request->kept)
                        request_write(s->request, k, c->client, s->id, &s->pending);
        }
}

void stream_keep(struct stream *s) {
        request_keep(s->request, s->connection->client, s->id, &s->pending);
}

/* ---- descriptors that came with a frame that is not whole ---- */

/* Stores those that came, notes which have been handed out. */
static void keep_fds(struct connection *c) {
        uint64_t received = c->channel.n_fds_received, pending = channel_pending_fds(&c->channel);
        char name[CLIENTS_NAME_MAX];

        for (; c->fds_kept < received; c->fds_kept++) {
                uint64_t back = received - c->fds_kept; /* the last one is the first but one from the end */

                if (back > pending)
                        continue; /* handed out already */
                clients_name_connection_fd(name, c->client, c->fds_kept);
                (void)keep_push_fd(c->manager->keep, name, c->channel.in_fds[pending - back]);
        }
}

static void drop_fds(struct connection *c, uint64_t up_to) {
        char name[CLIENTS_NAME_MAX];

        for (; c->fds_dropped < up_to; c->fds_dropped++) {
                clients_name_connection_fd(name, c->client, c->fds_dropped);
                clients_drop_fd(c->manager, name);
        }
}

/* ---- becoming kept ---- */

static ssize_t transfer_send(void *userdata, const struct iovec *iov, size_t n_iov) {
        Spark__State__V1__ConnectionSent sent = SPARK__STATE__V1__CONNECTION_SENT__INIT;
        struct connection *c = userdata;
        struct keep *k = c->manager->keep;
        struct carry *carry = keep_carry(k);
        ssize_t n;

        if (!carry) { /* keeping was given up meanwhile */
                const struct msghdr msg = { .msg_iov = (struct iovec *)iov, .msg_iovlen = n_iov };

                n = sendmsg(c->channel.fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
                return n < 0 ? -errno : n;
        }
        n = carry_send(carry, c->client, c->channel.out_total, c->channel.fd, iov, n_iov);
        if (n > 0) {
                sent.id = c->client;
                sent.sent = c->channel.out_total + (uint64_t)n;
                KEEP_APPEND(k, CONNECTION_SENT, connection_sent, &sent);
                keep_commit(k);
        }
        carry_done(carry);
        return n ? n : -EAGAIN;
}

void connection_start_transfer(struct connection *c) {
        c->transfer = (struct channel_transfer){ .send = transfer_send, .userdata = c };
        c->channel.transfer = &c->transfer;
}

/* Gives the store what there is of it. */
static bool push(struct connection *c) {
        char name[CLIENTS_NAME_MAX];

        clients_name_connection(name, c->client);
        if (!keep_push_fd(c->manager->keep, name, c->channel.fd))
                return false;
        c->fds_kept = c->fds_dropped = c->channel.n_fds_received - channel_pending_fds(&c->channel);
        keep_fds(c);
        return true;
}

void connection_keep(struct connection *c) {
        struct keep *k = c->manager->keep;
        struct list *pos, *tmp;

        if (c->kept || c->state == CONNECTION_DEAD || !keep_is_on(k) || !push(c))
                return;
        c->kept = true;
        write_connection(c, k);
        connection_start_transfer(c);
        LIST_FOREACH(pos, tmp, &c->streams)
                stream_keep(LIST_ENTRY(pos, struct stream, link));
}

void connection_keep_again(struct connection *c) {
        struct list *pos, *tmp;

        if (c->state == CONNECTION_DEAD || (!c->kept && list_empty(&c->streams)))
                return;
        c->kept = push(c);
        if (c->kept)
                connection_start_transfer(c);
        else
                c->channel.transfer = NULL;
        LIST_FOREACH(pos, tmp, &c->streams) {
                struct request *r = LIST_ENTRY(pos, struct stream, link)->request;

                if (c->kept)
                        request_keep_again(r);
                else
                        r->kept = r->input_kept = false;
        }
}

/* ---- what becomes of it ---- */

void connection_note_output(struct connection *c) {
        Spark__State__V1__ConnectionOutput m = SPARK__STATE__V1__CONNECTION_OUTPUT__INIT;
        size_t n;

        if (!c->kept)
                return;
        m.id = c->client;
        m.frames.data = (uint8_t *)channel_last_frame(&c->channel, &n);
        m.frames.len = n;
        KEEP_APPEND(c->manager->keep, CONNECTION_OUTPUT, connection_output, &m);
}

void connection_note_input(struct connection *c, size_t came) {
        Spark__State__V1__ConnectionInput m = SPARK__STATE__V1__CONNECTION_INPUT__INIT;
        size_t left, done, new_bytes;
        const uint8_t *input = channel_input(&c->channel, &left);

        if (!c->kept)
                return;
        done = c->input_kept + came - left; /* of all that was there */
        m.id = c->client;
        m.taken = MIN(done, c->input_kept);
        new_bytes = left - (c->input_kept - (size_t)m.taken);
        if (new_bytes)
                m.kept = (ProtobufCBinaryData){ .len = new_bytes, .data = (uint8_t *)input + left - new_bytes };
        m.descriptors_kept = channel_pending_fds(&c->channel);
        m.descriptors = c->channel.n_fds_received - m.descriptors_kept;
        keep_fds(c);
        drop_fds(c, m.descriptors);
        KEEP_APPEND(c->manager->keep, CONNECTION_INPUT, connection_input, &m);
        c->input_kept = left;
}

void connection_note_greeting(struct connection *c) {
        Spark__State__V1__ConnectionGreeted m = SPARK__STATE__V1__CONNECTION_GREETED__INIT;

        if (!c->kept)
                return;
        m.id = c->client;
        m.prefill_progress = c->prefill_progress;
        KEEP_APPEND(c->manager->keep, CONNECTION_GREETED, connection_greeted, &m);
}

void connection_note_all(struct connection *c) {
        if (c->kept)
                write_connection(c, c->manager->keep);
}

int connection_receive(struct connection *c) {
        struct keep *k = c->manager->keep;
        struct carry *carry = keep_carry(k);
        size_t came = 0;
        int r;

        if (carry)
                r = channel_peek(&c->channel, carry->capacity, &came);
        else
                r = channel_read(&c->channel);
        if (r != 1)
                return r;
        c->input_new = came;
        connection_handle_frames(c);
        connection_note_input(c, c->input_new);
        c->input_new = 0;
        if (!carry || came == 0)
                return 1;
        carry_announce(carry, c->client, came);
        clients_commit(c->manager);
        if (carry_take(carry, c->channel.fd) < 0)
                connection_kill(c);
        carry_done(carry);
        return 1;
}

void connection_note_end(struct connection *c) {
        Spark__State__V1__ConnectionGone m = SPARK__STATE__V1__CONNECTION_GONE__INIT;
        char name[CLIENTS_NAME_MAX];

        if (!c->kept || clients_are_handed_on(c->manager, true))
                return;
        m.id = c->client;
        KEEP_APPEND(c->manager->keep, CONNECTION_GONE, connection_gone, &m);
        drop_fds(c, c->fds_kept);
        clients_name_connection(name, c->client);
        clients_drop_fd(c->manager, name);
        clients_commit(c->manager);
}

/* ---- in the next process ---- */

void connection_restore_request(struct connection *c, const struct kept_request *kept, int input_fd) {
        const struct request_origin origin = connection_origin(c);
        struct request_error error;
        struct stream *s = NULL;
        Spark__V1__Token token;
        int r = -ENOMEM;

        if (!connection_is_open(c) || kept->id == 0 || stream_find(c, kept->id)) {
                (void)fd_close(input_fd);
                return;
        }
        s = stream_new(c, kept->id);
        if (s && !pending_is_empty(&kept->pending)) {
                pending_fill(&kept->pending, &token);
                r = pending_add(&s->pending, &token);
        } else if (s) {
                r = 0;
        }
        if (r == 0)
                r = request_restore(c->manager, kept, &origin, &stream_sink, s, input_fd, &s->request, &error);
        else
                (void)fd_close(input_fd);
        if (r == 0) {
                if (!pending_is_empty(&s->pending))
                        request_stall(s->request);
                return;
        }
        if (s)
                stream_free(s);
        connection_refuse_as(c, kept->id, r, &error);
}
