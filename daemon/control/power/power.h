/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Power supply, sleep, heat and energy, as the rest of control sees them; docs/power.md says what that is good for. Owned
 * by the manager. Nobody who can tell (no bus, no logind, no UPower, no battery) is never an error: the machine counts as one
 * that stands on mains and does not sleep, and status says so.
 *
 * power.c: what is in effect, for requests and for others. power-policy.c: what it means (pure). power-sleep.c: going to
 * sleep and waking (pure). power-engines.c: engines that rest or are tested. power-caps.c: what they do
 * without. power-bus.c: the connection to the bus, and on it
 * power-logind.c and power-supply.c. power-sysfs.c: the kernel's files. power-energy.c: joules and tokens.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "engine.pb-c.h"
#include "power-policy.h"
#include "power-sleep.h"

struct engine;
struct manager;
struct model;
struct power;
struct request;
struct request_error;
struct user;

enum power_source { POWER_SOURCE_NONE, POWER_SOURCE_UPOWER, POWER_SOURCE_SYSFS };
enum power_inhibitor { INHIBITOR_OFF, INHIBITOR_ABSENT, INHIBITOR_REFUSED, INHIBITOR_RELEASED, INHIBITOR_HELD };
enum power_awake { AWAKE_NOTHING, AWAKE_IDLE, AWAKE_SLEEP, AWAKE_SLEEP_IDLE };

/* What is in effect. Strings live as long as the struct power. */
struct power_state {
        enum power_level level;
        enum power_source source;
        bool has_battery, saver, throttled;
        float percent;
        char profile[32]; /* "" = not known */
        uint32_t serves;  /* the lowest priority, or CONFIG_SERVES_NONE */
        struct power_caps caps;    /* wanted */
        char in_force[24];         /* of them, by what engines say: "batch threads clocks"; "" = nothing, or there is no engine */
        const char *clocks_by;     /* "uclamp", "nvml", "" */
        const char *refused;       /* "threads: unsupported, clocks: not permitted"; "" = nothing */
        bool temperature_known, temperature_of_device;
        int32_t temperature_c;
        enum sleep_state sleep;
        enum power_inhibitor inhibitor;
        enum power_awake awake; /* what a person's request holds up */
        uint32_t sleeps, sleep_ms, resume_ms;
};

/* Called when something of the state changed but figures (percent, temperature). */
struct power_watcher {
        struct list link;
        void (*changed)(void *userdata, const struct power_state *state);
        void *userdata;
};

/* 0 or -errno. */
int power_new(struct power **ret, struct manager *m);
/* Charges what was computed until now: before the usage ledger is written for the last time. */
struct power *power_free(struct power *p);
void power_turn(struct power *p);
void power_tick(struct power *p, uint64_t now_us);
/* Something is under way that counts in seconds. */
bool power_is_busy(const struct power *p);
/* There is a new configuration. */
void power_configure(struct power *p);

const struct power_state *power_state(const struct power *p);
void power_watch(struct power *p, struct power_watcher *w);
const char *power_source_name(enum power_source source);
const char *power_inhibitor_name(enum power_inhibitor inhibitor);
const char *power_awake_name(enum power_awake awake);
/* Sentences for a person: what is not there, or was refused. The i-th, NULL behind the last one. */
const char *power_note(const struct power *p, size_t i);

/* ---- for requests; a NULL power serves everybody ---- */

/* Whether such a request is taken now. 0, or REQUEST_E_REFUSED with *error filled. */
int power_admit(const struct power *p, const struct user *user, Spark__V1__Priority priority, struct request_error *error);
/* True where it is not to go to an engine, or to get further tokens, at the moment. */
bool power_keeps_waiting(const struct power *p, const struct request *r);
/* What the model's state is called while sleep holds it back; NULL where it does not. */
const char *power_model_state(const struct power *p, const struct model *model);
/* An engine is about to be given work: from here on its energy is somebody's. */
void power_note_work(struct power *p);
/* So many tokens were computed for the user by the model's engine. */
void power_note_tokens(struct power *p, const struct model *model, uid_t uid, uint64_t tokens);

/* ---- for engines ---- */

/* What control asked of an engine. Zero-initialised: nothing; embedded in struct engine. */
struct power_engine {
        bool rests_wanted, rest_pending; /* as it was told last; that was not answered yet */
        bool rests;                      /* as it said */
        bool test_due, test_pending, test_failed;
        uint64_t pause_key, test_key, test_us;
        bool throttled, temperature_known, energy_known, watts_known;
        int32_t temperature_c;
        uint32_t power_mw;
        struct power_caps caps; /* as it was told last */
        bool caps_pending, caps_again; /* that was not answered yet; it is to be told once more */
        bool ended_well;        /* its process gave back what it had of its device */
        uint64_t caps_key;
        struct power_capped {
                uint32_t batch, threads;
                Spark__Engine__V1__Clocks clocks;
        } capped; /* as it said */
};

void power_take_paused(struct power *p, struct engine *e, const Spark__Engine__V1__Paused *m);
void power_take_tested(struct power *p, struct engine *e, const Spark__Engine__V1__Tested *m);
void power_take_capped(struct power *p, struct engine *e, const Spark__Engine__V1__Capped *m);
void power_take_state(struct power *p, struct engine *e, const Spark__Engine__V1__State *s);
/* It was lost with the machine's sleep, which is no fault of what it ran. */
bool power_explains_loss(const struct power *p, const struct engine *e);
/* Before it goes. */
void power_engine_gone(struct power *p, const struct engine *e);

/* ---- energy ---- */

struct power_energy {
        const char *source; /* "nvml", "rapl", "unknown" */
        uint64_t uj, tokens; /* since the start */
        float joules_per_token; /* over the last minute of work; 0 = not measured */
        bool watts_known;
        float watts;
};
struct power_energy power_energy(const struct power *p);
