/* SPDX-License-Identifier: Apache-2.0 */

#include "segments.h"

size_t segments_choose(struct copy_piece *pieces, size_t n, const struct image_plan *plan, uint64_t segments) {
        size_t kept = 0;

        for (size_t i = 0; i < n; i++) {
                struct copy_piece p = pieces[i];
                bool here = segments_has(segments, plan->tensors[p.tensor].segment);
                bool twin = p.has_twin && segments_has(segments, plan->tensors[p.twin].segment);

                if (!here && !twin)
                        continue;
                if (!here) {
                        p.tensor = p.twin;
                        p.arg = p.twin_arg;
                }
                p.has_twin = here && twin;
                pieces[kept++] = p;
        }
        return kept;
}

uint64_t segments_size(const struct image_plan *plan, uint64_t segments) {
        uint64_t sum = 0;

        for (size_t i = 0; i < plan->n_segments; i++)
                sum += segments_has(segments, i) ? plan->segment_size[i] : 0;
        return sum;
}
