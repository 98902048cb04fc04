/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The ledger: the machine's memory, what we have of it and what we may take. Truth is MemAvailable of /proc/meminfo, or what the
 * control groups that we are in leave us of it, less what is promised but not touched yet (an image being loaded, a KV
 * cache that fills with use). Nothing large is promised before memory_check() said that the floor holds. Owned by the
 * manager; what models hold is added up from them whenever somebody asks (memory-count.c), so that nothing can be
 * charged and forgotten.
 */

#include <stdbool.h>
#include <stdint.h>

#include "memory-cgroup.h"
#include "psi.h"

struct manager;

enum {
        MEMORY_E_FLOOR = 1, /* would take the machine below its floor */
};

struct memory {
        int meminfo_fd;  /* /proc/meminfo, kept open: no path lookup later, sandbox or not */
        struct memory_cgroup cgroup;
        int psi_fd;      /* /proc/pressure/memory; -1 = the kernel has none */
        bool cgroup_trouble; /* what is taken of a group's limit could not be read */
        uint64_t machine; /* bytes of memory of the machine, */
        uint64_t limit;  /* that a control group allows us and those with us; UINT64_MAX = no limit, */
        uint64_t total;  /* the lower of both */
        uint64_t configured; /* floor, UINT64_MAX = to be chosen */
        uint64_t floor;  /* kept free */
        uint64_t images; /* memfds of resident images, whole */
        uint64_t kv;     /* KV caches, as engines report them, or as promised to one that starts */
        uint64_t engine; /* engines' other memory */
        uint64_t untouched; /* of all that: promised, not taken from MemAvailable yet */
        uint64_t kv_used, kv_cached; /* of kv: held by running requests; the prefix cache */
        uint64_t kv_resident; /* of kv: that is in the host's memory, as far as engines say so */
        uint64_t touched; /* of images, kv and engine: that is in the host's memory */
        uint64_t device; /* devices' own memory */
        uint64_t control; /* this process, what it keeps for the next one, and its loaders; of that: */
        uint64_t users;  /* requests, journals and input of users, and their sessions' text */
        uint64_t given;  /* given back for somebody who has it now or will: not to be taken */
};

/* All that there is to say of it, at one moment; bytes. */
struct memory_report {
        uint64_t machine, machine_available; /* MemTotal, MemAvailable */
        uint64_t limit;        /* of a control group; 0 = none */
        uint64_t available;    /* to us: MemAvailable, or less where a limit leaves less */
        uint64_t floor;
        uint64_t headroom;     /* that may be promised */
        uint64_t missing;      /* to the floor: it has been gone below */
        uint64_t promised, given;
        uint64_t images, kv, kv_used, kv_cached, kv_resident, engine, control, users, device;
        uint64_t ours, others; /* of the machine's memory that is taken */
        bool psi_known;
        struct psi psi;        /* of the machine */
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
/* MemAvailable now, or what a control group leaves of it, in bytes; 0 where it cannot be read. */
uint64_t memory_available(const struct memory *m);
/* Takes over limits that were changed while we run: the floor is a share of them. */
void memory_look(struct memory *m);
/* MemAvailable alone. */
uint64_t memory_machine_available(const struct memory *m);
/* How far that is below the floor; 0 = it is not. */
uint64_t memory_missing(const struct memory *m);
/* What may be promised now without going below the floor. */
uint64_t memory_free_for_us(const struct memory *m);
/* 0, or MEMORY_E_FLOOR: taking `need` bytes would go below the floor. */
int memory_check(const struct memory *m, uint64_t need);
/* Finds "Name:   N kB" in a text such as /proc/meminfo or /proc/PID/status; false where it is not there. */
bool memory_parse_field(const char *text, const char *name, uint64_t *ret_bytes);
/* Anonymous memory that a process has touched; 0 where unknown. */
uint64_t memory_of_process(int pid);

/* memory-count.c: all that can be said, as of now. What models hold is brought up to date by models_count_memory(). */
void memory_report(struct manager *m, struct memory_report *ret);
