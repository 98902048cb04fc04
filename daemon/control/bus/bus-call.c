/* SPDX-License-Identifier: Apache-2.0 */

/* Calls that are answered when a request has ended: Complete, Load, Unload. */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "bus-objects.h"

#define TEXT_MAX ((size_t)1 << 20)       /* of an answer that is given whole */
#define PROMPT_SLACK 4096u               /* of a public frame, for the rest of the request */

/* ---- prompts ---- */

static int submit_frame(struct bus *b, const struct bus_prompt *p, Spark__V1__ClientFrame *frame, struct request **ret,
                        struct request_error *error) {
        const struct request_submit submit = {
                .frame = frame, .input_fd = -1, .origin = p->origin, .sink = p->sink, .userdata = p->userdata
        };

        if (spark__v1__client_frame__get_packed_size(frame) > CHANNEL_FRAME_MAX - PROMPT_SLACK) {
                request_error_set(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                  "prompt and options have more than %u bytes; OpenSession takes more.",
                                  CHANNEL_FRAME_MAX - PROMPT_SLACK);
                return REQUEST_E_REFUSED;
        }
        return request_submit(b->manager, &submit, ret, error);
}

static int submit_plain(struct bus *b, const struct bus_prompt *p, struct bus_options *o, const char *prompt,
                        struct request **ret, struct request_error *error) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Generate generate = SPARK__V1__GENERATE__INIT;

        generate.model = (char *)o->model;
        generate.prompt.data = (uint8_t *)prompt;
        generate.prompt.len = strlen(prompt);
        generate.sampling = &o->sampling;
        generate.credit = p->credit;
        generate.priority = o->priority;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_GENERATE;
        frame.generate = &generate;
        return submit_frame(b, p, &frame, ret, error);
}

static int submit_chat(struct bus *b, const struct bus_prompt *p, struct bus_options *o, const char *prompt,
                       struct request **ret, struct request_error *error) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Chat chat = SPARK__V1__CHAT__INIT;
        Spark__V1__ChatMessage message = SPARK__V1__CHAT_MESSAGE__INIT, *messages = &message;

        message.role = (char *)"user";
        message.content = (char *)prompt;
        chat.model = (char *)o->model;
        chat.messages = &messages;
        chat.n_messages = 1;
        chat.sampling = &o->sampling;
        chat.credit = p->credit;
        chat.priority = o->priority;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_CHAT;
        frame.chat = &chat;
        return submit_frame(b, p, &frame, ret, error);
}

static bool model_lacks_template(const struct model *model) {
        return model && model->state == MODEL_READY && !model->facts.has_chat_template;
}

int bus_prompt_submit(struct bus *b, const struct bus_prompt *p, struct request **ret, struct request_error *error) {
        struct bus_options o;
        const struct model *model;
        const char *prompt;
        int r;

        r = sd_bus_message_rewind(p->message, true);
        if (r >= 0)
                r = sd_bus_message_read_basic(p->message, 's', &prompt);
        if (r < 0)
                return r;
        r = bus_options_init(&o, p->message, error);
        if (r)
                return r;
        model = models_find(b->manager, o.model, error);
        if (!model)
                r = REQUEST_E_REFUSED;
        else if (p->plain || o.raw || model_lacks_template(model))
                r = submit_plain(b, p, &o, prompt, ret, error);
        else
                r = submit_chat(b, p, &o, prompt, ret, error);
        bus_options_deinit(&o);
        return r;
}

int bus_prompt_charge(struct user *user, sd_bus_message *m, uint64_t *ret_charged, struct request_error *error) {
        const char *prompt;
        uint64_t size;
        int r;

        r = sd_bus_message_rewind(m, true);
        if (r >= 0)
                r = sd_bus_message_read_basic(m, 's', &prompt);
        if (r < 0)
                return r;
        size = strlen(prompt);
        if (user_charge(user, USER_BYTES, size)) {
                request_error_set(error, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                                  "The requests of your user take more memory than it may have.");
                return REQUEST_E_REFUSED;
        }
        *ret_charged = size;
        return 0;
}

bool bus_prompt_wants_plain(const struct request *r, const Spark__V1__Error *error) {
        return r->kind == REQUEST_CHAT && error->code == SPARK__V1__ERROR_CODE__MODEL_INVALID &&
               model_lacks_template(r->model);
}

/* ---- Complete ---- */

static const char *finish_reason_name(Spark__V1__FinishReason reason) {
        switch (reason) {
        case SPARK__V1__FINISH_REASON__STOP:
                return "stop";
        case SPARK__V1__FINISH_REASON__STOP_STRING:
                return "stop_string";
        default:
                return "length";
        }
}

