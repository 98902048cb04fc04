/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The descriptors that the service manager handed over at the start, by name: listening sockets, and what an earlier process
 * had put into its file descriptor store. Whoever knows a name takes it; what is left in the end is closed.
 */

#include <stdbool.h>
#include <stddef.h>

#include "base/macro.h"

struct inherited;

/* Reads the environment (sd_listen_fds_with_names()) and clears it. 0 or -errno. */
int inherited_new(struct inherited **ret);
/* Closes what nobody took. */
struct inherited *inherited_free(struct inherited *in);
DEFINE_CLEANUP(struct inherited *, inherited_free)
/* The descriptor of this name, the caller's from now on; -1 where there is none. */
int inherited_take(struct inherited *in, const char *name);
/* A listening Unix stream socket, whatever its name; -1. */
int inherited_take_listener(struct inherited *in);
/* Every one that is left, once: its name, or NULL at the end. */
const char *inherited_next(struct inherited *in, size_t *pos);
/* Of what inherited_next() has just named: the descriptor, which stays ours, and whether it is a listening socket. */
int inherited_fd(const struct inherited *in, size_t pos);
bool inherited_is_listener(const struct inherited *in, size_t pos);
