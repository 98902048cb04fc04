/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Who comes in, whose turn it is, and where the pages come from.
 *
 * Pages are taken when a sequence gets its slot, for all the tokens it has by then, and one by one as it grows. What is
 * missing comes, in this order, from the prefix cache, from sequences that hold pages without running (paused or put
 * aside), and from the running one that is furthest ahead of its share, which is parked. A sequence that loses its pages
 * leaves the complete ones to the prefix cache, finds them there when it comes back, and computes again what is gone; by
 * design promise 1 nothing of that shows in its tokens. So a request that was admitted never fails for want of KV.
 */

#include <errno.h>

#include "engine-private.h"

#define RETRY_MS_MIN 100u
#define RETRY_MS_MAX 10000u
#define HEADROOM 2u /* pages for each one that runs, which stay free when another one starts */

enum start {
        START_DONE,
        START_NO_ROOM,
        START_HELD,  /* by its user's limit; others may start */
        START_ENDED, /* it is gone */
};

/* --- arrival ----------------------------------------------------------------------------------------------------- */

static uint32_t retry_after_ms(const struct engine *e, uint32_t waiting, uint32_t abreast) {
        double ms = e->us_per_request / 1000 * waiting / MAX(abreast, 1u);

        return ms < RETRY_MS_MIN ? RETRY_MS_MIN : ms > RETRY_MS_MAX ? RETRY_MS_MAX : (uint32_t)ms;
}

static int refuse_request(struct engine *e, struct request *r, const struct failure *f) {
        e->events.failed(e->userdata, r, f);
        return 0;
}

static int check_queues(const struct engine *e, const struct request *r, struct failure *f) {
        const struct schedule_user *user = schedule_find_user(&e->schedule, r->uid);

        if (atomic_load_explicit(&r->cancelled, memory_order_relaxed))
                return failure_set(f, SPARK__V1__ERROR_CODE__CANCELLED, "cancelled");
        if (r->replay)
                return 0;
        if (e->schedule.n_waiting >= e->config.max_queued) {
                (void)failure_set(f, SPARK__V1__ERROR_CODE__BUSY, "%u requests are waiting already",
                                  e->schedule.n_waiting);
                f->retry_after_ms = retry_after_ms(e, e->schedule.n_waiting, e->schedule.slots);
                return REQUEST_E_FAILED;
        }
        if (r->queued_limit > 0 && user && user->n_waiting >= r->queued_limit) {
                (void)failure_set(f, SPARK__V1__ERROR_CODE__BUSY,
                                  "%u requests of your user are waiting already, which is all that may", user->n_waiting);
                f->retry_after_ms = retry_after_ms(e, user->n_waiting, user->n_running);
                return REQUEST_E_FAILED;
        }
        return 0;
}

static uint64_t kv_tokens_of(const struct engine *e, const struct request *r) {
        if (r->kv_limit == 0 || e->page_bytes == 0)
                return UINT64_MAX;
        return r->kv_limit / e->page_bytes * ENGINE_PAGE_TOKENS;
}

int engine_submit(struct engine *e, struct request *r) {
        const struct schedule_who who = {
                .uid = r->uid, .client = r->client, .class = r->class, .weight = r->weight,
                .running_limit = r->running_limit,
        };
        struct sequence *s = NULL;
        struct failure f;
        int c;

        engine_handle_notices(e); /* what was cancelled before this one came is not in its way */
        c = check_queues(e, r, &f);
        if (c == 0)
                c = sequence_new(&s, r, e->config.context, kv_tokens_of(e, r), e->n_opening, &f);
        if (c == 0)
                c = schedule_add(&e->schedule, &s->turn, &who);
        if (c < 0) {
                (void)failure_set(&f, SPARK__V1__ERROR_CODE__NO_MEMORY, "no memory for the request");
                (void)sequence_free(s);
        }
        if (c != 0)
                return refuse_request(e, r, &f);
        s->turn.all_logits = r->kind == REQUEST_SCORE;
        s->state = SEQUENCE_WAITING;
        list_append(&e->waiting, &s->link);
        e->events.accepted(e->userdata, r);
        return 0;
}

/* --- pages ------------------------------------------------------------------------------------------------------- */

/* Its table or its path has changed. */
static void count_pages(struct engine *e, struct sequence *s) {
        uint32_t own = s->kv.n - MIN(s->kv.n, s->path.n);

        s->turn.user->pages += s->kv.n;
        s->turn.user->pages -= s->n_counted;
        s->n_counted = s->kv.n;
        prefix_charge(e->prefix, s->request->uid, (int32_t)own - (int32_t)s->n_charged);
        s->n_charged = own;
}

/* Something of the user stopped running, or gave pages back: what waited for that may try again. */
static void let_go_on(struct engine *e, struct schedule_user *user) {
        if (user->held)
                schedule_hold(&e->schedule, user, false);
}

