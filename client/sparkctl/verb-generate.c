/* SPDX-License-Identifier: Apache-2.0 */

#include <stdio.h>
#include <string.h>

#include "conversation.h"
#include "priority.h"
#include "sampling.h"

struct generate {
        struct ctl *ctl;
        struct sampling_options sampling;
        struct conversation_options conversation;
        const char *model;
        const char *system;
        const char *priority;
        const char *session;
        bool raw, special, no_bos;
        struct buf prompt;
        struct answer answer;
        struct call call;
        char model_name[256]; /* as the service calls it; "" where unknown */
};

static const char text[] =
        "Answers or continues a prompt and writes the answer to standard output as it comes. '-' reads the prompt\n"
        "from standard input. Ctrl-C cancels.\n\n"
        "Without --raw the prompt is one turn of a user: where the model has a chat template, it is put into that\n"
        "(one line break at the end of standard input is dropped); where it has none, the prompt is continued as\n"
        "plain text. With --raw the prompt goes to the model byte for byte as it is, with the beginning-of-sequence\n"
        "token that the model wants (unless --no-bos) and nothing else; it need not be UTF-8, and neither need the\n"
        "answer. --tools and --template-args need a chat template. With --session the prompt, as it is, goes to the end\n"
        "of a session's text, and so does the answer.\n\n"
        "Without --priority it is interactive where the answer goes to a terminal and the service allows it, else\n"
        "normal.\n\n"
        "With --json: text, tokens, finish_reason (stop, stop_string, length, cancelled), usage {prompt_tokens,\n"
        "cached_tokens, completion_tokens}, timing {queue_ms, prefill_ms, decode_ms}, seed, model, logprobs,\n"
        "session {id, tokens}.\n"
        "There text that is not UTF-8 is replaced by U+FFFD; tokens are exact.\n";

static int priority(const struct generate *g) {
        return priority_choose(g->ctl, g->priority, g->ctl->tty_out);
}

static void call_reset(struct generate *g) {
        g->call = (struct call){ .ctl = g->ctl, .on_tokens = answer_tokens, .on_done = answer_done, .data = &g->answer,
                                 .show_progress = true };
}

static int run_plain(struct generate *g) {
        struct spark_generate_request request = SPARK_GENERATE_INIT;

        call_reset(g);
        request.model = g->model;
        request.prompt = g->prompt.data;
        request.prompt_size = g->prompt.len;
        request.sampling = &g->sampling.s;
        request.special = g->special;
        request.no_bos = g->no_bos;
        request.raw_bytes = g->raw;
        request.priority = priority(g);
        request.session = g->session;
        return call_wait(&g->call, spark_generate(g->ctl->spark, &request, call_event, &g->call, &g->call.id));
}

static int run_chat(struct generate *g, bool quiet) {
        struct spark_chat_message messages[] = { SPARK_CHAT_MESSAGE_INIT, SPARK_CHAT_MESSAGE_INIT };
        struct spark_chat_request request = SPARK_CHAT_INIT;

        if (memchr(g->prompt.data, 0, g->prompt.len))
                return ctl_fail(g->ctl, EXIT_BAD_DATA, "INVALID_ARGUMENT", "Use --raw for arbitrary bytes.",
                                "The prompt holds a NUL character.");
        call_reset(g);
        g->call.quiet = quiet;
        messages[0].role = "system";
        messages[0].content = g->system;
        messages[1].role = "user";
        messages[1].content = g->prompt.data;
        request.model = g->model;
        request.messages = g->system ? messages : messages + 1;
        request.n_messages = g->system ? 2 : 1;
        conversation_options_apply(&g->conversation, &request);
        request.priority = priority(g);
        request.sampling = &g->sampling.s;
        return call_wait(&g->call, spark_chat(g->ctl->spark, &request, call_event, &g->call, &g->call.id));
}

/* What the service says about the model now. `ret_template`: 1 or 0 where it knows, -1 where the model isn't ready. */
static int look_up(struct generate *g, int *ret_template) {
        struct spark_result *result = NULL;
        const struct spark_model *m = NULL;
        int status;

        status = ctl_find_model(g->ctl, g->model, &m, &result);
        if (status)
                return status;
        *ret_template = -1;
        if (m) {
                (void)snprintf(g->model_name, sizeof(g->model_name), "%s", m->name);
                if (strcmp(m->state, "ready") == 0)
                        *ret_template = m->has_chat_template != 0;
        }
        (void)spark_result_free(result);
        return 0;
}

static void drop_line_break(struct buf *b) {
        if (b->len > 0 && b->data[b->len - 1] == '\n')
                b->data[--b->len] = 0;
        if (b->len > 0 && b->data[b->len - 1] == '\r')
                b->data[--b->len] = 0;
}

/* A model that isn't loaded yet does not say whether it has a template: ask for a chat, and where that is refused as
 * impossible, ask again what the model has by then. */
