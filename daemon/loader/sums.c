/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>

#include "base/macro.h"
#include "daemon/image/checksum.h"
#include "daemon/image/tensor-size.h"

#include "sums.h"

int sums_init(struct sums *s, struct image_plan *plan, void *const *segments, bool compare) {
        *s = (struct sums){ .plan = plan, .segments = segments, .compare = compare };
        s->left = calloc(plan->n_tensors + 1, sizeof(*s->left));
        return s->left ? 0 : -ENOMEM;
}

void sums_deinit(struct sums *s) {
        free((void *)s->left);
        *s = SUMS_NULL;
}

void sums_expect(struct sums *s, uint32_t i, uint64_t n) {
        s->left[i] += n;
}

static enum sums_fault end(struct sums *s, uint32_t i) {
        struct image_tensor *t = &s->plan->tensors[i];
        const char *data = (const char *)s->segments[t->segment] + t->offset;
        uint64_t sum = image_checksum(data, (size_t)t->size);
        struct lossless_parts parts;

        if (s->compare && sum != t->checksum)
                return SUMS_DAMAGED;
        if (s->compare && image_tensor_parts(t, &parts) &&
            !lossless_index_valid(data + parts.index, parts.n_entries, t->size - parts.escapes))
                return SUMS_MISLEADS;
        t->checksum = sum;
        if (s->whole)
                s->whole(s->arg, t);
        return SUMS_OK;
}

enum sums_fault sums_add(struct sums *s, uint32_t i, uint64_t n) {
        return atomic_fetch_sub(&s->left[i], n) == n ? end(s, i) : SUMS_OK;
}

/* The first tensor that ends behind this place, or n_tensors: they ascend by segment and offset. */
static size_t first_behind(const struct image_plan *plan, uint32_t segment, uint64_t offset) {
        size_t lo = 0, hi = plan->n_tensors;

        while (lo < hi) {
                size_t mid = lo + (hi - lo) / 2;
                const struct image_tensor *t = &plan->tensors[mid];

                if (t->segment < segment || (t->segment == segment && t->offset + t->size <= offset))
                        lo = mid + 1;
                else
                        hi = mid;
        }
        return lo;
}

enum sums_fault sums_add_bytes(struct sums *s, uint32_t segment, uint64_t offset, uint64_t n, uint32_t *ret_tensor) {
        for (size_t i = first_behind(s->plan, segment, offset); i < s->plan->n_tensors; i++) {
                const struct image_tensor *t = &s->plan->tensors[i];
                enum sums_fault f;

                if (t->segment != segment || t->offset >= offset + n)
                        break;
                f = sums_add(s, (uint32_t)i, MIN(t->offset + t->size, offset + n) - MAX(t->offset, offset));
                if (f != SUMS_OK) {
                        *ret_tensor = (uint32_t)i;
                        return f;
                }
        }
        return SUMS_OK;
}

void sums_finish(struct sums *s) {
        for (size_t i = 0; i < s->plan->n_tensors; i++)
                if (s->plan->tensors[i].checksum == 0)
                        (void)end(s, (uint32_t)i);
}
