/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/macro.h"
#include "kvfile.h"

#define MAGIC "SPARKKV1"
#define ALIGN 4096u
#define SUMMED 120u       /* bytes of the header under its checksum */

static _printf_(3, 4) int refuse(struct kvfile_fault *f, int code, const char *fmt, ...) {
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(f->text, sizeof(f->text), fmt, ap);
        va_end(ap);
        return code;
}

static uint64_t load_word(const uint8_t *p) {
        uint64_t w;

        memcpy(&w, p, sizeof(w));
        return w;
}

/* Four lanes of multiply and rotate, 32 bytes a turn: pages are megabytes. Finds damage, not malice. */
static uint64_t checksum(uint64_t seed, const void *data, size_t n) {
        const uint64_t prime = 0x9E3779B97F4A7C15u;
        uint64_t lane[4] = { seed, seed ^ 0x243F6A8885A308D3u, seed ^ 0x13198A2E03707344u, seed ^ 0xA4093822299F31D0u };
        const uint8_t *p = data;
        uint64_t h = n;

        for (; n >= 32; n -= 32, p += 32)
                for (int i = 0; i < 4; i++) {
                        lane[i] = (lane[i] ^ load_word(p + 8 * i)) * prime;
                        lane[i] ^= lane[i] >> 31;
                }
        for (; n > 0; n--)
                lane[0] = (lane[0] ^ *p++) * prime;
        for (int i = 0; i < 4; i++) {
                h = (h ^ lane[i]) * prime;
                h ^= h >> 29;
        }
        return h;
}

static int write_at(int fd, const void *data, size_t n, uint64_t at) {
        const uint8_t *p = data;

        while (n > 0) {
                ssize_t w = pwrite(fd, p, n, (off_t)at);

                if (w < 0 && errno == EINTR)
                        continue;
                if (w <= 0)
                        return w < 0 ? -errno : -EIO;
                p += w;
                n -= (size_t)w;
                at += (uint64_t)w;
        }
        return 0;
}

/* 0, -errno, or -ENODATA where the file ends before that. */
static int read_at(int fd, void *data, size_t n, uint64_t at) {
        uint8_t *p = data;

        while (n > 0) {
                ssize_t r = pread(fd, p, n, (off_t)at);

                if (r < 0 && errno == EINTR)
                        continue;
                if (r <= 0)
                        return r < 0 ? -errno : -ENODATA;
                p += r;
                n -= (size_t)r;
                at += (uint64_t)r;
        }
        return 0;
}

uint64_t kvfile_pages_offset(const struct kvfile_kind *kind, uint32_t most_pages) {
        uint64_t n = KVFILE_HEADER + (uint64_t)MIN(most_pages, KVFILE_PAGES_MAX) * kind->page_tokens * 4;

        return (n + ALIGN - 1) / ALIGN * ALIGN;
}

static uint64_t page_offset(const struct kvfile_kind *kind, uint64_t pages_offset, uint32_t page) {
        return pages_offset + (kind->page_bytes + 8) * page;
}

int kvfile_write_pages(int fd, const struct kvfile_kind *kind, uint64_t pages_offset, uint32_t first, uint32_t n,
                       const void *data) {
        const uint8_t *p = data;

        for (uint32_t i = 0; i < n; i++, p += kind->page_bytes) {
                uint64_t at = page_offset(kind, pages_offset, first + i), sum = checksum(first + i, p, kind->page_bytes);
                int r;

                r = write_at(fd, p, kind->page_bytes, at);
                if (r == 0)
                        r = write_at(fd, &sum, sizeof(sum), at + kind->page_bytes);
                if (r < 0)
                        return r;
        }
        return 0;
}

static void put(uint8_t *header, size_t at, const void *value, size_t n) {
        memcpy(header + at, value, n);
}

int kvfile_write_header(int fd, const struct kvfile_kind *kind, uint64_t pages_offset, uint32_t n, const int32_t *tokens) {
        const uint32_t version = KVFILE_VERSION, size = KVFILE_HEADER;
        size_t bytes = (size_t)n * kind->page_tokens * sizeof(*tokens);
        uint8_t header[KVFILE_HEADER] = MAGIC;
        uint64_t sum;
        int r;

        put(header, 8, &version, 4);
        put(header, 12, &size, 4);
        put(header, 16, kind->fingerprint, sizeof(kind->fingerprint));
        put(header, 32, kind->backend, sizeof(kind->backend));
        put(header, 48, &kind->kv_format, 4);
        put(header, 52, &kind->page_tokens, 4);
        put(header, 56, &kind->page_bytes, 8);
        put(header, 64, &n, 4);
        put(header, 72, &pages_offset, 8);
        sum = checksum(checksum(0, header, SUMMED), tokens, bytes);
        put(header, SUMMED, &sum, 8);
        r = write_at(fd, tokens, bytes, KVFILE_HEADER);
        return r < 0 ? r : write_at(fd, header, sizeof(header), 0);
}

