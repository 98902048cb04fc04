/* SPDX-License-Identifier: Apache-2.0 */

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "aside.h"
#include "base/fd.h"

struct aside {
        size_t n;
        int fds[];
};

static void close_all(int *fds, size_t n) {
        for (size_t i = 0; i < n; i++)
                fds[i] = fd_close(fds[i]);
}

static void *thread_main(void *userdata) {
        struct aside *a = userdata;

        close_all(a->fds, a->n);
        free(a);
        return NULL;
}

/* Signals are the loop's. */
static int start(struct aside *a) {
        sigset_t all, before;
        pthread_attr_t attr;
        pthread_t thread;
        int r;

        r = pthread_attr_init(&attr);
        if (r)
                return -r;
        (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        (void)sigfillset(&all);
        (void)pthread_sigmask(SIG_SETMASK, &all, &before);
        r = pthread_create(&thread, &attr, thread_main, a);
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
        (void)pthread_attr_destroy(&attr);
        return -r;
}

void aside_close(int *fds, size_t n) {
        struct aside *a = malloc(sizeof(*a) + n * sizeof(*fds));

        if (!a) {
                close_all(fds, n);
                return;
        }
        a->n = 0;
        for (size_t i = 0; i < n; i++) {
                if (fds[i] >= 0)
                        a->fds[a->n++] = fd_steal(&fds[i]);
        }
        if (a->n > 0 && start(a) == 0)
                return;
        close_all(a->fds, a->n);
        free(a);
}
