/* SPDX-License-Identifier: Apache-2.0 */

/* The objects below /org/sparkd/Spark1/model: org.sparkd.Spark1.Model. */

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "bus-internal.h"
#include "status.h"

struct property {
        const char *name;
        char type;
        size_t offset; /* in Spark__V1__ModelInfo */
};

#define AT(member) offsetof(Spark__V1__ModelInfo, member)

/* Those that change. */
static const struct property properties[] = {
        { "State", 's', AT(state) },
        { "Default", 'b', AT(is_default) },
        { "Error", 's', AT(error) },
        { "LoadPercent", 'u', AT(load_percent) },
        { "Architecture", 's', AT(architecture) },
        { "Format", 's', AT(format) },
        { "Parameters", 't', AT(parameters) },
        { "ImageBytes", 't', AT(image_bytes) },
        { "KVBytes", 't', AT(kv_bytes) },
        { "Context", 'u', AT(context) },
        { "Backend", 's', AT(backend) },
        { "Device", 's', AT(device) },
        { "Placement", 's', AT(placement) },
        { "KVMemory", 's', AT(kv_memory) },
        { "DeviceBytes", 't', AT(device_bytes) },
        { "EngineRestarts", 'u', AT(engine_restarts) },
};

struct bus_model {
        struct bus *bus;
        struct list link;
        struct model *model;
        sd_bus_slot *slot;
        char path[256];
        uint64_t told[ARRAY_SIZE(properties)]; /* digests of values */
};

/* FNV-1a: changes are to be noticed, nothing hangs on it. */
static uint64_t digest(const void *data, size_t n) {
        const uint8_t *p = data;
        uint64_t h = 0xcbf29ce484222325u;

        for (size_t i = 0; i < n; i++)
                h = (h ^ p[i]) * 0x100000001b3u;
        return h;
}

static uint64_t property_digest(const struct property *p, const Spark__V1__ModelInfo *info) {
        const void *value = (const char *)info + p->offset;
        const char *text;

        switch (p->type) {
        case 's':
                text = *(char *const *)value;
                return digest(text, strlen(text));
        case 't':
                return *(const uint64_t *)value;
        default:
                return *(const uint32_t *)value;
        }
}

static int append_text(sd_bus_message *reply, const char *text) {
        _cleanup_free_ char *clean = bus_text_clean(text);

        return clean ? sd_bus_message_append_basic(reply, 's', clean) : -ENOMEM;
}

static int get_property(sd_bus *bus, const char *path, const char *interface, const char *name, sd_bus_message *reply,
                        void *userdata, sd_bus_error *error) {
        const struct bus_model *o = userdata;
        Spark__V1__ModelInfo info;

        status_fill_model(o->model, &info);
        for (size_t i = 0; i < ARRAY_SIZE(properties); i++) {
                const struct property *p = &properties[i];
                const void *value = (const char *)&info + p->offset;

                if (strcmp(p->name, name) == 0)
                        return p->type == 's' ? append_text(reply, *(char *const *)value)
                                              : sd_bus_message_append_basic(reply, p->type, value);
        }
        return append_text(reply, o->model->name);
}

static int on_load(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        const struct bus_model *o = userdata;

        return bus_call_begin(o->bus, m, bus_operation_model_load, error);
}

static int on_unload(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        const struct bus_model *o = userdata;

        return bus_call_begin(o->bus, m, bus_operation_model_unload, error);
}

#define CHANGING(name, type) SD_BUS_PROPERTY(name, type, get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE)

static const sd_bus_vtable model_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD_WITH_ARGS("Load", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, on_load, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Unload", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, on_unload, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_PROPERTY("Name", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        CHANGING("State", "s"),
        CHANGING("Default", "b"),
        CHANGING("Error", "s"),
        CHANGING("LoadPercent", "u"),
        CHANGING("Architecture", "s"),
        CHANGING("Format", "s"),
        CHANGING("Parameters", "t"),
        CHANGING("ImageBytes", "t"),
        CHANGING("KVBytes", "t"),
        CHANGING("Context", "u"),
        CHANGING("Backend", "s"),
        CHANGING("Device", "s"),
        CHANGING("Placement", "s"),
        CHANGING("KVMemory", "s"),
        CHANGING("DeviceBytes", "t"),
        CHANGING("EngineRestarts", "u"),
        SD_BUS_VTABLE_END,
};