void engine_release(struct engine *e, struct sequence *s) {
        bool had_pages = s->kv.n > 0;

        if (had_pages)
                prefix_leave(e->prefix, s->request->uid, &s->path);
        kv_table_release(&e->pool, &s->kv); /* the list, too, of which nothing may have been left */
        s->n_past = 0;
        if (!had_pages)
                return;
        count_pages(e, s);
        let_go_on(e, s->turn.user);
}

bool engine_release_one(struct engine *e, const struct schedule_user *user, const struct sequence *keep) {
        struct list *const heads[] = { &e->paused, &e->waiting }, *pos, *tmp;

        for (size_t i = 0; i < ARRAY_SIZE(heads); i++)
                LIST_FOREACH(pos, tmp, heads[i]) {
                        struct sequence *s = LIST_ENTRY(pos, struct sequence, link);

                        if (s->kv.n == 0 || s == keep || (user && s->turn.user != user))
                                continue;
                        engine_release(e, s);
                        return true;
                }
        return false;
}

/* Pages that are held by none but those that engine_release_one() takes them from. */
static uint32_t count_releasable(struct engine *e, const struct sequence *keep) {
        struct list *const heads[] = { &e->paused, &e->waiting }, *pos, *tmp;
        uint32_t n = 0;

        for (unsigned back = 0; back < 2; back++)
                for (size_t i = 0; i < ARRAY_SIZE(heads); i++)
                        LIST_FOREACH(pos, tmp, heads[i]) {
                                struct sequence *s = LIST_ENTRY(pos, struct sequence, link);

                                if (s == keep)
                                        continue;
                                if (back)
                                        kv_table_count(&e->pool, &s->kv);
                                else
                                        n += kv_table_discount(&e->pool, &s->kv);
                        }
        return n;
}

/* Free pages for a sequence, without touching what runs. Where that cannot be enough nothing is taken from anybody: who
 * waits for room would empty the cache at each step, and to no end. */
static bool make_room(struct engine *e, const struct sequence *s, uint32_t n) {
        uint32_t have = kv_pool_free(&e->pool) + e->pool.n_cached;

        if (have < n && have + count_releasable(e, s) < n)
                return false;
        while (!prefix_evict(e->prefix, n))
                if (!engine_release_one(e, NULL, s))
                        return false;
        return true;
}

static uint64_t count_idle_pages(const struct schedule_user *user, const struct list *head, const struct sequence *keep) {
        uint64_t n = 0;

        for (const struct list *l = head->next; l != head; l = l->next) {
                const struct sequence *s = LIST_ENTRY(l, const struct sequence, link);

                if (s != keep && s->turn.user == user)
                        n += s->kv.n;
        }
        return n;
}

/* Room for so many more pages within the user's limit: what the user holds without running is given up for it, where that is
 * enough. */
static bool make_user_room(struct engine *e, struct sequence *s, uint32_t n) {
        struct schedule_user *user = s->turn.user;
        uint64_t limit = s->request->kv_limit, idle;

        if (limit == 0 || (user->pages + n) * e->page_bytes <= limit)
                return true;
        idle = count_idle_pages(user, &e->paused, s) + count_idle_pages(user, &e->waiting, s);
        if ((user->pages - idle + n) * e->page_bytes > limit)
                return false;
        while ((user->pages + n) * e->page_bytes > limit)
                if (!engine_release_one(e, user, s))
                        return false;
        return true;
}

static void move_to(struct sequence *s, struct list *head, enum sequence_state state) {
        list_remove(&s->link);
        list_append(head, &s->link);
        s->state = state;
}

/* Back to waiting; keeps its pages until somebody needs them. */
static void put_aside(struct engine *e, struct sequence *s) {
        move_to(s, &e->waiting, SEQUENCE_WAITING);
        let_go_on(e, s->turn.user);
}

static void pause_sequence(struct engine *e, struct sequence *s) {
        schedule_pause(&e->schedule, &s->turn);
        move_to(s, &e->paused, SEQUENCE_PAUSED);
        let_go_on(e, s->turn.user);
}

/* Goes on in the middle of a page that the cache has: in a copy of its own. */
static int take_partial(struct engine *e, struct sequence *s, const struct prefix_match *match) {
        uint32_t i = s->kv.n - 1, from;
        int r;

        r = kv_table_own(&e->pool, &s->kv, i, &from);
        if (r != 0)
                return r < 0 ? r : -EINVAL; /* room was made */
        watchdog_begin(e->config.watchdog, 0, 0);
        r = e->model->backend->ops->kv_copy(e->model->backend, e->kv, from, s->kv.pages[i]);
        watchdog_end(e->config.watchdog);
        if (r == 0)
                s->n_past += match->n_partial;
        return r > 0 ? -EINVAL : r;
}

