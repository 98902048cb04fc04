/* SPDX-License-Identifier: Apache-2.0 */

/* The population: who sends what when; and the run from its beginning to its end. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "sim-private.h"

/* Draws of a request, by number. */
enum { DRAW_KIND, DRAW_WAIT, DRAW_PROMPT, DRAW_OUTPUT = DRAW_PROMPT + 3 };

/* Lengths in tokens; spread: a normal deviate in powers of two, 256 = one. */
static const struct {
        uint32_t prompt, prompt_spread, prompt_most, output, output_spread, output_most;
} kinds[SIM_KINDS] = {
        [SIM_CHAT] = { 200, 370, 4000, 100, 295, 1000 },
        [SIM_LONG] = { 3000, 185, 12000, 150, 260, 600 },
        [SIM_SHORT] = { 30, 260, 200, 12, 260, 100 },
};
static const uint8_t usual_mix[SIM_KINDS] = { 7, 1, 2 };

/* --- requests ------------------------------------------------------------------------------------------------------ */

static enum sim_kind kind_of(const struct sim_group *g, uint64_t draw) {
        const uint8_t *mix = g->mix[0] + g->mix[1] + g->mix[2] > 0 ? g->mix : usual_mix;
        uint32_t at = (uint32_t)(draw % (mix[0] + mix[1] + mix[2]));

        for (uint32_t i = 0; i + 1 < SIM_KINDS; i++) {
                if (at < mix[i])
                        return (enum sim_kind)i;
                at -= mix[i];
        }
        return SIM_KINDS - 1;
}

static int ask(struct sim *m, struct sim_client *c, uint64_t arrived) {
        uint64_t seed = m->config->seed, who = (uint64_t)(c - m->clients), n = c->n_requests++;
        enum sim_kind kind = kind_of(&m->config->groups[c->group], sim_random(seed, who, n, DRAW_KIND) >> 8);
        uint64_t most = m->config->machine.kv_tokens / 2;

        return sim_submit(m, c,
                          sim_random_length(seed, who, n, DRAW_PROMPT, kinds[kind].prompt, kinds[kind].prompt_spread, 1,
                                            (uint32_t)MIN(most, (uint64_t)kinds[kind].prompt_most)),
                          sim_random_length(seed, who, n, DRAW_OUTPUT, kinds[kind].output, kinds[kind].output_spread, 1,
                                            (uint32_t)MIN(most, (uint64_t)kinds[kind].output_most)),
                          arrived);
}

static void ask_later(struct sim *m, struct sim_client *c, uint64_t from) {
        const struct sim_group *g = &m->config->groups[c->group];
        uint64_t who = (uint64_t)(c - m->clients);

        if (g->mean_ns > 0)
                from += sim_random_wait(m->config->seed, who, c->n_requests, DRAW_WAIT, g->mean_ns);
        heap_insert(&m->events, &c->event, from);
}

int sim_answered(struct sim *m, struct sim_client *c) {
        switch (m->config->groups[c->group].arrivals) {
        case SIM_CLOSED:
                ask_later(m, c, m->now);
                return 0;
        case SIM_FLOOD:
                return ask(m, c, m->now);
        case SIM_OPEN:
                break;
        }
        return 0;
}

/* What has become due. */
static int take_events(struct sim *m) {
        struct heap_node *first;

        while ((first = heap_top(&m->events)) && first->key <= m->now) {
                struct sim_client *c = CONTAINER_OF(first, struct sim_client, event);
                const struct sim_group *g = &m->config->groups[c->group];
                uint32_t n = g->arrivals == SIM_FLOOD ? g->outstanding : 1;
                uint64_t at = first->key;

                heap_remove(&m->events, first);
                for (uint32_t i = 0; i < n; i++) {
                        int r = ask(m, c, at);

                        if (r < 0)
                                return r;
                }
                if (g->arrivals == SIM_OPEN)
                        ask_later(m, c, at);
        }
        return 0;
}

/* --- sets ---------------------------------------------------------------------------------------------------------- */

static int set_init(struct sim_set *set, const struct sim *m, enum schedule_level level, uint32_t n) {
        int r = fair_init(&set->fair, n, m->schedule.config.quantum[level], schedule_step_max(&m->schedule));

        if (r < 0)
                return r;
        set->ids = calloc(n + 1, sizeof(*set->ids));
        return set->ids ? 0 : -ENOMEM;
}

static bool same_user(const struct sim_group *a, const struct sim_group *b) {
        return a->uid == b->uid && a->class == b->class;
}

