/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A model is found again by its name, and one of the store by its digest. What the configuration says of that name by now is in
 * effect with the next load, as after a reload: what is loaded stays until it is unloaded, even where its file has been replaced
 * or nobody configures it any more.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/words.h"
#include "keep/inherited.h"
#include "keep/keep.h"
#include "manager.h"
#include "memory/shed.h"
#include "model-keep.h"
#include "model-private.h"
#include "store/store-manifest.h"
#include "store/store.h"

/* ---- writing ---- */

static void segment_name(uint64_t id, size_t i, char *out, size_t size) {
        (void)snprintf(out, size, "image.%" PRIu64 ".%zu", id, i);
}

/* Of the store's model that it is, else "". */
static char *digest_of(const struct model *model) {
        Spark__V1__ModelInfo info = SPARK__V1__MODEL_INFO__INIT;

        if (model->stored)
                store_fill_info(model->stored, &info);
        return info.digest;
}

/* Its memory was given back, no part of its image is left, and it isn't loaded again yet. */
static bool model_is_away(const struct model *model) {
        bool comes = model->shed.restoring && (model->state == MODEL_AVAILABLE || model->state == MODEL_LOADING);

        return model->n_segments == 0 && (model->shed.view.weights || comes);
}

/* 1: it is about to come back, and its load will say what it takes. */
static struct shed_gain given_of(const struct model *model) {
        struct shed_gain given = { 0 };

        if (model->shed.view.weights)
                given = shed_plan_given(&model->shed.view, 1);
        else if (model_is_away(model))
                given.reserved = 1;
        return given;
}

static void append_model(struct keep *k, const struct model *model) {
        Spark__State__V1__Record record = SPARK__STATE__V1__RECORD__INIT;
        Spark__State__V1__Model s = SPARK__STATE__V1__MODEL__INIT;
        struct shed_gain given = given_of(model);

        s.id = model->keep_id;
        s.name = (char *)model->name;
        s.path = model->path;
        s.configured = model->configured;
        s.load_wanted = model->load_wanted;
        s.lossless = model->lossless;
        s.context = model->context;
        s.segments = (uint32_t)model->n_segments;
        s.image_bytes = model_count_image(model) + model_missing_bytes(model);
        s.n_segment_bytes = model->n_segments;
        s.segment_bytes = (uint64_t *)model->segment_bytes;
        s.image_checksum = model->image_checksum;
        s.files_mark = model->files_mark;
        s.missing = model->missing;
        s.given_resident = given.resident;
        s.given_reserved = given.reserved;
        s.plan = (ProtobufCBinaryData){ .len = sizeof(model->plan), .data = (uint8_t *)&model->plan };
        s.read_bytes = model->read_bytes;
        s.read_us = model->read_us;
        s.load_us = model->load_us;
        s.digest = digest_of(model);
        s.engine_bytes = model->engine_promised ? model->engine_promised : model->facts.other_bytes;
        s.kv_bytes = model->kv_promised ? model->kv_promised : model->facts.kv_bytes;
        record.body_case = SPARK__STATE__V1__RECORD__BODY_MODEL;
        record.model = &s;
        keep_append(k, &record);
}

static void remove_segments(struct keep *k, uint64_t id, size_t n) {
        char name[64];

        for (size_t i = 0; i < n; i++) {
                segment_name(id, i, name, sizeof(name));
                keep_remove_fd(k, name);
        }
}

/* Those that the store does not have yet. */
static bool push_segments(struct keep *k, struct model *model, uint64_t id) {
        char name[64];

        for (size_t i = 0; i < model->n_segments; i++) {
                if ((model->missing | model->kept) >> i & 1)
                        continue;
                segment_name(id, i, name, sizeof(name));
                if (!keep_push_fd(k, name, model->segments[i]))
                        return false;
                model->kept |= (uint64_t)1 << i;
        }
        return true;
}

