/* SPDX-License-Identifier: Apache-2.0 */

/* spark-engine --link FD: serves one model to control. Wiring only. */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "link.h"
#include "message.h"
#include "sandbox.h"

#define PROGRAM "spark-engine"
#define EXIT_USAGE 64
#define EXIT_LOST 70 /* the backend failed for good: a new process may help */

#define OUT_FRAMES 8192u
#define OUT_BYTES (64u << 20)
#define INTER_TOKEN_MS 100u
#define HANG_MS_NEVER (24u * 3600000u)
#define MEMORY_POLL_MS 500u
#define JOBS_BESIDES 256u /* tokenize and the like, on top of what may wait or run */

struct program {
        struct channel channel;
        ProtobufCMessage *message;
        const Spark__Engine__V1__Init *init;
        int fds[IMAGE_SEGMENTS_MAX];
        size_t n_fds;
        struct link *link;
        struct host host;
        struct watchdog *watchdog; /* of a device */
        size_t arrived;            /* tensors of a growing image, the first ones */
        bool link_ended;           /* while it was waited for */
};

static int parse_link_fd(int argc, char **argv) {
        char *end;
        long fd;

        if (argc != 3 || strcmp(argv[1], "--link") != 0)
                return -1;
        errno = 0;
        fd = strtol(argv[2], &end, 10);
        return errno || *end || end == argv[2] || fd < 0 || fd > 1 << 20 ? -1 : (int)fd;
}

/* The backend's own patience ends behind the watchdog's, which knows what a step ought to take. */
static unsigned hang_ms(const Spark__Engine__V1__Init *init) {
        uint64_t ms = init->step_timeout_ms + watchdog_patience_us(0, 0) / 1000;

        return init->step_timeout_ms ? (unsigned)MIN(ms * 2, (uint64_t)UINT32_MAX) : HANG_MS_NEVER;
}

static int read_config(const Spark__Engine__V1__Init *init, struct host_config *ret, struct failure *f) {
        static const char *const formats[] = { [KV_F16] = "f16", [KV_F32] = "f32", [KV_Q8_0] = "q8_0" };
        bool fake = strcmp(init->backend, "null") == 0;
        size_t format = 0;

        while (format < ARRAY_SIZE(formats) && init->kv_format[0] && strcmp(init->kv_format, formats[format]) != 0)
                format++;
        if (format == ARRAY_SIZE(formats))
                return failure_set(f, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "kv_format '%.16s' is not known",
                                   init->kv_format);
        *ret = (struct host_config){
                .backend = init->backend[0] ? init->backend : "auto",
                .be = {
                        .threads = init->threads,
                        .isa = "auto",
                        .null_step_us = init->null_step_us,
                        .placement = init->placement[0] ? init->placement : NULL,
                        .activations = init->activations[0] ? init->activations : NULL,
                        .hang_ms = hang_ms(init),
                        .log_name = PROGRAM,
                        .log_level = init->log_level ? init->log_level : LOG_LEVEL_NOTICE,
                        .log_for_journal = getenv("JOURNAL_STREAM") != NULL,
                        .library = init->backend_library[0] ? init->backend_library : NULL,
                },
                .engine = {
                        .kv_bytes = init->kv_bytes ? init->kv_bytes : host_default_kv_bytes(),
                        .kv_format = (enum kv_format)format,
                        .max_rows = init->max_rows,
                        .max_sequences = init->max_sequences,
                        .max_queued = init->max_queued,
                        .context = init->context,
                        .step_target_us = fake ? 0 : (init->inter_token_ms ? init->inter_token_ms : INTER_TOKEN_MS) * 1000,
                },
        };
        return 0;
}

static struct frame *ready_frame(struct host *h) {
        Spark__Engine__V1__Ready ready = SPARK__ENGINE__V1__READY__INIT;
        Spark__Engine__V1__EngineFrame frame = SPARK__ENGINE__V1__ENGINE_FRAME__INIT;
        struct engine_stats stats = { 0 };
        struct backend_facts facts;

