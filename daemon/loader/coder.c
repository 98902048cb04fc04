/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/macro.h"
#include "kernels/format.h"

#include "coder.h"

#define BF16_BYTES 2u
#define UNIT_COLUMNS (LOSSLESS_UNIT / LOSSLESS_COLUMN)

/* Rows of a panel, or of a part of it that begins with a unit. */
struct spot {
        uint64_t panel; /* of all matrices' */
        uint64_t unit;
        unsigned n_rows;
        uint64_t n; /* elements of each row */
        const void *src;
        size_t stride;
};

int coder_init(struct coder *c, const struct image_plan *plan) {
        *c = (struct coder){ .tensors = calloc(plan->n_tensors + 1, sizeof(*c->tensors)), .n = plan->n_tensors };
        return c->tensors ? 0 : -ENOMEM;
}

static void give_up(struct coder_tensor *t) {
        free(t->at);
        t->at = NULL;
}

void coder_deinit(struct coder *c) {
        for (size_t i = 0; i < c->n; i++)
                give_up(&c->tensors[i]);
        free(c->tensors);
        *c = CODER_NULL;
}

bool coder_can(const struct image_tensor *t) {
        struct lossless_parts parts;

        return t->fmt == FMT_BF16 && t->layout == WEIGHT_PANELS && lossless_layout(t->dims[2], t->dims[1], t->dims[0], &parts) &&
               parts.least < t->size;
}

int coder_add(struct coder *c, const struct image_plan *plan, uint32_t i, bool by_units) {
        const struct image_tensor *t = &plan->tensors[i];
        struct coder_tensor *ct = &c->tensors[i];

        if (ct->at)
                return 0;
        if (!lossless_layout(t->dims[2], t->dims[1], t->dims[0], &ct->parts))
                return -EINVAL;
        ct->by_units = by_units;
        ct->n = by_units ? ct->parts.n_entries : ct->parts.n_entries / ct->parts.units;
        ct->at = calloc(ct->n + 1, sizeof(*ct->at));
        return ct->at ? 0 : -ENOMEM;
}

static enum coder_fault take(const struct coder_tensor *ct, const struct image_tensor *t, const struct spot *s, char *data) {
        uint64_t i = ct->by_units ? s->panel * ct->parts.units + s->unit : s->panel;
        uint64_t bytes = lossless_measure(s->src, s->stride, s->n_rows, s->n), column, entry;
        char *columns, *index, *escapes;

        if (!data) {
                ct->at[i + 1] = bytes;
                return CODER_OK;
        }
        if (bytes != ct->at[i + 1] - ct->at[i])
                return CODER_CHANGED;
        column = s->panel * (t->dims[0] / LOSSLESS_COLUMN) + s->unit * UNIT_COLUMNS;
        entry = s->panel * ct->parts.units + s->unit;
        columns = data + column * LOSSLESS_COLUMN_BYTES;
        index = data + ct->parts.index + entry * sizeof(uint64_t);
        escapes = data + ct->parts.escapes;
        (void)lossless_encode(s->src, s->stride, s->n_rows, s->n, ct->at[i], columns, index, escapes);
        return lossless_verify(columns, index, escapes, s->src, s->stride, s->n_rows, s->n) ? CODER_OK : CODER_UNFAITHFUL;
}

enum coder_fault coder_rows(const struct coder *c, uint32_t i, const struct image_tensor *t, uint64_t row, uint64_t n, const char *src,
                            char *data) {
        const struct coder_tensor *ct = &c->tensors[i];
        struct spot s = { .n = t->dims[0], .stride = t->dims[0] * BF16_BYTES };
        enum coder_fault f = CODER_OK;

        for (uint64_t done = 0; done < n && f == CODER_OK; done += s.n_rows) {
                uint64_t matrix = (row + done) / t->dims[1], first = (row + done) % t->dims[1];

                s.panel = matrix * ct->parts.panels + first / WEIGHT_PANEL;
                s.n_rows = (unsigned)MIN(MIN((uint64_t)WEIGHT_PANEL, n - done), t->dims[1] - first);
                s.src = src + done * s.stride;
                f = take(ct, t, &s, data);
        }
        return f;
}

enum coder_fault coder_columns(const struct coder *c, uint32_t i, const struct image_tensor *t, uint64_t matrix, uint64_t k, uint64_t n,
                               coder_gather *gather, const void *arg, const char *src, char *data) {
        const struct coder_tensor *ct = &c->tensors[i];
        uint16_t rows[WEIGHT_PANEL * LOSSLESS_UNIT];
        struct spot s = { .src = rows };
        enum coder_fault f = CODER_OK;

        for (uint64_t done = 0; done < n; done += s.n) {
                s.n = MIN((uint64_t)LOSSLESS_UNIT, n - done);
                s.unit = (k + done) / LOSSLESS_UNIT;
                s.stride = s.n * BF16_BYTES;
                for (uint64_t p = 0; p < ct->parts.panels && f == CODER_OK; p++) {
                        s.panel = matrix * ct->parts.panels + p;
                        s.n_rows = (unsigned)MIN((uint64_t)WEIGHT_PANEL, t->dims[1] - p * WEIGHT_PANEL);
                        gather(arg, p * WEIGHT_PANEL, s.n_rows, done, s.n, src, rows);
                        f = take(ct, t, &s, data);
                }
        }
        return f;
}

/* Sums of what was measured; false where that is more than an index can say. */
static bool add_up(struct coder_tensor *ct) {
        for (uint64_t i = 0; i < ct->n; i++)
                if (!checked_add(ct->at[i], ct->at[i + 1], &ct->at[i + 1]))
                        return false;
        return ct->at[ct->n] <= LOSSLESS_OFFSET_MASK;
}

void coder_decide(struct coder *c, struct image_plan *plan) {
        for (size_t i = 0; i < c->n; i++) {
                struct coder_tensor *ct = &c->tensors[i];

                if (!ct->at)
                        continue;
                if (!add_up(ct) || ct->parts.least + ct->at[ct->n] >= plan->tensors[i].size ||
                    image_plan_code_tensor(plan, i, ct->at[ct->n]) != 0)
                        give_up(ct);
        }
}
