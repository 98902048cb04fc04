/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Which sessions there are on disk, at the daemon's start. Only headers are read: a damaged text is found when it is
 * used. Whatever lies in the folders is looked at with suspicion: names, kinds, sizes, counts.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "session-file.h"

struct scan {
        struct session_found *found;
        size_t n, cap;
        size_t entries; /* looked at so far */
        uid_t uid;
        int dir; /* of the user */
};

void session_scan_deinit(struct session_scan *s) {
        free(s->found);
        *s = (struct session_scan){ 0 };
}

/* "ID" + suffix -> true, and the id. */
static bool name_split(const char *name, const char *suffix, char id[SESSION_ID_TEXT + 1]) {
        if (strlen(name) != SESSION_ID_TEXT + strlen(suffix) || strcmp(name + SESSION_ID_TEXT, suffix) != 0)
                return false;
        memcpy(id, name, SESSION_ID_TEXT);
        id[SESSION_ID_TEXT] = 0;
        return session_id_valid(id);
}

static int scan_append(struct scan *s, const struct session_found *found) {
        if (s->n == s->cap) {
                size_t cap = s->cap ? s->cap * 2 : 64;
                struct session_found *p = reallocarray(s->found, cap, sizeof(*p));

                if (!p)
                        return -ENOMEM;
                s->found = p;
                s->cap = cap;
        }
        s->found[s->n++] = *found;
        return 0;
}

static void move_aside(const struct scan *s, const char *name, const char *why) {
        char aside[SESSION_ID_TEXT + 32];

        (void)snprintf(aside, sizeof(aside), "%s.damaged", name);
        if (renameat(s->dir, name, s->dir, aside) < 0)
                log_warning("session file %u/%s is damaged (%s) and could not be moved aside: %s", (unsigned)s->uid,
                            name, why, strerror(errno));
        else
                log_warning("session file %u/%s is damaged (%s); it was moved aside", (unsigned)s->uid, name, why);
}

static bool is_newer(const struct timespec *a, const struct timespec *b) {
        return a->tv_sec != b->tv_sec ? a->tv_sec > b->tv_sec : a->tv_nsec > b->tv_nsec;
}

/* Size and age of the KV that lies beside. */
static void look_for_kv(const struct scan *s, const char *id, const struct stat *session, struct session_found *found) {
        char name[SESSION_ID_TEXT + 8];
        struct stat st;

        (void)snprintf(name, sizeof(name), "%s.kv", id);
        if (fstatat(s->dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode) || st.st_size == 0)
                return;
        found->kv_bytes = (uint64_t)st.st_size;
        found->kv_newer = !is_newer(&session->st_mtim, &st.st_mtim);
}

static int read_head(const struct scan *s, const char *name, struct session_head *ret, struct stat *st,
                     struct session_fault *fault) {
        _cleanup_fd_ int fd = openat(s->dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        uint8_t header[SESSION_FILE_HEADER];
        ssize_t n;

        if (fd < 0 || fstat(fd, st) < 0)
                return -errno;
        if (!S_ISREG(st->st_mode))
                return -EINVAL;
        n = pread(fd, header, sizeof(header), 0);
        if (n < 0)
                return -errno;
        if ((size_t)n < sizeof(header)) {
                (void)snprintf(fault->text, sizeof(fault->text), "size is %lld, less than a header", (long long)n);
                return SESSION_FILE_E_INVALID;
        }
        return session_head_unpack(header, ret, fault);
}

static int scan_session(struct scan *s, const char *name, const char *id) {
        struct session_fault fault = { "" };
        struct session_found found = { .kv_bytes = 0 };
        struct stat st = { 0 };
        int r = read_head(s, name, &found.head, &st, &fault);

        if (r == 0 && ((uint64_t)st.st_size != session_file_size(found.head.n_tokens) ||
                       strcmp(found.head.id, id) != 0 || found.head.uid != s->uid)) {
                (void)snprintf(fault.text, sizeof(fault.text), "%s does not fit",
                               strcmp(found.head.id, id) != 0  ? "id"
                               : found.head.uid != s->uid ? "uid"
                                                          : "size");
                r = SESSION_FILE_E_INVALID;
        }
        if (r == SESSION_FILE_E_INVALID) {
                move_aside(s, name, fault.text);
                return 0;
        }
        if (r) {
                log_warning("session file %u/%s is left alone: %s", (unsigned)s->uid, name,
                            r < 0 ? strerror(-r) : fault.text);
                return 0;
        }
        found.file_bytes = (uint64_t)st.st_size;
        look_for_kv(s, id, &st, &found);
        return scan_append(s, &found);
}

/* KV whose session is gone: a crash came between the two removals. */
static void scan_kv(const struct scan *s, const char *name, const char *id) {
        char session[SESSION_ID_TEXT + 16];

        (void)snprintf(session, sizeof(session), "%s.session", id);
        if (faccessat(s->dir, session, F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
                (void)unlinkat(s->dir, name, 0);
}

static int scan_entry(struct scan *s, const char *name) {
        char id[SESSION_ID_TEXT + 1];

        if (name_split(name, ".session", id))
                return scan_session(s, name, id);
        if (name_split(name, ".kv", id))
                scan_kv(s, name, id);
        else if (name_split(name, ".session.tmp", id) || name_split(name, ".kv.tmp", id))
                (void)unlinkat(s->dir, name, 0);
        return 0;
}

/* Calls for each entry, up to the bound. Takes over fd. */
static int for_each_entry(struct scan *s, int fd, int (*fn)(struct scan *s, const char *name)) {
        DIR *dir = fdopendir(fd);
        struct dirent *entry;
        int r = 0;

        if (!dir) {
                r = -errno;
                (void)fd_close(fd);
                return r;
        }
        while (r == 0 && (entry = readdir(dir))) {
                if (entry->d_name[0] == '.')
                        continue;
                if (++s->entries > SESSION_FILES_MAX) {
                        log_warning("there are more than %u session files; the others are not looked at",
                                    SESSION_FILES_MAX);
                        r = 1;
                        break;
                }
                r = fn(s, entry->d_name);
        }
        (void)closedir(dir);
        return r;
}

/* A folder whose name is a uid. */
static int scan_user(struct scan *s, const char *name) {
        unsigned long uid;
        char *end, again[24];
        int parent = s->dir, fd, r;

        errno = 0;
        uid = strtoul(name, &end, 10);
        (void)snprintf(again, sizeof(again), "%lu", uid);
        if (errno != 0 || *end || uid >= UINT32_MAX || strcmp(again, name) != 0)
                return 0;
        fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0) {
                log_warning("folder sessions/%s can't be read: %s", name, strerror(errno));
                return 0;
        }
        s->uid = (uid_t)uid;
        s->dir = fd;
        r = for_each_entry(s, fd, scan_entry);
        s->dir = parent;
        if (r < 0 && r != -ENOMEM) {
                log_warning("folder sessions/%s can't be read: %s", name, strerror(-r));
                r = 0;
        }
        return r;
}

int session_files_scan(const char *state_dir, struct session_scan *ret) {
        _cleanup_fd_ int state = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct scan s = { .dir = -1 };
        int r;

        *ret = (struct session_scan){ 0 };
        if (state < 0)
                return errno == ENOENT ? 0 : -errno;
        s.dir = openat(state, "sessions", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (s.dir < 0)
                return errno == ENOENT ? 0 : -errno;
        r = for_each_entry(&s, s.dir, scan_user);
        if (r < 0) {
                free(s.found);
                return r;
        }
        *ret = (struct session_scan){ .found = s.found, .n = s.n };
        return 0;
}