        if (h->engine)
                engine_get_stats(h->engine, &stats);
        ready.architecture = h->model ? h->model->architecture : (char *)h->image.hparams->arch;
        ready.format = (char *)(h->model ? h->model->format : "");
        ready.parameters = h->model ? h->model->n_params : 0;
        ready.context = stats.context;
        ready.vocabulary = h->prep.n_vocab;
        ready.has_chat_template = h->chat != NULL;
        ready.kv_bytes = stats.kv_bytes;
        ready.other_bytes = stats.other_bytes;
        ready.backend = (char *)h->backend->ops->describe(h->backend);
        ready.vocabulary_only = h->prep.vocabulary_only;
        host_get_facts(h, &facts);
        ready.device = facts.device;
        ready.placement = facts.placement;
        if (strcmp(facts.placement, "device") == 0)
                ready.other_bytes -= stats.scratch_bytes;
        ready.other_bytes += facts.host_bytes;
        ready.kv_memory = facts.kv_memory;
        ready.device_bytes = facts.device_bytes;
        frame.body_case = SPARK__ENGINE__V1__ENGINE_FRAME__BODY_READY;
        frame.ready = &ready;
        return frame_new(&frame);
}

/* Whether to try again: the memory of an engine that ended may take a while to come back from a device. */
static bool wait_for_memory(const struct program *p, int r, const struct failure *f, unsigned *waited_ms) {
        const struct timespec pause = { .tv_nsec = MEMORY_POLL_MS * 1000000L };

        if (r != REQUEST_E_FAILED || f->code != SPARK__V1__ERROR_CODE__NO_MEMORY || *waited_ms >= p->init->memory_wait_ms)
                return false;
        if (*waited_ms == 0)
                log_notice("%s; waiting for the memory of the engine before", f->text);
        (void)nanosleep(&pause, NULL);
        *waited_ms += MEMORY_POLL_MS;
        return true;
}

/* For image_await(). */
static int wait_for_image(void *userdata, size_t n) {
        struct program *p = userdata;

        while (p->arrived < n) {
                int r = link_receive_image(&p->channel, &p->arrived);

                if (r) {
                        p->link_ended = r == LINK_E_CLOSED;
                        return r < 0 ? r : -EPIPE;
                }
        }
        return 0;
}

/* From the watchdog: whoever is stuck in a driver stays there. */
static void end_lost(const char *why) {
        log_error("%s", why);
        _exit(EXIT_LOST);
}

/* A driver brings kernels to the device when they are launched first, and translates them then where the device is newer than they
 * are: with a library that the sandbox does not let it open. So they are all brought when the device is opened. */
static void want_kernels_at_once(void) {
        (void)setenv("CUDA_MODULE_LOADING", "EAGER", 0);
}

/* The backend before the sandbox where it has a device, everything else behind it. */
static int open_host(struct program *p, struct host_config *config, uint32_t jobs, struct failure *f) {
        unsigned waited_ms = 0;
        bool device;
        int r;

        want_kernels_at_once();
        do
                r = host_open_device(&p->host, config, f);
        while (wait_for_memory(p, r, f, &waited_ms));
        if (r != 0)
                return r;
        device = p->host.backend != NULL;
        r = sandbox_enter(device ? SANDBOX_DEVICE : SANDBOX_MEMORY);
        if (r < 0)
                log_warning("the sandbox is incomplete: %s", strerror(-r));
        r = device ? watchdog_new(&p->watchdog, p->host.backend, p->init->step_timeout_ms, end_lost) : 0;
        if (r == 0)
                r = link_new(&p->link, &p->channel, jobs);
        config->engine.watchdog = p->watchdog;
        while (r == 0) {
                r = host_open_model(&p->host, config, p->fds, p->n_fds, &link_events, p->link, f);
                if (!device || !wait_for_memory(p, r, f, &waited_ms))
                        break;
                host_close_model(&p->host);
                r = 0;
        }
        return r;
}

