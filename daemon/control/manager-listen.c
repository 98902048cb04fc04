/* SPDX-License-Identifier: Apache-2.0 */

/* Where clients come from: the socket that was handed over, or one of our own. */

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>

#include "base/fd.h"
#include "base/log.h"
#include "clients/connection.h"
#include "keep/inherited.h"
#include "manager.h"
#include "request/pace.h"

#define ACCEPT_REST_US (100u * 1000u) /* out of descriptors: look again after that */

static int on_accept_again(sd_event_source *source, uint64_t usec, void *userdata) {
        struct manager *m = userdata;

        if (m->listener_source)
                (void)sd_event_source_set_enabled(m->listener_source, SD_EVENT_ON);
        return 0;
}

static int on_accept(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        struct manager *m = userdata;
        int r = 1, sock;

        for (int i = 0; i < LISTENER_ACCEPTS_PER_TURN && r == 1; i++) {
                r = listener_accept(&m->listener, &sock);
                pace_wake(m);
                if (r == 1 && connection_new(m, sock, (uid_t)-1) < 0)
                        log_warning("a connection could not be taken");
        }
        if (r < 0 || r == LISTENER_E_NO_FDS) {
                log_warning("accepting connections: %s", r < 0 ? strerror(-r) : "out of descriptors");
                (void)sd_event_source_set_enabled(source, SD_EVENT_OFF);
                if (sd_event_add_time_relative(m->event, NULL, CLOCK_MONOTONIC, ACCEPT_REST_US, 1000, on_accept_again,
                                               m) < 0)
                        (void)sd_event_source_set_enabled(source, SD_EVENT_ON);
        }
        return 0;
}

static int listen_at_path(struct manager *m) {
        const char *path = m->config->socket;
        int r = listener_init(&m->listener, path, (mode_t)m->config->socket_mode, (gid_t)-1);

        if (r == LISTENER_E_IN_USE)
                log_error("somebody listens at %s already; another sparkd? Stop it, or give this one a socket of its own", path);
        else if (r == LISTENER_E_NOT_SOCKET)
                log_error("%s is there and is no socket; it is left alone", path);
        else if (r == LISTENER_E_PATH)
                log_error("'%s' is no usable path for a socket (absolute, up to 107 bytes)", path);
        else if (r == -ENOENT)
                log_error("the folder of the socket %s does not exist", path);
        else if (r < 0)
                log_error("listening at %s: %s", path, strerror(-r));
        return r > 0 ? -EADDRINUSE : r;
}

/* 1 = there was one. */
static int listen_inherited(struct manager *m) {
        int fd = inherited_take_listener(m->inherited), r;

        if (fd < 0)
                return 0;
        r = listener_init_fd(&m->listener, fd);
        if (r == 0)
                return 1;
        log_warning("the socket that we were handed is of no use: %s", r < 0 ? strerror(-r) : "it is none");
        (void)fd_close(fd);
        return 0;
}

int manager_listen(struct manager *m) {
        int inherited = listen_inherited(m), r;

        if (!inherited) {
                r = listen_at_path(m);
                if (r < 0)
                        return r;
        }
        m->listening = true;
        r = sd_event_add_io(m->event, &m->listener_source, m->listener.fd, EPOLLIN, on_accept, m);
        if (r >= 0)
                log_info("listening at %s", inherited ? "the socket that was handed over" : m->config->socket);
        return r;
}

void manager_listen_end(struct manager *m) {
        m->listener_source = sd_event_source_disable_unref(m->listener_source);
        if (m->listening)
                listener_deinit(&m->listener);
        m->listening = false;
}
