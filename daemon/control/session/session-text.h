/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a session has come to: token ids, in memory, charged to its user, never changed once they are there. Sessions
 * that were forked, a request under way and a file being written share one by reference; a session that goes on gets
 * another one, one that is cut back just looks at less of it. That is all there is to copy-on-write.
 *
 * References are counted on the loop alone; the disk's thread reads the ids while the loop holds a reference for it.
 */

#include <stddef.h>
#include <stdint.h>

#include "base/macro.h"
#include "users/user.h"

struct session_text {
        unsigned refs;
        struct user *user;
        uint64_t charged; /* USER_BYTES */
        size_t n;
        uint32_t *ids;    /* [n] */
};

/* Takes over ids (from malloc()), of which `charged` bytes are on the user already; what they have room for beyond n is
 * given back. With one reference; NULL without memory, and ids and charge are still the caller's. */
struct session_text *session_text_new(struct user *user, uint32_t *ids, size_t n, uint64_t charged);
/* Both take NULL, the text of an empty session. */
struct session_text *session_text_ref(struct session_text *t);
struct session_text *session_text_unref(struct session_text *t);
