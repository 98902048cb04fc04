/* SPDX-License-Identifier: Apache-2.0 */

/*
 * spark-bench clients: many clients at once, through the socket. Each has a connection of its own and sends its
 * requests one after another (closed loop); one thread serves them all through libspark's event-loop interface.
 * Time to first token runs from the request to its first Token event, the inter-token gap between Token events.
 */

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "bench.h"
#include "client/spark.h"
#include "measure.h"

struct options {
        const char *socket;
        const char *model;
        const char *prompt;
        unsigned clients;
        unsigned requests;
        unsigned tokens;
        int json;
};

struct client {
        const struct options *options;
        struct spark *spark;
        unsigned number, done, failed;
        uint64_t tokens;
        double asked_us, last_us;
        bool first;
        struct samples ttft, gap; /* milliseconds */
        char error[160];
};

static int client_ask(struct client *c);

static int on_event(struct spark *s, const struct spark_event *event, void *userdata) {
        struct client *c = userdata;
        double now = measure_now_us();
        int r = 0;

        switch (event->type) {
        case SPARK_EVENT_TOKEN:
                c->tokens += event->tokens->n;
                r = samples_add(c->first ? &c->ttft : &c->gap, (now - (c->first ? c->asked_us : c->last_us)) / 1e3);
                c->first = false;
                c->last_us = now;
                break;
        case SPARK_EVENT_ERROR:
                c->failed++;
                (void)snprintf(c->error, sizeof(c->error), "%s: %s", spark_code_name(event->error->code),
                               event->error->message);
                __attribute__((fallthrough));
        case SPARK_EVENT_DONE:
                c->done++;
                if (c->done < c->options->requests && c->failed < 3)
                        r = client_ask(c);
                break;
        default:
                break;
        }
        return r;
}

static int client_ask(struct client *c) {
        struct spark_sampling sampling = SPARK_SAMPLING_INIT;
        struct spark_generate_request request = SPARK_GENERATE_INIT;
        char prompt[4096];
        int n;

        sampling.set = SPARK_SET_TEMPERATURE | SPARK_SET_SEED | SPARK_SET_MAX_TOKENS;
        sampling.temperature = 0.8f;
        sampling.seed = (uint64_t)c->number << 32 | c->done;
        sampling.max_tokens = c->options->tokens;
        sampling.ignore_eos = 1;
        n = snprintf(prompt, sizeof(prompt), "%s", c->options->prompt);
        request.model = c->options->model;
        request.prompt = prompt;
        request.prompt_size = (size_t)n < sizeof(prompt) ? (size_t)n : sizeof(prompt) - 1;
        request.sampling = &sampling;
        c->first = true;
        c->asked_us = measure_now_us();
        return spark_generate(c->spark, &request, on_event, c, NULL);
}

static bool client_finished(const struct client *c) {
        return !c->spark || c->done >= c->options->requests || c->failed >= 3;
}

/* Serves all connections until every client has had its answers. */
static int serve(struct client *clients, size_t n) {
        _cleanup_free_ struct pollfd *fds = calloc(n, sizeof(*fds));
        size_t open = n;

        if (!fds)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++)
                fds[i] = (struct pollfd){ .fd = spark_fd(clients[i].spark), .events = POLLIN };
        while (open > 0) {
                if (poll(fds, n, 60000) == 0)
                        return -ETIMEDOUT;
                for (size_t i = 0; i < n; i++) {
                        int r;

                        if (fds[i].fd < 0 || !fds[i].revents)
                                continue;
                        r = spark_process(clients[i].spark);
                        if (r < 0 || client_finished(&clients[i])) {
                                fds[i].fd = -1;
                                open--;
                        }
                }
        }
        return 0;
}

static void print_times(const char *name, struct samples *s, int json) {
        double p50 = samples_quantile(s, 0.50), p95 = samples_quantile(s, 0.95), p99 = samples_quantile(s, 0.99);

        if (json)
                (void)printf("\"%s_ms\":{\"p50\":%.3f,\"p95\":%.3f,\"p99\":%.3f}", name, p50, p95, p99);
        else
                (void)printf("  %-22s p50 %9.3f ms   p95 %9.3f ms   p99 %9.3f ms\n", name, p50, p95, p99);
}

static void print_client(struct client *c, double seconds) {
        (void)printf("{\"client\":%u,\"requests\":%u,\"failed\":%u,\"tokens\":%llu,\"tokens_per_second\":%.1f,", c->number,
                     c->done, c->failed, (unsigned long long)c->tokens, (double)c->tokens / seconds);
        print_times("ttft", &c->ttft, 1);
        (void)printf(",");
        print_times("gap", &c->gap, 1);
        (void)printf("}");
}

