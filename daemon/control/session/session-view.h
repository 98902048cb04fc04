/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Sessions as those see them who show them to others, and write down which one a request belongs to. */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "spark.pb-c.h"

struct session;
struct sessions;

/* NULL where none has this id. */
struct session *session_find(struct sessions *t, const char *id);
/* All of them, in no order: the one after `before`, which NULL begins; NULL after the last. None may come or go meanwhile. */
const struct session *sessions_next(const struct sessions *t, const struct session *before);

const char *session_id(const struct session *s);
uid_t session_uid(const struct session *s);
/* Strings are borrowed from the session. */
void session_fill_info(const struct session *s, Spark__V1__SessionInfo *info);
uint64_t session_idle_us(const struct session *s, uint64_t now_us);

/* Called when one came (it has its id and its user) or is about to go. There is room for one who wants to know; NULL = nobody. */
void sessions_watch(struct sessions *t, void (*told)(void *userdata, const struct session *s, bool removed), void *userdata);
