/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Checks what usually goes wrong, from the socket to the kernel, and says what to do about it. Each check adds lines to
 * a report; none needs another one to have passed, and all but one work without the service.
 */

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/landlock.h"
#include "doctor.h"
#include "options.h"

#define ANSWER_TIMEOUT_MS 5000
#define FLOOR_MIN ((uint64_t)6 << 30) /* what the service keeps free unless it is told otherwise */

static const char *const level_names[] = { "ok", "warn", "fail" };

void doctor_note(struct doctor *d, enum level level, const char *check, const char *advice, const char *fmt, ...) {
        static const char *const colours[] = { "\033[32m", "\033[33m", "\033[31m" };
        char message[400], safe[400];
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(message, sizeof(message), fmt, ap);
        va_end(ap);
        d->n_warn += level == LEVEL_WARN;
        d->n_fail += level == LEVEL_FAIL;
        if (d->ctl->json) {
                json_open(&d->json, NULL, '{');
                json_string(&d->json, "check", check);
                json_string(&d->json, "status", level_names[level]);
                json_string(&d->json, "message", message);
                if (advice)
                        json_string(&d->json, "advice", advice);
                json_close(&d->json, '}');
                return;
        }
        (void)printf("%s%-4s%s  %-10s  %s\n", d->ctl->colours ? colours[level] : "", level_names[level],
                     d->ctl->colours ? "\033[0m" : "", check, format_safe(message, safe, sizeof(safe)));
        if (advice)
                (void)printf("                  %s\n", advice);
}

const char *doctor_read_line(const char *path, char *out, size_t size) {
        _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd >= 0 ? read(fd, out, size - 1) : -1;

        out[n > 0 ? n : 0] = 0;
        out[strcspn(out, "\n")] = 0;
        return out;
}

/* ---- the socket ---- */

static void socket_forbidden(struct doctor *d, const struct stat *st) {
        const struct group *gr = getgrgid(st->st_gid);
        const struct passwd *pw = getpwuid(getuid());
        char advice[256];

        if (gr && (st->st_mode & S_IWGRP))
                (void)snprintf(advice, sizeof(advice), "Do: sudo usermod -aG %.60s %.60s, then log in again.",
                               gr->gr_name, pw ? pw->pw_name : "YOUR-NAME");
        else
                (void)snprintf(advice, sizeof(advice), "Ask the administrator: only the socket's owner may use it.");
        doctor_note(d, LEVEL_FAIL, "socket", advice, "%s is not yours to use (mode %04o, group %s).", d->ctl->socket,
             (unsigned)st->st_mode & 07777, gr ? gr->gr_name : "unknown");
}

static void check_socket(struct doctor *d) {
        struct stat st;

        if (stat(d->ctl->socket, &st) < 0) {
                int error = errno;

                doctor_note(d, LEVEL_FAIL, "socket",
                     error == EACCES ? "Ask the administrator for access to its folder."
                                     : "Start the service: systemctl start sparkd (or sparkd --config FILE, and name "
                                       "its socket with -S).",
                     "%s: %s.", d->ctl->socket, strerror(error));
        } else if (!S_ISSOCK(st.st_mode)) {
                doctor_note(d, LEVEL_FAIL, "socket", "Remove it, or name the right path with -S.", "%s is not a socket.",
                     d->ctl->socket);
        } else if (access(d->ctl->socket, W_OK) < 0) {
                socket_forbidden(d, &st);
        } else {
                doctor_note(d, LEVEL_OK, "socket", NULL, "%s is there and you may use it (mode %04o).", d->ctl->socket,
                     (unsigned)st.st_mode & 07777);
        }
}

/* ---- the service ---- */

static void check_models(struct doctor *d, const struct spark_status_result *s) {
        unsigned ready = 0;

        for (size_t i = 0; i < s->n_models; i++) {
                const struct spark_model *m = s->models[i];

                ready += strcmp(m->state, "ready") == 0;
                if (strcmp(m->state, "failed") == 0)
                        doctor_note(d, LEVEL_WARN, "models", "Replace the file, or load another one: sparkctl load FILE",
                             "%s could not be loaded: %s", m->name, m->error);
                if (m->engine_restarts > 0)
                        doctor_note(d, LEVEL_WARN, "models", "Its log says why: journalctl -u sparkd",
                             "The engine of %s was restarted %u time%s.", m->name, m->engine_restarts,
                             words_s(m->engine_restarts));
        }
        if (s->n_models == 0)
                doctor_note(d, LEVEL_WARN, "models", "Load one: sparkctl load FILE, or name it in the configuration.",
                     "The service knows no model.");
        else
                doctor_note(d, LEVEL_OK, "models", NULL, "%zu known, %u ready.", s->n_models, ready);
}

