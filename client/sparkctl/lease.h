/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Holding a lease: until an interrupt, or as long as a command runs, which is started when the lease has got what it
 * asked for.
 */

#include "ctl.h"

#define LEASE_WHO_MAX 128u /* bytes that the service takes of it */

struct lease_run {
        struct ctl *ctl;
        char who[LEASE_WHO_MAX + 1];
        const char *stage;    /* of the progress that says that it is held: "granted", "warm" */
        char **command;       /* NULL-ended; NULL: until an interrupt */
        void (*on_held)(struct lease_run *l); /* l->progress is what was said then */
        void *data;
        struct spark_progress progress;
        /* inside */
        struct call call;
        bool held;
        int signal_fd;
        int pid, status;      /* of the command; status: that of sparkctl, once it is known */
        bool over;
};

/* Cuts the command line of a verb at its first "--": *argc is what stands in front of it. What follows is the command, and who holds
 * the lease. -1, or the exit status: nothing follows. */
int lease_take_command(struct lease_run *l, const char *verb, int *argc, char **argv);
/* Signals are looked after from here on: before the request is started. 0 or the exit status. */
int lease_begin(struct lease_run *l);
/* Waits for the end; `r` is what starting the request with lease_event and `l` returned. The exit status: the command's, 128 and
 * the signal where that ended it, 127 where there is none of this name; without a command EXIT_DONE for what was held until
 * an interrupt; else that of the error, which was reported. */
int lease_wait(struct lease_run *l, int r);
int lease_event(struct spark *s, const struct spark_event *event, void *userdata);
