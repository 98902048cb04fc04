/* SPDX-License-Identifier: Apache-2.0 */

#include <stdio.h>
#include <string.h>

#include "memory.h"

bool memory_is_short(const struct spark_memory *m) {
        return m && (m->pressure || m->missing > 0);
}

/* "ours 95.1 GiB, others' 12.0 GiB; may still be taken: 3.0 GiB; pressure 0.0 % some, 0.0 % full" */
static void line_of_owners(const struct spark_memory *m, char *out, size_t size) {
        char ours[32], others[32], room[32], limit[32], pressure[80] = "unknown", group[64] = "";

        if (m->pressure_known)
                (void)snprintf(pressure, sizeof(pressure), "%.1f %% some, %.1f %% full", (double)m->pressure_some,
                               (double)m->pressure_full);
        if (m->limit)
                (void)snprintf(group, sizeof(group), " (its group may have %s)", words_bytes(m->limit, limit));
        (void)snprintf(out, size, "owners  the service %s%s, others %s; %s may be taken; pressure %s",
                       words_bytes(m->ours, ours), group, words_bytes(m->others, others),
                       words_bytes(m->headroom, room), pressure);
}

static void line_of_steps(const struct spark_memory *m, char *out, size_t size) {
        char shed[32], missing[32], step[32], kept[32], kept_text[64] = "";

        if (m->given)
                (void)snprintf(kept_text, sizeof(kept_text), ", %s are kept for leases", words_bytes(m->given, kept));
        if (m->missing)
                (void)snprintf(out, size, "SHORT   %s are missing to the floor; given back so far: %s (step \"%s\")%s",
                               words_bytes(m->missing, missing), words_bytes(m->shed, shed),
                               format_safe(m->step, step, sizeof(step)), kept_text);
        else
                (void)snprintf(out, size, "given   %s are given back (step \"%s\")%s%s", words_bytes(m->shed, shed),
                               format_safe(m->step, step, sizeof(step)), kept_text, m->pressure ? ", for memory was short" : "");
}

bool memory_line(const struct spark_memory *m, unsigned i, char *out, size_t size) {
        if (!m || i >= MEMORY_LINES)
                return false;
        if (i == 0)
                line_of_owners(m, out, size);
        else if (m->missing || strcmp(m->step, "nothing") != 0)
                line_of_steps(m, out, size);
        else
                return false;
        return true;
}

void memory_print(const struct spark_memory *m) {
        char line[MEMORY_LINE_MAX];

        for (unsigned i = 0; i < MEMORY_LINES; i++)
                if (memory_line(m, i, line, sizeof(line)))
                        (void)printf("  %s\n", line);
}

void memory_json(struct json *j, const struct spark_memory *m) {
        if (!m)
                return;
        json_u64(j, "machine", m->machine);
        json_u64(j, "machine_available", m->machine_available);
        json_u64(j, "limit", m->limit);
        json_u64(j, "headroom", m->headroom);
        json_u64(j, "missing", m->missing);
        json_u64(j, "promised", m->promised);
        json_u64(j, "given", m->given);
        json_u64(j, "kv_resident", m->kv_resident);
        json_u64(j, "control", m->control);
        json_u64(j, "users", m->users);
        json_u64(j, "device", m->device);
        json_u64(j, "ours", m->ours);
        json_u64(j, "others", m->others);
        json_open(j, "pressure", '{');
        json_bool(j, "known", m->pressure_known);
        json_number(j, "some", m->pressure_some, 9);
        json_number(j, "full", m->pressure_full, 9);
        json_string(j, "source", m->pressure_source);
        json_close(j, '}');
        json_bool(j, "short", m->pressure);
        json_string(j, "step", m->step);
        json_u64(j, "shed", m->shed);
}
