/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Clients over restarts: how what of their connections, requests and pipes is written down (connection-keep.c, request-keep.c,
 * bus-pipe.c) comes to count. How a new process takes it up is restore-clients.h's. All of it does nothing where nothing is kept.
 *
 * What is to be right whenever this process ends: what a client was told and what it has sent are in the log when they are no
 * longer in our hands. So everything commits before it sends, and takes input from a socket only when what it led to is
 * committed. Descriptors are in the store before a record speaks of them, and leave it when no committed record does any more.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "keep.h"

struct inherited;
struct manager;

#define CLIENTS_NAME_MAX 64u
#define CLIENTS_OF_PIPE ((uint64_t)1 << 63) /* where pipes and connections are told apart by one number: a pipe's key */

/* Puts one record together and appends it. */
#define KEEP_APPEND(keep, BODY_CASE, body, message)                                                \
        do {                                                                                       \
                Spark__State__V1__Record record_ = SPARK__STATE__V1__RECORD__INIT;                 \
                record_.body_case = SPARK__STATE__V1__RECORD__BODY_##BODY_CASE;                    \
                record_.body = (message);                                                          \
                keep_append((keep), &record_);                                                     \
        } while (0)

/* Names in the store that no record speaks of any more, when what was appended counts. */
struct clients_kept {
        char (*dropped)[CLIENTS_NAME_MAX];
        size_t n_dropped, room;
};

void clients_deinit(struct manager *m);
/* Everything appended counts, and then: */
void clients_commit(struct manager *m);
void clients_drop_fd(struct manager *m, const char *name);
/* The names of descriptors. */
void clients_name_connection(char *out, uint64_t client);
void clients_name_connection_fd(char *out, uint64_t client, uint64_t n);
void clients_name_input(char *out, uint64_t key);
int clients_take_fd(struct inherited *in, uint64_t client, uint64_t n);

/* What is kept is the next process's (clients_hand_on()): it is not ended by being freed here. */
bool clients_are_handed_on(const struct manager *m, bool kept);
