/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The objects /org/sparkd/Spark1/memory and /org/sparkd/Spark1/power: what status says of them. Changes are looked for once a
 * second at most; figures that never rest are not told.
 */

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "bus-objects.h"
#include "memory/memory-status.h"
#include "power/power-status.h"

#define MEMORY_PROPERTIES(P)                                            \
        P("Total", 't', "t", info.machine, SILENT)                      \
        P("MachineAvailable", 't', "t", info.machine_available, SILENT) \
        P("Limit", 't', "t", info.limit, CHANGES)                       \
        P("Available", 't', "t", info.available, SILENT)                \
        P("Floor", 't', "t", info.floor, CHANGES)                       \
        P("Headroom", 't', "t", info.headroom, SILENT)                  \
        P("Missing", 't', "t", info.missing, SILENT)                    \
        P("Promised", 't', "t", info.promised, SILENT)                  \
        P("Given", 't', "t", info.given, CHANGES)                       \
        P("Images", 't', "t", info.images, CHANGES)                     \
        P("KV", 't', "t", info.kv, CHANGES)                             \
        P("KVUsed", 't', "t", info.kv_used, SILENT)                     \
        P("KVCached", 't', "t", info.kv_cached, SILENT)                 \
        P("KVResident", 't', "t", info.kv_resident, SILENT)             \
        P("Engines", 't', "t", info.engine, SILENT)                     \
        P("Control", 't', "t", info.control, SILENT)                    \
        P("Users", 't', "t", info.users, SILENT)                        \
        P("Device", 't', "t", info.device, CHANGES)                     \
        P("Ours", 't', "t", info.ours, SILENT)                          \
        P("Others", 't', "t", info.others, SILENT)                      \
        P("PressureKnown", 'b', "b", info.pressure_known, CHANGES)      \
        P("PressureSome", 'd', "d", info.pressure_some, SILENT)         \
        P("PressureFull", 'd', "d", info.pressure_full, SILENT)         \
        P("PressureSource", 's', "s", info.pressure_source, CHANGES)    \
        P("Pressure", 'b', "b", info.pressure, CHANGES)                 \
        P("Step", 's', "s", info.step, CHANGES)                         \
        P("Shed", 't', "t", info.shed, CHANGES)                         \
        P("LeasedBytes", 't', "t", leased, CHANGES)

#define POWER_PROPERTIES(P)                                             \
        P("Supply", 's', "s", supply, CHANGES)                          \
        P("Source", 's', "s", source, CHANGES)                          \
        P("HasBattery", 'b', "b", has_battery, CHANGES)                 \
        P("Percent", 'd', "d", percent, SILENT)                         \
        P("Profile", 's', "s", profile, CHANGES)                        \
        P("Serves", 's', "s", serves, CHANGES)                          \
        P("Throttled", 'b', "b", throttled, CHANGES)                    \
        P("TemperatureKnown", 'b', "b", temperature_known, SILENT)      \
        P("Temperature", 'i', "i", temperature_c, SILENT)               \
        P("TemperatureSource", 's', "s", temperature_source, SILENT)    \
        P("Sleep", 's', "s", sleep, CHANGES)                            \
        P("Inhibitor", 's', "s", inhibitor, CHANGES)                    \
        P("Awake", 's', "s", awake, CHANGES)                            \
        P("Sleeps", 'u', "u", sleeps, CHANGES)                          \
        P("SleepMs", 'u', "u", sleep_ms, CHANGES)                       \
        P("ResumeMs", 'u', "u", resume_ms, CHANGES)                     \
        P("Batch", 'u', "u", batch, CHANGES)                            \
        P("Threads", 'u', "u", threads, CHANGES)                        \
        P("Clocks", 'u', "u", clocks, CHANGES)                          \
        P("InForce", 's', "s", in_force, CHANGES)                       \
        P("ClocksBy", 's', "s", clocks_by, CHANGES)                     \
        P("Refused", 's', "s", refused, CHANGES)                        \
        P("EnergySource", 's', "s", energy_source, CHANGES)             \
        P("EnergyMicrojoules", 't', "t", energy_uj, SILENT)             \
        P("EnergyTokens", 't', "t", energy_tokens, SILENT)              \
        P("JoulesPerToken", 'd', "d", joules_per_token, SILENT)         \
        P("WattsKnown", 'b', "b", watts_known, SILENT)                  \
        P("Watts", 'd', "d", watts, SILENT)

struct memory_view {
        Spark__V1__MemoryInfo info;
        uint64_t leased;
};

