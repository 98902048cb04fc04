/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What a request may take and what it has taken: the checks at the border, the counts of its user, and its entry in the
 * usage ledger.
 *
 * Who is turned away hears one of three things. What passes by itself is BUSY, with a time after which another try makes
 * sense. What is spent is QUOTA_EXCEEDED, with a time where it comes back. What is not allowed is PERMISSION_DENIED.
 */

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/words.h"
#include "power/power.h"
#include "request-private.h"

#define RETRY_MIN_MS 100u
#define RETRY_MAX_MS 30000u
#define RETRY_UNKNOWN_MS 1000u /* nothing has ended lately */

/* ---- at the border ---- */

bool request_origin_may(const struct request_origin *o, enum right right) {
        return manager_is_privileged(o->user->uid) || (o->granted & RIGHT_BIT(right));
}

/* About so long until another one of those that `ended` lately will. */
static uint32_t retry_ms(const struct rate *ended) {
        float rate = rate_per_second(ended), ms;

        if (!(rate > 0))
                return RETRY_UNKNOWN_MS;
        ms = MIN(1000.0f / rate, (float)RETRY_MAX_MS);
        return (uint32_t)MAX(ms, (float)RETRY_MIN_MS);
}

int request_refuse_busy(struct request_error *e, const struct rate *ended, const char *fmt, ...) {
        va_list ap;

        va_start(ap, fmt);
        request_error_set_va(e, SPARK__V1__ERROR_CODE__BUSY, fmt, ap);
        va_end(ap);
        e->retry_after_ms = retry_ms(ended);
        return REQUEST_E_REFUSED;
}

bool request_kind_computes(enum request_kind kind) {
        switch (kind) {
        case REQUEST_GENERATE:
        case REQUEST_CHAT:
        case REQUEST_SCORE:
        case REQUEST_PREWARM:
        case REQUEST_SESSION_APPEND:
                return true;
        default:
                return false;
        }
}

/* Requests for an engine, whatever it is that they want. */
static bool kind_is_served(enum request_kind kind) {
        switch (kind) {
        case REQUEST_LOAD:
        case REQUEST_UNLOAD:
        case REQUEST_USAGE:
        case REQUEST_SESSION:
        case REQUEST_FORGET:
        case REQUEST_STORE:
        case REQUEST_LEASE:
        case REQUEST_LOOK:
                return false;
        default:
                return true;
        }
}

static int check_priority(const struct request_origin *origin, int asked, Spark__V1__Priority *ret,
                          struct request_error *error) {
        const struct user *user = origin->user;

        if (origin->normal_only && asked == SPARK__V1__PRIORITY__INTERACTIVE) {
                request_error_set(error, SPARK__V1__ERROR_CODE__PERMISSION_DENIED, "%s", right_refusal(RIGHT_USE_INTERACTIVE));
                return REQUEST_E_REFUSED;
        }
        switch (policy_priority(&user->policy, asked, ret)) {
        case POLICY_E_UNKNOWN:
                request_error_set(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                  "priority: there is no priority %d; 1 is background, 2 normal, 3 interactive.", asked);
                return REQUEST_E_REFUSED;
        case POLICY_E_DENIED:
                request_error_set(error, SPARK__V1__ERROR_CODE__PERMISSION_DENIED,
                                  "priority: '%s' is not for your user; the highest is '%s'.",
                                  policy_priority_name((Spark__V1__Priority)asked),
                                  policy_priority_name(user->policy.max_priority));
                return REQUEST_E_REFUSED;
        default:
                return 0;
        }
}

/* Checked when a request comes: what runs already may go beyond it. */
static int check_tokens(const struct manager *m, const struct user *user, struct request_error *error) {
        uint64_t limit = user->policy.tokens_per_day, today = limit ? usage_today(m->usage, user->uid) : 0;

        if (limit == 0 || today < limit)
                return 0;
        request_error_set(error, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                          "Your user has used %llu tokens today, of the %llu that it may use a day; the next day begins "
                          "at midnight UTC.", (unsigned long long)today, (unsigned long long)limit);
        error->retry_after_ms = usage_ms_left_today();
        return REQUEST_E_REFUSED;
}

int request_check_quota(struct manager *m, const struct request_origin *origin, enum request_kind kind,
                        int asked_priority, Spark__V1__Priority *ret_priority, struct request_error *error) {
        const struct user *user = origin->user;
        const struct policy *p = &user->policy;
        int e;

        e = check_priority(origin, asked_priority, ret_priority, error);
        if (!e && request_kind_computes(kind))
                e = check_tokens(m, user, error);
        if (!e && request_kind_computes(kind))
                e = power_admit(m->power, user, *ret_priority, error);
        if (e)
                return e;
        if (m->requests.count >= m->config->limits.requests)
                return request_refuse_busy(error, &m->requests.ended, "The service has %zu request%s, which is all it takes.",
                                           m->requests.count, words_s(m->requests.count));
        if (kind_is_served(kind) && p->queued && user->queued >= p->queued)
                return request_refuse_busy(error, &user->ended,
                                           "Your user has %u request%s waiting, which is all it may have.", user->queued,
                                           words_s(user->queued));
        return 0;
}

