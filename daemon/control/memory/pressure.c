/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/fd.h"
#include "base/log.h"
#include "manager.h"
#include "pressure-source.h"
#include "pressure.h"
#include "shed.h"

#define LOOK_US (100u * 1000u)        /* while it is short, or gets so fast */
#define FAST_US (5u * 1000000u)       /* after the last sign of that */
#define STALL_ROW_US (10u * 1000000u) /* stalls that follow each other within this are one row */
#define STALL_ROW_KV 3u               /* so many in a row cost KV pools, too */
#define RELAPSE_US (60u * 1000000u)   /* pressure so soon after the last one: what was taken back was too much */
#define BACKOFF_MAX 16u               /* times restore_seconds, at most */
#define MARGIN_MIN (32ull << 20)
#define MARGIN_MAX (1ull << 30)

struct pressure {
        struct manager *manager;
        struct pressure_source source;
        sd_event_source *event, *timer;
        struct shed *floor, *stall; /* what is held because of each; NULL = nothing */
        unsigned stalls;            /* in a row */
        uint64_t stalled_us;        /* the last one */
        uint64_t calm_us;           /* since when there is room; 0 = there is none */
        uint64_t ended_us;          /* the last time that nothing was held any more */
        unsigned backoff;
        uint64_t available, fast_until_us;
};

uint64_t pressure_margin(uint64_t floor) {
        uint64_t margin = MAX(floor / 8, MARGIN_MIN);

        return MIN(margin, MARGIN_MAX);
}

bool pressure_is_on(const struct pressure *p) {
        return p && (p->floor || p->stall);
}

/* ---- holding ---- */

static void begin(struct pressure *p, uint64_t now_us) {
        if (pressure_is_on(p))
                return;
        if (p->ended_us && now_us - p->ended_us < RELAPSE_US)
                p->backoff = MIN(p->backoff * 2, BACKOFF_MAX);
        else
                p->backoff = 1;
}

/* What is missing up to the margin, where what is on its way is not enough for the floor: for the margin's sake alone nothing is taken
 * that hurts more. */
static void ask_for_floor(struct pressure *p, uint64_t missing, uint64_t now_us) {
        struct shed_want want = { .limit = SHED_WEIGHTS };
        uint64_t pending = shed_pending(p->manager);

        begin(p, now_us);
        if (!p->floor && shed_new(&p->floor, p->manager, &want) < 0)
                return;
        if (missing > pending)
                shed_more(p->floor, missing - pending + pressure_margin(p->manager->memory.floor));
}

static void ask_for_stall(struct pressure *p, uint64_t now_us) {
        struct shed_want want = { .limit = p->stalls >= STALL_ROW_KV ? SHED_KV : SHED_SESSIONS };
        struct shed *before = p->stall;

        begin(p, now_us);
        if (shed_new(&p->stall, p->manager, &want) < 0)
                return;
        (void)shed_free(before);
        shed_more(p->stall, pressure_margin(p->manager->memory.floor));
}

uint64_t pressure_wait_us(uint64_t restore_us, const struct pressure_calm *c) {
        uint64_t twice;

        if (c->room < c->margin)
                return UINT64_MAX;
        if (!__builtin_add_overflow(c->given, c->margin, &twice) && !__builtin_mul_overflow(twice, 2u, &twice) && c->room >= twice)
                return restore_us;
        return c->since_stall_us < STALL_ROW_US ? UINT64_MAX : restore_us * c->backoff;
}

static void end_when_calm(struct pressure *p, uint64_t available, uint64_t now_us) {
        const struct memory *memory = &p->manager->memory;
        struct pressure_calm calm = {
                .room = available - memory->floor,
                .margin = pressure_margin(memory->floor),
                .given = shed_given(p->manager),
                .since_stall_us = now_us - p->stalled_us,
                .backoff = p->backoff,
        };
        uint64_t calm_us = pressure_wait_us(p->manager->config->memory_restore_seconds * 1000000u, &calm);

        if (calm_us == UINT64_MAX) {
                p->calm_us = 0;
                return;
        }
        if (!p->calm_us)
                p->calm_us = now_us;
        if (now_us - p->calm_us < calm_us)
                return;
        log_info("there was room for memory for a while; what was given back is taken again as far as it fits");
        p->floor = shed_free(p->floor);
        p->stall = shed_free(p->stall);
        p->stalls = 0;
        p->calm_us = 0;
        p->ended_us = now_us;
}

/* ---- looking ---- */