static void check_ledger(struct doctor *d, const struct spark_status_result *s) {
        char a[32], b[32];

        if (s->memory_available < s->memory_floor)
                doctor_note(d, LEVEL_WARN, "budget", "Close applications, or unload a model: sparkctl unload NAME",
                     "%s are available, the service keeps %s free: it refuses to load more.",
                     words_bytes(s->memory_available, a), words_bytes(s->memory_floor, b));
        else
                doctor_note(d, LEVEL_OK, "budget", NULL, "Models may still take %s (%s stay free).",
                     words_bytes(s->memory_available - s->memory_floor, a), words_bytes(s->memory_floor, b));
}

static void judge_status(struct doctor *d, const struct spark_status_result *s) {
        if (strcmp(s->version, SPARK_VERSION) != 0)
                doctor_note(d, LEVEL_WARN, "service", "Restart the service after an upgrade: systemctl restart sparkd",
                     "It is version %s, sparkctl is %s.", s->version, SPARK_VERSION);
        else
                doctor_note(d, LEVEL_OK, "service", NULL, "sparkd %s answers; it is %s.", s->version, s->state);
        for (size_t i = 0; i < s->n_warnings; i++)
                doctor_note(d, LEVEL_WARN, "service", "Its log says when that began: journalctl -u sparkd", "%s", s->warnings[i]);
        check_models(d, s);
        check_ledger(d, s);
        doctor_judge_power(d, s->power);
}

static void check_service(struct doctor *d) {
        struct spark_result *result = NULL;
        uint64_t id;
        int r;

        r = spark_connect(&d->ctl->spark, d->ctl->socket, "sparkctl " SPARK_VERSION);
        if (r < 0) {
                if (r == -EACCES || r == -EPERM) /* what to do about that, the socket's line says */
                        doctor_note(d, LEVEL_FAIL, "service", NULL, "It can't be asked: %s.", strerror(-r));
                else
                        doctor_note(d, LEVEL_FAIL, "service", "Start it: systemctl start sparkd. Its log: journalctl -u sparkd",
                             "Nobody answers: %s.", strerror(-r));
                return;
        }
        r = spark_status(d->ctl->spark, NULL, NULL, &id);
        if (r == 0)
                r = spark_wait(d->ctl->spark, id, ANSWER_TIMEOUT_MS, &result);
        if (r == 0 && result->done->status)
                judge_status(d, result->done->status);
        else if (r > 0 && result)
                doctor_note(d, LEVEL_FAIL, "service", "Its log says more: journalctl -u sparkd", "It refuses: %s (%s).",
                     result->error->message, spark_code_name(r));
        else
                doctor_note(d, LEVEL_FAIL, "service", "See what it is doing: journalctl -u sparkd", "It does not answer: %s.",
                     strerror(r < 0 ? -r : EPROTO));
        (void)spark_result_free(result);
}

/* ---- the machine ---- */

static uint64_t meminfo(const char *text, const char *key) {
        const char *p = strstr(text, key);

        return p ? strtoull(p + strlen(key), NULL, 10) << 10 : 0;
}

static void check_memory(struct doctor *d) {
        _cleanup_fd_ int fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
        char text[4096], a[32], b[32];
        uint64_t total, available;
        ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;

        text[n > 0 ? n : 0] = 0;
        total = meminfo(text, "MemTotal:");
        available = meminfo(text, "MemAvailable:");
        if (total == 0)
                doctor_note(d, LEVEL_FAIL, "memory", "Mount /proc.", "/proc/meminfo can't be read.");
        else if (available < MAX(FLOOR_MIN, total / 20))
                doctor_note(d, LEVEL_WARN, "memory",
                     "Close applications; a small machine needs a lower floor in the configuration.",
                     "%s available of %s: below the usual floor, only small models fit.", words_bytes(available, a),
                     words_bytes(total, b));
        else
                doctor_note(d, LEVEL_OK, "memory", NULL, "%s available of %s.", words_bytes(available, a),
                     words_bytes(total, b));
}

