/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A model that somebody holds back stays as it is, or gives its memory back. Holds are bits, so that whoever holds need not
 * count; the last one to let go has it go on where it was: one that was loaded is loaded again, since load_wanted stayed set.
 */

#include "base/log.h"
#include "engine.h"
#include "event.h"
#include "load.h"
#include "manager.h"
#include "model-keep.h"
#include "model-private.h"
#include "power/power.h"

void model_given_back(struct model *model) {
        model->giving = false;
        if (model->n_segments > 0) { /* what is left of it stays */
                model->image_bytes = model_count_image(model);
                model->kv_promised = model->engine_promised = 0;
        } else {
                model_drop_image(model);
                model_keep_away(model);
        }
        model->facts = (struct model_facts){ 0 };
        event_log(EVENT_MODEL_GIVEN_BACK, model->name, "model '%s' has given its memory back; it is loaded again later",
                  model->name);
        model_set_state(model, MODEL_AVAILABLE);
        model_kick(model); /* there may be nothing that holds it any more */
}

void model_hold(struct model *model, enum model_hold why) {
        if (model->holds & why)
                return;
        model->holds |= why;
        model_kick(model);
}

void model_give_back(struct model *model, enum model_hold why) {
        model_hold(model, why);
        switch (model->state) {
        case MODEL_LOADING:
                model->engine = engine_discard(model->engine);
                model->load = load_free(model->load);
                model_drop_image(model);
                model_set_state(model, MODEL_AVAILABLE);
                return;
        case MODEL_STARTING:
        case MODEL_READY:
                model_close_image(model);
                model_end_engine(model);
                return;
        case MODEL_AVAILABLE:
                model_drop_image(model); /* where a part was left */
                return;
        case MODEL_UNLOADING:
                model_close_image(model);
                return;
        case MODEL_FAILED:
                return; /* there is nothing */
        }
}

void model_end_engine(struct model *model) {
        model->restart_timer = sd_event_source_disable_unref(model->restart_timer);
        model->giving = true;
        model_set_state(model, MODEL_UNLOADING);
        /* its end frees what it has mapped: many gigabytes take seconds, in which we would serve nobody */
        if (model->engine)
                engine_retire(model->engine);
        else
                model_given_back(model);
}

void model_release(struct model *model, enum model_hold why) {
        if (!(model->holds & why))
                return;
        model->holds &= ~(unsigned)why;
        if (!model->holds && model->state == MODEL_STARTING && !model->engine && !model->restart_timer)
                model_start_engine(model);
        model_kick(model);
}

const char *model_held_by(const struct model *model) {
        static const char *const names[] = { "memory", "lease", "sleep" };

        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                if (model->holds & (1u << i))
                        return names[i];
        if (power_is_parked(model->manager->power))
                return "power";
        return model->residency.waits_us ? "room" : "";
}
