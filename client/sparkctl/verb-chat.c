/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A conversation at the terminal. The history is kept here and sent whole with each turn; the service finds the part
 * that it has read before in its prefix cache. Standard input is read by hand, together with the signals: Ctrl-C at
 * the prompt drops the line, during an answer it stops the answer, and the chat goes on.
 */

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "conversation.h"
#include "priority.h"
#include "sampling.h"

#define LINE_MAX_BYTES ((size_t)3 << 20)

struct turn {
        const char *role;
        char *content;
};

struct chat {
        struct ctl *ctl;
        struct sampling_options sampling;
        struct conversation_options conversation;
        const char *model;
        const char *priority;
        struct turn *turns;
        size_t n_turns;
        size_t n_fixed; /* the system turn, which /reset keeps */
        struct buf in;  /* read from standard input, not used yet */
        bool eof;
};

static const char text[] =
        "Talks with the model, which answers with its chat template. Ctrl-C stops an answer and keeps the chat,\n"
        "Ctrl-D (or /quit) ends it, /reset forgets what was said, a '\\' at the end of a line goes on with the next.\n"
        "Where standard input is no terminal each line is a turn; the first error ends the chat then. A chat is\n"
        "interactive where the service allows it, unless --priority says otherwise.\n\n"
        "With --messages the conversation comes from a file (or '-', standard input): a JSON array of objects with role,\n"
        "content and whatever else the model's template knows (tool_calls, tool_call_id, name, reasoning_content). It is\n"
        "answered once, and the chat ends.\n\n"
        "With --json: one object per answer, as `generate` prints it.\n";

static int fail_memory(const struct chat *c) {
        return ctl_fail(c->ctl, EXIT_OTHER, "NO_MEMORY", NULL, "Out of memory.");
}

static int turn_add(struct chat *c, const char *role, const char *content) {
        struct turn *turns = reallocarray(c->turns, c->n_turns + 1, sizeof(*turns));
        char *copy = strdup(content);

        if (turns)
                c->turns = turns;
        if (!turns || !copy) {
                free(copy);
                return fail_memory(c);
        }
        c->turns[c->n_turns++] = (struct turn){ .role = role, .content = copy };
        return 0;
}

static void turns_drop(struct chat *c, size_t keep) {
        while (c->n_turns > keep)
                free(c->turns[--c->n_turns].content);
}

static void chat_deinit(struct chat *c) {
        turns_drop(c, 0);
        free(c->turns);
        buf_deinit(&c->in);
        sampling_options_deinit(&c->sampling);
        conversation_options_deinit(&c->conversation);
}

static void show_prompt(const struct chat *c, const char *prompt) {
        if (!c->ctl->tty_in || !c->ctl->tty_err)
                return;
        (void)fputs(prompt, stderr);
        (void)fflush(stderr);
}

/* Moves the first line of c->in to *line. False when there is none yet. */
static bool take_line(struct chat *c, struct buf *line, int *ret_error) {
        const char *end = c->in.len ? memchr(c->in.data, '\n', c->in.len) : NULL;
        size_t n;

        if (!end && !(c->eof && c->in.len > 0))
                return false;
        n = end ? (size_t)(end - c->in.data) : c->in.len;
        *ret_error = buf_append(line, c->in.data, n);
        buf_consume(&c->in, end ? n + 1 : n);
        return true;
}

