/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "connection-private.h"
#include "keep/keep-clients.h"
#include "kept.h"
#include "session/session.h"

#define RESERVE_FRAMES 8u           /* beyond the limit, for the sentence that says goodbye */
#define RESERVE_BYTES ((size_t)64 << 10)
#define IN_FDS_MAX 64u
#define LINGER_US (5u * 1000000u)   /* a closing connection whose client does not read */
#define DISCARD_READS 16
#define RETRY_MS 1000u              /* connections last: nothing tells when one of them will end */

static void update_events(struct connection *c) {
        bool read = connection_is_open(c) && !c->frames_left &&
                    c->channel.out_bytes < c->manager->config->limits.output_bytes / 2;
        uint32_t events = (read ? (uint32_t)EPOLLIN : 0u) | (c->blocked ? (uint32_t)EPOLLOUT : 0u);

        if (events == c->events)
                return;
        if (sd_event_source_set_io_events(c->source, events) >= 0)
                c->events = events;
}

static int on_io(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        struct connection *c = userdata;
        int r;

        if (events & EPOLLOUT)
                connection_dirty(c);
        if (events & EPOLLIN && connection_is_open(c) && c->kept) {
                r = connection_receive(c);
                if (r != 0 && r != 1)
                        connection_handle_channel_fault(c, r);
        } else if (events & EPOLLIN && connection_is_open(c)) {
                r = channel_read(&c->channel);
                if (r == 1) {
                        connection_handle_frames(c);
                        connection_note_input(c, 0); /* it may be kept by now */
                } else if (r != 0) {
                        connection_handle_channel_fault(c, r);
                }
        } else if (events & (EPOLLHUP | EPOLLERR)) {
                connection_kill(c);
        }
        return 0;
}

static void detach_streams(struct connection *c) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &c->streams) {
                struct stream *s = LIST_ENTRY(pos, struct stream, link);

                request_detach(s->request);
                stream_free(s);
        }
}

static void send_all_pending(struct connection *c) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &c->streams) {
                struct stream *s = LIST_ENTRY(pos, struct stream, link);

                if (pending_is_empty(&s->pending) || !connection_is_open(c))
                        continue;
                stream_send_pending(s);
                request_resume(s->request);
        }
}

static void connection_flush(struct connection *c) {
        int r;

        clients_commit(c->manager);
        r = channel_flush(&c->channel);
        c->blocked = r == 0;
        if (r == 1 && connection_is_open(c)) {
                send_all_pending(c);
                clients_commit(c->manager);
                if (channel_wants_write(&c->channel))
                        r = channel_flush(&c->channel);
                c->blocked = r == 0;
        }
        if (r != 0 && r != 1)
                c->state = CONNECTION_DEAD;
        else if (r == 1 && c->state == CONNECTION_CLOSING)
                c->state = CONNECTION_DEAD;
}

void connection_turn(struct connection *c) {
        if (c->frames_left && connection_is_open(c)) {
                connection_handle_frames(c);
                connection_note_input(c, 0);
        }
        if (!connection_is_open(c))
                detach_streams(c);
        if (c->state != CONNECTION_DEAD)
                connection_flush(c);
        if (c->state == CONNECTION_DEAD) {
                (void)connection_free(c);
                return;
        }
        update_events(c);
        if (c->blocked && !c->kept) { /* a reader that takes its time */
                connection_keep(c);
                clients_commit(c->manager);
        }
}

