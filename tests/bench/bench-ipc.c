/* SPDX-License-Identifier: Apache-2.0 */

/*
 * spark-bench ipc: what control costs, with the null backend of a private daemon.
 *
 *   throughput   STREAMS generations at once over CONNECTIONS connections; token frames received, against the wall clock
 *                and against the processor time that control used for them (frames per second of one core)
 *   round trip   one token at a time: grant one credit, wait for the token. Once through control, once to an engine
 *                started here on a socketpair; the difference of the medians is what control adds to a token, there
 *                and back
 *   memory       control's private memory per connection that has said Hello and is idle
 */

#include <errno.h>
#include <getopt.h>
#include <libgen.h>
#include <limits.h>
#include <poll.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/macro.h"
#include "bench.h"
#include "engine.pb-c.h"
#include "ipc/channel.h"
#include "ipc/message.h"
#include "measure.h"
#include "spark.pb-c.h"

struct options {
        unsigned streams, connections, tokens, round_trips, idle;
        int json;
};

struct result {
        double frames_per_second, frames_per_core_second, tokens_per_frame;
        double through_control_us, direct_us;
        double idle_bytes;
};

static const struct channel_limits limits = { CHANNEL_FRAME_MAX_PRIVATE, 65536, 64u << 20, 4 };

static int channel_wait(struct channel *c) {
        struct pollfd p = { .fd = c->fd, .events = (short)(POLLIN | (channel_wants_write(c) ? POLLOUT : 0)) };

        if (poll(&p, 1, 10000) <= 0)
                return -ETIMEDOUT;
        if ((p.revents & POLLOUT) && channel_flush(c) < 0)
                return -EPIPE;
        return 0;
}

/* The next frame, waited for; its bytes are valid until the next call. */
static int channel_receive(struct channel *c, struct channel_frame *ret) {
        for (;;) {
                int r = channel_next(c, ret);

                if (r == 1)
                        return 0;
                if (r != 0)
                        return -EPROTO;
                r = channel_wait(c);
                if (r < 0)
                        return r;
                r = channel_read(c);
                if (r < 0 || r > 1)
                        return r < 0 ? r : -EPIPE;
        }
}

static int channel_send(struct channel *c, const ProtobufCMessage *m, const int *fds, size_t n_fds) {
        int r = message_queue_fds(c, m, fds, n_fds);

        if (r == 0)
                r = channel_flush(c);
        return r < 0 ? r : 0;
}

/* ---- client side --------------------------------------------------------------------------------------------- */

static int client_send(struct channel *c, uint64_t id, Spark__V1__ClientFrame *frame) {
        frame->id = id;
        return channel_send(c, &frame->base, NULL, 0);
}

static int client_connect(struct channel *c, const char *path) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Hello hello = SPARK__V1__HELLO__INIT;
        struct channel_frame in;
        int fd, r;

        (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return -errno;
        if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
                r = -errno;
                (void)close(fd);
                return r;
        }
        r = channel_init(c, fd, &limits);
        if (r < 0)
                return r;
        hello.protocol_version = 1;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_HELLO;
        frame.hello = &hello;
        r = client_send(c, 0, &frame);
        return r < 0 ? r : channel_receive(c, &in);
}

static int client_generate(struct channel *c, uint64_t id, unsigned tokens, unsigned credit) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Generate generate = SPARK__V1__GENERATE__INIT;
        Spark__V1__Sampling sampling = SPARK__V1__SAMPLING__INIT;

        sampling.has_temperature = sampling.has_max_tokens = sampling.has_ignore_eos = true;
        sampling.temperature = 0;
        sampling.max_tokens = tokens;
        sampling.ignore_eos = true;
        generate.prompt.data = (uint8_t *)(uintptr_t)"bench";
        generate.prompt.len = 5;
        generate.sampling = &sampling;
        generate.credit = credit;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_GENERATE;
        frame.generate = &generate;
        return client_send(c, id, &frame);
}

static int client_credit(struct channel *c, uint64_t id, unsigned tokens) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Credit credit = SPARK__V1__CREDIT__INIT;

        credit.tokens = tokens;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_CREDIT;
        frame.credit = &credit;
        return client_send(c, id, &frame);
}

/* ---- throughput ---------------------------------------------------------------------------------------------- */

