/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/image/schema.h"
#include "modeldir.h"

#include "hf.h"
#include "hf-tokenizer.h"
#include "source-copy.h"

#define TEXT_MAX (16u << 20) /* of a small JSON file or a template */

int hf_init(struct hf *h, const char *const *names, const int *fds, size_t n, struct loader_error *error) {
        *h = (struct hf){ .error = error, .scales_max = HF_SCALES_MAX };
        if (n > HF_FILES_MAX)
                return loader_fail(error, LOADER_E_UNSUPPORTED, "the model has more than %u files", HF_FILES_MAX);
        for (; h->n_files < n; h->n_files++) {
                int r;

                h->names[h->n_files] = names[h->n_files];
                h->sources[h->n_files] = SOURCE_NULL;
                if (!modeldir_knows(names[h->n_files]))
                        return -EINVAL;
                r = source_init(&h->sources[h->n_files], fds[h->n_files], error);
                if (r)
                        return r;
                h->sources[h->n_files].name = names[h->n_files];
        }
        return 0;
}

void hf_deinit(struct hf *h) {
        for (size_t i = 0; i < h->n_files; i++)
                source_deinit(&h->sources[i]);
        (void)json_object_put(h->config);
        (void)json_object_put(h->generation);
        (void)json_object_put(h->tokenizer_config);
        safetensors_deinit(&h->weights);
        free(h->template);
        free(h->tokenizer);
        free(h->factors);
        free(h->parts);
        free(h->tensors);
        free(h->pieces);
        free(h->rows);
        *h = (struct hf){ 0 };
}

/* A file's text with a NUL behind it; *ret stays NULL where there is no such file. */
static int read_text(struct hf *h, const char *name, uint64_t max, char **ret, size_t *ret_n) {
        for (size_t i = 0; i < h->n_files; i++) {
                struct source *s = &h->sources[i];
                char *text;
                int r;

                if (strcmp(h->names[i], name) != 0)
                        continue;
                if (s->size > max)
                        return loader_fail(h->error, LOADER_E_INVALID, "%s has %llu bytes, at most %llu are read", name,
                                           (unsigned long long)s->size, (unsigned long long)max);
                text = malloc(s->size + 1);
                if (!text)
                        return -ENOMEM;
                text[s->size] = 0;
                r = source_copy(s, 0, text, s->size, h->error);
                if (r) {
                        free(text);
                        return r;
                }
                *ret = text;
                *ret_n = s->size;
                return 0;
        }
        return 0;
}

static int read_json(struct hf *h, const char *name, struct json_object **ret) {
        _cleanup_free_ char *text = NULL;
        size_t n = 0;
        int r = read_text(h, name, TEXT_MAX, &text, &n);

        return r || !text ? r : json_parse_file(name, text, n, ret, h->error);
}

static int missing(struct hf *h, const char *name) {
        return loader_fail(h->error, LOADER_E_INVALID, "the directory has no %s", name);
}

static int read_settings(struct hf *h) {
        int r = read_json(h, "config.json", &h->config);

        if (!r && !h->config)
                return missing(h, "config.json");
        if (!r)
                r = read_json(h, "generation_config.json", &h->generation);
        if (!r)
                r = read_json(h, "tokenizer_config.json", &h->tokenizer_config);
        return r;
}

/* All shards that the names speak of, and of one count. */
static int check_shards(struct hf *h) {
        unsigned number, count, all = 0, found = 0;

        for (size_t i = 0; i < h->n_files; i++) {
                if (!modeldir_shard(h->names[i], &number, &count))
                        continue;
                if (all && count != all)
                        return loader_fail(h->error, LOADER_E_INVALID, "%s belongs to another set of files than others here",
                                           h->names[i]);
                all = count;
                found++;
        }
        if (found == all)
                return 0;
        return loader_fail(h->error, LOADER_E_INVALID, "the directory has %u of %u files model-*-of-%05u.safetensors", found,
                           all, all);
}

static int read_weights(struct hf *h) {
        unsigned number, count;
        bool any = false;
        int r = check_shards(h);

        for (size_t i = 0; i < h->n_files && r == 0; i++) {
                if (strcmp(h->names[i], "model.safetensors") != 0 && !modeldir_shard(h->names[i], &number, &count))
                        continue;
                any = true;
                r = safetensors_read(&h->weights, h->names[i], (uint32_t)i, &h->sources[i], h->error);
        }
        if (r)
                return r;
        if (!any)
                return missing(h, "model.safetensors");
        return safetensors_sort(&h->weights, h->names, h->error);
}

