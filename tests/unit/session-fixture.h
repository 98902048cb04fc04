/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Sessions without a daemon: a manager whose loop the test turns by hand, and a model whose engine is a channel here.
 * What is asked is asked as a client's frame, what the engine says is said by the test.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/log.h"
#include "daemon/control/model/engine.h"
#include "daemon/control/session/session-private.h"
#include "message.h"

#pragma GCC diagnostic ignored "-Wunused-function" /* each test uses what it needs */

#define UID_A 1000u
#define UID_B 1001u
#define TURNS_MAX 2000

/* What a request was told; kept until the next one is asked with it. */
struct heard {
        size_t tokens, done, errors;
        Spark__V1__ErrorCode code;
        uint32_t retry_after_ms;
        char text[512];
        bool has_session;
        char id[SESSION_ID_TEXT + 1], model[65], name[65], state[16];
        uint64_t n, stored_bytes;
        bool persistent;
        size_t n_sessions;
        uint64_t seed;
};

struct fixture {
        struct manager *m;
        struct sessions *t;
        struct user *a, *b, *root;
        struct model *model;
        struct engine *engine;
        struct channel far; /* where the engine would read */
        int taken_fd;       /* that came with the last command */
        char folder[64], config[512];
};

static void on_token(void *userdata, struct request *r, const Spark__V1__Token *token) {
        ((struct heard *)userdata)->tokens += token->n_ids;
}

static void on_progress(void *userdata, struct request *r, const Spark__V1__Progress *progress) {
}

static void heard_session(struct heard *h, const Spark__V1__SessionInfo *s) {
        h->has_session = true;
        (void)snprintf(h->id, sizeof(h->id), "%s", s->id);
        (void)snprintf(h->model, sizeof(h->model), "%s", s->model);
        (void)snprintf(h->name, sizeof(h->name), "%s", s->name);
        (void)snprintf(h->state, sizeof(h->state), "%s", s->state);
        h->n = s->tokens;
        h->stored_bytes = s->stored_bytes;
        h->persistent = s->persistent;
}

static void on_done(void *userdata, struct request *r, const Spark__V1__Done *done) {
        struct heard *h = userdata;

        h->done++;
        h->seed = done->seed;
        if (done->result_case == SPARK__V1__DONE__RESULT_SESSION)
                heard_session(h, done->session);
        if (done->result_case == SPARK__V1__DONE__RESULT_SESSIONS) {
                h->n_sessions = done->sessions->n_sessions;
                if (h->n_sessions > 0)
                        heard_session(h, done->sessions->sessions[0]);
        }
}

static void on_error(void *userdata, struct request *r, const Spark__V1__Error *error) {
        struct heard *h = userdata;

        h->errors++;
        h->code = error->code;
        h->retry_after_ms = error->retry_after_ms;
        (void)snprintf(h->text, sizeof(h->text), "%s", error->message);
}

static const struct request_sink sink = {
        .token = on_token, .progress = on_progress, .done = on_done, .error = on_error
};

/* ---- the loop ---- */

