/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Manifests and names to test with. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/control/store/store-manifest.h"

/* 64 digits, all of them `c`. */
static inline void make_digest(char c, char out[STORE_DIGEST_TEXT + 1]) {
        memset(out, c, STORE_DIGEST_TEXT);
        out[STORE_DIGEST_TEXT] = 0;
}

/* A model whose i-th file has digest first + i and 4 bytes; its caller deinits it. */
static inline struct store_manifest make_manifest(char first, size_t n) {
        struct store_manifest m = { .uid = 1000, .imported_s = 1767225600, .n_files = n };

        m.files = calloc(n, sizeof(*m.files));
        if (!m.files)
                abort();
        for (size_t i = 0; i < n; i++) {
                struct store_file *f = &m.files[i];

                (void)snprintf(f->role, sizeof(f->role), "%s", i ? "part" : "model");
                (void)snprintf(f->name, sizeof(f->name), "some model-%zu.gguf", i + 1);
                f->size = 4;
                make_digest((char)(first + (char)i), f->digest);
        }
        m.facts = (struct store_facts){ .architecture = "llama", .format = "Q4_K", .parameters = 7, .image_bytes = 8,
                                        .kv_bytes_per_token = 9, .context = 10, .vocabulary = 11,
                                        .has_chat_template = true };
        store_manifest_id(m.files, n, m.id);
        return m;
}

static inline struct store_name make_name(const char *name, const struct store_manifest *m) {
        struct store_name n = { .uid = 1000, .created_s = 1767225600 };

        (void)snprintf(n.name, sizeof(n.name), "%s", name);
        (void)snprintf(n.id, sizeof(n.id), "%s", m->id);
        return n;
}
