/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Parts of a Hugging Face model as pieces of a copy, in the order of the files. Rows that have scales apart from them need
 * these at hand when they come: so pieces are copied in batches, and a batch's scales come first, by the same way.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "kernels/format.h"

#include "hf.h"
#include "segments.h"

static bool has_scales(const struct hf_part *p) {
        return p->how == HF_F8 || p->how == HF_MXFP4 || p->how == HF_NVFP4;
}

/* Bytes of scales of one row, all `step` of them; F8's are of no row. */
static uint64_t scales_of_row(const struct hf_part *p) {
        return p->how == HF_MXFP4 ? p->n_in / 32 * p->step : p->how == HF_NVFP4 ? p->n_in / 16 * p->step : 0;
}

static uint64_t scales_in_file(const struct copy_piece *piece, const struct hf_part *p) {
        if (!has_scales(p))
                return 0;
        return p->how == HF_F8 ? p->scale->size : piece->n_rows * scales_of_row(p);
}

static uint64_t scales_in_memory(const struct copy_piece *piece, const struct hf_part *p) {
        uint64_t n = scales_in_file(piece, p);

        if (p->how == HF_F8)
                n = n / safetensors_type_size(p->scale->type) * sizeof(float);
        return (n + 7) & ~(uint64_t)7;
}

static const struct hf_part *part_of(const struct copy_piece *piece) {
        return ((const struct hf_rows *)piece->arg)->part;
}

static int add_piece(struct hf *h, const struct copy_piece *piece, const struct hf_part *p, uint64_t first) {
        if (h->n_pieces == h->cap_pieces) {
                size_t cap = h->cap_pieces ? 2 * h->cap_pieces : 256;
                struct copy_piece *pieces = reallocarray(h->pieces, cap, sizeof(*pieces));
                struct hf_rows *rows;

                if (!pieces)
                        return -ENOMEM;
                h->pieces = pieces;
                rows = reallocarray(h->rows, cap, sizeof(*rows));
                if (!rows)
                        return -ENOMEM;
                h->rows = rows;
                h->cap_pieces = cap;
        }
        h->rows[h->n_pieces] = (struct hf_rows){ .part = p, .first = first };
        h->pieces[h->n_pieces++] = *piece;
        return 0;
}

/* A part's rows, in several pieces where they have many scales. */
static int add_part(struct hf *h, const struct hf_part *p, uint32_t tensor, bool panels) {
        bool columns = p->how == HF_TRANSPOSED && panels;
        uint64_t n_rows = columns ? p->n_in : p->n_rows, row_bytes = columns ? p->n_rows * p->step * fmt_info(p->fmt)->bytes : hf_row_bytes(p);
        uint64_t most = n_rows, scales = scales_of_row(p);
        int r = 0;

        if (!panels && has_scales(p))
                return -EINVAL;
        if (scales)
                most = MAX(h->scales_max / 4 / scales / WEIGHT_PANEL * WEIGHT_PANEL, (uint64_t)WEIGHT_PANEL);
        for (uint64_t first = 0, n; first < n_rows && r == 0; first += n) {
                struct copy_piece piece = { .source = p->tensor->file, .tensor = tensor, .fmt = p->fmt };

                n = MIN(most, n_rows - first);
                piece.transform = hf_transform(p, panels, &piece.fn);
                piece.gather = columns && p->fmt == FMT_BF16 ? hf_gather : NULL;
                piece.offset = p->tensor->offset + (p->matrix * n_rows + first) * row_bytes;
                piece.size = n * row_bytes;
                piece.first_row = p->expert * n_rows + first;
                piece.n_rows = n;
                piece.matrix_rows = n_rows;
                r = add_piece(h, &piece, p, first);
        }
        return r;
}

/* Twins follow one another. */
static int by_place(const void *a, const void *b) {
        const struct copy_piece *x = a, *y = b;

        if (x->source != y->source)
                return x->source < y->source ? -1 : 1;
        if (x->offset != y->offset)
                return x->offset < y->offset ? -1 : 1;
        return x->tensor < y->tensor ? -1 : x->tensor > y->tensor;
}

static bool are_twins(const struct copy_piece *x, const struct copy_piece *y) {
        return x->source == y->source && x->offset == y->offset && x->size == y->size && x->fn && x->fn == y->fn &&
               x->first_row == y->first_row && x->n_rows == y->n_rows && x->matrix_rows == y->matrix_rows;
}

/* Two tensors of the same rows (gate and up, which alternate) are read once. */
static void join_twins(struct hf *h) {
        size_t n = 0;

        for (size_t i = 0; i < h->n_pieces; i++) {
                struct copy_piece *last = n ? &h->pieces[n - 1] : NULL;

                if (last && !last->has_twin && are_twins(last, &h->pieces[i])) {
                        last->has_twin = true;
                        last->twin = h->pieces[i].tensor;
                        last->twin_arg = h->pieces[i].arg;
                } else {
                        h->pieces[n++] = h->pieces[i];
                }
        }
        h->n_pieces = n;
}

/* Bytes that are read for these. */
static uint64_t total(const struct copy_piece *pieces, size_t n) {
        uint64_t bytes = 0;

        for (size_t i = 0; i < n; i++)
                bytes += pieces[i].size + scales_in_file(&pieces[i], part_of(&pieces[i]));
        return bytes;
}

