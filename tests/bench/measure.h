/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the measuring verbs share: a clock, samples and their percentiles, a private daemon, figures of a process. */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* CLOCK_MONOTONIC in microseconds. */
double measure_now_us(void);

/* Bytes per second that this many threads read from memory; 0 where it can't be measured. */
double measure_bandwidth(unsigned threads);

/* Growable array of figures. Zero-initialise; measure_samples_deinit() frees. */
struct samples {
        double *values;
        size_t n;
        size_t cap;
};

int samples_add(struct samples *s, double value); /* 0 or -ENOMEM */
int samples_add_all(struct samples *s, const struct samples *more);
void samples_deinit(struct samples *s);
/* The value that a share `q` (0..1) of the samples does not exceed (nearest rank); 0 without samples. Sorts them. */
double samples_quantile(struct samples *s, double q);

/* A sparkd of our own, found beside this program, with a configuration below a fresh folder. */
struct private_daemon {
        pid_t pid;
        char dir[64];
        char socket[96];
};

/* Starts it with the null backend (further configuration lines in `extra`) and waits until it answers. 0 or -errno,
 * said on standard error. */
int private_daemon_start(struct private_daemon *d, const char *extra);
void private_daemon_stop(struct private_daemon *d);

/* Processor time a process has used (user and system), in microseconds; negative when it is gone. */
double process_cpu_us(pid_t pid);
/* Private memory of a process in bytes (Private_Clean + Private_Dirty of smaps_rollup); 0 when unreadable. */
uint64_t process_private_bytes(pid_t pid);
/* The one child of a process whose command is `name`, or -1. */
pid_t process_find_child(pid_t parent, const char *name);
