/* SPDX-License-Identifier: Apache-2.0 */

/*
 * ReserveMemory, HoldWarm, ListLeases. A lease's descriptor is handed out when the memory is there or the model is warm (or at
 * once, where the caller does not want to wait), and lives as long as anybody has it open. A caller that leaves before takes it
 * along: the descriptor is the call's until then.
 */

#include <errno.h>
#include <string.h>

#include "base/fd.h"
#include "bus-objects.h"
#include "memory/lease.h"
#include "request/demand.h"

#define UID_HIDDEN UINT32_MAX

/* ---- who may ---- */

uint32_t bus_reserve_requires(struct bus_call *c) {
        return demand_reserve(c->peer->bus->manager->config);
}

uint32_t bus_hold_requires(struct bus_call *c) {
        return demand_hold(c->peer->bus->manager->config);
}

/* ---- asking for one ---- */

static void call_hand_out(struct bus_call *c) {
        sd_bus_message *reply = NULL;
        int r = sd_bus_message_new_method_return(c->message, &reply);

        if (r >= 0)
                r = sd_bus_message_append(reply, "h", c->lease_fd); /* makes a copy */
        bus_call_reply(c, r < 0 ? sd_bus_message_unref(reply) : reply);
}

static void call_begin_lease(struct bus_call *c, struct lease_ask *ask, bool wait) {
        struct manager *m = c->peer->bus->manager;
        struct request_error error;
        int r;

        ask->user = c->peer->user;
        ask->pid = c->peer->peer.pid;
        ask->unit = c->peer->peer.unit;
        ask->authorised = bus_call_may(c, RIGHT_MANAGE_MODELS);
        r = lease_new_fd(m->leases, ask, NULL, NULL, &c->lease_fd, &c->lease, &error);
        if (r) {
                c->lease = NULL;
                bus_call_refuse(c, r, &error);
        } else if (!wait) {
                call_hand_out(c);
        }
}

static int read_policy(const char *word, enum lease_policy *ret, struct request_error *error) {
        static const char *const words[] = { [LEASE_AS_CONFIGURED] = "", [LEASE_WAIT] = "wait", [LEASE_BUSY] = "busy" };

        for (size_t i = 0; i < ARRAY_SIZE(words); i++)
                if (strcmp(words[i], word) == 0) {
                        *ret = (enum lease_policy)i;
                        return 0;
                }
        request_error_set(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "options: 'policy' must be \"wait\" or \"busy\".");
        return REQUEST_E_REFUSED;
}

void bus_operation_reserve_memory(struct bus_call *c) {
        struct lease_ask ask = { .kind = LEASE_MEMORY };
        struct bus_lease_options o;
        struct request_error error;
        int r = sd_bus_message_read(c->message, "tss", &ask.bytes, &ask.who, &ask.why);

        if (r >= 0)
                r = bus_reserve_options_read(&o, c->message, &error);
        if (!r)
                r = read_policy(o.policy, &ask.policy, &error);
        if (r) {
                bus_call_refuse(c, r, &error);
                return;
        }
        ask.missing_only = o.missing_only;
        call_begin_lease(c, &ask, o.wait);
}

void bus_operation_hold_warm(struct bus_call *c) {
        struct lease_ask ask = { .kind = LEASE_WARM };
        struct bus_lease_options o;
        struct request_error error;
        int r = sd_bus_message_read(c->message, "sss", &ask.model, &ask.who, &ask.why);

        if (r >= 0)
                r = bus_hold_options_read(&o, c->message, &error);
        if (r)
                bus_call_refuse(c, r, &error);
        else
                call_begin_lease(c, &ask, o.wait);
}

/* In the turn: the lease has got on, or has ended. */
void bus_lease_turn(struct bus_call *c) {
        if (c->lease_failed.code) {
                bus_call_fail(c, &c->lease_failed);
                return;
        }
        if (c->lease && c->lease->granted)
                call_hand_out(c);
}

static void call_note(struct bus_call *c, const struct lease *lease, bool removed) {
        if (c->lease != lease)
                return;
        c->peer->bus->calls_dirty = true;
        manager_kick(c->peer->bus->manager);
        if (!removed)
                return;
        c->lease = NULL;
        c->lease_failed = lease->error;
        if (!c->lease_failed.code)
                request_error_set(&c->lease_failed, SPARK__V1__ERROR_CODE__CANCELLED, "The lease has ended.");
}

static void on_lease(void *userdata, struct lease *lease, bool removed) {
        struct list *pos, *tmp, *cpos, *ctmp;
        struct bus *b = userdata;

        LIST_FOREACH(pos, tmp, &b->peers)
                LIST_FOREACH(cpos, ctmp, &LIST_ENTRY(pos, struct bus_peer, link)->calls)
                        call_note(LIST_ENTRY(cpos, struct bus_call, link), lease, removed);
}

/* ---- the list ---- */

static int list_one(sd_bus_message *reply, const struct lease *lease, uid_t viewer, bool all) {
        Spark__V1__LeaseInfo info;

        lease_show(lease, viewer, all, &info);
        return sd_bus_message_append(reply, "(tssttsssuu)", info.id, info.kind, info.state, info.bytes, info.given_bytes,
                                     info.model, info.who, info.why,
                                     info.own || all ? info.uid : UID_HIDDEN, info.pid);
}

static int list_all(struct bus_call *c, sd_bus_message *reply) {
        bool all = bus_call_may(c, RIGHT_OBSERVE_OTHERS);
        int r = sd_bus_message_open_container(reply, 'a', "(tssttsssuu)");
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, leases_list(c->peer->bus->manager->leases))
                if (r >= 0)
                        r = list_one(reply, LIST_ENTRY(pos, struct lease, link), c->peer->user->uid, all);
        return r < 0 ? r : sd_bus_message_close_container(reply);
}

uint32_t bus_leases_require(struct bus_call *c) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, leases_list(c->peer->bus->manager->leases))
                if (LIST_ENTRY(pos, struct lease, link)->user != c->peer->user)
                        c->may_do_without = RIGHT_BIT(RIGHT_OBSERVE_OTHERS);
        return 0;
}

void bus_operation_list_leases(struct bus_call *c) {
        sd_bus_message *reply = NULL;
        int r = sd_bus_message_new_method_return(c->message, &reply);

        if (r >= 0)
                r = list_all(c, reply);
        bus_call_reply(c, r < 0 ? sd_bus_message_unref(reply) : reply);
}

void bus_leases_init(struct bus *b) {
        b->lease_watcher = (struct lease_watcher){ .changed = on_lease, .userdata = b };
        leases_watch(b->manager->leases, &b->lease_watcher);
}

void bus_leases_deinit(struct bus *b) {
        list_remove(&b->lease_watcher.link);
}
