/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>

#include "base/fd.h"
#include "base/utf8.h"
#include "prep.h"

#define INVALID SPARK__V1__ERROR_CODE__INVALID_ARGUMENT

/* A text field, or the memfd that came instead of it. */
struct text {
        const char *data;
        size_t size;
        void *map;
};

static void text_close(struct text *t) {
        if (t->map)
                (void)munmap(t->map, t->size);
}

static int text_map(int fd, struct text *ret, struct failure *f) {
        uint64_t size;

        if (fd < 0)
                return failure_set(f, INVALID, "input_fd is set, but no descriptor came");
        if (fd_memfd_check_sealed(fd, &size) < 0)
                return failure_set(f, INVALID,
                                   "input_fd is no memfd sealed against writing, growing and shrinking");
        if (size > PREP_INPUT_MAX)
                return failure_set(f, INVALID, "input_fd has %llu bytes, at most %llu are allowed",
                                   (unsigned long long)size, (unsigned long long)PREP_INPUT_MAX);
        if (size == 0) {
                *ret = (struct text){ .data = "" };
                return 0;
        }
        ret->map = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (ret->map == MAP_FAILED) {
                ret->map = NULL;
                return -errno;
        }
        ret->data = ret->map;
        ret->size = size;
        return 0;
}

static int text_open(const struct job *job, const ProtobufCBinaryData *field, bool input_fd, const char *name,
                     bool raw, struct text *ret, struct failure *f) {
        size_t bad;
        int r;

        *ret = (struct text){ .data = field->len > 0 ? (const char *)field->data : "", .size = field->len };
        if (input_fd) {
                if (field->len > 0)
                        return failure_set(f, INVALID, "%s and input_fd are both given", name);
                r = text_map(job->input_fd, ret, f);
                if (r != 0)
                        return r;
        }
        if (!raw && !utf8_valid(ret->data, ret->size, &bad)) {
                r = failure_set(f, SPARK__V1__ERROR_CODE__INVALID_UTF8, "%s is not UTF-8 at byte %zu", name, bad);
                text_close(ret);
                return r;
        }
        return 0;
}

static bool begins_with(const int32_t *ids, size_t n_ids, const int32_t *first, size_t n) {
        return n <= n_ids && (n == 0 || memcmp(ids, first, n * sizeof(*ids)) == 0);
}

/* Puts what the model wants at the beginning (mostly BOS) there, unless it is there already. */
static int add_opening(const struct prep *p, struct token_array *a) {
        size_t n, n_before = a->n;
        const int32_t *ids = tokenizer_opening(p->tokenizer, &n);
        int r;

        if (begins_with(a->ids, a->n, ids, n))
                return 0;
        for (size_t i = 0; i < n; i++) {
                r = token_array_append(a, ids[i]);
                if (r < 0)
                        return r;
        }
        memmove(a->ids + n, a->ids, n_before * sizeof(*a->ids));
        memcpy(a->ids, ids, n * sizeof(*ids));
        return 0;
}

/* A prompt is what stood before (a session's text) and the tokens that were made of the request. */
static int take_prompt(const struct prep *p, struct job *job, struct token_array *a, struct failure *f) {
        const Spark__Engine__V1__Submit *s = job->submit;
        struct request *r = &job->request;
        int32_t *prefix;
        int c;

        if (s->n_prefix == 0) {
                r->tokens = steal_ptr(&a->ids);
                r->n_tokens = a->n;
                a->n = a->cap = 0;
                return 0;
        }
        c = request_copy_tokens(s->prefix, s->n_prefix, p->n_vocab, "prefix", &prefix, f);
        if (c != 0)
                return c;
        r->tokens = reallocarray(prefix, s->n_prefix + a->n, sizeof(*prefix));
        if (!r->tokens) {
                free(prefix);
                return -ENOMEM;
        }
        if (a->n > 0)
                memcpy(r->tokens + s->n_prefix, a->ids, a->n * sizeof(*a->ids));
        r->n_tokens = s->n_prefix + a->n;
        return 0;
}

