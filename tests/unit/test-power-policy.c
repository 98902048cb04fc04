/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What the power supply means for requests: every cell of the table of levels, heat, priorities and keys; the level with its
 * hysteresis; who keeps the machine awake; the configuration's own rules.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/control/power/power-policy.h"

#define BACKGROUND SPARK__V1__PRIORITY__BACKGROUND
#define NORMAL SPARK__V1__PRIORITY__NORMAL
#define INTERACTIVE SPARK__V1__PRIORITY__INTERACTIVE
#define SECOND 1000000u

static struct config *parse(const char *text) {
        struct config_error error;
        struct config *c = NULL;

        if (config_parse(&c, text, "/", &error) != 0)
                fail_msg("%s", error.text);
        return c;
}

/* What each priority meets, in the order background, normal, interactive: S(erve), W(ait), R(efuse). */
struct row {
        const char *config;
        const char *cells[POWER_LEVELS][2]; /* by level; cool and hot */
};

static void check_row(const struct row *row) {
        static const char letters[] = { [POWER_SERVE] = 'S', [POWER_WAIT] = 'W', [POWER_REFUSE] = 'R' };
        _cleanup_(config_freep) struct config *c = parse(row->config);

        for (int level = 0; level < POWER_LEVELS; level++)
                for (int hot = 0; hot < 2; hot++)
                        for (int i = 0; i < 3; i++) {
                                char got = letters[power_judge(&c->power, level, hot, BACKGROUND + i)];

                                if (got != row->cells[level][hot][i])
                                        fail_msg("%s: %s, %s, priority %d: %c, expected %s", row->config,
                                                 power_level_name(level), hot ? "hot" : "cool", BACKGROUND + i, got,
                                                 row->cells[level][hot]);
                        }
}

