/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Whether a call may run. Its caller is known by now. Root and the daemon's own user may everything, and who may connect to the
 * socket may over the bus what that would give; a session bus is its user's own and lets in whom it likes. For anything else
 * polkit is asked, one right after the other, while the call waits. A caller that leaves the bus takes its calls with it,
 * and these their questions.
 */

#include "bus-internal.h"

static uint32_t rights_without_asking(const struct bus_peer *p) {
        const struct manager *m = p->bus->manager;
        uid_t uid = p->user->uid;

        if (manager_is_privileged(uid))
                return RIGHTS_ALL;
        if (m->config->bus != CONFIG_BUS_SYSTEM || rights_socket_admits(m->listener.fd, uid, p->groups, p->n_groups))
                return RIGHTS_OF_SOCKET;
        return 0;
}

static void call_go_on(void *userdata, int result) {
        struct bus_call *c = userdata;
        const char *refusal = right_refusal(c->authorization.denied);

        switch (result) {
        case 0:
                c->operation(c);
                return;
        case AUTHORIZE_E_CHALLENGE: /* the name that clients know, to ask again with the flag that lets polkit ask a person */
                bus_call_fail_named(c, SD_BUS_ERROR_INTERACTIVE_AUTHORIZATION_REQUIRED, refusal);
                return;
        case AUTHORIZE_E_DENIED:
                bus_call_fail_with(c, SPARK__V1__ERROR_CODE__PERMISSION_DENIED, "%s", refusal);
                return;
        default:
                bus_call_fail_with(c, SPARK__V1__ERROR_CODE__BUSY, "Too many questions to polkit are open; try again later.");
        }
}

void bus_call_authorize(struct bus_call *c) {
        struct demand demand = { .required = c->demand->required };
        int r;

        c->may_do_without = c->demand->optional;
        if (c->demand->adjust)
                demand.required = c->demand->adjust(c);
        demand.optional = c->may_do_without;
        (void)sd_bus_message_rewind(c->message, true);
        c->authorization = (struct authorization){
                .polkit = &c->peer->bus->polkit,
                .subject = { .bus_name = c->peer->name },
                .uid = c->peer->user->uid,
                .interactive = sd_bus_message_get_allow_interactive_authorization(c->message) > 0,
                .granted = rights_without_asking(c->peer),
                .decided = call_go_on,
                .userdata = c,
        };
        r = authorize_begin(&c->authorization, &demand);
        if (r != AUTHORIZE_ASKED)
                call_go_on(c, r);
}

bool bus_call_may(const struct bus_call *c, enum right right) {
        return c->authorization.granted & RIGHT_BIT(right);
}

struct polkit *bus_polkit(struct bus *b) {
        return b ? &b->polkit : NULL;
}

struct request_origin bus_call_origin(const struct bus_call *c) {
        struct bus_peer *p = c->peer;

        return (struct request_origin){ .user = p->user, .pid = p->peer.pid, .unit = p->peer.unit, .client = p->client,
                                        .granted = c->authorization.granted };
}