static int encode_text(const struct prep *p, struct job *job, const ProtobufCBinaryData *field, bool input_fd,
                       const char *name, bool raw, unsigned flags, struct token_array *out, struct failure *f) {
        struct text text;
        int r;

        r = text_open(job, field, input_fd, name, raw, &text, f);
        if (r != 0)
                return r;
        r = tokenizer_encode(p->tokenizer, text.data, text.size, flags, out);
        text_close(&text);
        return r;
}

static int draw_seed(uint64_t *ret) {
        return getrandom(ret, sizeof(*ret), 0) == sizeof(*ret) ? 0 : -errno;
}

static int set_sampling(const struct prep *p, struct job *job, const Spark__V1__Sampling *sampling,
                        struct failure *f) {
        uint64_t seed;
        int r;

        r = draw_seed(&seed);
        if (r < 0)
                return r;
        return request_set_sampling(&job->request, sampling, p->n_vocab, seed, f);
}

/* How a prompt comes, in whichever message. */
struct prompt {
        const ProtobufCBinaryData *text;
        const char *name; /* of the text's field ... */
        const char *tokens_name;
        const uint32_t *tokens;
        size_t n_tokens;
        bool input_fd, raw_bytes, special, no_bos;
};

static int encode_prompt(const struct prep *p, struct job *job, const struct prompt *prompt, struct token_array *out,
                         struct failure *f) {
        bool begins = job->submit->n_prefix == 0;
        int c;

        if (prompt->n_tokens > 0) {
                if (prompt->text->len > 0 || prompt->input_fd)
                        return failure_set(f, INVALID, "%s and %s are both given", prompt->name, prompt->tokens_name);
                c = request_copy_tokens(prompt->tokens, prompt->n_tokens, p->n_vocab, prompt->tokens_name, &out->ids, f);
                out->n = out->cap = c == 0 ? prompt->n_tokens : 0;
                return c;
        }
        c = encode_text(p, job, prompt->text, prompt->input_fd, prompt->name, prompt->raw_bytes,
                        (prompt->special ? TOKENIZE_SPECIAL : 0) | (begins ? 0 : TOKENIZE_CONTINUE), out, f);
        return c == 0 && begins && !prompt->no_bos ? add_opening(p, out) : c;
}

static int prep_prompt(const struct prep *p, struct job *job, const struct prompt *prompt, struct failure *f) {
        struct token_array tokens = { 0 };
        int c;

        c = encode_prompt(p, job, prompt, &tokens, f);
        if (c == 0)
                c = take_prompt(p, job, &tokens, f);
        token_array_deinit(&tokens);
        return c;
}

static int prep_generate(const struct prep *p, struct job *job, const Spark__V1__Generate *g, struct failure *f) {
        const struct prompt prompt = {
                .text = &g->prompt, .name = "prompt", .tokens_name = "prompt_tokens", .tokens = g->prompt_tokens,
                .n_tokens = g->n_prompt_tokens, .input_fd = g->input_fd, .raw_bytes = g->raw_bytes,
                .special = g->special, .no_bos = g->no_bos,
        };
        int c;

        c = set_sampling(p, job, g->sampling, f);
        if (c != 0)
                return c;
        job->request.raw_bytes = g->raw_bytes;
        return prep_prompt(p, job, &prompt, f);
}

static int encode_chat(const struct prep *p, struct job *job, const Spark__V1__Chat *chat, bool answer,
                       struct failure *f) {
        struct token_array tokens = { 0 };
        uint32_t seed[4];
        int c;

        if (!p->chat)
                return failure_set(f, SPARK__V1__ERROR_CODE__MODEL_INVALID, "%s", p->chat_fault);
        if (getrandom(seed, sizeof(seed), 0) != sizeof(seed))
                return -errno;
        c = chat_encode(p->chat, chat, answer, seed, time(NULL), &tokens, f);
        if (c == 0)
                c = add_opening(p, &tokens);
        if (c == 0)
                c = take_prompt(p, job, &tokens, f);
        token_array_deinit(&tokens);
        return c;
}

