/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What tokens cost: shares of an interval's energy, intervals that can't be measured, a counter that changes, and more
 * users than are kept apart. And the kernel's files: supplies, heat, and RAPL with a counter that wraps, in a made-up /sys.
 */

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/macro.h"
#include "daemon/control/power/power-energy.h"
#include "daemon/control/power/power-sysfs.h"

#define SECOND 1000000ull
#define J 1000000ull /* in microjoules */

/* What was handed on. */
struct account {
        uint64_t uj, tokens;
};

static struct account spent[ENERGY_SHARES_MAX + 1]; /* by uid; the others' last */
static uint64_t all_uj;
static char last_model[CONFIG_MODEL_NAME_MAX + 1];

static void spend(void *userdata, uid_t uid, const char *model, uint64_t uj, uint64_t tokens) {
        struct account *a = &spent[uid == ENERGY_OTHERS ? ENERGY_SHARES_MAX : uid];

        assert_ptr_equal(userdata, spent);
        assert_true(tokens > 0);
        a->uj += uj;
        a->tokens += tokens;
        all_uj += uj;
        (void)snprintf(last_model, sizeof(last_model), "%s", model);
}

static void begin(struct energy *e) {
        memset(spent, 0, sizeof(spent));
        all_uj = 0;
        energy_init(e, spend, spent);
}

static void test_shares(void **state) {
        struct energy e;

        begin(&e);
        assert_true(energy_joules_per_token(&e) <= 0);
        energy_read(&e, 100 * J, 10 * SECOND, true); /* where it stands says nothing */
        energy_add_tokens(&e, 1000, "a", 20);
        energy_add_tokens(&e, 1000, "b", 10);
        energy_add_tokens(&e, 1001, "a", 10);
        energy_read(&e, 120 * J, 11 * SECOND, true);
        assert_int_equal(spent[1000].uj, 15 * J);
        assert_int_equal(spent[1001].uj, 5 * J);
        assert_int_equal(spent[1000].tokens, 30);
        assert_float_equal(energy_joules_per_token(&e), 0.5, 1e-9);
        assert_true(e.watts_known);
        assert_float_equal(e.watts, 20, 1e-3);
        energy_read(&e, 150 * J, 12 * SECOND, true); /* a long prompt that gave no sign yet: */
        energy_add_tokens(&e, 1000, "a", 40);
        energy_read(&e, 160 * J, 13 * SECOND, true); /* both belong to it */
        assert_int_equal(spent[1000].uj, 55 * J);
        energy_read(&e, 170 * J, 14 * SECOND, false); /* idle: nobody's */
        energy_add_tokens(&e, 1001, "b", 10);
        energy_read(&e, 171 * J, 15 * SECOND, true);
        assert_int_equal(spent[1001].uj, 6 * J);
        assert_string_equal(last_model, "b");
        assert_int_equal(e.total_uj, 61 * J);
        assert_int_equal(e.total_tokens, 90);
        assert_int_equal(all_uj, e.total_uj);
        energy_deinit(&e);
}

/* Whatever the numbers are, what is charged is what was used. */
static void test_nothing_is_lost(void **state) {
        uint64_t uj = 0;
        struct energy e;
        uint32_t x = 1;

        begin(&e);
        energy_read(&e, 0, SECOND, true);
        for (unsigned i = 0; i < 500; i++) {
                for (unsigned k = 0; k < 1 + i % 17; k++) {
                        x = x * 1664525u + 1013904223u;
                        energy_add_tokens(&e, x >> 20, k % 2 ? "a" : "b", 1 + (x >> 8) % 999);
                }
                uj += 1 + (x >> 4) % (i % 3 ? 7 : 300000001);
                energy_read(&e, uj, (i + 2) * SECOND, true);
        }
        assert_int_equal(e.total_uj, uj);
        assert_int_equal(all_uj, uj);
        energy_deinit(&e);
}

