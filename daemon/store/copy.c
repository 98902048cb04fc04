/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Reading and writing happen here, hashing on the hasher's thread. Written pages are pushed to the disk as we go and
 * then dropped from the page cache: on a machine with one memory for everything, a copy of 70 GB must not turn into
 * 70 GB of dirty pages, nor push out what others have there.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/macro.h"
#include "copy.h"

#define WRITE_BEHIND ((uint64_t)64 << 20)

static int fault(struct store_copy *c, int code, const char *fmt, ...) _printf_(3, 4);
static int fault(struct store_copy *c, int code, const char *fmt, ...) {
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(c->error, sizeof(c->error), fmt, ap);
        va_end(ap);
        return code;
}

static int write_fault(struct store_copy *c, int e) {
        if (e == ENOSPC || e == EDQUOT || e == EFBIG)
                return fault(c, STORE_COPY_E_SPACE, "the file system has no room left (%s)", strerror(e));
        return fault(c, STORE_COPY_E_IO, "writing to the store failed: %s", strerror(e));
}

/* Fills a block, up to the end of the file. Reads whole blocks even at the end, which O_DIRECT wants. */
static int read_block(struct store_copy *c, int fd, uint8_t *block, uint64_t at, size_t want) {
        size_t got = 0;

        while (got < want) {
                ssize_t n = pread(fd, block + got, HASHER_BLOCK - got, (off_t)(at + got));

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return fault(c, STORE_COPY_E_IO, "reading failed at byte %llu: %s",
                                     (unsigned long long)(at + got), strerror(errno));
                if (n == 0)
                        return fault(c, STORE_COPY_E_CHANGED, "the file became shorter while it was read");
                got += (size_t)n;
        }
        return got == want ? 0 : fault(c, STORE_COPY_E_CHANGED, "the file became longer while it was read");
}

static int write_block(struct store_copy *c, const uint8_t *block, uint64_t at, size_t size) {
        while (size > 0) {
                ssize_t n = pwrite(c->output, block, size, (off_t)at);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return write_fault(c, n < 0 ? errno : EIO);
                block += n;
                at += (uint64_t)n;
                size -= (size_t)n;
        }
        return 0;
}

/* Starts writing what came last, waits for what came before it, and drops that. Advice only: fsync() is what counts. */
static void write_behind(const struct store_copy *c, uint64_t at) {
        if (at < WRITE_BEHIND)
                return;
        (void)sync_file_range(c->output, (off_t)(at - WRITE_BEHIND), (off_t)WRITE_BEHIND, SYNC_FILE_RANGE_WRITE);
        if (at < 2 * WRITE_BEHIND)
                return;
        (void)sync_file_range(c->output, (off_t)(at - 2 * WRITE_BEHIND), (off_t)WRITE_BEHIND,
                              SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
        (void)posix_fadvise(c->output, (off_t)(at - 2 * WRITE_BEHIND), (off_t)WRITE_BEHIND, POSIX_FADV_DONTNEED);
}

static int pass(struct store_copy *c, int from, bool write) {
        int r = 0;

        for (uint64_t at = 0; at < c->size && r == 0;) {
                size_t n = (size_t)MIN(c->size - at, (uint64_t)HASHER_BLOCK);
                uint8_t *block = hasher_block(c->hasher);

                r = read_block(c, from, block, at, n);
                if (r == 0 && write)
                        r = write_block(c, block, at, n);
                if (r)
                        break;
                hasher_push(c->hasher, n);
                at += n;
                if (write && at % WRITE_BEHIND == 0)
                        write_behind(c, at);
                if (c->progress)
                        c->progress(c->arg, at, c->size);
        }
        return r;
}

/* A reflink, or room for a copy. */
static int prepare_output(struct store_copy *c) {
        if (ioctl(c->output, FICLONE, c->input) == 0) {
                c->method = STORELINK_REFLINK;
                return 0;
        }
        c->method = STORELINK_COPY;
        if (fallocate(c->output, 0, 0, (off_t)c->size) < 0 && errno != EOPNOTSUPP && errno != ENOSYS)
                return write_fault(c, errno);
        return 0;
}

static bool same_state(const struct stat *a, const struct stat *b) {
        return a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
               a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

int store_copy_run(struct store_copy *c) {
        struct stat before, after;
        int r = 0;

        if (fstat(c->input, &before) < 0)
                return fault(c, STORE_COPY_E_IO, "the file can't be looked at: %s", strerror(errno));
        if (!S_ISREG(before.st_mode))
                return fault(c, STORE_COPY_E_CHANGED, "it is no regular file");
        if (before.st_size <= 0)
                return fault(c, STORE_COPY_E_CHANGED, "the file is empty");
        c->size = (uint64_t)before.st_size;
        c->method = STORELINK_HASHED;
        if (c->output >= 0)
                r = prepare_output(c);
        (void)posix_fadvise(c->input, 0, 0, POSIX_FADV_SEQUENTIAL);
        if (r == 0)
                r = pass(c, c->method == STORELINK_REFLINK ? c->output : c->input, c->method == STORELINK_COPY);
        if (r)
                return r;
        if (fstat(c->input, &after) < 0 || !same_state(&before, &after))
                return fault(c, STORE_COPY_E_CHANGED, "the file changed while it was read");
        hasher_finish(c->hasher, c->digest);
        if (c->output >= 0 && fsync(c->output) < 0)
                return write_fault(c, errno);
        return 0;
}
