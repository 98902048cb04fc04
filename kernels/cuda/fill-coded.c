/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Random weights in losslessly coded BF16 (kernels/lossless.h). Some panels of a matrix are drawn and coded by the processor; on the
 * device they are repeated, each with escapes of its own, so that a product reads as many bytes as of a matrix that was trained.
 * Numbers are about normally distributed, as trained weights are: it is their exponents that the code is about.
 */

#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/macro.h"
#include "cuda.h"
#include "kernels/half.h"
#include "kernels/lossless.h"

#define DRAWN_MAX (1u << 18) /* weights of a matrix */

/* The sum of four even numbers, of variance 1. SplitMix64 (Steele, Lea, Flood 2014). */
static float draw(uint64_t *state) {
        uint64_t z = *state += 0x9e3779b97f4a7c15u;
        uint32_t sum = 0;

        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        z ^= z >> 31;
        for (unsigned i = 0; i < 4; i++)
                sum += (uint32_t)(z >> 16 * i & 0xffffu);
        return ((float)sum * 0x1p-16f - 2.0f) * 1.7320508f;
}

/* A panel of numbers, and its code behind those of the panels in front. */
static int draw_panel(struct cuda_drawn *d, uint64_t panel, uint16_t *numbers, float deviation, uint64_t *state) {
        size_t n = (size_t)WEIGHT_PANEL * d->n_in, row = d->n_in * sizeof(*numbers);
        uint64_t bytes;
        uint8_t *escapes;

        for (size_t i = 0; i < n; i++)
                numbers[i] = bf16_from_float(draw(state) * deviation);
        bytes = lossless_measure(numbers, row, WEIGHT_PANEL, d->n_in);
        escapes = realloc(d->escapes, d->once + bytes + 1);
        if (!escapes)
                return BACKEND_E_NO_MEMORY;
        d->escapes = escapes;
        d->once += lossless_encode(numbers, row, WEIGHT_PANEL, d->n_in, d->once, d->columns + panel * d->panel_bytes,
                                   d->index + panel * d->parts.units, d->escapes);
        return 0;
}

/* The entries of what repeats the first panels. */
static void repeat_index(struct cuda_drawn *d) {
        uint64_t n = d->n_drawn * d->parts.units;

        for (uint64_t i = n; i < d->parts.n_entries; i++)
                d->index[i] = htole64(le64toh(d->index[i - n]) + d->once);
}

int cuda_drawn_make(const struct weight *w, float deviation, uint64_t seed, struct cuda_drawn *d) {
        uint16_t *numbers = NULL;
        int r = 0;

        *d = (struct cuda_drawn){ .n_in = w->n_in };
        if (!lossless_layout(MAX(w->n_experts, 1u), w->n_out, w->n_in, &d->parts))
                return BACKEND_E_UNSUPPORTED;
        d->panel_bytes = (size_t)w->n_in / LOSSLESS_COLUMN * LOSSLESS_COLUMN_BYTES;
        d->n_panels = (uint64_t)d->parts.panels * MAX(w->n_experts, 1u);
        d->n_drawn = MIN(d->n_panels, 1 + DRAWN_MAX / WEIGHT_PANEL / (uint64_t)w->n_in);
        numbers = calloc((size_t)WEIGHT_PANEL * w->n_in, sizeof(*numbers));
        d->columns = calloc(d->n_drawn, d->panel_bytes);
        d->index = calloc(d->parts.n_entries, sizeof(*d->index));
        if (!numbers || !d->columns || !d->index)
                r = BACKEND_E_NO_MEMORY;
        for (uint64_t p = 0; r == 0 && p < d->n_drawn; p++)
                r = draw_panel(d, p, numbers, deviation, &seed);
        free(numbers);
        if (r == 0)
                repeat_index(d);
        d->escape_bytes = (d->n_panels + d->n_drawn - 1) / d->n_drawn * d->once;
        if (r == 0 && d->escape_bytes > LOSSLESS_OFFSET_MASK)
                r = BACKEND_E_UNSUPPORTED;
        return r;
}

/* What is at `to`, `once` bytes, again and again. */
static int repeat(struct cuda_backend *be, uint8_t *to, uint64_t once, uint64_t bytes) {
        int r = 0;

        for (uint64_t have = once, n; r == 0 && have < bytes; have += n) {
                n = MIN(have, bytes - have);
                r = cuda_check(be, cudaMemcpyAsync(to + have, to, n, cudaMemcpyDeviceToDevice, be->stream), "filling a weight");
        }
        return r;
}

int cuda_drawn_put(struct cuda_backend *be, const struct cuda_drawn *d, void *dev) {
        uint8_t *to = dev, *escapes = to + d->parts.escapes;
        const struct cuda_memory end = { .data = escapes + d->escape_bytes, .bytes = LOSSLESS_SLACK };
        uint64_t columns = d->n_drawn * d->panel_bytes;
        int r = cuda_copy_in(be, to, d->columns, columns);

        r = r ? r : cuda_copy_in(be, to + d->parts.index, d->index, d->parts.n_entries * sizeof(*d->index));
        r = r ? r : cuda_copy_in(be, escapes, d->escapes, d->once);
        r = r ? r : repeat(be, to, columns, d->n_panels * d->panel_bytes);
        r = r ? r : repeat(be, escapes, d->once, d->escape_bytes);
        return r ? r : cuda_memory_clear(be, &end);
}

void cuda_drawn_free(struct cuda_drawn *d) {
        free(d->columns);
        free(d->index);
        free(d->escapes);
        *d = (struct cuda_drawn){ 0 };
}
