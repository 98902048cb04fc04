/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The engine's side of the socketpair with control, and its four threads:
 *
 *   IO    (the caller's)  the socket only: frames in, jobs made; packed frames out, jobs freed
 *   prep                  checks, chat templates, tokenizing (prep.h)
 *   step                  engine_step() as long as there is something to do, events into frames, Pings
 *   file                  the blocking half of spills and restores (errand.h)
 *
 * Jobs go IO -> prep -> step, frames go from both to IO, each through a bounded queue. Cancel and Window don't queue:
 * they change two atomic fields of the job and give the engine notice, so that they overtake everything.
 * Should control not read, the frames' queue fills and the step thread waits; nothing grows without bound.
 */

#include "channel.h"
#include "host.h"

enum {
        LINK_E_CLOSED = 1,  /* control has gone: end quietly */
        LINK_E_PROTOCOL = 2, /* control talks nonsense: logged */
        LINK_E_LOST = 3,    /* the backend is lost; control was told */
};

/* Receives Init with its descriptors. Blocks. *ret_init is freed with message_free(). 0, LINK_E_*, or -errno. */
int link_receive_init(struct channel *c, ProtobufCMessage **ret_init, int *fds, size_t *ret_n_fds);
/* Receives how much of a growing image is there: the number of its first tensors, or IMAGE_ALL. Blocks. As above. */
int link_receive_image(struct channel *c, size_t *ret_tensors);
/* Sends one frame (taken over) and waits until it is out. 0, LINK_E_CLOSED, or -errno. */
int link_send(struct channel *c, struct frame *frame);

struct link;

/* Events of an engine that a link drives; the link is given to them as userdata. */
extern const struct engine_events link_events;

int link_new(struct link **ret, struct channel *c, uint32_t max_jobs);
struct link *link_free(struct link *l);
DEFINE_CLEANUP(struct link *, link_free)
/* Serves until the end; host's engine was made with link_events and this link. Returns LINK_E_* or -errno. When this
 * returns, the threads have ended, or the process is to _exit() at once (*ret_stuck). */
int link_run(struct link *l, struct host *host, bool *ret_stuck);
