/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the files of power share. */

#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include "manager.h"
#include "power-energy.h"
#include "power-sysfs.h"
#include "power.h"

/* Somebody on the bus who is listened to. */
struct power_service {
        struct power *power;
        const struct power_service_info *info;
        bool there;
};

struct power_service_info {
        const char *name;
        /* Signals that are wanted from it, besides its coming and going. 0 or -errno. */
        int (*match)(struct power *p);
        void (*appeared)(struct power *p);
        void (*vanished)(struct power *p);
};

enum {
        POWER_SERVICE_LOGIND,
        POWER_SERVICE_UPOWER,
        POWER_SERVICE_PROFILES_OLD,
        POWER_SERVICE_PROFILES_NEW,
        POWER_SERVICES,
};

struct power_bus {
        sd_bus *bus;     /* NULL: not connected */
        bool lost;       /* to be closed in the next turn */
        bool complained;
        uint64_t retry_us;
        struct power_service services[POWER_SERVICES];
};

/* An inhibitor that forbids something while a person waits. */
struct power_block {
        struct power *power;
        int fd;
        bool asked, refused;
        uint64_t retry_us; /* refused: when it makes sense to ask again */
};

enum { POWER_BLOCK_SLEEP, POWER_BLOCK_IDLE, POWER_BLOCKS };

struct power {
        struct manager *manager;
        struct power_state state;
        struct list watchers;
        struct power_bus bus;
        /* logind */
        struct sleeper sleeper;
        sd_event_source *sleep_timer;
        int delay_fd;
        bool delay_asked, delay_refused;
        const char *awaited;         /* by the machine's sleep, when it was last looked */
        uint64_t delay_retry_us; /* refused: when it makes sense to ask again */
        struct power_block blocks[POWER_BLOCKS];
        /* supply */
        struct power_meter meter;
        struct power_reading reading; /* of whoever says it */
        bool upower, upower_battery; /* it has told of the supply; of a battery */
        uint64_t sysfs_us;
        const char *profile_of;      /* name on the bus of who said which profile it is; NULL = nobody */
        uint64_t hot_until_us;       /* 0 = not hot */
        bool parked;                 /* nothing is served: engines rest */
        bool clocks_left;            /* an engine that died had its device's clocks capped: the next one is to undo that */
        bool caps_stale;             /* what is in force is to be worked out again */
        bool clocks_said;            /* that they can't be capped was logged */
        /* energy */
        struct energy energy;
        struct rapl rapl;
        int64_t slept_us; /* of the machine, when the counter was read last */
        const struct engine *energy_engine; /* whose device's counter is read */
        uint64_t last_key; /* of what engines are asked */
};

static inline const struct config_power *power_config(const struct power *p) {
        return &p->manager->config->power;
}

/* ---- power.c ---- */
/* The reading or the configuration changed: works out what is in effect. */
void power_update(struct power *p, uint64_t now_us);
/* Tells whoever watches. */
void power_changed(struct power *p);
/* Lets requests and models that waited be looked at again. */
void power_kick_all(struct power *p);

/* ---- power-engines.c ---- */
/* Brings what engines are told in line with what is wanted. */
void power_engines_turn(struct power *p);
/* True when every engine that serves rests. */
bool power_engines_rest(const struct power *p);
/* Each engine that serves is to compute a token before it goes on. */
void power_engines_test(struct power *p);
/* True when none is left to be tested; one that does not answer is replaced. */
bool power_engines_tested(struct power *p, uint64_t now_us);

/* For power-caps.c. Engines that serve, one after the other. */
typedef void (*power_engine_fn)(struct power *p, struct engine *e);
void power_engines_each(struct power *p, power_engine_fn fn);

/* ---- power-caps.c ---- */
/* Brings what an engine is told in line with what is wanted. */
void power_caps_turn(struct power *p, struct engine *e);
/* Works out what is in force: engines have answered, come or gone, or something else is wanted. */
void power_caps_update(struct power *p);
void power_caps_engine_gone(struct power *p, const struct engine *e);

/* ---- power-bus.c ---- */
/* Begins to connect where the configuration wants a bus. */
void power_bus_connect(struct power *p);
void power_bus_disconnect(struct power *p);
void power_bus_turn(struct power *p);
void power_bus_tick(struct power *p, uint64_t now_us);
/* Asks for all properties of an interface; nobody is started for that. 0 or -errno. */
int power_bus_get_all(struct power *p, const char *name, const char *path, const char *interface,
                      sd_bus_message_handler_t answer);
/* A call of a service that is there. 0 or -errno. */
int power_bus_new_call(struct power *p, const char *name, const char *path, const char *interface, const char *method,
                       sd_bus_message **ret);
/* Calls fn for each entry of an a{sv} that is next in the message, with the message at the variant's contents; fn leaves it
 * behind them, or returns 0 to have it skipped. 0 or -errno. */
int power_bus_read_properties(sd_bus_message *m, int (*fn)(struct power *p, const char *name, sd_bus_message *m),
                              struct power *p);

/* ---- power-logind.c ---- */
extern const struct power_service_info power_logind;
int power_logind_init(struct power *p);
void power_logind_deinit(struct power *p);
/* Once a second, and when the supply's level is another one: who keeps the machine awake, and what was refused. */
void power_logind_tick(struct power *p);
void power_logind_configure(struct power *p);

/* ---- power-supply.c ---- */
extern const struct power_service_info power_upower, power_profiles_old, power_profiles_new;
void power_supply_tick(struct power *p, uint64_t now_us);

/* ---- power-meter.c ---- */
void power_meter_tick(struct power *p, uint64_t now_us);
/* How long the machine has slept since it was started. */
int64_t power_slept_us(void);
/* What was computed until now is charged. */
void power_settle(struct power *p);
/* For energy_init(): to the usage ledger. */
void power_spend(void *userdata, uid_t uid, const char *model, uint64_t uj, uint64_t tokens);
/* Something counts energy. */
bool power_has_meter(const struct power *p);
