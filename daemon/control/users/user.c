/* SPDX-License-Identifier: Apache-2.0 */

#include <stdlib.h>

#include "base/log.h"
#include "user.h"

void users_init(struct users *u) {
        *u = (struct users){ 0 };
        list_init(&u->list);
}

static void user_set_limits(struct user *user) {
        const struct users *u = user->users;

        for (int i = 0; i < USER_SLOTS; i++)
                user->limits[i] = u->limits[i];
        user->policy = POLICY_OPEN;
        if (!u->config)
                return;
        policy_resolve(&user->policy, u->config, user->uid);
        user->limits[USER_CONNECTIONS] = user->policy.connections;
        user->limits[USER_REQUESTS] = user->policy.requests;
        user->limits[USER_BYTES] = user->policy.bytes;
        user->limits[USER_STORE] = user->policy.store_bytes ? user->policy.store_bytes : UINT64_MAX;
}

void users_configure(struct users *u, const struct config *config) {
        struct list *pos, *tmp;

        u->config = config;
        LIST_FOREACH(pos, tmp, &u->list)
                user_set_limits(LIST_ENTRY(pos, struct user, link));
}

void users_tick(struct users *u) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &u->list) {
                struct user *user = LIST_ENTRY(pos, struct user, link);

                rate_tick(&user->generated);
                rate_tick(&user->ended);
        }
}

/* Looked up once a connection; there are at most as many users as connections and owners of sessions. */
struct user *users_get(struct users *u, uid_t uid) {
        struct list *pos, *tmp;
        struct user *user;

        LIST_FOREACH(pos, tmp, &u->list) {
                user = LIST_ENTRY(pos, struct user, link);
                if (user->uid == uid)
                        return user_ref(user);
        }
        user = calloc(1, sizeof(*user));
        if (!user)
                return NULL;
        user->users = u;
        user->uid = uid;
        user->refs = 1;
        user_set_limits(user);
        list_append(&u->list, &user->link);
        return user;
}

struct user *user_ref(struct user *user) {
        user->refs++;
        return user;
}

struct user *user_unref(struct user *user) {
        if (!user || --user->refs > 0)
                return NULL;
        for (int i = 0; i < USER_SLOTS; i++)
                if (user->charged[i] != 0)
                        log_error("uid %u leaves a charge of %llu behind", (unsigned)user->uid,
                                  (unsigned long long)user->charged[i]);
        list_remove(&user->link);
        free(user);
        return NULL;
}

void user_charge_found(struct user *user, enum user_slot slot, uint64_t amount) {
        user->charged[slot] += amount;
        if (slot == USER_BYTES)
                user->users->bytes += amount;
}

int user_charge(struct user *user, enum user_slot slot, uint64_t amount) {
        uint64_t limit = user->limits[slot];

        if (amount > limit || user->charged[slot] > limit - amount)
                return USER_E_QUOTA;
        user_charge_found(user, slot, amount);
        return 0;
}

void user_release(struct user *user, enum user_slot slot, uint64_t amount) {
        user->charged[slot] -= amount;
        if (slot == USER_BYTES)
                user->users->bytes -= amount;
}
