/* SPDX-License-Identifier: Apache-2.0 */

/* Feeds files (and the files of folders) to a fuzz target, so that the corpus replays without libFuzzer. */

#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/macro.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path) {
        _cleanup_free_ uint8_t *data = NULL;
        FILE *f;
        long size;
        size_t n;

        f = fopen(path, "re");
        if (!f)
                return -errno;
        if (fseek(f, 0, SEEK_END) < 0 || (size = ftell(f)) < 0 || fseek(f, 0, SEEK_SET) < 0) {
                (void)fclose(f);
                return -EIO;
        }
        /* exactly as large as the input, so that a sanitizer sees one byte too many */
        data = malloc(size ? (size_t)size : 1);
        n = data ? fread(data, 1, (size_t)size, f) : 0;
        (void)fclose(f);
        if (!data || n != (size_t)size)
                return -EIO;
        (void)LLVMFuzzerTestOneInput(data, n);
        return 0;
}

static int replay(const char *path, size_t *n_files) {
        struct dirent **names;
        struct stat st;
        int n, r = 0;

        if (stat(path, &st) < 0)
                return -errno;
        if (!S_ISDIR(st.st_mode)) {
                (*n_files)++;
                return replay_file(path);
        }
        n = scandir(path, &names, NULL, alphasort);
        if (n < 0)
                return -errno;
        for (int i = 0; i < n; i++) {
                char child[4096];

                if (names[i]->d_name[0] != '.' && r == 0 &&
                    snprintf(child, sizeof(child), "%s/%s", path, names[i]->d_name) < (int)sizeof(child))
                        r = replay(child, n_files);
                free(names[i]);
        }
        free(names);
        return r;
}

int main(int argc, char **argv) {
        size_t n_files = 0;

        for (int i = 1; i < argc; i++) {
                int r = replay(argv[i], &n_files);

                if (r < 0) {
                        (void)fprintf(stderr, "%s: %s\n", argv[i], strerror(-r));
                        return 1;
                }
        }
        (void)printf("%zu inputs replayed\n", n_files);
        return n_files == 0;
}
