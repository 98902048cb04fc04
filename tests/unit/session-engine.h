/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The engine's side of the sessions' tests: what it was told, and what it says. Part of session-fixture.h. */

#include "message.h"
#include "session-ask.h"
#include "session-fixture.h"

#pragma GCC diagnostic ignored "-Wunused-function" /* each test uses what it needs */

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
                        assert_true(sd_event_run(f->m->event, 10000) >= 0); /* or so long */
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