static int prep_chat(const struct prep *p, struct job *job, const Spark__V1__Chat *chat, struct failure *f) {
        int c = p->chat ? set_sampling(p, job, chat->sampling, f) : 0;

        return c == 0 ? encode_chat(p, job, chat, true, f) : c;
}

static int prep_prewarm(const struct prep *p, struct job *job, const Spark__V1__Prewarm *w, struct failure *f) {
        const struct prompt prompt = {
                .text = &w->text, .name = "text", .tokens_name = "tokens", .tokens = w->tokens, .n_tokens = w->n_tokens,
                .input_fd = w->input_fd, .special = w->special, .no_bos = w->no_bos,
        };
        Spark__V1__Chat chat = SPARK__V1__CHAT__INIT;

        job->request.kind = REQUEST_PREWARM;
        job->request.share = w->share;
        if (w->n_messages == 0 && !w->messages_json[0])
                return prep_prompt(p, job, &prompt, f);
        if (w->text.len > 0 || w->input_fd || w->n_tokens > 0)
                return failure_set(f, INVALID, "messages and %s are both given", w->n_tokens > 0 ? "tokens" : "text");
        if (job->submit->n_prefix > 0)
                return failure_set(f, INVALID, "messages do not go behind a session's text");
        chat.messages = w->messages;
        chat.n_messages = w->n_messages;
        chat.messages_json = w->messages_json;
        chat.tools_json = w->tools_json;
        chat.template_args_json = w->template_args_json;
        return encode_chat(p, job, &chat, false, f);
}

static int prep_score(const struct prep *p, struct job *job, const Spark__V1__Score *s, struct failure *f) {
        struct request *r = &job->request;
        struct token_array tokens = { 0 };
        const int32_t *opening;
        size_t n;
        int c;

        r->kind = REQUEST_SCORE;
        r->window = s->context;
        if (s->n_tokens > 0) {
                if (s->text.len > 0 || s->input_fd)
                        return failure_set(f, INVALID, "text and tokens are both given");
                c = request_copy_tokens(s->tokens, s->n_tokens, p->n_vocab, "tokens", &r->tokens, f);
                r->n_tokens = s->n_tokens;
        } else {
                c = encode_text(p, job, &s->text, s->input_fd, "text", false, 0, &tokens, f);
                if (c == 0)
                        c = take_prompt(p, job, &tokens, f);
                token_array_deinit(&tokens);
        }
        opening = tokenizer_opening(p->tokenizer, &n);
        if (c == 0 && n > 0 && begins_with(r->tokens, r->n_tokens, opening, n)) {
                r->n_tokens -= n; /* every window gets its own */
                memmove(r->tokens, r->tokens + n, r->n_tokens * sizeof(*r->tokens));
        }
        return c;
}

static int answer(uint64_t key, Spark__V1__Done *done, struct frame **ret) {
        Spark__Engine__V1__Finished finished = SPARK__ENGINE__V1__FINISHED__INIT;
        Spark__Engine__V1__EngineFrame frame = SPARK__ENGINE__V1__ENGINE_FRAME__INIT;

        finished.key = key;
        finished.done = done;
        frame.body_case = SPARK__ENGINE__V1__ENGINE_FRAME__BODY_FINISHED;
        frame.finished = &finished;
        *ret = frame_new(&frame);
        return *ret ? PREP_E_ANSWERED : -ENOMEM;
}

