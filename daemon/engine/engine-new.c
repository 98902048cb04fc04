/* SPDX-License-Identifier: Apache-2.0 */

/* The engine core's birth and death, its self-test, what it tells of itself. */

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "engine-private.h"

/* --- self-test, statistics --------------------------------------------------------------------------------------- */

static int refuse_model(const struct engine *e, struct failure *f) {
        return failure_set(f, SPARK__V1__ERROR_CODE__MODEL_INVALID, "self-test: the %s backend cannot compute with this model",
                           e->model->backend->ops->name);
}

/* Logits come to e->logits. */
static int run_once(struct engine *e, int32_t token, const struct forward_top *top) {
        const uint32_t pos = 0, seq = 0, row = 0;
        const uint32_t *tables[1];
        uint32_t page;
        const struct batch batch = {
                .n_rows = 1, .token = &token, .pos = &pos, .seq = &seq, .n_seqs = 1, .page_table = tables,
        };
        void *kept;
        int r, back;

        r = engine_borrow_page(e, &page, &kept);
        if (r < 0)
                return r;
        tables[0] = &page;
        r = engine_run(e, &batch, &row, 1, top);
        if (r == 0)
                r = engine_fetch_logits(e, 0, 1);
        back = engine_return_page(e, page, kept);
        return r ? r : back;
}

/* What the backend says is the best token is what its logits say. */
static bool top_is_right(struct engine *e) {
        static const struct sampler_params greedy = { .repetition_penalty = 1 };
        const struct forward_top *top = &e->top;
        struct sampler_choice choice;

        if (sampler_choose(&e->sampler, &greedy, e->logits, NULL, NULL, 0, 0, &choice) != 0)
                return false;
        return !top->rows->bad && top->ids[0] == choice.token && top->values[0] == e->logits[choice.token] &&
               top->rows->largest == top->values[0];
}

/* before [n_vocab]: room for the logits of the first of two steps. */
static int step_twice(struct engine *e, float *before, struct failure *f) {
        size_t n_vocab = e->model->shape.n_vocab;
        int32_t token = e->n_opening > 0 ? e->opening[0] : 0;
        int r;

        r = run_once(e, token, NULL);
        if (r == -EOPNOTSUPP)
                return refuse_model(e, f);
        if (r < 0)
                return r;
        memcpy(before, e->logits, n_vocab * sizeof(*before));
        e->top.k = e->top.rows ? 1 : 0;
        r = run_once(e, token, &e->top);
        if (r < 0)
                return r;
        for (size_t i = 0; i < n_vocab; i++)
                if (!isfinite(before[i]))
                        return failure_set(f, SPARK__V1__ERROR_CODE__MODEL_INVALID,
                                           "self-test: the logit of token %zu is not finite", i);
        if (memcmp(e->logits, before, n_vocab * sizeof(*before)) != 0)
                return failure_set(f, SPARK__V1__ERROR_CODE__INTERNAL, "self-test: two equal steps gave different bits");
        if (e->top.k > 0 && !top_is_right(e))
                return failure_set(f, SPARK__V1__ERROR_CODE__INTERNAL,
                                   "self-test: token %d is not the best one, as the backend says", e->top.ids[0]);
        return 0;
}

int engine_self_test(struct engine *e, struct failure *f) {
        float *before = calloc(e->model->shape.n_vocab, sizeof(*before));
        int r = before ? step_twice(e, before, f) : -ENOMEM;

        free(before);
        return r;
}

size_t engine_list_queued(const struct engine *e, uint64_t *keys, size_t max) {
        size_t n = 0;

        for (const struct list *l = e->waiting.next; l != &e->waiting && n < max; l = l->next)
                keys[n++] = LIST_ENTRY(l, const struct sequence, link)->request->key;
        return n;
}

size_t engine_list_paused(const struct engine *e, uint64_t *keys, size_t max) {
        const struct list *const heads[] = { &e->paused, &e->draining };
        size_t n = 0;

        for (size_t i = 0; i < ARRAY_SIZE(heads); i++)
                for (const struct list *l = heads[i]->next; l != heads[i] && n < max; l = l->next)
                        keys[n++] = LIST_ENTRY(l, const struct sequence, link)->request->key;
        return n;
}

struct user_list {
        const struct engine *e;
        struct engine_user *users;
        size_t n, max;
};

static struct engine_user *user_entry(struct user_list *l, uint32_t uid) {
        if (l->n == l->max)
                return NULL;
        l->users[l->n] = (struct engine_user){ .uid = uid };
        return &l->users[l->n++];
}

