/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Properties as tables: an interface's are fields of a struct that is filled whenever somebody looks ("view"), so that what a
 * Get answers, what GetManagedObjects lists and what a signal tells can't differ.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <systemd/sd-bus.h>

struct bus_property {
        const char *name;
        char type;     /* of D-Bus: s t u b d; fields are char *, uint64_t, uint32_t, protobuf_c_boolean, float */
        bool told;     /* changes are told */
        size_t offset; /* in the view */
};

struct bus_class {
        const char *interface;
        const struct bus_property *properties;
        size_t n;
};

/* For lists of properties `P(name, type, signature, field, how)` from which a table and a vtable are made. */
#define BUS_PROPERTY_TOLD_CONST false
#define BUS_PROPERTY_TOLD_CHANGES true
#define BUS_PROPERTY_TOLD_INVALIDATES true
#define BUS_PROPERTY_TOLD_SILENT false
#define BUS_PROPERTY_FLAG_CONST SD_BUS_VTABLE_PROPERTY_CONST
#define BUS_PROPERTY_FLAG_CHANGES SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE
#define BUS_PROPERTY_FLAG_INVALIDATES SD_BUS_VTABLE_PROPERTY_EMITS_INVALIDATION
#define BUS_PROPERTY_FLAG_SILENT 0

/* NULL where there is none. */
const struct bus_property *bus_property_find(const struct bus_class *class, const char *name);
/* The value alone; a{sv} of all. Strings are made good for the bus. */
int bus_property_append(sd_bus_message *m, const struct bus_property *p, const void *view);
int bus_properties_append(sd_bus_message *m, const struct bus_class *class, const void *view);
/* Names of those that are told and differ from what was told, ended with NULL; digests [class->n] are brought up to date.
 * names: [class->n + 1]. How many. */
size_t bus_properties_changed(const struct bus_class *class, const void *view, uint64_t *digests, char **names);
