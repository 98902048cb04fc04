/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What was used, per day (UTC), user and model: requests, tokens of prompts and answers, refusals. Counted in memory and
 * written to disk every few seconds and at the end, by the disk's thread; read back at the start, so that what a user has
 * spent today is known over restarts. Where the disk fails, counting goes on in memory, within bounds, and writing is
 * tried again. Owned by the manager.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/macro.h"
#include "disk.h"
#include "usage-store.h"

enum {
        USAGE_E_BUSY = 3, /* enough questions are under way; continues usage-store.h's */
};

struct usage;
struct usage_query;

/* Counts from day `day` (days since 1970-01-01 UTC) on, and starts to read what was counted in it before. The disk must
 * live until usage_end() was called. 0 or -errno. */
int usage_new(struct usage **ret, struct disk *disk, const char *folder, int64_t day);
/* Hands what is not written yet to the disk, as the last thing. */
void usage_end(struct usage *u);
/* To be called when the disk has gone. */
struct usage *usage_free(struct usage *u);
DEFINE_CLEANUP(struct usage *, usage_free)

/* Once a second. */
void usage_tick(struct usage *u, uint64_t now_us, int64_t day);
/* Writes what is not on disk now, before the machine may go to sleep; to be called until true: it is, or cannot be. */
bool usage_sync(struct usage *u);
void usage_add(struct usage *u, uid_t uid, const char *model, const struct usage_counts *counts);
/* Tokens that were computed for the user today: of prompts without the cached ones, and of answers. */
uint64_t usage_today(const struct usage *u, uid_t uid);
/* All that was counted for the user today; the energy of the second that runs is not in it yet. */
struct usage_counts usage_spent(const struct usage *u, uid_t uid);
/* A sentence about why counts are not kept over a restart at the moment; NULL where they are. */
const char *usage_trouble(const struct usage *u);

/* Looks rows up: what is on disk, with what is not written yet. `answer` is called once, on the loop and not before this
 * has returned: rows [n], by day, uid and model, are its to read, not to keep; error is 0, USAGE_E_* or -errno (USAGE_E_STORE:
 * the rows are only those in memory). 0, USAGE_E_BUSY, or -ENOMEM. */
typedef void (*usage_answer)(void *userdata, int error, const struct usage_row *rows, size_t n);
int usage_ask(struct usage_query **ret, struct usage *u, const struct usage_question *question, usage_answer answer,
              void *userdata);
/* The answer is not wanted any more (or was given). */
struct usage_query *usage_query_free(struct usage_query *q);

/* Today, in days since 1970-01-01 UTC; milliseconds until it ends; "YYYY-MM-DD". */
int64_t usage_day_now(void);
uint32_t usage_ms_left_today(void);
void usage_day_format(int64_t day, char out[16]);
