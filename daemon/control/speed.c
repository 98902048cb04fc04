/* SPDX-License-Identifier: Apache-2.0 */

#include "base/macro.h"

#include "speed.h"

/* i reports ago. */
static unsigned at(const struct speed *s, unsigned i) {
        return (s->pos + SPEED_REPORTS - 1 - i) % SPEED_REPORTS;
}

void speed_add(struct speed *s, uint64_t now_us, uint64_t done) {
        if (s->n > 0 && (done < s->done[at(s, 0)] || now_us < s->us[at(s, 0)]))
                s->n = 0;
        s->us[s->pos] = now_us;
        s->done[s->pos] = done;
        s->pos = (s->pos + 1) % SPEED_REPORTS;
        s->n = MIN(s->n + 1, SPEED_REPORTS);
}

uint64_t speed_per_second(const struct speed *s) {
        unsigned last = at(s, 0), first = last;
        uint64_t us;

        for (unsigned i = 1; i < s->n && s->us[last] - s->us[at(s, i)] <= SPEED_WINDOW_US; i++)
                first = at(s, i);
        us = s->us[last] - s->us[first];
        if (us < SPEED_LEAST_US)
                return 0;
        return (uint64_t)((double)(s->done[last] - s->done[first]) * 1e6 / (double)us);
}

uint64_t speed_left_ms(const struct speed *s, uint64_t total) {
        uint64_t speed = speed_per_second(s), done = s->n > 0 ? s->done[at(s, 0)] : 0;
        double ms;

        if (speed == 0 || done >= total)
                return 0;
        ms = (double)(total - done) * 1000 / (double)speed;
        return ms < 1e15 ? MAX((uint64_t)ms, (uint64_t)1) : (uint64_t)1e15;
}
