/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Power in a manager that was never run: which engine's counter is believed, whose tokens it is about, heat and what it holds
 * back, what engines are told and what becomes of their answers.
 */

#include "request-fixture.h"

#include "daemon/control/model/engine.h"
#include "daemon/control/power/power-private.h"

#define UID 4711

struct engines {
        struct engine of[2]; /* of the first two models */
        int far[2];          /* where nobody reads what they are told */
};

static struct model *model_at(const struct fixture *f, size_t i) {
        struct list *node = f->m->models.list.next;

        while (i-- > 0)
                node = node->next;
        return LIST_ENTRY(node, struct model, link);
}

/* Engines without processes. */
static void engines_begin(struct fixture *f, struct engines *e) {
        static const struct channel_limits limits = { CHANNEL_FRAME_MAX_PRIVATE, 64, 1 << 20, 0 };

        for (size_t i = 0; i < 2; i++) {
                int pair[2];

                e->of[i] = (struct engine){ .manager = f->m, .model = model_at(f, i), .state = ENGINE_READY, .pidfd = -1 };
                list_init(&e->of[i].commands);
                list_init(&e->of[i].dirty_link);
                assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
                assert_int_equal(channel_init(&e->of[i].channel, pair[0], &limits), 0);
                e->far[i] = pair[1];
                e->of[i].model->engine = &e->of[i];
                e->of[i].model->state = MODEL_READY;
        }
}

static void engines_end(struct fixture *f, struct engines *e) {
        for (size_t i = 0; i < 2; i++) {
                list_remove(&e->of[i].dirty_link);
                channel_deinit(&e->of[i].channel);
                assert_int_equal(close(e->far[i]), 0);
                e->of[i].model->engine = NULL;
                e->of[i].model->state = MODEL_AVAILABLE;
                e->of[i].model->load_wanted = false;
        }
}

static void say(struct fixture *f, struct engine *e, bool known, uint64_t uj) {
        Spark__Engine__V1__State s = SPARK__ENGINE__V1__STATE__INIT;

        s.energy_known = known;
        s.energy_uj = uj;
        s.power_known = known;
        s.power_mw = 12500;
        power_take_state(f->m->power, e, &s);
}

static void test_counters(void **state) {
        struct fixture *f = *state;
        struct power *p = f->m->power;
        struct engines e;

        engines_begin(f, &e);
        assert_string_equal(power_energy(p).source, "unknown");
        say(f, &e.of[0], false, 0);
        assert_string_equal(power_energy(p).source, "unknown");
        say(f, &e.of[0], true, 1000000);
        assert_string_equal(power_energy(p).source, "nvml");
        assert_float_equal(power_energy(p).watts, 12.5, 1e-3);
        power_note_tokens(p, e.of[0].model, UID, 10);
        power_note_tokens(p, e.of[1].model, UID, 10); /* its engine counts nothing */
        say(f, &e.of[0], true, 6000000);
        assert_int_equal(usage_spent(f->m->usage, UID).energy_uj, 5000000);
        assert_int_equal(usage_spent(f->m->usage, UID).energy_tokens, 10);
        assert_int_equal(usage_spent(f->m->usage, UID).battery_tokens, 0);
        assert_int_equal(power_energy(p).tokens, 10);
        assert_float_equal(power_energy(p).joules_per_token, 0.5, 1e-6);
        say(f, &e.of[1], true, 1); /* the same device, or another one: only one is believed */
        power_note_tokens(p, e.of[1].model, UID, 10);
        say(f, &e.of[1], true, 999999999);
        assert_int_equal(power_energy(p).uj, 5000000);
        say(f, &e.of[0], true, 9000000);
        assert_int_equal(power_energy(p).uj, 8000000);
        power_engine_gone(p, &e.of[0]); /* the other one takes over, from where it stands */
        say(f, &e.of[1], true, 50);
        power_note_tokens(p, e.of[1].model, UID, 10);
        say(f, &e.of[1], true, 1000050);
        assert_int_equal(power_energy(p).uj, 9000000);
        power_engine_gone(p, &e.of[1]);
        assert_string_equal(power_energy(p).source, "unknown");
        engines_end(f, &e);
}

