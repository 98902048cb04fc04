/* SPDX-License-Identifier: Apache-2.0 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "power-sysfs.h"

#define ENTRIES_MAX 256 /* of a folder that are looked at */

/* ---- reading ---- */

static bool read_text(int dir, const char *name, char *out, size_t size) {
        _cleanup_fd_ int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        ssize_t n = fd >= 0 ? read(fd, out, size - 1) : -1;

        out[n > 0 ? n : 0] = 0;
        out[strcspn(out, "\n")] = 0;
        return n > 0;
}

static bool parse_number(const char *text, int64_t *ret) {
        char *end;
        long long v;

        errno = 0;
        v = strtoll(text, &end, 10);
        if (errno || end == text || *end)
                return false;
        *ret = v;
        return true;
}

static bool read_number(int dir, const char *name, int64_t *ret) {
        char text[32];

        return read_text(dir, name, text, sizeof(text)) && parse_number(text, ret);
}

/* False ends the walk. */
typedef bool (*entry_fn)(int dir, const char *name, void *data);

/* Calls fn with each folder of ROOT/class/CLASS, open. */
static void each_entry(const char *root, const char *class, entry_fn fn, void *data) {
        char path[PATH_MAX];
        const struct dirent *d;
        DIR *dir;
        int n = snprintf(path, sizeof(path), "%s/class/%s", root, class);
        bool more = true;

        dir = n > 0 && (size_t)n < sizeof(path) ? opendir(path) : NULL;
        if (!dir)
                return;
        for (int i = 0; more && i < ENTRIES_MAX && (d = readdir(dir)); i++) {
                _cleanup_fd_ int fd = -1;

                if (d->d_name[0] == '.')
                        continue;
                fd = openat(dirfd(dir), d->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                if (fd >= 0)
                        more = fn(fd, d->d_name, data);
        }
        (void)closedir(dir);
}

/* ---- power supply ---- */

/* Of batteries that tell their charge in one unit. */
struct charges {
        double now, full;
        unsigned n;
};

struct supplies {
        bool any, online, discharging;
        struct charges energy, charge; /* weighed by what they hold */
        double percent_sum;
        unsigned n_known, n_unknown; /* batteries whose charge can be read, or not */
        enum power_warning warning;  /* of the fullest of the latter */
};

static bool read_charge(int dir, const char *now_name, const char *full_name, struct charges *sum, double *ret_percent) {
        int64_t now, full;

        if (!read_number(dir, now_name, &now) || !read_number(dir, full_name, &full) || full <= 0)
                return false;
        sum->now += (double)now;
        sum->full += (double)full;
        sum->n++;
        *ret_percent = (double)now * 100 / (double)full;
        return true;
}

/* All that some tell. */
static enum power_warning read_warning(int dir) {
        char text[32];

        if (!read_text(dir, "capacity_level", text, sizeof(text)))
                return POWER_WARNS_NOT;
        return strcmp(text, "Critical") == 0 ? POWER_WARNS_CRITICAL : strcmp(text, "Low") == 0 ? POWER_WARNS_LOW : POWER_WARNS_NOT;
}

static void add_battery(struct supplies *s, int dir) {
        enum power_warning warning = read_warning(dir);
        int64_t present, capacity;
        double percent = 0;
        char text[32];

        if (read_text(dir, "scope", text, sizeof(text)) && strcmp(text, "Device") == 0)
                return; /* a mouse's */
        if (read_number(dir, "present", &present) && present == 0)
                return;
        s->any = true;
        if (read_text(dir, "status", text, sizeof(text)))
                s->discharging |= strcmp(text, "Discharging") == 0;
        if (!read_charge(dir, "energy_now", "energy_full", &s->energy, &percent) &&
            !read_charge(dir, "charge_now", "charge_full", &s->charge, &percent)) {
                if (!read_number(dir, "capacity", &capacity)) { /* which is not to say that it is empty */
                        s->warning = s->n_unknown++ == 0 ? warning : MIN(s->warning, warning);
                        return;
                }
                percent = (double)capacity;
        }
        s->n_known++;
        s->percent_sum += percent;
}

static double percent_of(const struct supplies *s) {
        const struct charges *one = s->energy.n == s->n_known ? &s->energy : s->charge.n == s->n_known ? &s->charge : NULL;
        double percent = one ? one->now * 100 / one->full : s->percent_sum / s->n_known;

        return MAX(MIN(percent, 100.0), 0.0);
}

static bool on_supply(int dir, const char *name, void *data) {
        struct supplies *s = data;
        char type[32], scope[32];
        int64_t online;

        if (!read_text(dir, "type", type, sizeof(type)))
                return true;
        if (strcmp(type, "Battery") == 0 || strcmp(type, "UPS") == 0) {
                add_battery(s, dir);
                return true;
        }
        if (read_text(dir, "scope", scope, sizeof(scope)) && strcmp(scope, "Device") == 0)
                return true;
        if (read_number(dir, "online", &online)) { /* Mains, USB, USB_C, Wireless */
                s->any = true;
                s->online |= online > 0;
        }
        return true;
}

bool sysfs_read_supply(const char *root, struct power_reading *ret) {
        struct supplies s = { 0 };

        each_entry(root, "power_supply", on_supply, &s);
        if (!s.any)
                return false;
        *ret = (struct power_reading){
                .has_battery = s.n_known > 0,
                .on_battery = s.discharging && !s.online,
                .percent = s.n_known > 0 ? percent_of(&s) : 0,
                .warning = s.n_known > 0 ? POWER_WARNS_NOT : s.warning,
        };
        return true;
}

/* ---- heat ---- */

struct hottest {
        bool any;
        int64_t milli;
};

static bool on_zone(int dir, const char *name, void *data) {
        struct hottest *h = data;
        int64_t milli;

        if (strncmp(name, "thermal_zone", 12) != 0 || !read_number(dir, "temp", &milli) || milli < -50000 || milli > 200000)
                return true; /* a sensor that is off says impossible things */
        h->milli = h->any ? MAX(h->milli, milli) : milli;
        h->any = true;
        return true;
}

bool sysfs_read_temperature(const char *root, int32_t *ret_c) {
        struct hottest h = { 0 };

        each_entry(root, "thermal", on_zone, &h);
        if (h.any)
                *ret_c = (int32_t)(h.milli / 1000);
        return h.any;
}

/* ---- energy ---- */

static bool on_rapl_zone(int dir, const char *name, void *data) {
        struct rapl *r = data;
        struct rapl_zone *z;
        char label[32];
        int64_t max;
        int fd;

        /* "intel-rapl:0" is a package, "intel-rapl:0:1" a part of it, "intel-rapl-mmio:0" the same once more */
        if (strncmp(name, "intel-rapl:", 11) != 0 || strchr(name + 11, ':') || !read_text(dir, "name", label, sizeof(label)) ||
            strncmp(label, "package", 7) != 0)
                return true;
        fd = openat(dir, "energy_uj", O_RDONLY | O_CLOEXEC);
        if (fd < 0) {
                r->forbidden |= errno == EACCES || errno == EPERM;
                return true;
        }
        z = &r->zones[r->n++];
        *z = (struct rapl_zone){ .fd = fd };
        if (read_number(dir, "max_energy_range_uj", &max) && max > 0)
                z->max_uj = (uint64_t)max;
        return r->n < RAPL_ZONES_MAX;
}

void rapl_open(struct rapl *r, const char *root) {
        *r = (struct rapl){ 0 };
        each_entry(root, "powercap", on_rapl_zone, r);
}

void rapl_close(struct rapl *r) {
        for (size_t i = 0; i < r->n; i++)
                r->zones[i].fd = fd_close(r->zones[i].fd);
        *r = (struct rapl){ 0 };
}

static bool zone_read(struct rapl *r, struct rapl_zone *z) {
        char text[32];
        int64_t v;
        ssize_t n = pread(z->fd, text, sizeof(text) - 1, 0);

        text[n > 0 ? n : 0] = 0;
        text[strcspn(text, "\n")] = 0;
        if (!parse_number(text, &v) || v < 0)
                return false;
        if (z->read && (uint64_t)v >= z->last_uj)
                r->uj += (uint64_t)v - z->last_uj;
        else if (z->read && z->max_uj >= z->last_uj) /* it begins again at 0 behind its range */
                r->uj += z->max_uj - z->last_uj + (uint64_t)v;
        z->last_uj = (uint64_t)v;
        z->read = true;
        return true;
}

bool rapl_read(struct rapl *r) {
        bool good = r->n > 0;

        for (size_t i = 0; i < r->n; i++)
                good = zone_read(r, &r->zones[i]) && good;
        return good;
}
