/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/macro.h"
#include "daemon/image/layout.h"

#include "packed.h"
#include "source-copy.h"

#define TABLES_MAX ((uint64_t)2 << 30)

int packed_probe(struct source *s, bool *ret, struct loader_error *error) {
        char magic[sizeof(((struct image_header *)NULL)->magic)];
        int r;

        *ret = false;
        if (s->size < sizeof(magic))
                return 0;
        r = source_copy(s, 0, magic, sizeof(magic), error);
        if (!r)
                *ret = memcmp(magic, IMAGE_MAGIC, sizeof(magic)) == 0;
        return r;
}

static int refuse(struct loader_error *error, const struct image_error *why) {
        return loader_fail(error, LOADER_E_INVALID, "the packed image is no good: %s", why->text);
}

/* Header and tables into memory. */
static int read_tables(struct packed *p, uint64_t *ret_size, struct loader_error *error) {
        struct image_error why = { 0 };
        struct image_header header;
        uint64_t size;
        int r;

        if (p->source->size < sizeof(header))
                return loader_fail(error, LOADER_E_INVALID, "the packed image ends within its header");
        r = source_copy(p->source, 0, &header, sizeof(header), error);
        if (r)
                return r;
        if (header.version != IMAGE_VERSION)
                return loader_fail(error, LOADER_E_UNSUPPORTED, "the image was packed as version %u, and this program reads version %u: "
                                   "pack it again from its source", header.version, IMAGE_VERSION);
        size = image_tables_size(&header, sizeof(header), &why);
        if (size == 0)
                return refuse(error, &why);
        if (size > p->source->size || size > TABLES_MAX)
                return loader_fail(error, LOADER_E_INVALID, "the packed image's tables of %llu bytes (offset %zu) do not fit the file",
                                   (unsigned long long)size, offsetof(struct image_header, tables_size));
        p->tables = malloc((size_t)size);
        if (!p->tables)
                return -ENOMEM;
        *ret_size = size;
        return source_copy(p->source, 0, p->tables, size, error);
}

/* What a file has to have beyond what all images have. */
static int check_file(const struct packed *p, struct loader_error *error) {
        const struct image_header *h = (const void *)p->tables;
        uint64_t size = 0;

        for (size_t i = 0; i < p->image.n_segments; i++)
                if (h->segment_size[i] == 0 || h->segment_size[i] % IMAGE_PAGE != 0 || !checked_add(size, h->segment_size[i], &size))
                        return loader_fail(error, LOADER_E_INVALID, "the packed image's segment %zu cannot have %llu bytes", i,
                                           (unsigned long long)h->segment_size[i]);
        if (size != p->source->size)
                return loader_fail(error, LOADER_E_INVALID, "the packed image should have %llu bytes, and the file has %llu",
                                   (unsigned long long)size, (unsigned long long)p->source->size);
        if (h->tables_checksum == 0)
                return loader_fail(error, LOADER_E_INVALID, "the packed image's tables have no checksum");
        for (size_t i = 0; i < p->image.n_tensors; i++)
                if (p->image.tensors[i].checksum == 0)
                        return loader_fail(error, LOADER_E_INVALID, "the packed image's tensor '%s' has no checksum",
                                           p->image.tensors[i].name);
        return 0;
}

static int fill_plan(const struct packed *p, uint64_t tables_size, struct image_plan *plan) {
        const struct image *image = &p->image;
        size_t n = image->n_tensors;

        plan->tensors = calloc(n + 1, sizeof(*plan->tensors));
        if (!plan->tensors)
                return -ENOMEM;
        (void)memcpy(plan->tensors, image->tensors, n * sizeof(*plan->tensors));
        plan->n_tensors = plan->cap_tensors = n;
        plan->hparams = *image->hparams;
        plan->vocab = image->vocab;
        plan->chat_template = image->chat_template;
        plan->chat_template_size = image->chat_template_size;
        plan->n_params = image->n_params;
        plan->tables_size = tables_size;
        plan->n_segments = image->n_segments;
        (void)memcpy(plan->segment_size, image->map_size, sizeof(plan->segment_size));
        for (size_t i = 0; i < n; i++)
                plan->data_size += plan->tensors[i].size; /* they lie in the file beside each other */
        return 0;
}

int packed_plan(struct packed *p, struct source *s, struct image_plan *plan, struct loader_error *error) {
        struct image_error why = { 0 };
        uint64_t size = 0;
        int r;

        *p = (struct packed){ .source = s };
        r = read_tables(p, &size, error);
        if (r)
                return r;
        r = image_open_tables(&p->image, p->tables, size, &why);
        if (r)
                return r > 0 ? refuse(error, &why) : r;
        r = check_file(p, error);
        return r ? r : fill_plan(p, size, plan);
}

void packed_deinit(struct packed *p) {
        free(p->tables);
        *p = (struct packed){ 0 };
}

int packed_write(struct packed *p, struct copy *copy, struct image_plan *plan, void *const *segments,
                 const struct copy_progress *progress, struct loader_error *error) {
        struct sums sums = SUMS_NULL;
        uint64_t at = 0;
        size_t n = 0;
        int r;

        for (size_t i = 0; i < plan->n_segments; i++) {
                uint64_t size = plan->segment_size[i];

                if (segments[i])
                        p->pieces[n++] = (struct copy_piece){ .tensor = (uint32_t)i, .transform = COPY_SEGMENT, .offset = at,
                                                              .size = size, .n_rows = size / SOURCE_ALIGN,
                                                              .matrix_rows = size / SOURCE_ALIGN };
                at += size;
        }
        r = sums_init(&sums, plan, segments, true);
        for (size_t i = 0; i < plan->n_tensors && r == 0; i++)
                sums_expect(&sums, (uint32_t)i, plan->tensors[i].size);
        copy->sums = &sums;
        if (!r)
                r = copy_run(copy, p->pieces, n, plan, segments, progress, error);
        copy->sums = NULL;
        if (!r && segments[0]) /* as they were checked, whatever the file has there by now */
                (void)memcpy(segments[0], p->tables, (size_t)plan->tables_size);
        sums_deinit(&sums);
        return r;
}
