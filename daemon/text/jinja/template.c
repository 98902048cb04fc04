/* SPDX-License-Identifier: Apache-2.0 */

/* A whole render: from the JSON of a conversation to the prompt. */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "json.h"
#include "render.h"

#define STEPS_DEFAULT 4000000u /* some 50 ms */
#define STEPS_PER_BYTE 16u /* a long conversation may take its time */
#define OUTPUT_DEFAULT ((size_t)16 << 20)
#define MEMORY_DEFAULT ((size_t)256 << 20)
#define DEPTH_DEFAULT 100u
#define DEPTH_MAX 200u      /* macros in macros: the C stack has to hold them */
#define DEPTH_FACTOR 8u     /* nested expressions and statements per macro, on average */

static int from_json(struct render *r, const struct json *j, struct value *ret);

static int from_array(struct render *r, const struct json *j, struct value *ret) {
        struct list *l;
        int k = list_new(r, j->n, &l);

        for (size_t i = 0; !k && i < j->n; i++)
                k = from_json(r, &j->items[i], &l->items[i]);
        if (!k)
                *ret = (struct value){ .kind = V_LIST, .list = l };
        return k;
}

static int from_object(struct render *r, const struct json *j, struct value *ret) {
        struct dict_entry *e;
        int k = render_alloc(r, j->n, sizeof(*e), &e);

        for (size_t i = 0; !k && i < j->n; i++) {
                e[i].key = VALUE_TEXT(j->members[i].name, j->members[i].name_len);
                k = from_json(r, &j->members[i].value, &e[i].value);
        }
        return k ? k : dict_new(r, e, j->n, ret);
}

/* As deep as the JSON reader let it be. Text is shared. */
static int from_json(struct render *r, const struct json *j, struct value *ret) {
        switch (j->kind) {
        case JSON_NULL:
                *ret = VALUE_NONE;
                return 0;
        case JSON_BOOL:
                *ret = VALUE_BOOL(j->boolean);
                return 0;
        case JSON_INT:
                *ret = VALUE_INT(j->integer);
                return 0;
        case JSON_BIG:
                *ret = (struct value){ .kind = V_BIG, .text = j->text, .n = j->n };
                return 0;
        case JSON_FLOAT:
                *ret = VALUE_FLOAT(j->number);
                return 0;
        case JSON_STRING:
                *ret = VALUE_TEXT(j->text, j->n);
                return 0;
        case JSON_ARRAY:
                return from_array(r, j, ret);
        default:
                return from_object(r, j, ret);
        }
}

/* What transformers always passes, if only as None. */
static bool always_passed(const struct name *name) {
        return (name->n == 5 && memcmp(name->text, "tools", 5) == 0) ||
               (name->n == 9 && memcmp(name->text, "documents", 9) == 0);
}

/* `self`: what it has are blocks, which can't be called here; anything else is undefined, as in Jinja. */
static struct namespace no_blocks;

/* Every name of the template gets its value from outside once: a variable of the JSON object, a function, or nothing. */
static int bind_globals(struct render *r, const struct dict *variables) {
        const struct value *found;
        const struct function *f;
        int k = render_alloc(r, r->t->n_names, sizeof(*r->globals), &r->globals);

        for (uint32_t i = 0; !k && i < r->t->n_names; i++) {
                const struct name *name = &r->t->names[i];

                k = dict_find_text(r, variables, name->text, name->n, &found);
                if (k)
                        return k;
                if (found && !(name->n == 3 && memcmp(name->text, "now", 3) == 0))
                        r->globals[i] = *found;
                else if ((f = function_find_global(name->text, name->n)))
                        r->globals[i] = (struct value){ .kind = V_FUNCTION, .function = f };
                else if (always_passed(name))
                        r->globals[i] = VALUE_NONE;
                else if (name->n == 4 && memcmp(name->text, "self", 4) == 0)
                        r->globals[i] = (struct value){ .kind = V_NAMESPACE, .namespace = &no_blocks };
                else
                        r->globals[i] = (struct value){ .kind = V_UNDEFINED, .text = name->text, .n = name->n };
        }
        return k;
}

static int read_input(struct render *r, const char *json, size_t n, struct dict **ret) {
        struct json_error error;
        struct json root;
        struct value v = { .kind = V_UNDEFINED };
        int k = render_step_bytes(r, n);

        if (k)
                return k;
        k = json_parse(&r->texts, json, n, 0, &root, &error);
        if (k < 0)
                return k;
        if (k) {
                render_say(r, "JSON, at byte %zu: %s", error.offset, error.text);
                return k == JSON_E_LIMIT ? TEMPLATE_E_LIMIT : TEMPLATE_E_INPUT;
        }
        if (root.kind != JSON_OBJECT) {
                render_say(r, "JSON: an object of template variables is needed");
                return TEMPLATE_E_INPUT;
        }
        if (json_get(&root, "now")) {
                const struct json *now = json_get(&root, "now");

                if (now->kind != JSON_STRING || !render_set_now(r, now->text, now->n)) {
                        render_say(r, "now: not an ISO 8601 date and time");
                        return TEMPLATE_E_INPUT;
                }
        }
        k = from_json(r, &root, &v);
        *ret = v.dict;
        return k;
}

static int render_all(struct render *r, const char *json, size_t n) {
        struct dict *variables;
        int k;

        k = read_input(r, json, n, &variables);
        if (!k)
                k = bind_globals(r, variables);
        if (!k)
                k = scope_push(r, NULL, &r->scope);
        return k ? k : exec_nodes(r, &r->t->body);
}

int template_render(const struct template *t, const char *json, size_t json_size, time_t now,
                    const struct template_limits *limits, struct buf *out, struct template_error *error) {
        static const struct template_limits defaults;
        const struct template_limits *l = limits ? limits : &defaults;
        size_t memory = l->memory ? l->memory : MEMORY_DEFAULT;
        unsigned depth = MIN(l->depth ? l->depth : DEPTH_DEFAULT, DEPTH_MAX);
        struct render r = {
                .t = t,
                .objects = ARENA_NULL(memory / 2),
                .texts = ARENA_NULL(memory - memory / 2),
                .out = out,
                .base = out->len,
                .out_limit = l->output ? l->output : OUTPUT_DEFAULT,
                .steps = l->steps ? l->steps : STEPS_DEFAULT + (uint64_t)json_size * STEPS_PER_BYTE,
                .max_depth = depth * DEPTH_FACTOR,
                .max_calls = depth,
                .error = error,
        };
        int k;

        *error = (struct template_error){ 0 };
        if (!localtime_r(&now, &r.now))
                (void)gmtime_r(&(time_t){ 0 }, &r.now);
        k = render_all(&r, json, json_size);
        if (k)
                render_drop(&r, r.base);
        arena_deinit(&r.objects);
        arena_deinit(&r.texts);
        return k;
}
