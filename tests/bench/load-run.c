/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/fd.h"
#include "base/macro.h"
#include "client/spark.h"
#include "load-caller.h"
#include "load-request.h"
#include "load-run.h"

#define CONNECT_RETRY_US 1e3
#define CONNECT_TIMEOUT_US 30e6
#define WATCHDOG_US 120e6 /* nothing happens at all for so long: something is stuck */
#define DRAIN_US 20e6     /* what is cancelled at the end has so long to end */

/* ---- the end ---- */

double load_run_seconds(const struct load_run *run) {
        return (run->ended_us - run->measured_us) / 1e6;
}

static void clear_party(struct load_party *party) {
        struct load_run *run = party->run;

        load_loop_clear(&run->loop, &party->arrival);
        for (size_t i = 0; i < party->group->clients; i++) {
                struct list *pos, *tmp;

                LIST_FOREACH(pos, tmp, &party->clients[i].requests) {
                        struct load_request *q = LIST_ENTRY(pos, struct load_request, in_client);

                        load_loop_clear(&run->loop, &q->start);
                        load_request_cancel(q);
                }
        }
}

/* No more requests; what is under way is cancelled, and its end waited for so that the service is left clean. */
static void run_end(struct load_run *run) {
        if (run->ending)
                return;
        run->ending = true;
        run->ended_us = measure_now_us();
        if (!run->measuring)
                run->measured_us = run->ended_us;
        load_loop_clear(&run->loop, &run->measure);
        load_loop_clear(&run->loop, &run->end);
        for (size_t i = 0; i < run->n_parties; i++)
                clear_party(&run->parties[i]);
        load_loop_at(&run->loop, &run->drain, run->ended_us + DRAIN_US);
        if (run->under_way == 0)
                run->loop.stop = true;
}

static void on_end(struct load_timer *t, double now_us) {
        run_end(CONTAINER_OF(t, struct load_run, end));
}

static void on_drain(struct load_timer *t, double now_us) {
        load_loop_fail(&CONTAINER_OF(t, struct load_run, drain)->loop, -ETIMEDOUT);
}

static void on_watchdog(struct load_timer *t, double now_us) {
        struct load_run *run = CONTAINER_OF(t, struct load_run, watchdog);

        /* its own firing is an event, too */
        if (run->loop.events <= run->watched + 1) {
                load_loop_fail(&run->loop, -ETIMEDOUT);
                return;
        }
        run->watched = run->loop.events;
        load_loop_at(&run->loop, t, now_us + WATCHDOG_US);
}

/* A group that has had all its requests; the run ends with the last one that has a number of them. */
static void check_finished(struct load_party *party) {
        struct load_run *run = party->run;

        if (run->ending || party->finished || party->group->requests == 0 || party->owed > 0 || party->under_way > 0)
                return;
        party->finished = true;
        if (--run->unfinished == 0)
                run_end(run);
}

/* ---- requests ---- */

bool load_run_may_begin(const struct load_client *c) {
        const struct load_party *party = c->party;

        return !c->gone && !party->run->ending && party->owed > 0 &&
               (party->group->mode == LOAD_OPEN || party->group->requests == 0 || c->counted < party->group->requests);
}

static double think_us(struct load_client *c) {
        struct load_party *party = c->party;
        struct load_random random;

        load_random_init(&random, party->run->options->seed, ~(uint64_t)(party - party->run->parties),
                         (uint64_t)(c - party->clients), c->begun);
        return 1e3 * load_random_in(&random, party->group->think_ms);
}

void load_run_request_ended(struct load_request *q, double pause_us) {
        struct load_client *c = q->client;
        struct load_run *run = c->party->run;

        if (run->ending) {
                if (run->under_way == 0)
                        run->loop.stop = true;
                return;
        }
        if (c->party->group->mode == LOAD_CLOSED && load_run_may_begin(c))
                load_loop_at(&run->loop, &q->start, measure_now_us() + MAX(think_us(c), pause_us));
        check_finished(c->party);
}

