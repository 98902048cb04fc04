/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The virtual engine: daemon/engine/engine-admit.c and engine.c with counts of pages and tokens in the place of pages and
 * tokens. What they decide is decided here in the same order.
 */

#include <errno.h>
#include <stdlib.h>

#include "sim-private.h"

#define GROWTH 32u   /* tokens that a sequence gets room for beyond those it has, as in sequence.c */
#define HEADROOM 2u  /* pages that stay free for each one that runs when another starts, as in engine-admit.c */
#define SLAB 1024u

struct slab {
        struct list link;
        struct sim_request requests[SLAB];
};

static struct sim_request *request_of(struct schedule_request *turn) {
        return CONTAINER_OF(turn, struct sim_request, turn);
}

/* --- books -------------------------------------------------------------------------------------------------------- */

static void begins_to_wait(struct sim *m, const struct sim_request *r) {
        const struct sim_place *p = &m->places[r->client->group];

        fair_wait(&p->users->fair, p->user);
        if (r->client->watched != SIM_NOBODY)
                fair_wait(&p->clients->fair, r->client->watched);
}

static void ceases_to_wait(struct sim *m, const struct sim_request *r) {
        const struct sim_place *p = &m->places[r->client->group];

        fair_unwait(&p->users->fair, p->user);
        if (r->client->watched != SIM_NOBODY)
                fair_unwait(&p->clients->fair, r->client->watched);
}

/* What was computed before and is read again costs nobody anything: it was taken from him. */
static void serve(struct sim *m, struct sim_request *r) {
        const struct sim_place *p = &m->places[r->client->group];
        uint32_t rows = r->turn.rows, lost = r->n_computed - r->n_past, again = MIN(rows, lost);
        uint64_t units = (uint64_t)(rows - again) * (r->turn.decoding ? SCHEDULE_DECODE_COST : SCHEDULE_PREFILL_COST);

        p->account->units += units;
        r->client->units += units;
        fair_serve(&p->users->fair, p->user, units);
        if (r->client->watched != SIM_NOBODY)
                fair_serve(&p->clients->fair, r->client->watched, units);
        if (!r->turn.decoding)
                p->account->rows += rows;
        p->account->again += again;
        schedule_charge(&m->schedule, &r->turn, rows - again);
        if (!r->started) {
                r->started = true;
                sim_histogram_add(&p->account->queue, (m->now - r->arrived) / 1000);
        }
}

/* --- requests ------------------------------------------------------------------------------------------------------ */

static struct sim_request *request_new(struct sim *m) {
        struct list *link = list_pop(&m->free);
        struct slab *slab;

        if (link)
                return LIST_ENTRY(link, struct sim_request, link);
        slab = calloc(1, sizeof(*slab));
        if (!slab)
                return NULL;
        list_append(&m->slabs, &slab->link);
        for (uint32_t i = 1; i < SLAB; i++)
                list_append(&m->free, &slab->requests[i].link);
        return &slab->requests[0];
}

int sim_submit(struct sim *m, struct sim_client *c, uint32_t n_prompt, uint32_t limit, uint64_t arrived) {
        const struct sim_group *g = &m->config->groups[c->group];
        struct schedule_who who = { .uid = g->uid, .class = g->class, .weight = g->weight };
        struct sim_request *r = request_new(m);
        int e;

        if (!r)
                return -ENOMEM;
        *r = (struct sim_request){
                .client = c, .n_prompt = n_prompt, .limit = limit, .n_tokens = n_prompt, .arrived = arrived,
        };
        list_init(&r->link);
        who.client = g->churn ? m->n_clients + m->connections++ : (uint64_t)(c - m->clients);
        if (m->config->fifo)
                who = (struct schedule_who){ .class = SCHEDULE_NORMAL };
        e = schedule_add(&m->schedule, &r->turn, &who);
        if (e < 0) {
                list_append(&m->free, &r->link);
                return e;
        }
        begins_to_wait(m, r);
        return 0;
}

static uint32_t pages_for(uint64_t tokens) {
        return (uint32_t)((tokens + SIM_PAGE_TOKENS - 1) / SIM_PAGE_TOKENS);
}

static void release(struct sim *m, struct sim_request *r) {
        m->pages_free += r->pages;
        r->pages = r->n_past = 0;
        list_remove(&r->link);
}

void sim_drop(struct sim *m, struct sim_request *r) {
        if (r->turn.state == SCHEDULE_WAITING)
                ceases_to_wait(m, r);
        release(m, r);
        schedule_remove(&m->schedule, &r->turn);
        list_append(&m->free, &r->link);
}

/* --- slots and pages ---------------------------------------------------------------------------------------------- */

/* What is parked gives up pages, from its end, as many as are wanted: as the prefix cache's leaves go. */
static bool make_room(struct sim *m, uint32_t n) {
        while (m->pages_free < n) {
                struct sim_request *first = LIST_ENTRY(m->parked.next, struct sim_request, link);
                uint32_t give;

                if (list_empty(&m->parked))
                        return false;
                give = MIN(first->pages, n - (uint32_t)m->pages_free);
                m->pages_free += give;
                first->pages -= give;
                first->n_past = MIN(first->n_past, first->pages * SIM_PAGE_TOKENS);
                if (first->pages == 0)
                        list_remove(&first->link);
        }
        return true;
}

