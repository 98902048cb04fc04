/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Parts of an image. A segment is a memfd that is sealed, so nothing can be punched out of it: it is there or it is not. What is
 * given back of a model are whole segments, from the last one on; they are loaded again alone, from the same files, by the same
 * plan. Until then there is no engine: it maps all of them or none.
 */

#include "base/fd.h"
#include "base/log.h"
#include "load.h"
#include "model-keep.h"
#include "model-private.h"

static bool is_there(const struct model *model, size_t i) {
        return !(model->missing >> i & 1);
}

uint64_t model_count_image(const struct model *model) {
        uint64_t sum = 0;

        for (size_t i = 0; i < model->n_segments; i++)
                sum += is_there(model, i) ? model->segment_bytes[i] : 0;
        return sum;
}

/* The whole image, or what was missing of it, in the image's order. */
void model_take_image(struct model *model, struct load *load) {
        size_t n = 0;

        if (!model->missing) {
                for (size_t i = 0; i < load->n_segments; i++) {
                        model->segments[i] = fd_steal(&load->segments[i]);
                        model->segment_bytes[i] = load->segment_bytes[i];
                }
                model->n_segments = load->n_segments;
                model->image_checksum = load->checksum;
                model->files_mark = load->mark;
        }
        for (size_t i = 0; i < model->n_segments; i++)
                if (!is_there(model, i))
                        model->segments[i] = fd_steal(&load->segments[n++]);
        model->missing = 0;
        model->image_bytes = model_count_image(model);
}

static uint64_t close_segments(struct model *model, uint64_t bytes) {
        int closed[LOADLINK_SEGMENTS_MAX];
        uint64_t sum = 0;
        size_t n = 0;

        model_keep_gone(model); /* nobody else may hold a segment; a later process begins with a whole load */
        for (size_t i = model->n_segments; i-- > 0 && sum < bytes;) {
                if (!is_there(model, i))
                        continue;
                closed[n++] = fd_steal(&model->segments[i]);
                model->missing |= (uint64_t)1 << i;
                sum += model->segment_bytes[i];
        }
        model_close_segments(model, closed, n);
        log_info("model '%s': %llu bytes of its image are given back, %llu stay", model->name, (unsigned long long)sum,
                 (unsigned long long)model_count_image(model));
        return sum;
}

uint64_t model_give_back_part(struct model *model, enum model_hold why, uint64_t bytes) {
        uint64_t there = model->image_bytes, sum = 0;

        /* One that was taken over from an earlier process goes as a whole: what it was made of is not known. */
        if (bytes >= there || !model->image_checksum || model->state == MODEL_LOADING || model->state == MODEL_FAILED) {
                model_give_back(model, why);
                return there;
        }
        model_hold(model, why);
        switch (model->state) {
        case MODEL_STARTING:
        case MODEL_READY:
                sum = close_segments(model, bytes);
                model_end_engine(model);
                break;
        case MODEL_AVAILABLE:
                sum = close_segments(model, bytes);
                model->image_bytes = model_count_image(model);
                break;
        case MODEL_UNLOADING:
                if (model->giving)
                        sum = close_segments(model, bytes);
                break;
        case MODEL_LOADING:
        case MODEL_FAILED:
                break;
        }
        return sum;
}
