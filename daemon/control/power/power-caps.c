/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What engines do without for the power supply's or heat's sake: rows of a step, threads, clocks. Each that serves is told whenever
 * it was told something else before, so one that was started later, or in the place of another one, hears of it with the next
 * turn. What it can't do it says, and we say it: once in the log, and in status for as long as it is so.
 *
 * A device's clocks are everybody's on it, and stay as they are when the process is gone that capped them. An engine that ends
 * by itself gives them free; after one that did not the next one is told to. Where several are on the device, the others are
 * told once more.
 */

#include <string.h>

#include "base/log.h"
#include "model/engine.h"
#include "power-private.h"

static bool caps_equal(const struct power_caps *a, const struct power_caps *b) {
        return a->batch == b->batch && a->threads == b->threads && a->clocks == b->clocks;
}

/* ---- telling ---- */

void power_caps_turn(struct power *p, struct engine *e) {
        Spark__Engine__V1__ControlFrame frame = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;
        Spark__Engine__V1__Cap cap = SPARK__ENGINE__V1__CAP__INIT;
        const struct power_caps *want = &p->state.caps;

        if (caps_equal(want, &e->power.caps) && !e->power.caps_again && !p->clocks_left)
                return;
        cap.key = ++p->last_key;
        cap.batch = want->batch;
        cap.threads = want->threads;
        cap.clocks = want->clocks;
        cap.undo = p->clocks_left;
        frame.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_CAP;
        frame.cap = &cap;
        if (engine_send(e, &frame, -1) < 0)
                return; /* the next turn */
        p->clocks_left = false;
        e->power.caps = *want;
        e->power.caps_key = cap.key;
        e->power.caps_pending = true;
        e->power.caps_again = false;
        p->caps_stale = true;
}

/* ---- what is in force ---- */

struct verdict {
        bool any;    /* an engine has answered, and none has not */
        bool batch, threads, clocks; /* all of them keep to it */
        bool no_threads, unsupported, forbidden;
        const char *by;
};

static void judge_engine(struct power *p, struct engine *e, struct verdict *v) {
        const struct power_caps *want = &p->state.caps;
        const struct power_capped *is = &e->power.capped;

        if (e->power.caps_pending || !caps_equal(want, &e->power.caps)) {
                v->batch = v->threads = v->clocks = false;
                return;
        }
        v->any = true;
        v->batch &= is->batch <= want->batch;
        v->threads &= is->threads > 0 && is->threads <= want->threads;
        v->no_threads |= want->threads && is->threads == 0;
        switch (is->clocks) {
        case SPARK__ENGINE__V1__CLOCKS__CLOCKS_UCLAMP:
                v->by = "uclamp";
                break;
        case SPARK__ENGINE__V1__CLOCKS__CLOCKS_NVML:
                v->by = "nvml";
                break;
        case SPARK__ENGINE__V1__CLOCKS__CLOCKS_FORBIDDEN:
                v->forbidden = true;
                v->clocks = false;
                break;
        case SPARK__ENGINE__V1__CLOCKS__CLOCKS_UNSUPPORTED:
                v->unsupported = true;
                v->clocks = false;
                break;
        default:
                v->clocks = false;
        }
}

static struct verdict judge(struct power *p) {
        struct verdict v = { .batch = true, .threads = true, .clocks = true, .by = "" };
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &p->manager->models.list) {
                struct engine *e = LIST_ENTRY(pos, struct model, link)->engine;

                if (e && e->state == ENGINE_READY)
                        judge_engine(p, e, &v);
        }
        v.batch &= v.any && p->state.caps.batch > 0;
        v.threads &= v.any && p->state.caps.threads > 0;
        v.clocks &= v.any && p->state.caps.clocks > 0;
        return v;
}

static const char *refusal(const struct verdict *v) {
        static const char *const texts[2][3] = {
                { "", "clocks: unsupported", "clocks: not permitted" },
                { "threads: unsupported", "threads: unsupported, clocks: unsupported",
                  "threads: unsupported, clocks: not permitted" },
        };

        return texts[v->no_threads][v->forbidden ? 2 : v->unsupported];
}

static void say_once(struct power *p, const struct verdict *v) {
        if (p->clocks_said || (!v->forbidden && !v->unsupported))
                return;
        p->clocks_said = true;
        log_notice("clocks are not capped: %s", v->forbidden ? "it takes a privilege that an engine does not have" :
                                                               "neither the kernel nor a driver does it here");
}

void power_caps_update(struct power *p) {
        struct power_state *s = &p->state, before = *s;
        struct verdict v = judge(p);

        p->caps_stale = false;
        (void)snprintf(s->in_force, sizeof(s->in_force), "%s%s%s%s%s", v.batch ? "batch" : "", v.batch && v.threads ? " " : "",
                       v.threads ? "threads" : "", (v.batch || v.threads) && v.clocks ? " " : "", v.clocks ? "clocks" : "");
        s->clocks_by = v.clocks ? v.by : "";
        s->refused = refusal(&v);
        say_once(p, &v);
        if (strcmp(s->in_force, before.in_force) != 0 || strcmp(s->clocks_by, before.clocks_by) != 0 ||
            strcmp(s->refused, before.refused) != 0)
                power_changed(p);
}

void power_take_capped(struct power *p, struct engine *e, const Spark__Engine__V1__Capped *m) {
        if (m->key != e->power.caps_key)
                return; /* overtaken */
        e->power.caps_pending = false;
        e->power.capped = (struct power_capped){ m->batch, m->threads, m->clocks };
        if (p)
                power_caps_update(p);
}

/* ---- engines that go ---- */

static void tell_again(struct power *p, struct engine *e) {
        e->power.caps_again = e->power.capped.clocks == SPARK__ENGINE__V1__CLOCKS__CLOCKS_NVML;
}

void power_caps_engine_gone(struct power *p, const struct engine *e) {
        if (e->power.capped.clocks == SPARK__ENGINE__V1__CLOCKS__CLOCKS_NVML) {
                p->clocks_left |= !e->power.ended_well;
                power_engines_each(p, tell_again);
        }
        p->caps_stale = true;
        manager_kick(p->manager);
}