static int print_result(struct client *clients, const struct options *o, double seconds) {
        struct samples ttft = { 0 }, gap = { 0 };
        uint64_t tokens = 0;
        unsigned failed = 0, done = 0;
        double sum = 0, squares = 0;
        const char *error = NULL;

        for (size_t i = 0; i < o->clients; i++) {
                double t = (double)clients[i].tokens;

                (void)samples_add_all(&ttft, &clients[i].ttft);
                (void)samples_add_all(&gap, &clients[i].gap);
                tokens += clients[i].tokens;
                done += clients[i].done;
                failed += clients[i].failed;
                sum += t;
                squares += t * t;
                if (clients[i].failed)
                        error = clients[i].error;
        }
        if (o->json) {
                (void)printf("{\"clients\":%u,\"requests\":%u,\"failed\":%u,\"seconds\":%.3f,\"tokens\":%llu,"
                             "\"tokens_per_second\":%.1f,\"jain\":%.4f,",
                             o->clients, done, failed, seconds, (unsigned long long)tokens, (double)tokens / seconds,
                             squares > 0 ? sum * sum / (squares * o->clients) : 0);
                print_times("ttft", &ttft, 1);
                (void)printf(",");
                print_times("gap", &gap, 1);
                (void)printf(",\"per_client\":[");
                for (size_t i = 0; i < o->clients; i++) {
                        (void)printf("%s", i ? "," : "");
                        print_client(&clients[i], seconds);
                }
                (void)printf("]}\n");
        } else {
                (void)printf("%u clients, %u requests (%u failed), %llu tokens in %.2f s: %.1f tokens/s\n", o->clients,
                             done, failed, (unsigned long long)tokens, seconds, (double)tokens / seconds);
                print_times("time to first token", &ttft, 0);
                print_times("inter-token gap", &gap, 0);
        }
        if (error)
                (void)fprintf(stderr, "spark-bench: the last error was %s\n", error);
        samples_deinit(&ttft);
        samples_deinit(&gap);
        return failed ? 1 : 0;
}

static int run_clients(const struct options *o) {
        struct client *clients = calloc(o->clients, sizeof(*clients));
        double began, seconds;
        int r = clients ? 0 : -ENOMEM, status = 1;

        for (unsigned i = 0; i < o->clients && r == 0; i++) {
                clients[i] = (struct client){ .options = o, .number = i };
                r = spark_connect(&clients[i].spark, o->socket, "spark-bench");
                if (r == 0)
                        r = spark_wait_hello(clients[i].spark, 10000);
        }
        if (r == 0) {
                began = measure_now_us();
                for (unsigned i = 0; i < o->clients && r == 0; i++)
                        r = client_ask(&clients[i]);
                if (r == 0)
                        r = serve(clients, o->clients);
                seconds = (measure_now_us() - began) / 1e6;
                if (r == 0)
                        status = print_result(clients, o, seconds);
        }
        if (r != 0) {
                (void)fprintf(stderr, "spark-bench: %s: %s\n", o->socket,
                              r > 0 ? spark_code_name(r) : strerror(-r));
                status = r == -ENOENT || r == -ECONNREFUSED ? 69 : 1;
        }
        for (unsigned i = 0; clients && i < o->clients; i++) {
                clients[i].spark = spark_unref(clients[i].spark);
                samples_deinit(&clients[i].ttft);
                samples_deinit(&clients[i].gap);
        }
        free(clients);
        return status;
}

static bool parse_count(const char *s, unsigned max, unsigned *ret) {
        char *end;
        unsigned long v;

        errno = 0;
        v = strtoul(s, &end, 10);
        if (errno || end == s || *end || v < 1 || v > max)
                return false;
        *ret = (unsigned)v;
        return true;
}

static int usage(FILE *f, int status) {
        (void)fprintf(f, "Usage: spark-bench clients [-S SOCKET] [-m MODEL] [-c CLIENTS] [-r REQUESTS] [-n TOKENS]\n"
                         "                           [-p PROMPT] [--json]\n\n"
                         "  -S  the daemon's socket (default: %s)\n"
                         "  -c  clients at once, each with a connection of its own (8)\n"
                         "  -r  requests of each client, one after another (4)\n"
                         "  -n  tokens per answer (64)\n"
                         "  -p  the prompt (\"Once upon a time\")\n", SPARK_SOCKET_DEFAULT);
        return status;
}

int bench_clients_main(int argc, char **argv) {
        static const struct option longs[] = {
                { "socket", required_argument, NULL, 'S' }, { "model", required_argument, NULL, 'm' },
                { "json", no_argument, NULL, 'j' },         { "help", no_argument, NULL, 'h' },
                { NULL, 0, NULL, 0 },
        };
        struct options o = { SPARK_SOCKET_DEFAULT, NULL, "Once upon a time", 8, 4, 64, 0 };
        int c;
        bool ok = true;

        while ((c = getopt_long(argc, argv, "S:m:c:r:n:p:h", longs, NULL)) != -1) {
                switch (c) {
                case 'S': o.socket = optarg; break;
                case 'm': o.model = optarg; break;
                case 'c': ok = ok && parse_count(optarg, 100000, &o.clients); break;
                case 'r': ok = ok && parse_count(optarg, 1000000, &o.requests); break;
                case 'n': ok = ok && parse_count(optarg, 1000000, &o.tokens); break;
                case 'p': o.prompt = optarg; break;
                case 'j': o.json = 1; break;
                case 'h': return usage(stdout, 0);
                default: return usage(stderr, 64);
                }
        }
        if (!ok || optind < argc)
                return usage(stderr, 64);
        return run_clients(&o);
}
