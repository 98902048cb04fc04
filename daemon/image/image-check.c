/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What an image's tables must be. They were written by a process that parsed a hostile file, so nothing is taken on trust:
 * the tables must lie exactly where the layout puts them, every count must fit its section, strings must end, tensors
 * must follow each other without overlap, and together they must make a model (schema.c).
 */

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "kernels/format.h"
#include "kernels/lossless.h"

#include "checksum.h"
#include "image-private.h"
#include "schema.h"
#include "tensor-size.h"

const char *const image_section_names[IMAGE_SECTION_N] = {
        [IMAGE_SECTION_HPARAMS] = "hyper-parameters",
        [IMAGE_SECTION_TENSORS] = "tensors",
        [IMAGE_SECTION_NAME_INDEX] = "name index",
        [IMAGE_SECTION_VOCAB] = "vocabulary",
        [IMAGE_SECTION_PRE] = "pre-tokenizer",
        [IMAGE_SECTION_TOKEN_BYTES] = "token bytes",
        [IMAGE_SECTION_TOKEN_OFFSETS] = "token offsets",
        [IMAGE_SECTION_SCORES] = "scores",
        [IMAGE_SECTION_TYPES] = "token types",
        [IMAGE_SECTION_MERGE_BYTES] = "merge bytes",
        [IMAGE_SECTION_MERGE_OFFSETS] = "merge offsets",
        [IMAGE_SECTION_TEMPLATE] = "chat template",
};

int image_fault(struct image_reader *r, uint64_t offset, const char *fmt, ...) {
        char text[sizeof(r->error->text) - 48];
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
        (void)snprintf(r->error->text, sizeof(r->error->text), "image, offset %llu: %s", (unsigned long long)offset, text);
        return IMAGE_E_INVALID;
}

/* What a reader has to know before it can look for anything else. */
int image_check_begin(struct image_reader *r, uint64_t size) {
        const struct image_header *h = r->header;

        if (size < sizeof(*h))
                return image_fault(r, 0, "too short for a header");
        if (memcmp(h->magic, IMAGE_MAGIC, sizeof(h->magic)) != 0)
                return image_fault(r, 0, "no image: the first eight bytes are not " IMAGE_MAGIC);
        if (h->version != IMAGE_VERSION || h->header_size != sizeof(*h))
                return image_fault(r, offsetof(struct image_header, version),
                                   "version %u with a header of %u bytes, this program reads version %u", h->version,
                                   h->header_size, IMAGE_VERSION);
        return 0;
}

static int check_header(struct image_reader *r) {
        const struct image *image = r->image;
        const struct image_header *h = r->header;

        if (h->n_segments != image->n_segments)
                return image_fault(r, offsetof(struct image_header, n_segments), "%u segments, %zu are here", h->n_segments,
                                   image->n_segments);
        if (h->n_tensors > IMAGE_TENSORS_MAX)
                return image_fault(r, offsetof(struct image_header, n_tensors), "%u tensors are too many", h->n_tensors);
        for (size_t i = 0; i < IMAGE_SEGMENTS_MAX; i++)
                if (h->segment_size[i] != image->map_size[i])
                        return image_fault(r, offsetof(struct image_header, segment_size) + i * sizeof(uint64_t),
                                           "segment %zu should have %llu bytes, it has %llu", i,
                                           (unsigned long long)h->segment_size[i], (unsigned long long)image->map_size[i]);
        return 0;
}

/* Exactly one place is right for each section: directly after the one before. */
static int check_sections(struct image_reader *r) {
        const struct image_header *h = r->header;
        uint64_t at = sizeof(*h);

        for (size_t i = 0; i < IMAGE_SECTION_N; i++) {
                uint64_t field = offsetof(struct image_header, sections) + i * sizeof(struct image_span);

                if (!checked_align(at, IMAGE_ALIGN, &at) || h->sections[i].offset != at)
                        return image_fault(r, field, "the section '%s' is not where it belongs", image_section_names[i]);
                if (!checked_range(at, h->sections[i].size, r->image->map_size[0]))
                        return image_fault(r, field, "the section '%s' reaches past the end", image_section_names[i]);
                at += h->sections[i].size;
        }
        if (h->tables_size != at)
                return image_fault(r, offsetof(struct image_header, tables_size), "the tables' size is wrong");
        return 0;
}

