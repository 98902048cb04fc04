/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/utf8.h"
#include "session-file.h"

#define PIECE 4096u /* token ids that are converted at once */
#define TEXT_FIELD 72u

enum {
        AT_MAGIC = 0, AT_VERSION = 8, AT_SIZE = 12, AT_ID = 16, AT_UID = 32, AT_VOCABULARY = 36, AT_PARAMETERS = 40,
        AT_TOKENS = 48, AT_USED = 56, AT_MODEL = 64, AT_NAME = 136, AT_ZERO = 208, AT_CRC = 252,
};

static const uint8_t magic[8] = { 'S', 'P', 'A', 'R', 'K', 'S', 'E', 'S' };

static void put_le(uint8_t *p, uint64_t v, size_t n) {
        for (size_t i = 0; i < n; i++)
                p[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t get_le(const uint8_t *p, size_t n) {
        uint64_t v = 0;

        for (size_t i = 0; i < n; i++)
                v |= (uint64_t)p[i] << (8 * i);
        return v;
}

static _printf_(2, 3) int damaged(struct session_fault *f, const char *fmt, ...) {
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(f->text, sizeof(f->text), fmt, ap);
        va_end(ap);
        return SESSION_FILE_E_INVALID;
}

/* ---- names ---- */

/* 16 for what is no such digit. */
static unsigned hex_value(char c) {
        return c >= '0' && c <= '9' ? (unsigned)(c - '0') : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a') + 10 : 16;
}

bool session_id_valid(const char *id) {
        for (size_t i = 0; i < SESSION_ID_TEXT; i++)
                if (hex_value(id[i]) > 15)
                        return false;
        return id[SESSION_ID_TEXT] == 0;
}

bool session_name_valid(const char *name) {
        size_t n = strlen(name);

        for (size_t i = 0; i < n; i++)
                if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
                        return false;
        return n <= SESSION_NAME_MAX;
}

/* ---- header ---- */

void session_head_pack(const struct session_head *h, uint8_t out[SESSION_FILE_HEADER]) {
        memset(out, 0, SESSION_FILE_HEADER);
        memcpy(out + AT_MAGIC, magic, sizeof(magic));
        put_le(out + AT_VERSION, SESSION_FILE_VERSION, 4);
        put_le(out + AT_SIZE, SESSION_FILE_HEADER, 4);
        for (size_t i = 0; i < SESSION_ID_BYTES; i++)
                out[AT_ID + i] = (uint8_t)(hex_value(h->id[2 * i]) << 4 | hex_value(h->id[2 * i + 1]));
        put_le(out + AT_UID, h->uid, 4);
        put_le(out + AT_VOCABULARY, h->vocabulary, 4);
        put_le(out + AT_PARAMETERS, h->parameters, 8);
        put_le(out + AT_TOKENS, h->n_tokens, 8);
        put_le(out + AT_USED, h->used_s, 8);
        memcpy(out + AT_MODEL, h->model, strlen(h->model));
        memcpy(out + AT_NAME, h->name, strlen(h->name));
        put_le(out + AT_CRC, crc32c(0, out, AT_CRC), 4);
}

static bool all_zero(const uint8_t *p, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (p[i] != 0)
                        return false;
        return true;
}

/* A NUL-padded text of fewer than `size` bytes into out. */
static bool get_text(const uint8_t *p, char *out, size_t size) {
        size_t n = strnlen((const char *)p, TEXT_FIELD);

        if (n >= size || !all_zero(p + n, TEXT_FIELD - n))
                return false;
        memcpy(out, p, n);
        out[n] = 0;
        return utf8_valid(out, n, NULL);
}

int session_head_unpack(const uint8_t in[SESSION_FILE_HEADER], struct session_head *ret, struct session_fault *fault) {
        static const char digits[] = "0123456789abcdef";
        struct session_head h = { .id = "" };

        if (memcmp(in + AT_MAGIC, magic, sizeof(magic)) != 0)
                return damaged(fault, "magic: it is no session file");
        if (get_le(in + AT_VERSION, 4) != SESSION_FILE_VERSION) {
                (void)damaged(fault, "version is %llu, not %u", (unsigned long long)get_le(in + AT_VERSION, 4),
                              SESSION_FILE_VERSION);
                return SESSION_FILE_E_VERSION;
        }
        if (get_le(in + AT_CRC, 4) != crc32c(0, in, AT_CRC))
                return damaged(fault, "checksum of the header is wrong");
        if (get_le(in + AT_SIZE, 4) != SESSION_FILE_HEADER)
                return damaged(fault, "header size is %llu", (unsigned long long)get_le(in + AT_SIZE, 4));
        for (size_t i = 0; i < SESSION_ID_BYTES; i++) {
                h.id[2 * i] = digits[in[AT_ID + i] >> 4];
                h.id[2 * i + 1] = digits[in[AT_ID + i] & 15];
        }
        h.uid = (uid_t)get_le(in + AT_UID, 4);
        h.vocabulary = (uint32_t)get_le(in + AT_VOCABULARY, 4);
        h.parameters = get_le(in + AT_PARAMETERS, 8);
        h.n_tokens = get_le(in + AT_TOKENS, 8);
        h.used_s = get_le(in + AT_USED, 8);
        if (h.n_tokens > SESSION_TOKENS_MAX)
                return damaged(fault, "tokens: there can't be %llu", (unsigned long long)h.n_tokens);
        if (!get_text(in + AT_MODEL, h.model, sizeof(h.model)) || !config_model_name_valid(h.model))
                return damaged(fault, "model is no name of a model");
        if (!get_text(in + AT_NAME, h.name, sizeof(h.name)) || !session_name_valid(h.name))
                return damaged(fault, "name is no name");
        if (!all_zero(in + AT_ZERO, AT_CRC - AT_ZERO))
                return damaged(fault, "the rest of the header is not zero");
        *ret = h;
        return 0;
}

/* ---- folders ---- */

/* The folder of a user. Returns a descriptor or -errno (-ENOENT: there is none, and create is false). */
static int session_folder_open(const char *state_dir, uid_t uid, bool create) {
        _cleanup_fd_ int state = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), sessions = -1;
        char name[16];

        if (state < 0)
                return -errno;
        sessions = file_folder_open_at(state, "sessions", create);
        if (sessions < 0)
                return sessions;
        (void)snprintf(name, sizeof(name), "%u", (unsigned)uid);
        return file_folder_open_at(sessions, name, create);
}

struct file_name {
        char text[SESSION_ID_TEXT + 32];
};

static struct file_name file_name(const char *id, const char *suffix) {
        struct file_name n;

        (void)snprintf(n.text, sizeof(n.text), "%s%s", id, suffix);
        return n;
}

/* ---- writing ---- */

static int write_contents(int fd, const struct session_head *h, const uint32_t *ids) {
        uint8_t header[SESSION_FILE_HEADER], piece[PIECE * sizeof(uint32_t)];
        uint32_t crc;
        int r;

        session_head_pack(h, header);
        crc = crc32c(0, header, sizeof(header));
        r = file_write_all(fd, header, sizeof(header));
        for (size_t i = 0; i < h->n_tokens && r == 0; i += PIECE) {
                size_t n = MIN(h->n_tokens - i, (size_t)PIECE);

                for (size_t k = 0; k < n; k++)
                        put_le(piece + k * 4, ids[i + k], 4);
                crc = crc32c(crc, piece, n * 4);
                r = file_write_all(fd, piece, n * 4);
        }
        put_le(piece, crc, 4);
        if (r == 0)
                r = file_write_all(fd, piece, 4);
        if (r == 0 && fsync(fd) < 0)
                r = -errno;
        return r;
}

int session_file_write(const char *state_dir, const struct session_head *h, const uint32_t *ids) {
        struct file_name name = file_name(h->id, ".session"), beside = file_name(h->id, ".session.tmp");
        _cleanup_fd_ int dir = session_folder_open(state_dir, h->uid, true), fd = -1;
        int r;

        if (dir < 0)
                return dir;
        fd = file_create_at(dir, beside.text);
        if (fd < 0)
                return fd;
        r = write_contents(fd, h, ids);
        if (r == 0)
                r = file_settle_at(dir, beside.text, name.text);
        if (r < 0)
                (void)unlinkat(dir, beside.text, 0);
        return r;
}

/* ---- reading ---- */

static int read_all(int fd, uint8_t *p, size_t size) {
        while (size > 0) {
                ssize_t n = read(fd, p, size);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n == 0)
                        return -EIO; /* shrank meanwhile */
                p += n;
                size -= (size_t)n;
        }
        return 0;
}

