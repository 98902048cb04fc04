/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A post-processor is a template, or the byte-level one (which moves offsets and adds nothing), or a sequence of such. A
 * template names pieces, the text ("Sequence") or tokens ("SpecialToken"); what a name of the latter stands for, one id
 * or more, is in its table `special_tokens`. One template is read: a second one has its own idea of what the text is.
 */

#include <string.h>

#include "hf-processor.h"

struct reader {
        struct hf_around *around;
        size_t n_tokens;
        size_t n_templates;
        struct loader_error *error;
};

static struct json_object *get(struct json_object *o, const char *key, enum json_type type) {
        struct json_object *value = NULL;

        if (!json_object_is_type(o, json_type_object) || !json_object_object_get_ex(o, key, &value) ||
            !json_object_is_type(value, type))
                return NULL;
        return value;
}

static int refuse(struct reader *r, struct json_object *o) {
        return loader_fail(r->error, LOADER_E_UNSUPPORTED, "tokenizer.json: 'post_processor' is not supported: %.300s",
                           json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
}

static int add_id(struct reader *r, struct image_around *side, struct json_object *id) {
        int64_t i = json_object_get_int64(id);

        if (!json_object_is_type(id, json_type_int) || i < 0 || (uint64_t)i >= r->n_tokens)
                return loader_fail(r->error, LOADER_E_INVALID, "tokenizer.json: 'post_processor' has an id that is no token's");
        if (side->n == IMAGE_AROUND_MAX)
                return loader_fail(r->error, LOADER_E_UNSUPPORTED, "tokenizer.json: 'post_processor' adds more than %u tokens",
                                   IMAGE_AROUND_MAX);
        side->ids[side->n++] = (int32_t)i;
        return 0;
}

static int add_piece(struct reader *r, struct image_around *side, struct json_object *template, struct json_object *piece) {
        struct json_object *name = get(piece, "id", json_type_string), *ids = NULL;
        int e = 0;

        if (name)
                ids = get(get(get(template, "special_tokens", json_type_object), json_object_get_string(name), json_type_object),
                          "ids", json_type_array);
        if (!ids)
                return loader_fail(r->error, LOADER_E_INVALID, "tokenizer.json: 'post_processor' has a token without ids");
        for (size_t i = 0; !e && i < json_object_array_length(ids); i++)
                e = add_id(r, side, json_object_array_get_idx(ids, i));
        return e;
}

static int read_template(struct reader *r, struct json_object *template) {
        struct json_object *single = get(template, "single", json_type_array);
        size_t n_texts = 0, n = single ? json_object_array_length(single) : 0;
        int e = 0;

        for (size_t i = 0; !e && i < n; i++) {
                struct json_object *piece = json_object_array_get_idx(single, i);
                struct json_object *special = get(piece, "SpecialToken", json_type_object);

                if (special)
                        e = add_piece(r, n_texts ? &r->around->after : &r->around->before, template, special);
                else if (get(piece, "Sequence", json_type_object))
                        n_texts++;
                else
                        return refuse(r, template);
        }
        if (!e && (n_texts != 1 || r->n_templates++ > 0))
                return refuse(r, template);
        return e;
}

static int read_step(struct reader *r, struct json_object *o) {
        struct json_object *type = get(o, "type", json_type_string);
        const char *name = type ? json_object_get_string(type) : "";

        if (strcmp(name, "ByteLevel") == 0)
                return 0;
        return strcmp(name, "TemplateProcessing") == 0 ? read_template(r, o) : refuse(r, o);
}

int hf_processor_read(struct hf_around *ret, struct json_object *root, size_t n_tokens, struct loader_error *error) {
        struct hf_around around = { 0 };
        struct reader r = { .around = &around, .n_tokens = n_tokens, .error = error };
        struct json_object *o = NULL, *steps;
        int e = 0;

        (void)json_object_object_get_ex(root, "post_processor", &o);
        steps = get(o, "processors", json_type_array);
        if (steps)
                for (size_t i = 0; !e && i < json_object_array_length(steps); i++)
                        e = read_step(&r, json_object_array_get_idx(steps, i));
        else if (!json_object_is_type(o, json_type_null))
                e = read_step(&r, o);
        if (!e)
                *ret = around;
        return e;
}
