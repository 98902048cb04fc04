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
#include "daemon/control/model/model-private.h"
#include "daemon/control/session/session-private.h"
#include "message.h"
#include "session-heard.h"

#pragma GCC diagnostic ignored "-Wunused-function" /* each test uses what it needs */

#define UID_A 1000u
#define UID_B 1001u
#define TURNS_MAX 2000

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
        f->model->facts.vocabulary = 500;
        f->model->facts.parameters = 7;
        model_set_state(f->model, MODEL_READY); /* as of now: one that was used at the clock's beginning is unloaded for being idle */
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

/* For cmocka: the fixture is the state. */
static int fixture_set_up(void **state, const char *limits) {
        struct fixture *f = calloc(1, sizeof(*f));

        assert_non_null(f);
        fixture_init(f, limits);
        *state = f;
        return 0;
}

static int fixture_tear_down(void **state) {
        fixture_deinit(*state);
        free(*state);
        return 0;
}

#include "session-ask.h"
#include "session-engine.h"
