/* SPDX-License-Identifier: Apache-2.0 */

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/splitname.h"
#include "model-file.h"

/* "load [#####     ] 52 %  3.1 GiB/s  4.2 s left" */
void byte_bar_show(struct ctl *ctl, const struct spark_progress *p) {
        char stage[32], rate[32], left[32], bar[25];
        double share;

        if (p->total == 0 || p->done > p->total)
                return;
        (void)format_safe(p->stage, stage, sizeof(stage));
        share = (double)p->done / (double)p->total;
        memset(bar, ' ', sizeof(bar) - 1);
        memset(bar, '#', (size_t)(share * (sizeof(bar) - 1)));
        bar[sizeof(bar) - 1] = 0;
        if (p->bytes_per_second > 0)
                ctl_progress(ctl, "%s [%s] %3u %%  %s/s  %s left", stage, bar, (unsigned)(share * 100),
                             words_bytes(p->bytes_per_second, rate), format_duration((double)p->eta_ms / 1000, left));
        else
                ctl_progress(ctl, "%s [%s] %3u %%", stage, bar, (unsigned)(share * 100));
}

bool model_file_is_directory(const char *path) {
        struct stat st;

        return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* "models/Some Model-00001-of-00003.gguf" -> "Some-Model"; a directory's name is taken whole. */
const char *model_file_name(const char *path, char out[MODEL_NAME_BYTES + 1]) {
        _cleanup_free_ char *whole = model_file_is_directory(path) ? realpath(path, NULL) : NULL;
        const char *slash = strrchr(whole ? whole : path, '/'), *base = slash ? slash + 1 : path, *end = NULL;
        char first[PATH_MAX];
        size_t n;

        while (*base == '.')
                base++;
        if (splitname_part(path, 1, first, sizeof(first)))
                end = path + strlen(path) - strlen("-00001-of-00003.gguf");
        else if (!whole)
                end = strrchr(base, '.');
        n = end && end > base ? (size_t)(end - base) : strlen(base);
        n = MIN(n, (size_t)MODEL_NAME_BYTES);
        for (size_t i = 0; i < n; i++)
                out[i] = isalnum((unsigned char)base[i]) || strchr("._:-", base[i]) ? base[i] : '-';
        out[n] = 0;
        return n > 0 ? out : NULL;
}

const char *model_file_hint(const char *what, char *out, size_t size) {
        char safe[200];

        if (access(what, F_OK) < 0)
                return NULL;
        (void)snprintf(out, size, "A file is named with a '/': ./%s", format_safe(what, safe, sizeof(safe)));
        return out;
}

int model_file_open(const struct ctl *ctl, const char *path, int *ret_fd) {
        _cleanup_fd_ int fd = -1;
        struct stat st;

        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        if (fd < 0 && (errno == EACCES || errno == EPERM))
                return ctl_fail(ctl, EXIT_NOT_PERMITTED, "PERMISSION_DENIED", "Give yourself permission to read it.",
                                "%s can't be opened: %s.", path, strerror(errno));
        if (fd < 0)
                return ctl_fail(ctl, EXIT_BAD_DATA, "FILE",
                                strchr(path, '/') ? "Check the path; a name without '/' means a model that the service knows."
                                                  : "Check the path.",
                                "%s can't be opened: %s.", path, strerror(errno));
        if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
                return ctl_fail(ctl, EXIT_BAD_DATA, "FILE", "A model is one file, e.g. in GGUF format.",
                                "%s is not a regular file.", path);
        *ret_fd = fd_steal(&fd);
        return 0;
}
