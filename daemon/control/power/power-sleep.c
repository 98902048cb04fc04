/* SPDX-License-Identifier: Apache-2.0 */

#include "base/macro.h"
#include "power-sleep.h"

const char *sleep_state_name(enum sleep_state state) {
        static const char *const names[] = {
                [SLEEP_AWAKE] = "awake", [SLEEP_PREPARING] = "preparing", [SLEEP_ASLEEP] = "asleep",
                [SLEEP_RESUMING] = "resuming",
        };

        return names[state];
}

void sleeper_init(struct sleeper *s, const struct sleep_ops *ops, void *userdata) {
        *s = (struct sleeper){ .ops = ops, .userdata = userdata, .limit_us = SLEEP_LIMIT_US };
}

void sleeper_hurry(struct sleeper *s, uint64_t patience_us) {
        uint64_t limit_us = patience_us - patience_us / 5; /* it is to be given back, not to be taken away */

        s->limit_us = MAX(MIN(limit_us, (uint64_t)SLEEP_LIMIT_US), (uint64_t)SLEEP_LIMIT_MIN_US);
}

static uint32_t sleeper_ms(const struct sleeper *s, uint64_t now_us) {
        return (uint32_t)((now_us - s->since_us) / 1000);
}

static void sleeper_enter(struct sleeper *s, enum sleep_state state, uint64_t now_us) {
        s->state = state;
        s->since_us = s->asked_us = now_us;
}

void sleeper_prepare(struct sleeper *s, uint64_t now_us) {
        if (s->state == SLEEP_PREPARING || s->state == SLEEP_ASLEEP)
                return; /* said twice */
        sleeper_enter(s, SLEEP_PREPARING, now_us);
        s->ops->park(s->userdata);
}

void sleeper_wake(struct sleeper *s, uint64_t now_us) {
        if (s->state == SLEEP_AWAKE || s->state == SLEEP_RESUMING)
                return;
        sleeper_enter(s, SLEEP_RESUMING, now_us);
        s->ops->wake(s->userdata);
}

static void step_preparing(struct sleeper *s, uint64_t now_us) {
        bool parked = s->ops->is_parked(s->userdata);

        if (!parked && now_us - s->since_us < s->limit_us)
                return;
        s->late = !parked;
        s->sleeps++;
        s->sleep_ms = sleeper_ms(s, now_us);
        sleeper_enter(s, SLEEP_ASLEEP, now_us);
        s->ops->release(s->userdata, parked);
}

static void step_asleep(struct sleeper *s, uint64_t now_us) {
        if (now_us - s->asked_us < SLEEP_DOUBT_US)
                return;
        s->asked_us = now_us;
        s->ops->ask(s->userdata);
}

static void step_resuming(struct sleeper *s, uint64_t now_us) {
        if (!s->ops->is_awake(s->userdata))
                return;
        s->resume_ms = sleeper_ms(s, now_us);
        sleeper_enter(s, SLEEP_AWAKE, now_us);
        s->ops->go_on(s->userdata);
}

bool sleeper_step(struct sleeper *s, uint64_t now_us) {
        switch (s->state) {
        case SLEEP_PREPARING:
                step_preparing(s, now_us);
                break;
        case SLEEP_ASLEEP:
                step_asleep(s, now_us);
                break;
        case SLEEP_RESUMING:
                step_resuming(s, now_us);
                break;
        case SLEEP_AWAKE:
                break;
        }
        return s->state == SLEEP_PREPARING || s->state == SLEEP_RESUMING;
}

bool sleeper_explains_loss(const struct sleeper *s, uint64_t now_us) {
        return s->state != SLEEP_AWAKE || (s->sleeps > 0 && now_us - s->since_us < SLEEP_NOTICED_US);
}