/* The ids, in place: bytes of the file become numbers. */
static int unpack_ids(uint8_t *bytes, const struct session_head *h, struct session_fault *fault) {
        uint32_t *ids = (uint32_t *)(void *)bytes;

        for (size_t i = 0; i < h->n_tokens; i++) {
                uint32_t id = (uint32_t)get_le(bytes + 4 * i, 4);

                if (id > INT32_MAX || (h->vocabulary > 0 && id >= h->vocabulary))
                        return damaged(fault, "tokens[%zu]: there is no token %u", i, id);
                ids[i] = id;
        }
        return 0;
}

int session_file_read_fd(int fd, struct session_head *ret, uint32_t **ret_ids, struct session_fault *fault) {
        _cleanup_free_ uint8_t *ids = NULL;
        uint8_t header[SESSION_FILE_HEADER], last[4];
        struct session_head h = { .id = "" };
        struct stat st;
        int r;

        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return damaged(fault, "it is no regular file");
        if ((uint64_t)st.st_size < session_file_size(0))
                return damaged(fault, "size is %llu, less than a header", (unsigned long long)st.st_size);
        r = read_all(fd, header, sizeof(header));
        if (r == 0)
                r = session_head_unpack(header, &h, fault);
        if (r)
                return r;
        if ((uint64_t)st.st_size != session_file_size(h.n_tokens))
                return damaged(fault, "size is %llu, not %llu", (unsigned long long)st.st_size,
                               (unsigned long long)session_file_size(h.n_tokens));
        ids = malloc(h.n_tokens * 4 + 4);
        if (!ids)
                return -ENOMEM;
        r = read_all(fd, ids, h.n_tokens * 4);
        if (r == 0)
                r = read_all(fd, last, sizeof(last));
        if (r < 0)
                return r;
        if (get_le(last, 4) != crc32c(crc32c(0, header, sizeof(header)), ids, h.n_tokens * 4))
                return damaged(fault, "checksum is wrong");
        r = unpack_ids(ids, &h, fault);
        if (r)
                return r;
        *ret = h;
        *ret_ids = (uint32_t *)(void *)steal_ptr(&ids);
        return 0;
}

