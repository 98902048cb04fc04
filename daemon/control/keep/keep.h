/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What outlives this process: a log of what happened (proto/state.proto) in a memfd, which systemd's file descriptor store
 * holds together with the descriptors that it speaks of. A new process reads it and goes on, whether the old one was told
 * to end or was killed between any two instructions. Owned by the manager; where nobody holds descriptors for us (no
 * service manager, or no room in its store) nothing is kept, and everything here does nothing.
 *
 * The rule that makes it right: what a turn changed is committed, all at once, before anything of it can be seen from outside.
 * So keep_commit() stands before whatever leaves control (a write to a client, to an engine). What was not committed did
 * not happen: the client's bytes are in its socket still, the engine's tokens come again, bit for bit.
 *
 *   append: a record is written behind the committed ones; commit: one store says that they count.
 *
 * Bytes that go to a client or come from it are moved so that it is known afterwards how many (carry.h).
 *
 * Now and then the log is written anew from what there is (snapshot), into another memfd, which then takes the place of the
 * old one.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macro.h"
#include "state.pb-c.h"

#define KEEP_VERSION 1u
#define KEEP_BYTES_MAX ((size_t)1 << 30) /* of a log: beyond that nothing is kept until there is less to say */

struct keep;
struct carry;
struct inherited;

/* A record of what was kept. Nothing of it may be held on to. */
typedef void (*keep_reader)(void *userdata, const Spark__State__V1__Record *record);
/* Appends what there is, as records. */
typedef void (*keep_writer)(void *userdata, struct keep *k);

/* Takes the log out of what was handed over to us, which has to live until keep_taken(), or begins a new one. Listening sockets
 * are nothing of ours. Where there is one that cannot be read (another
 * version, damaged, or several processes in a row ended while they read it) it is given up with a word in the log: the
 * start is a cold one. 0 or -errno. */
int keep_new(struct keep **ret, struct inherited *in, keep_writer snapshot, void *userdata);
struct keep *keep_free(struct keep *k);
DEFINE_CLEANUP(struct keep *, keep_free)

/* True where what is appended will be found again. NULL: false; so for all that follows. */
bool keep_is_on(const struct keep *k);
/* Hands out what was kept, in order. 0, or -errno: nothing more will come, and what came is to be forgotten. */
int keep_read(struct keep *k, keep_reader reader, void *userdata);
/* What was kept has been taken over (or there was nothing): the log begins anew, with a snapshot. From here on what is appended
 * counts, before it does not. Descriptors of the store that nobody took are shut down, and it loses them. */
void keep_taken(struct keep *k);
/* The service is ready: this start was none of a row that lead nowhere. */
void keep_ready(struct keep *k);
/* It has run for a minute, or was told to end: it was none of a row of crashes, which what is kept might cause (a request that
 * each process takes up, and ends by). */
void keep_lasts(struct keep *k);

/* Appends one record; counts with the next commit. A record that can't be written ends keeping, with a word in the log,
 * until keep_is_due(). */
void keep_append(struct keep *k, const Spark__State__V1__Record *record);
/* Everything appended counts from here on. Cheap where nothing was. */
void keep_commit(struct keep *k);
/* Once a turn, behind the last commit: writes the log anew where too much of it is out of date. */
void keep_turn(struct keep *k);
/* Keeping was given up for want of room, and it is time to try it again: keep_begin_again(), push all descriptors anew, and
 * keep_end_again(), which writes a snapshot; from there on what is appended counts, or it stays given up for longer. False: so it
 * does at once. */
bool keep_is_due(struct keep *k, uint64_t now_us);
bool keep_begin_again(struct keep *k, uint64_t now_us);
void keep_end_again(struct keep *k);
/* How bytes are moved to and from clients; NULL where nothing is kept. */
struct carry *keep_carry(struct keep *k);
/* Bytes that the log takes: the memory ledger's. */
uint64_t keep_bytes(const struct keep *k);

/* Gives the store a descriptor under a name (a copy: ours stays ours), or takes it back there. False: it has none, or will
 * take no more. */
bool keep_push_fd(struct keep *k, const char *name, int fd);
void keep_remove_fd(struct keep *k, const char *name);
/* Nothing is to be found by a later process: the service is stopped for good. */
void keep_forget(struct keep *k);
