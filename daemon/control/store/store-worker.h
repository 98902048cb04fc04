/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A short-lived process on descriptors that touches the store's bytes; records come over a link. Zero is "none". It belongs to
 * the request that it works for. */

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <systemd/sd-event.h>

struct store_worker {
        sd_event *event;
        int pidfd, link;
        sd_event_source *link_source, *exit_source;
        uint64_t active_us;
        /* Reads what is on the link; false when it has ended. */
        bool (*on_link)(struct store_worker *w);
        /* Ended and reaped, everything read; *w may be started again or be freed. */
        void (*on_exit)(struct store_worker *w, const siginfo_t *info);
        bool running;
};

struct store_input {
        const char *flag; /* introduces it on the command line */
        const char *name; /* below MODELDIR_NAME_MAX; NULL = goes without one */
        int fd;
};

/* The link is put in front of the inputs, flags (without a value) behind. 0 or -errno (-ENOENT: the program is not
 * installed). */
int store_worker_start(struct store_worker *w, sd_event *event, const char *program, const struct store_input *inputs,
                       size_t n_inputs, const char *const *flags, size_t n_flags);
/* Kills it; nothing is heard of it any more. */
void store_worker_stop(struct store_worker *w);
