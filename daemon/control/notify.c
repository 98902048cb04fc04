/* SPDX-License-Identifier: Apache-2.0 */

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <systemd/sd-daemon.h>

#include "base/words.h"
#include "manager.h"
#include "model/engine.h"
#include "notify.h"

#define EXTEND_US (60u * 1000000u)       /* asked for while a model loads, */
#define EXTEND_EVERY_US (10u * 1000000u) /* again and again */

void notify_init(struct notify *n) {
        uint64_t usec = 0;

        *n = (struct notify){ 0 };
        if (sd_watchdog_enabled(0, &usec) > 0)
                n->watchdog_us = usec;
}

void notify_ready(struct manager *m) {
        m->notify.ready = true;
        (void)sd_notify(0, "READY=1");
        notify_update(m, manager_now_us());
}

void notify_reloading(struct manager *m) {
        (void)sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, manager_now_us());
}

void notify_stopping(struct manager *m) {
        (void)sd_notify(0, "STOPPING=1\nSTATUS=Stopping.");
}

/* A sentence for `systemctl status`: models and requests, sent when it changes. */
static void update_status(struct manager *m) {
        char text[sizeof(m->notify.status)] = "No model.";
        struct list *pos, *tmp;
        size_t n = 0, count = m->requests.count;

        LIST_FOREACH(pos, tmp, &m->models.list) {
                const struct model *model = LIST_ENTRY(pos, struct model, link);
                int k;

                if (model->state == MODEL_AVAILABLE)
                        continue;
                k = snprintf(text + n, sizeof(text) - n, "%s%s %s", n ? ", " : "", model->name, model_state_name(model));
                n += (size_t)k;
                if (n >= sizeof(text))
                        break;
        }
        if (n && n < sizeof(text))
                (void)snprintf(text + n, sizeof(text) - n, "; %zu request%s.", count, words_s(count));
        if (strcmp(text, m->notify.status) == 0)
                return;
        (void)snprintf(m->notify.status, sizeof(m->notify.status), "%s", text);
        (void)sd_notifyf(0, "STATUS=%s", text);
}

static bool someone_loads(struct manager *m) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &m->models.list) {
                const struct model *model = LIST_ENTRY(pos, struct model, link);

                if (model->state == MODEL_LOADING || model->state == MODEL_STARTING)
                        return true;
        }
        return false;
}

static bool all_move(struct manager *m, uint64_t now_us) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &m->models.list) {
                const struct model *model = LIST_ENTRY(pos, struct model, link);

                if (model->engine && !engine_moves(model->engine, now_us))
                        return false;
        }
        return true;
}

void notify_update(struct manager *m, uint64_t now_us) {
        struct notify *n = &m->notify;

        if (m->state == MANAGER_STARTING || m->state == MANAGER_READY)
                update_status(m);
        if (someone_loads(m) && now_us - n->extended_us >= EXTEND_EVERY_US) {
                n->extended_us = now_us;
                (void)sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%u", EXTEND_US);
        }
        /* not fed while an engine hangs: when killing it did not help, only a restart of the whole does */
        if (n->watchdog_us && now_us - n->fed_us >= n->watchdog_us / 4 && all_move(m, now_us)) {
                n->fed_us = now_us;
                (void)sd_notify(0, "WATCHDOG=1");
        }
}