static void put_aside(struct sim *m, struct sim_request *r) {
        begins_to_wait(m, r);
        list_append(&m->parked, &r->link);
        m->places[r->client->group].account->parks++;
}

/* It is the first one to give up pages. */
static void give_first(struct sim *m, struct sim_request *r) {
        list_remove(&r->link);
        list_append(m->parked.next, &r->link);
}

static uint32_t headroom(const struct sim *m) {
        return MIN(m->schedule.n_running * HEADROOM, (uint32_t)(m->config->machine.kv_tokens / SIM_PAGE_TOKENS / 8));
}

static bool try_start(struct sim *m, struct sim_request *r) {
        uint64_t room = MIN((uint64_t)r->n_tokens + GROWTH, (uint64_t)r->n_prompt + r->limit);
        uint32_t want = pages_for(room), more = want - MIN(want, r->pages);

        list_remove(&r->link); /* its own pages stay */
        if (!make_room(m, more + headroom(m))) {
                if (r->pages > 0)
                        list_append(&m->parked, &r->link);
                return false;
        }
        m->pages_free -= more;
        r->pages += more;
        ceases_to_wait(m, r);
        schedule_start(&m->schedule, &r->turn);
        return true;
}

static void admit(struct sim *m) {
        struct schedule_request *victim, *next;

        while (schedule_has_slot(&m->schedule) && (next = schedule_next(&m->schedule)))
                if (!try_start(m, request_of(next)))
                        break; /* it stays first in line */
        while (schedule_swap(&m->schedule, &victim, &next)) {
                schedule_make_way(&m->schedule, victim);
                put_aside(m, request_of(victim));
                (void)try_start(m, request_of(next));
        }
}

/* Pages for the tokens that are there; parks some where there are none. */
static void grow(struct sim *m) {
        for (uint32_t i = 0; i < m->schedule.n_running;) {
                struct sim_request *r = request_of(m->schedule.running[i]);
                uint32_t need = pages_for(r->n_tokens);

                if (need > r->pages && !make_room(m, need - r->pages)) {
                        struct sim_request *worst = request_of(schedule_worst(&m->schedule, NULL));

                        schedule_park(&m->schedule, &worst->turn);
                        put_aside(m, worst);
                        give_first(m, worst);
                        i = 0;
                        continue;
                }
                if (need > r->pages) {
                        m->pages_free -= need - r->pages;
                        r->pages = need;
                }
                i++;
        }
}

/* --- a step ------------------------------------------------------------------------------------------------------- */

static uint32_t share_out(struct sim *m) {
        for (uint32_t i = 0; i < m->schedule.n_running; i++) {
                struct sim_request *r = request_of(m->schedule.running[i]);

                r->turn.want = r->n_tokens - r->n_past;
                r->turn.decoding = r->turn.want == 1 && r->n_tokens > r->n_prompt;
        }
        return schedule_rows(&m->schedule, &m->limits);
}

static void count_rows(struct sim *m) {
        for (uint32_t i = 0; i < m->schedule.n_running; i++) {
                struct sim_request *r = request_of(m->schedule.running[i]);

                if (r->turn.rows == 0)
                        continue;
                serve(m, r);
                r->n_past += r->turn.rows;
                r->n_computed = MAX(r->n_computed, r->n_past);
        }
        for (int i = 0; i < SCHEDULE_CLASSES; i++)
                fair_step(&m->result->users[i].fair);
        for (uint32_t i = 0; i < m->result->n_client_sets; i++)
                fair_step(&m->result->clients[i].fair);
}

/* A token, of who had all that it has computed. */
static int generate(struct sim *m, struct sim_request *r) {
        struct sim_account *a = m->places[r->client->group].account;
        struct sim_client *c = r->client;

        if (r->last == 0)
                sim_histogram_add(&a->ttft, (m->now - r->arrived) / 1000);
        else
                sim_histogram_add(&a->gap, (m->now - r->last) / 1000);
        r->last = m->now;
        a->tokens++;
        if (++r->n_tokens < r->n_prompt + r->limit)
                return 0;
        a->done++;
        m->result->done++;
        sim_drop(m, r);
        return sim_answered(m, c);
}

static void pass_time(struct sim *m, uint32_t rows) {
        const struct sim_machine *machine = &m->config->machine;
        uint64_t took = machine->base_ns + machine->row_ns * rows;

        m->now += took;
        schedule_pace_learn(&m->pace, rows, (double)took / 1000);
        m->result->steps++;
        m->result->rows += rows;
        m->result->longest_step_ns = MAX(m->result->longest_step_ns, took);
}

int sim_step(struct sim *m, uint32_t *ret_rows) {
        uint32_t rows;

        admit(m);
        grow(m);
        rows = share_out(m);
        *ret_rows = rows;
        if (rows == 0)
                return 0;
        count_rows(m);
        pass_time(m, rows);
        for (uint32_t i = m->schedule.n_running; i-- > 0;) {
                struct sim_request *r = request_of(m->schedule.running[i]);
                int e = r->turn.rows > 0 && r->n_past == r->n_tokens ? generate(m, r) : 0;

                if (e < 0)
                        return e;
        }
        return 0;
}