void request_note_refusal(struct manager *m, struct user *user, const Spark__V1__ClientFrame *frame) {
        const struct usage_counts counts = { .refused = 1 };
        struct request_error unused;
        const struct model *model;
        const char *name = NULL;

        switch (frame->body_case) {
        case SPARK__V1__CLIENT_FRAME__BODY_GENERATE:
                name = *frame->generate->session ? NULL : frame->generate->model; /* the session's: not looked up here */
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_SESSION_APPEND:
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_PREWARM:
                name = frame->prewarm->model;
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_CHAT:
                name = frame->chat->model;
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_SCORE:
                name = frame->score->model;
                break;
        default: /* not what the ledger is about */
                return;
        }
        model = name ? models_find(m, name, &unused) : NULL; /* a name from outside must not get into the ledger */
        usage_add(m->usage, user->uid, model ? model->name : "", &counts);
}

/* ---- for the engine ---- */

static uint32_t limit_u32(uint64_t limit) {
        return (uint32_t)MIN(limit, (uint64_t)UINT32_MAX);
}

/* The looser one; 0 = none. */
static uint64_t looser(uint64_t a, uint64_t b) {
        return a && b ? MAX(a, b) : 0;
}

void request_fill_policy(struct request *r, Spark__Engine__V1__Submit *submit) {
        const struct policy *p = &r->user->policy;

        submit->uid = r->user->uid;
        submit->weight = p->weight;
        submit->priority = r->priority;
        submit->running_limit = limit_u32(p->running);
        /* one that an engine had before was admitted: it is not turned away because that engine was lost */
        submit->queued_limit = r->sent_us ? 0 : limit_u32(p->queued);
        submit->kv_limit = r->kv_limit = r->sent_us ? looser(p->kv, r->kv_limit) : p->kv;
}

/* ---- counts of the user ---- */

bool request_is_queued(const struct request *r) {
        return r->state < REQUEST_SENT || (r->state == REQUEST_SENT && r->engine_queued);
}

static void count_in(struct request *r, uint32_t *count) {
        if (r->counted == count)
                return;
        if (r->counted)
                --*r->counted;
        r->counted = count;
        if (count)
                ++*count;
}

void request_count(struct request *r) {
        if (!r->sink || !kind_is_served(r->kind))
                count_in(r, NULL);
        else
                count_in(r, request_is_queued(r) ? &r->user->queued : &r->user->running);
}

void request_uncount(struct request *r) {
        count_in(r, NULL);
}

/* ---- what it has taken ---- */

/* The first sign that the engine works on it: from here on it counts as a request that was served. */
void request_begin(struct request *r) {
        const struct usage_counts counts = { .requests = 1 };

        if (r->begun || !request_kind_computes(r->kind))
                return;
        r->begun = true;
        usage_add(r->manager->usage, r->user->uid, r->model->name, &counts);
}

/* So much of its prompt was worked off: what of that was computed costs energy. */
static void note_prompt(struct request *r, uint64_t worked) {
        uint64_t computed = worked - MIN((uint64_t)r->cached_tokens, worked);

        if (computed > r->metered_tokens) {
                power_note_tokens(r->manager->power, r->model, r->user->uid, computed - r->metered_tokens);
                r->metered_tokens = computed;
        }
}

void request_take_progress(struct request *r, const Spark__Engine__V1__RequestProgress *p) {
        if (strcmp(p->progress->stage, "prefill") == 0 || strcmp(p->progress->stage, "score") == 0) {
                uint64_t total = p->progress->total, done = total ? MIN(p->progress->done, total) : p->progress->done;

                r->worked_tokens = MAX(r->worked_tokens, limit_u32(done));
                r->cached_tokens = MAX(r->cached_tokens, p->cached_tokens);
                r->engine_queued = false;
                request_count(r);
                request_begin(r);
                note_prompt(r, r->worked_tokens);
        }
        request_progress(r, p->progress->stage, p->progress->done, p->progress->total);
}

void request_note_usage(struct request *r, const Spark__V1__Usage *usage) {
        if (!usage)
                return;
        r->usage_known = true;
        r->prompt_tokens = usage->prompt_tokens;
        r->cached_tokens = usage->cached_tokens;
}

void request_charge_tokens(struct request *r, size_t n) {
        const struct usage_counts counts = { .completion = n };

        r->engine_queued = false;
        request_count(r);
        request_begin(r);
        if (r->first_token_us == 0)
                r->first_token_us = manager_now_us();
        power_note_tokens(r->manager->power, r->model, r->user->uid, n);
        r->model->generated.total += n;
        r->user->generated.total += n;
        usage_add(r->manager->usage, r->user->uid, r->model->name, &counts);
}

/* Of its prompt, as far as it was computed or found in the cache: what the engine said in the end, or what can be told
 * from the signs that it gave. */
static uint64_t prompt_worked(const struct request *r) {
        if (r->usage_known)
                return r->prompt_tokens;
        return r->first_token_us ? MAX((uint64_t)r->journal.n_prompt, (uint64_t)r->worked_tokens) : r->worked_tokens;
}

void request_settle(struct request *r) {
        struct usage_counts counts = { 0 };

        if (r->settled || !r->user || !r->model)
                return;
        r->settled = true;
        if (kind_is_served(r->kind)) {
                r->user->ended.total++;
                r->manager->requests.ended.total++;
        }
        if (!request_kind_computes(r->kind))
                return;
        counts.refused = r->refused;
        counts.requests = r->sent_us && !r->begun && !r->refused;
        counts.prompt = prompt_worked(r);
        note_prompt(r, counts.prompt);
        counts.cached = MIN((uint64_t)r->cached_tokens, counts.prompt);
        usage_add(r->manager->usage, r->user->uid, r->model->name, &counts);
}
