/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "ctl.h"

#define HELLO_TIMEOUT_MS 30000 /* a service that socket activation has to start first takes its time */

static int fail_connect(const struct ctl *ctl, int error) {
        switch (error) {
        case ENOENT:
        case ECONNREFUSED:
        case ENOTDIR:
                return ctl_fail(ctl, EXIT_NO_DAEMON, "NOT_RUNNING",
                                "Start it: systemctl start sparkd (or sparkd --config FILE for a private one, and name "
                                "its socket with -S). `sparkctl doctor` looks for the cause.",
                                "sparkd is not running: nobody answers at %s.", ctl->socket);
        case EACCES:
        case EPERM:
                return ctl_fail(ctl, EXIT_NOT_PERMITTED, "PERMISSION_DENIED",
                                "Ask the administrator to add you to the socket's group (sudo usermod -aG spark "
                                "$USER), then log in again. `sparkctl doctor` shows the permissions.",
                                "You may not use the socket %s.", ctl->socket);
        case EAGAIN:
                return ctl_fail(ctl, EXIT_BUSY, "BUSY", "Try again in a moment: they are let in one after the other.",
                                "Too many programs wait to be let in at %s.", ctl->socket);
        case ENAMETOOLONG:
        case EINVAL:
                return ctl_fail_usage(ctl, NULL, "'%s' can't be the path of a socket (1 to 107 bytes).", ctl->socket);
        default:
                return ctl_fail(ctl, EXIT_OTHER, "CONNECT", "`sparkctl doctor` looks for the cause.",
                                "Connecting to %s failed: %s.", ctl->socket, strerror(error));
        }
}

static int fail_hello(const struct ctl *ctl, int r) {
        struct spark_error error = { 0 };

        if (r == -ETIMEDOUT)
                return ctl_fail(ctl, EXIT_NO_DAEMON, "NO_ANSWER", "See what it is doing: journalctl -u sparkd",
                                "Somebody listens at %s but does not answer.", ctl->socket);
        if (r == -EINTR)
                return EXIT_INTERRUPTED;
        if (spark_failed(ctl->spark, &error)) {
                struct call call = { .code = error.code };

                (void)snprintf(call.message, sizeof(call.message), "%s", error.message);
                return ctl_fail_call(ctl, &call);
        }
        return ctl_fail(ctl, EXIT_OTHER, "CONNECT", NULL, "The greeting failed: %s.", strerror(-r));
}

int ctl_connect(struct ctl *ctl) {
        int r;

        if (ctl->spark)
                return 0;
        r = spark_connect(&ctl->spark, ctl->socket, "sparkctl " SPARK_VERSION);
        if (r < 0)
                return fail_connect(ctl, -r);
        r = spark_wait_hello(ctl->spark, HELLO_TIMEOUT_MS);
        if (r != 0)
                return fail_hello(ctl, r);
        return 0;
}

int ctl_connect_asking(struct ctl *ctl, bool asking) {
        int status = ctl_connect(ctl);

        if (status || !asking || ctl->no_ask_password || (!ctl->ask_password && !(ctl->tty_in && ctl->tty_out)) ||
            !spark_server_has(ctl->spark, "authorization"))
                return status;
        (void)spark_set_interactive_authorization(ctl->spark, 1);
        ctl_agent_begin(ctl);
        return 0;
}

/* ---- signals ---- */

int ctl_signals_block(struct ctl *ctl) {
        sigset_t set;

        if (ctl->signal_fd >= 0)
                return 0;
        (void)sigemptyset(&set);
        (void)sigaddset(&set, SIGINT);
        (void)sigaddset(&set, SIGTERM);
        ctl->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        if (ctl->signal_fd < 0 || sigprocmask(SIG_BLOCK, &set, NULL) < 0)
                return ctl_fail(ctl, EXIT_OTHER, "INTERNAL", NULL, "Signals can't be watched: %s.", strerror(errno));
        return 0;
}