static void test_table(void **state) {
        static const struct row rows[] = {
                { "", { { "SSS", "SSS" }, { "RSS", "RSS" }, { "RRS", "RRS" }, { "RRW", "RRW" } } },
                { "power = { deferred = \"wait\"; };",
                  { { "SSS", "SSS" }, { "WSS", "WSS" }, { "WWS", "WWS" }, { "WWW", "WWW" } } },
                { "power = { when_hot = \"normal\"; };",
                  { { "SSS", "WSS" }, { "RSS", "RSS" }, { "RRS", "RRS" }, { "RRW", "RRW" } } },
                { "power = { when_hot = \"interactive\"; };",
                  { { "SSS", "WWS" }, { "RSS", "RWS" }, { "RRS", "RRS" }, { "RRW", "RRW" } } },
                { "power = { when_hot = \"none\"; };",
                  { { "SSS", "WWW" }, { "RSS", "RWW" }, { "RRS", "RRW" }, { "RRW", "RRW" } } },
                { "power = { on_battery = \"background\"; on_low = \"background\"; on_critical = \"background\"; };",
                  { { "SSS", "SSS" }, { "SSS", "SSS" }, { "SSS", "SSS" }, { "SSS", "SSS" } } },
                { "power = { on_battery = \"background\"; on_low = \"normal\"; on_critical = \"interactive\"; };",
                  { { "SSS", "SSS" }, { "SSS", "SSS" }, { "RSS", "RSS" }, { "RRS", "RRS" } } },
                { "power = { on_battery = \"none\"; on_low = \"none\"; };",
                  { { "SSS", "SSS" }, { "RRW", "RRW" }, { "RRW", "RRW" }, { "RRW", "RRW" } } },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
                check_row(&rows[i]);
}

/* What engines do without, "batch threads clocks". */
struct caps_row {
        const char *config;
        const char *cells[POWER_LEVELS][2]; /* by level; cool and hot */
};

static void test_caps(void **state) {
        static const struct caps_row rows[] = {
                { "", { { "0 0 0", "0 0 0" }, { "128 0 0", "128 0 0" }, { "32 0 0", "32 0 0" }, { "32 0 0", "32 0 0" } } },
                { "power = { mains_batch = 400; mains_threads = 8; mains_clocks = 90; };",
                  { { "400 8 90", "400 8 90" }, { "128 0 0", "128 0 0" }, { "32 0 0", "32 0 0" }, { "32 0 0", "32 0 0" } } },
                { "power = { battery_batch = 64; battery_threads = 4; battery_clocks = 70; };",
                  { { "0 0 0", "0 0 0" }, { "64 4 70", "64 4 70" }, { "32 0 0", "32 0 0" }, { "32 0 0", "32 0 0" } } },
                { "power = { low_batch = 0; low_threads = 1; low_clocks = 40; };",
                  { { "0 0 0", "0 0 0" }, { "128 0 0", "128 0 0" }, { "0 1 40", "0 1 40" }, { "0 1 40", "0 1 40" } } },
                { "power = { hot_batch = 64; hot_threads = 3; hot_clocks = 60; low_threads = 2; low_clocks = 80; };",
                  { { "0 0 0", "64 3 60" }, { "128 0 0", "64 3 60" }, { "32 2 80", "32 2 60" }, { "32 2 80", "32 2 60" } } },
                { "power = { battery_batch = 0; battery_clocks = 100; hot_clocks = 100; };",
                  { { "0 0 0", "0 0 0" }, { "0 0 0", "0 0 0" }, { "32 0 0", "32 0 0" }, { "32 0 0", "32 0 0" } } },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                _cleanup_(config_freep) struct config *c = parse(rows[i].config);

                for (int cell = 0; cell < POWER_LEVELS * 2; cell++) {
                        struct power_caps caps = power_caps(&c->power, cell / 2, cell % 2);
                        char got[40];

                        (void)snprintf(got, sizeof(got), "%u %u %u", caps.batch, caps.threads, caps.clocks);
                        if (strcmp(got, rows[i].cells[cell / 2][cell % 2]) != 0)
                                fail_msg("%s: %s, %s: %s, expected %s", rows[i].config, power_level_name(cell / 2),
                                         cell % 2 ? "hot" : "cool", got, rows[i].cells[cell / 2][cell % 2]);
                }
        }
}

static void test_serves(void **state) {
        _cleanup_(config_freep) struct config *c = parse("power = { when_hot = \"normal\"; };");

        assert_int_equal(power_serves(&c->power, POWER_MAINS, false), BACKGROUND);
        assert_int_equal(power_serves(&c->power, POWER_MAINS, true), NORMAL);
        assert_int_equal(power_serves(&c->power, POWER_LOW, true), INTERACTIVE);
        assert_int_equal(power_serves(&c->power, POWER_CRITICAL, false), CONFIG_SERVES_NONE);
        assert_string_equal(power_serves_name(CONFIG_SERVES_NONE), "none");
        assert_string_equal(power_serves_name(NORMAL), "normal");
        assert_string_equal(power_level_name(POWER_CRITICAL), "critical");
}

/* ---- levels ---- */

static struct power_reading battery(double percent, enum power_warning warning) {
        return (struct power_reading){ .on_battery = true, .has_battery = true, .percent = percent, .warning = warning };
}

static enum power_level read_once(const struct config *c, struct power_reading r) {
        struct power_meter m = { 0 };

        (void)power_meter_read(&m, &c->power, &r, SECOND);
        return m.level;
}

static void test_levels(void **state) {
        _cleanup_(config_freep) struct config *c = parse("");
        _cleanup_(config_freep) struct config *own =
                parse("power = { low_percent = 50; critical_percent = 40; power_saver = \"no\"; };");
        const struct power_reading mains = { 0 }, charging = { .has_battery = true, .percent = 2 }, saver = { .saver = true },
                                   ups = { .on_battery = true }, warns = { .on_battery = true, .warning = POWER_WARNS_LOW };

        assert_int_equal(read_once(c, mains), POWER_MAINS);
        assert_int_equal(read_once(c, charging), POWER_MAINS); /* nearly empty, and on the plug */
        assert_int_equal(read_once(c, saver), POWER_BATTERY);
        assert_int_equal(read_once(own, saver), POWER_MAINS);
        assert_int_equal(read_once(c, ups), POWER_BATTERY); /* how full is not known, */
        assert_int_equal(read_once(c, warns), POWER_LOW);   /* but it may be known that it is not full */
        assert_int_equal(read_once(c, battery(100, POWER_WARNS_NOT)), POWER_BATTERY);
        assert_int_equal(read_once(c, battery(20.5, POWER_WARNS_NOT)), POWER_BATTERY);
        assert_int_equal(read_once(c, battery(20, POWER_WARNS_NOT)), POWER_LOW);
        assert_int_equal(read_once(c, battery(5.1, POWER_WARNS_NOT)), POWER_LOW);
        assert_int_equal(read_once(c, battery(5, POWER_WARNS_NOT)), POWER_CRITICAL);
        assert_int_equal(read_once(c, battery(0, POWER_WARNS_NOT)), POWER_CRITICAL);
        assert_int_equal(read_once(c, battery(90, POWER_WARNS_LOW)), POWER_LOW); /* who warns knows better */
        assert_int_equal(read_once(c, battery(90, POWER_WARNS_CRITICAL)), POWER_CRITICAL);
        assert_int_equal(read_once(own, battery(50, POWER_WARNS_NOT)), POWER_LOW);
        assert_int_equal(read_once(own, battery(40, POWER_WARNS_NOT)), POWER_CRITICAL);
}

struct moment {
        unsigned ms;
        double percent; /* negative: on mains */
        enum power_level level;
};

static void test_hysteresis(void **state) {
        static const struct moment moments[] = {
                { 0, -1, POWER_MAINS },
                { 100, 50, POWER_BATTERY },    /* at once */
                { 200, -1, POWER_BATTERY },    /* back: not yet, */
                { 3100, -1, POWER_BATTERY },
                { 3200, -1, POWER_MAINS },     /* but after three seconds */
                { 4000, 50, POWER_BATTERY },
                { 4100, -1, POWER_BATTERY },   /* a loose plug: */
                { 6000, 50, POWER_BATTERY },
                { 6100, -1, POWER_BATTERY },
                { 9000, -1, POWER_BATTERY },   /* the time begins anew */
                { 9100, -1, POWER_MAINS },
                { 10000, 20, POWER_LOW },      /* two steps at once */
                { 20000, 21, POWER_LOW },      /* a little more does not count, */
                { 30000, 23, POWER_LOW },
                { 40000, 23.1, POWER_BATTERY }, /* more than three percent do */
                { 50000, 5, POWER_CRITICAL },
                { 60000, 7, POWER_CRITICAL },
                { 70000, 8.5, POWER_LOW },
                { 80000, 4, POWER_CRITICAL },
                { 90000, -1, POWER_CRITICAL },
                { 93000, -1, POWER_MAINS },    /* the plug ends all of it */
        };
        _cleanup_(config_freep) struct config *c = parse("");
        struct power_meter m = { 0 };

        for (size_t i = 0; i < ARRAY_SIZE(moments); i++) {
                const struct moment *t = &moments[i];
                struct power_reading r = battery(t->percent, POWER_WARNS_NOT);
                enum power_level before = m.level;
                bool changed;

                r.on_battery = t->percent >= 0;
                changed = power_meter_read(&m, &c->power, &r, SECOND + t->ms * 1000ull);
                if (m.level != t->level)
                        fail_msg("at %u ms: %s, expected %s", t->ms, power_level_name(m.level), power_level_name(t->level));
                assert_int_equal(changed, m.level != before);
        }
}

static void test_awake(void **state) {
        _cleanup_(config_freep) struct config *people = parse(""), *all = parse("power = { stay_awake = \"all\"; };"),
                                              *nobody = parse("power = { stay_awake = \"no\"; };");

        assert_true(power_keeps_awake(&people->power, 1000));
        assert_true(power_keeps_awake(&people->power, 60513));
        assert_false(power_keeps_awake(&people->power, 0));
        assert_false(power_keeps_awake(&people->power, 999));
        assert_false(power_keeps_awake(&people->power, 61184)); /* a service's, by DynamicUser= */
        assert_false(power_keeps_awake(&people->power, 65534));
        assert_true(power_keeps_awake(&all->power, 0));
        assert_false(power_keeps_awake(&nobody->power, 1000));
}

static void refused(const char *text, const char *sentence) {
        struct config_error error;
        struct config *c = NULL;

        assert_int_equal(config_parse(&c, text, "/", &error), CONFIG_E_INVALID);
        assert_null(c);
        if (!strstr(error.text, sentence))
                fail_msg("'%s' does not say '%s'", error.text, sentence);
}

static void test_config(void **state) {
        _cleanup_(config_freep) struct config *c =
                parse("power = { source = \"none\"; sleep = \"no\"; low_percent = 30; critical_percent = 30;"
                      " battery_tokens_per_day = 7; battery_joules_per_day = 8; sysfs = \"fake\"; };");

        assert_int_equal(c->power.source, 1);
        assert_int_equal(c->power.sleep, 0);
        assert_int_equal(c->power.battery_tokens_per_day, 7);
        assert_int_equal(c->power.battery_joules_per_day, 8);
        assert_string_equal(c->power.sysfs, "//fake");
        refused("power = { critical_percent = 21; };", "more than 'low_percent'");
        refused("power = { on_battery = \"none\"; };", "must not serve more the emptier");
        refused("power = { on_low = \"background\"; };", "must not serve more the emptier");
        refused("power = { on_low = \"everything\"; };", "allowed are: background normal interactive none");
        refused("power = { low_percent = 101; };", "0 to 100");
        refused("power = {\n sleep = \"no\";\n critical_percent = 30; };", ":3: 'critical_percent' is 30"); /* with its line */
        refused("power = {\n sleep = \"no\";\n low_percent = 3; };", ":3: 'critical_percent' is 5, more than 'low_percent' (3)");
        refused("power = {\n on_battery = \"normal\";\n on_low = \"background\"; };", ":3: 'on_battery'");
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_table),      cmocka_unit_test(test_caps),
                cmocka_unit_test(test_serves), cmocka_unit_test(test_levels),
                cmocka_unit_test(test_hysteresis), cmocka_unit_test(test_awake),  cmocka_unit_test(test_config),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
