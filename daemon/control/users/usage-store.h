/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The usage ledger on disk: state_dir/usage.db, an SQLite database in WAL mode with one row per day, uid and model. For
 * the disk's thread: everything here may block. Opened with the first use and again after a fault; a damaged database is
 * moved aside under a name with the time in it, and a new one begun.
 *
 * Schema version 1 (PRAGMA user_version): usage(day, uid, model, requests, prompt, cached, completion, refused), day
 * counted from 1970-01-01 UTC. A database of a later version is left alone and not written to. Within a version there are
 * revisions, in the table `revision` (none: 1), which only add columns that have a default, so that a database goes through
 * the hands of older and newer daemons of the same version, and each keeps what it does not know as it is. Revision 2:
 * energy_uj, energy_tokens (that it was measured for), battery_uj (of it, on battery), battery_tokens (all of them).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macro.h"
#include "config/config.h"

#define USAGE_DAYS_MAX 400u /* kept */
#define USAGE_ROWS_MAX 32768u /* that one question may give */

enum {
        USAGE_E_STORE = 1,    /* it can't be read or written now: see usage_store_error() */
        USAGE_E_TOO_MANY = 2, /* the question would give more than USAGE_ROWS_MAX rows */
};

struct usage_counts {
        uint64_t requests, prompt, cached, completion, refused;
        uint64_t energy_uj, energy_tokens;   /* measured, and the tokens that it was measured for */
        uint64_t battery_uj, battery_tokens; /* on battery; battery_tokens: measured or not */
};

struct usage_row {
        int64_t day;
        uint32_t uid;
        char model[CONFIG_MODEL_NAME_MAX + 1]; /* "" = none in particular */
        struct usage_counts counts;
};

/* Days from `first` to `last`, of one uid or of all. */
struct usage_question {
        int64_t first, last;
        bool all_users;
        uint32_t uid;
};

struct usage_store;

/* Opens nothing yet. NULL without memory. */
struct usage_store *usage_store_new(const char *folder);
struct usage_store *usage_store_free(struct usage_store *s);
DEFINE_CLEANUP(struct usage_store *, usage_store_free)
/* Adds counts to what is there, all of them or none. 0 or USAGE_E_STORE. */
int usage_store_add(struct usage_store *s, const struct usage_row *rows, size_t n);
/* Gives the rows asked for, by day, uid and model; *ret is the caller's to free. 0, USAGE_E_*, or -ENOMEM. */
int usage_store_read(struct usage_store *s, const struct usage_question *q, struct usage_row **ret, size_t *ret_n);
/* Forgets the days before this one. 0 or USAGE_E_STORE. */
int usage_store_drop_before(struct usage_store *s, int64_t day);
/* Why the last call failed, as a sentence; "" where it did not. */
const char *usage_store_error(const struct usage_store *s);
/* True where a damaged database was moved aside since this was last called; out gets its new name. */
bool usage_store_take_aside(struct usage_store *s, char *out, size_t size);