/* On battery both are counted apart, whether there is a counter or not; joules as of when they are known. */
static void test_battery(void **state) {
        struct fixture *f = *state;
        struct power *p = f->m->power;
        struct usage_counts spent;
        struct engines e;

        engines_begin(f, &e);
        say(f, &e.of[0], true, 1000000);
        power_note_tokens(p, e.of[0].model, UID, 10);
        say(f, &e.of[0], true, 6000000);
        p->reading = (struct power_reading){ .on_battery = true, .has_battery = true, .percent = 60 };
        power_update(p, manager_now_us());
        power_note_tokens(p, e.of[0].model, UID, 10);
        power_note_tokens(p, e.of[1].model, UID, 3); /* its engine counts nothing */
        say(f, &e.of[0], true, 8000000);
        spent = usage_spent(f->m->usage, UID);
        assert_int_equal(spent.energy_uj, 7000000);
        assert_int_equal(spent.energy_tokens, 20);
        assert_int_equal(spent.battery_uj, 2000000);
        assert_int_equal(spent.battery_tokens, 13);
        assert_int_equal(usage_today(f->m->usage, UID), 0); /* which the requests count */
        engines_end(f, &e);
}

/* The machine slept, whoever knew of it: the counter has gone on meanwhile, or has begun anew, and no user did that. */
static void test_slept(void **state) {
        struct fixture *f = *state;
        struct power *p = f->m->power;
        struct engines e;

        engines_begin(f, &e);
        say(f, &e.of[0], true, 1000000);
        power_note_tokens(p, e.of[0].model, UID, 10);
        say(f, &e.of[0], true, 6000000);
        power_note_tokens(p, e.of[0].model, UID, 10);
        p->slept_us -= 8ll * 3600 * 1000000;
        say(f, &e.of[0], true, 40000000000ull);
        assert_int_equal(usage_spent(f->m->usage, UID).energy_uj, 10000000); /* as much as before */
        assert_int_equal(power_energy(p).uj, 5000000);                       /* measured */
        power_note_tokens(p, e.of[0].model, UID, 10);
        say(f, &e.of[0], true, 40005000000ull); /* the next interval is one again */
        assert_int_equal(power_energy(p).uj, 10000000);
        p->slept_us -= 3 * 1000000;
        say(f, &e.of[0], true, 5);
        power_note_tokens(p, e.of[0].model, UID, 10);
        say(f, &e.of[0], true, 5000005);
        assert_int_equal(power_energy(p).uj, 15000000);
        engines_end(f, &e);
}

static void test_heat(void **state) {
        struct fixture *f = *state;
        struct power *p = f->m->power;
        Spark__Engine__V1__State s = SPARK__ENGINE__V1__STATE__INIT;
        struct engines e;
        struct heard heard = { 0 };
        struct request *r;

        engines_begin(f, &e);
        f->m->config->power.when_hot = SPARK__V1__PRIORITY__INTERACTIVE;
        r = submit_generate(f, 10, &heard);
        assert_non_null(r);
        assert_false(power_keeps_waiting(p, r));
        s.throttled = s.temperature_known = true;
        s.temperature_c = 91;
        power_take_state(p, &e.of[0], &s);
        power_tick(p, manager_now_us());
        assert_true(power_state(p)->throttled);
        assert_true(power_state(p)->temperature_known && power_state(p)->temperature_of_device);
        assert_int_equal(power_state(p)->temperature_c, 91);
        assert_int_equal(power_state(p)->serves, SPARK__V1__PRIORITY__INTERACTIVE);
        assert_true(power_keeps_waiting(p, r));
        s.throttled = false; /* it is cool again, but was hot just now */
        power_take_state(p, &e.of[0], &s);
        assert_true(power_keeps_waiting(p, r));
        power_update(p, manager_now_us() + POWER_HOT_US + 1000000);
        assert_false(power_state(p)->throttled);
        assert_false(power_keeps_waiting(p, r));
        request_detach(r);
        engines_end(f, &e);
}

static void paused(struct power *p, struct engine *e, uint64_t key, bool on) {
        Spark__Engine__V1__Paused m = SPARK__ENGINE__V1__PAUSED__INIT;

        m.key = key;
        m.on = on;
        power_take_paused(p, e, &m);
}

static void tested(struct power *p, struct engine *e, uint64_t key) {
        Spark__Engine__V1__Tested m = SPARK__ENGINE__V1__TESTED__INIT;

        m.key = key;
        m.error = (char *)"";
        power_take_tested(p, e, &m);
}