static void list_cached(void *userdata, uint32_t uid, uint32_t cached_pages) {
        struct user_list *l = userdata;
        const struct schedule_user *user = schedule_find_user(&l->e->schedule, uid);
        struct engine_user *entry;

        if (user || cached_pages == 0)
                return; /* listed already */
        entry = user_entry(l, uid);
        if (entry)
                entry->kv_cached_bytes = cached_pages * l->e->page_bytes;
}

size_t engine_list_users(const struct engine *e, struct engine_user *users, size_t max) {
        struct user_list l = { .e = e, .users = users, .max = max };

        for (size_t i = 0; i < e->schedule.user_buckets; i++) {
                for (const struct schedule_user *u = e->schedule.users[i]; u; u = u->next) {
                        struct engine_user *entry = user_entry(&l, u->uid);

                        if (!entry)
                                return l.n;
                        entry->running = u->n_running;
                        entry->queued = u->n_waiting;
                        entry->kv_used_bytes = u->pages * e->page_bytes;
                        entry->kv_cached_bytes = prefix_cached_pages(e->prefix, u->uid) * e->page_bytes;
                }
        }
        prefix_each_user(e->prefix, list_cached, &l);
        return l.n;
}

void engine_forget(struct engine *e, uint32_t uid) {
        prefix_forget(e->prefix, uid);
}

void engine_forget_all(struct engine *e) {
        prefix_forget_all(e->prefix);
}

/* Where the backend gives nothing back it has taken all of it; of a device's own memory the host has nothing, but what one has
 * that shares the host's is the host's. */
static uint64_t resident_bytes(const struct engine *e) {
        const struct backend *be = e->model->backend;
        struct backend_facts facts = { .placement = "host", .kv_memory = "host" };

        if (be->ops->kv_discard)
                return kv_pool_wet(&e->pool) * e->page_bytes;
        if (be->ops->facts)
                be->ops->facts(be, &facts);
        return strcmp(facts.kv_memory, "host") == 0 || strcmp(facts.placement, "device") != 0 ?
                       e->pool.n_pages * e->page_bytes :
                       0;
}

void engine_get_stats(const struct engine *e, struct engine_stats *ret) {
        const struct image_step step = { .rows = e->config.max_rows, .sequences = e->config.max_sequences,
                                         .logits = e->max_logits };

        uint64_t scratch = e->model->dev_bytes + forward_bytes(&e->model->shape, e->config.max_rows, e->max_logits);

        *ret = (struct engine_stats){
                .steps = e->steps,
                .tokens = e->tokens,
                .running = e->schedule.n_running,
                .queued = e->schedule.n_waiting,
                .paused = e->schedule.n_idle + e->n_draining,
                .kv_used_bytes = e->pool.n_held * e->page_bytes,
                .kv_cached_bytes = e->pool.n_cached * e->page_bytes,
                .kv_bytes = e->pool.n_pages * e->page_bytes,
                .kv_limit_bytes = e->pool.limit * e->page_bytes,
                .kv_resident_bytes = resident_bytes(e),
                .scratch_bytes = scratch,
                .other_bytes = scratch +
                               image_step_logits_bytes(&step, e->model->shape.n_vocab) +
                               e->pool.n_pages * prefix_bytes_per_page(ENGINE_PAGE_TOKENS),
                .context = e->config.context,
        };
}

int engine_run_logits(struct engine *e, const int32_t *tokens, size_t n,
                      int (*row)(void *userdata, size_t pos, const float *logits), void *userdata, struct failure *f) {
        struct kv_table table = { 0 };
        int r;

        if (n > e->config.context)
                return failure_set(f, SPARK__V1__ERROR_CODE__CONTEXT_OVERFLOW, "%zu tokens, the context has room for %u",
                                   n, e->config.context);
        (void)prefix_evict(e->prefix, kv_pages_for(&e->pool, n));
        r = kv_table_extend(&e->pool, &table, n);
        if (r > 0)
                return failure_set(f, SPARK__V1__ERROR_CODE__NO_MEMORY, "the KV cache has no room for %zu tokens", n);
        for (size_t done = 0; r == 0 && done < n;) {
                uint32_t rows = (uint32_t)MIN(n - done, (size_t)e->max_logits);
                const uint32_t *tables[1] = { table.pages };
                const struct batch batch = {
                        .n_rows = rows, .token = tokens + done, .pos = e->row_pos, .seq = e->row_seq, .n_seqs = 1,
                        .page_table = tables,
                };

                for (uint32_t i = 0; i < rows; i++) {
                        e->row_pos[i] = (uint32_t)done + i;
                        e->row_seq[i] = 0;
                        e->logit_row[i] = i;
                }
                r = engine_run(e, &batch, e->logit_row, rows, NULL);
                if (r == 0)
                        r = engine_fetch_logits(e, 0, rows);
                for (uint32_t i = 0; r == 0 && i < rows; i++)
                        r = row(userdata, done + i, e->logits + (size_t)i * e->model->shape.n_vocab);
                done += rows;
        }
        kv_table_release(&e->pool, &table);
        return r;
}

