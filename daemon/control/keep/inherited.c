/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <systemd/sd-daemon.h>

#include "base/fd.h"
#include "inherited.h"

struct inherited {
        size_t n;
        char **names; /* of n descriptors from SD_LISTEN_FDS_START on; NULL = taken */
};

int inherited_new(struct inherited **ret) {
        struct inherited *in = calloc(1, sizeof(*in));
        int n;

        if (!in)
                return -ENOMEM;
        n = sd_listen_fds_with_names(1, &in->names);
        if (n < 0) {
                free(in);
                return n;
        }
        in->n = (size_t)n;
        *ret = in;
        return 0;
}

static int fd_of(size_t i) {
        return SD_LISTEN_FDS_START + (int)i;
}

static int take(struct inherited *in, size_t i) {
        free(in->names[i]);
        in->names[i] = NULL;
        return fd_of(i);
}

struct inherited *inherited_free(struct inherited *in) {
        if (!in)
                return NULL;
        for (size_t i = 0; i < in->n; i++)
                if (in->names[i])
                        (void)fd_close(take(in, i));
        free(in->names);
        free(in);
        return NULL;
}

int inherited_take(struct inherited *in, const char *name) {
        for (size_t i = 0; in && i < in->n; i++)
                if (in->names[i] && strcmp(in->names[i], name) == 0)
                        return take(in, i);
        return -1;
}

static bool is_listener(int fd) {
        return fd_has_option(fd, SO_ACCEPTCONN, 1);
}

int inherited_take_listener(struct inherited *in) {
        for (size_t i = 0; in && i < in->n; i++)
                if (in->names[i] && is_listener(fd_of(i)) && fd_has_option(fd_of(i), SO_DOMAIN, AF_UNIX) &&
                    fd_has_option(fd_of(i), SO_TYPE, SOCK_STREAM))
                        return take(in, i);
        return -1;
}

const char *inherited_next(struct inherited *in, size_t *pos) {
        while (in && *pos < in->n) {
                const char *name = in->names[(*pos)++];

                if (name)
                        return name;
        }
        return NULL;
}

int inherited_fd(const struct inherited *in, size_t pos) {
        return fd_of(pos - 1);
}

bool inherited_is_listener(const struct inherited *in, size_t pos) {
        return is_listener(fd_of(pos - 1));
}