static void test_rest(void **state) {
        struct fixture *f = *state;
        struct power *p = f->m->power;
        struct engines e;
        uint64_t first;

        engines_begin(f, &e);
        e.of[1].state = ENGINE_STARTING; /* nobody rests or is tested who does not serve yet */
        p->sleeper.state = SLEEP_PREPARING;
        power_engines_turn(p);
        assert_true(e.of[0].model->holds & MODEL_HOLD_SLEEP);
        assert_string_equal(power_model_state(p, e.of[0].model), "sleeping");
        assert_true(e.of[0].power.rests_wanted && e.of[0].power.rest_pending);
        assert_false(e.of[1].power.rests_wanted);
        first = e.of[0].power.pause_key;
        power_engines_turn(p); /* is told once */
        assert_int_equal(e.of[0].power.pause_key, first);
        assert_false(power_engines_rest(p));
        paused(p, &e.of[0], first + 7, true); /* not what it was asked */
        assert_false(power_engines_rest(p));
        paused(p, &e.of[0], first, true);
        assert_true(power_engines_rest(p));
        e.of[1].state = ENGINE_READY; /* one that comes meanwhile rests, too */
        power_engines_turn(p);
        assert_false(power_engines_rest(p));
        paused(p, &e.of[1], e.of[1].power.pause_key, true);

        p->sleeper.state = SLEEP_RESUMING;
        power_engines_test(p);
        power_engines_turn(p);
        assert_string_equal(power_model_state(p, e.of[0].model), "resuming");
        assert_false(power_engines_tested(p, manager_now_us()));
        tested(p, &e.of[0], e.of[0].power.test_key);
        tested(p, &e.of[1], 1u << 30);
        power_engines_turn(p);
        assert_false(e.of[0].model->holds & MODEL_HOLD_SLEEP); /* each goes on when it was tested */
        assert_true(e.of[1].model->holds & MODEL_HOLD_SLEEP);
        assert_false(e.of[0].power.rests_wanted);
        assert_true(e.of[1].power.rests_wanted);
        tested(p, &e.of[1], e.of[1].power.test_key);
        assert_true(power_engines_tested(p, manager_now_us()));
        p->sleeper.state = SLEEP_AWAKE;
        power_engines_turn(p);
        assert_null(power_model_state(p, e.of[1].model));
        engines_end(f, &e);
}

static void capped(struct power *p, struct engine *e, uint32_t batch, uint32_t threads, Spark__Engine__V1__Clocks clocks) {
        Spark__Engine__V1__Capped m = SPARK__ENGINE__V1__CAPPED__INIT;

        m.key = e->power.caps_key;
        m.batch = batch;
        m.threads = threads;
        m.clocks = clocks;
        power_take_capped(p, e, &m);
}

static void assert_caps(const struct power *p, const char *in_force, const char *by, const char *refused) {
        assert_string_equal(power_state(p)->in_force, in_force);
        assert_string_equal(power_state(p)->clocks_by, by);
        assert_string_equal(power_state(p)->refused, refused);
}

#define FREE SPARK__ENGINE__V1__CLOCKS__CLOCKS_FREE
#define UCLAMP SPARK__ENGINE__V1__CLOCKS__CLOCKS_UCLAMP
#define NVML SPARK__ENGINE__V1__CLOCKS__CLOCKS_NVML
#define UNSUPPORTED SPARK__ENGINE__V1__CLOCKS__CLOCKS_UNSUPPORTED
#define FORBIDDEN SPARK__ENGINE__V1__CLOCKS__CLOCKS_FORBIDDEN

static void set_supply(struct fixture *f, double percent) {
        f->m->power->reading = (struct power_reading){ .on_battery = true, .has_battery = true, .percent = percent };
        power_update(f->m->power, manager_now_us());
        power_engines_turn(f->m->power);
}

/* Told once, told the new ones at once, told again to who comes later; in force is what all have said. */
static void test_caps(void **state) {
        struct fixture *f = *state;
        struct power *p = f->m->power;
        struct engines e;
        uint64_t first;

        engines_begin(f, &e);
        e.of[1].state = ENGINE_STARTING;
        power_engines_turn(p);
        assert_int_equal(e.of[0].power.caps_key, 0); /* mains: nothing to tell */
        f->m->config->power.caps[CONFIG_CAPS_BATTERY] = (struct config_caps){ 16, 2, 70 };
        set_supply(f, 50);
        assert_int_equal(power_state(p)->caps.batch, 16);
        first = e.of[0].power.caps_key;
        assert_int_not_equal(first, 0);
        assert_caps(p, "", "", "");
        power_engines_turn(p);
        assert_int_equal(e.of[0].power.caps_key, first);
        capped(p, &e.of[0], 16, 2, UCLAMP);
        assert_caps(p, "batch threads clocks", "uclamp", "");
        e.of[1].state = ENGINE_READY; /* one that comes is told, too, and has not answered yet */
        power_engines_turn(p);
        assert_caps(p, "", "", "");
        capped(p, &e.of[1], 16, 1, UNSUPPORTED);
        assert_caps(p, "batch threads", "", "clocks: unsupported");
        assert_non_null(power_note(p, 0));
        set_supply(f, 10); /* the lower level's are others, and count at once */
        assert_int_equal(power_state(p)->caps.batch, 32);
        assert_caps(p, "", "", "");
        capped(p, &e.of[0], 32, 2, FREE);
        capped(p, &e.of[1], 32, 0, FREE);
        assert_caps(p, "batch", "", "");
        engines_end(f, &e);
}