/* From Init to Ready. 0, REQUEST_E_FAILED, or negative. */
static int start(struct program *p, struct failure *f) {
        const struct image_arrival arrival = { wait_for_image, p };
        struct host_config config = { .backend = NULL };
        uint64_t jobs;
        int r;

        r = read_config(p->init, &config, f);
        if (r != 0)
                return r;
        config.arrival = p->init->growing ? &arrival : NULL;
        jobs = (uint64_t)(config.engine.max_queued ? config.engine.max_queued : ENGINE_QUEUED) +
               (config.engine.max_sequences ? config.engine.max_sequences : ENGINE_SEQUENCES) + JOBS_BESIDES;
        if (jobs > 1u << 20)
                return failure_set(f, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "max_queued and max_sequences are too large");
        r = open_host(p, &config, (uint32_t)jobs, f);
        for (size_t i = 0; i < p->n_fds; i++)
                p->fds[i] = fd_close(p->fds[i]);
        if (r == 0 && p->host.engine)
                r = engine_self_test(p->host.engine, f);
        return r;
}

/* Says why it ends before it was ready. */
static int refuse(struct program *p, int r, struct failure *f) {
        int status = r < 0 ? EXIT_LOST : EXIT_FAILURE;

        if (r < 0)
                (void)failure_set(f, r == -ENOMEM ? SPARK__V1__ERROR_CODE__NO_MEMORY : SPARK__V1__ERROR_CODE__INTERNAL,
                                  "the engine cannot start: %s", strerror(-r));
        log_error("%s", f->text);
        (void)link_send(&p->channel, frame_new_failed(0, f));
        return status;
}

static int serve(struct program *p) {
        bool stuck = false;
        int r;

        r = link_send(&p->channel, ready_frame(&p->host));
        if (r == 0)
                r = link_run(p->link, &p->host, &stuck);
        if (r == LINK_E_LOST)
                (void)channel_flush(&p->channel);
        if (stuck)
                _exit(r == LINK_E_CLOSED ? EXIT_SUCCESS : r == LINK_E_LOST ? EXIT_LOST : EXIT_FAILURE);
        if (r == LINK_E_CLOSED)
                return EXIT_SUCCESS;
        if (r < 0)
                log_error("the link to control: %s", strerror(-r));
        return r == LINK_E_LOST ? EXIT_LOST : EXIT_FAILURE;
}

static int run(struct program *p) {
        struct failure f;
        int r;

        r = link_receive_init(&p->channel, &p->message, p->fds, &p->n_fds);
        if (r != 0)
                return r == LINK_E_CLOSED ? EXIT_SUCCESS : EXIT_FAILURE;
        p->init = ((const Spark__Engine__V1__ControlFrame *)p->message)->init;
        if (p->init->log_level)
                log_init(PROGRAM, (enum log_level)p->init->log_level, getenv("JOURNAL_STREAM") != NULL);
        r = start(p, &f);
        if (r != 0 && p->link_ended)
                return EXIT_SUCCESS; /* control does not want it any more */
        return r != 0 ? refuse(p, r, &f) : serve(p);
}

int main(int argc, char **argv) {
        const struct channel_limits limits = {
                .frame_max = CHANNEL_FRAME_MAX_PRIVATE,
                .out_frames = OUT_FRAMES,
                .out_bytes = OUT_BYTES,
                .in_fds = CHANNEL_FDS_MAX,
        };
        struct program p = { .host = HOST_NULL };
        int fd = parse_link_fd(argc, argv), r;

        log_init(PROGRAM, LOG_LEVEL_NOTICE, getenv("JOURNAL_STREAM") != NULL);
        if (fd < 0) {
                (void)fprintf(stderr, "Usage: spark-engine --link FD\nStarted by sparkd, not by hand.\n");
                return EXIT_USAGE;
        }
        (void)signal(SIGPIPE, SIG_IGN);
        r = sandbox_lower();
        if (r < 0)
                log_warning("the sandbox is incomplete: %s", strerror(-r));
        r = channel_init(&p.channel, fd, &limits);
        if (r < 0) {
                log_error("file descriptor %d is no socket: %s", fd, strerror(-r));
                return EXIT_FAILURE;
        }
        r = run(&p);
        if (r == EXIT_LOST)
                _exit(r); /* a driver that has lost its device may never finish giving it back */
        p.watchdog = watchdog_free(p.watchdog);
        host_close(&p.host);
        p.link = link_free(p.link);
        p.message = message_free(p.message);
        channel_deinit(&p.channel);
        return r;
}