/* Looks up what is cached of its tokens. */
static int find_prefix(struct engine *e, struct sequence *s, struct prefix_match *match) {
        size_t most = s->request->kind == REQUEST_PREWARM ? s->n_tokens : s->n_tokens - 1;
        int r;

        *match = (struct prefix_match){ 0 };
        if (s->request->kind == REQUEST_SCORE)
                return 0;
        r = prefix_match(e->prefix, s->request->uid, s->tokens, s->n_tokens, most, &s->kv, &s->path, match);
        if (r < 0)
                return 0; /* no memory for looking: computed instead */
        s->n_past = match->n_tokens;
        if (match->n_partial > 0 && kv_table_share(&e->pool, &s->kv, match->partial_page) < 0)
                match->n_partial = 0;
        if (s->request->share)
                prefix_share(e->prefix, s->request->uid, &s->path, s->path.n);
        return 0;
}

/* What has to be free besides when one starts. Those that run grow: where nothing is left for that, one of them would be parked
 * as soon as another has begun, and have to read all that it had again. */
static uint32_t headroom(const struct engine *e) {
        return MIN(HEADROOM * e->schedule.n_running, e->pool.limit / 8);
}

/* Free pages for all that it wants, and one for the copy of a partial one; without that, where there is none to spare. */
static bool make_place(struct engine *e, struct sequence *s, struct prefix_match *match) {
        uint32_t want = kv_pages_for(&e->pool, sequence_room(s)), spare = headroom(e);

        if (match->n_partial > 0) {
                if (make_room(e, s, want - MIN(want, s->kv.n) + spare + 1))
                        return true;
                kv_table_truncate(&e->pool, &s->kv, s->kv.n - 1);
                match->n_partial = 0;
        }
        return make_room(e, s, want - MIN(want, s->kv.n) + spare);
}

/* Gets it pages for all that it has. 0, KV_E_FULL (it holds what it held before, or nothing), or negative. */
static int place(struct engine *e, struct sequence *s) {
        struct prefix_match match = { 0 };
        int r;

        if (s->kv.n > 0 && !make_place(e, s, &match)) {
                if (e->schedule.n_running > 0)
                        return KV_E_FULL;
                engine_release(e, s); /* what it holds may be what keeps others' pages from being evicted */
        }
        if (s->kv.n == 0) {
                r = find_prefix(e, s, &match);
                if (r < 0)
                        return r;
                if (!make_place(e, s, &match)) {
                        engine_release(e, s);
                        return KV_E_FULL;
                }
        }
        r = match.n_partial > 0 ? take_partial(e, s, &match) : 0;
        if (r == 0)
                r = kv_table_extend(&e->pool, &s->kv, sequence_room(s));
        count_pages(e, s);
        return r > 0 ? -EINVAL : r;
}

int engine_store(struct engine *e, struct sequence *s) {
        uint32_t size = ENGINE_PAGE_TOKENS, n = s->path.n;
        int r = 0;

        if (s->request->kind == REQUEST_SCORE)
                return 0;
        while (r == 0 && s->n_past >= (uint64_t)(s->path.n + 1) * size)
                r = prefix_store(e->prefix, s->request->uid, &s->path, s->tokens + (size_t)s->path.n * size, &s->kv,
                                 s->request->share);
        if (s->path.n > n)
                count_pages(e, s);
        return r == -ENOMEM ? 0 : r; /* without memory it stays private to this sequence */
}

/* --- slots ------------------------------------------------------------------------------------------------------- */

/* Its first time. Tokens and output are set up; what was replayed may have been all of it. */
static int start_first(struct engine *e, struct sequence *s, enum start *ret) {
        int r;

        *ret = START_DONE;
        if (s->started)
                return 0;
        r = sequence_start(s, e->tokenizer);
        if (r == -ENOMEM) {
                engine_fail(e, s, SPARK__V1__ERROR_CODE__NO_MEMORY, "no memory for the request");
                *ret = START_ENDED;
                return 0;
        }
        if (r < 0)
                return r;
        if (s->request->kind == REQUEST_SCORE && !sequence_next_window(s, e->opening)) {
                engine_fail(e, s, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "the text is too short to score");
                *ret = START_ENDED;
        } else if (s->reason) {
                engine_finish(e, s, s->reason);
                *ret = START_ENDED;
        }
        return 0;
}

