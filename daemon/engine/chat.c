/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "chat.h"
#include "daemon/text/jinja/json.h"
#include "guard.h"

#define INVALID SPARK__V1__ERROR_CODE__INVALID_ARGUMENT
#define JSON_BYTES_MAX (64u << 20)    /* the conversation as JSON, marks included */
#define JSON_MEMORY_MAX (256u << 20)  /* a parsed field */
#define PROMPT_BYTES_MAX (64u << 20)

struct chat {
        struct template *template;
        const struct tokenizer_def *def;
        const struct tokenizer *tokenizer;
        struct guard guard;
};

int chat_new(struct chat **ret, const struct tokenizer_def *def, const struct tokenizer *t, const char *source,
             size_t size, struct failure *f) {
        _cleanup_(chat_freep) struct chat *c = NULL;
        struct template_error error = { .text = "" };
        int r;

        c = calloc(1, sizeof(*c));
        if (!c)
                return -ENOMEM;
        c->def = def;
        c->tokenizer = t;
        r = template_parse(&c->template, source, size, &error);
        if (r > 0)
                return failure_set(f, SPARK__V1__ERROR_CODE__MODEL_INVALID,
                                   "the model's chat template cannot be read: line %u: %.256s", error.line, error.text);
        if (r == 0)
                r = guard_init(&c->guard, def, t);
        if (r < 0)
                return r;
        *ret = steal_ptr(&c);
        return 0;
}

struct chat *chat_free(struct chat *c) {
        if (!c)
                return NULL;
        (void)template_free(c->template);
        guard_deinit(&c->guard);
        free(c);
        return NULL;
}

/* Writes the JSON object that the template renders. */
struct writer {
        const struct chat *chat;
        bool answer;
        char mark[GUARD_MARK_BYTES];
        struct buf json;
        struct buf marked; /* one string, marks included */
        struct failure *failure;
};

static int put(struct writer *w, const char *s) {
        return buf_append_str(&w->json, s);
}

/* A user's string. */
static int put_string(struct writer *w, const char *s, size_t n) {
        int r;

        buf_clear(&w->marked);
        r = guard_mark(&w->chat->guard, w->mark, s, n, &w->marked);
        if (r == 0)
                r = json_append_string(&w->json, w->marked.data ? w->marked.data : "", w->marked.len);
        return r;
}

static int put_member(struct writer *w, const char *name, const char *value) {
        int r = buf_printf(&w->json, ",\"%s\":", name);

        return r == 0 ? put_string(w, value, strlen(value)) : r;
}

static int put_json(struct writer *w, const struct json *v);

static int put_members(struct writer *w, const struct json *object) {
        int r = 0;

        for (size_t i = 0; i < object->n && r == 0; i++) {
                r = i > 0 ? put(w, ",") : 0;
                if (r == 0)
                        r = put_string(w, object->members[i].name, object->members[i].name_len);
                if (r == 0)
                        r = put(w, ":");
                if (r == 0)
                        r = put_json(w, &object->members[i].value);
        }
        return r;
}

static int put_items(struct writer *w, const struct json *array) {
        int r = 0;

        for (size_t i = 0; i < array->n && r == 0; i++) {
                r = i > 0 ? put(w, ",") : 0;
                if (r == 0)
                        r = put_json(w, &array->items[i]);
        }
        return r;
}

/* Depth is bounded by json_parse(). */
static int put_json(struct writer *w, const struct json *v) {
        char number[FLOAT_REPR_MAX];
        int r;

        switch (v->kind) {
        case JSON_NULL:
                return put(w, "null");
        case JSON_BOOL:
                return put(w, v->boolean ? "true" : "false");
        case JSON_INT:
                return buf_printf(&w->json, "%lld", (long long)v->integer);
        case JSON_BIG:
                return buf_append(&w->json, v->text, v->n);
        case JSON_FLOAT:
                return buf_append(&w->json, number, json_format_double(v->number, number));
        case JSON_STRING:
                return put_string(w, v->text, v->n);
        case JSON_ARRAY:
                r = put(w, "[");
                r = r == 0 ? put_items(w, v) : r;
                return r == 0 ? put(w, "]") : r;
        default:
                r = put(w, "{");
                r = r == 0 ? put_members(w, v) : r;
                return r == 0 ? put(w, "}") : r;
        }
}

#define KIND(k) (1u << (k))