/* Reads more. 0 or the exit status; an interrupt drops the line. */
static int read_more(struct chat *c) {
        struct pollfd fds[] = { { .fd = STDIN_FILENO, .events = POLLIN },
                                { .fd = c->ctl->signal_fd, .events = POLLIN } };
        ssize_t n;

        if (poll(fds, ARRAY_SIZE(fds), -1) < 0 && errno != EINTR)
                return ctl_fail(c->ctl, EXIT_OTHER, "INTERNAL", NULL, "Waiting failed: %s.", strerror(errno));
        if (fds[1].revents) {
                ctl_signals_take(c->ctl);
                if (c->ctl->terminated || !c->ctl->tty_in)
                        return EXIT_INTERRUPTED;
                buf_clear(&c->in);
                show_prompt(c, "\n(Ctrl-D ends the chat)\n> ");
                return 0;
        }
        if (!fds[0].revents)
                return 0;
        if (buf_reserve(&c->in, 4096) != 0)
                return ctl_fail(c->ctl, EXIT_BAD_DATA, "TOO_LARGE", "Write less at once.", "The line is too long.");
        n = read(STDIN_FILENO, c->in.data + c->in.len, 4096);
        if (n < 0 && errno != EINTR && errno != EAGAIN)
                return ctl_fail(c->ctl, EXIT_BAD_DATA, "FILE", NULL, "Standard input can't be read: %s.",
                                strerror(errno));
        if (n == 0)
                c->eof = true;
        if (n > 0)
                c->in.len += (size_t)n;
        c->in.data[c->in.len] = 0;
        return 0;
}

/* One turn of the user, perhaps of several lines. 1 = *line is it, 0 = the input has ended, -status. */
static int read_turn(struct chat *c, struct buf *line) {
        show_prompt(c, "> ");
        for (;;) {
                int error = 0, status;

                if (take_line(c, line, &error)) {
                        if (error)
                                return -fail_memory(c);
                        if (line->len > 0 && line->data[line->len - 1] == '\\') {
                                line->data[line->len - 1] = '\n';
                                show_prompt(c, ". ");
                                continue;
                        }
                        return 1;
                }
                if (c->eof)
                        return line->len > 0;
                status = read_more(c);
                if (status)
                        return -status;
        }
}

static int start(struct chat *c, struct call *call) {
        struct spark_chat_request request = SPARK_CHAT_INIT;
        _cleanup_free_ struct spark_chat_message *messages = calloc(MAX(c->n_turns, 1u), sizeof(*messages));

        if (!messages)
                return -ENOMEM;
        for (size_t i = 0; i < c->n_turns; i++)
                messages[i] = (struct spark_chat_message){ .size = sizeof(*messages), .role = c->turns[i].role,
                                                           .content = c->turns[i].content };
        request.model = c->model;
        request.messages = c->n_turns ? messages : NULL;
        request.n_messages = c->n_turns;
        conversation_options_apply(&c->conversation, &request);
        request.sampling = &c->sampling.s;
        request.priority = priority_choose(c->ctl, c->priority, true);
        return spark_chat(c->ctl->spark, &request, call_event, call, &call->id);
}

/* Asks, and writes the answer. The exit status. */
static int ask(struct chat *c, struct call *call, struct answer *a) {
        int status;

        *call = (struct call){ .ctl = c->ctl, .on_tokens = answer_tokens, .on_done = answer_done, .data = a,
                               .show_progress = true };
        answer_init(a, c->ctl);
        status = call_wait(call, start(c, call));
        if (a->failed && status == EXIT_DONE)
                status = fail_memory(c);
        if (c->ctl->json && (status == EXIT_DONE || call->cancelled))
                (void)answer_print_json(a, c->model, call->cancelled);
        return status;
}

/* The conversation of --messages: one answer, exactly as generated. */
static int answer_once(struct chat *c) {
        struct answer a;
        struct call call;
        int status = ask(c, &call, &a);

        if (a.echo && (a.text.len > 0 || status == EXIT_DONE))
                answer_finish(&a);
        answer_deinit(&a);
        return status;
}

/* One answer. 0 = the chat goes on, else the exit status. */
static int answer(struct chat *c) {
        struct answer a;
        struct call call;
        int status = ask(c, &call, &a);

        if (a.echo && (a.text.len > 0 || status == EXIT_DONE))
                (void)fputs(a.last == '\n' ? "" : "\n", stdout);
        (void)fflush(stdout);

        if (call.cancelled && call.ended && !c->ctl->terminated)
                status = EXIT_DONE; /* stopped: what came is part of the conversation */
        if (status == EXIT_DONE && a.text.len > 0 && !memchr(a.text.data, 0, a.text.len)) {
                status = turn_add(c, "assistant", a.text.data);
        } else {
                turns_drop(c, c->n_turns - 1);
                /* at a terminal an error is not the end, unless nobody is there any more */
                if (c->ctl->tty_in && call.ended && !spark_failed(c->ctl->spark, NULL) && !c->ctl->terminated)
                        status = EXIT_DONE;
        }
        answer_deinit(&a);
        return status;
}