static void look(struct pressure *p) {
        struct memory *memory = &p->manager->memory;
        uint64_t now_us = manager_now_us(), available, fallen;

        memory_look(memory);
        available = memory_available(memory);
        fallen = p->available > available ? p->available - available : 0;
        p->available = available;
        if (available < memory->floor) {
                p->calm_us = 0;
                ask_for_floor(p, memory->floor - available, now_us);
                if (shed_has_more(p->manager)) /* else it may stay so for days, and nothing is gained by looking */
                        p->fast_until_us = now_us + FAST_US;
        } else if (pressure_is_on(p)) {
                end_when_calm(p, available, now_us);
        }
        /* at this pace the floor is reached within a few looks */
        if (available > memory->floor && fallen > (available - memory->floor) / 4)
                p->fast_until_us = now_us + FAST_US;
        if (now_us < p->fast_until_us) {
                (void)sd_event_source_set_time_relative(p->timer, LOOK_US);
                (void)sd_event_source_set_enabled(p->timer, SD_EVENT_ONESHOT);
        }
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        look(userdata);
        return 0;
}

void pressure_tick(struct pressure *p, uint64_t now_us) {
        if (p && now_us >= p->fast_until_us && p->manager->config->memory_pressure)
                look(p);
}

/* ---- stalls ---- */

static bool stall_is_ours(const struct pressure *p) {
        /* somebody in a group of their own may wait for memory that the machine has plenty of */
        return p->source.kind != PRESSURE_MACHINE || p->available / 2 < p->manager->memory.floor;
}

static int on_stall(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        struct pressure *p = userdata;
        uint64_t now_us = manager_now_us();

        if (!pressure_source_take(&p->source, events)) {
                log_warning("nobody tells of memory pressure any more; the floor is looked at as before");
                p->event = sd_event_source_disable_unref(p->event);
                pressure_source_deinit(&p->source);
                return 0;
        }
        if (!p->manager->config->memory_pressure)
                return 0;
        look(p);
        if (!stall_is_ours(p))
                return 0;
        p->stalls = p->stalled_us && now_us - p->stalled_us < STALL_ROW_US ? p->stalls + 1 : 1;
        p->stalled_us = now_us;
        ask_for_stall(p, now_us);
        return 0;
}

void pressure_listen(struct pressure *p, const char *watch, const char *write) {
        int r = pressure_source_open(&p->source, p->manager->memory.cgroup.unified, watch, write);

        if (r == 0 && p->source.fd >= 0)
                r = sd_event_add_io(p->manager->event, &p->event, p->source.fd, p->source.events, on_stall, p);
        if (r == -EPERM && p->source.fd >= 0) { /* a file that is no such: there is nothing to wait for */
                pressure_source_deinit(&p->source);
                (void)snprintf(p->source.trouble, sizeof(p->source.trouble),
                               "what $MEMORY_PRESSURE_WATCH names cannot be watched");
        }
        if (p->source.fd >= 0)
                log_debug("memory pressure: told by the %s", pressure_source(p));
        else if (p->source.trouble[0])
                log_info("memory pressure: nobody tells of stalls (%s); the floor is looked at once a second", p->source.trouble);
}

const char *pressure_source(const struct pressure *p) {
        static const char *const names[] = {
                [PRESSURE_NOBODY] = "", [PRESSURE_SERVICE] = "service manager", [PRESSURE_CGROUP] = "control group",
                [PRESSURE_MACHINE] = "machine",
        };

        return p ? names[p->source.kind] : "";
}

const char *pressure_trouble(const struct pressure *p) {
        return p && p->source.trouble[0] ? p->source.trouble : NULL;
}

/* ---- life ---- */

int pressure_new(struct pressure **ret, struct manager *m) {
        _cleanup_(pressure_freep) struct pressure *p = calloc(1, sizeof(*p));
        int r;

        if (!p)
                return -ENOMEM;
        p->manager = m;
        p->source = PRESSURE_SOURCE_NULL;
        p->backoff = 1;
        p->available = memory_available(&m->memory);
        r = sd_event_add_time_relative(m->event, &p->timer, CLOCK_MONOTONIC, LOOK_US, LOOK_US / 10, on_timer, p);
        if (r >= 0)
                r = sd_event_source_set_enabled(p->timer, SD_EVENT_OFF);
        if (r < 0)
                return r;
        *ret = steal_ptr(&p);
        return 0;
}

struct pressure *pressure_free(struct pressure *p) {
        if (!p)
                return NULL;
        p->event = sd_event_source_disable_unref(p->event);
        p->timer = sd_event_source_disable_unref(p->timer);
        pressure_source_deinit(&p->source);
        p->floor = shed_free(p->floor);
        p->stall = shed_free(p->stall);
        free(p);
        return NULL;
}
