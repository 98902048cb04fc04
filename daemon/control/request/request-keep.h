/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A request over restarts; see keep-clients.h. */

#include "keep/keep.h"
#include "pending.h"
#include "request.h"

struct kept_request;

/* From here on a later process would go on with it, for the request `id` of this connection, or (connection 0) for a pipe.
 * pending: tokens that were not queued for the connection; NULL = none. */
void request_keep(struct request *r, uint64_t connection, uint64_t id, const struct pending *pending);
/* It is kept, with the next snapshot; what came with it is given to the store, which has nothing of it. */
void request_keep_again(struct request *r);
/* Appends it, as it stands. */
void request_write(const struct request *r, struct keep *k, uint64_t connection, uint64_t id, const struct pending *pending);
/* What of it is no pipe's or connection's; the strings and arrays are borrowed. */
void request_fill_record(const struct request *r, Spark__State__V1__Request *m);

/* ---- all do nothing for one that is not kept ---- */
void request_note_accepted(struct request *r);
/* Tokens went to its sink; pending: they are not queued there, or not written. */
void request_note_tokens(struct request *r, const Spark__V1__Token *token, bool pending);
void request_note_queued(struct request *r);
void request_note_credit(struct request *r, uint64_t tokens);
/* It may be, with the rights that it has now. */
void request_note_granted(struct request *r);
/* It is no one's any more. */
void request_note_end(struct request *r);

/* One that an earlier process had. input_fd is taken over, too. 0, REQUEST_E_REFUSED with *error filled, or -errno. */
int request_restore(struct manager *m, const struct kept_request *kept, const struct request_origin *origin,
                    const struct request_sink *sink, void *userdata, int input_fd, struct request **ret,
                    struct request_error *error);
/* All of them are there. */
void requests_added_again(struct requests *t);