#define OF_MEMORY(name, type, signature, field, how) \
        { name, type, BUS_PROPERTY_TOLD_##how, offsetof(struct memory_view, field) },
#define OF_POWER(name, type, signature, field, how) \
        { name, type, BUS_PROPERTY_TOLD_##how, offsetof(Spark__V1__PowerInfo, field) },

static const struct bus_property memory_properties[] = { MEMORY_PROPERTIES(OF_MEMORY) };
static const struct bus_property power_properties[] = { POWER_PROPERTIES(OF_POWER) };
static const struct bus_class class_memory = { BUS_IFACE_MEMORY, memory_properties, ARRAY_SIZE(memory_properties) };
static const struct bus_class class_power = { BUS_IFACE_POWER, power_properties, ARRAY_SIZE(power_properties) };

/* What was told. */
struct bus_machine {
        uint64_t memory[ARRAY_SIZE(memory_properties)];
        uint64_t power[ARRAY_SIZE(power_properties)];
        struct power_watcher watcher;
        bool power_changed;
};

static void view_memory(struct bus *b, struct memory_view *v) {
        memory_fill_info(b->manager, &v->info);
        v->leased = leases_bytes(b->manager->leases);
}

/* ---- reading ---- */

static int get_memory(sd_bus *bus, const char *path, const char *interface, const char *name, sd_bus_message *reply,
                      void *userdata, sd_bus_error *error) {
        struct memory_view v;

        view_memory(userdata, &v);
        return bus_property_append(reply, bus_property_find(&class_memory, name), &v);
}

static int get_power(sd_bus *bus, const char *path, const char *interface, const char *name, sd_bus_message *reply,
                     void *userdata, sd_bus_error *error) {
        struct bus *b = userdata;
        struct power_view view;
        Spark__V1__PowerInfo info;

        power_fill_info(b->manager->power, &view, &info);
        return bus_property_append(reply, bus_property_find(&class_power, name), &info);
}

int bus_machine_append(struct bus *b, sd_bus_message *reply) {
        struct power_view view;
        Spark__V1__PowerInfo info;
        struct memory_view v;
        int r;

        view_memory(b, &v);
        r = bus_object_append(reply, BUS_PATH_MEMORY, &class_memory, &v);
        power_fill_info(b->manager->power, &view, &info);
        return r < 0 ? r : bus_object_append(reply, BUS_PATH_POWER, &class_power, &info);
}

#define IN_MEMORY(name, type, signature, field, how) SD_BUS_PROPERTY(name, signature, get_memory, 0, BUS_PROPERTY_FLAG_##how),
#define IN_POWER(name, type, signature, field, how) SD_BUS_PROPERTY(name, signature, get_power, 0, BUS_PROPERTY_FLAG_##how),

static const sd_bus_vtable memory_vtable[] = { SD_BUS_VTABLE_START(0), MEMORY_PROPERTIES(IN_MEMORY) SD_BUS_VTABLE_END };
static const sd_bus_vtable power_vtable[] = { SD_BUS_VTABLE_START(0), POWER_PROPERTIES(IN_POWER) SD_BUS_VTABLE_END };

/* ---- changes ---- */

static void tell_memory(struct bus *b) {
        char *names[ARRAY_SIZE(memory_properties) + 1];
        struct memory_view v;

        view_memory(b, &v);
        if (bus_properties_changed(&class_memory, &v, b->machine->memory, names) > 0)
                (void)sd_bus_emit_properties_changed_strv(b->bus, BUS_PATH_MEMORY, BUS_IFACE_MEMORY, names);
}

static void tell_power(struct bus *b) {
        char *names[ARRAY_SIZE(power_properties) + 1];
        struct power_view view;
        Spark__V1__PowerInfo info;

        b->machine->power_changed = false;
        power_fill_info(b->manager->power, &view, &info);
        if (bus_properties_changed(&class_power, &info, b->machine->power, names) > 0)
                (void)sd_bus_emit_properties_changed_strv(b->bus, BUS_PATH_POWER, BUS_IFACE_POWER, names);
}

static void on_power(void *userdata, const struct power_state *state) {
        struct bus *b = userdata;

        b->machine->power_changed = true;
        manager_kick(b->manager);
}

void bus_machine_turn(struct bus *b) {
        if (b->machine->power_changed)
                tell_power(b);
}

void bus_machine_tick(struct bus *b) {
        tell_memory(b);
}

/* ---- life ---- */

int bus_machine_new(struct bus *b) {
        b->machine = calloc(1, sizeof(*b->machine));
        if (!b->machine)
                return -ENOMEM;
        b->machine->watcher = (struct power_watcher){ .changed = on_power, .userdata = b };
        power_watch(b->manager->power, &b->machine->watcher);
        return 0;
}

struct bus_machine *bus_machine_free(struct bus_machine *m) {
        if (!m)
                return NULL;
        list_remove(&m->watcher.link);
        free(m);
        return NULL;
}

int bus_machine_register(struct bus *b) {
        char *names[ARRAY_SIZE(memory_properties) + ARRAY_SIZE(power_properties)];
        struct memory_view v;
        Spark__V1__PowerInfo info;
        struct power_view view;
        int r;

        view_memory(b, &v);
        (void)bus_properties_changed(&class_memory, &v, b->machine->memory, names);
        power_fill_info(b->manager->power, &view, &info);
        (void)bus_properties_changed(&class_power, &info, b->machine->power, names);
        r = sd_bus_add_object_vtable(b->bus, NULL, BUS_PATH_MEMORY, BUS_IFACE_MEMORY, memory_vtable, b);
        return r < 0 ? r : sd_bus_add_object_vtable(b->bus, NULL, BUS_PATH_POWER, BUS_IFACE_POWER, power_vtable, b);
}
