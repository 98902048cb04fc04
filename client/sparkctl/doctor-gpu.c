/* SPDX-License-Identifier: Apache-2.0 */

/* `sparkctl doctor`: what stands between the service and an NVIDIA GPU. All of it is looked at from outside; whether the GPU
 * computes is what the service's own self-test says, and `make gpu-check` in depth. */

#include <ctype.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "doctor.h"

#define SERVICE_USER "sparkd"
#define DRIVER_MIN 580u /* the first that serves CUDA 13 */
#define GROUPS_MAX 64
#define LIBRARY "libspark-cuda.so"

static const char *const nodes[] = { "/dev/nvidiactl", "/dev/nvidia0", "/dev/nvidia-uvm" };

/* The driver's version in the first line of /proc/driver/nvidia/version: its first number, 0 where there is none. */
static unsigned driver_version(const char *line) {
        for (const char *p = line; *p; p++) {
                char *end;
                unsigned long n;

                if (!isdigit((unsigned char)*p) || (p > line && p[-1] != ' '))
                        continue;
                n = strtoul(p, &end, 10);
                if (*end == '.' && isdigit((unsigned char)end[1]) && n < UINT_MAX)
                        return (unsigned)n;
        }
        return 0;
}

/* True unless it is known that the service's user may not read and write it. */
static bool service_may_use(const struct stat *st) {
        const struct passwd *pw = getpwnam(SERVICE_USER);
        gid_t groups[GROUPS_MAX];
        int n = GROUPS_MAX;

        if ((st->st_mode & 06) == 06 || !pw)
                return true;
        if (pw->pw_uid == st->st_uid)
                return (st->st_mode & 0600) == 0600;
        if ((st->st_mode & 060) != 060 || getgrouplist(SERVICE_USER, pw->pw_gid, groups, &n) < 0)
                return false;
        for (int i = 0; i < n; i++)
                if (groups[i] == st->st_gid)
                        return true;
        return false;
}

static void check_node(struct doctor *d, const char *path, const struct stat *st) {
        const struct group *gr = getgrgid(st->st_gid);
        char advice[200];

        if (!S_ISCHR(st->st_mode)) {
                doctor_note(d, LEVEL_WARN, "gpu", "Remove it, and load the driver again.", "%s is no device.", path);
        } else if (!service_may_use(st)) {
                (void)snprintf(advice, sizeof(advice), "Do: sudo usermod -aG %.60s " SERVICE_USER ", then restart the service.",
                               gr ? gr->gr_name : "GROUP");
                doctor_note(d, LEVEL_WARN, "gpu", advice, "%s is not the service's to use (mode %04o, group %s).", path,
                            (unsigned)st->st_mode & 07777, gr ? gr->gr_name : "unknown");
        }
}

/* How many of the driver's devices are there. */
static size_t check_nodes(struct doctor *d) {
        size_t found = 0;
        struct stat st;

        for (size_t i = 0; i < ARRAY_SIZE(nodes); i++) {
                if (stat(nodes[i], &st) < 0) {
                        doctor_note(d, LEVEL_WARN, "gpu",
                                    "Do: sudo nvidia-modprobe -u -c 0, and enable nvidia-persistenced.service.",
                                    "%s is missing.", nodes[i]);
                        continue;
                }
                found++;
                check_node(d, nodes[i], &st);
        }
        return found;
}

/* From the folder of this program: of a build, and of an installation. */
static bool find_library(char path[PATH_MAX]) {
        static const char *const beside[] = { "/../lib/sparkd/" LIBRARY, "/../lib/" LIBRARY };
        static const char *const fixed[] = { "/usr/lib/sparkd/" LIBRARY, "/usr/local/lib/sparkd/" LIBRARY };
        char self[PATH_MAX];
        ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
        char *slash;

        self[n > 0 ? n : 0] = 0;
        slash = strrchr(self, '/');
        if (slash)
                *slash = 0;
        for (size_t i = 0; slash && i < ARRAY_SIZE(beside); i++)
                if (snprintf(path, PATH_MAX, "%s%s", self, beside[i]) < PATH_MAX && access(path, R_OK) == 0)
                        return true;
        for (size_t i = 0; i < ARRAY_SIZE(fixed); i++)
                if (snprintf(path, PATH_MAX, "%s", fixed[i]) < PATH_MAX && access(path, R_OK) == 0)
                        return true;
        return false;
}

static void check_driver(struct doctor *d, const char *line) {
        unsigned version = driver_version(line);

        if (version > 0 && version < DRIVER_MIN)
                doctor_note(d, LEVEL_WARN, "driver", "Install a newer driver.",
                            "NVIDIA driver %u: builds with CUDA 13 need %u or later.", version, DRIVER_MIN);
        else
                doctor_note(d, LEVEL_OK, "driver", NULL, "%s", line[0] ? line : "The driver's devices are there.");
}

static void check_library(struct doctor *d) {
        char path[PATH_MAX];

        if (find_library(path))
                doctor_note(d, LEVEL_OK, "cuda", NULL, "%s is installed.", path);
        else
                doctor_note(d, LEVEL_WARN, "cuda",
                            "Install the package with it, or build on a machine with nvcc: make CUDA=1 && sudo make install",
                            "There is a GPU, but no " LIBRARY ": models run on the CPU.");
}

void doctor_check_gpu(struct doctor *d) {
        char line[160];
        size_t found = 0;

        (void)doctor_read_line("/proc/driver/nvidia/version", line, sizeof(line));
        for (size_t i = 0; i < ARRAY_SIZE(nodes); i++)
                found += access(nodes[i], F_OK) == 0;
        if (found == 0 && !line[0]) {
                doctor_note(d, LEVEL_OK, "gpu", NULL, "No NVIDIA driver: models run on the CPU.");
                return;
        }
        if (check_nodes(d) == ARRAY_SIZE(nodes))
                doctor_note(d, LEVEL_OK, "gpu", NULL, "The driver's devices are there.");
        check_driver(d, line);
        check_library(d);
}
