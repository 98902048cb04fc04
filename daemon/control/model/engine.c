/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "engine.h"
#include "event.h"
#include "manager.h"
#include "message.h"
#include "session/session.h"
#include "spawn.h"

#define OUT_FRAMES 65536u
#define OUT_BYTES ((size_t)64 << 20)
#define START_SECONDS 300u     /* from the start to Ready: maps, warms up, tests itself */
#define END_US (3u * 1000000u) /* asked to end, not gone: killed */
#define RETIRE_US (300u * 1000u) /* the same for one whose memory somebody waits for */
#define IDLE_PING_SECONDS 30u /* each wakes control and three times a thread of the engine */
#define EXIT_LOST 70 /* the backend failed for good: another process may help */
#define DRAIN_READS_MAX 4096
#define OOM_SCORE "300"

/* ---- its end ---- */

static void engine_close(struct engine *e) {
        if (e->closed)
                return;
        e->closed = true;
        e->io_source = sd_event_source_disable_unref(e->io_source);
        channel_deinit(&e->channel);
}

struct engine *engine_discard(struct engine *e) {
        struct list *pos, *tmp;

        if (!e)
                return NULL;
        engine_close(e);
        if (e->manager->sessions)
                sessions_engine_gone(e->manager->sessions, e);
        power_engine_gone(e->manager->power, e);
        e->exit_source = sd_event_source_disable_unref(e->exit_source);
        e->kill_timer = sd_event_source_disable_unref(e->kill_timer);
        if (e->pidfd >= 0)
                e->manager->engine_gone_us = manager_now_us();
        e->pidfd = spawn_abandon(e->manager->event, e->pidfd);
        LIST_FOREACH(pos, tmp, &e->commands)
                list_remove(pos);
        list_remove(&e->dirty_link);
        free(e->users);
        free(e);
        return NULL;
}

static void engine_expect_end(struct engine *e, const char *why) {
        if (e->state != ENGINE_ENDING) {
                log_error("engine of model '%s': %s; it is ended", e->model->name, why);
                e->ending_us = manager_now_us();
        }
        e->state = ENGINE_ENDING;
}

static void engine_kill(struct engine *e, const char *why) {
        engine_expect_end(e, why);
        spawn_kill(e->pidfd, SIGKILL);
}

void engine_replace(struct engine *e, const char *why) {
        engine_kill(e, why);
}

/* It broke the rules: nothing more that it said is believed. */
static void engine_fault(struct engine *e, const char *why) {
        engine_kill(e, why);
        e->faulty = true;
}

void engine_stop(struct engine *e) {
        if (e->state == ENGINE_ENDING)
                return;
        e->state = ENGINE_ENDING;
        e->ending_us = manager_now_us();
        engine_close(e); /* that is how it learns */
}

static int on_kill_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        struct engine *e = userdata;

        spawn_kill(e->pidfd, SIGKILL);
        return 0;
}

void engine_retire(struct engine *e) {
        if (e->state == ENGINE_ENDING)
                return;
        e->state = ENGINE_ENDING;
        e->retired = true;
        e->ending_us = manager_now_us();
        e->io_source = sd_event_source_disable_unref(e->io_source); /* engine_drain() reads the rest */
        (void)shutdown(e->channel.fd, SHUT_WR);
        if (sd_event_add_time_relative(e->manager->event, &e->kill_timer, CLOCK_MONOTONIC, RETIRE_US, 1000, on_kill_timer, e) < 0)
                spawn_kill(e->pidfd, SIGKILL);
}

/* ---- what it says ---- */

static void on_ready(struct engine *e, const Spark__Engine__V1__Ready *ready) {
        if (e->state != ENGINE_STARTING) {
                engine_fault(e, "it was ready twice");
                return;
        }
        if (e->model->load) {
                engine_fault(e, "it was ready before its image was");
                return;
        }
        e->state = ENGINE_READY;
        e->was_ready = true;
        e->ready_us = e->heard_us = manager_now_us();
        model_engine_ready(e->model, ready);
}

