/* SPDX-License-Identifier: Apache-2.0 */

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "rights.h"

#define ACTION(name) "org.sparkd.Spark1." name

static const struct {
        const char *action, *refusal;
} rights[RIGHTS] = {
        [RIGHT_USE] = { ACTION("use"),
                        "Access denied: your user is not in the socket's group, and not at this machine (" ACTION("use") ")." },
        [RIGHT_USE_INTERACTIVE] = { ACTION("use-interactive"),
                                    "priority: 'interactive' is not for your user (" ACTION("use-interactive") ")." },
        [RIGHT_MANAGE_MODELS] = { ACTION("manage-models"),
                                  "Only root, the daemon's own user and who is authorized to manage models may do this ("
                                  ACTION("manage-models") ")." },
        [RIGHT_CONFIGURE] = { ACTION("configure"),
                              "Only root, the daemon's own user and who is authorized to configure the service may do this ("
                              ACTION("configure") ")." },
        [RIGHT_RESERVE_MEMORY] = { ACTION("reserve-memory"),
                                   "Your user may not make the service give memory back (" ACTION("reserve-memory") ")." },
        [RIGHT_OBSERVE_OTHERS] = { ACTION("observe-others"),
                                   "It is another user's, which is for root, the daemon's own user and who is authorized to see ("
                                   ACTION("observe-others") ")." },
};

const char *right_action(enum right right) {
        return rights[right].action;
}

const char *right_refusal(enum right right) {
        return rights[right].refusal;
}

const char *right_advice(enum right right, bool by_password) {
        if (by_password)
                return "It takes an administrator's password: let it be asked for (sparkctl --ask-password), or run it as root "
                       "(sudo).";
        if (right == RIGHT_USE || right == RIGHT_USE_INTERACTIVE || right == RIGHT_RESERVE_MEMORY)
                return "Join the socket's group (spark), or run it as root (sudo).";
        return "Run it as root (sudo), or have an administrator permit the action by a rule of polkit.";
}

static bool in_groups(gid_t gid, const gid_t *groups, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (groups[i] == gid)
                        return true;
        return false;
}

/* As the kernel decides when somebody connects, which takes the right to write. */
bool rights_socket_admits(int fd, uid_t uid, const gid_t *groups, size_t n) {
        struct sockaddr_un address = { 0 };
        socklen_t size = sizeof(address) - 1; /* which leaves a zero at the end */
        struct stat st;

        if (fd < 0 || getsockname(fd, (struct sockaddr *)&address, &size) < 0 || address.sun_family != AF_UNIX ||
            stat(address.sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
                return false;
        if (st.st_uid == uid)
                return st.st_mode & S_IWUSR;
        if (in_groups(st.st_gid, groups, n))
                return st.st_mode & S_IWGRP;
        return st.st_mode & S_IWOTH;
}
