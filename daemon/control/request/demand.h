/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Which rights (rights.h) things take, whichever way they are asked for: the socket's frames and the bus's methods go by the
 * same rules. Pure functions over the configuration, the store and the lists of jobs and sessions.
 */

#include <stdbool.h>
#include <stdint.h>

#include "rights/authorize.h"
#include "spark.pb-c.h"
#include "users/user.h"

struct config;
struct manager;

/* A request of the socket's. RIGHT_USE is not among what it takes: who could ask has it. */
void demand_of_frame(struct manager *m, const struct user *user, const Spark__V1__ClientFrame *f, struct demand *ret);

/* Each of these gives what is required, as bits. */
/* Putting a model into the store under this name: where the configuration does not say that everybody may, or nobody. */
uint32_t demand_import(struct manager *m, const char *name, bool replace, const struct user *user);
/* Taking a name of the store away. */
uint32_t demand_remove(struct manager *m, const char *name, const struct user *user);
uint32_t demand_reserve(const struct config *config);
uint32_t demand_hold(const struct config *config);
