/* SPDX-License-Identifier: Apache-2.0 */

/* Which backends there are, and which one is taken. */

#include "backend.h"

#include <stdio.h>
#include <string.h>

#include "base/macro.h"
#include "cuda-load.h"

static const struct backend_ops *load_cuda(const struct backend_config *config, struct backend_error *error) {
        return cuda_load(config ? config->library : NULL, error);
}

/* Best first; one that is not part of the program is loaded when it is wanted. */
static const struct {
        const char *name;
        const struct backend_ops *ops;
        const struct backend_ops *(*load)(const struct backend_config *config, struct backend_error *error);
} backends[] = {
        { "cuda", NULL, load_cuda },
        { "cpu", &backend_cpu, NULL },
        { "null", &backend_null, NULL },
};

const struct backend_ops *backend_choose(const char *name, const struct backend_config *config,
                                         struct backend_error *error) {
        bool automatic = strcmp(name, "auto") == 0;
        struct backend_error reason, unheard;

        if (!error)
                error = &unheard;
        error->text[0] = 0;
        for (size_t i = 0; i < ARRAY_SIZE(backends); i++) {
                const struct backend_ops *ops = backends[i].ops;

                if (!automatic && strcmp(name, backends[i].name) != 0)
                        continue;
                if (backends[i].load)
                        ops = backends[i].load(config, &reason);
                if (ops && !(automatic && ops->fake))
                        return ops; /* cppcheck-suppress returnDanglingLifetime ; load() keeps nothing */
                if (!ops)
                        (void)snprintf(error->text, sizeof(error->text), "the %s backend %s: %.250s", backends[i].name,
                                       automatic ? "is not used" : "cannot be used", reason.text);
                if (!automatic)
                        return NULL;
        }
        (void)snprintf(error->text, sizeof(error->text), "there is no backend '%.32s'", name);
        return NULL;
}

int backend_open(const char *name, const struct backend_config *config, struct backend **ret, struct backend_error *error) {
        const struct backend_ops *ops = backend_choose(name, config, error);
        struct backend_error reason = { .text = "" };
        struct backend_config own = *config;
        int r;

        if (!ops)
                return BACKEND_E_MISSING;
        own.error = &reason;
        r = ops->open(&own, ret);
        if (r == 0)
                return 0;
        if (!reason.text[0])
                (void)snprintf(reason.text, sizeof(reason.text), "%s",
                               r == BACKEND_E_NO_MEMORY ? "no memory" :
                               r > 0 ? "it cannot do what its configuration asks for" : strerror(-r));
        (void)snprintf(error->text, sizeof(error->text), "the %s backend does not start: %.250s", ops->name, reason.text);
        return r;
}

const struct backend_ops *backend_find(const char *name) {
        return backend_choose(name, NULL, NULL);
}