static int answer_tokenize(const struct prep *p, struct job *job, const Spark__V1__Tokenize *t, struct frame **ret,
                           struct failure *f) {
        Spark__V1__TokenizeResult result = SPARK__V1__TOKENIZE_RESULT__INIT;
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        struct token_array tokens = { 0 };
        int r;

        r = encode_text(p, job, &t->text, t->input_fd, "text", t->raw_bytes,
                        (t->special ? TOKENIZE_SPECIAL : 0) | (t->add_bos_eos ? TOKENIZE_BOS_EOS : 0), &tokens, f);
        if (r == 0) {
                result.n_ids = tokens.n;
                result.ids = (uint32_t *)tokens.ids;
                done.result_case = SPARK__V1__DONE__RESULT_TOKENIZE;
                done.tokenize = &result;
                r = answer(job->request.key, &done, ret);
                /* The answer must fit in a frame of the public protocol, some bytes for the envelope included. */
                if (r == PREP_E_ANSWERED && (*ret)->size > CHANNEL_FRAME_MAX - 64) {
                        free(*ret);
                        *ret = NULL;
                        r = failure_set(f, INVALID, "text has %zu tokens, more than fit in one answer", tokens.n);
                }
        }
        token_array_deinit(&tokens);
        return r;
}

static int detokenize(const struct prep *p, const Spark__V1__Detokenize *d, struct buf *out, struct failure *f) {
        struct detokenizer detok;
        char piece[DETOKENIZER_PIECE_MAX];
        int n, r = 0;

        detokenizer_init(&detok, p->tokenizer, d->special, true);
        for (size_t i = 0; i < d->n_tokens && r == 0; i++) {
                if (d->tokens[i] >= p->n_vocab)
                        return failure_set(f, INVALID, "tokens[%zu] must be below %u, not %u", i, p->n_vocab,
                                           d->tokens[i]);
                n = detokenizer_push(&detok, (int32_t)d->tokens[i], piece);
                r = n < 0 ? -EINVAL : buf_append(out, piece, (size_t)n);
        }
        n = detokenizer_finish(&detok, piece);
        if (r == 0 && n > 0)
                r = buf_append(out, piece, (size_t)n);
        if (r == BUF_E_LIMIT)
                return failure_set(f, INVALID, "the text of tokens is longer than fits in one answer");
        return r;
}

static int answer_detokenize(const struct prep *p, struct job *job, const Spark__V1__Detokenize *d,
                             struct frame **ret, struct failure *f) {
        Spark__V1__DetokenizeResult result = SPARK__V1__DETOKENIZE_RESULT__INIT;
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        struct buf text = BUF_NULL(CHANNEL_FRAME_MAX - 128);
        int r;

        r = detokenize(p, d, &text, f);
        if (r == 0) {
                result.text.data = (uint8_t *)text.data;
                result.text.len = text.len;
                done.result_case = SPARK__V1__DONE__RESULT_DETOKENIZE;
                done.detokenize = &result;
                r = answer(job->request.key, &done, ret);
        }
        buf_deinit(&text);
        return r;
}

static int prep_replay(const struct prep *p, struct job *job, const Spark__Engine__V1__Submit *s, struct failure *f) {
        struct request *r = &job->request;

        r->replay = s->replay;
        if (s->n_generated == 0)
                return 0;
        if (!s->replay || s->request_case != SPARK__ENGINE__V1__SUBMIT__REQUEST_GENERATE ||
            s->generate->n_prompt_tokens == 0)
                return failure_set(f, INVALID, "generated goes with replay, a Generate and its prompt_tokens");
        r->n_generated = s->n_generated;
        return request_copy_tokens(s->generated, s->n_generated, p->n_vocab, "generated", &r->generated, f);
}