struct flood {
        uint64_t frames, tokens;
        unsigned ended, failed;
};

static int flood_handle(struct channel *c, struct flood *f) {
        struct channel_frame in;
        int r;

        while ((r = channel_next(c, &in)) == 1) {
                Spark__V1__ServerFrame *frame =
                        spark__v1__server_frame__unpack(NULL, in.size, in.data);

                if (!frame)
                        return -EPROTO;
                switch (frame->body_case) {
                case SPARK__V1__SERVER_FRAME__BODY_TOKEN:
                        f->frames++;
                        f->tokens += frame->token->n_ids;
                        break;
                case SPARK__V1__SERVER_FRAME__BODY_ERROR:
                        (void)fprintf(stderr, "spark-bench: %s\n", frame->error->message);
                        f->failed++;
                        f->ended++;
                        break;
                case SPARK__V1__SERVER_FRAME__BODY_DONE:
                        f->ended++;
                        break;
                default:
                        break;
                }
                spark__v1__server_frame__free_unpacked(frame, NULL);
        }
        return r == 0 ? 0 : -EPROTO;
}

static int flood_run(struct channel *channels, unsigned n, unsigned streams, struct flood *f) {
        _cleanup_free_ struct pollfd *fds = calloc(n, sizeof(*fds));

        if (!fds)
                return -ENOMEM;
        for (unsigned i = 0; i < n; i++)
                fds[i] = (struct pollfd){ .fd = channels[i].fd, .events = POLLIN };
        while (f->ended < streams) {
                if (poll(fds, n, 30000) <= 0)
                        return -ETIMEDOUT;
                for (unsigned i = 0; i < n; i++) {
                        int r;

                        if (!fds[i].revents)
                                continue;
                        r = channel_read(&channels[i]);
                        if (r != 0 && r != 1)
                                return r < 0 ? r : -EPIPE;
                        r = flood_handle(&channels[i], f);
                        if (r < 0)
                                return r;
                }
        }
        return f->failed ? -EIO : 0;
}

static int measure_throughput(const struct private_daemon *d, const struct options *o, struct result *result) {
        struct channel *channels = calloc(o->connections, sizeof(*channels));
        struct flood f = { 0 };
        double began, cpu;
        unsigned open = 0;
        int r = channels ? 0 : -ENOMEM;

        while (r == 0 && open < o->connections)
                r = client_connect(&channels[open++], d->socket);
        began = measure_now_us();
        cpu = process_cpu_us(d->pid);
        for (unsigned i = 0; i < o->streams && r == 0; i++)
                r = client_generate(&channels[i % o->connections], 1 + i, o->tokens, o->tokens);
        if (r == 0)
                r = flood_run(channels, o->connections, o->streams, &f);
        if (r == 0) {
                result->frames_per_second = (double)f.frames * 1e6 / (measure_now_us() - began);
                cpu = process_cpu_us(d->pid) - cpu;
                result->frames_per_core_second = cpu > 0 ? (double)f.frames * 1e6 / cpu : 0;
                result->tokens_per_frame = (double)f.tokens / (double)f.frames;
        }
        for (unsigned i = 0; i < open; i++)
                channel_deinit(&channels[i]);
        free(channels);
        return r;
}

/* ---- round trips --------------------------------------------------------------------------------------------- */

/* Grants a token, waits for it; again and again. `grant` speaks either protocol. */
static int ping_pong(struct channel *c, unsigned n, int (*grant)(struct channel *c), double *ret_median_us) {
        struct samples s = { 0 };
        int r = 0;

        for (unsigned i = 0; i < n && r == 0; i++) {
                struct channel_frame in;
                double began = measure_now_us();

                r = grant(c);
                if (r == 0)
                        r = channel_receive(c, &in);
                if (r == 0 && i >= n / 10) /* the first tenth warms up */
                        r = samples_add(&s, measure_now_us() - began);
        }
        *ret_median_us = samples_quantile(&s, 0.5);
        samples_deinit(&s);
        return r;
}

static int grant_through_control(struct channel *c) {
        return client_credit(c, 1, 1);
}

