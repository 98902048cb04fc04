/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What is asked of sessions, as a client's frames. Part of session-fixture.h. */

#include "session-fixture.h"

#pragma GCC diagnostic ignored "-Wunused-function" /* each test uses what it needs */

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

static void expect_error(const struct heard *h, Spark__V1__ErrorCode code) {
        assert_int_equal(h->errors, 1);
        assert_int_equal(h->code, code);
        assert_true(h->text[0] != 0);
}