void model_keep(struct model *model) {
        struct models *models = &model->manager->models;
        struct keep *k = model->manager->keep;

        if (!keep_is_on(k))
                return;
        if (!model->keep_id)
                model->keep_id = ++models->last_id;
        if (push_segments(k, model, model->keep_id))
                append_model(k, model);
        else
                model_keep_gone(model);
}

/* The record first: a process that ends in between has one that says less than the store has. */
void model_keep_part(struct model *model) {
        struct keep *k = model->manager->keep;
        char name[64];

        if (!model->keep_id)
                return;
        append_model(k, model);
        for (size_t i = 0; i < model->n_segments; i++) {
                if (!(model->missing & model->kept & (uint64_t)1 << i))
                        continue;
                segment_name(model->keep_id, i, name, sizeof(name));
                keep_remove_fd(k, name);
                model->kept &= ~((uint64_t)1 << i);
        }
}

void model_keep_away(struct model *model) {
        if (!keep_is_on(model->manager->keep) || !model_is_away(model))
                return;
        if (!model->keep_id)
                model->keep_id = ++model->manager->models.last_id;
        append_model(model->manager->keep, model);
}

void model_keep_gone(struct model *model) {
        Spark__State__V1__Record record = SPARK__STATE__V1__RECORD__INIT;
        Spark__State__V1__ModelGone gone = SPARK__STATE__V1__MODEL_GONE__INIT;
        struct keep *k = model->manager->keep;

        if (!model->keep_id)
                return;
        gone.id = model->keep_id;
        record.body_case = SPARK__STATE__V1__RECORD__BODY_MODEL_GONE;
        record.model_gone = &gone;
        keep_append(k, &record);
        remove_segments(k, model->keep_id, model->n_segments);
        model->keep_id = model->kept = 0;
}

void models_keep_all(struct manager *m, struct keep *k) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &m->models.list) {
                const struct model *model = LIST_ENTRY(pos, struct model, link);

                if (model->keep_id)
                        append_model(k, model);
        }
}

/* Has it an image that is whole, and stays? */
static bool has_image(const struct model *model) {
        return (model->state == MODEL_STARTING || model->state == MODEL_READY) && !model->missing;
}

void models_keep_again(struct manager *m, struct keep *k) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &m->models.list) {
                struct model *model = LIST_ENTRY(pos, struct model, link);

                model->keep_id = 0;
                if (model_is_away(model) || (has_image(model) && push_segments(k, model, m->models.last_id + 1)))
                        model->keep_id = ++m->models.last_id;
        }
}

/* ---- reading ---- */

void models_kept_read(struct keep_records *kept, const Spark__State__V1__Record *record) {
        if (record->body_case == SPARK__STATE__V1__RECORD__BODY_MODEL)
                keep_records_put(kept, record->model->id, record);
        else
                keep_records_drop(kept, record->model_gone->id);
}

/* ---- putting them back ---- */

/* The place in the table that is its own, made where there is none any more. NULL without memory. */
static struct model *find_place(struct manager *m, const Spark__State__V1__Model *s) {
        struct model *model = NULL;
        char name[128];

        (void)snprintf(name, sizeof(name), STORE_DIGEST_PREFIX "%.100s", s->digest);
        if (*s->digest)
                model = store_find_model(m->store, name, NULL);
        if (!model)
                model = models_get_listed(m, s->name);
        return model ? model : model_new(m, s->name, s->path);
}

/* One that is there. NULL, or why it is not what the record says. */
static const char *take_segment(struct manager *m, uint64_t id, size_t i, int *ret_fd, uint64_t *ret_size) {
        _cleanup_fd_ int fd = -1;
        char name[64];

        segment_name(id, i, name, sizeof(name));
        fd = inherited_take(m->inherited, name);
        if (fd < 0)
                return "a segment is missing";
        if (fd_memfd_check_sealed(fd, ret_size) < 0)
                return "a segment is not sealed";
        *ret_fd = fd_steal(&fd);
        return NULL;
}

