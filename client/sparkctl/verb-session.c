/* SPDX-License-Identifier: Apache-2.0 */

/* session create, append, fork, rewind, close, list. What is made here outlives the command, so it is persistent. */

#include <inttypes.h>
#include <stdio.h>

#include "input.h"
#include "json.h"
#include "options.h"
#include "subverbs.h"
#include "users.h"

static void json_session(struct json *j, const char *key, const struct spark_session *s) {
        json_open(j, key, '{');
        json_string(j, "id", s->id);
        json_string(j, "model", s->model);
        json_string(j, "name", s->name);
        json_u64(j, "uid", s->uid);
        json_u64(j, "tokens", s->tokens);
        json_bool(j, "persistent", s->persistent);
        json_string(j, "state", s->state);
        json_number(j, "idle_s", (double)s->idle_s, 9);
        json_u64(j, "stored_bytes", s->stored_bytes);
        json_close(j, '}');
}

/* True where --json has said it all. */
static bool done_json(const struct call *call, const struct spark_done *done) {
        _cleanup_json_ struct json j = JSON_NULL;

        if (!call->ctl->json || !done->session)
                return call->ctl->json;
        json_session(&j, NULL, done->session);
        (void)json_print(&j);
        return true;
}

static void done_id(struct call *call, const struct spark_done *done) {
        char id[80];

        if (!done_json(call, done) && done->session)
                (void)printf("%s\n", format_safe(done->session->id, id, sizeof(id)));
}

static void done_tokens(struct call *call, const struct spark_done *done) {
        if (!done_json(call, done) && done->session)
                (void)printf("%" PRIu64 "\n", done->session->tokens);
}

static void done_list(struct call *call, const struct spark_done *done) {
        _cleanup_json_ struct json j = JSON_NULL;
        struct user_names names = { 0 };
        char id[80], model[80], name[80], state[32], idle[32], bytes[32];

        if (call->ctl->json) {
                json_open(&j, NULL, '{');
                json_open(&j, "sessions", '[');
                for (size_t i = 0; i < done->n_sessions; i++)
                        json_session(&j, NULL, done->sessions[i]);
                json_close(&j, ']');
                json_close(&j, '}');
                (void)json_print(&j);
                return;
        }
        if (done->n_sessions == 0)
                (void)printf("No sessions. `sparkctl session create` makes one.\n");
        for (size_t i = 0; i < done->n_sessions; i++) {
                const struct spark_session *s = done->sessions[i];

                (void)printf("%s  %s  %s  %s  %" PRIu64 " tokens  idle %s  %s%s%s%s\n",
                             format_safe(s->id, id, sizeof(id)), user_name(&names, s->uid), format_safe(s->model, model, sizeof(model)),
                             format_safe(s->state, state, sizeof(state)), s->tokens,
                             format_duration((double)s->idle_s, idle),
                             s->stored_bytes ? words_bytes(s->stored_bytes, bytes) : "nothing",
                             s->persistent ? " on disk" : " on disk, goes with its connection", *s->name ? "  " : "",
                             format_safe(s->name, name, sizeof(name)));
        }
}

/* ---- subverbs ---- */

static int run_create(struct ctl *ctl, int argc, char **argv) {
        struct spark_session_create_request request = SPARK_SESSION_CREATE_INIT;
        const struct option options[] = {
                { "model", 'm', OPTION_STRING, &request.model, NULL, 0, "M", "default: the service's default model" },
                { "name", 0, OPTION_STRING, &request.name, NULL, 0, "NAME", "for people; at most 64 bytes" },
                OPTION_END,
        };
        const struct option_spec spec = {
                .verb = "session create",
                .usage = "[-m M] [--name NAME]",
                .text = "Makes an empty session and prints its id. It is kept until it is closed.\n"
                        "With --json: id, model, name, uid, tokens, persistent, state, idle_s, stored_bytes.\n",
                .options = options,
        };
        struct call call = { .ctl = ctl, .on_done = done_id };
        struct string_list arguments = { 0 };
        int status;

        status = options_parse(ctl, &spec, argc, argv, &arguments);
        if (status < 0)
                status = ctl_connect(ctl) ?: -1;
        if (status < 0) {
                request.persistent = 1;
                status = call_wait(&call, spark_session_create(ctl->spark, &request, call_event, &call, &call.id));
        }
        string_list_deinit(&arguments);
        return status;
}

static int run_append(struct ctl *ctl, int argc, char **argv) {
        struct spark_session_append_request request = SPARK_SESSION_APPEND_INIT;
        bool special = false, no_bos = false;
        const struct option options[] = {
                { "special", 0, OPTION_FLAG, &special, NULL, 0, NULL, "recognise the text of special tokens" },
                { "no-bos", 0, OPTION_FLAG, &no_bos, NULL, 0, NULL, "no beginning-of-sequence token in front" },
                OPTION_END,
        };
        const struct option_spec spec = {
                .verb = "session append",
                .usage = "[--special] [--no-bos] ID TEXT|-",
                .text = "Adds text to the end of a session, reads it ahead, and prints how many tokens the session\n"
                        "has then. '-' reads standard input, byte for byte. With --json: as session create.\n",
                .options = options,
                .min_arguments = 2,
                .max_arguments = 2,
        };
        struct call call = { .ctl = ctl, .on_done = done_tokens, .show_progress = true };
        struct string_list arguments = { 0 };
        struct buf text = BUF_NULL(INPUT_MAX);
        int status;

        status = options_parse(ctl, &spec, argc, argv, &arguments);
        if (status < 0)
                status = input_text(ctl, arguments.items[1], &text) ?: ctl_connect(ctl) ?: -1;
        if (status < 0) {
                request.session = arguments.items[0];
                request.text = text.data;
                request.text_size = text.len;
                request.special = special;
                request.no_bos = no_bos;
                status = call_wait(&call, spark_session_append(ctl->spark, &request, call_event, &call, &call.id));
        }
        buf_deinit(&text);
        string_list_deinit(&arguments);
        return status;
}

