/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Random requests: a mixture of them is drawn from one number, and each is run alone first. What comes later may begin
 * with what an earlier one asked and got, since that is known by then.
 */

#include "daemon/engine/fake.h"
#include "engine-check.h"

#define JOBS_MAX 18u
#define USERS 3u
#define PROMPT_MAX 272u /* some are longer than any context */

/* The last one's last page is never full. */
static const uint32_t contexts[] = { 96, 256, 100 };
#define CONTEXTS ARRAY_SIZE(contexts)

/* --- random numbers (SplitMix64, Steele et al. 2014) --------------------------------------------------------------- */

struct random {
        uint64_t state;
};

static inline uint64_t random_next(struct random *r) {
        uint64_t z = r->state += 0x9e3779b97f4a7c15u;

        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
}

static inline uint32_t random_below(struct random *r, uint32_t n) {
        return (uint32_t)((random_next(r) >> 32) * n >> 32);
}

static inline bool random_chance(struct random *r, uint32_t percent) {
        return random_below(r, 100) < percent;
}

/* --- requests ------------------------------------------------------------------------------------------------------ */

struct limits {
        uint32_t running, queued;
        uint64_t kv;
};

struct job {
        struct result x, alone; /* what it gives in the mixture, and what it gives alone */
        struct logit_bias bias;
        bool submitted, cancelled, ended;
        bool dribbled;   /* gets credit drop by drop */
        uint64_t credit; /* all that it got */
};

/* Where requests are run alone, and where they are mixed. */
struct world {
        const char *name, *backend;
        enum kv_format format;
        struct lab lab;             /* its engine is the mixture's */
        struct lab alone[CONTEXTS]; /* an engine for each context */
        uint64_t seed;              /* of the mixture that runs; 0 = none */
};

/* Pages that were taken out of the prefix cache. */
#define KEPT_PAGES 3u
struct kept {
        uint32_t uid, n_pages;
        int32_t tokens[PROMPT_MAX];
        uint8_t data[KEPT_PAGES << 14];
};

struct mixture {
        struct world *w;
        struct random random;
        unsigned context; /* index */
        struct limits limits[USERS];
        uint32_t haste; /* percent of the turns in which one comes */
        unsigned kills, turns;
        struct kept kept;
        bool restored;
        bool talkative;
        bool checked; /* the engine's insides, after each step */
        uint32_t n;
        struct job jobs[JOBS_MAX];
};

/* Few beginnings, so that strangers have them in common, too. */
static inline int32_t text_token(uint32_t family, uint32_t i) {
        struct random r = { family * 1000003u + i };

        return i == 0 ? FAKE_BOS : (int32_t)random_below(&r, FAKE_LIKELY);
}

static inline uint32_t draw_length(struct random *r, uint32_t context) {
        switch (random_below(r, 8)) {
        case 0:
        case 1:
                return 1 + random_below(r, 8);
        case 2:
        case 3:
        case 4:
                return 1 + random_below(r, 60);
        default:
                return 1 + random_below(r, context - 1);
        }
}

/* An earlier one's prompt and a part of its output, or a part of its prompt. */
static inline uint32_t draw_fork(struct random *r, const struct job *from, int32_t *tokens) {
        const struct request *q = &from->alone.request;
        uint32_t n = (uint32_t)q->n_tokens, output = from->alone.n;

        memcpy(tokens, q->tokens, n * sizeof(*tokens));
        if (random_chance(r, 40)) {
                n = 1 + random_below(r, n);
        } else if (output > 0) {
                output = MIN(1 + random_below(r, output), PROMPT_MAX - n);
                memcpy(tokens + n, from->alone.ids, output * sizeof(*tokens));
                n += output;
        }
        if (n > ENGINE_PAGE_TOKENS && random_chance(r, 25))
                n -= n % ENGINE_PAGE_TOKENS;
        return n;
}