void connection_tick(struct connection *c, uint64_t now_us) {
        const struct config_limits *l = &c->manager->config->limits;
        uint64_t blocked_us = c->channel.out_blocked_us;

        if (!c->kept && connection_is_open(c) && now_us > c->since_us + KEEP_AFTER_US)
                connection_keep(c);
        if (c->state == CONNECTION_CLOSING && now_us > c->since_us + LINGER_US)
                connection_kill(c);
        else if (c->state == CONNECTION_NEW && now_us > c->since_us + l->hello_seconds * 1000000u)
                connection_fail(c, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "No Hello came for %llu seconds.",
                                (unsigned long long)l->hello_seconds);
        else if (c->state == CONNECTION_OPEN && blocked_us && now_us > blocked_us + l->output_seconds * 1000000u)
                connection_fail(c, SPARK__V1__ERROR_CODE__SLOW_READER,
                                "The client left its output unread for %llu seconds.",
                                (unsigned long long)l->output_seconds);
}

/* ---- life ---- */

/* Unread input would make the client's next read an ECONNRESET instead of the end that it is. */
static void discard_input(int fd) {
        char waste[4096];

        for (int i = 0; i < DISCARD_READS; i++)
                if (recv(fd, waste, sizeof(waste), MSG_DONTWAIT) <= 0)
                        return;
}

struct connection *connection_free(struct connection *c) {
        if (!c)
                return NULL;
        if (c->gone)
                c->gone(c->gone_userdata);
        detach_streams(c);
        if (c->manager->sessions)
                sessions_connection_gone(c->manager->sessions, c->client);
        list_remove(&c->link);
        list_remove(&c->dirty_link);
        c->source = sd_event_source_disable_unref(c->source);
        connection_note_end(c);
        if (c->channel.fd >= 0) {
                if (!clients_are_handed_on(c->manager, c->kept)) {
                        /* whoever else has the socket, the client sees the end; what it was sent it can still read */
                        (void)shutdown(c->channel.fd, c->kept ? SHUT_RDWR : SHUT_WR);
                        discard_input(c->channel.fd);
                }
                channel_deinit(&c->channel);
        }
        if (c->charged) {
                user_release(c->user, USER_CONNECTIONS, 1);
                c->manager->n_connections--;
        }
        if (c->user) {
                user_release(c->user, USER_BYTES, c->input_charged);
                c->user = user_unref(c->user);
        }
        peer_deinit(&c->peer);
        free(c);
        return NULL;
}
DEFINE_CLEANUP(struct connection *, connection_free)

static int connection_identify(struct connection *c, uid_t peer_uid) {
        int r = peer_init(&c->peer, c->channel.fd);

        if (r < 0)
                return r;
        if (peer_uid != (uid_t)-1)
                c->peer.uid = peer_uid;
        c->user = users_get(&c->manager->users, c->peer.uid);
        return c->user ? 0 : -ENOMEM;
}

static void connection_admit(struct connection *c) {
        struct manager *m = c->manager;

        if (!manager_accepts(m)) {
                connection_fail(c, SPARK__V1__ERROR_CODE__STOPPING, "The daemon is shutting down.");
        } else if (m->n_connections >= m->config->limits.connections) {
                connection_fail_busy(c, RETRY_MS, "The daemon has %llu connections, which is all it takes.",
                                     (unsigned long long)m->config->limits.connections);
        } else if (user_charge(c->user, USER_CONNECTIONS, 1)) {
                connection_fail(c, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                                "Your user has %llu connections, which is all it may have.",
                                (unsigned long long)c->user->limits[USER_CONNECTIONS]);
        } else {
                m->n_connections++;
                c->charged = true;
        }
}