/* The next client in turn that still lives, or NULL. */
static struct load_client *next_client(struct load_party *party) {
        for (size_t i = 0; i < party->group->clients; i++) {
                struct load_client *c = &party->clients[party->arrived++ % party->group->clients];

                if (!c->gone)
                        return c;
        }
        return NULL;
}

static void on_arrival(struct load_timer *t, double now_us) {
        struct load_party *party = CONTAINER_OF(t, struct load_party, arrival);
        struct load_run *run = party->run;
        struct load_client *c = next_client(party);
        struct load_request *q = c ? load_request_get(c) : NULL;

        if (!c)
                return; /* the last one's loss has ended the group */
        if (!q) {
                load_loop_fail(&run->loop, -ENOMEM);
                return;
        }
        load_request_begin(q, t->at_us);
        if (!run->ending && party->owed > 0)
                load_loop_at(&run->loop, t, run->started_us + party->group->delay_ms * 1e3 +
                                                    load_arrivals_next(&party->arrivals));
}

static void start_client(struct load_client *c) {
        const struct load_party *party = c->party;
        struct load_run *run = party->run;

        for (uint32_t i = 0; i < party->group->depth && !c->gone; i++) {
                struct load_request *q = load_request_get(c);

                if (!q) {
                        load_loop_fail(&run->loop, -ENOMEM);
                        return;
                }
                q->taken = true;
                load_loop_at(&run->loop, &q->start, run->started_us + party->group->delay_ms * 1e3 + think_us(c));
        }
}

static void start_party(struct load_party *party) {
        struct load_run *run = party->run;
        const struct load_group *g = party->group;
        struct load_random random;

        if (g->mode == LOAD_OPEN) {
                load_random_init(&random, run->options->seed, (uint64_t)(party - run->parties), UINT64_MAX, 0);
                load_arrivals_init(&party->arrivals, &random, g->rate, g->burst);
                party->arrival.fn = on_arrival;
                load_loop_at(&run->loop, &party->arrival,
                             run->started_us + g->delay_ms * 1e3 + load_arrivals_next(&party->arrivals));
                return;
        }
        for (size_t i = 0; i < g->clients; i++)
                start_client(&party->clients[i]);
}

/* From now on, and for as long as was asked for: a machine that is late does not make it shorter. */
static void measure(struct load_run *run, double now_us) {
        run->measuring = true;
        run->measured_us = now_us;
        if (run->options->seconds > 0)
                load_loop_at(&run->loop, &run->end, now_us + run->options->seconds * 1e6);
}

static void on_measure(struct load_timer *t, double now_us) {
        struct load_run *run = CONTAINER_OF(t, struct load_run, measure);

        for (size_t i = 0; i < run->n_clients; i++)
                load_stats_reset(&run->clients[i].stats);
        measure(run, now_us);
}

/* Everybody is connected. */
static void run_start(struct load_run *run) {
        const struct load_options *o = run->options;

        run->started = true;
        run->started_us = measure_now_us();
        if (o->warmup > 0)
                load_loop_at(&run->loop, &run->measure, run->started_us + o->warmup * 1e6);
        else
                measure(run, run->started_us);
        for (size_t i = 0; i < run->n_parties; i++)
                start_party(&run->parties[i]);
        for (size_t i = 0; i < run->n_parties; i++)
                check_finished(&run->parties[i]);
        if (run->alive == 0)
                run_end(run);
}

/* ---- connecting ---- */

static void one_less_waiting(struct load_run *run) {
        if (--run->waiting == 0 && !run->loop.stop)
                run_start(run);
}

void load_run_connected(struct load_client *c) {
        if (samples_add(&c->stats.connect, (measure_now_us() - c->connect_us) / 1e3) < 0)
                load_loop_fail(&c->party->run->loop, -ENOMEM);
        c->connected = true;
        one_less_waiting(c->party->run);
}

