/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the cages of our programs are made of. Those that look at strangers' bytes (loader, store, engine) shut themselves in
 * before they look; which calls each of them needs is said in its own sandbox.c.
 *
 * Two steps, because Landlock covers only threads that are made after it, and making them takes calls that are not allowed
 * afterwards: cage_enter_files(), then whatever has to be made (a ring, threads), then a list of calls for all threads.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <seccomp.h>

/* No new privileges, no core dumps, nobody traces it. 0 or -errno. */
int cage_lower(void);
/* That, and Landlock without any right. *ret_landlock: the kernel has it; it is no error where not. 0 or -errno. */
int cage_enter_files(bool *ret_landlock);
/* Soft and hard. 0 or -errno. */
int cage_limit(int resource, uint64_t value);

/* System calls that are allowed; all others fail with EPERM. */
struct cage {
        scmp_filter_ctx filter;
        int error; /* the first one: what follows does nothing */
};

void cage_init(struct cage *c);
void cage_allow(struct cage *c, const int *calls, size_t n);
/* Where an argument is as it should be; given several times, any of them will do. */
void cage_allow_with(struct cage *c, int call, struct scmp_arg_cmp compare);
/* Fails with this errno instead. */
void cage_refuse(struct cage *c, int call, int error);
/* What none of them can do without: memory, but no code; signals to itself, for abort(). */
void cage_allow_own(struct cage *c);
/* Takes hold of all threads and those they make, and frees the list. 0 or -errno, of whatever went wrong since cage_init(). */
int cage_enter(struct cage *c);