/* Until the condition holds. */
#define TURN_UNTIL(f, condition)                                                  \
        do {                                                                      \
                int _turns = 0;                                                   \
                while (!(condition)) {                                            \
                        assert_true(sd_event_run((f)->m->event, 100000) >= 0);    \
                        if (++_turns > TURNS_MAX)                                 \
                                fail_msg("%s did not come about", #condition);    \
                }                                                                 \
        } while (0)

/* What is due now, and no more. */
static void turn_once(struct fixture *f) {
        manager_kick(f->m);
        while (sd_event_run(f->m->event, 0) > 0)
                ;
}

static int on_nothing(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        return 0;
}

/* ---- manager and engine ---- */

static void engine_born(struct fixture *f) {
        static const struct channel_limits limits = { CHANNEL_FRAME_MAX_PRIVATE, 1024, 8 << 20, 8 };
        struct engine *e = calloc(1, sizeof(*e));
        int pair[2];

        assert_non_null(e);
        e->manager = f->m;
        e->model = f->model;
        e->state = ENGINE_READY;
        e->was_ready = true;
        e->pidfd = -1;
        e->started_us = manager_now_us();
        e->heard_us = e->started_us;
        list_init(&e->commands);
        list_init(&e->dirty_link);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        assert_int_equal(channel_init(&e->channel, pair[0], &limits), 0);
        assert_int_equal(channel_init(&f->far, pair[1], &limits), 0);
        assert_true(sd_event_add_io(f->m->event, &e->io_source, pair[0], 0, on_nothing, NULL) >= 0);
        f->engine = f->model->engine = e;
        f->model->state = MODEL_READY;
        f->model->facts.vocabulary = 500;
        f->model->facts.parameters = 7;
        model_kick(f->model);
}

/* The process is gone: what a loss is to the model. The next engine is the test's to bear. */
static void engine_dies(struct fixture *f) {
        struct list lost, *pos, *tmp;

        channel_deinit(&f->far);
        list_init(&lost);
        f->model->engine = engine_discard(f->engine);
        f->engine = NULL;
        f->model->state = MODEL_STARTING;
        LIST_FOREACH(pos, tmp, &f->model->active) {
                struct request *r = LIST_ENTRY(pos, struct request, model_link);

                if (request_lost(r)) {
                        list_remove(pos);
                        list_append(&f->model->waiting, pos);
                }
        }
}

static void manager_born(struct fixture *f) {
        struct config_error error;
        struct config *config;
        struct list *pos, *tmp;

        assert_int_equal(config_parse(&config, f->config, "/", &error), 0);
        assert_int_equal(manager_new(&f->m, config, NULL), 0);
        f->t = f->m->sessions;
        f->a = users_get(&f->m->users, UID_A);
        f->b = users_get(&f->m->users, UID_B);
        f->root = users_get(&f->m->users, geteuid());
        assert_true(f->a && f->b && f->root);
        LIST_FOREACH(pos, tmp, &f->m->models.list)
                if (strcmp(LIST_ENTRY(pos, struct model, link)->name, "a") == 0)
                        f->model = LIST_ENTRY(pos, struct model, link);
        engine_born(f);
        TURN_UNTIL(f, f->t->scanned);
}

/* All that is charged is known and given back. */
static void manager_dies(struct fixture *f) {
        if (f->engine) {
                channel_deinit(&f->far);
                f->engine = f->model->engine = engine_discard(f->engine);
        }
        assert_int_equal(f->m->requests.count, 0);
        f->a = user_unref(f->a);
        f->b = user_unref(f->b);
        f->root = user_unref(f->root);
        f->m = manager_free(f->m);
}

static void fixture_init(struct fixture *f, const char *limits) {
        *f = (struct fixture){ .taken_fd = -1 };
        log_init("test", LOG_LEVEL_ERROR, 0);
        (void)snprintf(f->folder, sizeof(f->folder), "/tmp/test-sessions-XXXXXX");
        assert_non_null(mkdtemp(f->folder));
        (void)snprintf(f->config, sizeof(f->config),
                       "socket = \"%s/s\"; state_dir = \"%s\"; bus = \"none\"; backend = \"null\"; log_level = \"error\";"
                       "memory = { pressure = \"no\"; floor = 0; };" /* whatever else the machine does meanwhile */
                       "models = ( { name = \"a\"; }, { name = \"b\"; } ); limits = { %s };",
                       f->folder, f->folder, limits);
        manager_born(f);
}

static void fixture_deinit(struct fixture *f) {
        char command[128];

        manager_dies(f);
        f->taken_fd = fd_close(f->taken_fd);
        (void)snprintf(command, sizeof(command), "rm -rf %s", f->folder);
        assert_int_equal(system(command), 0); /* NOLINT(cert-env33-c): a name that mkdtemp() made */
}

static void restart(struct fixture *f) {
        manager_dies(f);
        manager_born(f);
}

/* ---- asking ---- */

static struct request *ask_as(struct fixture *f, struct user *user, uint64_t client, Spark__V1__ClientFrame *frame,
                              struct heard *h) {
        const struct request_submit s = { .frame = frame,
                                          .input_fd = -1,
                                          .origin = { .user = user, .pid = 1, .client = client },
                                          .sink = &sink,
                                          .userdata = h };
        struct request_error error;
        struct request *r = NULL;

        frame->id = 1;
        h->done = h->errors = 0;
        assert_int_equal(request_submit(f->m, &s, &r, &error), 0);
        assert_int_equal(h->done + h->errors, 0); /* never from within */
        *h = (struct heard){ 0 }; /* not before: the frame may point into it */
        return r;
}

static bool has_ended(const struct heard *h) {
        return h->done + h->errors > 0;
}

/* Asks and waits for the end. */
static void ask(struct fixture *f, struct user *user, Spark__V1__ClientFrame *frame, struct heard *h) {
        (void)ask_as(f, user, 1, frame, h);
        TURN_UNTIL(f, has_ended(h));
        assert_int_equal(h->done + h->errors, 1);
}

#define FRAME(field, member, value)                                                 \
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;               \
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_##field;                    \
        frame.member = &(value)

static void create(struct fixture *f, struct user *user, uint64_t client, bool persistent, struct heard *h) {
        Spark__V1__SessionCreate c = SPARK__V1__SESSION_CREATE__INIT;
        FRAME(SESSION_CREATE, session_create, c);

        c.model = (char *)"a";
        c.name = (char *)"notes";
        c.persistent = persistent;
        (void)ask_as(f, user, client, &frame, h);
        TURN_UNTIL(f, has_ended(h));
}

static void fork_of(struct fixture *f, struct user *user, const char *id, struct heard *h) {
        Spark__V1__SessionFork c = SPARK__V1__SESSION_FORK__INIT;
        FRAME(SESSION_FORK, session_fork, c);

        c.session = (char *)id;
        ask(f, user, &frame, h);
}

static void rewind_to(struct fixture *f, struct user *user, const char *id, uint64_t tokens, struct heard *h) {
        Spark__V1__SessionRewind c = SPARK__V1__SESSION_REWIND__INIT;
        FRAME(SESSION_REWIND, session_rewind, c);

        c.session = (char *)id;
        c.tokens = tokens;
        ask(f, user, &frame, h);
}

static void close_it(struct fixture *f, struct user *user, const char *id, struct heard *h) {
        Spark__V1__SessionClose c = SPARK__V1__SESSION_CLOSE__INIT;
        FRAME(SESSION_CLOSE, session_close, c);

        c.session = (char *)id;
        ask(f, user, &frame, h);
}

static void list_all(struct fixture *f, struct user *user, struct heard *h) {
        Spark__V1__Sessions c = SPARK__V1__SESSIONS__INIT;
        FRAME(SESSIONS, sessions, c);

        ask(f, user, &frame, h);
}

static struct request *begin_generate(struct fixture *f, struct user *user, const char *id, const char *model,
                                      struct heard *h) {
        Spark__V1__Generate c = SPARK__V1__GENERATE__INIT;
        FRAME(GENERATE, generate, c);

        c.session = (char *)id;
        c.model = (char *)model;
        c.prompt.data = (uint8_t *)"more";
        c.prompt.len = 4;
        return ask_as(f, user, 1, &frame, h);
}

static struct request *begin_append(struct fixture *f, struct user *user, const char *id, struct heard *h) {
        Spark__V1__SessionAppend c = SPARK__V1__SESSION_APPEND__INIT;
        FRAME(SESSION_APPEND, session_append, c);

        c.session = (char *)id;
        c.text.data = (uint8_t *)"more";
        c.text.len = 4;
        return ask_as(f, user, 1, &frame, h);
}

/* ---- the engine's side ---- */

/* What the engine is told next; NULL where nothing comes. A descriptor that comes along is kept in taken_fd. */
static Spark__Engine__V1__ControlFrame *next_command(struct fixture *f) {
        struct channel_frame frame;
        ProtobufCMessage *m;

        turn_once(f);
        assert_true(channel_read(&f->far) >= 0);
        while (channel_next(&f->far, &frame) == 1) {
                Spark__Engine__V1__ControlFrame *c;

                assert_int_equal(message_unpack(&spark__engine__v1__control_frame__descriptor, frame.data, frame.size,
                                                &m, NULL), 0);
                c = (Spark__Engine__V1__ControlFrame *)m;
                if (c->body_case == SPARK__ENGINE__V1__CONTROL_FRAME__BODY_PING) { /* a second went by */
                        (void)message_free(m);
                        continue;
                }
                f->taken_fd = fd_close(f->taken_fd);
                if (channel_pending_fds(&f->far) > 0)
                        f->taken_fd = channel_take_fd(&f->far);
                return c;
        }
        return NULL;
}

/* The next one, which may take the disk a while. */
static Spark__Engine__V1__ControlFrame *expect_command(struct fixture *f, int body) {
        Spark__Engine__V1__ControlFrame *c = NULL;

        for (int i = 0; !c && i < TURNS_MAX; i++) {
                c = next_command(f);
                if (!c)
                        (void)usleep(1000);
        }
        assert_non_null(c);
        assert_int_equal((int)c->body_case, body);
        return c;
}

static void expect_nothing(struct fixture *f) {
        assert_null(next_command(f));
}

/* A Submit behind this prefix; gives the request's key. */
static uint64_t expect_submit(struct fixture *f, const uint32_t *prefix, size_t n, bool replay) {
        Spark__Engine__V1__ControlFrame *c = expect_command(f, SPARK__ENGINE__V1__CONTROL_FRAME__BODY_SUBMIT);
        uint64_t key = c->submit->key;

        assert_int_equal(c->submit->replay, replay);
        assert_int_equal(c->submit->n_prefix, n);
        if (n)
                assert_memory_equal(c->submit->prefix, prefix, n * sizeof(*prefix));
        (void)message_free(&c->base);
        return key;
}

static int say_accepted(struct fixture *f, uint64_t key, const uint32_t *prompt, size_t n) {
        Spark__Engine__V1__Accepted a = SPARK__ENGINE__V1__ACCEPTED__INIT;
        struct request *r = requests_find(&f->m->requests, key);

        assert_non_null(r);
        a.key = key;
        a.prompt_tokens = (uint32_t *)prompt;
        a.n_prompt_tokens = n;
        a.seed = 5;
        return request_take_accepted(r, &a);
}

static void say_tokens(struct fixture *f, uint64_t key, uint32_t index, const uint32_t *ids, size_t n) {
        Spark__V1__Token t = SPARK__V1__TOKEN__INIT;
        struct request *r = requests_find(&f->m->requests, key);

        assert_non_null(r);
        t.ids = (uint32_t *)ids;
        t.n_ids = n;
        t.index = index;
        assert_int_equal(request_take_tokens(r, &t), 0);
}

static void say_done(struct fixture *f, uint64_t key) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        struct request *r = requests_find(&f->m->requests, key);

        assert_non_null(r);
        done.seed = 5;
        done.finish_reason = SPARK__V1__FINISH_REASON__STOP;
        request_finish(r, &done);
}