int image_expect_size(struct image_reader *r, enum image_section i, uint64_t count, uint64_t each) {
        uint64_t bytes;

        if (checked_mul(count, each, &bytes) && r->header->sections[i].size == bytes)
                return 0;
        return image_fault(r, offsetof(struct image_header, sections) + i * sizeof(struct image_span),
                           "the section '%s' has %llu bytes, not %llu times %llu", image_section_names[i],
                           (unsigned long long)r->header->sections[i].size, (unsigned long long)count,
                           (unsigned long long)each);
}

static bool string_ends(const char *s, size_t room) {
        return memchr(s, 0, room) != NULL;
}

/* A section that holds one string with its NUL, and no other NUL before. */
int image_check_string(struct image_reader *r, enum image_section i) {
        uint64_t size = r->header->sections[i].size;

        if (size > 0 && memchr(image_table(r, i), 0, size) == (const char *)image_table(r, i) + size - 1)
                return 0;
        return image_fault(r, image_table_offset(r, i, 0),
                           "the string '%s' does not end where it should", image_section_names[i]);
}

/* A coded tensor has escapes, at most one of a byte for each element of whole panels, besides what it takes at least. */
static uint64_t size_at_most(const struct image_tensor *t, uint64_t least) {
        struct lossless_parts parts;
        uint64_t most;

        if (!image_tensor_parts(t, &parts))
                return least;
        return checked_mul(parts.n_entries, LOSSLESS_UNIT * WEIGHT_PANEL, &most) && checked_add(most, least, &most) ? most : least;
}

static int check_tensor(struct image_reader *r, size_t i, uint32_t *segment, uint64_t *end) {
        const struct image_tensor *t = &r->image->tensors[i];
        uint64_t at = image_table_offset(r, IMAGE_SECTION_TENSORS, i * sizeof(*t));
        uint64_t size, elements, most;

        if (!string_ends(t->name, sizeof(t->name)) || !t->name[0])
                return image_fault(r, at, "tensor %zu has no proper name", i);
        if (!image_tensor_size(t, &size, &elements))
                return image_fault(r, at, "tensor '%s': format, layout and dimensions do not go together", t->name);
        most = size_at_most(t, size);
        if (t->size < size || t->size > most)
                return image_fault(r, at, "tensor '%s': %llu bytes instead of %llu", t->name, (unsigned long long)t->size,
                                   (unsigned long long)(t->size < size ? size : most));
        size = t->size;
        if (t->segment >= r->image->n_segments || t->segment < *segment)
                return image_fault(r, at, "tensor '%s': segment %u is out of order or range", t->name, t->segment);
        if (t->segment > *segment) {
                *segment = t->segment;
                *end = 0;
        }
        if (t->offset < *end || !checked_range(t->offset, size, r->image->map_size[t->segment]))
                return image_fault(r, at, "tensor '%s': offset %llu overlaps what is before it or passes the end", t->name,
                                   (unsigned long long)t->offset);
        if (t->offset % (size >= IMAGE_PAGE_FROM ? IMAGE_PAGE : IMAGE_ALIGN) != 0)
                return image_fault(r, at, "tensor '%s': offset %llu is not aligned", t->name, (unsigned long long)t->offset);
        *end = t->offset + size;
        r->image->n_params += elements;
        return 0;
}

/* Strictly ascending names make the index a permutation and the names unique at once. */
static int check_index(struct image_reader *r) {
        const struct image *image = r->image;

        for (size_t i = 0; i < image->n_tensors; i++) {
                uint32_t n = image->name_index[i];

                if (n >= image->n_tensors || (i > 0 && strcmp(image->tensors[image->name_index[i - 1]].name,
                                                              image->tensors[n].name) >= 0))
                        return image_fault(r, image_table_offset(r, IMAGE_SECTION_NAME_INDEX, i * sizeof(uint32_t)),
                                           "the name index is out of order or range");
        }
        return 0;
}

static int check_tensors(struct image_reader *r) {
        struct image *image = r->image;
        uint64_t end = r->header->tables_size;
        uint32_t segment = 0;
        int e;

        e = image_expect_size(r, IMAGE_SECTION_TENSORS, r->header->n_tensors, sizeof(struct image_tensor));
        if (!e)
                e = image_expect_size(r, IMAGE_SECTION_NAME_INDEX, r->header->n_tensors, sizeof(uint32_t));
        if (e)
                return e;
        image->tensors = image_table(r, IMAGE_SECTION_TENSORS);
        image->n_tensors = r->header->n_tensors;
        image->name_index = image_table(r, IMAGE_SECTION_NAME_INDEX);
        for (size_t i = 0; i < image->n_tensors; i++) {
                e = check_tensor(r, i, &segment, &end);
                if (e)
                        return e;
        }
        if (image->n_params != r->header->n_params)
                return image_fault(r, offsetof(struct image_header, n_params), "the number of parameters is wrong");
        return check_index(r);
}

