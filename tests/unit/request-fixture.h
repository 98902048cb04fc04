/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Requests without a daemon: they are submitted to a manager that was never run, with a model whose engine is just a
 * channel here.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "daemon/control/manager.h"
#include "message.h"

struct heard {
        size_t tokens, progress, done, errors;
        Spark__V1__ErrorCode code;
        char text[256];
};

__attribute__((unused)) static void on_token(void *userdata, struct request *r, const Spark__V1__Token *token) {
        ((struct heard *)userdata)->tokens += token->n_ids;
}

__attribute__((unused)) static void on_progress(void *userdata, struct request *r, const Spark__V1__Progress *progress) {
        ((struct heard *)userdata)->progress++;
}

__attribute__((unused)) static void on_done(void *userdata, struct request *r, const Spark__V1__Done *done) {
        ((struct heard *)userdata)->done++;
}

__attribute__((unused)) static void on_error(void *userdata, struct request *r, const Spark__V1__Error *error) {
        struct heard *h = userdata;

        h->errors++;
        h->code = error->code;
        (void)snprintf(h->text, sizeof(h->text), "%s", error->message);
}

static const struct request_sink sink = {
        .token = on_token, .progress = on_progress, .done = on_done, .error = on_error
};

struct fixture {
        struct manager *m;
        struct user *user;
        struct channel engine; /* what requests write to */
        struct channel far;    /* where it is read */
        char folder[64];
};

__attribute__((unused)) static int set_up(void **state) {
        struct fixture *f = calloc(1, sizeof(*f));
        static const struct channel_limits limits = { CHANNEL_FRAME_MAX_PRIVATE, 64, 1 << 20, 4 };
        struct config_error error;
        struct config *config;
        char text[640];
        int pair[2];

        assert_non_null(f);
        (void)snprintf(f->folder, sizeof(f->folder), "/tmp/test-requests-XXXXXX");
        assert_non_null(mkdtemp(f->folder));
        (void)snprintf(text, sizeof(text),
                       "socket = \"%s/s\"; state_dir = \"%s/not/there\"; bus = \"none\"; backend = \"null\";"
                       "log_level = \"error\";"
                       "memory = { pressure = \"no\"; floor = 0; }; residency = { idle_seconds = 0; };" /* whatever the machine does */
                       "models = ( { name = \"a\"; }, { name = \"b\"; } );"
                       "limits = { requests = 100; requests_per_user = 90; bytes_per_user = \"64K\"; };",
                       f->folder, f->folder);
        assert_int_equal(config_parse(&config, text, "/", &error), 0);
        assert_int_equal(manager_new(&f->m, config, NULL), 0);
        f->user = users_get(&f->m->users, getuid());
        assert_non_null(f->user);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        assert_int_equal(channel_init(&f->engine, pair[0], &limits), 0);
        assert_int_equal(channel_init(&f->far, pair[1], &limits), 0);
        *state = f;
        return 0;
}

__attribute__((unused)) static int tear_down(void **state) {
        struct fixture *f = *state;

        assert_int_equal(f->user->charged[USER_REQUESTS], 0);
        assert_int_equal(f->user->charged[USER_BYTES], 0);
        assert_int_equal(f->user->running, 0);
        assert_int_equal(f->user->queued, 0);
        assert_int_equal(f->m->requests.count, 0);
        channel_deinit(&f->engine);
        channel_deinit(&f->far);
        f->user = user_unref(f->user);
        f->m = manager_free(f->m);
        (void)rmdir(f->folder);
        free(f);
        return 0;
}

__attribute__((unused)) static int submit(struct fixture *f, const Spark__V1__ClientFrame *frame, struct heard *heard, struct request **ret,
                  struct request_error *error) {
        const struct request_submit s = { .frame = frame,
                                          .input_fd = -1,
                                          .origin = { .user = f->user, .pid = 1, .client = 1 },
                                          .sink = &sink,
                                          .userdata = heard };

        return request_submit(f->m, &s, ret, error);
}

__attribute__((unused)) static struct request *submit_generate(struct fixture *f, uint32_t credit, struct heard *heard) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Generate generate = SPARK__V1__GENERATE__INIT;
        struct request_error error;
        struct request *r = NULL;

        frame.id = 1;
        generate.model = (char *)"a";
        generate.credit = credit;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_GENERATE;
        frame.generate = &generate;
        assert_int_equal(submit(f, &frame, heard, &r, &error), 0);
        return r;
}

/* Writes what is due and gives the frame that came of it; NULL where nothing was due. */
__attribute__((unused)) static Spark__Engine__V1__ControlFrame *next_command(struct fixture *f, struct request *r) {
        struct channel_frame frame;
        ProtobufCMessage *m;

        if (r)
                assert_int_equal(request_write_commands(r, &f->engine), 0);
        assert_int_equal(channel_flush(&f->engine), 1);
        assert_true(channel_read(&f->far) >= 0);
        if (channel_next(&f->far, &frame) != 1)
                return NULL;
        assert_int_equal(message_unpack(&spark__engine__v1__control_frame__descriptor, frame.data, frame.size, &m, NULL),
                         0);
        return (Spark__Engine__V1__ControlFrame *)m;
}

__attribute__((unused)) static void expect_nothing(struct fixture *f, struct request *r) {
        assert_null(next_command(f, r));
}

__attribute__((unused)) static uint32_t expect_window(struct fixture *f, struct request *r) {
        Spark__Engine__V1__ControlFrame *c = next_command(f, r);
        uint32_t tokens;

        assert_non_null(c);
        assert_int_equal(c->body_case, SPARK__ENGINE__V1__CONTROL_FRAME__BODY_WINDOW);
        tokens = c->window->tokens;
        (void)message_free(&c->base);
        return tokens;
}

__attribute__((unused)) static uint32_t expect_submit(struct fixture *f, struct request *r, bool replay, size_t generated) {
        Spark__Engine__V1__ControlFrame *c = next_command(f, r);
        uint32_t credit;

        assert_non_null(c);
        assert_int_equal(c->body_case, SPARK__ENGINE__V1__CONTROL_FRAME__BODY_SUBMIT);
        assert_true(c->submit->key == r->key);
        assert_int_equal(c->submit->replay, replay);
        assert_int_equal(c->submit->n_generated, generated);
        credit = c->submit->credit;
        (void)message_free(&c->base);
        return credit;
}

__attribute__((unused)) static void take_accepted(struct request *r) {
        static const uint32_t prompt[] = { 1, 2 };
        Spark__Engine__V1__Accepted a = SPARK__ENGINE__V1__ACCEPTED__INIT;

        a.key = r->key;
        a.prompt_tokens = (uint32_t *)prompt;
        a.n_prompt_tokens = 2;
        a.seed = 9;
        assert_int_equal(request_take_accepted(r, &a), 0);
}

__attribute__((unused)) static int give_tokens(struct request *r, uint32_t index, uint32_t n) {
        uint32_t *ids = calloc(n + 1, sizeof(*ids));
        Spark__V1__Token t = SPARK__V1__TOKEN__INIT;
        int e;

        assert_non_null(ids);
        t.ids = ids;
        t.n_ids = n;
        t.index = index;
        e = request_take_tokens(r, &t);
        free(ids);
        return e;
}

__attribute__((unused)) static void finish(struct request *r) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;

        request_finish(r, &done);
}
