/* SPDX-License-Identifier: Apache-2.0 */

/* Finds and opens the shared object with the CUDA backend. */

#include "cuda-load.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/macro.h"

#define LIBRARY "libspark-cuda.so"

#ifndef SPARK_LIBDIR /* the Makefile says; analysers do not know */
#define SPARK_LIBDIR "/usr/local/lib"
#endif

/* From the folder of the program: of a build, of an installation's bin, of its libexec/sparkd. */
static const char *const beside[] = { "/../lib/" LIBRARY, "/../lib/sparkd/" LIBRARY, "/../../lib/sparkd/" LIBRARY };

static void _printf_(2, 3) say(struct backend_error *error, const char *fmt, ...) {
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(error->text, sizeof(error->text), fmt, ap);
        va_end(ap);
}

static const struct backend_ops *ask(void *object, struct backend_error *error) {
        const struct backend_ops *ops;
        void *symbol = dlsym(object, CUDA_ENTRY);
        const char *reason = NULL;
        cuda_entry_fn *entry;

        if (!symbol) {
                say(error, LIBRARY " is something else: it has no " CUDA_ENTRY "()");
                (void)dlclose(object);
                return NULL;
        }
        memcpy(&entry, &symbol, sizeof(entry)); /* POSIX says that it fits, C has no conversion */
        ops = entry(BACKEND_ABI, &reason);
        if (!ops)
                say(error, "%s", reason ? reason : "it does not say why");
        return ops; /* cppcheck-suppress returnDanglingLifetime ; the entry keeps nothing */
}

/* Whether something is there; then *ret says what came of it. */
static bool try_path(const char *path, const struct backend_ops **ret, struct backend_error *error) {
        void *object;

        if (access(path, F_OK) < 0 && (errno == ENOENT || errno == ENOTDIR))
                return false;
        object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (object)
                *ret = ask(object, error);
        else
                say(error, "%s", dlerror());
        return true;
}

const struct backend_ops *cuda_load(const char *library, struct backend_error *error) {
        const struct backend_ops *ops = NULL;
        char path[PATH_MAX], self[PATH_MAX];
        ssize_t n;

        if (library) {
                if (!try_path(library, &ops, error))
                        say(error, "there is no %s", library);
                return ops;
        }
        n = readlink("/proc/self/exe", self, sizeof(self) - 1);
        self[n > 0 ? n : 0] = 0;
        if (strrchr(self, '/')) {
                *strrchr(self, '/') = 0;
                for (size_t i = 0; i < ARRAY_SIZE(beside); i++) {
                        if (snprintf(path, sizeof(path), "%s%s", self, beside[i]) >= (int)sizeof(path))
                                continue;
                        if (try_path(path, &ops, error))
                                return ops;
                }
        }
        if (!try_path(SPARK_LIBDIR "/sparkd/" LIBRARY, &ops, error))
                say(error, "it is not installed (there is no " SPARK_LIBDIR "/sparkd/" LIBRARY ")");
        return ops;
}
