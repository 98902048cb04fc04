/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Whether a call may run. Its caller is known by now. Root and the daemon's own user may everything, and who may connect to the
 * socket may over the bus what that would give; a session bus is its user's own and lets in whom it likes. For anything else
 * polkit is asked, one right after the other, while the call waits. A caller that leaves the bus takes its calls with it,
 * and these their questions.
 */

#include <errno.h>
#include <string.h>

#include "bus-internal.h"

static void call_advance(struct bus_call *c);

static uint32_t rights_without_asking(const struct bus_peer *p) {
        const struct manager *m = p->bus->manager;
        uid_t uid = p->user->uid;

        if (manager_is_privileged(uid))
                return RIGHTS_ALL;
        if (m->config->bus != CONFIG_BUS_SYSTEM || rights_socket_admits(m->listener.fd, uid, p->groups, p->n_groups))
                return RIGHTS_OF_SOCKET;
        return 0;
}

static void call_deny(struct bus_call *c, enum right right, enum polkit_answer answer) {
        if (answer == POLKIT_CHALLENGE) /* the name that clients know, to ask again with the flag that lets polkit ask a person */
                bus_call_fail_named(c, SD_BUS_ERROR_INTERACTIVE_AUTHORIZATION_REQUIRED, right_refusal(right));
        else
                bus_call_fail_with(c, SPARK__V1__ERROR_CODE__PERMISSION_DENIED, "%s", right_refusal(right));
}

static void call_decide(struct bus_call *c, enum right right, enum polkit_answer answer) {
        c->undecided &= ~RIGHT_BIT(right);
        if (answer == POLKIT_YES)
                c->granted |= RIGHT_BIT(right);
        else if (c->required & RIGHT_BIT(right)) {
                call_deny(c, right, answer);
                return;
        }
        call_advance(c);
}

static void on_answer(void *userdata, enum polkit_answer answer) {
        struct bus_call *c = userdata;

        c->check = NULL;
        call_decide(c, c->asked, answer);
}

/* What a call can do without is asked for without bothering anybody. */
static void call_ask(struct bus_call *c, enum right right) {
        const struct polkit_question q = {
                .bus_name = c->peer->name,
                .uid = c->peer->user->uid,
                .right = right,
                .interactive = (c->required & RIGHT_BIT(right)) &&
                               sd_bus_message_get_allow_interactive_authorization(c->message) > 0,
                .told = on_answer,
                .userdata = c,
        };
        int r;

        c->asked = right;
        r = polkit_ask(&c->peer->bus->polkit, &q, &c->check);
        if (r == -ENOTCONN) { /* a session bus */
                call_decide(c, right, POLKIT_ABSENT);
        } else if (r) {
                c->check = NULL;
                bus_call_fail_with(c, SPARK__V1__ERROR_CODE__BUSY, "Too many questions to polkit are open; try again later.");
        }
}

static void call_advance(struct bus_call *c) {
        if (c->undecided)
                call_ask(c, (enum right)__builtin_ctz(c->undecided));
        else
                c->operation(c);
}

void bus_call_authorize(struct bus_call *c) {
        c->required = c->demand->required;
        c->may_do_without = c->demand->optional;
        if (c->demand->adjust)
                c->required = c->demand->adjust(c);
        (void)sd_bus_message_rewind(c->message, true);
        c->granted = rights_without_asking(c->peer);
        c->undecided = (c->required | c->may_do_without) & ~c->granted;
        call_advance(c);
}

bool bus_call_may(const struct bus_call *c, enum right right) {
        return c->granted & RIGHT_BIT(right);
}

struct request_origin bus_call_origin(const struct bus_call *c) {
        struct bus_peer *p = c->peer;

        return (struct request_origin){ .user = p->user, .pid = p->peer.pid, .unit = p->peer.unit, .client = p->client,
                                        .granted = c->granted };
}
