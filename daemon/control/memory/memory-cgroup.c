/* SPDX-License-Identifier: Apache-2.0 */

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/fd.h"
#include "base/macro.h"
#include "memory-cgroup.h"

#define STAT_MAX 16384u

/* ---- where it is ---- */

static size_t line_length(const char *p) {
        return strcspn(p, "\n");
}

static const char *next_line(const char *p) {
        p += line_length(p);
        return *p ? p + 1 : p;
}

/* One of the words between commas. */
static bool has_word(const char *list, size_t n, const char *word) {
        size_t k = strlen(word);

        for (const char *p = list; p < list + n;) {
                size_t m = strcspn(p, ",");

                m = MIN(m, (size_t)(list + n - p));
                if (m == k && strncmp(p, word, k) == 0)
                        return true;
                p += m + 1;
        }
        return false;
}

/* Our path in the hierarchy: "4:memory:/a/b" or "0::/a/b". */
static bool find_path(const char *cgroup, int version, char *ret, size_t size) {
        for (const char *p = cgroup; *p; p = next_line(p)) {
                const char *end = p + line_length(p), *controllers = memchr(p, ':', (size_t)(end - p)), *path;

                if (!controllers || !(path = memchr(controllers + 1, ':', (size_t)(end - controllers - 1))))
                        continue;
                controllers++;
                if (version == 2 ? path != controllers : !has_word(controllers, (size_t)(path - controllers), "memory"))
                        continue;
                path++;
                if (*path != '/' || (size_t)(end - path) >= size)
                        return false;
                (void)snprintf(ret, size, "%.*s", (int)(end - path), path);
                return true;
        }
        return false;
}

/* The kernel writes blanks and the like as \ooo. */
static void unescape(const char *p, size_t n, char *out) {
        for (const char *end = p + n; p < end; p++) {
                if (p[0] == '\\' && end - p > 3 && isdigit((unsigned char)p[1]) && isdigit((unsigned char)p[2]) &&
                    isdigit((unsigned char)p[3])) {
                        *out++ = (char)((p[1] - '0') * 64 + (p[2] - '0') * 8 + (p[3] - '0'));
                        p += 3;
                } else {
                        *out++ = *p;
                }
        }
        *out = 0;
}

/* "36 35 98:0 ROOT POINT options [optional ...] - TYPE SOURCE SUPER-OPTIONS" */
static bool read_mount(const char *line, int version, char *root, char *point, size_t size) {
        const char *end = line + line_length(line), *fields[5], *p = line, *type;

        for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
                fields[i] = p;
                p = memchr(p, ' ', (size_t)(end - p));
                if (!p)
                        return false;
                p++;
        }
        for (type = p; type < end && strncmp(type, "- ", 2) != 0;) {
                type = memchr(type, ' ', (size_t)(end - type));
                if (!type)
                        return false;
                type++;
        }
        type += MIN((size_t)2, (size_t)(end - type));
        if (version == 2) {
                if (strncmp(type, "cgroup2 ", 8) != 0)
                        return false;
        } else {
                const char *super = memrchr(type, ' ', (size_t)(end - type));

                if (strncmp(type, "cgroup ", 7) != 0 || !super || !has_word(super + 1, (size_t)(end - super - 1), "memory"))
                        return false;
        }
        if ((size_t)(fields[4] - fields[3]) > size || (size_t)(p - fields[4]) > size)
                return false;
        unescape(fields[3], (size_t)(fields[4] - fields[3]) - 1, root);
        unescape(fields[4], (size_t)(p - fields[4]) - 1, point);
        return true;
}

/* What of our path is below the folder that is mounted: all of it, where only that folder's name space is not ours. */
static const char *below(const char *path, const char *root) {
        size_t n = strlen(root);

        if (strcmp(root, "/") == 0)
                return path;
        if (strncmp(path, root, n) == 0 && (path[n] == '/' || path[n] == 0))
                return path + n;
        return "";
}

bool memory_cgroup_find(const char *cgroup, const char *mountinfo, int version, char *ret, size_t size, size_t *ret_top) {
        char path[MEMORY_CGROUP_PATH], root[MEMORY_CGROUP_PATH], point[MEMORY_CGROUP_PATH];
        int n;

        if (!find_path(cgroup, version, path, sizeof(path)))
                return false;
        if (strstr(path, "/../") || strcmp(path, "/..") == 0)
                path[0] = 0; /* outside of our name space: what is mounted is all that we can see */
        for (const char *line = mountinfo; *line; line = next_line(line)) {
                if (!read_mount(line, version, root, point, sizeof(root)))
                        continue;
                n = snprintf(ret, size, "%s%s", point, below(path, root));
                if (n < 0 || (size_t)n >= size)
                        return false;
                *ret_top = strlen(point);
                while ((size_t)n > *ret_top && ret[n - 1] == '/')
                        ret[--n] = 0;
                return true;
        }
        return false;
}

/* ---- what it says ---- */

