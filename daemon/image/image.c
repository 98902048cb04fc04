/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The reader of images. What it maps was written by a process that parsed a hostile file, so nothing is taken on trust:
 * the tables must lie exactly where the layout puts them, every count must fit its section, strings must end, tensors
 * must follow each other without overlap, and together they must make a model (schema.c).
 *
 * The checks hold for as long as the segments do not change: callers pass sealed memfds.
 */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/huge.h"
#include "base/macro.h"
#include "kernels/format.h"
#include "kernels/lossless.h"

#include "checksum.h"
#include "layout.h"
#include "schema.h"
#include "tensor-size.h"

static const char *const section_names[IMAGE_SECTION_N] = {
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

struct reader {
        struct image *image;
        const struct image_header *header;
        const char *base; /* segment 0 */
        struct image_error *error;
};

_printf_(3, 4)
static int fault(struct reader *r, uint64_t offset, const char *fmt, ...) {
        char text[sizeof(r->error->text) - 48];
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
        (void)snprintf(r->error->text, sizeof(r->error->text), "image, offset %llu: %s", (unsigned long long)offset, text);
        return IMAGE_E_INVALID;
}

static const void *section(const struct reader *r, enum image_section i) {
        return r->base + r->header->sections[i].offset;
}

static uint64_t section_offset(const struct reader *r, enum image_section i, size_t more) {
        return r->header->sections[i].offset + more;
}

static int map_segments(struct reader *r, const int *fds, size_t n_fds) {
        struct image *image = r->image;
        struct stat st;

        if (n_fds < 1 || n_fds > IMAGE_SEGMENTS_MAX)
                return fault(r, 0, "%zu segments, at least 1 and at most %u are possible", n_fds, IMAGE_SEGMENTS_MAX);
        for (size_t i = 0; i < n_fds; i++) {
                void *map;

                if (fstat(fds[i], &st) < 0)
                        return -errno;
                if (!S_ISREG(st.st_mode) || st.st_size <= 0)
                        return fault(r, 0, "segment %zu is empty or not a file", i);
                map = huge_map(fds[i], (size_t)st.st_size, PROT_READ);
                if (map == MAP_FAILED)
                        return -errno;
                image->map[i] = map;
                image->map_size[i] = (uint64_t)st.st_size;
                image->n_segments = i + 1;
        }
        return 0;
}

/* What a reader has to know before it can look for anything else. */
static int check_begin(struct reader *r, uint64_t size) {
        const struct image_header *h = r->header;

        if (size < sizeof(*h))
                return fault(r, 0, "too short for a header");
        if (memcmp(h->magic, IMAGE_MAGIC, sizeof(h->magic)) != 0)
                return fault(r, 0, "no image: the first eight bytes are not " IMAGE_MAGIC);
        if (h->version != IMAGE_VERSION || h->header_size != sizeof(*h))
                return fault(r, offsetof(struct image_header, version),
                             "version %u with a header of %u bytes, this program reads version %u", h->version,
                             h->header_size, IMAGE_VERSION);
        return 0;
}

static int check_header(struct reader *r) {
        const struct image *image = r->image;
        const struct image_header *h = r->header;

        if (h->n_segments != image->n_segments)
                return fault(r, offsetof(struct image_header, n_segments), "%u segments, %zu are here", h->n_segments,
                             image->n_segments);
        if (h->n_tensors > IMAGE_TENSORS_MAX)
                return fault(r, offsetof(struct image_header, n_tensors), "%u tensors are too many", h->n_tensors);
        for (size_t i = 0; i < IMAGE_SEGMENTS_MAX; i++)
                if (h->segment_size[i] != image->map_size[i])
                        return fault(r, offsetof(struct image_header, segment_size) + i * sizeof(uint64_t),
                                     "segment %zu should have %llu bytes, it has %llu", i,
                                     (unsigned long long)h->segment_size[i], (unsigned long long)image->map_size[i]);
        return 0;
}

/* Exactly one place is right for each section: directly after the one before. */
static int check_sections(struct reader *r) {
        const struct image_header *h = r->header;
        uint64_t at = sizeof(*h);

        for (size_t i = 0; i < IMAGE_SECTION_N; i++) {
                uint64_t field = offsetof(struct image_header, sections) + i * sizeof(struct image_span);

                if (!checked_align(at, IMAGE_ALIGN, &at) || h->sections[i].offset != at)
                        return fault(r, field, "the section '%s' is not where it belongs", section_names[i]);
                if (!checked_range(at, h->sections[i].size, r->image->map_size[0]))
                        return fault(r, field, "the section '%s' reaches past the end", section_names[i]);
                at += h->sections[i].size;
        }
        if (h->tables_size != at)
                return fault(r, offsetof(struct image_header, tables_size), "the tables' size is wrong");
        return 0;
}

static int expect_size(struct reader *r, enum image_section i, uint64_t count, uint64_t each) {
        uint64_t bytes;

        if (checked_mul(count, each, &bytes) && r->header->sections[i].size == bytes)
                return 0;
        return fault(r, offsetof(struct image_header, sections) + i * sizeof(struct image_span),
                     "the section '%s' has %llu bytes, not %llu times %llu", section_names[i],
                     (unsigned long long)r->header->sections[i].size, (unsigned long long)count,
                     (unsigned long long)each);
}

static bool string_ends(const char *s, size_t room) {
        return memchr(s, 0, room) != NULL;
}

/* A section that holds one string with its NUL, and no other NUL before. */
static int check_string(struct reader *r, enum image_section i) {
        uint64_t size = r->header->sections[i].size;

        if (size > 0 && memchr(section(r, i), 0, size) == (const char *)section(r, i) + size - 1)
                return 0;
        return fault(r, section_offset(r, i, 0), "the string '%s' does not end where it should", section_names[i]);
}

/* A coded tensor has escapes, at most one of a byte for each element of whole panels, besides what it takes at least. */
static uint64_t size_at_most(const struct image_tensor *t, uint64_t least) {
        struct lossless_parts parts;
        uint64_t most;

        if (!image_tensor_parts(t, &parts))
                return least;
        return checked_mul(parts.n_entries, LOSSLESS_UNIT * WEIGHT_PANEL, &most) && checked_add(most, least, &most) ? most : least;
}

static int check_tensor(struct reader *r, size_t i, uint32_t *segment, uint64_t *end) {
        const struct image_tensor *t = &r->image->tensors[i];
        uint64_t at = section_offset(r, IMAGE_SECTION_TENSORS, i * sizeof(*t));
        uint64_t size, elements, most;

        if (!string_ends(t->name, sizeof(t->name)) || !t->name[0])
                return fault(r, at, "tensor %zu has no proper name", i);
        if (!image_tensor_size(t, &size, &elements))
                return fault(r, at, "tensor '%s': format, layout and dimensions do not go together", t->name);
        most = size_at_most(t, size);
        if (t->size < size || t->size > most)
                return fault(r, at, "tensor '%s': %llu bytes instead of %llu", t->name, (unsigned long long)t->size,
                             (unsigned long long)(t->size < size ? size : most));
        size = t->size;
        if (t->segment >= r->image->n_segments || t->segment < *segment)
                return fault(r, at, "tensor '%s': segment %u is out of order or range", t->name, t->segment);
        if (t->segment > *segment) {
                *segment = t->segment;
                *end = 0;
        }
        if (t->offset < *end || !checked_range(t->offset, size, r->image->map_size[t->segment]))
                return fault(r, at, "tensor '%s': offset %llu overlaps what is before it or passes the end", t->name,
                             (unsigned long long)t->offset);
        if (t->offset % (size >= IMAGE_PAGE_FROM ? IMAGE_PAGE : IMAGE_ALIGN) != 0)
                return fault(r, at, "tensor '%s': offset %llu is not aligned", t->name, (unsigned long long)t->offset);
        *end = t->offset + size;
        r->image->n_params += elements;
        return 0;
}

/* Strictly ascending names make the index a permutation and the names unique at once. */
static int check_index(struct reader *r) {
        const struct image *image = r->image;

        for (size_t i = 0; i < image->n_tensors; i++) {
                uint32_t n = image->name_index[i];

                if (n >= image->n_tensors || (i > 0 && strcmp(image->tensors[image->name_index[i - 1]].name,
                                                              image->tensors[n].name) >= 0))
                        return fault(r, section_offset(r, IMAGE_SECTION_NAME_INDEX, i * sizeof(uint32_t)),
                                     "the name index is out of order or range");
        }
        return 0;
}

static int check_tensors(struct reader *r) {
        struct image *image = r->image;
        uint64_t end = r->header->tables_size;
        uint32_t segment = 0;
        int e;

        e = expect_size(r, IMAGE_SECTION_TENSORS, r->header->n_tensors, sizeof(struct image_tensor));
        if (!e)
                e = expect_size(r, IMAGE_SECTION_NAME_INDEX, r->header->n_tensors, sizeof(uint32_t));
        if (e)
                return e;
        image->tensors = section(r, IMAGE_SECTION_TENSORS);
        image->n_tensors = r->header->n_tensors;
        image->name_index = section(r, IMAGE_SECTION_NAME_INDEX);
        for (size_t i = 0; i < image->n_tensors; i++) {
                e = check_tensor(r, i, &segment, &end);
                if (e)
                        return e;
        }
        if (image->n_params != r->header->n_params)
                return fault(r, offsetof(struct image_header, n_params), "the number of parameters is wrong");
        return check_index(r);
}

static int check_offsets(struct reader *r, enum image_section i, const uint64_t *offsets, uint64_t n, uint64_t bytes) {
        for (uint64_t k = 0; k <= n; k++)
                if (offsets[k] > bytes || (k > 0 ? offsets[k] < offsets[k - 1] : offsets[k] != 0))
                        return fault(r, section_offset(r, i, k * sizeof(uint64_t)), "'%s' is out of order or range",
                                     section_names[i]);
        if (offsets[n] != bytes)
                return fault(r, section_offset(r, i, n * sizeof(uint64_t)), "'%s' does not end at the end",
                             section_names[i]);
        return 0;
}

static int check_token_ids(struct reader *r, const struct image_vocab_record *v) {
        const int32_t ids[] = { v->bos, v->eos, v->eot, v->eom, v->unk, v->sep, v->pad };

        for (size_t i = 0; i < ARRAY_SIZE(ids); i++)
                if (ids[i] < -1 || (ids[i] >= 0 && (uint64_t)ids[i] >= v->n_tokens))
                        return fault(r, section_offset(r, IMAGE_SECTION_VOCAB,
                                                       offsetof(struct image_vocab_record, bos) + i * sizeof(int32_t)),
                                     "token id %d is not in the vocabulary", ids[i]);
        return 0;
}

static int check_around(struct reader *r, const struct image_vocab_record *v, const struct image_around *a) {
        size_t at = (size_t)((const char *)a - (const char *)v);

        if (a->n > IMAGE_AROUND_MAX)
                return fault(r, section_offset(r, IMAGE_SECTION_VOCAB, at), "%u tokens around a prompt, at most %u are allowed",
                             a->n, IMAGE_AROUND_MAX);
        for (size_t i = 0; i < a->n; i++)
                if (a->ids[i] < 0 || (uint64_t)a->ids[i] >= v->n_tokens)
                        return fault(r, section_offset(r, IMAGE_SECTION_VOCAB, at), "token id %d is not in the vocabulary",
                                     a->ids[i]);
        return 0;
}

static int check_vocab_record(struct reader *r, const struct image_vocab_record *v) {
        int e;

        if (v->model != IMAGE_VOCAB_SPM && v->model != IMAGE_VOCAB_BPE)
                return fault(r, section_offset(r, IMAGE_SECTION_VOCAB, 0), "vocabulary model %u is not known", v->model);
        if (v->flags & ~(uint32_t)IMAGE_VOCAB_FLAGS_ALL)
                return fault(r, section_offset(r, IMAGE_SECTION_VOCAB, 4), "unknown vocabulary flags");
        if (v->n_tokens < 1 || v->n_tokens > IMAGE_VOCAB_MAX || v->n_merges > IMAGE_MERGES_MAX)
                return fault(r, section_offset(r, IMAGE_SECTION_VOCAB, 8), "%llu tokens, %llu merges: out of range",
                             (unsigned long long)v->n_tokens, (unsigned long long)v->n_merges);
        e = check_token_ids(r, v);
        if (!e)
                e = check_around(r, v, &v->opening);
        if (!e)
                e = check_around(r, v, &v->closing);
        if (!e)
                e = expect_size(r, IMAGE_SECTION_TOKEN_OFFSETS, v->n_tokens + 1, sizeof(uint64_t));
        if (!e && (r->header->sections[IMAGE_SECTION_SCORES].size > 0 || v->model == IMAGE_VOCAB_SPM))
                e = expect_size(r, IMAGE_SECTION_SCORES, v->n_tokens, sizeof(float));
        if (!e)
                e = expect_size(r, IMAGE_SECTION_TYPES, v->n_tokens, 1);
        if (!e)
                e = expect_size(r, IMAGE_SECTION_MERGE_OFFSETS, v->n_merges + 1, sizeof(uint64_t));
        return e;
}

static int check_vocab_tables(struct reader *r, const struct image_vocab_record *v) {
        const uint8_t *types = section(r, IMAGE_SECTION_TYPES);
        const float *scores = section(r, IMAGE_SECTION_SCORES);
        bool has_scores = r->header->sections[IMAGE_SECTION_SCORES].size > 0;
        int e;

        e = check_offsets(r, IMAGE_SECTION_TOKEN_OFFSETS, section(r, IMAGE_SECTION_TOKEN_OFFSETS), v->n_tokens,
                          r->header->sections[IMAGE_SECTION_TOKEN_BYTES].size);
        if (!e)
                e = check_offsets(r, IMAGE_SECTION_MERGE_OFFSETS, section(r, IMAGE_SECTION_MERGE_OFFSETS), v->n_merges,
                                  r->header->sections[IMAGE_SECTION_MERGE_BYTES].size);
        for (uint64_t i = 0; i < v->n_tokens && !e; i++)
                if ((types[i] & IMAGE_TOKEN_TYPE) < 1 || (types[i] & IMAGE_TOKEN_TYPE) > 6)
                        e = fault(r, section_offset(r, IMAGE_SECTION_TYPES, i), "token type %u is not known", types[i]);
                else if (has_scores && scores[i] != scores[i])
                        e = fault(r, section_offset(r, IMAGE_SECTION_SCORES, i * sizeof(float)),
                                  "the score of token %llu is not a number", (unsigned long long)i);
        return e;
}

static void publish_vocab(struct reader *r, const struct image_vocab_record *v) {
        r->image->vocab = (struct image_vocab){
                .model = (enum image_vocab_model)v->model,
                .pre = section(r, IMAGE_SECTION_PRE),
                .n_tokens = v->n_tokens,
                .token_bytes = section(r, IMAGE_SECTION_TOKEN_BYTES),
                .token_offsets = section(r, IMAGE_SECTION_TOKEN_OFFSETS),
                .scores = r->header->sections[IMAGE_SECTION_SCORES].size ? section(r, IMAGE_SECTION_SCORES) : NULL,
                .types = section(r, IMAGE_SECTION_TYPES),
                .n_merges = v->n_merges,
                .merge_bytes = section(r, IMAGE_SECTION_MERGE_BYTES),
                .merge_offsets = section(r, IMAGE_SECTION_MERGE_OFFSETS),
                .bos = v->bos,
                .eos = v->eos,
                .eot = v->eot,
                .eom = v->eom,
                .unk = v->unk,
                .sep = v->sep,
                .pad = v->pad,
                .opening = v->opening,
                .closing = v->closing,
                .add_bos = v->flags & IMAGE_VOCAB_ADD_BOS,
                .add_eos = v->flags & IMAGE_VOCAB_ADD_EOS,
                .add_space_prefix = v->flags & IMAGE_VOCAB_ADD_SPACE_PREFIX,
                .remove_extra_whitespaces = v->flags & IMAGE_VOCAB_REMOVE_EXTRA_WHITESPACES,
                .ignore_merges = v->flags & IMAGE_VOCAB_IGNORE_MERGES,
                .has_add_bos = v->flags & IMAGE_VOCAB_HAS_ADD_BOS,
                .has_add_space_prefix = v->flags & IMAGE_VOCAB_HAS_ADD_SPACE_PREFIX,
                .exact = v->flags & IMAGE_VOCAB_EXACT,
                .nfc = v->flags & IMAGE_VOCAB_NFC,
                .prefix_first = v->flags & IMAGE_VOCAB_PREFIX_FIRST,
                .prefix_missing = v->flags & IMAGE_VOCAB_PREFIX_MISSING,
        };
}

static int check_vocab(struct reader *r) {
        const struct image_vocab_record *v = section(r, IMAGE_SECTION_VOCAB);
        int e;

        e = expect_size(r, IMAGE_SECTION_VOCAB, 1, sizeof(*v));
        if (!e)
                e = check_vocab_record(r, v);
        if (!e)
                e = check_vocab_tables(r, v);
        if (!e)
                e = check_string(r, IMAGE_SECTION_PRE);
        if (!e)
                publish_vocab(r, v);
        return e;
}

static int check_template(struct reader *r) {
        int e;

        if (r->header->sections[IMAGE_SECTION_TEMPLATE].size == 0)
                return 0;
        e = check_string(r, IMAGE_SECTION_TEMPLATE);
        if (e)
                return e;
        r->image->chat_template = section(r, IMAGE_SECTION_TEMPLATE);
        r->image->chat_template_size = r->header->sections[IMAGE_SECTION_TEMPLATE].size - 1;
        return 0;
}

/* Matrices are panels and vectors F32 rows: kernels rely on it. */
static int check_kernel_forms(struct reader *r) {
        for (size_t i = 0; i < r->image->n_tensors; i++) {
                const struct image_tensor *t = &r->image->tensors[i];

                if (t->layout != image_tensor_layout(t->name, t->n_dims) ||
                    (t->layout == WEIGHT_ROWS && t->fmt != FMT_F32))
                        return fault(r, section_offset(r, IMAGE_SECTION_TENSORS, i * sizeof(*t)),
                                     "tensor '%s' has a layout that no kernel reads", t->name);
        }
        return 0;
}

static int check_model(struct reader *r) {
        const struct image_hparams *hp = section(r, IMAGE_SECTION_HPARAMS);
        struct image_error error;
        const char *text;
        size_t tensor;
        int e;

        e = expect_size(r, IMAGE_SECTION_HPARAMS, 1, sizeof(*hp));
        if (e)
                return e;
        if (!string_ends(hp->arch, sizeof(hp->arch)) || !string_ends(hp->name, sizeof(hp->name)))
                return fault(r, section_offset(r, IMAGE_SECTION_HPARAMS, 0), "architecture or name does not end");
        if (hp->n_vocab != r->image->vocab.n_tokens)
                return fault(r, section_offset(r, IMAGE_SECTION_HPARAMS, offsetof(struct image_hparams, n_vocab)),
                             "%u tokens, the vocabulary has %zu", hp->n_vocab, r->image->vocab.n_tokens);
        r->image->hparams = hp;
        if (r->image->n_tensors == 0)
                return 0; /* vocabulary only */
        text = image_schema_check_hparams(hp);
        if (text)
                return fault(r, section_offset(r, IMAGE_SECTION_HPARAMS, 0), "%s", text);
        e = image_schema_check(hp, r->image->tensors, r->image->n_tensors, &tensor, &error);
        if (e > 0)
                return fault(r, section_offset(r, IMAGE_SECTION_TENSORS, 0), "%s", error.text);
        return e < 0 ? e : check_kernel_forms(r);
}

/* Kernels read escapes where an index says they are: that nothing leads out of a tensor is seen here, once. */
static int check_coded(struct reader *r) {
        for (size_t i = 0; i < r->image->n_tensors; i++) {
                const struct image_tensor *t = &r->image->tensors[i];
                struct lossless_parts parts;

                if (image_tensor_parts(t, &parts) &&
                    !lossless_index_valid((const char *)image_data(r->image, t) + parts.index, parts.n_entries, t->size - parts.escapes))
                        return fault(r, t->offset + parts.index, "tensor '%s', segment %u: its index leads out of it", t->name, t->segment);
        }
        return 0;
}

static int check_tables_sum(struct reader *r) {
        const struct image_header *h = r->header;

        if (h->tables_checksum == 0 || h->tables_checksum == image_checksum_tables(r->base, (size_t)h->tables_size))
                return 0;
        return fault(r, offsetof(struct image_header, tables_checksum), "header or tables are damaged: their checksum is another one");
}

static int check_tables(struct reader *r) {
        int e = check_header(r);

        if (!e)
                e = check_sections(r);
        if (!e)
                e = check_tables_sum(r);
        if (!e)
                e = check_tensors(r);
        if (!e)
                e = check_vocab(r);
        if (!e)
                e = check_template(r);
        return e ? e : check_model(r);
}

int image_open(struct image *ret, const int *fds, size_t n_fds, struct image_error *error) {
        _cleanup_(image_close) struct image image = IMAGE_NULL;
        struct reader r = { .image = &image, .error = error };
        int e;

        e = map_segments(&r, fds, n_fds);
        if (e)
                return e;
        r.base = image.map[0];
        r.header = image.map[0];
        e = check_begin(&r, image.map_size[0]);
        if (!e)
                e = check_tables(&r);
        if (!e)
                e = check_coded(&r);
        if (e)
                return e;
        *ret = image;
        image = IMAGE_NULL;
        return 0;
}

int image_open_growing(struct image *ret, const int *fds, size_t n_fds, const struct image_arrival *arrival,
                       struct image_error *error) {
        _cleanup_(image_close) struct image image = IMAGE_NULL;
        struct reader r = { .image = &image, .error = error };
        uint64_t size;
        int e;

        e = map_segments(&r, fds, n_fds);
        if (e)
                return e;
        size = image_tables_size(image.map[0], (size_t)image.map_size[0], error);
        if (size == 0 || size > image.map_size[0])
                return IMAGE_E_INVALID;
        image.tables = malloc((size_t)size);
        if (!image.tables)
                return -ENOMEM;
        (void)memcpy(image.tables, image.map[0], (size_t)size);
        r.base = image.tables;
        r.header = image.tables;
        e = check_begin(&r, (size_t)size);
        if (!e && r.header->tables_size != size)
                e = fault(&r, offsetof(struct image_header, tables_size), "the tables change while they are read");
        if (!e)
                e = check_tables(&r);
        if (e)
                return e;
        image.arrival = *arrival;
        *ret = image;
        image = IMAGE_NULL;
        return 0;
}

int image_settle(struct image *image, struct image_error *error) {
        struct reader r = { .image = image, .header = image->tables, .base = image->tables, .error = error };
        int e;

        if (!image->arrival.wait)
                return 0;
        e = image->arrival.wait(image->arrival.userdata, IMAGE_ALL);
        if (!e && memcmp(image->tables, image->map[0], (size_t)r.header->tables_size) != 0)
                e = fault(&r, 0, "the tables were changed after they were read");
        if (!e)
                e = check_coded(&r);
        if (!e)
                image->arrival.wait = NULL;
        return e;
}

int image_await(struct image *image, const struct image_tensor *tensor, struct image_error *error) {
        if (!image->arrival.wait)
                return 0;
        if (fmt_is_coded(fmt_info(tensor->fmt)))
                return image_settle(image, error);
        return image->arrival.wait(image->arrival.userdata, (size_t)(tensor - image->tensors) + 1);
}

uint64_t image_tables_size(const void *begin, size_t n, struct image_error *error) {
        struct reader r = { .header = begin, .error = error };

        if (check_begin(&r, n))
                return 0;
        if (r.header->tables_size >= sizeof(*r.header) && r.header->tables_size <= r.header->segment_size[0])
                return r.header->tables_size;
        (void)fault(&r, offsetof(struct image_header, tables_size), "tables of %llu bytes do not fit",
                    (unsigned long long)r.header->tables_size);
        return 0;
}

int image_open_tables(struct image *ret, const void *tables, uint64_t size, struct image_error *error) {
        struct image image = IMAGE_NULL;
        struct reader r = { .image = &image, .header = tables, .base = tables, .error = error };
        uint64_t whole = image_tables_size(tables, (size_t)size, error);
        int e;

        if (whole == 0)
                return IMAGE_E_INVALID;
        if (whole != size)
                return fault(&r, offsetof(struct image_header, tables_size), "the tables are not whole");
        if (r.header->n_segments < 1 || r.header->n_segments > IMAGE_SEGMENTS_MAX)
                return fault(&r, offsetof(struct image_header, n_segments), "%u segments, at least 1 and at most %u are possible",
                             r.header->n_segments, IMAGE_SEGMENTS_MAX);
        image.n_segments = r.header->n_segments;
        for (size_t i = 0; i < image.n_segments; i++)
                image.map_size[i] = r.header->segment_size[i];
        e = check_tables(&r);
        if (!e)
                *ret = image;
        return e;
}

void image_close(struct image *image) {
        for (size_t i = 0; i < image->n_segments; i++)
                if (image->map[i])
                        (void)munmap(image->map[i], (size_t)image->map_size[i]);
        free(image->tables);
        *image = IMAGE_NULL;
}

const struct image_tensor *image_find(const struct image *image, const char *name) {
        size_t lo = 0, hi = image->n_tensors;

        while (lo < hi) {
                size_t mid = lo + (hi - lo) / 2;
                const struct image_tensor *t = &image->tensors[image->name_index[mid]];
                int c = strcmp(name, t->name);

                if (c == 0)
                        return t;
                if (c < 0)
                        hi = mid;
                else
                        lo = mid + 1;
        }
        return NULL;
}