static int connection_make(struct manager *m, int fd, uid_t peer_uid, uint64_t client, struct connection **ret) {
        _cleanup_(connection_freep) struct connection *c = calloc(1, sizeof(*c));
        const struct channel_limits limits = {
                .frame_max = CHANNEL_FRAME_MAX,
                .out_frames = (size_t)m->config->limits.output_frames + RESERVE_FRAMES,
                .out_bytes = (size_t)m->config->limits.output_bytes + CHANNEL_FRAME_MAX + RESERVE_BYTES,
                .in_fds = IN_FDS_MAX,
        };
        int r;

        if (!c) {
                (void)fd_close(fd);
                return -ENOMEM;
        }
        c->manager = m;
        c->peer = PEER_NULL;
        c->channel.fd = -1;
        list_init(&c->link);
        list_init(&c->dirty_link);
        list_init(&c->streams);
        r = channel_init(&c->channel, fd, &limits);
        if (r < 0) {
                (void)fd_close(fd);
                return r;
        }
        c->of_bus = peer_uid != (uid_t)-1;
        c->rights = c->of_bus ? RIGHT_BIT(RIGHT_USE) : RIGHTS_OF_SOCKET;
        r = connection_identify(c, peer_uid);
        if (r < 0)
                return r;
        c->client = client;
        c->since_us = manager_now_us();
        c->events = EPOLLIN;
        r = sd_event_add_io(m->event, &c->source, c->channel.fd, c->events, on_io, c);
        if (r < 0)
                return r;
        *ret = steal_ptr(&c);
        return 0;
}

int connection_new(struct manager *m, int fd, uid_t peer_uid) {
        struct connection *c;
        int r = connection_make(m, fd, peer_uid, m->last_client + 1, &c);

        if (r < 0)
                return r;
        m->last_client++;
        connection_admit(c);
        list_append(&m->connections, &c->link);
        return 0;
}

static int restore_channel(struct connection *c, const struct kept_connection *kept, struct inherited *in) {
        int r = channel_restore_input(&c->channel, (const uint8_t *)kept->input.data, kept->input.len);

        if (r == 0)
                r = channel_restore_output(&c->channel, (const uint8_t *)kept->output.data, kept->output.len,
                                           kept->output_skip);
        c->channel.n_fds_received = c->fds_kept = c->fds_dropped = kept->descriptors;
        for (uint32_t i = 0; r == 0 && i < kept->descriptors_kept; i++) {
                int fd = clients_take_fd(in, c->client, kept->descriptors + i);

                r = fd < 0 ? CONNECTION_E_UNUSABLE : channel_restore_fd(&c->channel, fd, kept->descriptors + i);
        }
        c->fds_kept = c->channel.n_fds_received;
        c->channel.out_total = kept->sent;
        c->input_kept = kept->input.len;
        return r > 0 ? CONNECTION_E_UNUSABLE : r;
}

int connection_restore(struct manager *m, int fd, const struct kept_connection *kept, struct inherited *in,
                       struct connection **ret) {
        _cleanup_(connection_freep) struct connection *c = NULL;
        int r = connection_make(m, fd, kept->of_bus ? kept->uid : (uid_t)-1, kept->id, &c);

        if (r < 0)
                return r;
        c->kept = true; /* in whatever way it ends: the client is to see that */
        if (!kept->of_bus && c->peer.uid != kept->uid)
                return CONNECTION_E_UNUSABLE;
        if (kept->of_bus) {
                peer_set_pid(&c->peer, (pid_t)kept->pid);
        } else if (c->peer.pidfd < 0) { /* the pid may be somebody else's by now */
                c->peer.start_time = kept->start_time;
        }
        c->rights |= kept->rights & RIGHTS_ALL;
        if (!c->peer.unit[0]) /* its process may be gone by now */
                memcpy(c->peer.unit, kept->unit, MIN(sizeof(c->peer.unit), sizeof(kept->unit)));
        r = restore_channel(c, kept, in);
        if (r)
                return r;
        c->state = kept->closing ? CONNECTION_CLOSING : kept->greeted ? CONNECTION_OPEN : CONNECTION_NEW;
        c->prefill_progress = kept->prefill_progress;
        c->normal_only = kept->normal_only;
        c->frames_left = c->input_kept > 0;
        user_charge_found(c->user, USER_CONNECTIONS, 1);
        m->n_connections++;
        c->charged = true;
        list_append(&m->connections, &c->link);
        connection_start_transfer(c);
        connection_dirty(c);
        *ret = steal_ptr(&c);
        return 0;
}
