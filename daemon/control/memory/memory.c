/* SPDX-License-Identifier: Apache-2.0 */

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/fd.h"
#include "memory.h"

#define GIB (1ull << 30)
#define MOUNTINFO_MAX ((size_t)1 << 20)

bool memory_parse_field(const char *text, const char *name, uint64_t *ret_bytes) {
        size_t n = strlen(name);

        for (const char *line = text; line; line = strchr(line, '\n')) {
                unsigned long long kb;
                char *end;

                line += *line == '\n';
                if (strncmp(line, name, n) != 0 || line[n] != ':')
                        continue;
                line += n + 1;
                while (*line == ' ' || *line == '\t')
                        line++;
                if (!isdigit((unsigned char)*line))
                        return false;
                errno = 0;
                kb = strtoull(line, &end, 10);
                if (errno || strncmp(end, " kB", 3) != 0)
                        return false;
                return checked_mul(kb, 1024, ret_bytes);
        }
        return false;
}

static uint64_t meminfo_field(const struct memory *m, const char *name) {
        char text[8192];
        uint64_t v = 0;
        ssize_t n;

        n = pread(m->meminfo_fd, text, sizeof(text) - 1, 0);
        if (n <= 0)
                return 0;
        text[n] = 0;
        return memory_parse_field(text, name, &v) ? v : 0;
}

uint64_t memory_default_floor(uint64_t total) {
        uint64_t floor = MAX(6 * GIB, total / 20);

        return MIN(floor, total / 4);
}

uint64_t memory_floor_of(uint64_t configured, uint64_t total) {
        return configured == UINT64_MAX ? memory_default_floor(total) : configured;
}

void memory_set_floor(struct memory *m, uint64_t floor) {
        m->configured = floor;
        m->floor = memory_floor_of(floor, m->total);
}

void memory_look(struct memory *m) {
        struct memory_cgroup_room room;

        memory_cgroup_look(&m->cgroup, m->machine, &room);
        m->cgroup_trouble = room.trouble;
        if (room.limit != m->limit) {
                m->limit = room.limit;
                m->total = MIN(m->machine, m->limit);
                m->floor = memory_floor_of(m->configured, m->total);
        }
}

/* The whole of a small file, or "". */
static void read_whole(const char *path, char *out, size_t size) {
        _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        size_t n = 0;

        for (ssize_t k; fd >= 0 && n < size - 1 && (k = read(fd, out + n, size - 1 - n)) > 0;)
                n += (size_t)k;
        out[n] = 0;
}

static int find_groups(struct memory *m) {
        char cgroup[8192];
        _cleanup_free_ char *mountinfo = malloc(MOUNTINFO_MAX);

        if (!mountinfo)
                return -ENOMEM;
        read_whole("/proc/self/cgroup", cgroup, sizeof(cgroup));
        read_whole("/proc/self/mountinfo", mountinfo, MOUNTINFO_MAX);
        memory_cgroup_init(&m->cgroup, cgroup, mountinfo);
        return 0;
}

int memory_init(struct memory *m, uint64_t floor) {
        int r;

        *m = (struct memory){ .meminfo_fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC), .psi_fd = -1, .limit = UINT64_MAX };
        if (m->meminfo_fd < 0)
                return -errno;
        m->psi_fd = open("/proc/pressure/memory", O_RDONLY | O_CLOEXEC);
        m->machine = m->total = meminfo_field(m, "MemTotal");
        r = find_groups(m);
        if (r < 0)
                return r;
        memory_set_floor(m, floor);
        memory_look(m);
        return 0;
}

void memory_deinit(struct memory *m) {
        m->meminfo_fd = fd_close(m->meminfo_fd);
        m->psi_fd = fd_close(m->psi_fd);
        memory_cgroup_deinit(&m->cgroup);
}

uint64_t memory_machine_available(const struct memory *m) {
        return meminfo_field(m, "MemAvailable");
}

uint64_t memory_available(const struct memory *m) {
        struct memory_cgroup_room room;
        uint64_t machine = memory_machine_available(m);

        memory_cgroup_look(&m->cgroup, m->machine, &room);
        return MIN(room.available, machine);
}

uint64_t memory_missing(const struct memory *m) {
        uint64_t available = memory_available(m);

        return m->floor > available ? m->floor - available : 0;
}

uint64_t memory_free_for_us(const struct memory *m) {
        uint64_t available = memory_available(m), taken;

        if (!checked_add(m->floor, m->untouched, &taken) || !checked_add(taken, m->given, &taken) || taken > available)
                return 0;
        return available - taken;
}

int memory_check(const struct memory *m, uint64_t need) {
        return need > memory_free_for_us(m) ? MEMORY_E_FLOOR : 0;
}

uint64_t memory_of_process(int pid) {
        char path[64], text[4096];
        _cleanup_fd_ int fd = -1;
        uint64_t v = 0;
        ssize_t n;

        (void)snprintf(path, sizeof(path), "/proc/%d/status", pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return 0;
        n = read(fd, text, sizeof(text) - 1);
        if (n <= 0)
                return 0;
        text[n] = 0;
        return memory_parse_field(text, "RssAnon", &v) ? v : 0;
}
