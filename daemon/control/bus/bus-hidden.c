/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Objects that are their user's: sessions and jobs. Others see them with the right to observe, so reading one is a call whose
 * caller has to be known, and sd-bus, which reads properties at once, is passed by. The objects are virtual: nothing is made
 * for one that nobody looks at. Signals go to everybody; they say that something came, went or changed, and not what.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "bus-objects.h"

#define IFACE_PROPERTIES "org.freedesktop.DBus.Properties"
#define IFACE_MANAGER "org.freedesktop.DBus.ObjectManager"

struct hidden {
        const struct bus_class *class;
        uid_t uid;
        union {
                struct bus_session_view session;
                struct bus_job_view job;
        } view;
};

static bool path_is_hidden(const char *path) {
        return path && (strncmp(path, BUS_PATH_SESSION "/", strlen(BUS_PATH_SESSION "/")) == 0 ||
                        strncmp(path, BUS_PATH_JOB "/", strlen(BUS_PATH_JOB "/")) == 0);
}

static bool hidden_find(struct bus *b, const char *path, struct hidden *h) {
        if (bus_session_view(b, path, &h->view.session)) {
                h->class = &bus_class_session;
                h->uid = h->view.session.uid;
                return true;
        }
        if (bus_job_view(b, path, &h->view.job)) {
                h->class = &bus_class_job;
                h->uid = h->view.job.uid;
                return true;
        }
        return false;
}

/* ---- reading one ---- */

static uint32_t get_requires(struct bus_call *c) {
        struct hidden h;

        if (!hidden_find(c->peer->bus, sd_bus_message_get_path(c->message), &h) || h.uid == c->peer->user->uid)
                return 0;
        return RIGHT_BIT(RIGHT_OBSERVE_OTHERS);
}

/* The object, if it is (still) there; else the call is answered. */
static bool call_find(struct bus_call *c, struct hidden *h) {
        if (hidden_find(c->peer->bus, sd_bus_message_get_path(c->message), h) &&
            (h->uid == c->peer->user->uid || bus_call_may(c, RIGHT_OBSERVE_OTHERS)))
                return true;
        bus_call_fail_named(c, SD_BUS_ERROR_UNKNOWN_OBJECT, "There is no such object (any more).");
        return false;
}

static void reply_with(struct bus_call *c, sd_bus_message *reply, int r) {
        bus_call_reply(c, r < 0 ? sd_bus_message_unref(reply) : reply);
}

static void operation_get(struct bus_call *c) {
        const struct bus_property *p;
        const char *interface, *name;
        sd_bus_message *reply = NULL;
        struct hidden h;
        int r;

        if (!call_find(c, &h))
                return;
        if (sd_bus_message_read(c->message, "ss", &interface, &name) < 0) {
                bus_call_fail_named(c, SD_BUS_ERROR_INVALID_ARGS, "Get takes an interface and a property.");
                return;
        }
        p = *interface && strcmp(interface, h.class->interface) != 0 ? NULL : bus_property_find(h.class, name);
        if (!p) {
                bus_call_fail_named(c, SD_BUS_ERROR_UNKNOWN_PROPERTY, "The object has no such property.");
                return;
        }
        r = sd_bus_message_new_method_return(c->message, &reply);
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'v', (const char[]){ p->type, 0 });
        if (r >= 0)
                r = bus_property_append(reply, p, &h.view);
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        reply_with(c, reply, r);
}

static void operation_get_all(struct bus_call *c) {
        sd_bus_message *reply = NULL;
        const char *interface;
        struct hidden h;
        int r;

        if (!call_find(c, &h))
                return;
        if (sd_bus_message_read(c->message, "s", &interface) < 0) {
                bus_call_fail_named(c, SD_BUS_ERROR_INVALID_ARGS, "GetAll takes an interface.");
                return;
        }
        if (*interface && strcmp(interface, h.class->interface) != 0) {
                bus_call_fail_named(c, SD_BUS_ERROR_UNKNOWN_INTERFACE, "The object has no such interface.");
                return;
        }
        r = sd_bus_message_new_method_return(c->message, &reply);
        if (r >= 0)
                r = bus_properties_append(reply, h.class, &h.view);
        reply_with(c, reply, r);
}

/* ---- all of them ---- */

int bus_object_append(sd_bus_message *m, const char *path, const struct bus_class *class, const void *view) {
        int r = sd_bus_message_open_container(m, 'e', "oa{sa{sv}}");

        if (r >= 0)
                r = sd_bus_message_append_basic(m, 'o', path);
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', "{sa{sv}}");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'e', "sa{sv}");
        if (r >= 0)
                r = sd_bus_message_append_basic(m, 's', class->interface);
        if (r >= 0)
                r = bus_properties_append(m, class, view);
        for (int i = 0; i < 3 && r >= 0; i++)
                r = sd_bus_message_close_container(m);
        return r;
}