static void test_unmeasured(void **state) {
        struct energy e;

        begin(&e);
        energy_add_tokens(&e, 1000, "a", 10);
        energy_read(&e, 0, 10 * SECOND, true);
        assert_int_equal(spent[1000].tokens, 0); /* nobody knows */
        energy_add_tokens(&e, 1000, "a", 10);
        energy_read(&e, 20 * J, 11 * SECOND, true); /* 2 J each */
        energy_add_tokens(&e, 1000, "a", 5);
        energy_read(&e, 999 * J, 60 * SECOND, true); /* of 49 seconds: what they cost lately */
        assert_int_equal(spent[1000].uj, 30 * J);
        assert_int_equal(e.total_uj, 20 * J);
        energy_add_tokens(&e, 1000, "a", 5);
        energy_read(&e, 3 * J, 61 * SECOND, true); /* another counter */
        assert_int_equal(spent[1000].uj, 40 * J);
        assert_int_equal(e.total_uj, 20 * J);
        assert_false(e.watts_known);
        energy_add_tokens(&e, 1000, "a", 5);
        energy_lose(&e);
        assert_int_equal(spent[1000].uj, 50 * J);
        energy_deinit(&e);
}

static void test_mean(void **state) {
        struct energy e;

        begin(&e);
        energy_read(&e, 0, SECOND, true);
        for (unsigned i = 1; i <= 2 * ENERGY_INTERVALS; i++) { /* 1 J each, then 3 J each */
                uint64_t before = MIN(i, ENERGY_INTERVALS), later = i - before;

                energy_add_tokens(&e, 7, "a", 10);
                energy_read(&e, (before * 10 + later * 30) * J, (1 + i) * SECOND, true);
        }
        assert_float_equal(energy_joules_per_token(&e), 3, 1e-9); /* the older ones are forgotten */
        assert_int_equal(e.total_uj, ENERGY_INTERVALS * 40 * J);
        energy_deinit(&e);
}

static void test_many_users(void **state) {
        struct energy e;

        begin(&e);
        energy_read(&e, 0, SECOND, true);
        for (uid_t uid = 0; uid < ENERGY_SHARES_MAX + 10; uid++)
                energy_add_tokens(&e, uid, "a", 1);
        assert_int_equal(e.n_shares, ENERGY_SHARES_MAX);
        energy_read(&e, (ENERGY_SHARES_MAX + 10) * J, 2 * SECOND, true);
        assert_int_equal(spent[5].uj, J);
        assert_int_equal(spent[ENERGY_SHARES_MAX].uj, 10 * J); /* of all that have no share of their own */
        assert_int_equal(e.n_shares, 0); /* the next interval has room for others */
        energy_deinit(&e);
}

/* ---- /sys ---- */

struct sys {
        char root[64];
};

static void put(const struct sys *s, const char *path, const char *text) {
        char full[256];
        int fd;

        (void)snprintf(full, sizeof(full), "%s/class/%s", s->root, path);
        for (char *p = full + 1; (p = strchr(p, '/')); *p++ = '/') {
                *p = 0;
                (void)mkdir(full, 0755);
        }
        fd = open(full, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, text, strlen(text)), strlen(text));
        assert_int_equal(close(fd), 0);
}

static void sys_begin(struct sys *s) {
        (void)snprintf(s->root, sizeof(s->root), "/tmp/test-power-XXXXXX");
        assert_non_null(mkdtemp(s->root));
}

static void sys_end(const struct sys *s) {
        char command[128];

        (void)snprintf(command, sizeof(command), "rm -rf %s", s->root);
        assert_int_equal(system(command), 0);
}

