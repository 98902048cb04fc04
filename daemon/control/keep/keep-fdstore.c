/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The service manager says nothing about a descriptor that it did not take, so how many it takes is counted here. How many
 * that may be stands in the environment ($FDSTORE); before systemd 254 it has to be asked for.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <systemd/sd-daemon.h>

#include "base/log.h"
#include "keep-private.h"
#include "unit.h"

#define ASK_US (2u * 1000000u) /* the bus may be starting together with us */

static size_t count_places(void) {
        const char *said = getenv("FDSTORE");
        uint32_t max = 0;
        int r;

        if (!getenv("NOTIFY_SOCKET"))
                return 0;
        if (said)
                return (size_t)strtoul(said, NULL, 10);
        r = unit_ask_fdstore_max(ASK_US, &max);
        if (r < 0)
                log_info("how many descriptors the service manager would keep for us is not known: %s", strerror(-r));
        return max;
}

void keep_store_init(struct keep_store *s) {
        *s = (struct keep_store){ .max = count_places() };
}

void keep_store_deinit(struct keep_store *s) {
        for (size_t i = 0; i < s->n; i++)
                free(s->names[i]);
        free(s->names);
        *s = (struct keep_store){ 0 };
}

int keep_store_note(struct keep_store *s, const char *name) {
        char *copy;

        if (s->n == s->room) {
                size_t room = MAX(s->room * 2, (size_t)64);
                char **names = reallocarray(s->names, room, sizeof(*names));

                if (!names)
                        return -ENOMEM;
                s->names = names;
                s->room = room;
        }
        copy = strdup(name);
        if (!copy)
                return -ENOMEM;
        s->names[s->n++] = copy;
        return 0;
}

/* True where one of this name was there. */
static bool forget(struct keep_store *s, const char *name) {
        for (size_t i = s->n; i > 0; i--)
                if (strcmp(s->names[i - 1], name) == 0) {
                        free(s->names[i - 1]);
                        s->names[i - 1] = s->names[--s->n];
                        return true;
                }
        return false;
}

static bool push_failed(struct keep_store *s, const char *name, const char *why) {
        if (!s->complained)
                log_warning("the service manager was not given '%s', which ends with this process now: %s", name, why);
        s->complained = true;
        return false;
}

bool keep_store_push(struct keep_store *s, const char *name, int fd, size_t spare) {
        char text[320];
        int r;

        if (s->n + spare >= s->max)
                return push_failed(s, name, "its store is full (FileDescriptorStoreMax=)");
        r = keep_store_note(s, name);
        if (r == 0) {
                (void)snprintf(text, sizeof(text), "FDSTORE=1\nFDNAME=%s", name);
                r = sd_pid_notify_with_fds(0, 0, text, &fd, 1);
                if (r <= 0)
                        (void)forget(s, name);
        }
        return r > 0 || push_failed(s, name, r < 0 ? strerror(-r) : "it is not there");
}

static void tell_remove(const char *name) {
        (void)sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=%s", name);
}

void keep_store_remove(struct keep_store *s, const char *name) {
        for (size_t i = 0; i < s->n; i++)
                if (strcmp(s->names[i], name) == 0) {
                        tell_remove(name); /* which may be the list's own */
                        (void)forget(s, name);
                        return;
                }
}

void keep_store_remove_all(struct keep_store *s) {
        while (s->n) {
                tell_remove(s->names[s->n - 1]);
                free(s->names[--s->n]);
        }
}