/* The first group of the same user and class. */
static uint32_t first_like(const struct sim_config *c, uint32_t group) {
        uint32_t i = 0;

        while (!same_user(&c->groups[i], &c->groups[group]))
                i++;
        return i;
}

static int make_user_sets(struct sim *m) {
        const struct sim_config *c = m->config;

        for (uint32_t class = 0; class < SCHEDULE_CLASSES; class++) {
                struct sim_set *set = &m->result->users[class];
                uint32_t n = 0;
                int r;

                for (uint32_t i = 0; i < c->n_groups; i++)
                        n += c->groups[i].class == class && first_like(c, i) == i;
                set->class = (enum schedule_class)class;
                r = set_init(set, m, SCHEDULE_USER, n);
                if (r < 0)
                        return r;
                n = 0;
                for (uint32_t i = 0; i < c->n_groups; i++) {
                        if (c->groups[i].class != class)
                                continue;
                        m->places[i].users = set;
                        if (first_like(c, i) != i) {
                                m->places[i].user = m->places[first_like(c, i)].user;
                                continue;
                        }
                        set->ids[n] = c->groups[i].uid;
                        set->fair.nodes[n].weight = MAX(c->groups[i].weight, 1u);
                        m->places[i].user = n++;
                }
        }
        return 0;
}

/* Of each user some clients that keep their connections, spread over all it has. */
static int watch_clients(struct sim *m, struct sim_set *set, uint32_t group) {
        const struct sim_config *c = m->config;
        uint64_t all = 0, n, at = 0;
        uint32_t k = 0;
        int r;

        for (uint32_t i = group; i < c->n_groups; i++)
                all += same_user(&c->groups[i], &c->groups[group]) && !c->groups[i].churn ? c->groups[i].clients : 0;
        n = MIN(all, (uint64_t)SIM_WATCHED_MAX);
        set->class = c->groups[group].class;
        set->uid = c->groups[group].uid;
        r = set_init(set, m, SCHEDULE_CLIENT, (uint32_t)n);
        if (r < 0)
                return r;
        for (uint32_t i = 0; i < m->n_clients; i++) {
                const struct sim_group *g = &c->groups[m->clients[i].group];

                if (!same_user(g, &c->groups[group]) || g->churn)
                        continue;
                if (k < n && at++ == k * all / n) {
                        set->ids[k] = i;
                        m->clients[i].watched = k++;
                }
        }
        return 0;
}