static const char *kinds_text(unsigned kinds) {
        return kinds == KIND(JSON_ARRAY)    ? "array"
               : kinds == KIND(JSON_OBJECT) ? "object"
                                            : "array of parts, a string or null";
}

/* A field that holds JSON of one of these kinds; `write` puts the parsed value. */
static int with_json(struct writer *w, const char *field, const char *text, unsigned kinds,
                     int (*write)(struct writer *w, const struct json *v)) {
        struct arena arena = ARENA_NULL(JSON_MEMORY_MAX);
        struct json_error error = { .text = "" };
        struct json v;
        int r;

        r = json_parse(&arena, text, strlen(text), 0, &v, &error);
        if (r > 0)
                r = failure_set(w->failure, INVALID, "%s is not JSON at byte %zu: %s", field, error.offset, error.text);
        else if (r == 0 && !(kinds & KIND(v.kind)))
                r = failure_set(w->failure, INVALID, "%s must be a JSON %s", field, kinds_text(kinds));
        else if (r == 0)
                r = write(w, &v);
        arena_deinit(&arena);
        return r;
}

static int put_value(struct writer *w, const struct json *v) {
        return put_json(w, v);
}

/* Names that the daemon sets itself. */
static const char *const reserved[] = { "messages", "tools", "bos_token", "eos_token" };

static int put_template_args(struct writer *w, const struct json *v) {
        for (size_t i = 0; i < v->n; i++)
                for (size_t k = 0; k < ARRAY_SIZE(reserved); k++)
                        if (v->members[i].name_len == strlen(reserved[k]) &&
                            memcmp(v->members[i].name, reserved[k], v->members[i].name_len) == 0)
                                return failure_set(w->failure, INVALID, "template_args_json may not set \"%s\"",
                                                   reserved[k]);
        if (v->n > 0) {
                int r = put_members(w, v);

                if (r == 0)
                        r = put(w, ",");
                if (r != 0)
                        return r;
        }
        if (json_get(v, "add_generation_prompt"))
                return 0;
        return put(w, w->answer ? "\"add_generation_prompt\":true," : "\"add_generation_prompt\":false,");
}

static int put_content(struct writer *w, size_t i, const Spark__V1__ChatMessage *m) {
        char field[64];
        int r;

        if (!m->content_json[0])
                return put_member(w, "content", m->content);
        if (m->content[0])
                return failure_set(w->failure, INVALID, "messages[%zu].content and .content_json are both given", i);
        (void)snprintf(field, sizeof(field), "messages[%zu].content_json", i);
        r = put(w, ",\"content\":");
        return r == 0 ? with_json(w, field, m->content_json, KIND(JSON_ARRAY) | KIND(JSON_STRING) | KIND(JSON_NULL),
                                  put_value)
                      : r;
}

static int put_message(struct writer *w, size_t i, const Spark__V1__ChatMessage *m) {
        char field[64];
        int r;

        if (m->role[0] == 0)
                return failure_set(w->failure, INVALID, "messages[%zu].role is empty", i);
        r = put(w, i > 0 ? ",{\"role\":" : "{\"role\":");
        if (r == 0)
                r = put_string(w, m->role, strlen(m->role));
        if (r == 0)
                r = put_content(w, i, m);
        if (r == 0 && m->reasoning_content[0])
                r = put_member(w, "reasoning_content", m->reasoning_content);
        if (r == 0 && m->reasoning_content[0]) /* its name in some templates */
                r = put_member(w, "thinking", m->reasoning_content);
        if (r == 0 && m->tool_call_id[0])
                r = put_member(w, "tool_call_id", m->tool_call_id);
        if (r == 0 && m->name[0])
                r = put_member(w, "name", m->name);
        if (r == 0 && m->tool_calls_json[0]) {
                (void)snprintf(field, sizeof(field), "messages[%zu].tool_calls_json", i);
                r = put(w, ",\"tool_calls\":");
                if (r == 0)
                        r = with_json(w, field, m->tool_calls_json, KIND(JSON_ARRAY), put_value);
        }
        return r == 0 ? put(w, "}") : r;
}

/* messages_json: objects as the template takes them, of which only the role is everybody's business. */
static int put_messages(struct writer *w, const struct json *v) {
        if (v->n == 0)
                return failure_set(w->failure, INVALID, "messages_json is empty");
        for (size_t i = 0; i < v->n; i++) {
                const struct json *role = v->items[i].kind == JSON_OBJECT ? json_get(&v->items[i], "role") : NULL;

                if (v->items[i].kind != JSON_OBJECT)
                        return failure_set(w->failure, INVALID, "messages_json[%zu] must be a JSON object", i);
                if (!role || role->kind != JSON_STRING || role->n == 0)
                        return failure_set(w->failure, INVALID, "messages_json[%zu].role must be a string, and not empty",
                                           i);
        }
        return put_items(w, v);
}

