/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Notices that memory gets short, and has it given back (shed.h) until it isn't any more. Two things are watched:
 *
 *   the floor     MemAvailable, or what a control group leaves, is looked at once a second, and ten times a second while it is
 *                 below the floor or falls towards it fast. What is missing is asked for at once, with a margin.
 *   stalls        the kernel (PSI) or the service manager ($MEMORY_PRESSURE_WATCH) says that somebody waits for memory. That
 *                 costs caches, then idle sessions' KV; when it goes on, KV pools. Weights go for the floor alone.
 *
 * When there was room above floor and margin for a while, what was given back is taken again; where pressure comes back soon
 * after that, the while is doubled. The manager's.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/macro.h"

struct manager;
struct pressure;

/* What has to be free above the floor before anything is taken again: an eighth of it, between 32 MiB and 1 GiB. */
uint64_t pressure_margin(uint64_t floor);

/* What is looked at before anything is taken again. Bytes. */
struct pressure_calm {
        uint64_t room;           /* above the floor */
        uint64_t margin;
        uint64_t given;          /* back, and may be taken again */
        uint64_t since_stall_us; /* somebody waited for memory */
        unsigned backoff;        /* 1, or more where memory got short soon after the last time */
};

/* So long there must be room; UINT64_MAX = it does not count yet. Where there is room for twice of what was given, taking it was not
 * what made memory short, and will not make it short: neither stalls nor the backoff count. */
uint64_t pressure_wait_us(uint64_t restore_us, const struct pressure_calm *c);

/* 0 or -errno. */
int pressure_new(struct pressure **ret, struct manager *m);
struct pressure *pressure_free(struct pressure *p);
DEFINE_CLEANUP(struct pressure *, pressure_free)
/* Listens to stalls: as the service manager wants it (the values of $MEMORY_PRESSURE_WATCH and $MEMORY_PRESSURE_WRITE, NULL = not
 * set), else at our control group, else at the whole machine. Where none can be had that is said in the log and in status. */
void pressure_listen(struct pressure *p, const char *watch, const char *write);
/* Once a second. */
void pressure_tick(struct pressure *p, uint64_t now_us);
/* Who tells of stalls: "service manager", "control group", "machine", "" = nobody */
const char *pressure_source(const struct pressure *p);
/* Why nobody does; NULL = somebody does, or nobody is to. */
const char *pressure_trouble(const struct pressure *p);
/* It is short at the moment. */
bool pressure_is_on(const struct pressure *p);