int bus_model_path(const struct model *model, char *out, size_t size) {
        _cleanup_free_ char *path = NULL;
        int r = sd_bus_path_encode(BUS_PATH_MODEL, model->name, &path);

        if (r < 0)
                return r;
        if (strlen(path) >= size)
                return -ENAMETOOLONG;
        memcpy(out, path, strlen(path) + 1);
        return 0;
}

static struct bus_model *object_find(struct bus *b, const struct model *model) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &b->models) {
                struct bus_model *o = LIST_ENTRY(pos, struct bus_model, link);

                if (o->model == model)
                        return o;
        }
        return NULL;
}

static struct bus_model *object_free(struct bus_model *o) {
        if (!o)
                return NULL;
        list_remove(&o->link);
        o->slot = sd_bus_slot_unref(o->slot);
        free(o);
        return NULL;
}
DEFINE_CLEANUP(struct bus_model *, object_free)

static int object_add(struct bus *b, struct model *model) {
        _cleanup_(object_freep) struct bus_model *o = calloc(1, sizeof(*o));
        Spark__V1__ModelInfo info;
        int r;

        if (!o)
                return -ENOMEM;
        o->bus = b;
        o->model = model;
        list_init(&o->link);
        r = bus_model_path(model, o->path, sizeof(o->path));
        if (r >= 0)
                r = sd_bus_add_object_vtable(b->bus, &o->slot, o->path, BUS_IFACE_MODEL, model_vtable, o);
        if (r < 0)
                return r;
        status_fill_model(model, &info);
        for (size_t i = 0; i < ARRAY_SIZE(properties); i++)
                o->told[i] = property_digest(&properties[i], &info);
        list_append(&b->models, &o->link);
        r = sd_bus_emit_object_added(b->bus, o->path);
        (void)steal_ptr(&o);
        return r;
}

static void object_tell_changes(struct bus_model *o) {
        char *names[ARRAY_SIZE(properties) + 1] = { NULL };
        Spark__V1__ModelInfo info;
        size_t n = 0;

        status_fill_model(o->model, &info);
        for (size_t i = 0; i < ARRAY_SIZE(properties); i++) {
                uint64_t now = property_digest(&properties[i], &info);

                if (now == o->told[i])
                        continue;
                o->told[i] = now;
                names[n++] = (char *)properties[i].name;
        }
        if (n > 0)
                (void)sd_bus_emit_properties_changed_strv(o->bus->bus, o->path, BUS_IFACE_MODEL, names);
}

/* As in answers to Models: a file that is only being planned or has not begun to load is nobody's model yet. */
static bool model_is_shown(const struct model *model) {
        return model->configured || model->state != MODEL_AVAILABLE;
}

void bus_models_turn(struct bus *b) {
        struct list *pos, *tmp;
        int r;

        LIST_FOREACH(pos, tmp, &b->manager->models.list) {
                struct model *model = LIST_ENTRY(pos, struct model, link);
                struct bus_model *o = object_find(b, model);

                if (o) {
                        object_tell_changes(o);
                        continue;
                }
                r = model_is_shown(model) ? object_add(b, model) : 0;
                if (r < 0)
                        log_warning("model '%s' cannot be shown on the bus: %s", model->name, strerror(-r));
        }
}

void bus_models_remove(struct bus *b, struct model *model) {
        struct bus_model *o = object_find(b, model);

        if (!o)
                return;
        (void)sd_bus_emit_object_removed(b->bus, o->path);
        (void)object_free(o);
}

void bus_models_deinit(struct bus *b) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &b->models)
                (void)object_free(LIST_ENTRY(pos, struct bus_model, link));
}

int bus_models_list(struct bus *b, sd_bus_message *reply) {
        struct list *pos, *tmp;
        int r;

        r = sd_bus_message_open_container(reply, 'a', "(so)");
        LIST_FOREACH(pos, tmp, &b->models) {
                const struct bus_model *o = LIST_ENTRY(pos, struct bus_model, link);

                if (r >= 0)
                        r = sd_bus_message_append(reply, "(so)", o->model->name, o->path);
        }
        return r < 0 ? r : sd_bus_message_close_container(reply);
}