int hf_plan_pieces(struct hf *h, const struct image_plan *plan) {
        int r = 0;

        for (size_t i = 0; i < plan->n_tensors && r == 0; i++)
                for (size_t k = 0; k < h->tensors[i].n && r == 0; k++) {
                        const struct hf_part *p = &h->parts[h->tensors[i].first + k];

                        if (p->how != HF_FACTORS)
                                r = add_part(h, p, (uint32_t)i, plan->tensors[i].layout == WEIGHT_PANELS);
                }
        if (r)
                return r;
        for (size_t i = 0; i < h->n_pieces; i++)
                h->pieces[i].arg = &h->rows[i];
        if (h->n_pieces > 0)
                qsort(h->pieces, h->n_pieces, sizeof(*h->pieces), by_place);
        join_twins(h);
        h->total = total(h->pieces, h->n_pieces);
        return 0;
}

void hf_choose(struct hf *h, const struct image_plan *plan, uint64_t segments) {
        h->n_pieces = segments_choose(h->pieces, h->n_pieces, plan, segments);
        h->total = total(h->pieces, h->n_pieces);
}

struct writer {
        struct hf *h;
        struct copy *copy;
        const struct image_plan *plan;
        void *const *segments;
        const struct copy_progress *progress;
        uint64_t done, total; /* done: by runs before */
};

static void report(void *arg, uint64_t done, uint64_t total) {
        struct writer *w = arg;

        (void)total;
        if (w->progress && w->progress->fn)
                w->progress->fn(w->progress->arg, w->done + done, w->total);
}

static int run(struct writer *w, const struct copy_piece *pieces, size_t n) {
        const struct copy_progress progress = { report, w };
        int r = copy_run(w->copy, pieces, n, w->plan, w->segments, &progress, w->h->error);

        w->done += copy_total(pieces, n);
        return r;
}

static struct copy_piece scales_piece(const struct copy_piece *piece) {
        const struct hf_rows *rows = piece->arg;
        const struct hf_part *p = rows->part;
        uint64_t size = scales_in_file(piece, p), unit = safetensors_type_size(p->scale->type);
        uint64_t before = p->how == HF_F8 ? 0 : (p->matrix * p->n_rows + rows->first) * scales_of_row(p);

        return (struct copy_piece){ .source = p->scale->file, .tensor = piece->tensor, .transform = COPY_PLACE,
                                    .offset = p->scale->offset + before, .size = size, .n_rows = size / unit,
                                    .matrix_rows = size / unit, .fn = hf_take_scales, .arg = rows, .aside = true };
}

/* Reads the scales of these pieces into memory [bytes] that they point to then. */
static int read_scales(struct writer *w, struct copy_piece *pieces, size_t n, char *memory) {
        _cleanup_free_ struct copy_piece *scales = calloc(n, sizeof(*scales));
        size_t n_scales = 0;

        if (!scales)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                struct hf_rows *rows = &w->h->rows[(const struct hf_rows *)pieces[i].arg - w->h->rows];

                if (!has_scales(rows->part))
                        continue;
                rows->scales = memory;
                if (pieces[i].has_twin)
                        w->h->rows[(const struct hf_rows *)pieces[i].twin_arg - w->h->rows].scales = memory;
                memory += scales_in_memory(&pieces[i], rows->part);
                scales[n_scales++] = scales_piece(&pieces[i]);
        }
        return run(w, scales, n_scales);
}

/* As many of n pieces as have their scales in memory together, one at least. */
static size_t batch(const struct hf *h, const struct copy_piece *pieces, size_t n, uint64_t *ret_bytes) {
        uint64_t bytes = scales_in_memory(&pieces[0], part_of(&pieces[0]));
        size_t i = 1;

        for (; i < n; i++) {
                uint64_t more = scales_in_memory(&pieces[i], part_of(&pieces[i]));

                if (bytes + more > h->scales_max)
                        break;
                bytes += more;
        }
        *ret_bytes = bytes;
        return i;
}

static int write_batch(struct writer *w, struct copy_piece *pieces, size_t n, uint64_t bytes) {
        _cleanup_free_ char *memory = NULL;
        int r = 0;

        if (bytes > 0) {
                memory = malloc(bytes);
                r = memory ? read_scales(w, pieces, n, memory) : -ENOMEM;
        }
        return r ? r : run(w, pieces, n);
}

/* What is computed and in no file. */
static void write_factors(const struct hf *h, const struct image_plan *plan, void *const *segments) {
        for (size_t i = 0; i < plan->n_tensors; i++) {
                const struct image_tensor *t = &plan->tensors[i];
                const struct hf_part *p = &h->parts[h->tensors[i].first];

                if (p->how == HF_FACTORS && segments[t->segment])
                        (void)memcpy((char *)segments[t->segment] + t->offset, p->factors, p->n_in * sizeof(float));
        }
}

static int write_pieces(struct writer *w, struct copy_piece *pieces, size_t n) {
        uint64_t bytes = 0;
        int r = 0;

        w->total = total(pieces, n);
        for (size_t i = 0, k; i < n && r == 0; i += k) {
                k = batch(w->h, pieces + i, n - i, &bytes);
                r = write_batch(w, pieces + i, k, bytes);
        }
        return r;
}

int hf_write(struct hf *h, struct copy *copy, const struct image_plan *plan, void *const *segments,
             const struct copy_progress *progress) {
        struct writer w = { .h = h, .copy = copy, .plan = plan, .segments = segments, .progress = progress };

        write_factors(h, plan, segments);
        return write_pieces(&w, h->pieces, h->n_pieces);
}

int hf_measure(struct hf *h, struct copy *copy, const struct image_plan *plan, struct copy_piece *pieces, size_t n,
               const struct copy_progress *progress) {
        struct writer w = { .h = h, .copy = copy, .plan = plan, .progress = progress };

        return write_pieces(&w, pieces, n);
}