static int try_start(struct engine *e, struct sequence *s, enum start *ret) {
        uint32_t want;
        int r;

        r = start_first(e, s, ret); /* before it is asked for credit: what is at its end needs none */
        if (r < 0 || *ret != START_DONE)
                return r;
        if (sequence_is_stalled(s)) {
                pause_sequence(e, s);
                *ret = START_ENDED;
                return 0;
        }
        want = kv_pages_for(&e->pool, sequence_room(s));
        if (!make_user_room(e, s, want - MIN(want, s->kv.n))) {
                schedule_hold(&e->schedule, s->turn.user, true);
                *ret = START_HELD;
                return 0;
        }
        r = place(e, s);
        if (r < 0)
                return r;
        if (r == KV_E_FULL) {
                *ret = START_NO_ROOM;
                return 0;
        }
        if (s->first_step_us == 0 && s->request->kind != REQUEST_SCORE) {
                s->n_cached = MIN(s->n_past, s->n_prompt);
                s->request->so_far.prompt = s->request->so_far.cached = s->n_cached;
        }
        schedule_start(&e->schedule, &s->turn);
        move_to(s, &e->running, SEQUENCE_RUNNING);
        if (sequence_want(s) > 0) {
                if (s->first_step_us == 0 && s->n_cached > 0)
                        e->events.progress(e->userdata, s->request, s->n_cached, s->n_prompt);
                return 0;
        }
        engine_finish(e, s, SPARK__V1__FINISH_REASON__FINISH_REASON_UNSPECIFIED); /* Prewarm: all was there */
        *ret = START_ENDED;
        return 0;
}

/* Who has no credit left gives up its slot. What came since its last token, while it was still running, is used first: no
 * other notice will come for that. */
static void pause_stalled(struct engine *e) {
        for (uint32_t i = 0; i < e->schedule.n_running;) {
                struct sequence *s = sequence_of(e->schedule.running[i]);

                if (engine_drain(e, s) && sequence_has_credit(s))
                        i++;
                else
                        pause_sequence(e, s); /* another one has its place in the array now */
        }
}

static int fill_slots(struct engine *e) {
        struct schedule_request *next;

        while (schedule_has_slot(&e->schedule) && (next = schedule_next(&e->schedule))) {
                enum start how;
                int r = try_start(e, sequence_of(next), &how);

                if (r < 0)
                        return r;
                if (how == START_NO_ROOM)
                        break; /* it stays first in line: no later one overtakes it for being smaller */
        }
        return 0;
}

int engine_admit(struct engine *e) {
        struct schedule_request *victim, *next;
        enum start how;
        int r;

        pause_stalled(e);
        r = fill_slots(e);
        while (r == 0 && schedule_swap(&e->schedule, &victim, &next)) {
                schedule_make_way(&e->schedule, victim);
                put_aside(e, sequence_of(victim));
                r = try_start(e, sequence_of(next), &how);
                /* It ended at once, or is paused or held: somebody else gets the slot. Where it has no room yet it stays
                 * first in line, and more may have to make way. */
                if (r == 0 && (how == START_ENDED || how == START_HELD))
                        r = fill_slots(e);
        }
        return r;
}

uint32_t engine_cap_batch(struct engine *e, uint32_t rows) {
        uint32_t most = e->config.max_rows;

        e->batch = rows > 0 ? MIN(rows, most) : most;
        schedule_limit(&e->schedule, e->batch < most ? MIN(e->batch / 2, e->config.max_sequences) : e->config.max_sequences);
        while (e->schedule.n_running > e->schedule.slots) {
                struct schedule_request *worst = schedule_worst(&e->schedule, NULL);

                schedule_make_way(&e->schedule, worst);
                put_aside(e, sequence_of(worst));
        }
        return e->batch;
}

void engine_park(struct engine *e, struct schedule_request *running) {
        struct sequence *s = sequence_of(running);

        schedule_park(&e->schedule, running);
        put_aside(e, s);
        engine_release(e, s);
}

/* One running sequence's next page. True where all is well, false where something was parked. */
static int grow_one(struct engine *e, struct sequence *s, bool *ret_parked) {
        struct schedule_user *user = s->turn.user;
        struct schedule_request *worst;
        uint32_t more = kv_pages_for(&e->pool, s->n_tokens) - s->kv.n;
        int r;

        *ret_parked = false;
        if (!make_user_room(e, s, more))
                worst = schedule_worst(&e->schedule, user);
        else if (make_room(e, s, more))
                worst = NULL;
        else
                worst = schedule_worst(&e->schedule, NULL);
        if (worst) {
                engine_park(e, worst);
                *ret_parked = true;
                return 0;
        }
        r = kv_table_extend(&e->pool, &s->kv, s->n_tokens);
        count_pages(e, s);
        return r > 0 ? -EINVAL : r;
}

int engine_grow(struct engine *e) {
        int any = 0;

        for (uint32_t i = 0; i < e->schedule.n_running;) {
                struct sequence *s = sequence_of(e->schedule.running[i]);
                bool parked = false;
                int r;

                if (kv_pages_for(&e->pool, s->n_tokens) > s->kv.n) {
                        r = grow_one(e, s, &parked);
                        if (r < 0)
                                return r;
                }
                any |= parked;
                i = parked ? 0 : i + 1;
        }
        return any;
}
