/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Parts of an image. A segment is a memfd that is sealed, so nothing can be punched out of it: it is there or it is not. What is
 * given back of a model are whole segments; they are loaded again alone, from the same files, by the same plan. Until then there is
 * no engine: it maps all of them or none. Which ones is for whoever wants memory to say (memory/shed-plan.c).
 */

#include "base/fd.h"
#include "base/log.h"
#include "engine.h"
#include "load.h"
#include "manager.h"
#include "model-files.h"
#include "model-keep.h"
#include "model-private.h"

_Static_assert(LOADLINK_SEGMENTS_MAX <= SHED_SEGMENTS_MAX, "a segment must be a bit");

static bool is_there(const struct model *model, size_t i) {
        return !(model->missing >> i & 1);
}

static uint64_t count(const struct model *model, bool there) {
        uint64_t sum = 0;

        for (size_t i = 0; i < model->n_segments; i++)
                sum += is_there(model, i) == there ? model->segment_bytes[i] : 0;
        return sum;
}

uint64_t model_count_image(const struct model *model) {
        return count(model, true);
}

uint64_t model_missing_bytes(const struct model *model) {
        return count(model, false);
}

bool model_has_parts(const struct model *model) {
        return model->n_segments > 1 && model->image_checksum != 0;
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

static void close_segments(struct model *model, uint64_t segments) {
        int closed[LOADLINK_SEGMENTS_MAX];
        uint64_t there = model_count_image(model);
        size_t n = 0;

        for (size_t i = 0; i < model->n_segments; i++) {
                if (!(segments >> i & 1) || !is_there(model, i))
                        continue;
                closed[n++] = fd_steal(&model->segments[i]);
                model->missing |= (uint64_t)1 << i;
        }
        model_keep_part(model); /* nobody else may hold a segment that is to be freed */
        model_close_segments(model, closed, n);
        log_info("model '%s': %llu bytes of its image are given back, %llu stay", model->name,
                 (unsigned long long)(there - model_count_image(model)), (unsigned long long)model_count_image(model));
        manager_model_changed(model->manager, model, false);
}

/* Its files are there, and those that the image was made of: else nothing would go together with what stayed. */
static bool can_read_again(const struct model *model) {
        struct model_files files;
        struct request_error error;
        bool same = model_files_open(&files, model, &error) == 0 && model_files_mark(&files) == model->files_mark;

        model_files_deinit(&files);
        if (!same)
                log_notice("model '%s': its files have gone or changed since they were loaded, so its image is given back whole",
                           model->name);
        return same;
}

/* Its load is ended; a part that was there stays. */
static void end_load(struct model *model) {
        model->engine = engine_discard(model->engine);
        model->load = load_free(model->load);
        model_set_state(model, MODEL_AVAILABLE);
}

bool model_give_back_part(struct model *model, enum model_hold why, uint64_t segments) {
        if (segments == UINT64_MAX || !model_has_parts(model) || (segments && !can_read_again(model))) {
                model_give_back(model, why);
                return false;
        }
        model_hold(model, why);
        if (model->state == MODEL_LOADING)
                end_load(model);
        if (segments)
                close_segments(model, segments);
        else
                model_keep_part(model);
        if (model->state == MODEL_STARTING || model->state == MODEL_READY)
                model_end_engine(model);
        else if (model->state == MODEL_AVAILABLE)
                model->image_bytes = model_count_image(model);
        return true;
}