static void test_supply(void **state) {
        struct power_reading r = { 0 };
        struct sys s;

        sys_begin(&s);
        assert_false(sysfs_read_supply(s.root, &r)); /* nothing there */
        put(&s, "power_supply/hid-mouse/type", "Battery\n");
        put(&s, "power_supply/hid-mouse/scope", "Device\n");
        put(&s, "power_supply/hid-mouse/status", "Discharging\n");
        put(&s, "power_supply/hid-mouse/capacity", "3\n");
        assert_false(sysfs_read_supply(s.root, &r)); /* a mouse is no supply */
        put(&s, "power_supply/AC/type", "Mains\n");
        put(&s, "power_supply/AC/online", "1\n");
        assert_true(sysfs_read_supply(s.root, &r));
        assert_false(r.on_battery || r.has_battery);
        put(&s, "power_supply/BAT0/type", "Battery\n");
        put(&s, "power_supply/BAT0/present", "1\n");
        put(&s, "power_supply/BAT0/status", "Discharging\n"); /* a weak supply does not suffice, and is one */
        put(&s, "power_supply/BAT0/capacity", "40\n");
        assert_true(sysfs_read_supply(s.root, &r));
        assert_false(r.on_battery);
        assert_true(r.has_battery);
        assert_float_equal(r.percent, 40, 1e-6);
        put(&s, "power_supply/AC/online", "0\n");
        assert_true(sysfs_read_supply(s.root, &r));
        assert_true(r.on_battery);
        put(&s, "power_supply/BAT1/type", "Battery\n"); /* a second one, that waits */
        put(&s, "power_supply/BAT1/status", "Not charging\n");
        put(&s, "power_supply/BAT1/capacity", "100\n");
        assert_true(sysfs_read_supply(s.root, &r));
        assert_true(r.on_battery);
        assert_float_equal(r.percent, 70, 1e-6);
        put(&s, "power_supply/BAT0/energy_now", "20000000\n"); /* as large as they are */
        put(&s, "power_supply/BAT0/energy_full", "50000000\n");
        put(&s, "power_supply/BAT1/energy_now", "10000000\n");
        put(&s, "power_supply/BAT1/energy_full", "10000000\n");
        assert_true(sysfs_read_supply(s.root, &r));
        assert_float_equal(r.percent, 50, 1e-6);
        put(&s, "power_supply/BAT0/status", "Charging\n");
        assert_true(sysfs_read_supply(s.root, &r));
        assert_false(r.on_battery);
        put(&s, "power_supply/BAT0/capacity", "lots\n"); /* garbage is passed over */
        put(&s, "power_supply/BAT0/energy_now", "-\n");
        assert_true(sysfs_read_supply(s.root, &r));
        assert_in_range((int)r.percent, 0, 100);
        sys_end(&s);
}

/* What can't be read of a battery is unknown, and not 0: else all is parked for a full one. */
static void test_charge_unknown(void **state) {
        struct power_reading r = { 0 };
        struct sys s;

        sys_begin(&s);
        put(&s, "power_supply/BAT0/type", "Battery\n");
        put(&s, "power_supply/BAT0/status", "Discharging\n");
        assert_true(sysfs_read_supply(s.root, &r));
        assert_true(r.on_battery);
        assert_false(r.has_battery);
        assert_int_equal(r.warning, POWER_WARNS_NOT);
        put(&s, "power_supply/BAT0/capacity_level", "Low\n"); /* all that it tells */
        assert_true(sysfs_read_supply(s.root, &r));
        assert_int_equal(r.warning, POWER_WARNS_LOW);
        put(&s, "power_supply/BAT1/type", "Battery\n");
        put(&s, "power_supply/BAT1/capacity_level", "Normal\n");
        assert_true(sysfs_read_supply(s.root, &r));
        assert_int_equal(r.warning, POWER_WARNS_NOT);
        put(&s, "power_supply/BAT1/capacity", "80\n"); /* the one that tells stands for both */
        assert_true(sysfs_read_supply(s.root, &r));
        assert_true(r.on_battery && r.has_battery);
        assert_float_equal(r.percent, 80, 1e-6);
        put(&s, "power_supply/BAT0/energy_now", "10000000\n"); /* in units that can't be added up */
        put(&s, "power_supply/BAT0/energy_full", "50000000\n");
        put(&s, "power_supply/BAT1/charge_now", "2000000\n");
        put(&s, "power_supply/BAT1/charge_full", "4000000\n");
        assert_true(sysfs_read_supply(s.root, &r));
        assert_float_equal(r.percent, 35, 1e-6);
        sys_end(&s);
}

