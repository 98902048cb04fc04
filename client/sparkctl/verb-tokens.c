/* SPDX-License-Identifier: Apache-2.0 */

/* tokenize, detokenize, perplexity. */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "input.h"
#include "json.h"
#include "options.h"
#include "priority.h"

static void tokenize_done(struct call *call, const struct spark_done *done) {
        _cleanup_json_ struct json j = JSON_NULL;

        if (call->ctl->json) {
                json_open(&j, NULL, '{');
                json_ids(&j, "ids", done->ids, done->n_ids);
                json_close(&j, '}');
                (void)json_print(&j);
                return;
        }
        for (size_t i = 0; i < done->n_ids; i++)
                (void)printf("%s%" PRIu32, i ? " " : "", done->ids[i]);
        (void)printf("\n");
}

int verb_tokenize(struct ctl *ctl, int argc, char **argv) {
        struct spark_tokenize_request request = SPARK_TOKENIZE_INIT;
        bool special = false, bos = false, raw = false;
        const struct option options[] = {
                { "model", 'm', OPTION_STRING, &request.model, NULL, 0, "M", "default: the service's default model" },
                { "special", 0, OPTION_FLAG, &special, NULL, 0, NULL, "recognise the text of special tokens" },
                { "bos", 0, OPTION_FLAG, &bos, NULL, 0, NULL, "add what the model adds to a prompt (BOS, EOS)" },
                { "raw", 0, OPTION_FLAG, &raw, NULL, 0, NULL, "the text need not be UTF-8" },
                OPTION_END,
        };
        const struct option_spec spec = {
                .verb = "tokenize",
                .usage = "[-m M] [--special] [--bos] TEXT|-",
                .text = "Prints the ids of a text's tokens on one line, separated by spaces. '-' reads standard\n"
                        "input, byte for byte. With --json: ids.\n",
                .options = options,
                .min_arguments = 1,
                .max_arguments = 1,
        };
        struct call call = { .ctl = ctl, .on_done = tokenize_done };
        struct string_list arguments = { 0 };
        struct buf text = BUF_NULL(INPUT_MAX);
        int status;

        status = options_parse(ctl, &spec, argc, argv, &arguments);
        if (status < 0)
                status = input_text(ctl, arguments.items[0], &text) ?: ctl_connect(ctl) ?: -1;
        if (status < 0) {
                request.text = text.data;
                request.text_size = text.len;
                request.special = special;
                request.add_bos_eos = bos;
                request.raw_bytes = raw;
                status = call_wait(&call, spark_tokenize(ctl->spark, &request, call_event, &call, &call.id));
        }
        buf_deinit(&text);
        string_list_deinit(&arguments);
        return status;
}

static void detokenize_done(struct call *call, const struct spark_done *done) {
        _cleanup_json_ struct json j = JSON_NULL;

        if (!call->ctl->json) {
                (void)fwrite(done->text, 1, done->text_size, stdout);
                if (call->ctl->tty_out)
                        (void)fputc('\n', stdout);
                return;
        }
        json_open(&j, NULL, '{');
        json_text(&j, "text", done->text ? done->text : "", done->text_size);
        json_close(&j, '}');
        (void)json_print(&j);
}

/* Appends the ids of "1 2,3\n4" to *ids. 0 or the exit status. */
static int parse_ids(const struct ctl *ctl, char *list, struct buf *ids) {
        char *save = NULL;

        for (char *p = strtok_r(list, " ,\t\r\n", &save); p; p = strtok_r(NULL, " ,\t\r\n", &save)) {
                uint64_t v;
                uint32_t id;

                if (!parse_u64(p, UINT32_MAX, &v))
                        return ctl_fail_usage(ctl, "detokenize", "'%.40s' is not a token id.", p);
                id = (uint32_t)v;
                if (buf_append(ids, &id, sizeof(id)) != 0)
                        return ctl_fail(ctl, EXIT_OTHER, "NO_MEMORY", NULL, "Out of memory.");
        }
        return 0;
}

static int parse_id_arguments(const struct ctl *ctl, const struct string_list *arguments, struct buf *ids) {
        int status = 0;

        for (size_t i = 0; i < arguments->n && status == 0; i++) {
                struct buf text = BUF_NULL(INPUT_MAX);

                status = input_text(ctl, arguments->items[i], &text);
                if (status == 0)
                        status = parse_ids(ctl, text.data, ids);
                buf_deinit(&text);
        }
        return status;
}