/* Nobody is asked about what there is nothing of. */
static uint32_t others_require(struct bus_call *c) {
        struct bus *b = c->peer->bus;
        uid_t uid = c->peer->user->uid;

        c->may_do_without = bus_sessions_has_others(b, uid) || bus_jobs_has_others(b, uid) ? RIGHT_BIT(RIGHT_OBSERVE_OTHERS) : 0;
        return 0;
}

static void operation_managed_objects(struct bus_call *c) {
        bool all = bus_call_may(c, RIGHT_OBSERVE_OTHERS);
        struct bus *b = c->peer->bus;
        uid_t uid = c->peer->user->uid;
        sd_bus_message *reply = NULL;
        int r;

        r = sd_bus_message_new_method_return(c->message, &reply);
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "{oa{sa{sv}}}");
        if (r >= 0)
                r = bus_machine_append(b, reply);
        if (r >= 0)
                r = bus_models_append(b, reply);
        if (r >= 0)
                r = bus_sessions_append(b, reply, uid, all);
        if (r >= 0)
                r = bus_jobs_append(b, reply, uid, all);
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        reply_with(c, reply, r);
}

/* ---- signals ---- */

static void send_signal(sd_bus_message *m, int r) {
        if (r >= 0)
                r = sd_bus_message_send(m);
        if (r < 0)
                log_debug("a signal could not be sent: %s", strerror(-r));
        (void)sd_bus_message_unref(m);
}

void bus_hidden_added(struct bus *b, const char *path, const char *interface) {
        sd_bus_message *m = NULL;
        int r;

        if (!b->bus)
                return;
        r = sd_bus_message_new_signal(b->bus, &m, BUS_PATH, IFACE_MANAGER, "InterfacesAdded");
        if (r >= 0)
                r = sd_bus_message_append(m, "oa{sa{sv}}", path, 1, interface, 0);
        send_signal(m, r);
}

void bus_hidden_removed(struct bus *b, const char *path, const char *interface) {
        sd_bus_message *m = NULL;
        int r;

        if (!b->bus)
                return;
        r = sd_bus_message_new_signal(b->bus, &m, BUS_PATH, IFACE_MANAGER, "InterfacesRemoved");
        if (r >= 0)
                r = sd_bus_message_append(m, "oas", path, 1, interface);
        send_signal(m, r);
}

void bus_hidden_changed(struct bus *b, const char *path, const char *interface, char **names) {
        sd_bus_message *m = NULL;
        int r;

        if (!b->bus)
                return;
        r = sd_bus_message_new_signal(b->bus, &m, path, IFACE_PROPERTIES, "PropertiesChanged");
        if (r >= 0)
                r = sd_bus_message_append(m, "sa{sv}", interface, 0);
        if (r >= 0)
                r = sd_bus_message_append_strv(m, names);
        send_signal(m, r);
}

/* ---- the way in ---- */

static int on_message(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        static const struct bus_demand get = { .run = operation_get, .adjust = get_requires, .always = true },
                                       get_all = { .run = operation_get_all, .adjust = get_requires, .always = true },
                                       managed = { .run = operation_managed_objects, .adjust = others_require, .always = true };
        const char *path = sd_bus_message_get_path(m);

        if (path_is_hidden(path) && sd_bus_message_is_method_call(m, IFACE_PROPERTIES, "Get"))
                return bus_call_begin(userdata, m, &get, error);
        if (path_is_hidden(path) && sd_bus_message_is_method_call(m, IFACE_PROPERTIES, "GetAll"))
                return bus_call_begin(userdata, m, &get_all, error);
        if (path && strcmp(path, BUS_PATH) == 0 && sd_bus_message_is_method_call(m, IFACE_MANAGER, "GetManagedObjects"))
                return bus_call_begin(userdata, m, &managed, error);
        return 0;
}

int bus_hidden_get(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                   void *userdata, sd_bus_error *error) {
        return sd_bus_error_set(error, SD_BUS_ERROR_ACCESS_DENIED, "Not to be read without a caller.");
}

int bus_hidden_register(struct bus *b) {
        int r = sd_bus_add_filter(b->bus, NULL, on_message, b);

        if (r >= 0)
                r = bus_machine_register(b);
        if (r >= 0)
                r = bus_sessions_register(b);
        return r < 0 ? r : bus_jobs_register(b);
}
