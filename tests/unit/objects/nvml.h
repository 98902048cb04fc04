/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What test-cuda-nvml tells the stand-in for the driver's management library, object-nvml.so, and sees of it. */

#include <stdbool.h>

struct fake_event {
        unsigned long long type, data;
};

struct fake_nvml {
        bool no_events; /* none are known of this device */
        int dry;        /* what a wait returns when there is no event (more) */
        struct fake_event events[100];
        unsigned n_events, n_waits;
        int users, sets; /* now */
        int power_result; /* of the four below: 0, or why not */
        unsigned long long energy_mj, reasons;
        unsigned power_mw, temperature, n_asked;
        int clocks_result; /* of locking and unlocking: 0, or why not */
        unsigned highest_mhz, locked_min, locked_max; /* locked_max: 0 = not locked */
        unsigned n_locks, n_unlocks;
};

/* Of the object: found by dlsym(). */
__attribute__((visibility("default"))) extern struct fake_nvml fake_nvml;