static int put_all_messages(struct writer *w, const Spark__V1__Chat *chat) {
        int r = 0;

        if (chat->messages_json[0])
                return with_json(w, "messages_json", chat->messages_json, KIND(JSON_ARRAY), put_messages);
        for (size_t i = 0; i < chat->n_messages && r == 0; i++)
                r = put_message(w, i, chat->messages[i]);
        return r;
}

/* A special token's text, as the template's own: without marks. */
static int put_token_text(struct writer *w, const char *name, int32_t id) {
        const struct tokenizer_def *def = w->chat->def;
        const char *text;
        size_t n;
        int r;

        if (id < 0 || (size_t)id >= def->n_tokens)
                return 0;
        text = def->token_bytes + def->token_offsets[id];
        n = (size_t)(def->token_offsets[id + 1] - def->token_offsets[id]);
        if (!utf8_valid(text, n, NULL))
                return 0;
        r = buf_printf(&w->json, ",\"%s\":", name);
        return r == 0 ? json_append_string(&w->json, text, n) : r;
}

static int put_conversation(struct writer *w, const Spark__V1__Chat *chat) {
        const char *args = chat->template_args_json[0] ? chat->template_args_json : "{}";
        int r;

        if (chat->n_messages == 0 && !chat->messages_json[0])
                return failure_set(w->failure, INVALID, "messages is empty");
        if (chat->n_messages > 0 && chat->messages_json[0])
                return failure_set(w->failure, INVALID, "messages and messages_json are both given");
        r = put(w, "{");
        if (r == 0)
                r = with_json(w, "template_args_json", args, KIND(JSON_OBJECT), put_template_args);
        if (r == 0)
                r = put(w, "\"messages\":[");
        if (r == 0)
                r = put_all_messages(w, chat);
        if (r == 0)
                r = put(w, "],\"tools\":");
        if (r == 0)
                r = chat->tools_json[0] ? with_json(w, "tools_json", chat->tools_json, KIND(JSON_ARRAY), put_value) :
                                          put(w, "null");
        if (r == 0)
                r = put_token_text(w, "bos_token", w->chat->def->bos);
        if (r == 0)
                r = put_token_text(w, "eos_token", w->chat->def->eos);
        if (r == 0)
                r = put_token_text(w, "unk_token", w->chat->def->unk);
        return r == 0 ? put(w, "}") : r;
}

static int render(const struct chat *c, struct writer *w, time_t now, struct buf *prompt, struct failure *f) {
        const struct template_limits limits = { 0 };
        struct template_error error = { .text = "" };
        int r;

        r = template_render(c->template, w->json.data, w->json.len, now, &limits, prompt, &error);
        if (r == TEMPLATE_E_RENDER)
                return failure_set(f, INVALID, "the model's chat template refuses: %.300s", error.text);
        if (r > 0)
                return failure_set(f, INVALID, "the conversation cannot be rendered: %.300s", error.text);
        return r;
}

int chat_encode(const struct chat *c, const Spark__V1__Chat *chat, bool answer, const uint32_t seed[4], time_t now,
                struct token_array *out, struct failure *f) {
        struct writer w = {
                .chat = c,
                .answer = answer,
                .json = BUF_NULL(JSON_BYTES_MAX),
                .marked = BUF_NULL(JSON_BYTES_MAX),
                .failure = f,
        };
        struct buf prompt = BUF_NULL(PROMPT_BYTES_MAX);
        int r;

        f->code = 0;
        guard_make_mark(seed, w.mark);
        r = put_conversation(&w, chat);
        if (r > 0 && f->code == 0) /* a buffer's limit, not a refusal */
                r = failure_set(f, INVALID, "the conversation is larger than %u bytes", JSON_BYTES_MAX);
        if (r == 0)
                r = render(c, &w, now, &prompt, f);
        if (r == 0 && prompt.len > 0)
                r = guard_encode(&c->guard, w.mark, c->tokenizer, prompt.data, prompt.len, out);
        buf_deinit(&prompt);
        buf_deinit(&w.json);
        buf_deinit(&w.marked);
        return r;
}
