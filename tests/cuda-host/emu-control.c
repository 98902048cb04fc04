/* SPDX-License-Identifier: Apache-2.0 */

/* What tests ask for: the device, errors and hangs on time, counts. And each runtime function's beginning and end. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "emu-private.h"

#define FAULTS_MAX 16u

struct fault {
        char name[48];
        uint64_t left; /* calls until it comes; 0: not set */
        cudaError_t error;
        bool sticky;
};

struct emu_state emu_state = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static struct {
        struct fault faults[FAULTS_MAX];
        uint64_t hang_left;
        cudaError_t sticky;
        bool eager;
        bool configured;
} control;

static _Thread_local cudaError_t last_error;

static const struct emu_device_config default_device = {
        .count = 1, .sm = 121, .sms = 48, .integrated = true, .pageable = true, .memory = UINT64_C(16) << 30, .driver = 13000,
};

static void lock(void) {
        (void)pthread_mutex_lock(&emu_state.lock);
        if (control.configured)
                return;
        control.configured = true;
        emu_state.device = default_device;
        (void)pthread_mutex_unlock(&emu_state.lock);
        if (!emu_configure(getenv("SPARK_CUDA_EMU")))
                emu_die("SPARK_CUDA_EMU=%s: not understood", getenv("SPARK_CUDA_EMU"));
        (void)pthread_mutex_lock(&emu_state.lock);
}

static void unlock(void) {
        (void)pthread_mutex_unlock(&emu_state.lock);
}

cudaError_t emu_count_event(const char *name) {
        for (size_t i = 0; i < FAULTS_MAX; i++) {
                struct fault *f = &control.faults[i];

                if (f->left == 0 || strcmp(f->name, name) != 0 || --f->left > 0)
                        continue;
                if (f->sticky)
                        emu_set_sticky(f->error);
                return f->error;
        }
        return cudaSuccess;
}

cudaError_t emu_begin(const char *name) {
        cudaError_t error;

        lock();
        error = emu_count_event(name);
        return error ? error : control.sticky;
}

cudaError_t emu_end(cudaError_t error) {
        unlock();
        if (error)
                last_error = error;
        return error;
}

void emu_set_sticky(cudaError_t error) {
        if (!control.sticky)
                control.sticky = error;
}

cudaError_t emu_sticky(void) {
        return control.sticky;
}

bool emu_hang_now(void) {
        return control.hang_left > 0 && --control.hang_left == 0;
}

bool emu_is_lazy(void) {
        return !control.eager;
}

cudaError_t cudaGetLastError(void) {
        cudaError_t error;

        lock();
        error = control.sticky ? control.sticky : last_error;
        unlock();
        last_error = cudaSuccess;
        return error;
}

cudaError_t cudaPeekAtLastError(void) {
        cudaError_t error;

        lock();
        error = control.sticky ? control.sticky : last_error;
        unlock();
        return error;
}

void emu_get_device(struct emu_device_config *ret) {
        lock();
        *ret = emu_state.device;
        unlock();
}

void emu_set_device(const struct emu_device_config *config) {
        lock();
        emu_state.device = *config;
        unlock();
}

void emu_set_lazy(bool lazy) {
        lock();
        control.eager = !lazy;
        unlock();
}

void emu_fail(const char *name, uint64_t n, cudaError_t error, bool sticky) {
        struct fault *f = control.faults, *end = f + FAULTS_MAX;

        lock();
        while (f < end && f->left > 0)
                f++;
        if (f == end)
                emu_die("emu_fail(): more than %u errors at once", FAULTS_MAX);
        *f = (struct fault){.left = n, .error = error, .sticky = sticky};
        (void)snprintf(f->name, sizeof f->name, "%s", name);
        unlock();
}

void emu_hang(uint64_t n) {
        lock();
        control.hang_left = n;
        unlock();
}

void emu_get_counts(struct emu_counts *ret) {
        lock();
        *ret = emu_state.counts;
        unlock();
}

void emu_reset(void) {
        lock();
        memset(control.faults, 0, sizeof control.faults);
        control.hang_left = 0;
        control.sticky = cudaSuccess;
        control.eager = false;
        emu_state.device = default_device;
        emu_state.counts.launches = emu_state.counts.graph_launches = 0;
        emu_state.counts.kernels = emu_state.counts.blocks = 0;
        emu_streams_drop();
        (void)pthread_cond_broadcast(&emu_state.changed);
        unlock();
        last_error = cudaSuccess;
        emu_set_order(EMU_ORDER_ASCENDING, 0);
}

static bool parse_number(const char *text, uint64_t *ret) {
        char *end;

        errno = 0;
        *ret = strtoull(text, &end, 0);
        return errno == 0 && end != text && *end == '\0';
}

/* NAME:N or NAME:N:ERROR, the error a number, sticky. */
static bool configure_fail(char *value) {
        char *name = strtok_r(value, ":", &value), *n = strtok_r(NULL, ":", &value), *code = strtok_r(NULL, ":", &value);
        uint64_t number, error = cudaErrorLaunchFailure;

        if (!name || !n || !parse_number(n, &number) || (code && !parse_number(code, &error)))
                return false;
        emu_fail(name, number, (cudaError_t)error, true);
        return true;
}

/* NAME or NAME:SEED */
static bool configure_order(char *value) {
        static const char *const names[] = {"ascending", "descending", "shuffled"};
        char *name = strtok_r(value, ":", &value), *seed = strtok_r(NULL, ":", &value);
        uint64_t number = 0;

        if (!name || (seed && !parse_number(seed, &number)))
                return false;
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
                if (strcmp(names[i], name) == 0) {
                        emu_set_order((enum emu_order)i, number);
                        return true;
                }
        return false;
}

static bool configure_word(const char *key, char *value) {
        struct emu_device_config *d = &emu_state.device;
        uint64_t n;

        if (strcmp(key, "fail") == 0)
                return configure_fail(value);
        if (strcmp(key, "order") == 0)
                return configure_order(value);
        if (strcmp(key, "hang") == 0 && strncmp(value, "launch:", 7) == 0)
                value += 7;
        if (!parse_number(value, &n))
                return false;
        if (strcmp(key, "sm") == 0)
                d->sm = (unsigned)n;
        else if (strcmp(key, "sms") == 0)
                d->sms = (unsigned)n;
        else if (strcmp(key, "count") == 0)
                d->count = (unsigned)n;
        else if (strcmp(key, "unified") == 0)
                d->integrated = d->pageable = n != 0;
        else if (strcmp(key, "integrated") == 0)
                d->integrated = n != 0;
        else if (strcmp(key, "pageable") == 0)
                d->pageable = n != 0;
        else if (strcmp(key, "memory") == 0)
                d->memory = n;
        else if (strcmp(key, "driver") == 0)
                d->driver = (int)n;
        else if (strcmp(key, "lazy") == 0)
                control.eager = n == 0;
        else if (strcmp(key, "hang") == 0)
                control.hang_left = n;
        else
                return false;
        return true;
}

bool emu_configure(const char *words) {
        char *copy, *word, *rest;
        bool ok = true;

        if (!words)
                return true;
        copy = strdup(words);
        if (!copy)
                emu_die("out of memory");
        for (word = strtok_r(copy, ",", &rest); ok && word; word = strtok_r(NULL, ",", &rest)) {
                char *value = strchr(word, '=');

                if (value)
                        *value++ = '\0';
                ok = value && configure_word(word, value);
        }
        free(copy);
        return ok;
}
