/* SPDX-License-Identifier: Apache-2.0 */

/*
 * All that a log may ever have is mapped at the beginning, so that nothing of it moves; the file grows under the mapping. It
 * is allocated before it is written: a page that cannot be had is an error then, and no SIGBUS.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/fd.h"
#include "keep-private.h"

#define MAGIC "SPRKKEEP" /* without its end */
#define GROW_BYTES ((size_t)256 << 10)
#define REWRITE_BYTES ((size_t)4 << 20) /* out of date, beyond as much as there is */

/* NULL with errno set. */
static struct keep_head *log_map(int fd) {
        void *p = mmap(NULL, KEEP_BYTES_MAX, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);

        return p == MAP_FAILED ? NULL : p;
}

/* Makes room up to `end`. */
static int log_grow(struct keep_log *log, size_t end) {
        size_t size = log->size;

        if (end <= size)
                return 0;
        if (end > KEEP_BYTES_MAX)
                return KEEP_LOG_E_FULL;
        while (size < end)
                size += MAX(GROW_BYTES, size / 4 & ~(GROW_BYTES - 1));
        size = MIN(size, KEEP_BYTES_MAX);
        if (fallocate(log->fd, 0, (off_t)log->size, (off_t)(size - log->size)) < 0)
                return -errno;
        log->size = size;
        return 0;
}

int keep_log_new(struct keep_log *ret, uint64_t generation) {
        struct keep_log log = KEEP_LOG_NULL;
        int r;

        log.fd = fd_memfd_new("sparkd-state", 0);
        if (log.fd < 0)
                return log.fd;
        r = log_grow(&log, KEEP_LOG_HEAD);
        log.head = r == 0 ? log_map(log.fd) : NULL;
        if (!log.head) {
                r = r < 0 ? r : -errno;
                keep_log_close(&log);
                return r;
        }
        memcpy(log.head->magic, MAGIC, sizeof(log.head->magic));
        log.head->version = KEEP_VERSION;
        log.head->generation = generation;
        log.end = KEEP_LOG_HEAD;
        keep_log_commit(&log);
        *ret = log;
        return 0;
}

int keep_log_open(struct keep_log *ret, int fd) {
        struct keep_log log = KEEP_LOG_NULL;
        struct stat st;
        uint64_t end;
        int r = 0;

        if (fcntl(fd, F_GET_SEALS) < 0 || fstat(fd, &st) < 0 || (uint64_t)st.st_size < KEEP_LOG_HEAD ||
            (uint64_t)st.st_size > KEEP_BYTES_MAX)
                return KEEP_LOG_E_FOREIGN;
        log.fd = fd;
        log.size = (size_t)st.st_size;
        log.head = log_map(fd);
        if (!log.head)
                return -errno;
        end = atomic_load_explicit(&log.head->committed, memory_order_acquire);
        if (memcmp(log.head->magic, MAGIC, sizeof(log.head->magic)) != 0 || log.head->version != KEEP_VERSION)
                r = KEEP_LOG_E_FOREIGN;
        else if (!log.head->complete || end < KEEP_LOG_HEAD || end > log.size)
                r = KEEP_LOG_E_DAMAGED;
        if (r) {
                (void)munmap(log.head, KEEP_BYTES_MAX);
                return r;
        }
        log.end = (size_t)end;
        *ret = log;
        return 0;
}

void keep_log_close(struct keep_log *log) {
        if (log->head)
                (void)munmap(log->head, KEEP_BYTES_MAX);
        (void)fd_close(log->fd);
        *log = KEEP_LOG_NULL;
}

void keep_log_void(struct keep_log *log) {
        if (!log->head)
                return;
        log->head->complete = 0;
        if (ftruncate(log->fd, KEEP_LOG_HEAD) == 0) /* its memory is others' */
                log->size = log->end = KEEP_LOG_HEAD;
}

size_t keep_log_rewrite_at(size_t end) {
        size_t left = KEEP_BYTES_MAX - MIN(end, KEEP_BYTES_MAX);

        if (end + REWRITE_BYTES <= left)
                return 2 * end + REWRITE_BYTES;
        return left / 2 >= REWRITE_BYTES ? end + left / 2 : SIZE_MAX;
}

int keep_log_append(struct keep_log *log, const Spark__State__V1__Record *record) {
        size_t size = spark__state__v1__record__get_packed_size(record), end;
        struct keep_record head;
        uint8_t *at;
        int r;

        if (size > KEEP_BYTES_MAX || __builtin_add_overflow(log->end, sizeof(head) + size, &end))
                return KEEP_LOG_E_FULL;
        r = log_grow(log, end);
        if (r)
                return r;
        at = (uint8_t *)log->head + log->end;
        (void)spark__state__v1__record__pack(record, at + sizeof(head));
        head = (struct keep_record){ .size = (uint32_t)size, .crc = crc32c(0, at + sizeof(head), size) };
        memcpy(at, &head, sizeof(head));
        log->end = end;
        return 0;
}

void keep_log_commit(struct keep_log *log) {
        atomic_store_explicit(&log->head->committed, log->end, memory_order_release);
}

int keep_log_read(const struct keep_log *log, keep_reader reader, void *userdata) {
        const uint8_t *at = (const uint8_t *)log->head + KEEP_LOG_HEAD, *end = (const uint8_t *)log->head + log->end;

        while (at < end) {
                Spark__State__V1__Record *record;
                struct keep_record head;

                if ((size_t)(end - at) < sizeof(head))
                        return KEEP_LOG_E_DAMAGED;
                memcpy(&head, at, sizeof(head));
                at += sizeof(head);
                if ((size_t)(end - at) < head.size || crc32c(0, at, head.size) != head.crc)
                        return KEEP_LOG_E_DAMAGED;
                record = spark__state__v1__record__unpack(NULL, head.size, at);
                if (!record)
                        return KEEP_LOG_E_DAMAGED;
                if (reader && record->body_case != SPARK__STATE__V1__RECORD__BODY__NOT_SET)
                        reader(userdata, record);
                spark__state__v1__record__free_unpacked(record, NULL);
                at += head.size;
        }
        return 0;
}
