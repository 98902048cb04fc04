/* SPDX-License-Identifier: Apache-2.0 */

#include <stdio.h>

#include "base/words.h"
#include "manager.h"
#include "memory-status.h"
#include "pressure.h"
#include "shed.h"

void memory_fill_info(struct manager *m, Spark__V1__MemoryInfo *info) {
        struct memory_report r;

        memory_report(m, &r);
        *info = (Spark__V1__MemoryInfo)SPARK__V1__MEMORY_INFO__INIT;
        info->machine = r.machine;
        info->machine_available = r.machine_available;
        info->limit = r.limit;
        info->available = r.available;
        info->floor = r.floor;
        info->headroom = r.headroom;
        info->missing = r.missing;
        info->promised = r.promised;
        info->given = r.given;
        info->images = r.images;
        info->kv = r.kv;
        info->kv_used = r.kv_used;
        info->kv_cached = r.kv_cached;
        info->kv_resident = r.kv_resident;
        info->engine = r.engine;
        info->control = r.control;
        info->users = r.users;
        info->device = r.device;
        info->ours = r.ours;
        info->others = r.others;
        info->pressure_known = r.psi_known;
        info->pressure_some = r.psi.some10;
        info->pressure_full = r.psi.full10;
        info->pressure_source = (char *)pressure_source(m->pressure);
        info->pressure = pressure_is_on(m->pressure);
        info->step = (char *)shed_step_name(shed_step_now(m));
        info->shed = shed_given(m);
}

const char *memory_warning(struct manager *m, char *out, size_t size) {
        char floor[WORDS_BYTES], total[WORDS_BYTES];

        if (m->memory.cgroup_trouble)
                (void)snprintf(out, size, "A control group limits the service's memory, and what is taken of it cannot be read.");
        else if (memory_machine_available(&m->memory) == 0)
                (void)snprintf(out, size, "/proc/meminfo cannot be read: no model can be loaded.");
        else if (m->memory.floor >= m->memory.total)
                (void)snprintf(out, size, "memory.floor is %s, and there are %s: no model can be loaded.",
                               words_bytes(m->memory.floor, floor), words_bytes(m->memory.total, total));
        else if (m->config->memory_pressure && pressure_trouble(m->pressure))
                (void)snprintf(out, size, "Nobody tells of memory pressure (%s); MemAvailable is looked at once a second.",
                               pressure_trouble(m->pressure));
        else
                return NULL;
        return out;
}