static inline uint32_t draw_prompt(struct mixture *m, uint32_t i, int32_t *tokens) {
        struct random *r = &m->random;
        uint32_t context = contexts[m->context], n = 0, family, more;

        if (i > 0 && random_chance(r, 60)) {
                n = draw_fork(r, &m->jobs[random_below(r, i)], tokens);
                more = random_chance(r, 20) ? 0 : 1 + random_below(r, 40);
                for (; more > 0 && n < context - 1; more--)
                        tokens[n++] = (int32_t)random_below(r, FAKE_LIKELY);
                return random_chance(r, 98) ? MIN(n, context - 1) : n;
        }
        more = random_chance(r, 2) ? PROMPT_MAX : draw_length(r, context);
        for (family = random_below(r, 4); n < more; n++)
                tokens[n] = text_token(family, n);
        return n;
}

/* Answers that are longer than what a request gets room for at first grow in company, or stand at a limit. */
static inline uint32_t draw_max_tokens(struct mixture *m) {
        struct random *r = &m->random;

        if (random_chance(r, 4))
                return REQUEST_ENDLESS;
        if (m->talkative)
                return 30 + random_below(r, 60);
        return 1 + random_below(r, random_chance(r, 60) ? 12 : 50);
}

static inline void draw_sampling(struct mixture *m, struct job *j) {
        struct random *r = &m->random;
        struct request *q = &j->alone.request;

        q->sampling.temperature = random_chance(r, 50) ? 0.9f : 0;
        q->sampling.seed = random_next(r);
        q->sampling.logprobs = random_below(r, 3);
        q->sampling.top_k = random_chance(r, 20) ? 5 : 0;
        q->sampling.penalty_window = random_chance(r, 50) ? 16 : 64;
        q->raw_bytes = random_chance(r, 20);
        q->ignore_eos = random_chance(r, 70);
        /* An end that is as likely as any token that was said before. */
        j->bias = (struct logit_bias){ .token = FAKE_EOS, .bias = m->w->lab.model->fake ? 29.1f : 2 };
        q->sampling.bias = &j->bias;
        q->sampling.n_bias = random_chance(r, 20);
}

static inline void draw_who(struct mixture *m, struct request *q) {
        struct random *r = &m->random;
        const struct limits *limits;

        q->uid = random_below(r, USERS);
        q->client = random_below(r, 3);
        q->weight = random_chance(r, 20) ? 3 : 1;
        q->class = (enum schedule_class)random_below(r, SCHEDULE_CLASSES);
        limits = &m->limits[q->uid];
        q->running_limit = limits->running;
        q->queued_limit = limits->queued;
        q->kv_limit = limits->kv;
}

static inline void draw_kind(struct random *r, struct request *q) {
        uint32_t dice = random_below(r, 100);

        q->kind = dice < 78 ? REQUEST_GENERATE : dice < 92 ? REQUEST_PREWARM : REQUEST_SCORE;
        q->share = q->kind == REQUEST_PREWARM && random_chance(r, 40);
        if (q->kind == REQUEST_SCORE)
                q->window = random_chance(r, 50) ? 0 : 2 + random_below(r, 64);
}

static inline void run_alone(struct mixture *m, struct job *j) {
        struct lab *l = &m->w->alone[m->context];

        engine_forget_all(l->engine);
        assert_int_equal(engine_submit(l->engine, &j->alone.request), 0);
        lab_run(l);
        assert_true(result_ended(&j->alone));
        assert_true(j->alone.failed || j->alone.done.cached_tokens == 0);
        assert_int_equal(lab_stats(l).kv_used_bytes, 0);
}

/* A piece of its own text as a stop string: it ends there instead. */
static inline void draw_stop(struct mixture *m, struct job *j) {
        struct result *x = &j->alone;
        size_t size = 1 + random_below(&m->random, 3), at;

        if (x->n_text < size || !x->finished)
                return;
        at = random_below(&m->random, (uint32_t)(x->n_text - size + 1));
        x->request.stop_text = malloc(size);
        assert_non_null(x->request.stop_text);
        memcpy(x->request.stop_text, x->text + at, size);
        x->request.stop[0] = (struct stop_string){ .text = x->request.stop_text, .size = (uint16_t)size };
        x->request.n_stop = 1;
        result_reset(x);
        run_alone(m, j);
}