static int prep_body(const struct prep *p, struct job *job, struct frame **ret_answer, struct failure *f) {
        const Spark__Engine__V1__Submit *s = job->submit;

        switch (s->request_case) {
        case SPARK__ENGINE__V1__SUBMIT__REQUEST_TOKENIZE:
                return answer_tokenize(p, job, s->tokenize, ret_answer, f);
        case SPARK__ENGINE__V1__SUBMIT__REQUEST_DETOKENIZE:
                return answer_detokenize(p, job, s->detokenize, ret_answer, f);
        default:
                break;
        }
        if (p->vocabulary_only)
                return failure_set(f, SPARK__V1__ERROR_CODE__MODEL_INVALID,
                                   "the model is a vocabulary without weights: it can tokenize and detokenize only");
        switch (s->request_case) {
        case SPARK__ENGINE__V1__SUBMIT__REQUEST_GENERATE:
                return prep_generate(p, job, s->generate, f);
        case SPARK__ENGINE__V1__SUBMIT__REQUEST_CHAT:
                return prep_chat(p, job, s->chat, f);
        case SPARK__ENGINE__V1__SUBMIT__REQUEST_SCORE:
                return prep_score(p, job, s->score, f);
        case SPARK__ENGINE__V1__SUBMIT__REQUEST_FORGET:
                job->request.kind = REQUEST_FORGET;
                job->request.share = s->forget->all_users;
                return 0;
        case SPARK__ENGINE__V1__SUBMIT__REQUEST_PREWARM:
                return prep_prewarm(p, job, s->prewarm, f);
        default:
                return failure_set(f, SPARK__V1__ERROR_CODE__UNIMPLEMENTED, "a request of an unknown kind");
        }
}

static const enum schedule_class classes[] = {
        [SPARK__V1__PRIORITY__PRIORITY_UNSPECIFIED] = SCHEDULE_NORMAL,
        [SPARK__V1__PRIORITY__BACKGROUND] = SCHEDULE_BACKGROUND,
        [SPARK__V1__PRIORITY__NORMAL] = SCHEDULE_NORMAL,
        [SPARK__V1__PRIORITY__INTERACTIVE] = SCHEDULE_INTERACTIVE,
};

/* Whose it is, and what its user may have: control has checked all of it. */
static int prep_who(struct request *r, const Spark__Engine__V1__Submit *s, struct failure *f) {
        if ((unsigned)s->priority >= ARRAY_SIZE(classes))
                return failure_set(f, INVALID, "priority %d is not known", (int)s->priority);
        r->uid = s->uid;
        r->client = s->client;
        r->weight = s->weight;
        r->class = classes[s->priority];
        r->running_limit = s->running_limit;
        r->queued_limit = s->queued_limit;
        r->kv_limit = s->kv_limit;
        return 0;
}

/* A Spill or a Restore: whose, and which tokens. The file goes with the job. */
static int prep_errand(const struct prep *p, struct job *job, struct failure *f) {
        struct request *r = &job->request;
        const uint32_t *tokens = job->spill ? job->spill->tokens : job->restore->tokens;

        if (p->vocabulary_only)
                return failure_set(f, SPARK__V1__ERROR_CODE__MODEL_INVALID, "the model is a vocabulary without weights");
        r->uid = job->spill ? job->spill->uid : job->restore->uid;
        r->n_tokens = job->spill ? job->spill->n_tokens : job->restore->n_tokens;
        job->file_max = job->spill ? job->spill->max_bytes : 0;
        return request_copy_tokens(tokens, r->n_tokens, p->n_vocab, "tokens", &r->tokens, f);
}

int prep_job(const struct prep *p, struct job *job, struct frame **ret_answer, struct failure *f) {
        const Spark__Engine__V1__Submit *s = job->submit;
        int r;

        if (job->spill || job->restore)
                return prep_errand(p, job, f);
        r = prep_who(&job->request, s, f);
        if (r == 0)
                r = prep_body(p, job, ret_answer, f);
        if (r == 0)
                r = prep_replay(p, job, s, f);
        if (r != 0)
                return r;
        if (job->request.kind == REQUEST_FORGET)
                return 0;
        if (job->request.kind != REQUEST_SCORE &&
            job->request.n_tokens + (job->request.kind == REQUEST_GENERATE) > p->context)
                return 0; /* the engine refuses it with its sums; no need to pack a list of the tokens */
        job->accepted = frame_new_accepted(&job->request);
        return job->accepted ? 0 : -ENOMEM;
}