static void test_caps_refused(void **state) {
        struct fixture *f = *state;
        struct power *p = f->m->power;
        struct engines e;
        Spark__Engine__V1__Capped late = SPARK__ENGINE__V1__CAPPED__INIT;

        engines_begin(f, &e);
        e.of[1].state = ENGINE_STARTING;
        f->m->config->power.caps[CONFIG_CAPS_BATTERY] = (struct config_caps){ 16, 2, 70 };
        set_supply(f, 50);
        late.key = e.of[0].power.caps_key - 1; /* not what it was asked */
        late.batch = 16;
        power_take_capped(p, &e.of[0], &late);
        assert_caps(p, "", "", "");
        capped(p, &e.of[0], 16, 0, FORBIDDEN);
        assert_caps(p, "batch", "", "threads: unsupported, clocks: not permitted");
        f->m->config->power.caps[CONFIG_CAPS_BATTERY] = (struct config_caps){ 0 };
        set_supply(f, 50);
        capped(p, &e.of[0], 512, 0, FREE);
        assert_caps(p, "", "", "");
        engines_end(f, &e);
}

/* A device's clocks outlive who capped them: whoever is on it is told once more, and to undo it where it was not done. */
static void test_caps_of_the_dead(void **state) {
        struct fixture *f = *state;
        struct power *p = f->m->power;
        struct engines e;
        uint64_t before;

        engines_begin(f, &e);
        f->m->config->power.caps[CONFIG_CAPS_BATTERY].clocks = 70;
        set_supply(f, 50);
        capped(p, &e.of[0], 128, 0, NVML);
        capped(p, &e.of[1], 128, 0, NVML);
        assert_caps(p, "batch clocks", "nvml", "");
        before = e.of[1].power.caps_key;
        e.of[0].state = ENGINE_ENDING;
        e.of[0].power.ended_well = true;
        power_engine_gone(p, &e.of[0]);
        assert_false(p->clocks_left);
        power_engines_turn(p);
        assert_int_not_equal(e.of[1].power.caps_key, before); /* the other one had given them free */
        before = e.of[1].power.caps_key;
        capped(p, &e.of[1], 128, 0, NVML);
        power_engines_turn(p);
        assert_int_equal(e.of[1].power.caps_key, before);
        e.of[1].state = ENGINE_ENDING; /* killed */
        power_engine_gone(p, &e.of[1]);
        assert_true(p->clocks_left);
        power_engines_turn(p);
        assert_true(p->clocks_left); /* nobody is there to do it */
        assert_caps(p, "", "", "");
        e.of[0].state = ENGINE_READY;
        e.of[0].power = (struct power_engine){ 0 };
        power_engines_turn(p);
        assert_false(p->clocks_left);
        engines_end(f, &e);
}

static unsigned told;

static void on_changed(void *userdata, const struct power_state *s) {
        told++;
        assert_ptr_equal(userdata, s);
}

static void test_watchers(void **state) {
        struct fixture *f = *state;
        struct power *p = f->m->power;
        struct power_watcher w = { .changed = on_changed, .userdata = &p->state };
        struct engines e;

        power_watch(p, &w);
        told = 0;
        p->reading = (struct power_reading){ .has_battery = true, .percent = 50 };
        power_update(p, manager_now_us());
        assert_int_equal(told, 1); /* a battery, beside mains */
        engines_begin(f, &e);
        told = 0;
        say(f, &e.of[0], true, 1000000);
        assert_int_equal(told, 1); /* another source of energy */
        say(f, &e.of[0], true, 2000000);
        assert_int_equal(told, 1);
        power_engine_gone(p, &e.of[0]);
        assert_int_equal(told, 2);
        engines_end(f, &e);
        told = 0;
        p->reading = (struct power_reading){ .on_battery = true, .has_battery = true, .percent = 50 };
        power_update(p, manager_now_us());
        assert_int_equal(told, 1);
        assert_int_equal(power_state(p)->level, POWER_BATTERY);
        power_update(p, manager_now_us());
        assert_int_equal(told, 1); /* nothing new */
        p->reading.percent = 12;
        power_update(p, manager_now_us());
        assert_int_equal(told, 2);
        list_remove(&w.link);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_counters, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_battery, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_slept, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_heat, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_rest, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_caps, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_caps_refused, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_caps_of_the_dead, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_watchers, set_up, tear_down),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
