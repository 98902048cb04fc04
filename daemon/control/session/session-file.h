/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Sessions on disk. Below state_dir: sessions/UID/ID.session, and beside it ID.kv where the engine has written the KV
 * that belongs to it; folders have mode 0700, files 0600. Pure work on files: everything here may block, and is called
 * on the disk's thread (or by tests).
 *
 * ID.session, version 1, integers little-endian:
 *
 *      0   8  magic "SPARKSES"
 *      8   4  version
 *     12   4  bytes of this header: 256
 *     16  16  id
 *     32   4  uid
 *     36   4  vocabulary: tokens of the model that made the text; 0 = not known
 *     40   8  parameters of that model; 0 = not known
 *     48   8  number of tokens
 *     56   8  last used, seconds since 1970
 *     64  72  name of the model, NUL-padded
 *    136  72  name of the session, NUL-padded
 *    208  44  zero
 *    252   4  CRC-32C of the 252 bytes before
 *    256  4n  token ids
 *  256+4n  4  CRC-32C of all bytes before
 *
 * A file is replaced whole: written beside, synced, renamed, the folder synced.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/macro.h"
#include "config/config.h"

#define SESSION_ID_BYTES 16u
#define SESSION_ID_TEXT (2 * SESSION_ID_BYTES)
#define SESSION_NAME_MAX 64u /* bytes, without NUL */
#define SESSION_TOKENS_MAX ((size_t)1 << 24)

#define SESSION_FILE_VERSION 1u
#define SESSION_FILE_HEADER 256u
#define SESSION_FILES_MAX 65536u /* looked at by a scan, all users together */

enum {
        SESSION_FILE_E_INVALID = 1, /* damaged; see struct session_fault */
        SESSION_FILE_E_VERSION = 2, /* of a version that is not ours to judge */
};

struct session_head {
        char id[SESSION_ID_TEXT + 1];
        uid_t uid;
        uint32_t vocabulary;
        uint64_t parameters;
        uint64_t n_tokens;
        uint64_t used_s;
        char model[CONFIG_MODEL_NAME_MAX + 1];
        char name[SESSION_NAME_MAX + 1];
};

struct session_fault {
        char text[128]; /* what is wrong with which field */
};

/* 32 lower-case hexadecimal digits. */
bool session_id_valid(const char *id);
/* At most 64 bytes without control characters; may be empty. Whoever got it from outside has checked that it is UTF-8. */
bool session_name_valid(const char *name);
static inline uint64_t session_file_size(uint64_t n_tokens) {
        return SESSION_FILE_HEADER + n_tokens * sizeof(uint32_t) + sizeof(uint32_t);
}

/* The header alone, with its checksum. */
void session_head_pack(const struct session_head *h, uint8_t out[SESSION_FILE_HEADER]);
/* 0 or SESSION_FILE_E_*. */
int session_head_unpack(const uint8_t in[SESSION_FILE_HEADER], struct session_head *ret, struct session_fault *fault);

/* Writes h and ids [h->n_tokens] as the session's file. 0 or -errno; an older file is then still there. */
int session_file_write(const char *state_dir, const struct session_head *h, const uint32_t *ids);
/* Reads it back; every field and byte is checked, the id and uid against those given. ids: from malloc().
 * 0, SESSION_FILE_E_*, or -errno. A damaged one is moved aside, to ID.session.damaged. */
int session_file_read(const char *state_dir, uid_t uid, const char *id, struct session_head *ret, uint32_t **ret_ids,
                      struct session_fault *fault);
/* The same for a file that is open, from its beginning, whosever it is. */
int session_file_read_fd(int fd, struct session_head *ret, uint32_t **ret_ids, struct session_fault *fault);
/* Removes the session's files. 0 or -errno; files that are not there are fine. */
int session_files_remove(const char *state_dir, uid_t uid, const char *id);

/* ---- KV beside it ---- */

/* Opens the file for reading. A descriptor or -errno. */
int session_kv_open(const char *state_dir, uid_t uid, const char *id);
/* Makes a new one for writing, under another name for the time being. *ret_free: bytes that the file system has left.
 * A descriptor or -errno. */
int session_kv_create(const char *state_dir, uid_t uid, const char *id, uint64_t *ret_free);
/* Syncs what was written to fd and gives it the name that counts. 0 with its size, or -errno. */
int session_kv_settle(const char *state_dir, uid_t uid, const char *id, int fd, uint64_t *ret_bytes);
/* Removes the one that counts, or the unfinished one. 0 or -errno; one that is not there is fine. */
int session_kv_remove(const char *state_dir, uid_t uid, const char *id, bool unfinished);

/* ---- all of them ---- */

struct session_found {
        struct session_head head;
        uint64_t file_bytes, kv_bytes;
        bool kv_newer; /* than the session's file: it is the KV of all of its text */
};

struct session_scan {
        struct session_found *found;
        size_t n;
};

/* Looks at the headers of all sessions. Damaged files are moved aside, what an interrupted writer left and KV without a
 * session are removed, each with a word in the log; what is none of ours is left alone. 0 or -errno. */
int session_files_scan(const char *state_dir, struct session_scan *ret);
void session_scan_deinit(struct session_scan *s);