static int check_template(struct image_reader *r) {
        int e;

        if (r->header->sections[IMAGE_SECTION_TEMPLATE].size == 0)
                return 0;
        e = image_check_string(r, IMAGE_SECTION_TEMPLATE);
        if (e)
                return e;
        r->image->chat_template = image_table(r, IMAGE_SECTION_TEMPLATE);
        r->image->chat_template_size = r->header->sections[IMAGE_SECTION_TEMPLATE].size - 1;
        return 0;
}

/* Matrices are panels and vectors F32 rows: kernels rely on it. */
static int check_kernel_forms(struct image_reader *r) {
        for (size_t i = 0; i < r->image->n_tensors; i++) {
                const struct image_tensor *t = &r->image->tensors[i];

                if (t->layout != image_tensor_layout(t->name, t->n_dims) ||
                    (t->layout == WEIGHT_ROWS && t->fmt != FMT_F32))
                        return image_fault(r, image_table_offset(r, IMAGE_SECTION_TENSORS, i * sizeof(*t)),
                                           "tensor '%s' has a layout that no kernel reads", t->name);
        }
        return 0;
}

static int check_model(struct image_reader *r) {
        const struct image_hparams *hp = image_table(r, IMAGE_SECTION_HPARAMS);
        struct image_error error;
        const char *text;
        size_t tensor;
        int e;

        e = image_expect_size(r, IMAGE_SECTION_HPARAMS, 1, sizeof(*hp));
        if (e)
                return e;
        if (!string_ends(hp->arch, sizeof(hp->arch)) || !string_ends(hp->name, sizeof(hp->name)))
                return image_fault(r, image_table_offset(r, IMAGE_SECTION_HPARAMS, 0), "architecture or name does not end");
        if (hp->n_vocab != r->image->vocab.n_tokens)
                return image_fault(r, image_table_offset(r, IMAGE_SECTION_HPARAMS, offsetof(struct image_hparams, n_vocab)),
                                   "%u tokens, the vocabulary has %zu", hp->n_vocab, r->image->vocab.n_tokens);
        r->image->hparams = hp;
        if (r->image->n_tensors == 0)
                return 0; /* vocabulary only */
        text = image_schema_check_hparams(hp);
        if (text)
                return image_fault(r, image_table_offset(r, IMAGE_SECTION_HPARAMS, 0), "%s", text);
        e = image_schema_check(hp, r->image->tensors, r->image->n_tensors, &tensor, &error);
        if (e > 0)
                return image_fault(r, image_table_offset(r, IMAGE_SECTION_TENSORS, 0), "%s", error.text);
        return e < 0 ? e : check_kernel_forms(r);
}

/* Kernels read escapes where an index says they are: that nothing leads out of a tensor is seen here, once. */
int image_check_coded(struct image_reader *r) {
        for (size_t i = 0; i < r->image->n_tensors; i++) {
                const struct image_tensor *t = &r->image->tensors[i];
                struct lossless_parts parts;

                if (image_tensor_parts(t, &parts) &&
                    !lossless_index_valid((const char *)image_data(r->image, t) + parts.index, parts.n_entries,
                                          t->size - parts.escapes))
                        return image_fault(r, t->offset + parts.index,
                                           "tensor '%s', segment %u: its index leads out of it", t->name, t->segment);
        }
        return 0;
}

static int check_tables_sum(struct image_reader *r) {
        const struct image_header *h = r->header;

        if (h->tables_checksum == 0 || h->tables_checksum == image_checksum_tables(r->base, (size_t)h->tables_size))
                return 0;
        return image_fault(r, offsetof(struct image_header, tables_checksum),
                           "header or tables are damaged: their checksum is another one");
}

int image_check_tables(struct image_reader *r) {
        int e = check_header(r);

        if (!e)
                e = check_sections(r);
        if (!e)
                e = check_tables_sum(r);
        if (!e)
                e = check_tensors(r);
        if (!e)
                e = image_check_vocab(r);
        if (!e)
                e = check_template(r);
        return e ? e : check_model(r);
}
