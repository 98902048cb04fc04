/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A descriptor that tells of memory stalls. The service manager may name one (systemd from 254 on: $MEMORY_PRESSURE_WATCH is a
 * path, and what $MEMORY_PRESSURE_WRITE has in base64 is written to it once: a file of the kernel's, a FIFO, or a stream
 * socket; "/dev/null": nobody is to watch). Else it is a trigger (Documentation/accounting/psi.rst) at our control
 * group's memory.pressure (unless that group is the root of all), or at /proc/pressure/memory, whichever may be written.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum pressure_kind { PRESSURE_NOBODY, PRESSURE_SERVICE, PRESSURE_CGROUP, PRESSURE_MACHINE };

/* Somebody waited for a tenth of two seconds. Who may not do everything can have windows of whole pairs of seconds only. */
#define PRESSURE_TRIGGER "some 200000 2000000"

struct pressure_source {
        enum pressure_kind kind;
        int fd;           /* -1 = nobody */
        uint32_t events;  /* of epoll, to wait for */
        bool stream;      /* what can be read of it is read and of no meaning */
        char trouble[256]; /* why there is none; "" = there is, or is not to be */
};
#define PRESSURE_SOURCE_NULL ((struct pressure_source){ .fd = -1 })

/* group: folder of our control group, "" = none. Always 0, or -errno where we can't go on; what is not there is said in *s. */
int pressure_source_open(struct pressure_source *s, const char *group, const char *watch, const char *write);
void pressure_source_deinit(struct pressure_source *s);
/* It is ready: true where that is a stall, false: it has ended. */
bool pressure_source_take(struct pressure_source *s, uint32_t events);
/* Decodes base64 (RFC 4648, 4; with padding). The number of bytes, or -EINVAL, -ENOBUFS. */
int pressure_decode(const char *text, void *out, size_t size);