/* NULL, or why its image is not what the record says. Of a service that did not write sizes down, all segments are there. */
static const char *take_segments(struct manager *m, struct model *model, const Spark__State__V1__Model *s) {
        bool sizes = s->n_segment_bytes == s->segments;
        uint64_t sum = 0;
        const char *why;

        if (s->segments > LOADLINK_SEGMENTS_MAX)
                return "it has too many segments";
        if (s->missing && (!sizes || !s->image_checksum))
                return "what is missing of it is not known";
        for (size_t i = 0; i < s->segments; i++) {
                uint64_t size = sizes ? s->segment_bytes[i] : 0;
                bool away = s->missing >> i & 1;

                model->segments[i] = -1;
                model->n_segments = i + 1;
                why = away ? NULL : take_segment(m, s->id, i, &model->segments[i], &size);
                if (why)
                        return why;
                if ((sizes && size != s->segment_bytes[i]) || __builtin_add_overflow(sum, size, &sum))
                        break;
                model->segment_bytes[i] = size;
                model->kept |= away ? 0 : (uint64_t)1 << i;
        }
        return sum == s->image_bytes ? NULL : "it is not as large as it was";
}

/* A model that nobody configures any more comes back only where there is something of it. */
static bool is_away(const Spark__State__V1__Model *s) {
        return s->segments == 0 && s->given_reserved > 0;
}

static const char *why_not(const struct manager *m, const struct model *model, const Spark__State__V1__Model *s) {
        if (model->state != MODEL_AVAILABLE)
                return "another one has its place";
        if (config_is_null_backend(m->config) != (s->segments == 0) && !is_away(s))
                return "the backend is another one";
        return NULL;
}

static void adopt(struct model *model, const Spark__State__V1__Model *s) {
        model->keep_id = s->id;
        model->missing = s->missing;
        model->image_checksum = s->image_checksum;
        model->files_mark = s->files_mark;
        model->image_bytes = model_count_image(model);
        model->load_wanted = s->load_wanted && !(is_away(s) && s->configured && !model->configured);
        model->lossless = s->lossless;
        model->read_bytes = s->read_bytes;
        model->read_us = s->read_us;
        model->load_us = s->load_us;
        if (s->plan.len == sizeof(model->plan))
                memcpy(&model->plan, s->plan.data, s->plan.len);
        if (s->given_reserved || s->missing) { /* as it was: whoever has the memory follows, or it is taken again */
                shed_adopt(model, (struct shed_gain){ s->given_resident, s->given_reserved });
                return;
        }
        model->kv_promised = s->kv_bytes;
        model->engine_promised = s->engine_bytes;
        model_adopted(model);
}

static int restore_one(struct manager *m, const Spark__State__V1__Model *s) {
        struct model *model = find_place(m, s);
        char image[WORDS_BYTES];
        const char *why;

        if (!model)
                return -ENOMEM;
        m->models.last_id = MAX(m->models.last_id, s->id);
        why = why_not(m, model, s);
        if (!why) {
                why = take_segments(m, model, s);
                if (!why) {
                        adopt(model, s);
                        if (is_away(s))
                                log_info("model '%s' has given its memory back, and is loaded again later", model->name);
                        else
                                log_info("model '%s': its image of %s is taken over", model->name,
                                         words_bytes(model->image_bytes, image));
                        return 0;
                }
                while (model->n_segments)
                        (void)fd_close(model->segments[--model->n_segments]);
                model->kept = 0;
        }
        log_warning("model '%s' is not taken over: %s", s->name, why);
        remove_segments(m->keep, s->id, MIN(s->segments, LOADLINK_SEGMENTS_MAX));
        model_kick(model);
        return 0;
}

int models_restore(struct manager *m, const struct keep_records *kept) {
        int r = kept->failed ? -ENOMEM : 0;

        for (size_t i = 0; i < kept->n && r >= 0; i++)
                r = restore_one(m, kept->list[i]->model);
        return r;
}