static void check_overcommit(struct doctor *d) {
        char mode[16];

        switch (doctor_read_line("/proc/sys/vm/overcommit_memory", mode, sizeof(mode))[0]) {
        case '0':
                doctor_note(d, LEVEL_OK, "overcommit", NULL, "The kernel's default.");
                break;
        case '1':
                doctor_note(d, LEVEL_WARN, "overcommit", "Set it back: sysctl vm.overcommit_memory=0",
                     "vm.overcommit_memory is 1: other programs may take memory that isn't there.");
                break;
        case '2':
                doctor_note(d, LEVEL_WARN, "overcommit",
                     "If loading fails, raise vm.overcommit_ratio or set vm.overcommit_memory=0",
                     "vm.overcommit_memory is 2: large models may be refused though memory is free.");
                break;
        default:
                doctor_note(d, LEVEL_WARN, "overcommit", "Mount /proc.", "vm.overcommit_memory can't be read.");
                break;
        }
}

static void check_kernel(struct doctor *d) {
        char disabled[16];
        struct utsname u;

        if (uname(&u) == 0)
                doctor_note(d, LEVEL_OK, "kernel", NULL, "%s %s on %s.", u.sysname, u.release, u.machine);
        if (access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0)
                doctor_note(d, LEVEL_OK, "cgroup", NULL, "The unified hierarchy is mounted.");
        else
                doctor_note(d, LEVEL_WARN, "cgroup", "Boot with systemd.unified_cgroup_hierarchy=1.",
                     "No unified cgroup hierarchy: requests can't be told apart by unit.");
        if (access("/proc/pressure/memory", R_OK) == 0)
                doctor_note(d, LEVEL_OK, "pressure", NULL, "The kernel tells of memory pressure (PSI).");
        else
                doctor_note(d, LEVEL_WARN, "pressure", "Boot with psi=1.",
                     "No pressure information: memory is given back later.");
        switch (doctor_read_line("/proc/sys/kernel/io_uring_disabled", disabled, sizeof(disabled))[0]) {
        case '1':
        case '2':
                doctor_note(d, LEVEL_WARN, "io_uring", "For faster loading: sysctl kernel.io_uring_disabled=0",
                     "Disabled: model files are read with plain calls.");
                break;
        default:
                doctor_note(d, LEVEL_OK, "io_uring", NULL, "Allowed.");
                break;
        }
}

/* The kernel is the service's, too. */
static void check_landlock(struct doctor *d) {
        unsigned version = landlock_version();

        if (version > 0)
                doctor_note(d, LEVEL_OK, "landlock", NULL, "Version %u keeps loader and engines from files.", version);
        else
                doctor_note(d, LEVEL_WARN, "landlock", "Boot a kernel with Landlock, and with it in the list that lsm= has.",
                            "Not in this kernel: loader and engines are kept in by their system calls alone.");
}

static int finish(struct doctor *d) {
        int status = d->n_fail > 0 ? EXIT_OTHER : EXIT_DONE;

        if (!d->ctl->json) {
                if (d->n_fail + d->n_warn == 0)
                        (void)printf("\nEverything is fine.\n");
                else
                        (void)printf("\n%u failed, %u warning%s.\n", d->n_fail, d->n_warn, words_s(d->n_warn));
                return status;
        }
        json_close(&d->json, ']');
        json_bool(&d->json, "ok", d->n_fail == 0);
        json_u64(&d->json, "warnings", d->n_warn);
        json_u64(&d->json, "failures", d->n_fail);
        json_close(&d->json, '}');
        return json_print(&d->json) < 0 ? EXIT_OTHER : status;
}

int verb_doctor(struct ctl *ctl, int argc, char **argv) {
        const struct option_spec spec = {
                .verb = "doctor",
                .usage = "",
                .text = "Checks the socket, the service, memory, the GPU driver and the kernel. Each line says ok,\n"
                        "warn or fail, and what to do. Exit status 1 when something failed. With --json: checks\n"
                        "[{check, status, message, advice}], ok, warnings, failures.\n",
        };
        struct doctor d = { .ctl = ctl, .json = JSON_NULL };
        int status = options_parse_bare(ctl, &spec, argc, argv);

        if (status >= 0)
                return status;
        if (ctl->json) {
                json_open(&d.json, NULL, '{');
                json_open(&d.json, "checks", '[');
        }
        check_socket(&d);
        check_service(&d);
        check_memory(&d);
        check_overcommit(&d);
        doctor_check_gpu(&d);
        check_kernel(&d);
        check_landlock(&d);
        status = finish(&d);
        json_deinit(&d.json);
        return status;
}
