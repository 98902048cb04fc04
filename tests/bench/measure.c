/* SPDX-License-Identifier: Apache-2.0 */

#include <dirent.h>
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/macro.h"
#include "client/spark.h"
#include "measure.h"

double measure_now_us(void) {
        struct timespec t;

        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

int samples_add(struct samples *s, double value) {
        if (s->n == s->cap) {
                size_t cap = s->cap ? s->cap * 2 : 256;
                double *p = reallocarray(s->values, cap, sizeof(*p));

                if (!p)
                        return -ENOMEM;
                s->values = p;
                s->cap = cap;
        }
        s->values[s->n++] = value;
        return 0;
}

int samples_add_all(struct samples *s, const struct samples *more) {
        for (size_t i = 0; i < more->n; i++)
                if (samples_add(s, more->values[i]) < 0)
                        return -ENOMEM;
        return 0;
}

void samples_deinit(struct samples *s) {
        free(s->values);
        *s = (struct samples){ 0 };
}

static int compare_double(const void *a, const void *b) {
        double x = *(const double *)a, y = *(const double *)b;

        return (x > y) - (x < y);
}

double samples_quantile(struct samples *s, double q) {
        double rank;

        if (s->n == 0)
                return 0;
        qsort(s->values, s->n, sizeof(*s->values), compare_double);
        /* the share of n that q is in floating point may lie a hair above a whole number */
        rank = ceil(q * (double)s->n - 1e-9);
        return s->values[rank < 1 ? 0 : MIN((size_t)rank, s->n) - 1];
}

/* A daemon is up when it greets and says that it is ready. */
static int wait_ready(const struct private_daemon *d) {
        for (int tries = 0; tries < 200; tries++) {
                struct spark *s = NULL;
                struct spark_result *result = NULL;
                uint64_t id;
                int ready = 0;

                if (spark_connect(&s, d->socket, "spark-bench") == 0 && spark_status(s, NULL, NULL, &id) == 0 &&
                    spark_wait(s, id, 2000, &result) == 0)
                        ready = strcmp(result->done->status->state, "ready") == 0;
                spark_result_free(result);
                spark_unref(s);
                if (ready)
                        return 0;
                if (waitpid(d->pid, NULL, WNOHANG) != 0)
                        return -ECHILD;
                (void)usleep(20000);
        }
        return -ETIMEDOUT;
}

static int write_config(const struct private_daemon *d, const char *path, const char *extra) {
        FILE *f = fopen(path, "we");

        if (!f)
                return -errno;
        (void)fprintf(f, "socket = \"%s\";\nstate_dir = \"%s\";\nbus = \"none\";\nbackend = \"null\";\n", d->socket,
                      d->dir);
        (void)fprintf(f, "log_level = \"warning\";\n%s\n", extra);
        return fclose(f) == 0 ? 0 : -EIO;
}

int private_daemon_start(struct private_daemon *d, const char *extra) {
        char self[PATH_MAX], program[PATH_MAX + 16], config[96];
        char *argv[4];
        ssize_t n;
        int r;

        (void)signal(SIGPIPE, SIG_IGN);
        d->pid = -1;
        (void)snprintf(d->dir, sizeof(d->dir), "%s", "/tmp/spark-bench.XXXXXX");
        if (!mkdtemp(d->dir))
                return -errno;
        (void)snprintf(d->socket, sizeof(d->socket), "%s/sparkd.sock", d->dir);
        (void)snprintf(config, sizeof(config), "%s/conf", d->dir);
        n = readlink("/proc/self/exe", self, sizeof(self) - 1);
        if (n < 0)
                return -errno;
        self[n] = 0;
        (void)snprintf(program, sizeof(program), "%s/sparkd", dirname(self));
        argv[0] = program;
        argv[1] = (char[]){ "--config" };
        argv[2] = config;
        argv[3] = NULL;

        r = write_config(d, config, extra);
        if (r == 0)
                r = -posix_spawn(&d->pid, program, NULL, NULL, argv, environ);
        if (r == 0)
                r = wait_ready(d);
        if (r < 0) {
                (void)fprintf(stderr, "spark-bench: %s did not come up: %s\n", program, strerror(-r));
                private_daemon_stop(d);
        }
        return r;
}

void private_daemon_stop(struct private_daemon *d) {
        char path[sizeof(d->dir) + 16];

        if (d->pid > 0) {
                (void)kill(d->pid, SIGTERM);
                (void)waitpid(d->pid, NULL, 0);
        }
        d->pid = -1;
        (void)snprintf(path, sizeof(path), "%s/conf", d->dir);
        (void)unlink(path);
        (void)unlink(d->socket);
        (void)rmdir(d->dir);
}

double process_cpu_us(pid_t pid) {
        char path[64], line[1024];
        unsigned long user, system;
        const char *p;
        FILE *f;
        int ok;

        (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        f = fopen(path, "re");
        if (!f)
                return -1;
        ok = fgets(line, sizeof(line), f) != NULL;
        (void)fclose(f);
        /* the command, in parentheses, may hold anything: fields are counted behind its last one */
        p = ok ? strrchr(line, ')') : NULL;
        if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
                return -1;
        return (double)(user + system) * 1e6 / (double)sysconf(_SC_CLK_TCK);
}

uint64_t process_private_bytes(pid_t pid) {
        char path[64], line[256];
        uint64_t sum = 0;
        FILE *f;

        (void)snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid);
        f = fopen(path, "re");
        if (!f)
                return 0;
        while (fgets(line, sizeof(line), f)) {
                unsigned long long kb;

                if (sscanf(line, "Private_Clean: %llu kB", &kb) == 1 || sscanf(line, "Private_Dirty: %llu kB", &kb) == 1)
                        sum += kb * 1024;
        }
        (void)fclose(f);
        return sum;
}

/* Parent and command of a process; 0 when it is gone. */
static int process_parent(pid_t pid, char *comm, size_t comm_size, pid_t *ret_parent) {
        char path[64], line[1024], *open, *close;
        FILE *f;
        int parent, ok;

        (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        f = fopen(path, "re");
        if (!f)
                return 0;
        ok = fgets(line, sizeof(line), f) != NULL;
        (void)fclose(f);
        open = ok ? strchr(line, '(') : NULL;
        close = open ? strrchr(open, ')') : NULL;
        if (!close || sscanf(close + 1, " %*c %d", &parent) != 1)
                return 0;
        *close = 0;
        (void)snprintf(comm, comm_size, "%s", open + 1);
        *ret_parent = parent;
        return 1;
}

pid_t process_find_child(pid_t parent, const char *name) {
        struct dirent *entry;
        pid_t found = -1;
        DIR *dir = opendir("/proc");

        while (dir && (entry = readdir(dir))) {
                char comm[64];
                pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10), its_parent;

                if (pid > 0 && process_parent(pid, comm, sizeof(comm), &its_parent) && its_parent == parent &&
                    strcmp(comm, name) == 0)
                        found = pid;
        }
        if (dir)
                (void)closedir(dir);
        return found;
}
