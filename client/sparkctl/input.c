/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "input.h"

#define PIECE ((size_t)64 << 10)

static int read_all(const struct ctl *ctl, int fd, const char *name, struct buf *out) {
        for (;;) {
                ssize_t n;
                int r = buf_reserve(out, PIECE);

                if (r == BUF_E_LIMIT)
                        return ctl_fail(ctl, EXIT_BAD_DATA, "TOO_LARGE", "Send less at once.",
                                        "%s is larger than 1 GiB.", name);
                if (r < 0)
                        return ctl_fail(ctl, EXIT_OTHER, "NO_MEMORY", NULL, "Out of memory.");
                n = read(fd, out->data + out->len, PIECE);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return ctl_fail(ctl, EXIT_BAD_DATA, "FILE", "Check the path.", "%s can't be read: %s.", name,
                                        strerror(errno));
                if (n == 0)
                        break;
                out->len += (size_t)n;
        }
        out->data[out->len] = 0;
        return 0;
}

int input_text(const struct ctl *ctl, const char *argument, struct buf *out) {
        if (strcmp(argument, "-") == 0)
                return read_all(ctl, STDIN_FILENO, "Standard input", out);
        if (buf_append_str(out, argument) != 0)
                return ctl_fail(ctl, EXIT_OTHER, "NO_MEMORY", NULL, "Out of memory.");
        return 0;
}

int input_file(const struct ctl *ctl, const char *path, struct buf *out) {
        _cleanup_fd_ int fd = -1;

        if (strcmp(path, "-") == 0)
                return read_all(ctl, STDIN_FILENO, "Standard input", out);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return ctl_fail(ctl, errno == EACCES ? EXIT_NOT_PERMITTED : EXIT_BAD_DATA, "FILE",
                                "Check the path and its permissions.", "%s can't be opened: %s.", path,
                                strerror(errno));
        return read_all(ctl, fd, path, out);
}