void ctl_signals_take(struct ctl *ctl) {
        struct signalfd_siginfo info;

        while (read(ctl->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
                ctl->interrupts++;
                if (info.ssi_signo == SIGTERM)
                        ctl->terminated = true;
        }
}

/* ---- calls ---- */

static void show_progress(struct ctl *ctl, const struct spark_progress *p) {
        char stage[32];

        (void)format_safe(p->stage, stage, sizeof(stage));
        if (strcmp(p->stage, "room") == 0 || strcmp(p->stage, "power") == 0)
                ctl_progress(ctl, "waits for %s", stage);
        else if (p->total > 0)
                ctl_progress(ctl, "%s %u %%", stage, (unsigned)((double)p->done / (double)p->total * 100));
        else
                ctl_progress(ctl, "%s %llu", stage, (unsigned long long)p->done);
}

static void call_end(struct call *call, const struct spark_error *error) {
        call->ended = true;
        if (!error)
                return;
        call->code = error->code;
        call->have = error->have;
        call->max = error->max;
        call->retry_after_ms = error->retry_after_ms;
        (void)snprintf(call->message, sizeof(call->message), "%s", error->message);
}

int call_event(struct spark *s, const struct spark_event *event, void *userdata) {
        struct call *call = userdata;

        if (event->type != SPARK_EVENT_PROGRESS)
                ctl_progress_clear(call->ctl);
        switch (event->type) {
        case SPARK_EVENT_TOKEN:
                if (call->on_tokens)
                        call->on_tokens(call, event->tokens);
                return 0;
        case SPARK_EVENT_PROGRESS:
                if (call->show_progress)
                        show_progress(call->ctl, event->progress);
                return 0;
        case SPARK_EVENT_DONE:
                if (call->on_done)
                        call->on_done(call, event->done);
                call_end(call, NULL);
                return 0;
        default:
                call_end(call, event->error);
                return 0;
        }
}

int call_fail_start(const struct ctl *ctl, int r) {
        switch (r) {
        case -EMSGSIZE:
                return ctl_fail(ctl, EXIT_BAD_DATA, "TOO_LARGE", "Shorten it.", "The request is larger than 4 MiB.");
        case -ENOTCONN:
                return ctl_fail(ctl, EXIT_NO_DAEMON, "DISCONNECTED", "See whether it is back: sparkctl status",
                                "The service closed the connection.");
        default:
                return ctl_fail(ctl, EXIT_OTHER, "INTERNAL", NULL, "The request can't be sent: %s.", strerror(-r));
        }
}

/* One turn of waiting. 0 or the exit status. */
static int call_turn(struct call *call) {
        struct ctl *ctl = call->ctl;
        struct pollfd fds[] = { { .fd = spark_fd(ctl->spark), .events = POLLIN },
                                { .fd = ctl->signal_fd, .events = POLLIN } };
        unsigned before = ctl->interrupts;
        int r;

        if (poll(fds, ARRAY_SIZE(fds), -1) < 0 && errno != EINTR)
                return ctl_fail(ctl, EXIT_OTHER, "INTERNAL", NULL, "Waiting failed: %s.", strerror(errno));
        if (fds[1].revents)
                ctl_signals_take(ctl);
        if (ctl->interrupts > before) {
                if (call->cancelled)
                        return EXIT_INTERRUPTED;
                call->cancelled = true;
                (void)spark_cancel(ctl->spark, call->id);
        }
        r = spark_process(ctl->spark);
        if (r < 0 && !call->ended)
                return call_fail_start(ctl, r);
        return 0;
}

int call_wait(struct call *call, int r) {
        struct ctl *ctl = call->ctl;

        if (r < 0)
                return call_fail_start(ctl, r);
        r = ctl_signals_block(ctl);
        while (r == 0 && !call->ended)
                r = call_turn(call);
        ctl_progress_clear(ctl);
        if (r != 0)
                return r;
        if (call->cancelled)
                return EXIT_INTERRUPTED;
        if (call->code != 0 && !call->quiet)
                return call_report(call);
        return call->code != 0 ? EXIT_OTHER : EXIT_DONE;
}

int call_report(const struct call *call) {
        return ctl_fail_call(call->ctl, call);
}

/* ---- models ---- */

int ctl_find_model(struct ctl *ctl, const char *name, const struct spark_model **ret,
                   struct spark_result **ret_result) {
        struct spark_result *result = NULL;
        struct call call = { .ctl = ctl };
        int r;

        r = spark_models(ctl->spark, NULL, NULL, &call.id);
        if (r < 0)
                return call_fail_start(ctl, r);
        r = spark_wait(ctl->spark, call.id, -1, &result);
        if (r < 0)
                return r == -EINTR ? EXIT_INTERRUPTED : call_fail_start(ctl, r);
        if (r > 0) {
                call_end(&call, result->error);
                (void)spark_result_free(result);
                return call_report(&call);
        }
        *ret = NULL;
        for (size_t i = 0; i < result->done->n_models; i++) {
                const struct spark_model *m = result->done->models[i];

                if (name ? strcmp(m->name, name) == 0 : m->is_default)
                        *ret = m;
        }
        *ret_result = result;
        return 0;
}