static int run_fork(struct ctl *ctl, int argc, char **argv) {
        struct spark_session_fork_request request = SPARK_SESSION_FORK_INIT;
        const struct option options[] = {
                { "name", 0, OPTION_STRING, &request.name, NULL, 0, "NAME", "default: that of the other one" },
                OPTION_END,
        };
        const struct option_spec spec = {
                .verb = "session fork",
                .usage = "[--name NAME] ID",
                .text = "Makes another session with the same text and prints its id; both go their own ways.\n"
                        "With --json: as session create.\n",
                .options = options,
                .min_arguments = 1,
                .max_arguments = 1,
        };
        struct call call = { .ctl = ctl, .on_done = done_id };
        struct string_list arguments = { 0 };
        int status;

        status = options_parse(ctl, &spec, argc, argv, &arguments);
        if (status < 0)
                status = ctl_connect(ctl) ?: -1;
        if (status < 0) {
                request.session = arguments.items[0];
                request.persistent = 1;
                status = call_wait(&call, spark_session_fork(ctl->spark, &request, call_event, &call, &call.id));
        }
        string_list_deinit(&arguments);
        return status;
}

static int run_rewind(struct ctl *ctl, int argc, char **argv) {
        struct spark_session_rewind_request request = SPARK_SESSION_REWIND_INIT;
        const struct option_spec spec = {
                .verb = "session rewind",
                .usage = "ID TOKENS",
                .text = "Cuts a session back to its first TOKENS tokens. With --json: as session create.\n",
                .min_arguments = 2,
                .max_arguments = 2,
        };
        struct call call = { .ctl = ctl, .on_done = done_tokens };
        struct string_list arguments = { 0 };
        int status;

        status = options_parse(ctl, &spec, argc, argv, &arguments);
        if (status < 0 && !parse_u64(arguments.items[1], UINT64_MAX, &request.tokens))
                status = ctl_fail_usage(ctl, spec.verb, "'%.40s' is no number of tokens.", arguments.items[1]);
        if (status < 0)
                status = ctl_connect(ctl) ?: -1;
        if (status < 0) {
                request.session = arguments.items[0];
                status = call_wait(&call, spark_session_rewind(ctl->spark, &request, call_event, &call, &call.id));
        }
        string_list_deinit(&arguments);
        return status;
}

static int run_close(struct ctl *ctl, int argc, char **argv) {
        const struct option_spec spec = {
                .verb = "session close",
                .usage = "ID...",
                .text = "Ends sessions, with all that is kept of them. A request that runs on one is cancelled.\n",
                .min_arguments = 1,
                .max_arguments = SIZE_MAX,
        };
        struct string_list arguments = { 0 };
        int status;

        status = options_parse(ctl, &spec, argc, argv, &arguments);
        if (status < 0)
                status = ctl_connect(ctl) ?: -1;
        for (size_t i = 0; i < arguments.n && status <= 0; i++) {
                struct call call = { .ctl = ctl };

                status = call_wait(&call, spark_session_close(ctl->spark, arguments.items[i], call_event, &call,
                                                              &call.id));
        }
        if (status == EXIT_DONE && ctl->json && arguments.n > 0)
                (void)printf("{}\n");
        string_list_deinit(&arguments);
        return status;
}

static int run_list(struct ctl *ctl, int argc, char **argv) {
        bool all = false;
        const struct option options[] = { OPTION_ALL(&all), OPTION_END };
        const struct option_spec spec = {
                .verb = "session list",
                .usage = "[--all]",
                .text = "Lists your sessions; to root and the service's own user, everybody's. With --json: sessions,\n"
                        "each as of session create.\n",
                .options = options,
        };
        struct spark_session_list_request request = SPARK_SESSION_LIST_INIT;
        struct call call = { .ctl = ctl, .on_done = done_list };
        int status = options_parse_bare(ctl, &spec, argc, argv);

        if (status < 0)
                status = ctl_connect_asking(ctl, all) ?: -1;
        request.all_users = all;
        if (status < 0)
                status = call_wait(&call, spark_session_query(ctl->spark, &request, call_event, &call, &call.id));
        return status;
}

static const struct subverb list[] = {
        { "create", run_create, "make an empty one" },
        { "append", run_append, "add text to the end" },
        { "fork", run_fork, "make another one with the same text" },
        { "rewind", run_rewind, "cut it back" },
        { "close", run_close, "end it" },
        { "list", run_list, "which there are" },
};

int verb_session(struct ctl *ctl, int argc, char **argv) {
        static const struct subverbs subverbs = {
                .verb = "session",
                .usage = "SUBVERB [ARGUMENTS]",
                .text = "A session is a text that grows, kept by the service over disconnects, crashes and restarts.\n"
                        "`sparkctl generate --session ID PROMPT` goes on with one.\n",
                .missing = "create, append, fork, rewind, close or list is missing.",
                .list = list,
                .n = ARRAY_SIZE(list),
        };

        return subverbs_run(&subverbs, ctl, argc, argv);
}