void load_run_lost(struct load_client *c) {
        struct load_party *party = c->party;
        struct load_run *run = party->run;

        if (c->gone)
                return;
        c->gone = true;
        run->alive--;
        if (party->owed != UINT64_MAX && party->group->mode == LOAD_CLOSED)
                party->owed -= party->group->requests - MIN(c->counted, (uint64_t)party->group->requests);
        if (--party->alive == 0) {
                party->owed = 0;
                load_loop_clear(&run->loop, &party->arrival);
        }
        if (!c->connected) {
                one_less_waiting(run);
        } else if (run->started) {
                check_finished(party);
                if (run->alive == 0)
                        run_end(run);
        }
}

/* A client's first move, again while the service lets nobody in. */
static void on_connecting(struct load_timer *t, double now_us) {
        struct load_client *c = CONTAINER_OF(t, struct load_client, connecting);
        struct load_party *party = c->party;
        struct load_run *run = party->run;
        int fd = -1, r;

        if (c->connect_us == 0)
                c->connect_us = measure_now_us();
        if (party->n_callers > 0) {
                size_t turn = (size_t)(c - party->clients) % party->n_callers;

                fd = load_caller_connect(&party->callers[turn], &c->connect_us);
                if (fd < 0) {
                        load_loop_fail(&run->loop, fd);
                        return;
                }
        }
        r = run->transport->link_new(&c->link, &run->context, c, fd);
        if (r < 0)
                (void)fd_close(fd);
        if (r == -EAGAIN && now_us < c->connect_us + CONNECT_TIMEOUT_US)
                load_loop_at(&run->loop, t, now_us + CONNECT_RETRY_US);
        else if (r < 0)
                load_loop_fail(&run->loop, r);
}

/* libspark takes three descriptors per connection. */
static void raise_descriptors(void) {
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
                limit.rlim_cur = limit.rlim_max;
                (void)setrlimit(RLIMIT_NOFILE, &limit);
        }
}

/* ---- setting up ---- */

static int start_callers(struct load_party *party) {
        const struct load_options *o = party->run->options;
        const struct load_group *g = party->group;
        size_t n = MIN((size_t)g->uid.high - g->uid.low + 1, (size_t)g->clients);

        if (!g->has_uid)
                return 0;
        party->callers = calloc(n, sizeof(*party->callers));
        if (!party->callers)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                int r = load_caller_start(&party->callers[i], g->uid.low + (uint32_t)i,
                                          o->target.socket ? o->target.socket : SPARK_SOCKET_DEFAULT);

                if (r < 0)
                        return r;
                party->n_callers++;
        }
        return 0;
}

static int init_party(struct load_run *run, struct load_party *party, const struct load_group *g,
                      struct load_client *clients) {
        *party = (struct load_party){ .run = run, .group = g, .clients = clients, .alive = g->clients,
                                      .owed = UINT64_MAX };
        if (g->requests > 0)
                party->owed = (uint64_t)g->requests * g->clients;
        if (g->text > 0)
                load_random_init(&party->shared, 0, g->text, UINT64_MAX, 2);
        else
                load_random_init(&party->shared, run->options->seed, (uint64_t)(party - run->parties), UINT64_MAX, 1);
        for (size_t i = 0; i < g->clients; i++) {
                struct load_client *c = &clients[i];

                c->party = party;
                c->number = (uint32_t)(c - run->clients);
                c->uid = g->has_uid ? g->uid.low + (uint32_t)i % (g->uid.high - g->uid.low + 1) : 0;
                c->connecting.fn = on_connecting;
                list_init(&c->requests);
        }
        return start_callers(party);
}