static int run(struct generate *g, bool from_stdin) {
        int template = 0, status;

        if (g->session) /* whose model it is, and whose text, where a template has no place any more */
                return run_plain(g);
        if (!g->raw || g->ctl->json) {
                status = look_up(g, &template);
                if (status)
                        return status;
        }
        if (g->raw || (template == 0 && !conversation_options_given(&g->conversation)))
                return run_plain(g);
        if (from_stdin)
                drop_line_break(&g->prompt);
        status = run_chat(g, true);
        if (!g->call.ended || g->call.cancelled || g->call.code == 0)
                return status;
        if (g->call.code == SPARK_MODEL_INVALID && template < 0 && !conversation_options_given(&g->conversation) &&
            look_up(g, &template) == 0 && template == 0)
                return run_plain(g);
        return call_report(&g->call);
}

static int finish(struct generate *g, int status) {
        if (g->answer.failed)
                return ctl_fail(g->ctl, EXIT_OTHER, "NO_MEMORY", NULL, "Out of memory.");
        /* refused: reported already, there is no answer to end */
        if (status != EXIT_DONE && status != EXIT_INTERRUPTED && g->answer.ids.len == 0)
                return status;
        if (!g->ctl->json) {
                if (g->answer.text.len > 0 || status == EXIT_DONE)
                        answer_finish(&g->answer);
        } else if (status == EXIT_DONE || status == EXIT_INTERRUPTED) {
                if (answer_print_json(&g->answer, g->model_name[0] ? g->model_name : g->model,
                                      status == EXIT_INTERRUPTED) < 0)
                        return EXIT_OTHER;
        }
        return status;
}

static int generate(struct generate *g, const char *prompt) {
        int status;

        if (g->raw && g->system)
                return ctl_fail_usage(g->ctl, "generate", "--raw and --system don't go together.");
        if (g->session && g->system)
                return ctl_fail_usage(g->ctl, "generate", "--session and --system don't go together.");
        if (!g->raw && !g->session && (g->special || g->no_bos))
                return ctl_fail_usage(g->ctl, "generate", "--special and --no-bos go with --raw or --session.");
        if ((g->raw || g->session) && conversation_options_given(&g->conversation))
                return ctl_fail_usage(g->ctl, "generate", "--tools and --template-args don't go with --raw or --session.");
        if (g->sampling.s.logprobs > 0 && !g->ctl->json)
                return ctl_fail_usage(g->ctl, "generate", "--logprobs needs --json.");
        status = priority_check(g->ctl, "generate", g->priority);
        if (status == 0)
                status = conversation_options_read(g->ctl, &g->conversation);
        if (status == 0)
                status = input_text(g->ctl, prompt, &g->prompt);
        if (status == 0)
                status = ctl_connect(g->ctl);
        if (status == 0)
                status = finish(g, run(g, strcmp(prompt, "-") == 0));
        return status;
}

int verb_generate(struct ctl *ctl, int argc, char **argv) {
        struct generate g = { .ctl = ctl, .sampling = SAMPLING_OPTIONS_INIT, .conversation = CONVERSATION_OPTIONS_INIT,
                              .prompt = BUF_NULL(INPUT_MAX) };
        const struct option options[] = {
                { "model", 'm', OPTION_STRING, &g.model, NULL, 0, "M", "default: the service's default model" },
                SAMPLING_OPTION_ROWS(g.sampling),
                PRIORITY_OPTION_ROW(g.priority),
                { "raw", 0, OPTION_FLAG, &g.raw, NULL, 0, NULL, "the prompt as it is, without chat template" },
                { "system", 0, OPTION_STRING, &g.system, NULL, 0, "S",
                  "instruction in front of the prompt (chat template)" },
                TEMPLATE_OPTION_ROWS(g.conversation),
                { "session", 0, OPTION_STRING, &g.session, NULL, 0, "ID", "go on with this session" },
                { "special", 0, OPTION_FLAG, &g.special, NULL, 0, NULL,
                  "with --raw or --session: recognise the text of special tokens in the prompt" },
                { "no-bos", 0, OPTION_FLAG, &g.no_bos, NULL, 0, NULL,
                  "with --raw or --session: no beginning-of-sequence token" },
                OPTION_END,
        };
        const struct option_spec spec = {
                .verb = "generate",
                .usage = "[-m M] [-n MAX] [-t TEMP] [OPTIONS] PROMPT|-",
                .text = text,
                .options = options,
                .min_arguments = 1,
                .max_arguments = 1,
        };
        struct string_list arguments = { 0 };
        int status;

        answer_init(&g.answer, ctl);
        status = options_parse(ctl, &spec, argc, argv, &arguments);
        if (status < 0) {
                sampling_options_finish(&g.sampling);
                g.answer.session = g.session;
                status = generate(&g, arguments.items[0]);
        }
        answer_deinit(&g.answer);
        buf_deinit(&g.prompt);
        string_list_deinit(&arguments);
        sampling_options_deinit(&g.sampling);
        conversation_options_deinit(&g.conversation);
        return status;
}