static int make_client_sets(struct sim *m) {
        const struct sim_config *c = m->config;

        m->result->clients = calloc(c->n_groups, sizeof(*m->result->clients));
        if (!m->result->clients)
                return -ENOMEM;
        for (uint32_t i = 0; i < c->n_groups; i++) {
                uint32_t first = first_like(c, i);
                int r;

                if (first != i) {
                        m->places[i].clients = m->places[first].clients;
                        continue;
                }
                m->places[i].clients = &m->result->clients[m->result->n_client_sets++];
                r = watch_clients(m, m->places[i].clients, i);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* --- a run --------------------------------------------------------------------------------------------------------- */

static bool makes_sense(const struct sim_config *c) {
        uint64_t clients = 0;

        if (c->n_groups == 0 || c->n_groups > SIM_GROUPS_MAX || c->machine.slots == 0 ||
            c->machine.rows < c->machine.slots || c->machine.base_ns + c->machine.row_ns == 0 ||
            c->machine.kv_tokens < 4 * SIM_PAGE_TOKENS)
                return false;
        for (uint32_t i = 0; i < c->n_groups; i++) {
                const struct sim_group *g = &c->groups[i];

                clients += g->clients;
                if (g->clients == 0 || g->class >= SCHEDULE_CLASSES || g->weight > SCHEDULE_WEIGHT_MAX ||
                    (g->arrivals == SIM_FLOOD && (g->outstanding == 0 || g->outstanding > 10000)) ||
                    (g->arrivals == SIM_OPEN && g->mean_ns == 0) || g->mean_ns >= 1ull << 42)
                        return false;
        }
        return clients <= SIM_CLIENTS_MAX;
}

static int make_clients(struct sim *m) {
        const struct sim_config *c = m->config;
        uint32_t at = 0;
        int r;

        for (uint32_t i = 0; i < c->n_groups; i++)
                m->n_clients += c->groups[i].clients;
        m->clients = calloc(m->n_clients, sizeof(*m->clients));
        r = m->clients ? heap_reserve(&m->events, m->n_clients) : -ENOMEM;
        if (r < 0)
                return r;
        for (uint32_t i = 0; i < c->n_groups; i++) {
                for (uint32_t k = 0; k < c->groups[i].clients; k++, at++) {
                        m->clients[at] = (struct sim_client){ .event = HEAP_NODE_NULL, .group = i, .watched = SIM_NOBODY };
                        m->clients[at].event.tie = at;
                        ask_later(m, &m->clients[at], c->groups[i].start_ns);
                }
        }
        return 0;
}

static int set_up(struct sim *m) {
        const struct sim_config *c = m->config;
        struct schedule_config config = { .max_running = c->machine.slots, .max_rows = c->machine.rows };
        int r;

        memcpy(config.quantum, c->quantum, sizeof(config.quantum));
        r = schedule_init(&m->schedule, &config);
        if (r < 0)
                return r;
        m->limits = (struct schedule_limits){
                .max_rows = c->machine.rows, .max_logits = c->machine.slots, .target_us = c->machine.target_us,
                .pace = &m->pace,
        };
        m->pages_free = c->machine.kv_tokens / SIM_PAGE_TOKENS;
        m->result->accounts = calloc(c->n_groups, sizeof(*m->result->accounts));
        if (!m->result->accounts)
                return -ENOMEM;
        for (uint32_t i = 0; i < c->n_groups; i++)
                m->places[i].account = &m->result->accounts[i];
        r = make_clients(m);
        if (r == 0)
                r = make_user_sets(m);
        return r == 0 ? make_client_sets(m) : r;
}

static int go_on(struct sim *m) {
        const struct sim_config *c = m->config;

        while (m->result->done < c->requests && (c->most_ns == 0 || m->now < c->most_ns)) {
                const struct heap_node *first;
                uint32_t rows = 0;
                int r;

                r = take_events(m);
                if (r == 0)
                        r = sim_step(m, &rows);
                if (r < 0)
                        return r;
                if (rows > 0)
                        continue;
                first = heap_top(&m->events);
                if (m->schedule.n_waiting + m->schedule.n_running > 0)
                        return -EDEADLK;
                if (!first)
                        return 0;
                m->now = MAX(m->now, first->key);
        }
        return 0;
}

/* How evenly the clients of each group were served. */
static void look_at_clients(struct sim *m) {
        uint32_t at = 0;

        for (uint32_t i = 0; i < m->config->n_groups; i++) {
                struct sim_account *a = &m->result->accounts[i];
                uint32_t n = m->config->groups[i].clients;
                double sum = 0, squares = 0;

                for (uint32_t k = 0; k < n; k++, at++) {
                        double units = (double)m->clients[at].units;

                        a->reached += m->clients[at].units > 0;
                        sum += units;
                        squares += units * units;
                }
                if (a->done >= 10ull * n)
                        a->client_jain = jain_index(sum, squares, n);
                m->result->tokens += a->tokens;
                m->result->units += a->units;
                m->result->parks += a->parks;
                m->result->again += a->again;
        }
        m->result->elapsed_ns = m->now;
}

/* Whatever is still there. */
static void tear_down(struct sim *m) {
        struct schedule_request *next;
        struct list *link;

        while (m->schedule.n_running > 0)
                sim_drop(m, CONTAINER_OF(m->schedule.running[0], struct sim_request, turn));
        while (m->schedule.root && (next = schedule_next(&m->schedule)))
                sim_drop(m, CONTAINER_OF(next, struct sim_request, turn));
        m->result->pages_lost = m->config->machine.kv_tokens / SIM_PAGE_TOKENS - m->pages_free;
        schedule_deinit(&m->schedule);
        heap_deinit(&m->events);
        free(m->clients);
        while ((link = list_pop(&m->slabs)))
                free(link); /* a slab begins with its link */
}

int sim_run(const struct sim_config *config, struct sim_result *ret) {
        struct sim m = { .config = config, .result = ret };
        int r;

        *ret = (struct sim_result){ 0 };
        if (!makes_sense(config))
                return -EINVAL;
        list_init(&m.parked);
        list_init(&m.free);
        list_init(&m.slabs);
        r = set_up(&m);
        if (r == 0)
                r = go_on(&m);
        if (r == 0)
                look_at_clients(&m);
        tear_down(&m);
        if (r < 0)
                sim_result_deinit(ret);
        return r;
}

static void set_deinit(struct sim_set *set) {
        fair_deinit(&set->fair);
        free(set->ids);
        set->ids = NULL;
}

void sim_result_deinit(struct sim_result *r) {
        for (int i = 0; i < SCHEDULE_CLASSES; i++)
                set_deinit(&r->users[i]);
        for (uint32_t i = 0; i < r->n_client_sets; i++)
                set_deinit(&r->clients[i]);
        free(r->clients);
        free(r->accounts);
        *r = (struct sim_result){ 0 };
}
