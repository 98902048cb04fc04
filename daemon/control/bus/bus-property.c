/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "bus-property.h"
#include "bus-text.h"

static const void *value_of(const struct bus_property *p, const void *view) {
        return (const char *)view + p->offset;
}

const struct bus_property *bus_property_find(const struct bus_class *class, const char *name) {
        for (size_t i = 0; i < class->n; i++)
                if (strcmp(class->properties[i].name, name) == 0)
                        return &class->properties[i];
        return NULL;
}

static int append_text(sd_bus_message *m, const char *text) {
        _cleanup_free_ char *clean = bus_text_clean(text);

        return clean ? sd_bus_message_append_basic(m, 's', clean) : -ENOMEM;
}

int bus_property_append(sd_bus_message *m, const struct bus_property *p, const void *view) {
        const void *value = value_of(p, view);
        double number;

        switch (p->type) {
        case 's':
                return append_text(m, *(char *const *)value);
        case 'd':
                number = (double)*(const float *)value;
                return sd_bus_message_append_basic(m, 'd', &number);
        default: /* as they are in memory */
                return sd_bus_message_append_basic(m, p->type, value);
        }
}

static int append_entry(sd_bus_message *m, const struct bus_property *p, const void *view) {
        const char signature[] = { p->type, 0 };
        int r = sd_bus_message_open_container(m, 'e', "sv");

        if (r >= 0)
                r = sd_bus_message_append_basic(m, 's', p->name);
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'v', signature);
        if (r >= 0)
                r = bus_property_append(m, p, view);
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

int bus_properties_append(sd_bus_message *m, const struct bus_class *class, const void *view) {
        int r = sd_bus_message_open_container(m, 'a', "{sv}");

        for (size_t i = 0; i < class->n && r >= 0; i++)
                r = append_entry(m, &class->properties[i], view);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

/* FNV-1a: changes are to be noticed, nothing hangs on it. */
static uint64_t digest_text(const char *s) {
        uint64_t h = 0xcbf29ce484222325u;

        for (; *s; s++)
                h = (h ^ (uint8_t)*s) * 0x100000001b3u;
        return h;
}

static uint64_t digest(const struct bus_property *p, const void *view) {
        const void *value = value_of(p, view);

        switch (p->type) {
        case 's':
                return digest_text(*(char *const *)value);
        case 't':
                return *(const uint64_t *)value;
        default:
                return *(const uint32_t *)value;
        }
}

size_t bus_properties_changed(const struct bus_class *class, const void *view, uint64_t *digests, char **names) {
        size_t n = 0;

        for (size_t i = 0; i < class->n; i++) {
                const uint64_t now = class->properties[i].told ? digest(&class->properties[i], view) : 0;

                if (now == digests[i])
                        continue;
                digests[i] = now;
                names[n++] = (char *)class->properties[i].name;
        }
        names[n] = NULL;
        return n;
}