/* --- birth and death --------------------------------------------------------------------------------------------- */

static void set_defaults(struct engine *e) {
        struct engine_config *c = &e->config;
        struct image_step step = { .rows = c->max_rows, .sequences = c->max_sequences };

        image_step_defaults(&step, e->model->shape.n_vocab);
        c->max_rows = step.rows;
        c->max_sequences = step.sequences;
        e->max_logits = step.logits;
        e->batch = c->max_rows;
        if (c->max_queued == 0)
                c->max_queued = ENGINE_QUEUED;
        if (c->context == 0 || (c->context > e->model->shape.n_ctx && !e->model->fake))
                c->context = e->model->shape.n_ctx;
}

/* Pages for all sequences at full length, or what the budget buys; the context shrinks to what one sequence can get. */
static int init_pool(struct engine *e, struct failure *f) {
        struct engine_config *c = &e->config;
        uint64_t pages = c->context / ENGINE_PAGE_TOKENS + (c->context % ENGINE_PAGE_TOKENS != 0), most = UINT32_MAX / 2;
        struct kv_config kv;
        int r;

        pages = MIN(pages * c->max_sequences, most);
        e->page_bytes = ENGINE_PAGE_TOKENS * model_kv_bytes(&e->model->shape, c->kv_format);
        if (e->page_bytes > 0 && c->kv_bytes > 0)
                pages = MIN(pages, c->kv_bytes / e->page_bytes);
        if (pages == 0)
                return failure_set(f, SPARK__V1__ERROR_CODE__NO_MEMORY,
                                   "a KV cache of %llu bytes has no room for %u tokens, which take %llu",
                                   (unsigned long long)c->kv_bytes, ENGINE_PAGE_TOKENS,
                                   (unsigned long long)e->page_bytes);
        if (pages * ENGINE_PAGE_TOKENS < c->context) {
                log_notice("the KV cache has room for %llu tokens: context %u instead of %u",
                           (unsigned long long)(pages * ENGINE_PAGE_TOKENS), (uint32_t)pages * ENGINE_PAGE_TOKENS,
                           c->context);
                c->context = (uint32_t)pages * ENGINE_PAGE_TOKENS;
        }
        r = kv_pool_init(&e->pool, (uint32_t)pages, ENGINE_PAGE_TOKENS);
        if (r == 0)
                r = prefix_cache_new(&e->prefix, &e->pool);
        if (r < 0)
                return r;
        kv = (struct kv_config){
                .n_layers = e->model->shape.n_layer,
                .n_kv_heads = e->model->shape.n_head_kv,
                .head_dim = e->model->shape.head_dim,
                .n_pages = (uint32_t)pages,
                .page_tokens = ENGINE_PAGE_TOKENS,
                .format = c->kv_format,
        };
        r = e->model->backend->ops->kv_new(e->model->backend, &kv, &e->kv);
        if (r == BACKEND_E_UNSUPPORTED)
                return failure_set(f, SPARK__V1__ERROR_CODE__MODEL_INVALID,
                                   "the %s backend has no attention for heads of %u elements", e->model->backend->ops->name,
                                   kv.head_dim);
        if (r > 0)
                return failure_set(f, SPARK__V1__ERROR_CODE__NO_MEMORY, "no memory for a KV cache of %llu bytes",
                                   (unsigned long long)(pages * e->page_bytes));
        return r;
}

static int init_schedule(struct engine *e) {
        const struct engine_config *c = &e->config;
        const struct schedule_config config = {
                .max_running = c->max_sequences,
                .max_rows = c->max_rows,
                .quantum = { 0, c->quantum, c->quantum, c->quantum },
        };

        return schedule_init(&e->schedule, &config);
}

static int alloc_top(struct engine *e) {
        size_t n = (size_t)e->max_logits;

        if (!e->model->backend->ops->top)
                return 0;
        e->top.rows = calloc(n, sizeof(*e->top.rows));
        e->top.values = calloc(n * SAMPLER_TOP_MAX, sizeof(*e->top.values));
        e->top.ids = calloc(n * SAMPLER_TOP_MAX, sizeof(*e->top.ids));
        return e->top.rows && e->top.values && e->top.ids ? 0 : -ENOMEM;
}