static int measure_through_control(const struct private_daemon *d, const struct options *o, double *ret_us) {
        struct channel c;
        struct channel_frame in;
        int r = client_connect(&c, d->socket);

        if (r < 0)
                return r;
        r = client_generate(&c, 1, o->round_trips + 8, 1);
        if (r == 0)
                r = channel_receive(&c, &in); /* the first token is free */
        if (r == 0)
                r = ping_pong(&c, o->round_trips, grant_through_control, ret_us);
        channel_deinit(&c);
        return r;
}

static int grant_to_engine(struct channel *c) {
        Spark__Engine__V1__ControlFrame frame = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;
        Spark__Engine__V1__Window window = SPARK__ENGINE__V1__WINDOW__INIT;

        window.key = 1;
        window.tokens = 1;
        frame.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_WINDOW;
        frame.window = &window;
        return channel_send(c, &frame.base, NULL, 0);
}

static int engine_init(struct channel *c) {
        Spark__Engine__V1__ControlFrame frame = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;
        Spark__Engine__V1__Init init = SPARK__ENGINE__V1__INIT__INIT;

        init.version = 1;
        init.model = (char[]){ "null" };
        init.backend = (char[]){ "null" };
        init.threads = 1;
        frame.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_INIT;
        frame.init = &init;
        return channel_send(c, &frame.base, NULL, 0);
}

static int engine_submit(struct channel *c, unsigned tokens) {
        Spark__Engine__V1__ControlFrame frame = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;
        Spark__Engine__V1__Submit submit = SPARK__ENGINE__V1__SUBMIT__INIT;
        Spark__V1__Generate generate = SPARK__V1__GENERATE__INIT;
        Spark__V1__Sampling sampling = SPARK__V1__SAMPLING__INIT;

        sampling.has_temperature = sampling.has_max_tokens = sampling.has_ignore_eos = true;
        sampling.temperature = 0;
        sampling.max_tokens = tokens;
        sampling.ignore_eos = true;
        generate.prompt.data = (uint8_t *)(uintptr_t)"bench";
        generate.prompt.len = 5;
        generate.sampling = &sampling;
        submit.key = 1;
        submit.request_case = SPARK__ENGINE__V1__SUBMIT__REQUEST_GENERATE;
        submit.generate = &generate;
        submit.credit = 1;
        frame.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_SUBMIT;
        frame.submit = &submit;
        return channel_send(c, &frame.base, NULL, 0);
}

static pid_t engine_spawn(int sock) {
        char self[PATH_MAX], program[PATH_MAX + 16], number[16];
        char link[] = "--link";
        char *argv[] = { program, link, number, NULL };
        ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
        pid_t pid;
        int child;

        if (n < 0)
                return -1;
        self[n] = 0;
        child = dup(sock); /* without close-on-exec */
        (void)snprintf(program, sizeof(program), "%s/spark-engine", dirname(self));
        (void)snprintf(number, sizeof(number), "%d", child);
        if (posix_spawn(&pid, program, NULL, NULL, argv, environ) != 0)
                pid = -1;
        (void)close(child);
        return pid;
}

static int measure_direct(const struct options *o, double *ret_us) {
        struct channel c;
        struct channel_frame in;
        int pair[2], r;
        pid_t pid;

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                return -errno;
        pid = engine_spawn(pair[1]);
        (void)close(pair[1]);
        r = channel_init(&c, pair[0], &limits);
        if (pid < 0)
                r = -ECHILD;
        if (r == 0)
                r = engine_init(&c);
        if (r == 0)
                r = channel_receive(&c, &in); /* Ready */
        if (r == 0)
                r = engine_submit(&c, o->round_trips + 8);
        for (int i = 0; i < 2 && r == 0; i++)
                r = channel_receive(&c, &in); /* Accepted, the first token */
        if (r == 0)
                r = ping_pong(&c, o->round_trips, grant_to_engine, ret_us);
        channel_deinit(&c);
        if (pid > 0)
                (void)waitpid(pid, NULL, 0);
        return r;
}

/* ---- memory -------------------------------------------------------------------------------------------------- */

static int measure_idle(const struct private_daemon *d, const struct options *o, struct result *result) {
        struct channel *channels = calloc(o->idle, sizeof(*channels));
        uint64_t before = process_private_bytes(d->pid), after;
        unsigned open = 0;
        int r = channels ? 0 : -ENOMEM;

        while (r == 0 && open < o->idle)
                r = client_connect(&channels[open++], d->socket);
        after = process_private_bytes(d->pid);
        result->idle_bytes = after > before ? (double)(after - before) / o->idle : 0;
        for (unsigned i = 0; i < open; i++)
                channel_deinit(&channels[i]);
        free(channels);
        return r;
}