static void on_tokens(struct engine *e, const Spark__Engine__V1__Tokens *tokens) {
        for (size_t i = 0; i < tokens->n_chunks; i++) {
                struct request *r = requests_find(&e->manager->requests, tokens->chunks[i]->key);

                if (r && tokens->chunks[i]->token && request_take_tokens(r, tokens->chunks[i]->token)) {
                        engine_fault(e, "it sent tokens that nobody asked for");
                        return;
                }
        }
}

/* The client's wait began when it asked us, not when the engine heard of it. */
static void on_finished(struct engine *e, const Spark__Engine__V1__Finished *f) {
        struct request *r = requests_find(&e->manager->requests, f->key);

        if (session_is_errand(f->key))
                sessions_take_forgotten(e->manager->sessions, f->key);
        if (!r || !f->done)
                return;
        if (f->done->timing && r->sent_us > r->arrived_us)
                f->done->timing->queue_ms += (float)((double)(r->sent_us - r->arrived_us) / 1000.0);
        request_finish(r, f->done);
}

static void error_from(struct request_error *out, const Spark__V1__Error *in) {
        request_error_set(out, in->code, "%s", in->message);
        out->retry_after_ms = in->retry_after_ms;
        out->have = in->have;
        out->max = in->max;
}

static void on_failed(struct engine *e, const Spark__Engine__V1__Failed *f) {
        struct request_error error;
        struct request *r;

        if (!f->error)
                return;
        error_from(&error, f->error);
        if (f->key == 0) {
                if (error.code == SPARK__V1__ERROR_CODE__ERROR_CODE_UNSPECIFIED)
                        error.code = SPARK__V1__ERROR_CODE__INTERNAL;
                e->error = error;
                engine_expect_end(e, error.text); /* its exit status is of interest */
                e->faulty = true;
                return;
        }
        r = requests_find(&e->manager->requests, f->key);
        if (session_is_errand(f->key))
                sessions_take_forgotten(e->manager->sessions, f->key);
        if (!r)
                return;
        request_note_usage(r, f->usage);
        request_fail(r, &error);
}

/* What it holds for each user; a copy, for status. */
static void take_users(struct engine *e, const Spark__Engine__V1__State *s) {
        struct engine_user *users = s->n_users ? calloc(s->n_users, sizeof(*users)) : NULL;

        if (s->n_users && !users)
                return; /* what it said before will do */
        for (size_t i = 0; i < s->n_users; i++)
                users[i] = (struct engine_user){ s->users[i]->uid, s->users[i]->kv_used_bytes,
                                                 s->users[i]->kv_cached_bytes };
        free(e->users);
        e->users = users;
        e->n_users = s->n_users;
}

static void on_state(struct engine *e, const Spark__Engine__V1__State *s) {
        struct list *pos, *tmp;
        struct request *r;

        e->kv_used = s->kv_used_bytes;
        e->kv_cached = s->kv_cached_bytes;
        e->kv_resident = s->kv_resident_bytes;
        take_users(e, s);
        power_take_state(e->manager->power, e, s);
        if (s->cookie == e->ping_cookie) {
                e->ping_pending = false;
                e->heard_us = manager_now_us();
        }
        LIST_FOREACH(pos, tmp, &e->model->active) {
                r = LIST_ENTRY(pos, struct request, model_link);
                r->engine_queued = r->engine_paused = false;
        }
        for (size_t i = 0; i < s->n_queued_keys; i++)
                if ((r = requests_find(&e->manager->requests, s->queued_keys[i])))
                        r->engine_queued = true;
        for (size_t i = 0; i < s->n_paused_keys; i++)
                if ((r = requests_find(&e->manager->requests, s->paused_keys[i])))
                        r->engine_paused = true;
        LIST_FOREACH(pos, tmp, &e->model->active)
                request_count(LIST_ENTRY(pos, struct request, model_link));
}