static void reply_complete(struct bus_call *c, const char *reason, uint32_t n_prompt, uint32_t n_tokens,
                           uint64_t seed) {
        sd_bus_message *reply = NULL;
        int r;

        r = sd_bus_message_new_method_return(c->message, &reply);
        if (r >= 0)
                r = sd_bus_message_append(reply, "sa{sv}", c->text.buf.data ? c->text.buf.data : "", 5,
                                          "finish_reason", "s", reason,
                                          "prompt_tokens", "u", n_prompt,
                                          "completion_tokens", "u", n_tokens,
                                          "seed", "t", seed,
                                          "model", "s", c->model);
        if (r < 0) {
                log_debug("an answer could not be made for the bus: %s", strerror(-r));
                reply = sd_bus_message_unref(reply);
                bus_call_fail_with(c, SPARK__V1__ERROR_CODE__INTERNAL, "The answer could not be sent: %s.",
                                   strerror(-r));
                return;
        }
        bus_call_reply(c, reply);
}

/* Something for the next turn. */
static void call_dirty(struct bus_call *c) {
        c->peer->bus->calls_dirty = true;
        manager_kick(c->peer->bus->manager);
}

static void complete_token(void *userdata, struct request *r, const Spark__V1__Token *token) {
        struct bus_call *c = userdata;
        int e;

        if (c->text_state != CALL_TEXT_GOES_ON)
                return;
        e = bus_text_append_string(&c->text, token->text.data, token->text.len);
        if (e == 0) {
                c->n_tokens += (uint32_t)token->n_ids;
                return;
        }
        c->text_state = e == BUS_TEXT_E_LIMIT ? CALL_TEXT_FULL : e > 0 ? CALL_TEXT_QUOTA : CALL_TEXT_NO_MEMORY;
        request_stall(r);
        call_dirty(c);
}

void bus_call_ignore_progress(void *userdata, struct request *r, const Spark__V1__Progress *progress) {
}

/* The text ended before the request did. */
static void end_text(struct bus_call *c) {
        switch (c->text_state) {
        case CALL_TEXT_FULL:
                reply_complete(c, "length", (uint32_t)c->request->journal.n_prompt, c->n_tokens,
                               c->request->journal.seed);
                return;
        case CALL_TEXT_QUOTA:
                bus_call_fail_with(c, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                                   "The requests of your user take more memory than it may have.");
                return;
        default:
                bus_call_fail_with(c, SPARK__V1__ERROR_CODE__INTERNAL, "Out of memory.");
        }
}

static void complete_done(void *userdata, struct request *r, const Spark__V1__Done *done) {
        struct bus_call *c = userdata;

        if (c->text_state != CALL_TEXT_GOES_ON) { /* both in one turn */
                const uint32_t n_prompt = (uint32_t)r->journal.n_prompt;

                c->request = NULL;
                if (c->text_state == CALL_TEXT_FULL)
                        reply_complete(c, "length", n_prompt, c->n_tokens, done->seed);
                else
                        end_text(c);
                return;
        }
        c->request = NULL;
        reply_complete(c, finish_reason_name(done->finish_reason), done->usage ? done->usage->prompt_tokens : 0,
                       done->usage ? done->usage->completion_tokens : c->n_tokens, done->seed);
}

static void fail_call(struct bus_call *c, const Spark__V1__Error *error) {
        c->request = NULL;
        bus_call_fail_with(c, error->code, "%s", error->message);
}

static void complete_error(void *userdata, struct request *r, const Spark__V1__Error *error) {
        struct bus_call *c = userdata;

        if (!bus_prompt_wants_plain(r, error)) {
                fail_call(c, error);
                return;
        }
        c->request = NULL;
        c->plain_due = true;
        call_dirty(c);
}

static void start_complete(struct bus_call *c, bool plain) {
        static const struct request_sink sink = {
                .token = complete_token, .progress = bus_call_ignore_progress, .done = complete_done, .error = complete_error
        };
        const struct bus_prompt prompt = {
                .message = c->message,
                .plain = plain,
                .credit = UINT32_MAX,
                .origin = bus_call_origin(c),
                .sink = &sink,
                .userdata = c,
        };
        struct request_error error;
        int r = bus_prompt_submit(c->peer->bus, &prompt, &c->request, &error);

        if (r) {
                c->request = NULL;
                bus_call_refuse(c, r, &error);
                return;
        }
        (void)snprintf(c->model, sizeof(c->model), "%s", c->request->model->name);
}