int verb_detokenize(struct ctl *ctl, int argc, char **argv) {
        struct spark_detokenize_request request = SPARK_DETOKENIZE_INIT;
        bool special = false;
        const struct option options[] = {
                { "model", 'm', OPTION_STRING, &request.model, NULL, 0, "M", "default: the service's default model" },
                { "special", 0, OPTION_FLAG, &special, NULL, 0, NULL,
                  "show special tokens as text (else they vanish)" },
                OPTION_END,
        };
        const struct option_spec spec = {
                .verb = "detokenize",
                .usage = "[-m M] [--special] IDS...",
                .text = "Writes the text of token ids, exact bytes. IDS are separated by blanks or commas, in one\n"
                        "argument or several; '-' reads them from standard input. With --json: text.\n",
                .options = options,
                .min_arguments = 1,
                .max_arguments = SIZE_MAX,
        };
        struct call call = { .ctl = ctl, .on_done = detokenize_done };
        struct string_list arguments = { 0 };
        struct buf ids = BUF_NULL(INPUT_MAX);
        int status;

        status = options_parse(ctl, &spec, argc, argv, &arguments);
        if (status < 0)
                status = parse_id_arguments(ctl, &arguments, &ids) ?: ctl_connect(ctl) ?: -1;
        if (status < 0) {
                request.ids = (const uint32_t *)(const void *)ids.data;
                request.n_ids = ids.len / sizeof(uint32_t);
                request.special = special;
                status = call_wait(&call, spark_detokenize(ctl->spark, &request, call_event, &call, &call.id));
        }
        buf_deinit(&ids);
        string_list_deinit(&arguments);
        return status;
}

static void perplexity_done(struct call *call, const struct spark_done *done) {
        _cleanup_json_ struct json j = JSON_NULL;

        if (!call->ctl->json) {
                (void)printf("tokens %" PRIu64 "\nnll %.9g\nperplexity %.9g\n", done->score_tokens, done->nll,
                             done->perplexity);
                return;
        }
        json_open(&j, NULL, '{');
        json_u64(&j, "tokens", done->score_tokens);
        json_number(&j, "nll", done->nll, 17);
        json_number(&j, "perplexity", done->perplexity, 17);
        json_close(&j, '}');
        (void)json_print(&j);
}

int verb_perplexity(struct ctl *ctl, int argc, char **argv) {
        struct spark_score_request request = SPARK_SCORE_INIT;
        const char *priority = NULL;
        const struct option options[] = {
                { "model", 'm', OPTION_STRING, &request.model, NULL, 0, "M", "default: the service's default model" },
                { "context", 0, OPTION_U32, &request.context, NULL, 0, "N",
                  "tokens per window (default: the model's context)" },
                PRIORITY_OPTION_ROW(priority),
                OPTION_END,
        };
        const struct option_spec spec = {
                .verb = "perplexity",
                .usage = "[-m M] [--context N] [--priority P] FILE|-",
                .text = "Scores a text: the number of tokens scored, their mean negative log-likelihood (natural\n"
                        "logarithm) and the perplexity. The text is cut into windows of N tokens; each of them starts\n"
                        "with BOS where the model has one and is scored from its second token on.\n"
                        "With --json: tokens, nll, perplexity.\n",
                .options = options,
                .min_arguments = 1,
                .max_arguments = 1,
        };
        struct call call = { .ctl = ctl, .on_done = perplexity_done, .show_progress = true };
        struct string_list arguments = { 0 };
        struct buf text = BUF_NULL(INPUT_MAX);
        int status;

        status = options_parse(ctl, &spec, argc, argv, &arguments);
        if (status < 0)
                status = priority_check(ctl, "perplexity", priority) ?: input_file(ctl, arguments.items[0], &text) ?:
                         ctl_connect(ctl) ?: -1;
        if (status < 0) {
                request.text = text.data;
                request.text_size = text.len;
                request.priority = priority_choose(ctl, priority, false);
                status = call_wait(&call, spark_score(ctl->spark, &request, call_event, &call, &call.id));
        }
        buf_deinit(&text);
        string_list_deinit(&arguments);
        return status;
}