static void print_result(const struct result *r, const struct options *o) {
        double added = r->through_control_us - r->direct_us;

        if (o->json) {
                (void)printf("{\"frames_per_second\":%.0f,\"frames_per_core_second\":%.0f,\"tokens_per_frame\":%.2f,"
                             "\"round_trip_us\":%.1f,\"round_trip_direct_us\":%.1f,\"added_us\":%.1f,"
                             "\"idle_connections\":%u,\"bytes_per_idle_connection\":%.0f}\n",
                             r->frames_per_second, r->frames_per_core_second, r->tokens_per_frame,
                             r->through_control_us, r->direct_us, added, o->idle, r->idle_bytes);
                return;
        }
        (void)printf("token frames through control   %10.0f /s of wall time, %.2f tokens each\n", r->frames_per_second,
                     r->tokens_per_frame);
        (void)printf("                               %10.0f /s of control's processor time\n",
                     r->frames_per_core_second);
        (void)printf("credit to token, median        %10.1f us through control, %.1f us straight at the engine\n",
                     r->through_control_us, r->direct_us);
        (void)printf("added by control, both ways    %10.1f us\n", added);
        (void)printf("memory per idle connection     %10.0f bytes of control's private memory (%u connected)\n",
                     r->idle_bytes, o->idle);
}

static int run_ipc(const struct options *o) {
        struct private_daemon d;
        struct result result = { 0 };
        struct rlimit files = { 0 };
        int r;

        if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
                files.rlim_cur = files.rlim_max;
                (void)setrlimit(RLIMIT_NOFILE, &files); /* the daemon inherits it; 1,000 connections need it */
        }
        r = private_daemon_start(&d, "threads = 1;");
        if (r < 0)
                return 1;
        r = measure_idle(&d, o, &result);
        if (r == 0)
                r = measure_throughput(&d, o, &result);
        if (r == 0)
                r = measure_through_control(&d, o, &result.through_control_us);
        private_daemon_stop(&d);
        if (r == 0)
                r = measure_direct(o, &result.direct_us);
        if (r < 0) {
                (void)fprintf(stderr, "spark-bench ipc: %s\n", strerror(-r));
                return 1;
        }
        print_result(&result, o);
        return 0;
}

static bool parse_count(const char *s, unsigned *ret) {
        char *end;
        unsigned long v = strtoul(s, &end, 10);

        if (end == s || *end || v < 1 || v > 1000000)
                return false;
        *ret = (unsigned)v;
        return true;
}

static int usage(FILE *f, int status) {
        (void)fprintf(f, "Usage: spark-bench ipc [-s STREAMS] [-c CONNECTIONS] [-n TOKENS] [-r ROUND-TRIPS]\n"
                         "                       [-i IDLE] [--json]\n\n"
                         "Starts a private sparkd with the null backend and measures what control costs.\n"
                         "Defaults: 64 streams over 8 connections, 20000 tokens each, 20000 round trips, 1000 idle.\n");
        return status;
}

int bench_ipc_main(int argc, char **argv) {
        static const struct option longs[] = {
                { "json", no_argument, NULL, 'j' }, { "help", no_argument, NULL, 'h' }, { NULL, 0, NULL, 0 },
        };
        struct options o = { 64, 8, 20000, 20000, 1000, 0 };
        bool ok = true;
        int c;

        while ((c = getopt_long(argc, argv, "s:c:n:r:i:h", longs, NULL)) != -1) {
                switch (c) {
                case 's': ok = ok && parse_count(optarg, &o.streams); break;
                case 'c': ok = ok && parse_count(optarg, &o.connections); break;
                case 'n': ok = ok && parse_count(optarg, &o.tokens); break;
                case 'r': ok = ok && parse_count(optarg, &o.round_trips); break;
                case 'i': ok = ok && parse_count(optarg, &o.idle); break;
                case 'j': o.json = 1; break;
                case 'h': return usage(stdout, 0);
                default: return usage(stderr, 64);
                }
        }
        if (!ok || optind < argc)
                return usage(stderr, 64);
        return run_ipc(&o);
}