void bus_operation_complete(struct bus_call *c) {
        struct request_error error;
        int r;

        bus_text_init(&c->text, c->peer->user, TEXT_MAX);
        r = bus_prompt_charge(c->peer->user, c->message, &c->charged, &error);
        if (r)
                bus_call_refuse(c, r, &error);
        else
                start_complete(c, false);
}

void bus_call_turn(struct bus_call *c) {
        if (c->plain_due) {
                c->plain_due = false;
                start_complete(c, true);
        } else if (c->text_state != CALL_TEXT_GOES_ON && c->request) {
                end_text(c);
        } else if (c->lease_fd >= 0) {
                bus_lease_turn(c);
        }
}

/* ---- Load and Unload ---- */

void bus_call_ignore_token(void *userdata, struct request *r, const Spark__V1__Token *token) {
}

static void load_done(void *userdata, struct request *r, const Spark__V1__Done *done) {
        struct bus_call *c = userdata;
        sd_bus_message *reply = NULL;
        char path[256];
        int e;

        c->request = NULL;
        e = bus_model_path(r->model, path, sizeof(path));
        if (e >= 0)
                e = sd_bus_message_new_method_return(c->message, &reply);
        /* Model.Load gives nothing back, Manager.Load the object */
        if (e >= 0 && c->operation == bus_operation_load)
                e = sd_bus_message_append(reply, "o", path);
        bus_call_reply(c, e < 0 ? sd_bus_message_unref(reply) : reply);
}

void bus_call_done_empty(void *userdata, struct request *r, const Spark__V1__Done *done) {
        struct bus_call *c = userdata;

        c->request = NULL;
        bus_call_reply_empty(c);
}

void bus_call_error(void *userdata, struct request *r, const Spark__V1__Error *error) {
        fail_call(userdata, error);
}

void bus_call_submit(struct bus_call *c, const Spark__V1__ClientFrame *frame, int *fds, size_t n_fds,
                     const struct request_sink *sink) {
        const struct request_submit submit = {
                .frame = frame,
                .input_fd = -1,
                .input_fds = fds,
                .n_input_fds = n_fds,
                .origin = bus_call_origin(c),
                .sink = sink,
                .userdata = c,
        };
        struct request_error error;
        int r = request_submit(c->peer->bus->manager, &submit, &c->request, &error);

        if (r) {
                c->request = NULL;
                bus_call_refuse(c, r, &error);
        }
}

static void start_load(struct bus_call *c, const char *model, bool unload, bool lossless) {
        static const struct request_sink load_sink = {
                .token = bus_call_ignore_token, .progress = bus_call_ignore_progress, .done = load_done, .error = bus_call_error
        };
        static const struct request_sink unload_sink = {
                .token = bus_call_ignore_token, .progress = bus_call_ignore_progress, .done = bus_call_done_empty,
                .error = bus_call_error
        };
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Load load = SPARK__V1__LOAD__INIT;
        Spark__V1__Unload unload_frame = SPARK__V1__UNLOAD__INIT;

        load.model = unload_frame.model = (char *)model;
        load.lossless = lossless;
        if (unload) {
                frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_UNLOAD;
                frame.unload = &unload_frame;
        } else {
                frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_LOAD;
                frame.load = &load;
        }
        bus_call_submit(c, &frame, NULL, 0, unload ? &unload_sink : &load_sink);
}

void bus_operation_load(struct bus_call *c) {
        struct bus_pack_options o;
        struct request_error error;
        const char *model;
        int r = sd_bus_message_read_basic(c->message, 's', &model);

        if (r >= 0)
                r = bus_load_options_read(&o, c->message, &error);
        if (r)
                bus_call_refuse(c, r, &error);
        else
                start_load(c, model, false, o.lossless);
}

void bus_operation_unload(struct bus_call *c) {
        struct request_error error;
        const char *model;
        int r = sd_bus_message_read_basic(c->message, 's', &model);

        if (r < 0)
                bus_call_refuse(c, r, &error);
        else
                start_load(c, model, true, false);
}

/* The model whose object was called; it may have gone while the caller was looked up. */
static void start_model_load(struct bus_call *c, bool unload) {
        char *name = NULL;

        if (sd_bus_path_decode(sd_bus_message_get_path(c->message), BUS_PATH_MODEL, &name) <= 0) {
                bus_call_fail_with(c, SPARK__V1__ERROR_CODE__MODEL_NOT_FOUND, "There is no such model.");
                return;
        }
        start_load(c, name, unload, false);
        free(name);
}

void bus_operation_model_load(struct bus_call *c) {
        start_model_load(c, false);
}

void bus_operation_model_unload(struct bus_call *c) {
        start_model_load(c, true);
}
