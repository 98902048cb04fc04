/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/macro.h"
#include "daemon/image/layout.h"

#include "pack.h"

uint64_t pack_size(const struct image_plan *plan) {
        uint64_t size = 0;

        for (size_t i = 0; i < plan->n_segments; i++)
                size += plan->segment_size[i]; /* at most 64 of what fits an off_t each; a plan of more than that is refused */
        return size;
}

static int fail(struct pack *p, const char *what, int e) {
        return loader_fail(p->error, LOADER_E_IO, "the packed image cannot be written: %s: %s", what, strerror(e));
}

int pack_init(struct pack *p, struct image_plan *plan, int fd, struct loader_error *error) {
        uint64_t size = pack_size(plan), at = 0;
        struct stat st;

        *p = (struct pack){ .fd = fd, .plan = plan, .error = error };
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != size)
                return -EINVAL;
        if (fallocate(fd, 0, 0, (off_t)size) < 0 && errno != EOPNOTSUPP)
                return fail(p, "no room", errno);
        for (size_t i = 0; i < plan->n_segments; i++) {
                void *map = mmap(NULL, (size_t)plan->segment_size[i], PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)at);

                if (map == MAP_FAILED)
                        return errno == EACCES ? -EINVAL : -errno;
                p->maps[i] = map;
                p->base[i] = at;
                at += plan->segment_size[i];
        }
        return 0;
}

void pack_deinit(struct pack *p) {
        for (size_t i = 0; i < IMAGE_SEGMENTS_MAX; i++)
                if (p->maps[i])
                        (void)munmap(p->maps[i], (size_t)p->plan->segment_size[i]);
        *p = (struct pack){ .fd = -1 };
}

/* Large tensors begin with a page and share the last one at most. This is thrift: whether it worked says pack_finish(). */
void pack_tensor(void *arg, const struct image_tensor *t) {
        struct pack *p = arg;
        uint64_t n = t->size / IMAGE_PAGE * IMAGE_PAGE, at = p->base[t->segment] + t->offset;

        if (t->size < IMAGE_PAGE_FROM)
                return;
        (void)madvise((char *)p->maps[t->segment] + t->offset, (size_t)n, MADV_DONTNEED); /* of a shared mapping: let go, not lost */
        (void)sync_file_range(p->fd, (off_t)at, (off_t)n,
                              SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
        (void)posix_fadvise(p->fd, (off_t)at, (off_t)n, POSIX_FADV_DONTNEED);
}

int pack_finish(struct pack *p) {
        size_t n = (size_t)p->plan->tables_size, header = sizeof(struct image_header);
        _cleanup_free_ char *tables = calloc(1, n);

        if (!tables)
                return -ENOMEM;
        p->plan->checked = true;
        image_plan_write_tables(p->plan, tables);
        (void)memcpy((char *)p->maps[0] + header, tables + header, n - header);
        if (fdatasync(p->fd) < 0)
                return fail(p, "its data", errno);
        (void)memcpy(p->maps[0], tables, header);
        if (fdatasync(p->fd) < 0)
                return fail(p, "its header", errno);
        for (size_t i = 0; i < p->plan->n_segments; i++) /* what pack_tensor() had to leave, since pages come in larger lots */
                (void)madvise(p->maps[i], (size_t)p->plan->segment_size[i], MADV_DONTNEED);
        (void)posix_fadvise(p->fd, 0, 0, POSIX_FADV_DONTNEED);
        return 0;
}