static void on_frame(struct engine *e, const Spark__Engine__V1__EngineFrame *f) {
        struct request *r;

        e->changed |= f->body_case != SPARK__ENGINE__V1__ENGINE_FRAME__BODY_STATE;
        switch (f->body_case) {
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_READY:
                on_ready(e, f->ready);
                return;
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_ACCEPTED:
                r = requests_find(&e->manager->requests, f->accepted->key);
                if (r && request_take_accepted(r, f->accepted))
                        engine_fault(e, "it accepted a request twice, or another one");
                return;
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_TOKENS:
                on_tokens(e, f->tokens);
                return;
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_PROGRESS:
                r = requests_find(&e->manager->requests, f->progress->key);
                if (r && f->progress->progress)
                        request_take_progress(r, f->progress);
                return;
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_FINISHED:
                on_finished(e, f->finished);
                return;
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_FAILED:
                on_failed(e, f->failed);
                return;
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_STATE:
                on_state(e, f->state);
                return;
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_PAUSED:
                power_take_paused(e->manager->power, e, f->paused);
                return;
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_TESTED:
                power_take_tested(e->manager->power, e, f->tested);
                return;
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_CAPPED:
                power_take_capped(e->manager->power, e, f->capped);
                return;
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_SPILLED:
                sessions_take_spilled(e->manager->sessions, f->spilled);
                return;
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_RESIZED:
                engine_take_resized(e, f->resized);
                return;
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_RESTORED:
                sessions_take_restored(e->manager->sessions, f->restored);
                return;
        default:
                engine_fault(e, "it sent a message that nobody knows");
        }
}

/* Everything that one read brought. Stops where the engine was found to break the rules. */
static void engine_handle_frames(struct engine *e) {
        struct channel_frame frame;
        ProtobufCMessage *m;
        int r;

        while (e->state != ENGINE_ENDING && !e->closed) {
                r = channel_next(&e->channel, &frame);
                if (r == 0)
                        return;
                if (r == 1)
                        r = message_unpack(&spark__engine__v1__engine_frame__descriptor, frame.data, frame.size, &m, NULL);
                if (r) {
                        engine_fault(e, "it sent something that is no message");
                        return;
                }
                on_frame(e, (Spark__Engine__V1__EngineFrame *)m);
                (void)message_free(m);
        }
}

static void engine_watch(struct engine *e, bool write) {
        if (write == e->watching_write || e->closed)
                return;
        e->watching_write = write;
        (void)sd_event_source_set_io_events(e->io_source, EPOLLIN | (write ? (unsigned)EPOLLOUT : 0u));
}