/* A turn that is for us. False when it is for the model. */
static bool command(struct chat *c, const char *line, bool *ret_quit) {
        *ret_quit = strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0;
        if (*ret_quit)
                return true;
        if (strcmp(line, "/reset") == 0) {
                turns_drop(c, c->n_fixed);
                show_prompt(c, "(forgotten)\n");
                return true;
        }
        if (strcmp(line, "/help") == 0) {
                show_prompt(c, text);
                return true;
        }
        return false;
}

static int converse(struct chat *c) {
        int status = 0;

        show_prompt(c, "(Ctrl-D ends the chat, /help says what else there is)\n");
        while (status == 0) {
                struct buf line = BUF_NULL(LINE_MAX_BYTES);
                bool quit = false;
                int r = read_turn(c, &line);

                if (r <= 0) {
                        buf_deinit(&line);
                        show_prompt(c, "\n");
                        return -r;
                }
                if (line.len == 0 || (c->ctl->tty_in && command(c, line.data, &quit))) {
                        buf_deinit(&line);
                        if (quit)
                                return 0;
                        continue;
                }
                if (memchr(line.data, 0, line.len))
                        status = ctl_fail(c->ctl, EXIT_BAD_DATA, "INVALID_ARGUMENT", NULL,
                                          "The line holds a NUL character.");
                else
                        status = turn_add(c, "user", line.data) ?: answer(c);
                buf_deinit(&line);
        }
        return status;
}

static int chat(struct chat *c, const char *system) {
        int status;

        if (c->sampling.s.logprobs > 0 && !c->ctl->json)
                return ctl_fail_usage(c->ctl, "chat", "--logprobs needs --json.");
        if (system && c->conversation.messages_path)
                return ctl_fail_usage(c->ctl, "chat", "--messages and --system don't go together.");
        status = priority_check(c->ctl, "chat", c->priority) ?: conversation_options_read(c->ctl, &c->conversation);
        if (status)
                return status;
        if (system) {
                status = turn_add(c, "system", system);
                if (status)
                        return status;
        }
        c->n_fixed = c->n_turns;
        status = ctl_connect(c->ctl) ?: ctl_signals_block(c->ctl);
        if (status)
                return status;
        return c->conversation.messages_path ? answer_once(c) : converse(c);
}

int verb_chat(struct ctl *ctl, int argc, char **argv) {
        struct chat c = { .ctl = ctl, .sampling = SAMPLING_OPTIONS_INIT, .conversation = CONVERSATION_OPTIONS_INIT,
                          .in = BUF_NULL(LINE_MAX_BYTES) };
        const char *system = NULL;
        const struct option options[] = {
                { "model", 'm', OPTION_STRING, &c.model, NULL, 0, "M", "default: the service's default model" },
                { "system", 0, OPTION_STRING, &system, NULL, 0, "S", "instruction that the chat begins with" },
                MESSAGES_OPTION_ROW(c.conversation),
                TEMPLATE_OPTION_ROWS(c.conversation),
                SAMPLING_OPTION_ROWS(c.sampling),
                PRIORITY_OPTION_ROW(c.priority),
                OPTION_END,
        };
        const struct option_spec spec = {
                .verb = "chat",
                .usage = "[-m M] [--system S] [--messages FILE|-] [--tools FILE] [OPTIONS]",
                .text = text,
                .options = options,
        };
        struct string_list arguments = { 0 };
        int status;

        status = options_parse(ctl, &spec, argc, argv, &arguments);
        if (status < 0) {
                sampling_options_finish(&c.sampling);
                status = chat(&c, system);
        }
        string_list_deinit(&arguments);
        chat_deinit(&c);
        return status;
}