static int alloc_arrays(struct engine *e) {
        const struct engine_config *c = &e->config;
        int r;

        e->seqs = calloc(c->max_sequences, sizeof(struct sequence *));
        e->tables = calloc(c->max_sequences, sizeof(uint32_t *));
        e->row_token = calloc(c->max_rows, sizeof(*e->row_token));
        e->row_pos = calloc(c->max_rows, sizeof(*e->row_pos));
        e->row_seq = calloc(c->max_rows, sizeof(*e->row_seq));
        e->logit_row = calloc(e->max_logits, sizeof(*e->logit_row));
        e->logit_seq = calloc(e->max_logits, sizeof(*e->logit_seq));
        e->logits = calloc((size_t)e->max_logits * e->model->shape.n_vocab, sizeof(*e->logits));
        if (!e->seqs || !e->tables || !e->row_token || !e->row_pos || !e->row_seq || !e->logit_row || !e->logit_seq ||
            !e->logits)
                return -ENOMEM;
        r = alloc_top(e);
        return r < 0 ? r : sampler_init(&e->sampler, e->model->shape.n_vocab);
}

/* After this a step takes no memory. */
static int reserve_steps(struct engine *e, struct failure *f) {
        struct forward_reserve reserve = { .sequences = e->config.max_sequences, .context = e->config.context };
        int r;

        if (e->top.rows)
                reserve.top = MIN(SAMPLER_TOP_MAX, e->model->shape.n_vocab);
        r = forward_reserve(e->forward, &reserve);
        if (r == BACKEND_E_NO_MEMORY)
                return failure_set(f, SPARK__V1__ERROR_CODE__NO_MEMORY,
                                   "no memory for steps of %u rows of %u sequences, which take %llu bytes besides %llu of "
                                   "activations and %llu of KV cache", e->config.max_rows, e->config.max_sequences,
                                   (unsigned long long)reserve.bytes,
                                   (unsigned long long)forward_bytes(&e->model->shape, e->config.max_rows, e->max_logits),
                                   (unsigned long long)(e->pool.n_pages * e->page_bytes));
        return r > 0 ? refuse_model(e, f) : r;
}

int engine_new(struct engine **ret, struct lm *model, const struct tokenizer *tokenizer,
               const struct engine_config *config, const struct engine_events *events, void *userdata,
               struct failure *f) {
        _cleanup_(engine_freep) struct engine *e = NULL;
        int r;

        e = calloc(1, sizeof(*e));
        if (!e)
                return -ENOMEM;
        e->model = model;
        e->tokenizer = tokenizer;
        e->config = *config;
        e->events = *events;
        e->userdata = userdata;
        e->cache_limit = UINT32_MAX;
        list_init(&e->waiting);
        list_init(&e->running);
        list_init(&e->paused);
        list_init(&e->draining);
        if (tokenizer_n_tokens(tokenizer) != model->shape.n_vocab)
                return failure_set(f, SPARK__V1__ERROR_CODE__MODEL_INVALID,
                                   "the vocabulary has %zu tokens, the model computes logits for %u",
                                   tokenizer_n_tokens(tokenizer), model->shape.n_vocab);
        e->opening = tokenizer_opening(tokenizer, &e->n_opening);
        set_defaults(e);
        r = init_schedule(e);
        if (r == 0)
                r = init_pool(e, f);
        if (r != 0)
                return r;
        r = alloc_arrays(e);
        if (r < 0)
                return r;
        model_set_context(model, e->config.context);
        r = forward_new(&e->forward, model, e->kv, e->config.max_rows, e->max_logits);
        if (r > 0)
                return failure_set(f, SPARK__V1__ERROR_CODE__NO_MEMORY, "no memory for activations of %llu bytes",
                                   (unsigned long long)forward_bytes(&model->shape, e->config.max_rows, e->max_logits));
        if (r == 0)
                r = reserve_steps(e, f);
        if (r != 0)
                return r;
        *ret = steal_ptr(&e);
        return 0;
}

static void free_list(struct engine *e, struct list *head) {
        while (!list_empty(head)) {
                struct sequence *s = LIST_ENTRY(head->next, struct sequence, link);

                engine_detach(e, s);
                (void)sequence_free(s);
        }
}

struct engine *engine_free(struct engine *e) {
        if (!e)
                return NULL;
        free_list(e, &e->waiting);
        free_list(e, &e->running);
        free_list(e, &e->paused);
        free_list(e, &e->draining);
        schedule_deinit(&e->schedule);
        e->forward = forward_free(e->forward);
        if (e->kv)
                e->kv = e->model->backend->ops->kv_free(e->model->backend, e->kv);
        e->prefix = prefix_cache_free(e->prefix);
        kv_pool_deinit(&e->pool);
        sampler_deinit(&e->sampler);
        free(e->seqs);
        free(e->tables);
        free(e->row_token);
        free(e->row_pos);
        free(e->row_seq);
        free(e->logit_row);
        free(e->logit_seq);
        free(e->logits);
        free(e->top.rows);
        free(e->top.values);
        free(e->top.ids);
        free(e);
        return NULL;
}
