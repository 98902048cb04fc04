/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the files of keeping share: one log in its memfd, and the service manager's store of descriptors. */

#include <stdatomic.h>

#include "carry.h"
#include "keep.h"

#define KEEP_LOG_HEAD 4096u /* bytes before the first record */

/* The start of a log. It is written while others may read it later only: no process has it together with another one. */
struct keep_head {
        char magic[8];
        uint32_t version;         /* KEEP_VERSION */
        uint32_t complete;        /* it began with a whole snapshot, and has not been given up since */
        uint64_t generation;      /* the higher of two counts */
        _Atomic uint64_t committed; /* bytes of the file that count, this head among them */
        uint32_t attempts;        /* processes in a row that began to take it over and did not come to the end of that */
        uint32_t unready;         /* processes in a row that ended before the service was ready */
        uint64_t places;          /* that the service manager's store was known to have */
        struct carry_op op;
        uint32_t brief;           /* processes in a row that did not last (keep_lasts()); 0 where an older one wrote it */
};

/* A record is preceded by its size and its checksum. */
struct keep_record {
        uint32_t size, crc;
};

struct keep_log {
        int fd;
        struct keep_head *head; /* KEEP_BYTES_MAX of it are mapped, `size` are there */
        size_t size;
        size_t end;             /* of what was appended */
};

#define KEEP_LOG_NULL ((struct keep_log){ .fd = -1 })

enum {
        KEEP_LOG_E_FOREIGN = 2, /* of another version, or no log at all */
        KEEP_LOG_E_DAMAGED = 3,
        KEEP_LOG_E_FULL = 4,
};

int keep_log_new(struct keep_log *ret, uint64_t generation);
/* Takes over one that another process wrote; fd is the log's then, else the caller's still. 0, KEEP_LOG_E_FOREIGN, _DAMAGED or
 * -errno. */
int keep_log_open(struct keep_log *ret, int fd);
void keep_log_close(struct keep_log *log);
/* Nothing of it is to be found again; its head stays where it is. */
void keep_log_void(struct keep_log *log);
/* From how many bytes on it is to be written anew, where `end` bytes say all there is to say: when it has grown to more than twice
 * that. Where it could not grow as far, at half of the way; SIZE_MAX where that is too short to be worth it. */
size_t keep_log_rewrite_at(size_t end);
/* 0, KEEP_LOG_E_FULL or -errno: then nothing was appended. */
int keep_log_append(struct keep_log *log, const Spark__State__V1__Record *record);
void keep_log_commit(struct keep_log *log);
/* No reader: looks whether it can be read. 0, KEEP_LOG_E_DAMAGED or -errno. */
int keep_log_read(const struct keep_log *log, keep_reader reader, void *userdata);

/* What the service manager holds for us. */
struct keep_store {
        char **names; /* that it has of us */
        size_t n, room;
        size_t max;   /* descriptors that it takes */
        bool complained;
};

/* Does it hold any, and how many? */
void keep_store_init(struct keep_store *s);
void keep_store_deinit(struct keep_store *s);
/* It has this one from before. 0 or -errno. */
int keep_store_note(struct keep_store *s, const char *name);
/* False where fewer than `spare` places would be left. */
bool keep_store_push(struct keep_store *s, const char *name, int fd, size_t spare);
void keep_store_remove(struct keep_store *s, const char *name);
void keep_store_remove_all(struct keep_store *s);
