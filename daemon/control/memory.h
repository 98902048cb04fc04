/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The machine's memory and what we may take of it. Truth is MemAvailable of /proc/meminfo less what is promised but not
 * touched yet (an image being loaded, a KV cache that fills with use). Nothing large is promised before memory_check()
 * said that the floor holds. Owned by the manager; the models report what they hold.
 */

#include <stdbool.h>
#include <stdint.h>

enum {
        MEMORY_E_FLOOR = 1, /* would take the machine below its floor */
};

struct memory {
        int meminfo_fd;  /* /proc/meminfo, kept open: no path lookup later, sandbox or not */
        uint64_t total;
        uint64_t floor;  /* kept free */
        uint64_t images; /* memfds of resident images, whole */
        uint64_t kv;     /* KV caches, as engines report them, or as promised to one that starts */
        uint64_t engine; /* engines' other memory */
        uint64_t untouched; /* of all that: promised, not taken from MemAvailable yet */
};

/* The floor for a machine with this much memory: max(6 GiB, 5 %), but never more than a quarter of it, so that small
 * machines can run small models. */
uint64_t memory_default_floor(uint64_t total);
/* The same where none is configured (UINT64_MAX), else what is. */
uint64_t memory_floor_of(uint64_t configured, uint64_t total);
/* floor: UINT64_MAX = memory_default_floor(). 0 or -errno. */
int memory_init(struct memory *m, uint64_t floor);
void memory_deinit(struct memory *m);
void memory_set_floor(struct memory *m, uint64_t floor);
/* MemAvailable now, in bytes; 0 where it cannot be read. */
uint64_t memory_available(const struct memory *m);
/* What may be promised now without going below the floor. */
uint64_t memory_free_for_us(const struct memory *m);
/* 0, or MEMORY_E_FLOOR: taking `need` bytes would go below the floor. */
int memory_check(const struct memory *m, uint64_t need);
/* Finds "Name:   N kB" in a text such as /proc/meminfo or /proc/PID/status; false where it is not there. */
bool memory_parse_field(const char *text, const char *name, uint64_t *ret_bytes);
/* Anonymous memory that a process has touched; 0 where unknown. */
uint64_t memory_of_process(int pid);