static int on_io(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        struct engine *e = userdata;
        int r;

        if (events & EPOLLOUT)
                engine_flush(e);
        if (e->closed || !(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
                return 0;
        r = channel_read(&e->channel);
        engine_handle_frames(e);
        if (r == 0 || r == 1 || e->closed)
                return 0;
        /* nothing more will come; its process is gone or as good as gone */
        e->io_source = sd_event_source_disable_unref(e->io_source);
        if (e->state != ENGINE_ENDING)
                engine_kill(e, "its socket ended");
        return 0;
}

/* Reads to the end what a dead engine had said: those tokens count. */
static void engine_drain(struct engine *e) {
        if (e->closed || e->faulty)
                return;
        e->state = e->was_ready ? ENGINE_READY : ENGINE_STARTING;
        for (int i = 0; i < DRAIN_READS_MAX && e->state != ENGINE_ENDING; i++) {
                int r = channel_read(&e->channel);

                engine_handle_frames(e);
                if (r != 1)
                        break;
        }
        e->state = ENGINE_ENDING;
}

static int on_exit_of_engine(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        struct engine *e = userdata;
        struct model *model = e->model;
        struct request_error error;
        bool was_ready, lost, asked = e->closed || e->retired;
        uint64_t lived;
        siginfo_t info;
        char how[64];

        if (spawn_reap(e->pidfd, &info) == 0)
                return 0;
        /* before the descriptor is closed: a process that is just being started may have a copy of it, which would keep it in
         * epoll */
        e->exit_source = sd_event_source_disable_unref(e->exit_source);
        e->pidfd = fd_close(e->pidfd);
        engine_drain(e);
        spawn_describe_exit(&info, how, sizeof(how));
        if (!asked)
                event_log(EVENT_ENGINE_LOST, model->name, "engine of model '%s' ended with %s", model->name, how);
        if (info.si_code == CLD_EXITED && info.si_status == 127 && e->error.code == 0)
                request_error_set(&e->error, SPARK__V1__ERROR_CODE__INTERNAL, "spark-engine could not be executed.");
        error = e->error;
        was_ready = e->was_ready;
        lost = info.si_code == CLD_EXITED && info.si_status == EXIT_LOST;
        e->power.ended_well = info.si_code == CLD_EXITED && info.si_status == 0;
        e->manager->engine_gone_us = manager_now_us();
        lived = was_ready ? manager_now_us() - e->ready_us : 0;
        model->slept = power_explains_loss(e->manager->power, e);
        (void)engine_discard(e);
        model_engine_gone(model, was_ready, lost, lived, &error);
        return 0;
}

/* ---- what it is told ---- */

static void engine_dirty(struct engine *e) {
        if (list_empty(&e->dirty_link))
                list_append(&e->manager->dirty_engines, &e->dirty_link);
        manager_kick(e->manager);
}

void engine_add_command(struct engine *e, struct request *r) {
        if (e->closed)
                return;
        if (list_empty(&r->command_link))
                list_append(&e->commands, &r->command_link);
        engine_dirty(e);
}

int engine_send(struct engine *e, const Spark__Engine__V1__ControlFrame *frame, int fd) {
        int r;

        if (e->closed || e->state != ENGINE_READY)
                return -EAGAIN;
        r = message_queue_fds(&e->channel, &frame->base, &fd, fd >= 0);
        if (r == 0)
                engine_dirty(e);
        return r > 0 ? -EAGAIN : r;
}

static int write_commands(struct engine *e) {
        struct list *pos, *tmp;
        int r;

        if (e->state != ENGINE_READY)
                return 0;
        LIST_FOREACH(pos, tmp, &e->commands) {
                list_remove(pos);
                r = request_write_commands(LIST_ENTRY(pos, struct request, command_link), &e->channel);
                if (r) { /* again, in front of the others */
                        list_append(e->commands.next, pos);
                        return r;
                }
        }
        return 0;
}

void engine_flush(struct engine *e) {
        int r, w;

        if (e->closed || !e->io_source)
                return;
        w = write_commands(e);
        r = channel_flush(&e->channel);
        if (w < 0 || r < 0)
                engine_kill(e, "writing to it failed");
        if (r == CHANNEL_E_EOF)
                return; /* its exit is about to be noticed */
        engine_watch(e, r == 0);
        if (r == 1 && w == CHANNEL_E_FULL && list_empty(&e->dirty_link)) { /* there is room again */
                list_append(&e->manager->dirty_engines, &e->dirty_link);
                manager_kick(e->manager);
        }
}

static int spawn_engine(struct engine *e, int far) {
        char *argv[] = { (char *)"spark-engine", (char *)"--link", (char *)"3", NULL };
        struct spawn s = { .program = "spark-engine", .argv = argv, .fds = &far, .n_fds = 1, .oom_score_adj = OOM_SCORE };

        return spawn_process(&s, &e->pid, &e->pidfd);
}

static int engine_connect(struct engine *e) {
        static const struct channel_limits limits = { .frame_max = CHANNEL_FRAME_MAX_PRIVATE, .out_frames = OUT_FRAMES,
                                                      .out_bytes = OUT_BYTES, .in_fds = 0 };
        _cleanup_fd_ int far = -1;
        int pair[2], r;

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                return -errno;
        far = pair[1];
        r = channel_init(&e->channel, pair[0], &limits);
        if (r < 0) {
                (void)fd_close(pair[0]);
                return r;
        }
        e->closed = false;
        r = spawn_engine(e, far);
        if (r < 0)
                return r;
        r = sd_event_add_io(e->manager->event, &e->io_source, e->channel.fd, EPOLLIN, on_io, e);
        if (r >= 0)
                r = sd_event_add_io(e->manager->event, &e->exit_source, e->pidfd, EPOLLIN, on_exit_of_engine, e);
        return r;
}

int engine_start(struct engine **ret, struct model *model) {
        _cleanup_(engine_discardp) struct engine *e = calloc(1, sizeof(*e));
        int r;

        if (!e)
                return -ENOMEM;
        e->manager = model->manager;
        e->model = model;
        e->pidfd = -1;
        e->closed = true;
        e->started_us = manager_now_us();
        e->resize = ENGINE_RESIZE_NULL;
        list_init(&e->commands);
        list_init(&e->dirty_link);
        r = engine_connect(e);
        if (r < 0)
                return r;
        r = engine_queue_init(e);
        if (r)
                return r < 0 ? r : -ENOBUFS;
        list_append(&e->manager->dirty_engines, &e->dirty_link);
        manager_kick(e->manager);
        log_debug("engine of model '%s': process %d", model->name, (int)e->pid);
        *ret = steal_ptr(&e);
        return 0;
}

void engine_tell_image(struct engine *e, uint32_t tensors, bool whole) {
        Spark__Engine__V1__ControlFrame frame = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;
        Spark__Engine__V1__Image image = SPARK__ENGINE__V1__IMAGE__INIT;

        if (e->closed || e->state != ENGINE_STARTING)
                return; /* its end follows */
        image.tensors = tensors;
        image.whole = whole;
        frame.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_IMAGE;
        frame.image = &image;
        e->started_us = manager_now_us(); /* what it waits for has come, so its time begins anew */
        if (message_queue(&e->channel, &frame.base))
                engine_kill(e, "there is no room for what it is to be told");
        else
                engine_flush(e);
}

/* ---- is it alive? ---- */

static void engine_ping(struct engine *e, uint64_t now_us) {
        Spark__Engine__V1__ControlFrame frame = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;
        Spark__Engine__V1__Ping ping = SPARK__ENGINE__V1__PING__INIT;

        ping.cookie = ++e->ping_cookie;
        frame.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_PING;
        frame.ping = &ping;
        if (message_queue(&e->channel, &frame.base)) {
                e->ping_cookie--;
                return; /* it has enough to read */
        }
        e->ping_pending = true;
        e->changed = false;
        e->ping_sent_us = now_us;
        engine_flush(e);
}

bool engine_moves(const struct engine *e, uint64_t now_us) {
        uint64_t patience = e->manager->config->limits.engine_seconds * 1000000u;

        return e->state != ENGINE_READY || !e->ping_pending || now_us - e->ping_sent_us <= patience;
}

void engine_tick(struct engine *e, uint64_t now_us) {
        bool idle = list_empty(&e->model->active);

        switch (e->state) {
        case ENGINE_STARTING:
                if (now_us - e->started_us > (uint64_t)START_SECONDS * 1000000u)
                        engine_kill(e, "it was not ready in time");
                return;
        case ENGINE_ENDING:
                if (now_us - e->ending_us > END_US)
                        spawn_kill(e->pidfd, SIGKILL);
                return;
        case ENGINE_READY:
                if (!engine_moves(e, now_us))
                        engine_kill(e, "it does not answer");
                else if (!e->ping_pending &&
                         (!idle || e->changed || now_us - e->heard_us >= IDLE_PING_SECONDS * 1000000ull))
                        engine_ping(e, now_us);
                return;
        }
}