static void say_failed(struct fixture *f, uint64_t key, Spark__V1__ErrorCode code) {
        struct request *r = requests_find(&f->m->requests, key);

        assert_non_null(r);
        request_fail_with(r, code, "failed");
}

/* A whole turn: `prompt` is what the session has come to with the addition, `ids` what is generated. */
static void turn_of(struct fixture *f, struct user *user, const char *id, const uint32_t *prompt, size_t n_prefix,
                    size_t n_prompt, const uint32_t *ids, size_t n, struct heard *h) {
        uint64_t key;

        (void)begin_generate(f, user, id, "", h);
        key = expect_submit(f, prompt, n_prefix, false);
        assert_int_equal(say_accepted(f, key, prompt, n_prompt), 0);
        if (n)
                say_tokens(f, key, 0, ids, n);
        say_done(f, key);
        TURN_UNTIL(f, has_ended(h));
        assert_int_equal(h->done, 1);
}

static struct session *find(struct fixture *f, const char *id) {
        struct session *s = session_find(f->t, id);

        assert_non_null(s);
        return s;
}

static bool file_is_there(const struct fixture *f, unsigned uid, const char *id, const char *suffix) {
        char path[256];

        (void)snprintf(path, sizeof(path), "%s/sessions/%u/%s%s", f->folder, uid, id, suffix);
        return access(path, F_OK) == 0;
}