bool memory_cgroup_stat(const char *text, const char *key, uint64_t *ret) {
        size_t n = strlen(key);

        for (const char *p = text; *p; p = next_line(p)) {
                char *end;
                unsigned long long v;

                if (strncmp(p, key, n) != 0 || p[n] != ' ' || !isdigit((unsigned char)p[n + 1]))
                        continue;
                errno = 0;
                v = strtoull(p + n + 1, &end, 10);
                if (errno || (*end && *end != '\n'))
                        return false;
                *ret = v;
                return true;
        }
        return false;
}

static bool read_text(int folder, const char *name, char *out, size_t size) {
        _cleanup_fd_ int fd = openat(folder, name, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, out, size - 1);

        if (n < 0)
                return false;
        out[n] = 0;
        return true;
}

/* A number, or "max". False where the file is not there or says something else. */
static bool read_number(int folder, const char *name, uint64_t *ret) {
        char text[64];
        unsigned long long v;
        char *end;

        if (!read_text(folder, name, text, sizeof(text)))
                return false;
        if (strncmp(text, "max", 3) == 0) {
                *ret = UINT64_MAX;
                return true;
        }
        if (!isdigit((unsigned char)text[0]))
                return false;
        errno = 0;
        v = strtoull(text, &end, 10);
        if (errno || (*end && *end != '\n'))
                return false;
        *ret = v;
        return true;
}

static uint64_t limit_of(const struct memory_cgroup *c, int folder) {
        uint64_t max = UINT64_MAX, high = UINT64_MAX;

        if (c->version == 1) {
                (void)read_number(folder, "memory.limit_in_bytes", &max);
                return max;
        }
        (void)read_number(folder, "memory.max", &max);
        (void)read_number(folder, "memory.high", &high);
        return MIN(max, high);
}

/* Taken, but for what would go at once: pages of files that are cached. Images are not among them: they lie on the other
 * lists. */
static bool used_of(const struct memory_cgroup *c, int folder, uint64_t *ret) {
        static const char *const keys[2][3] = { { "total_inactive_file", "total_active_file", NULL },
                                                { "inactive_file", "active_file", "slab_reclaimable" } };
        const char *const *key = keys[c->version - 1];
        char text[STAT_MAX];
        uint64_t used, part;

        if (!read_number(folder, c->version == 1 ? "memory.usage_in_bytes" : "memory.current", &used))
                return false;
        if (!read_text(folder, "memory.stat", text, sizeof(text)))
                text[0] = 0; /* then nothing of it would go */
        for (size_t i = 0; i < ARRAY_SIZE(keys[0]) && key[i]; i++)
                if (memory_cgroup_stat(text, key[i], &part))
                        used -= MIN(used, part);
        *ret = used;
        return true;
}

void memory_cgroup_look(const struct memory_cgroup *c, uint64_t machine, struct memory_cgroup_room *ret) {
        *ret = (struct memory_cgroup_room){ .limit = UINT64_MAX, .available = UINT64_MAX };
        for (size_t i = 0; i < c->n; i++) {
                uint64_t limit = limit_of(c, c->folders[i]), used, left;

                if (limit >= machine)
                        continue;
                ret->limit = MIN(ret->limit, limit);
                if (!used_of(c, c->folders[i], &used)) {
                        ret->trouble = true;
                        continue;
                }
                left = limit - MIN(limit, used);
                ret->available = MIN(ret->available, left);
        }
}

/* ---- life ---- */

/* Opens our group's folder and those above it. */
static void open_levels(struct memory_cgroup *c, char *path, size_t top) {
        while (c->n < MEMORY_CGROUP_LEVELS) {
                int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
                char *slash = strrchr(path, '/');

                if (fd >= 0)
                        c->folders[c->n++] = fd;
                if (!slash || strlen(path) <= top || (size_t)(slash - path) < top)
                        return;
                *slash = 0;
        }
}

static bool has_file(const char *folder, const char *name) {
        char path[MEMORY_CGROUP_PATH + 32];

        (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
        return access(path, F_OK) == 0;
}

void memory_cgroup_init(struct memory_cgroup *c, const char *cgroup, const char *mountinfo) {
        char path[MEMORY_CGROUP_PATH];
        size_t top = 0;

        *c = MEMORY_CGROUP_NULL;
        if (memory_cgroup_find(cgroup, mountinfo, 2, path, sizeof(path), &top)) {
                (void)snprintf(c->unified, sizeof(c->unified), "%s", path);
                /* the root of all groups has no such file, even where the controller is of this version */
                c->version = has_file(path, "memory.max") ? 2 : 0;
        }
        if (!c->version && memory_cgroup_find(cgroup, mountinfo, 1, path, sizeof(path), &top))
                c->version = 1;
        if (c->version)
                open_levels(c, path, top);
}

void memory_cgroup_deinit(struct memory_cgroup *c) {
        for (size_t i = 0; i < c->n; i++)
                (void)fd_close(c->folders[i]);
        *c = MEMORY_CGROUP_NULL;
}
