/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Tokens of one request that wait for a slow client: neighbours are joined into one message. Embedded; empty, it owns
 * nothing.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "spark.pb-c.h"

enum {
        PENDING_E_LIMIT = 1, /* full; nothing was added */
        PENDING_E_DIFFERS = 2, /* has another shape than what waits: take that out first */
};

#define PENDING_BYTES_MAX ((size_t)1 << 20) /* of each field */

struct pending {
        struct buf ids, text, logprobs, top_ids, top_logprobs;
        uint32_t index, top_n;
};

void pending_init(struct pending *p);
void pending_deinit(struct pending *p);
static inline bool pending_is_empty(const struct pending *p) {
        return p->ids.len == 0;
}
/* 0, PENDING_E_*, or -ENOMEM. */
int pending_add(struct pending *p, const Spark__V1__Token *token);
/* What waits, as one message that points into p; valid until the next change of p. */
void pending_fill(const struct pending *p, Spark__V1__Token *ret);
/* Empties it and gives its memory back. */
void pending_clear(struct pending *p);
