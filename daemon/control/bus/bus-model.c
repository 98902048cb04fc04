/* SPDX-License-Identifier: Apache-2.0 */

/* The objects below /org/sparkd/Spark1/model: org.sparkd.Spark1.Model. */

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "bus-internal.h"
#include "bus-objects.h"
#include "status.h"

/* What a load or an engine brings is told when it comes; what changes all the time is there for whoever asks. */
#define PROPERTIES(P)                                                   \
        P("Name", 's', "s", name, CONST)                                \
        P("State", 's', "s", state, CHANGES)                            \
        P("Default", 'b', "b", is_default, CHANGES)                     \
        P("Error", 's', "s", error, CHANGES)                            \
        P("LoadStage", 's', "s", load_stage, CHANGES)                   \
        P("LoadPercent", 'u', "u", load_percent, CHANGES)               \
        P("Architecture", 's', "s", architecture, CHANGES)              \
        P("Format", 's', "s", format, CHANGES)                          \
        P("Parameters", 't', "t", parameters, CHANGES)                  \
        P("BitsPerWeight", 'd', "d", bits_per_weight, SILENT)           \
        P("Lossless", 'b', "b", lossless, CHANGES)                      \
        P("Packed", 'b', "b", packed, CHANGES)                          \
        P("ImageBytes", 't', "t", image_bytes, CHANGES)                 \
        P("MissingBytes", 't', "t", missing_bytes, CHANGES)             \
        P("KVBytes", 't', "t", kv_bytes, CHANGES)                       \
        P("KVUsedBytes", 't', "t", kv_used_bytes, SILENT)               \
        P("KVCachedBytes", 't', "t", kv_cached_bytes, SILENT)           \
        P("Context", 'u', "u", context, CHANGES)                        \
        P("Vocabulary", 'u', "u", vocabulary, CHANGES)                  \
        P("HasChatTemplate", 'b', "b", has_chat_template, CHANGES)      \
        P("Backend", 's', "s", backend, CHANGES)                        \
        P("Device", 's', "s", device, CHANGES)                          \
        P("Placement", 's', "s", placement, CHANGES)                    \
        P("KVMemory", 's', "s", kv_memory, CHANGES)                     \
        P("DeviceBytes", 't', "t", device_bytes, CHANGES)               \
        P("EngineRestarts", 'u', "u", engine_restarts, CHANGES)         \
        P("RequestsRunning", 'u', "u", running, SILENT)                 \
        P("RequestsQueued", 'u', "u", queued, SILENT)                   \
        P("GeneratedTokens", 't', "t", generated_tokens, SILENT)        \
        P("TokensPerSecond", 'd', "d", tokens_per_second, SILENT)       \
        P("Digest", 's', "s", digest, CHANGES)                          \
        P("StoredBytes", 't', "t", stored_bytes, CHANGES)               \
        P("Pinned", 'b', "b", pinned, CHANGES)                          \
        P("Damaged", 'b', "b", damaged, CHANGES)

#define IN_TABLE(name, type, signature, field, how) \
        { name, type, BUS_PROPERTY_TOLD_##how, offsetof(Spark__V1__ModelInfo, field) },

static const struct bus_property properties[] = { PROPERTIES(IN_TABLE) };
const struct bus_class bus_class_model = { BUS_IFACE_MODEL, properties, ARRAY_SIZE(properties) };

struct bus_model {
        struct bus *bus;
        struct list link;
        struct model *model;
        sd_bus_slot *slot;
        char path[256];
        uint64_t told[ARRAY_SIZE(properties)]; /* digests of values */
};

static int get_property(sd_bus *bus, const char *path, const char *interface, const char *name, sd_bus_message *reply,
                        void *userdata, sd_bus_error *error) {
        const struct bus_model *o = userdata;
        Spark__V1__ModelInfo info;

        status_fill_model(o->model, &info);
        return bus_property_append(reply, bus_property_find(&bus_class_model, name), &info);
}

static const struct bus_demand load = { .run = bus_operation_model_load, .required = RIGHT_BIT(RIGHT_MANAGE_MODELS) };
static const struct bus_demand unload = { .run = bus_operation_model_unload, .required = RIGHT_BIT(RIGHT_MANAGE_MODELS) };

static int on_load(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        const struct bus_model *o = userdata;

        return bus_call_begin(o->bus, m, &load, error);
}

static int on_unload(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        const struct bus_model *o = userdata;

        return bus_call_begin(o->bus, m, &unload, error);
}

#define IN_VTABLE(name, type, signature, field, how) \
        SD_BUS_PROPERTY(name, signature, get_property, 0, BUS_PROPERTY_FLAG_##how),

static const sd_bus_vtable model_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD_WITH_ARGS("Load", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, on_load, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Unload", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, on_unload, SD_BUS_VTABLE_UNPRIVILEGED),
        PROPERTIES(IN_VTABLE)
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
        char *names[ARRAY_SIZE(properties) + 1];
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
        (void)bus_properties_changed(&bus_class_model, &info, o->told, names);
        list_append(&b->models, &o->link);
        r = sd_bus_emit_interfaces_added(b->bus, o->path, BUS_IFACE_MODEL, NULL);
        (void)steal_ptr(&o);
        return r;
}

static void object_tell_changes(struct bus_model *o) {
        char *names[ARRAY_SIZE(properties) + 1];
        Spark__V1__ModelInfo info;

        status_fill_model(o->model, &info);
        if (bus_properties_changed(&bus_class_model, &info, o->told, names) > 0)
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
        /* as many interfaces as GetManagedObjects has for it: GDBus counts them, to see whether an object has gone */
        (void)sd_bus_emit_interfaces_removed(b->bus, o->path, BUS_IFACE_MODEL, NULL);
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

int bus_models_append(struct bus *b, sd_bus_message *reply) {
        struct list *pos, *tmp;
        int r = 0;

        LIST_FOREACH(pos, tmp, &b->models) {
                const struct bus_model *o = LIST_ENTRY(pos, struct bus_model, link);
                Spark__V1__ModelInfo info;

                if (r < 0)
                        break;
                status_fill_model(o->model, &info);
                r = bus_object_append(reply, o->path, &bus_class_model, &info);
        }
        return r;
}
