/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A request that takes rights which its origin does not have. polkit is asked; the request is one meanwhile, charged and able to be
 * cancelled, and nothing else waits for it. A yes places it, as if it came only then; a no ends it. What came along with it
 * waits here.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "keep/keep-clients.h"
#include "look.h"
#include "message.h"
#include "request-keep.h"
#include "request-private.h"

struct request_question {
        struct request *request;
        struct authorization authorization;
        size_t n_fds;
        int fds[]; /* the one descriptor of a request that has one is the request's own */
};

struct request_question *request_question_free(struct request_question *q) {
        if (!q)
                return NULL;
        authorize_end(&q->authorization);
        for (size_t i = 0; i < q->n_fds; i++)
                (void)fd_close(q->fds[i]);
        free(q);
        return NULL;
}

static uint32_t missing(const struct request_origin *o, uint32_t rights) {
        return manager_is_privileged(o->user->uid) ? 0 : rights & ~o->granted;
}

static int refuse_right(struct request_error *error, enum right right, const char *why, bool by_password) {
        (void)request_refuse(error, SPARK__V1__ERROR_CODE__PERMISSION_DENIED, "%s%s%s %s", why ? why : "", why ? ": " : "",
                             right_refusal(right), right_advice(right, by_password));
        error->needs_person = by_password;
        return REQUEST_E_REFUSED;
}

static int refuse_result(const struct request *r, int result, const struct authorization *a, struct request_error *error) {
        if (result != AUTHORIZE_E_BUSY)
                return refuse_right(error, a->denied, a->demand.why, result == AUTHORIZE_E_CHALLENGE);
        return request_refuse_busy(error, &r->user->ended, "Too many questions to polkit are open; try again later.");
}

bool request_is_permitted(struct manager *m, const struct request_origin *origin, const Spark__V1__ClientFrame *f) {
        struct demand demand;

        demand_of_frame(m, origin->user, f, &demand);
        return missing(origin, demand.required | demand.wanted) == 0;
}

int request_check_rights(const struct request_origin *origin, const struct demand *demand, struct request_error *error) {
        uint32_t rights = missing(origin, demand->required);

        return rights && !origin->peer ? refuse_right(error, (enum right)__builtin_ctz(rights), demand->why, false) : 0;
}

/* ---- the answer ---- */

static void fail_as(struct request *r, int e, struct request_error *error) {
        if (e < 0)
                request_error_set(error, SPARK__V1__ERROR_CODE__INTERNAL, "The request could not be taken: %s.", strerror(-e));
        request_fail(r, error);
}

static void answer_look(struct request *r, const Spark__V1__ClientFrame *f) {
        _cleanup_(status_freep) Spark__V1__Done *done = NULL;
        struct request_error error;
        int e = look_answer(r->manager, &r->origin, f, &done, &error);

        if (e)
                fail_as(r, e, &error);
        else
                request_finish(r, done);
}

static void go_on(struct request *r, const Spark__V1__ClientFrame *f, struct request_question *q) {
        _cleanup_fd_ int fd = fd_steal(&r->input_fd);
        struct request_error error;
        struct request_outline o;
        int e = request_outline_read(f, &o);

        if (e == 0 && o.look) {
                answer_look(r, f);
                return;
        }
        if (e == 0)
                e = request_check_admission(r->manager, &o, &error);
        if (e == 0)
                e = request_place(r, &o, f, &fd, q->fds, q->n_fds, &error);
        if (e)
                fail_as(r, e, &error);
}

static void on_decided(void *userdata, int result) {
        struct request_question *q = userdata;
        struct request *r = q->request;
        struct request_error error;
        ProtobufCMessage *f = NULL;
        int e;

        if (clients_are_handed_on(r->manager, r->kept)) /* the next process asks again */
                return;
        r->question = NULL;
        r->origin.granted |= q->authorization.granted;
        if (result) {
                (void)refuse_result(r, result, &q->authorization, &error);
                request_fail(r, &error);
        } else {
                request_note_granted(r);
                e = message_unpack(&spark__v1__client_frame__descriptor, r->journal.frame, r->journal.frame_size, &f, NULL);
                if (e) /* it was unpacked when it came, so this is memory */
                        fail_as(r, -ENOMEM, &error);
                else
                        go_on(r, (const Spark__V1__ClientFrame *)f, q);
                (void)message_free(f);
        }
        (void)request_question_free(q);
}

/* ---- the question ---- */

int request_ask(struct request *r, const struct demand *demand, bool interactive, int *fd, int *fds, size_t n_fds,
                struct request_error *error) {
        struct request_question *q;
        int result;

        if (!r->origin.peer || missing(&r->origin, demand->required | demand->wanted) == 0)
                return 0;
        q = calloc(1, sizeof(*q) + n_fds * sizeof(q->fds[0]));
        if (!q)
                return -ENOMEM;
        q->request = r;
        q->authorization = (struct authorization){
                .polkit = manager_polkit(r->manager),
                .subject = { .peer = r->origin.peer },
                .uid = r->user->uid,
                .interactive = interactive,
                .granted = r->origin.granted,
                .decided = on_decided,
                .userdata = q,
        };
        result = authorize_begin(&q->authorization, demand);
        if (result == AUTHORIZE_ASKED) {
                for (size_t i = 0; i < n_fds; i++)
                        q->fds[q->n_fds++] = fd_steal(&fds[i]);
                r->input_fd = fd_steal(fd);
                r->question = q;
                manager_kick(r->manager); /* what is kept of it is committed in the turn */
                return REQUEST_ASKED;
        }
        r->origin.granted |= q->authorization.granted;
        if (result)
                (void)refuse_result(r, result, &q->authorization, error);
        (void)request_question_free(q);
        return result ? REQUEST_E_REFUSED : 0;
}

void requests_end_questions(struct manager *m) {
        for (size_t i = 0; i < m->requests.n_slots; i++)
                if (m->requests.slots[i] && m->requests.slots[i]->question)
                        request_fail_with(m->requests.slots[i], SPARK__V1__ERROR_CODE__STOPPING, "The daemon is shutting down.");
}