static int init_parties(struct load_run *run, const struct load_group *groups, size_t n) {
        size_t clients = 0;
        int r = 0;

        for (size_t i = 0; i < n; i++)
                clients += groups[i].clients;
        if (clients == 0)
                return -EINVAL;
        run->parties = calloc(n, sizeof(*run->parties));
        run->clients = calloc(clients, sizeof(*run->clients));
        if (!run->parties || !run->clients)
                return -ENOMEM;
        for (size_t i = 0; i < n && r == 0; i++) {
                r = init_party(run, &run->parties[i], &groups[i], run->clients + run->n_clients);
                run->n_clients += groups[i].clients;
                run->alive += groups[i].clients;
                run->n_parties++;
                run->unfinished += groups[i].requests > 0;
        }
        return r;
}

/* How many tokens the words of prompts are. */
static int measure_words(struct load_run *run) {
        _cleanup_free_ char *texts = NULL;
        const char *all[LOAD_WORDS + 1] = { load_words_first };
        uint32_t tokens[LOAD_WORDS + 1];
        int r;

        texts = calloc(LOAD_WORDS, 64);
        if (!texts)
                return -ENOMEM;
        for (size_t i = 0; i < LOAD_WORDS; i++) {
                (void)snprintf(texts + i * 64, 64, "%s %s", load_words_first, load_words_all[i]);
                all[i + 1] = texts + i * 64;
        }
        r = run->transport->tokenize(&run->context, all, ARRAY_SIZE(all), tokens);
        if (r != 0)
                return r;
        return load_words_init(&run->words, tokens[0], tokens + 1) ? 0 : SPARK_PROTOCOL;
}

static int connect_and_run(struct load_run *run) {
        double now = measure_now_us();

        run->waiting = run->n_clients;
        run->end.fn = on_end;
        run->measure.fn = on_measure;
        run->drain.fn = on_drain;
        run->watchdog.fn = on_watchdog;
        load_loop_at(&run->loop, &run->watchdog, now + WATCHDOG_US);
        for (size_t i = 0; i < run->n_clients; i++)
                load_loop_at(&run->loop, &run->clients[i].connecting, now);
        return load_loop_run(&run->loop);
}

int load_run(struct load_run *run, const struct load_group *groups, size_t n_groups, const struct load_options *options,
             char *error, size_t error_size) {
        const char *doing = "setting up";
        bool sized = false;
        int r;

        for (size_t i = 0; i < n_groups; i++)
                sized = sized || groups[i].prompt.high > 0;

        *run = LOAD_RUN_NULL;
        run->options = options;
        run->transport = options->target.http ? &load_transport_http : &load_transport_spark;
        run->context = (struct load_context){ &run->loop, &options->target, &load_request_listener };
        raise_descriptors();
        r = load_loop_init(&run->loop);
        if (r == 0) {
                doing = "becoming another user";
                r = init_parties(run, groups, n_groups);
        }
        if (r == 0 && sized) {
                doing = "measuring words";
                r = measure_words(run);
        }
        if (r == 0) {
                r = connect_and_run(run);
                doing = !run->started ? "connecting" : run->ending ? "waiting for the last requests" : "running";
        }
        if (r != 0)
                (void)snprintf(error, error_size, "%s: %s", doing, r > 0 ? spark_code_name(r) : strerror(-r));
        return r;
}

void load_run_deinit(struct load_run *run) {
        for (size_t i = 0; i < run->n_clients; i++) {
                struct load_client *c = &run->clients[i];

                load_requests_free(c);
                if (c->link)
                        c->link = run->transport->link_free(c->link);
                load_stats_deinit(&c->stats);
        }
        for (size_t i = 0; i < run->n_parties; i++) {
                for (size_t k = 0; k < run->parties[i].n_callers; k++)
                        load_caller_stop(&run->parties[i].callers[k]);
                free(run->parties[i].callers);
        }
        load_loop_deinit(&run->loop); /* before what timers are members of */
        free(run->parties);
        free(run->clients);
        *run = LOAD_RUN_NULL;
}
