/* SPDX-License-Identifier: Apache-2.0 */

/* The object /org/sparkd/Spark1: org.sparkd.Spark1.Manager. */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "bus-internal.h"
#include "bus-objects.h"
#include "job.h"
#include "request/demand.h"
#include "status.h"

static const char *state_name(const struct manager *m) {
        return m->state == MANAGER_STARTING ? "starting" : m->state == MANAGER_READY ? "ready" : "stopping";
}

static void default_path(struct manager *m, char *out, size_t size) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &m->models.list) {
                const struct model *model = LIST_ENTRY(pos, struct model, link);

                if (model->is_default && bus_model_path(model, out, size) == 0)
                        return;
        }
        (void)snprintf(out, size, "/");
}

/* ---- properties ---- */

static int get_version(sd_bus *bus, const char *path, const char *interface, const char *property,
                       sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        return sd_bus_message_append(reply, "s", SPARK_VERSION);
}

static int get_state(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                     void *userdata, sd_bus_error *error) {
        const struct bus *b = userdata;

        return sd_bus_message_append(reply, "s", state_name(b->manager));
}

static int get_default_model(sd_bus *bus, const char *path, const char *interface, const char *property,
                             sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        const struct bus *b = userdata;
        char object[256];

        default_path(b->manager, object, sizeof(object));
        return sd_bus_message_append(reply, "o", object);
}

static int get_count(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                     void *userdata, sd_bus_error *error) {
        struct bus *b = userdata;
        Spark__V1__ModelInfo info;
        struct list *pos, *tmp;
        uint32_t running = 0, queued = 0;

        if (strcmp(property, "Connections") == 0)
                return sd_bus_message_append(reply, "u", (uint32_t)b->manager->n_connections);
        if (strcmp(property, "Jobs") == 0)
                return sd_bus_message_append(reply, "u", (uint32_t)b->manager->jobs.n);
        LIST_FOREACH(pos, tmp, &b->manager->models.list) {
                status_fill_model(LIST_ENTRY(pos, struct model, link), &info);
                running += info.running;
                queued += info.queued;
        }
        return sd_bus_message_append(reply, "u", strcmp(property, "RequestsRunning") == 0 ? running : queued);
}

static int get_memory(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                      void *userdata, sd_bus_error *error) {
        const struct bus *b = userdata;
        const struct memory *memory = &b->manager->memory;

        return sd_bus_message_append(reply, "t",
                                     strcmp(property, "MemoryFloor") == 0 ? memory->floor : memory_available(memory));
}

/* ---- methods ---- */

/* The priority that comes first is a right of its own. */
static uint32_t prompt_requires(struct bus_call *c) {
        struct request_error error;
        struct bus_options o;
        bool interactive = false;

        if (sd_bus_message_skip(c->message, "s") >= 0 && bus_options_init(&o, c->message, &error) == 0) {
                interactive = o.priority == SPARK__V1__PRIORITY__INTERACTIVE;
                bus_options_deinit(&o);
        }
        return RIGHT_BIT(interactive ? RIGHT_USE_INTERACTIVE : RIGHT_USE);
}

static uint32_t import_requires(struct bus_call *c) {
        struct bus_import_options o = { 0 };
        struct request_error unused;
        const char *name = "";
        int fd;

        if (sd_bus_message_read(c->message, "hs", &fd, &name) >= 0)
                (void)bus_import_options_read(&o, c->message, &unused);
        return demand_import(c->peer->bus->manager, name, o.replace, c->peer->user);
}

static uint32_t pack_requires(struct bus_call *c) {
        struct bus_pack_options o = { 0 };
        struct request_error unused;
        const char *model, *name = "";

        if (sd_bus_message_read(c->message, "ss", &model, &name) >= 0)
                (void)bus_pack_options_read(&o, c->message, &unused);
        return demand_import(c->peer->bus->manager, name, o.replace, c->peer->user);
}

static uint32_t remove_requires(struct bus_call *c) {
        const char *model;

        if (sd_bus_message_read_basic(c->message, 's', &model) < 0)
                return RIGHT_BIT(RIGHT_USE);
        return demand_remove(c->peer->bus->manager, model, c->peer->user);
}

#define NEEDS(right) RIGHT_BIT(RIGHT_##right)