static void test_ups(void **state) {
        struct power_reading r = { 0 };
        struct sys s;

        sys_begin(&s);
        put(&s, "power_supply/ups/type", "UPS\n");
        put(&s, "power_supply/ups/online", "1\n"); /* it is there, which is no supply */
        put(&s, "power_supply/ups/status", "Discharging\n");
        put(&s, "power_supply/ups/capacity", "60\n");
        assert_true(sysfs_read_supply(s.root, &r));
        assert_true(r.on_battery && r.has_battery);
        assert_float_equal(r.percent, 60, 1e-6);
        sys_end(&s);
}

static void test_temperature(void **state) {
        struct sys s;
        int32_t c = 0;

        sys_begin(&s);
        assert_false(sysfs_read_temperature(s.root, &c));
        put(&s, "thermal/cooling_device0/temp", "99000\n");
        assert_false(sysfs_read_temperature(s.root, &c));
        put(&s, "thermal/thermal_zone0/temp", "41500\n");
        put(&s, "thermal/thermal_zone1/temp", "62999\n");
        put(&s, "thermal/thermal_zone2/temp", "-274000\n"); /* a sensor that is off */
        put(&s, "thermal/thermal_zone3/temp", "2147483000\n");
        assert_true(sysfs_read_temperature(s.root, &c));
        assert_int_equal(c, 62);
        sys_end(&s);
}

static void test_rapl(void **state) {
        struct rapl r;
        struct sys s;

        sys_begin(&s);
        rapl_open(&r, s.root);
        assert_int_equal(r.n, 0);
        assert_false(rapl_read(&r));
        put(&s, "powercap/intel-rapl:0/name", "package-0\n");
        put(&s, "powercap/intel-rapl:0/max_energy_range_uj", "1000\n");
        put(&s, "powercap/intel-rapl:0/energy_uj", "900\n");
        put(&s, "powercap/intel-rapl:1/name", "package-1\n");
        put(&s, "powercap/intel-rapl:1/max_energy_range_uj", "1000\n");
        put(&s, "powercap/intel-rapl:1/energy_uj", "10\n");
        put(&s, "powercap/intel-rapl:2/name", "psys\n"); /* of the whole machine: would count twice */
        put(&s, "powercap/intel-rapl:2/energy_uj", "5\n");
        put(&s, "powercap/intel-rapl:0:0/name", "package-0-core\n"); /* a part */
        put(&s, "powercap/intel-rapl:0:0/energy_uj", "5\n");
        put(&s, "powercap/intel-rapl-mmio:0/name", "package-0\n"); /* the same once more */
        put(&s, "powercap/intel-rapl-mmio:0/energy_uj", "5\n");
        rapl_open(&r, s.root);
        assert_int_equal(r.n, 2);
        assert_true(rapl_read(&r));
        assert_int_equal(r.uj, 0);
        put(&s, "powercap/intel-rapl:0/energy_uj", "950\n");
        put(&s, "powercap/intel-rapl:1/energy_uj", "30\n");
        assert_true(rapl_read(&r));
        assert_int_equal(r.uj, 70);
        put(&s, "powercap/intel-rapl:0/energy_uj", "20\n"); /* over its range */
        assert_true(rapl_read(&r));
        assert_int_equal(r.uj, 140);
        put(&s, "powercap/intel-rapl:1/energy_uj", "nothing\n");
        assert_false(rapl_read(&r));
        rapl_close(&r);
        sys_end(&s);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_shares),     cmocka_unit_test(test_unmeasured),
                cmocka_unit_test(test_mean),       cmocka_unit_test(test_nothing_is_lost),
                cmocka_unit_test(test_many_users), cmocka_unit_test(test_supply),
                cmocka_unit_test(test_charge_unknown), cmocka_unit_test(test_ups),
                cmocka_unit_test(test_temperature), cmocka_unit_test(test_rapl),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
