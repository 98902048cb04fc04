/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * sparkctl: the command line. main.c wires; each verb-*.c holds a verb or a group of them; options.c reads the command
 * line, session.c talks to the service, output.c and json.c write.
 *
 * A verb gets the arguments behind its name and returns the process's exit status. What goes wrong is reported once,
 * where it is noticed, by ctl_fail() and its siblings, which return the exit status: `return ctl_fail(...)`.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macro.h"
#include "base/words.h"
#include "client/spark.h"

enum {
        EXIT_DONE = 0,
        EXIT_OTHER = 1,
        EXIT_USAGE = 64,
        EXIT_BAD_DATA = 65,
        EXIT_NO_DAEMON = 69,
        EXIT_BUSY = 75,
        EXIT_NOT_PERMITTED = 77,
        EXIT_INTERRUPTED = 130,
};

struct ctl {
        const char *socket;  /* path */
        bool json;
        bool ask_password, no_ask_password; /* as the command line says; neither: on a terminal */
        int agent_pid;       /* 0: none */
        bool tty_in, tty_out, tty_err;
        bool dumb;           /* the terminal knows no control sequences */
        bool colours;        /* are wanted on standard output */
        struct spark *spark; /* NULL until ctl_connect() */
        int signal_fd;       /* -1 until ctl_signals_block() */
        unsigned interrupts; /* taken from signal_fd */
        bool terminated;     /* one of them was SIGTERM: no more than tidying up */
        bool progress_shown; /* a progress line stands on the terminal */
        int64_t progress_ms; /* when it was drawn */
};

/* main.c */
typedef int (*verb_fn)(struct ctl *ctl, int argc, char **argv);
int verb_status(struct ctl *ctl, int argc, char **argv);
int verb_models(struct ctl *ctl, int argc, char **argv);
int verb_models_list(struct ctl *ctl, int argc, char **argv);
int verb_ps(struct ctl *ctl, int argc, char **argv);
int verb_top(struct ctl *ctl, int argc, char **argv);
int verb_usage(struct ctl *ctl, int argc, char **argv);
int verb_load(struct ctl *ctl, int argc, char **argv);
int verb_pack(struct ctl *ctl, int argc, char **argv);
int verb_unload(struct ctl *ctl, int argc, char **argv);
int verb_yield(struct ctl *ctl, int argc, char **argv);
int verb_hold(struct ctl *ctl, int argc, char **argv);
int verb_jobs(struct ctl *ctl, int argc, char **argv);
int verb_leases(struct ctl *ctl, int argc, char **argv);
int verb_generate(struct ctl *ctl, int argc, char **argv);
int verb_chat(struct ctl *ctl, int argc, char **argv);
int verb_tokenize(struct ctl *ctl, int argc, char **argv);
int verb_detokenize(struct ctl *ctl, int argc, char **argv);
int verb_perplexity(struct ctl *ctl, int argc, char **argv);
int verb_session(struct ctl *ctl, int argc, char **argv);
int verb_prewarm(struct ctl *ctl, int argc, char **argv);
int verb_forget(struct ctl *ctl, int argc, char **argv);
int verb_doctor(struct ctl *ctl, int argc, char **argv);

/* ---- session.c ---- */

/* Connects where ctl->spark is NULL. 0 or the exit status. */
int ctl_connect(struct ctl *ctl);

/* The same; asking: for what the caller may not be allowed to, so that a person may be asked for a password, on the terminal where
 * there is one. */
int ctl_connect_asking(struct ctl *ctl, bool asking);

/* ---- agent.c ---- */
/* Lets polkit's agent for terminals ask on ours, until ctl_agent_end(); does nothing where it is not installed. */
void ctl_agent_begin(struct ctl *ctl);
void ctl_agent_end(struct ctl *ctl);

struct json;

/* A request under way, and how it ended. Zero-initialise, set the hooks, start the request with call_event and this as
 * its callback, then call_wait(). */
struct call {
        struct ctl *ctl;
        uint64_t id;
        void (*on_tokens)(struct call *call, const struct spark_tokens *tokens);
        void (*on_done)(struct call *call, const struct spark_done *done);
        void *data;
        void (*more_json)(struct json *j, const struct call *call); /* keys that go with an error, with --json; or NULL */
        const char *hint_not_found; /* what to do where there is no such model, if more is known than for any verb; or NULL */
        bool show_progress;
        bool quiet;     /* errors are the caller's to report */
        bool ended;
        bool cancelled; /* by an interrupt */
        int code;       /* enum spark_code, 0 when it is done */
        char message[512];
        uint64_t have, max;
        uint32_t retry_after_ms;
};

int call_event(struct spark *s, const struct spark_event *event, void *userdata);
/* Waits for the end; `r` is what starting the request returned. The first interrupt cancels the request, a second one
 * gives up waiting. Exit status: 0, that of the error (reported unless quiet), or EXIT_INTERRUPTED. */
int call_wait(struct call *call, int r);
/* Reports that a request could not be started, or its connection is gone: `r` is -errno. Exit status. */
int call_fail_start(const struct ctl *ctl, int r);
/* Reports the error of a call that was quiet. */
int call_report(const struct call *call);

/* From here on SIGINT and SIGTERM come through signal_fd, which call_wait() watches. 0 or the exit status. */
int ctl_signals_block(struct ctl *ctl);
/* Takes the signals that wait, counting them in ctl->interrupts. */
void ctl_signals_take(struct ctl *ctl);

/* Finds a model by name (NULL: the default one). 0 or the exit status. `ret` is valid while *ret_result lives. */
int ctl_find_model(struct ctl *ctl, const char *name, const struct spark_model **ret,
                   struct spark_result **ret_result);

/* ---- output.c ---- */

/* Prints "sparkctl: ..." (or, with --json, an error object) and returns status. hint (may be NULL) says what to do. */
int ctl_fail(const struct ctl *ctl, int status, const char *code, const char *hint, const char *fmt, ...)
        _printf_(5, 6);
/* Does the same for what a call ended with. */
int ctl_fail_call(const struct ctl *ctl, const struct call *call);
/* A wrong command line; verb may be NULL. */
int ctl_fail_usage(const struct ctl *ctl, const char *verb, const char *fmt, ...) _printf_(3, 4);
/* Ends the output: a failed write becomes an exit status. */
int ctl_finish(const struct ctl *ctl, int status);

/* Draws "stage 42 %" on standard error, on a terminal only, at most ten times a second; clears it. */
void ctl_progress(struct ctl *ctl, const char *fmt, ...) _printf_(2, 3);
void ctl_progress_clear(struct ctl *ctl);

/* "1 h 5 min", "12 s". */
const char *format_duration(double seconds, char out[32]);
/* The text, or its beginning, as it may go to a terminal: control characters, and what is no character, become '?'. For names that
 * others chose. Returns out. */
const char *format_safe(const char *text, char *out, size_t size);
