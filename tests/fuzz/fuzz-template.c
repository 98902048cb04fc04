/* SPDX-License-Identifier: Apache-2.0 */

/* A template, a NUL, and the JSON to render it with (without a NUL: an empty object). */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/buf.h"
#include "daemon/text/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static const struct template_limits limits = { .steps = 200000, .output = 1 << 16, .memory = 1 << 22 };
        const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
        size_t n = nul ? (size_t)(nul - data) : size;
        struct buf out = BUF_NULL(1 << 16);
        struct template_error e;
        struct template *t = NULL;

        if (template_parse(&t, (const char *)data, n, &e))
                return 0;
        if (nul)
                (void)template_render(t, (const char *)nul + 1, size - n - 1, 0, &limits, &out, &e);
        else
                (void)template_render(t, "{}", 2, 0, &limits, &out, &e);
        t = template_free(t);
        buf_deinit(&out);
        return 0;
}