static const struct {
        const char *member;
        struct bus_demand demand;
} methods[] = {
        { "Load", { .run = bus_operation_load, .required = NEEDS(MANAGE_MODELS) } },
        { "Unload", { .run = bus_operation_unload, .required = NEEDS(MANAGE_MODELS) } },
        { "Complete", { .run = bus_operation_complete, .adjust = prompt_requires } },
        { "Generate", { .run = bus_operation_generate, .adjust = prompt_requires } },
        { "OpenSession", { .run = bus_operation_open_session, .required = NEEDS(USE), .optional = NEEDS(USE_INTERACTIVE) } },
        { "ImportModel", { .run = bus_operation_import_model, .adjust = import_requires } },
        { "PackModel", { .run = bus_operation_pack_model, .adjust = pack_requires } },
        { "RemoveModel", { .run = bus_operation_remove_model, .adjust = remove_requires } },
        { "ReserveMemory", { .run = bus_operation_reserve_memory, .adjust = bus_reserve_requires } },
        { "HoldWarm", { .run = bus_operation_hold_warm, .adjust = bus_hold_requires } },
        { "ListLeases", { .run = bus_operation_list_leases, .adjust = bus_leases_require, .always = true } },
        { "ListUsage", { .run = bus_operation_list_usage, .adjust = bus_usage_requires } },
        { "Reload", { .run = bus_operation_reload, .required = NEEDS(CONFIGURE) } },
        { "ListJobs", { .run = bus_operation_list_jobs, .optional = NEEDS(OBSERVE_OTHERS), .always = true } },
};

static int on_method(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        for (size_t i = 0; i < ARRAY_SIZE(methods); i++)
                if (strcmp(methods[i].member, sd_bus_message_get_member(m)) == 0)
                        return bus_call_begin(userdata, m, &methods[i].demand, error);
        return 0;
}

void bus_operation_reload(struct bus_call *c) {
        struct request_error error;

        if (manager_reload(c->peer->bus->manager, &error))
                bus_call_fail(c, &error);
        else
                bus_call_reply_empty(c);
}

static int reply_list(sd_bus_message *m, struct bus *b, int (*fill)(struct bus *b, sd_bus_message *reply)) {
        sd_bus_message *reply = NULL;
        int r;

        r = sd_bus_message_new_method_return(m, &reply);
        if (r >= 0)
                r = fill(b, reply);
        if (r >= 0)
                r = sd_bus_message_send(reply);
        (void)sd_bus_message_unref(reply);
        return r < 0 ? r : 1;
}

static int on_list_models(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        return reply_list(m, userdata, bus_models_list);
}

static int on_list_stored(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        return reply_list(m, userdata, bus_store_list);
}

/* Who may do what is checked when the caller is known; sd-bus is told to let everybody through. */
#define METHOD SD_BUS_VTABLE_UNPRIVILEGED
#define EMITS SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE

static const sd_bus_vtable manager_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD_WITH_ARGS("Load", SD_BUS_ARGS("s", model, "a{sv}", options), SD_BUS_RESULT("o", object), on_method,
                                METHOD),
        SD_BUS_METHOD_WITH_ARGS("Unload", SD_BUS_ARGS("s", model), SD_BUS_NO_RESULT, on_method, METHOD),
        SD_BUS_METHOD_WITH_ARGS("Complete", SD_BUS_ARGS("s", prompt, "a{sv}", options),
                                SD_BUS_RESULT("s", text, "a{sv}", result), on_method, METHOD),
        SD_BUS_METHOD_WITH_ARGS("Generate", SD_BUS_ARGS("s", prompt, "a{sv}", options), SD_BUS_RESULT("h", output),
                                on_method, METHOD),
        SD_BUS_METHOD_WITH_ARGS("OpenSession", SD_BUS_ARGS("a{sv}", options),
                                SD_BUS_RESULT("o", session, "h", socket), on_method, METHOD),
        SD_BUS_METHOD_WITH_ARGS("ListModels", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(so)", models), on_list_models, METHOD),
        SD_BUS_METHOD_WITH_ARGS("ImportModel", SD_BUS_ARGS("h", file, "s", name, "a{sv}", options),
                                SD_BUS_RESULT("s", digest), on_method, METHOD),
        SD_BUS_METHOD_WITH_ARGS("PackModel", SD_BUS_ARGS("s", model, "s", name, "a{sv}", options),
                                SD_BUS_RESULT("s", digest), on_method, METHOD),
        SD_BUS_METHOD_WITH_ARGS("RemoveModel", SD_BUS_ARGS("s", model), SD_BUS_RESULT("t", freed_bytes), on_method,
                                METHOD),
        SD_BUS_METHOD_WITH_ARGS("ListStored", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(sastbb)", models), on_list_stored, METHOD),
        SD_BUS_METHOD_WITH_ARGS("ReserveMemory", SD_BUS_ARGS("t", bytes, "s", who, "s", why, "a{sv}", options),
                                SD_BUS_RESULT("h", lease), on_method, METHOD),
        SD_BUS_METHOD_WITH_ARGS("HoldWarm", SD_BUS_ARGS("s", model, "s", who, "s", why, "a{sv}", options),
                                SD_BUS_RESULT("h", lease), on_method, METHOD),
        SD_BUS_METHOD_WITH_ARGS("ListLeases", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(tssttsssuu)", leases), on_method, METHOD),
        SD_BUS_METHOD_WITH_ARGS("ListJobs", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(tosssu)", jobs), on_method, METHOD),
        SD_BUS_METHOD_WITH_ARGS("ListUsage", SD_BUS_ARGS("u", days, "b", all), SD_BUS_RESULT("a(susttttttt)", rows), on_method,
                                METHOD),
        SD_BUS_METHOD_WITH_ARGS("Reload", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, on_method, METHOD),
        SD_BUS_SIGNAL_WITH_ARGS("JobNew", SD_BUS_ARGS("t", id, "o", job), 0),
        SD_BUS_SIGNAL_WITH_ARGS("JobRemoved", SD_BUS_ARGS("t", id, "o", job, "s", result), 0),
        SD_BUS_PROPERTY("Version", "s", get_version, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("State", "s", get_state, 0, EMITS),
        SD_BUS_PROPERTY("DefaultModel", "o", get_default_model, 0, EMITS),
        SD_BUS_PROPERTY("Connections", "u", get_count, 0, 0),
        SD_BUS_PROPERTY("Jobs", "u", get_count, 0, 0),
        SD_BUS_PROPERTY("RequestsRunning", "u", get_count, 0, 0),
        SD_BUS_PROPERTY("RequestsQueued", "u", get_count, 0, 0),
        SD_BUS_PROPERTY("MemoryAvailable", "t", get_memory, 0, 0),
        SD_BUS_PROPERTY("MemoryFloor", "t", get_memory, 0, EMITS),
        SD_BUS_VTABLE_END,
};

int bus_manager_register(struct bus *b) {
        int r;

        b->told_state = b->manager->state;
        b->told_floor = b->manager->memory.floor;
        default_path(b->manager, b->told_default, sizeof(b->told_default));
        r = sd_bus_add_object_vtable(b->bus, NULL, BUS_PATH, BUS_IFACE_MANAGER, manager_vtable, b);
        if (r >= 0)
                r = sd_bus_add_object_manager(b->bus, NULL, BUS_PATH);
        return r < 0 ? r : bus_hidden_register(b);
}

void bus_manager_turn(struct bus *b) {
        const struct manager *m = b->manager;
        char object[sizeof(b->told_default)];
        char *names[4] = { NULL };
        size_t n = 0;

        if (strcmp(state_name(m), b->told_state == MANAGER_STARTING ? "starting"
                                  : b->told_state == MANAGER_READY  ? "ready"
                                                                    : "stopping") != 0)
                names[n++] = (char *)"State";
        if (b->told_floor != m->memory.floor)
                names[n++] = (char *)"MemoryFloor";
        if (b->models_dirty) {
                default_path(b->manager, object, sizeof(object));
                if (strcmp(object, b->told_default) != 0)
                        names[n++] = (char *)"DefaultModel";
                (void)snprintf(b->told_default, sizeof(b->told_default), "%s", object);
        }
        b->told_state = m->state;
        b->told_floor = m->memory.floor;
        if (n > 0)
                (void)sd_bus_emit_properties_changed_strv(b->bus, BUS_PATH, BUS_IFACE_MANAGER, names);
}
