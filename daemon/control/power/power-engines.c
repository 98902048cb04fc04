/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Engines rest while the machine is about to sleep, or while there is too little power for anything. After sleep each computes
 * a token before it goes on: a device may come back without what was in its memory, or not at all. One that fails at it, or
 * does not answer, is replaced, and what was in flight is replayed as after every loss.
 */

#include "base/log.h"
#include "event.h"
#include "model/engine.h"
#include "power-private.h"

#define TEST_US (20u * 1000000u) /* a device takes a while to come back */

static struct engine *engine_of(struct list *node) {
        struct engine *e = LIST_ENTRY(node, struct model, link)->engine;

        return e && e->state == ENGINE_READY ? e : NULL;
}

void power_engines_each(struct power *p, power_engine_fn fn) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &p->manager->models.list)
                if (engine_of(pos))
                        fn(p, engine_of(pos));
}

/* ---- resting ---- */

/* Nothing of the model is to be begun: the machine is about to sleep, or its engine is to be tested first. */
static bool model_is_to_sleep(const struct power *p, const struct model *model) {
        const struct engine *e = model->engine;

        switch (p->sleeper.state) {
        case SLEEP_PREPARING:
        case SLEEP_ASLEEP:
                return true;
        case SLEEP_RESUMING:
                return e && (e->power.test_due || e->power.test_pending);
        default:
                return false;
        }
}

static bool rest_is_wanted(const struct power *p, const struct engine *e) {
        switch (p->sleeper.state) {
        case SLEEP_PREPARING:
        case SLEEP_ASLEEP:
                return true;
        case SLEEP_RESUMING:
                return e->power.test_due || e->power.test_pending || p->parked;
        default:
                return p->parked;
        }
}

static void send_pause(struct power *p, struct engine *e, bool on) {
        Spark__Engine__V1__ControlFrame frame = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;
        Spark__Engine__V1__Pause pause = SPARK__ENGINE__V1__PAUSE__INIT;

        pause.key = ++p->last_key;
        pause.on = on;
        frame.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_PAUSE;
        frame.pause = &pause;
        if (engine_send(e, &frame, -1) < 0)
                return; /* the next turn */
        e->power.pause_key = pause.key;
        e->power.rests_wanted = on;
        e->power.rest_pending = true;
}

static void send_test(struct power *p, struct engine *e) {
        Spark__Engine__V1__ControlFrame frame = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;
        Spark__Engine__V1__SelfTest test = SPARK__ENGINE__V1__SELF_TEST__INIT;

        test.key = ++p->last_key;
        frame.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_SELF_TEST;
        frame.self_test = &test;
        if (engine_send(e, &frame, -1) < 0)
                return;
        e->power.test_key = test.key;
        e->power.test_due = false;
        e->power.test_pending = true;
}

static void engine_turn(struct power *p, struct engine *e) {
        bool rest = rest_is_wanted(p, e);

        if (e->power.test_due && p->sleeper.state == SLEEP_RESUMING)
                send_test(p, e);
        if (rest != e->power.rests_wanted)
                send_pause(p, e, rest);
        power_caps_turn(p, e);
}

void power_engines_turn(struct power *p) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &p->manager->models.list) {
                struct model *model = LIST_ENTRY(pos, struct model, link);
                bool held = model->holds & MODEL_HOLD_SLEEP, hold = model_is_to_sleep(p, model);

                if (hold && !held)
                        model_hold(model, MODEL_HOLD_SLEEP);
                else if (held && !hold)
                        model_release(model, MODEL_HOLD_SLEEP);
        }
        power_engines_each(p, engine_turn);
        if (p->caps_stale)
                power_caps_update(p);
}

void power_take_paused(struct power *p, struct engine *e, const Spark__Engine__V1__Paused *m) {
        if (m->key != e->power.pause_key)
                return; /* overtaken */
        e->power.rest_pending = false;
        e->power.rests = m->on;
        if (p)
                manager_kick(p->manager);
}

bool power_engines_rest(const struct power *p) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &p->manager->models.list) {
                const struct engine *e = engine_of(pos);

                if (e && (!e->power.rests || e->power.rest_pending))
                        return false;
        }
        return true;
}

/* ---- the test ---- */

static void test_due(struct power *p, struct engine *e) {
        e->power.test_due = true;
        e->power.test_pending = false;
        e->power.test_us = manager_now_us();
}

void power_engines_test(struct power *p) {
        power_engines_each(p, test_due);
        manager_kick(p->manager);
}

bool power_explains_loss(const struct power *p, const struct engine *e) {
        return p && (sleeper_explains_loss(&p->sleeper, manager_now_us()) || e->power.test_failed);
}

static void test_ends(struct power *p, struct engine *e) {
        e->power.test_due = e->power.test_pending = false;
        manager_model_changed(p->manager, e->model, false);
        model_kick(e->model);
        manager_kick(p->manager);
}

void power_take_tested(struct power *p, struct engine *e, const Spark__Engine__V1__Tested *m) {
        char why[256];

        if (!p || !e->power.test_pending || m->key != e->power.test_key)
                return;
        test_ends(p, e);
        if (!*m->error)
                return;
        e->power.test_failed = true;
        (void)snprintf(why, sizeof(why), "it failed its test after the machine's sleep (%.160s)", m->error);
        engine_replace(e, why);
}

bool power_engines_tested(struct power *p, uint64_t now_us) {
        struct list *pos, *tmp;
        bool tested = true;

        LIST_FOREACH(pos, tmp, &p->manager->models.list) {
                struct engine *e = engine_of(pos);

                if (!e || (!e->power.test_due && !e->power.test_pending))
                        continue;
                if (now_us - e->power.test_us < TEST_US) {
                        tested = false;
                        continue;
                }
                test_ends(p, e);
                e->power.test_failed = true;
                engine_replace(e, "it did not answer a test after the machine's sleep");
        }
        return tested;
}

/* ---- models ---- */

const char *power_model_state(const struct power *p, const struct model *model) {
        if (model->state != MODEL_READY || !(model->holds & MODEL_HOLD_SLEEP))
                return NULL;
        return p->sleeper.state == SLEEP_RESUMING ? "resuming" : "sleeping";
}