/* Ids at which generation ends: the first is the end of the text, further ones of a turn and of a message. */
static void read_ends(struct hf *h, struct image_vocab *vocab) {
        struct json_object *ids = NULL;
        size_t n;

        if (!h->generation || !json_object_object_get_ex(h->generation, "eos_token_id", &ids))
                return;
        n = json_object_is_type(ids, json_type_array) ? json_object_array_length(ids) : 1;
        for (size_t i = 0; i < n; i++) {
                struct json_object *o = json_object_is_type(ids, json_type_array) ? json_object_array_get_idx(ids, i) : ids;
                int64_t id = json_object_is_type(o, json_type_int) ? json_object_get_int64(o) : -1;
                int32_t *const roles[] = { &vocab->eos, &vocab->eot, &vocab->eom };

                if (id < 0 || (uint64_t)id >= vocab->n_tokens)
                        continue;
                for (size_t k = 0; k < ARRAY_SIZE(roles); k++) {
                        if (*roles[k] < 0)
                                *roles[k] = (int32_t)id;
                        if (*roles[k] == id)
                                break;
                }
        }
}

static int read_vocab(struct hf *h, struct model *m, struct image_vocab *vocab) {
        _cleanup_free_ char *json = NULL, *config = NULL;
        size_t n = 0, n_config = 0;
        int r = read_text(h, "tokenizer.json", HF_TOKENIZER_SIZE_MAX, &json, &n);

        if (!r && !json)
                return missing(h, "tokenizer.json");
        if (!r)
                r = read_text(h, "tokenizer_config.json", TEXT_MAX, &config, &n_config);
        if (!r)
                r = hf_tokenizer_read(m, json, n, config, n_config, vocab, h->error);
        if (!r)
                read_ends(h, vocab);
        return r;
}

/* The one called "default" of a list. */
static const char *template_of_list(struct json_object *list) {
        for (size_t i = 0; i < json_object_array_length(list); i++) {
                struct json_object *o = json_object_array_get_idx(list, i), *name = NULL, *text = NULL;

                if (json_object_is_type(o, json_type_object) && json_object_object_get_ex(o, "name", &name) &&
                    json_object_object_get_ex(o, "template", &text) && json_object_is_type(name, json_type_string) &&
                    json_object_is_type(text, json_type_string) && strcmp(json_object_get_string(name), "default") == 0)
                        return json_object_get_string(text);
        }
        return NULL;
}

static int keep_template(struct hf *h, struct json_object *root) {
        struct json_object *o = NULL;
        const char *text = NULL;

        if (!root || !json_object_object_get_ex(root, "chat_template", &o))
                return 0;
        if (json_object_is_type(o, json_type_string))
                text = json_object_get_string(o);
        else if (json_object_is_type(o, json_type_array))
                text = template_of_list(o);
        if (!text)
                return 0;
        h->template = strdup(text);
        return h->template ? 0 : -ENOMEM;
}

/* In the order in which they override each other. */
static int read_template(struct hf *h, struct image_plan *plan) {
        struct json_object *file = NULL;
        size_t n = 0;
        int r = read_text(h, "chat_template.jinja", TEXT_MAX, &h->template, &n);

        if (!r && !h->template)
                r = read_json(h, "chat_template.json", &file);
        if (!r && file)
                r = keep_template(h, file);
        (void)json_object_put(file);
        if (!r && !h->template)
                r = keep_template(h, h->tokenizer_config);
        if (r || !h->template)
                return r;
        plan->chat_template = h->template;
        plan->chat_template_size = strlen(h->template);
        return 0;
}

int hf_plan(struct hf *h, struct model *m, struct image_plan *plan, uint64_t segment_max) {
        int r = read_settings(h);

        if (!r)
                r = hf_read_config(h, &plan->hparams);
        if (!r)
                r = read_vocab(h, m, &plan->vocab);
        if (!r)
                r = hf_tokenizer_pad(m, &plan->vocab, plan->hparams.n_vocab, h->error);
        if (!r)
                r = read_template(h, plan);
        if (!r)
                r = read_weights(h);
        if (!r)
                r = hf_plan_tensors(h, plan);
        if (r)
                return r;
        r = image_plan_layout(plan, segment_max);
        if (r)
                return r > 0 ? loader_fail(h->error, LOADER_E_INVALID, "the model is too large for an image") : r;
        return hf_plan_pieces(h, plan);
}