/* The file's fields against what they must be; those that can be chosen are checked by themselves. */
static int check_header(const uint8_t *h, const struct kvfile_kind *kind, uint32_t *ret_n, uint64_t *ret_offset,
                        struct kvfile_fault *f) {
        uint32_t version, size, n;
        uint64_t offset;

        memcpy(&version, h + 8, 4);
        memcpy(&size, h + 12, 4);
        memcpy(&n, h + 64, 4);
        memcpy(&offset, h + 72, 8);
        if (memcmp(h, MAGIC, 8) != 0)
                return refuse(f, KVFILE_E_INVALID, "magic: this is no KV file");
        if (version != KVFILE_VERSION)
                return refuse(f, KVFILE_E_OTHER, "version is %u, this engine knows %u", version, KVFILE_VERSION);
        if (size != KVFILE_HEADER)
                return refuse(f, KVFILE_E_INVALID, "header has %u bytes, not %u", size, KVFILE_HEADER);
        if (memcmp(h + 16, kind->fingerprint, sizeof(kind->fingerprint)) != 0)
                return refuse(f, KVFILE_E_OTHER, "fingerprint: the file is of another model");
        if (memcmp(h + 32, kind->backend, sizeof(kind->backend)) != 0)
                return refuse(f, KVFILE_E_OTHER, "backend: the file is of another backend");
        if (memcmp(h + 48, &kind->kv_format, 4) != 0)
                return refuse(f, KVFILE_E_OTHER, "kv_format: the file is of another KV format");
        if (memcmp(h + 52, &kind->page_tokens, 4) != 0 || memcmp(h + 56, &kind->page_bytes, 8) != 0)
                return refuse(f, KVFILE_E_OTHER, "pages are of another size");
        if (n > KVFILE_PAGES_MAX)
                return refuse(f, KVFILE_E_INVALID, "number of pages is %u, at most %u are possible", n, KVFILE_PAGES_MAX);
        if (offset % ALIGN != 0 || offset < kvfile_pages_offset(kind, n) ||
            offset > kvfile_pages_offset(kind, KVFILE_PAGES_MAX))
                return refuse(f, KVFILE_E_INVALID, "offset of the pages is %llu, which cannot be",
                              (unsigned long long)offset);
        *ret_n = n;
        *ret_offset = offset;
        return 0;
}

/* The file's token ids; its header's checksum is over them, too. */
static int read_tokens(int fd, const uint8_t *header, size_t n, int32_t **ret, struct kvfile_fault *f) {
        _cleanup_free_ int32_t *tokens = NULL;
        struct stat st;
        uint64_t sum;
        int r;

        /* Before memory is taken for as many as the header says. */
        if (fstat(fd, &st) < 0)
                return -errno;
        if (st.st_size < 0 || (uint64_t)st.st_size < KVFILE_HEADER + (uint64_t)n * sizeof(*tokens))
                return refuse(f, KVFILE_E_INVALID, "the file ends in its tokens");
        tokens = calloc(n ? n : 1, sizeof(*tokens));
        if (!tokens)
                return -ENOMEM;
        r = read_at(fd, tokens, n * sizeof(*tokens), KVFILE_HEADER);
        if (r < 0)
                return r == -ENODATA ? refuse(f, KVFILE_E_INVALID, "the file ends in its tokens") : r;
        memcpy(&sum, header + SUMMED, 8);
        if (sum != checksum(checksum(0, header, SUMMED), tokens, n * sizeof(*tokens)))
                return refuse(f, KVFILE_E_INVALID, "the header's checksum is wrong");
        *ret = steal_ptr(&tokens);
        return 0;
}

int kvfile_read_header(int fd, const struct kvfile_kind *kind, const int32_t *tokens, size_t n_tokens,
                       uint64_t *ret_pages_offset, uint32_t *ret_pages, struct kvfile_fault *f) {
        _cleanup_free_ int32_t *have = NULL;
        uint8_t header[KVFILE_HEADER];
        uint64_t offset = 0;
        uint32_t n = 0;
        size_t agree = 0, most;
        int r;

        r = read_at(fd, header, sizeof(header), 0);
        if (r < 0)
                return r == -ENODATA ? refuse(f, KVFILE_E_INVALID, "the file ends in its header") : r;
        r = check_header(header, kind, &n, &offset, f);
        if (r == 0)
                r = read_tokens(fd, header, (size_t)n * kind->page_tokens, &have, f);
        if (r != 0 || !have)
                return r;
        most = MIN((size_t)n * kind->page_tokens, n_tokens);
        while (agree < most && have[agree] == tokens[agree])
                agree++;
        *ret_pages_offset = offset;
        *ret_pages = (uint32_t)(agree / kind->page_tokens);
        return 0;
}

int kvfile_read_pages(int fd, const struct kvfile_kind *kind, uint64_t pages_offset, uint32_t first, uint32_t n, void *data,
                      struct kvfile_fault *f) {
        uint8_t *p = data;

        for (uint32_t i = 0; i < n; i++, p += kind->page_bytes) {
                uint64_t at = page_offset(kind, pages_offset, first + i), sum = 0;
                int r;

                r = read_at(fd, p, kind->page_bytes, at);
                if (r == 0)
                        r = read_at(fd, &sum, sizeof(sum), at + kind->page_bytes);
                if (r < 0)
                        return r == -ENODATA ? refuse(f, KVFILE_E_INVALID, "the file ends in page %u", first + i) : r;
                if (sum != checksum(first + i, p, kind->page_bytes))
                        return refuse(f, KVFILE_E_INVALID, "page %u: its checksum is wrong", first + i);
        }
        return 0;
}
