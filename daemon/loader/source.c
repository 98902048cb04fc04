/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "source.h"

int source_init(struct source *s, int fd, struct loader_error *error) {
        struct stat st;
        int flags;

        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return loader_fail(error, LOADER_E_IO, "the model is not a regular file");
        flags = fcntl(fd, F_GETFL);
        if (flags < 0)
                return -errno;
        if ((flags & O_ACCMODE) == O_WRONLY)
                return loader_fail(error, LOADER_E_IO, "the model file is not open for reading");
        *s = (struct source){ .fd = fd, .size = (uint64_t)st.st_size, .flags = flags };
        /* refused (EINVAL) by file systems that cannot: then through the page cache */
        s->direct = !(flags & O_DIRECT) && fcntl(fd, F_SETFL, flags | O_DIRECT) == 0;
        return 0;
}

void source_deinit(struct source *s) {
        if (s->fd >= 0)
                source_stop_direct(s);
        *s = SOURCE_NULL;
}

void source_stop_direct(struct source *s) {
        if (s->direct)
                (void)fcntl(s->fd, F_SETFL, s->flags);
        s->direct = false;
}

int source_read(struct source *s, uint64_t offset, void *buf, size_t n, size_t need, struct loader_error *error) {
        const char *name = s->name ? s->name : "", *colon = s->name ? ": " : "";
        size_t done = 0;

        error->part = s->part;
        while (done < n) {
                ssize_t r = pread(s->fd, (char *)buf + done, n - done, (off_t)(offset + done));

                if (r < 0 && errno == EINTR)
                        continue;
                if (r < 0 && errno == EINVAL && s->direct) {
                        source_stop_direct(s);
                        continue;
                }
                if (r < 0)
                        return loader_fail(error, LOADER_E_IO, "%s%sreading at offset %llu failed: %s", name, colon,
                                           (unsigned long long)(offset + done), strerror(errno));
                if (r == 0)
                        break;
                done += (size_t)r;
        }
        if (done < need)
                return loader_fail(error, LOADER_E_IO,
                                   "%s%sthe file ended at offset %llu while it was read (it had %llu bytes at first)", name, colon,
                                   (unsigned long long)(offset + done), (unsigned long long)s->size);
        return 0;
}

void source_forget(struct source *s, uint64_t offset, size_t n) {
        if (!s->direct)
                (void)posix_fadvise(s->fd, (off_t)offset, (off_t)n, POSIX_FADV_DONTNEED);
}
