/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What may be permitted to somebody apart from the limits of policy.h: the actions of systemd/org.sparkd.Spark1.policy, as
 * bits. Root and the daemon's own user have all of them. Who may connect to the socket has those of RIGHTS_OF_SOCKET; the
 * others are polkit's to give (polkit.h), for one call. Pure functions.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/macro.h"

enum right {
        RIGHT_USE,             /* ask for answers */
        RIGHT_USE_INTERACTIVE, /* at the priority that comes first */
        RIGHT_MANAGE_MODELS,   /* load, unload, the store; end what others wait for */
        RIGHT_CONFIGURE,
        RIGHT_RESERVE_MEMORY,  /* make the service give memory back */
        RIGHT_OBSERVE_OTHERS,  /* see other users' sessions, jobs, leases */
        RIGHTS,
}; /* records of what is kept have these as bits: new ones come last */

#define RIGHT_BIT(right) (1u << (right))
#define RIGHTS_ALL ((1u << RIGHTS) - 1)
#define RIGHTS_OF_SOCKET (RIGHT_BIT(RIGHT_USE) | RIGHT_BIT(RIGHT_USE_INTERACTIVE) | RIGHT_BIT(RIGHT_RESERVE_MEMORY))

/* polkit's action, "org.sparkd.Spark1.use" */
const char *right_action(enum right right);
/* A sentence for who was turned away. */
const char *right_refusal(enum right right);
/* And what they can do about it. by_password: a person who is asked for one might allow it. */
const char *right_advice(enum right right, bool by_password);
/* True where the mode of the socket's file lets a user with these groups connect to it. fd: the listening socket. */
bool rights_socket_admits(int fd, uid_t uid, const gid_t *groups, size_t n);
