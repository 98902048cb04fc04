/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What each uid has charged to it (connections, requests, sessions, bytes kept in control and on disk), what it may have,
 * and what it is doing. A user exists as long as somebody refers to it; charges are given back by whoever made them, and
 * none may be left when the last reference goes. Owned by the manager.
 */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/list.h"
#include "policy.h"
#include "rate.h"

enum {
        USER_E_QUOTA = 1, /* the charge would go past the limit; nothing was charged */
};

enum user_slot { USER_CONNECTIONS, USER_REQUESTS, USER_BYTES, USER_SESSIONS, USER_DISK, USER_STORE, USER_LEASES, USER_LEASED,
                 USER_SLOTS };

struct users {
        struct list list;
        const struct config *config; /* borrowed; NULL: limits[] are everybody's */
        uint64_t limits[USER_SLOTS];
        uint64_t bytes; /* of all users together: for the memory ledger */
};

struct user {
        struct users *users;
        struct list link;
        uid_t uid;
        size_t refs;
        uint64_t charged[USER_SLOTS];
        uint64_t limits[USER_SLOTS];
        struct policy policy;
        uint32_t running, queued; /* requests, as status counts them */
        struct rate generated;    /* tokens */
        struct rate ended;        /* requests */
};

void users_init(struct users *u);
/* Takes over what a (new) configuration says about the users there are and those to come. It must live until the next
 * call. What is charged beyond a lowered limit stays; only new charges meet it. */
void users_configure(struct users *u, const struct config *config);
/* Once a second. */
void users_tick(struct users *u);
/* The user of this uid with one more reference, NULL without memory. */
struct user *users_get(struct users *u, uid_t uid);
struct user *user_ref(struct user *user);
struct user *user_unref(struct user *user);
/* 0 or USER_E_QUOTA. */
int user_charge(struct user *user, enum user_slot slot, uint64_t amount);
/* For what is there already, whatever the limit: what lay on disk when the daemon started. */
void user_charge_found(struct user *user, enum user_slot slot, uint64_t amount);
void user_release(struct user *user, enum user_slot slot, uint64_t amount);