int session_file_read(const char *state_dir, uid_t uid, const char *id, struct session_head *ret, uint32_t **ret_ids,
                      struct session_fault *fault) {
        struct file_name name = file_name(id, ".session"), aside = file_name(id, ".session.damaged");
        _cleanup_fd_ int dir = session_folder_open(state_dir, uid, false), fd = -1;
        _cleanup_free_ uint32_t *ids = NULL;
        struct session_head h = { .id = "" };
        int r;

        if (dir < 0)
                return dir;
        fd = openat(dir, name.text, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0 && errno == ELOOP)
                r = damaged(fault, "it is a symbolic link");
        else if (fd < 0)
                return -errno;
        else
                r = session_file_read_fd(fd, &h, &ids, fault);
        if (r == 0 && strcmp(h.id, id) != 0)
                r = damaged(fault, "id is another one than the file's name");
        if (r == 0 && h.uid != uid)
                r = damaged(fault, "uid is %u, not the folder's", (unsigned)h.uid);
        if (r == SESSION_FILE_E_INVALID)
                (void)file_settle_at(dir, name.text, aside.text);
        if (r)
                return r;
        *ret = h;
        *ret_ids = steal_ptr(&ids);
        return 0;
}

int session_files_remove(const char *state_dir, uid_t uid, const char *id) {
        static const char *const suffixes[] = { ".session", ".kv", ".kv.tmp" };
        _cleanup_fd_ int dir = session_folder_open(state_dir, uid, false);
        int r = 0;

        if (dir < 0)
                return dir == -ENOENT ? 0 : dir;
        for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
                struct file_name name = file_name(id, suffixes[i]);
                int k = file_remove_at(dir, name.text);

                r = r < 0 ? r : k;
        }
        if (r == 0 && fsync(dir) < 0)
                r = -errno;
        return r;
}

/* ---- KV ---- */

int session_kv_open(const char *state_dir, uid_t uid, const char *id) {
        struct file_name name = file_name(id, ".kv");
        _cleanup_fd_ int dir = session_folder_open(state_dir, uid, false), fd = -1;
        struct stat st;

        if (dir < 0)
                return dir;
        fd = openat(dir, name.text, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        return S_ISREG(st.st_mode) ? fd_steal(&fd) : -EINVAL;
}

int session_kv_create(const char *state_dir, uid_t uid, const char *id, uint64_t *ret_free) {
        struct file_name name = file_name(id, ".kv.tmp");
        _cleanup_fd_ int dir = session_folder_open(state_dir, uid, true);
        struct statvfs fs;

        if (dir < 0)
                return dir;
        if (fstatvfs(dir, &fs) < 0)
                return -errno;
        *ret_free = (uint64_t)fs.f_bavail * fs.f_frsize;
        return file_create_at(dir, name.text);
}

int session_kv_settle(const char *state_dir, uid_t uid, const char *id, int fd, uint64_t *ret_bytes) {
        struct file_name name = file_name(id, ".kv"), beside = file_name(id, ".kv.tmp");
        _cleanup_fd_ int dir = session_folder_open(state_dir, uid, false);
        struct stat st;
        int r;

        if (dir < 0)
                return dir;
        if (fsync(fd) < 0 || fstat(fd, &st) < 0)
                return -errno;
        r = file_settle_at(dir, beside.text, name.text);
        if (r == 0)
                *ret_bytes = (uint64_t)st.st_size;
        return r;
}

int session_kv_remove(const char *state_dir, uid_t uid, const char *id, bool unfinished) {
        struct file_name name = file_name(id, unfinished ? ".kv.tmp" : ".kv");
        _cleanup_fd_ int dir = session_folder_open(state_dir, uid, false);

        if (dir < 0)
                return dir == -ENOENT ? 0 : dir;
        return file_remove_at(dir, name.text);
}