static inline void copy_request(struct request *to, const struct request *from) {
        *to = *from;
        to->tokens = calloc(from->n_tokens, sizeof(*to->tokens));
        assert_non_null(to->tokens);
        memcpy(to->tokens, from->tokens, from->n_tokens * sizeof(*to->tokens));
        if (from->n_stop == 0)
                return;
        to->stop_text = malloc(from->stop[0].size);
        assert_non_null(to->stop_text);
        memcpy(to->stop_text, from->stop_text, from->stop[0].size);
        to->stop[0].text = to->stop_text;
}

static inline void draw_job(struct mixture *m, uint32_t i) {
        struct random *r = &m->random;
        struct job *j = &m->jobs[i];
        int32_t tokens[PROMPT_MAX + 1];
        uint32_t n = draw_prompt(m, i, tokens);

        memset(j, 0, sizeof(*j));
        result_init_tokens(&j->alone, m->w->seed * JOBS_MAX + i, tokens, n, draw_max_tokens(m), 0);
        draw_who(m, &j->alone.request);
        draw_kind(r, &j->alone.request);
        draw_sampling(m, j);
        run_alone(m, j);
        if (random_chance(r, 20))
                draw_stop(m, j);
        memset(&j->x, 0, sizeof(j->x));
        copy_request(&j->x.request, &j->alone.request);
        j->dribbled = random_chance(r, 30);
        j->credit = j->dribbled ? random_below(r, 5) : 1000000;
        atomic_store(&j->x.request.granted, j->credit);
}

static inline void draw_limits(struct mixture *m, struct limits *l) {
        struct random *r = &m->random;
        uint64_t page_bytes = lab_page_bytes(&m->w->lab, m->w->format);

        *l = (struct limits){ 0 };
        if (random_chance(r, 25))
                l->running = 1 + random_below(r, 3);
        if (random_chance(r, 20))
                l->queued = 1 + random_below(r, 3);
        if (random_chance(r, m->talkative ? 80 : 25))
                l->kv = page_bytes * (1 + random_below(r, contexts[m->context] / ENGINE_PAGE_TOKENS + 2)) +
                        random_below(r, (uint32_t)page_bytes);
}

static inline struct engine_config draw_config(struct mixture *m) {
        static const uint32_t rows[] = { 1, 2, 3, 5, 8, 16, 31, 32, 33, 64, 100, 512 };
        static const uint64_t quanta[] = { 0, 0, 1, 4, 24 };
        struct random *r = &m->random;
        uint32_t pages = (contexts[m->context] + ENGINE_PAGE_TOKENS - 1) / ENGINE_PAGE_TOKENS;
        struct engine_config c = {
                .kv_format = m->w->format,
                .context = contexts[m->context],
                .max_rows = rows[random_below(r, ARRAY_SIZE(rows))],
                .max_sequences = 1 + random_below(r, random_chance(r, 50) ? 3 : 8),
                .max_queued = random_chance(r, 20) ? 2 + random_below(r, 4) : 0,
                .quantum = quanta[random_below(r, ARRAY_SIZE(quanta))],
                .step_target_us = random_chance(r, 25) ? 1 : 0,
        };

        pages += random_chance(r, 60) ? random_below(r, 3) : random_below(r, 5 * pages);
        c.kv_bytes = pages * lab_page_bytes(&m->w->lab, m->w->format);
        return c;
}

static inline void mixture_draw(struct mixture *m, struct world *w, uint64_t seed) {
        memset(m, 0, offsetof(struct mixture, jobs));
        w->seed = seed;
        m->w = w;
        m->random = (struct random){ seed };
        m->context = random_below(&m->random, CONTEXTS);
        m->checked = random_chance(&m->random, 25);
        m->talkative = random_chance(&m->random, 15);
        m->n = 2 + random_below(&m->random, JOBS_MAX - 1);
        m->haste = 3 + random_below(&m->random, 60);
        for (uint32_t i = 0; i < USERS; i++)
                draw_limits(m, &m->limits[i]);
        for (uint32_t i = 0; i < m->n; i++)
                draw_job(m, i);
}

static inline void mixture_free(struct mixture *m) {
        for (uint32_t i = 0; i < m->n; i++) {
                result_deinit(&m->jobs[i].alone);
                result_deinit(&m->jobs[i].x);
        }
}
