/* SPDX-License-Identifier: Apache-2.0 */

#include "manager.h"
#include "memory/lease.h"
#include "pace.h"
#include "power/power.h"

static bool model_is_at_rest(const struct model *model) {
        return model->state == MODEL_AVAILABLE || model->state == MODEL_READY || model->state == MODEL_FAILED;
}

static bool anything_goes_on(const struct manager *m) {
        struct list *pos, *tmp;

        if (m->state != MANAGER_READY || m->requests.count > leases_at_rest(m->leases) || disk_pending(m->disk) > 0 || power_is_busy(m->power))
                return true;
        LIST_FOREACH(pos, tmp, (struct list *)&m->models.list)
                if (!model_is_at_rest(LIST_ENTRY(pos, struct model, link)))
                        return true;
        return false;
}

uint64_t pace_next_us(struct manager *m) {
        struct pace *p = &m->pace;
        uint64_t idle_us = PACE_IDLE_US;

        p->quiet = anything_goes_on(m) ? 0 : p->quiet + 1;
        p->idle = p->quiet >= PACE_QUIET;
        if (m->notify.watchdog_us) /* which is fed with the tick */
                idle_us = MIN(idle_us, m->notify.watchdog_us / 3);
        return p->idle ? MAX(idle_us, (uint64_t)PACE_US) : PACE_US;
}

void pace_wake(struct manager *m) {
        m->pace.quiet = 0;
        if (!m->pace.idle)
                return;
        m->pace.idle = false;
        (void)sd_event_source_set_time_relative(m->tick, PACE_US);
}
