/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Work on files, off the loop: a queue of jobs, one thread that runs them in the order they came, and their
 * completions, which come back to the loop through an eventfd. Control's loop never waits for a disk; whatever has to
 * open, read, write, sync or rename below state_dir goes through here.
 *
 * A job is the caller's own struct with a struct disk_job in it. From disk_submit() on it belongs to the thread: nobody
 * else reads or writes it until done() is called on the loop, which owns it from then on (and usually frees it). Every
 * job that was taken gets its done(), exactly once; one that was still waiting when the disk was freed gets it with
 * `dropped` set and never ran.
 *
 * The queue is bounded in jobs: waiting, running and completed ones count until their done() is called.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/macro.h"

enum {
        DISK_E_FULL = 1, /* as many jobs as it takes are under way; the job is still the caller's */
};

struct disk;

struct disk_job {
        struct disk_job *next;                /* the disk's */
        void (*run)(struct disk_job *job);    /* on the thread; may block */
        void (*done)(struct disk_job *job);   /* on the loop; may submit further jobs, must not free the disk */
        bool dropped;                         /* in done(): run() was never called */
};

/* Starts the thread, with all signals blocked there. max_jobs: bound of the queue. 0 or -errno. */
int disk_new(struct disk **ret, sd_event *event, size_t max_jobs);
/* Drains for at most drain_us, drops what still waits, ends the thread. A thread that hangs in the kernel beyond that
 * time is left to itself, with the job that it runs, which is then never heard of again. */
struct disk *disk_free(struct disk *d, uint64_t drain_us);
/* 0 or DISK_E_FULL. run and done must be set. */
int disk_submit(struct disk *d, struct disk_job *job);
/* Jobs under way: those whose done() was not called yet. */
size_t disk_pending(const struct disk *d);
/* Waits on the spot, until nothing is under way (jobs that completions submit included) or the time is over; calls the
 * completions. True when nothing is under way. For the end of the daemon and for tests. */
bool disk_drain(struct disk *d, uint64_t timeout_us);
