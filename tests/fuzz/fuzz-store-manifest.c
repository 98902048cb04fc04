/* SPDX-License-Identifier: Apache-2.0 */

/* A manifest or a name of the model store, as whoever can write to the folder may have left it: once as it is, and once
 * with the checksum made right, so that the lines before it are met. What is taken is sound, and is written again as
 * something that is taken as the same. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "daemon/control/store/store-manifest.h"

#define SIZE_MAX_ ((size_t)16 << 10)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_sound(const struct store_manifest *m) {
        if (m->n_files == 0 || m->n_files > STORE_FILES_MAX || store_manifest_bytes(m) == UINT64_MAX)
                abort();
        for (size_t i = 0; i < m->n_files; i++)
                if (!store_role_valid(m->files[i].role) || !store_file_name_valid(m->files[i].name) ||
                    !store_digest_valid(m->files[i].digest) || m->files[i].size == 0)
                        abort();
}

static bool same_facts(const struct store_facts *a, const struct store_facts *b) {
        return strcmp(a->architecture, b->architecture) == 0 && strcmp(a->format, b->format) == 0 &&
               a->parameters == b->parameters && a->image_bytes == b->image_bytes &&
               a->kv_bytes_per_token == b->kv_bytes_per_token && a->context == b->context &&
               a->vocabulary == b->vocabulary && a->has_chat_template == b->has_chat_template;
}

static void check_again(const struct store_manifest *m) {
        struct buf text = BUF_NULL(STORE_MANIFEST_MAX);
        struct store_manifest again;
        struct store_fault fault;

        if (store_manifest_format(m, &text) != 0 ||
            store_manifest_parse(m->id, text.data, text.len, &again, &fault) != 0 || again.n_files != m->n_files ||
            memcmp(again.files, m->files, m->n_files * sizeof(*m->files)) != 0 ||
            !same_facts(&again.facts, &m->facts) || again.pinned != m->pinned || again.uid != m->uid)
                abort();
        store_manifest_deinit(&again);
        buf_deinit(&text);
}

/* The id is that of the one file which the corpus's manifests have. */
static void try_manifest(const char *text, size_t size) {
        static const char digit[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
        struct store_fault fault = { "" };
        struct store_manifest m;
        int r = store_manifest_parse(digit, text, size, &m, &fault);

        if (r > 0 && !fault.text[0])
                abort(); /* every refusal says what is wrong */
        if (r != 0)
                return;
        check_sound(&m);
        check_again(&m);
        store_manifest_deinit(&m);
}

static void try_name(const char *text, size_t size) {
        struct store_fault fault = { "" };
        struct store_name n;
        int r = store_name_parse("name", text, size, &n, &fault);

        if ((r > 0 && !fault.text[0]) || (r == 0 && !store_digest_valid(n.id)))
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static char text[SIZE_MAX_ + 64];

        if (size > SIZE_MAX_)
                return 0;
        if (size > 0)
                memcpy(text, data, size);
        try_manifest(text, size);
        try_name(text, size);
        size += (size_t)snprintf(text + size, 32, "end %08x\n", crc32c(0, (const uint8_t *)text, size));
        try_manifest(text, size);
        try_name(text, size);
        return 0;
}
