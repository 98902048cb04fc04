/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the kernel says by itself of power supply, heat and the processor's energy: small files below /sys/class (kernel
 * documentation: Documentation/ABI/testing/sysfs-class-power, -class-thermal, -class-powercap). `root` is "/sys", or a folder
 * that looks like it. Everything here is read at once and does not block.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "power-policy.h"

#define RAPL_ZONES_MAX 16u

/* On battery: a battery discharges and nothing that supplies the machine is online. False where there is no supply at all: a
 * machine that says nothing of its supply. */
bool sysfs_read_supply(const char *root, struct power_reading *ret);
/* The hottest thermal zone. False where there is none. */
bool sysfs_read_temperature(const char *root, int32_t *ret_c);

/* A counter of the energy of all processor packages (powercap's "package-N" zones). */
struct rapl {
        struct rapl_zone {
                int fd;
                uint64_t max_uj, last_uj;
                bool read;
        } zones[RAPL_ZONES_MAX];
        size_t n;
        bool forbidden; /* there are such zones, and we may not read them */
        uint64_t uj;    /* since it was opened */
};

/* Finds and opens the zones. */
void rapl_open(struct rapl *r, const char *root);
void rapl_close(struct rapl *r);
/* Brings `uj` up to date; counters that wrapped are taken to have done so once. False where there is none to read. */
bool rapl_read(struct rapl *r);
