/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How the service goes to sleep with the machine and wakes with it: a state machine that is told what happens and what time it
 * is, and does everything by way of its operations. Embedded in struct power.
 *
 *   AWAKE -> PREPARING (sleep was announced: nothing new is begun, what runs is parked, what is to be kept is written)
 *   PREPARING -> ASLEEP (all that is done, or limit_us are over: the inhibitor is given back)
 *   PREPARING, ASLEEP -> RESUMING (the machine is awake: the inhibitor is taken again, engines are tested)
 *   RESUMING -> AWAKE (each engine is in order or being replaced)
 *
 * Times are CLOCK_MONOTONIC, which stands still while the machine sleeps.
 */

#include <stdbool.h>
#include <stdint.h>

/* From the announcement: the inhibitor is given back by then, whatever hangs. Below the 3 s that are promised, and the 5 s that
 * logind waits where it is not told otherwise. */
#define SLEEP_LIMIT_US (2500u * 1000u)
#define SLEEP_LIMIT_MIN_US (100u * 1000u)
/* The machine was to sleep and is awake for so long, and nobody said anything: find out. */
#define SLEEP_DOUBT_US (60u * 1000000u)
#define SLEEP_NOTICED_US (1u * 1000000u) /* a process that has ended in its sleep is one that ended after so long at most */

enum sleep_state { SLEEP_AWAKE, SLEEP_PREPARING, SLEEP_ASLEEP, SLEEP_RESUMING };

struct sleep_ops {
        void (*park)(void *userdata);      /* begins all that is to be done before sleep */
        bool (*is_parked)(void *userdata); /* it is done */
        void (*release)(void *userdata, bool in_time); /* gives the inhibitor back */
        void (*wake)(void *userdata);      /* takes the inhibitor again, begins to test the engines */
        bool (*is_awake)(void *userdata);  /* that is done */
        void (*go_on)(void *userdata);     /* everything is as before */
        void (*ask)(void *userdata);       /* whether the machine is about to sleep still; sleeper_wake() where it is not */
};

struct sleeper {
        enum sleep_state state;
        const struct sleep_ops *ops;
        void *userdata;
        uint64_t limit_us;  /* SLEEP_LIMIT_US, or less */
        uint64_t since_us;  /* of the state */
        uint64_t asked_us;
        uint32_t sleeps, sleep_ms, resume_ms; /* how often; how long the last ones took */
        bool late;          /* the last time it was not all done in time */
};

void sleeper_init(struct sleeper *s, const struct sleep_ops *ops, void *userdata);
/* The machine waits for an inhibitor no longer than this (InhibitDelayMaxSec= of logind.conf(5)). */
void sleeper_hurry(struct sleeper *s, uint64_t patience_us);
/* Sleep is announced. */
void sleeper_prepare(struct sleeper *s, uint64_t now_us);
/* The machine is awake, or stays so. */
void sleeper_wake(struct sleeper *s, uint64_t now_us);
/* Moves on where that is possible. True while it wants to be called again soon. */
bool sleeper_step(struct sleeper *s, uint64_t now_us);
/* What is lost now is lost with the sleep: during it, or so soon after that it may only have been noticed then. */
bool sleeper_explains_loss(const struct sleeper *s, uint64_t now_us);
/* "awake", "preparing", "asleep", "resuming" */
const char *sleep_state_name(enum sleep_state state);
