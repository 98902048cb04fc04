/* SPDX-License-Identifier: Apache-2.0 */

/* What of the bus needs no bus: options, text on its way, names of errors. The rest is tests/integration/test_bus.py. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/utf8.h"
#include "daemon/control/bus/bus-error.h"
#include "daemon/control/bus/bus-options.h"
#include "daemon/control/bus/bus-property.h"
#include "daemon/control/bus/bus-text.h"

/* A bus with nobody at the other end: messages can be made with it, and read. */
struct fixture {
        sd_bus *bus;
        sd_bus_message *m;
        int other;
};

static int set_up(void **state) {
        struct fixture *f = calloc(1, sizeof(*f));
        int fds[2];

        assert_non_null(f);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        assert_true(sd_bus_new(&f->bus) >= 0);
        assert_true(sd_bus_set_fd(f->bus, fds[0], fds[0]) >= 0);
        assert_true(sd_bus_start(f->bus) >= 0);
        f->other = fds[1];
        assert_true(sd_bus_message_new_method_call(f->bus, &f->m, "a.b", "/a", "a.b", "C") >= 0);
        *state = f;
        return 0;
}

static int tear_down(void **state) {
        struct fixture *f = *state;

        f->m = sd_bus_message_unref(f->m);
        sd_bus_close(f->bus);
        f->bus = sd_bus_unref(f->bus);
        (void)close(f->other);
        free(f);
        return 0;
}

static void seal(struct fixture *f) {
        assert_true(sd_bus_message_seal(f->m, 1, 0) >= 0);
        assert_true(sd_bus_message_rewind(f->m, true) >= 0);
}

/* ---- options ---- */

static void test_no_options(void **state) {
        struct fixture *f = *state;
        struct request_error error;
        struct bus_options o;

        assert_true(sd_bus_message_append(f->m, "a{sv}", 0) >= 0);
        seal(f);
        assert_int_equal(bus_options_init(&o, f->m, &error), 0);
        assert_string_equal(o.model, "");
        assert_false(o.raw);
        assert_int_equal(o.sampling.n_stop, 0);
        assert_false(o.sampling.has_temperature);
        assert_false(o.sampling.has_seed);
        assert_false(o.sampling.has_max_tokens);
        assert_int_equal(o.priority, SPARK__V1__PRIORITY__PRIORITY_UNSPECIFIED);
        bus_options_deinit(&o);
}

static void test_all_options(void **state) {
        struct fixture *f = *state;
        struct request_error error;
        struct bus_options o;

        assert_true(sd_bus_message_append(f->m, "a{sv}", 13, "model", "s", "m", "priority", "s", "interactive",
                                          "raw", "b", 1, "stop", "as", 2, "x", "y",
                                          "temperature", "d", 0.5, "top_p", "d", 0.25, "min_p", "d", 0.125, "top_k", "u",
                                          7, "seed", "t", UINT64_MAX, "max_tokens", "u", 9, "repetition_penalty", "d",
                                          1.5, "presence_penalty", "d", -1.0, "frequency_penalty", "d", 2.0) >= 0);
        seal(f);
        assert_int_equal(bus_options_init(&o, f->m, &error), 0);
        assert_string_equal(o.model, "m");
        assert_true(o.raw);
        assert_int_equal(o.priority, SPARK__V1__PRIORITY__INTERACTIVE);
        assert_int_equal(o.sampling.n_stop, 2);
        assert_string_equal(o.sampling.stop[0], "x");
        assert_string_equal(o.sampling.stop[1], "y");
        assert_true(o.sampling.has_temperature && o.sampling.temperature == 0.5f);
        assert_true(o.sampling.has_top_p && o.sampling.top_p == 0.25f);
        assert_true(o.sampling.has_min_p && o.sampling.min_p == 0.125f);
        assert_true(o.sampling.has_top_k && o.sampling.top_k == 7);
        assert_true(o.sampling.has_seed && o.sampling.seed == UINT64_MAX);
        assert_true(o.sampling.has_max_tokens && o.sampling.max_tokens == 9);
        assert_true(o.sampling.has_repetition_penalty && o.sampling.repetition_penalty == 1.5f);
        assert_true(o.sampling.has_presence_penalty && o.sampling.presence_penalty == -1.0f);
        assert_true(o.sampling.has_frequency_penalty && o.sampling.frequency_penalty == 2.0f);
        assert_false(o.sampling.has_penalty_window || o.sampling.has_logprobs || o.sampling.has_ignore_eos);
        bus_options_deinit(&o);
}

static void test_numbers_that_do_not_fit(void **state) {
        struct fixture *f = *state;
        struct request_error error;
        struct bus_options o;

        assert_true(sd_bus_message_append(f->m, "a{sv}", 2, "temperature", "d", 1e300, "top_p", "d", (double)NAN) >= 0);
        seal(f);
        assert_int_equal(bus_options_init(&o, f->m, &error), 0);
        assert_true(isinf(o.sampling.temperature)); /* for the engine to refuse, as over the socket */
        assert_true(isnan(o.sampling.top_p));
        bus_options_deinit(&o);
}

static void expect_refused(struct fixture *f, const char *part) {
        struct request_error error;
        struct bus_options o;

        seal(f);
        assert_int_equal(bus_options_init(&o, f->m, &error), REQUEST_E_REFUSED);
        assert_int_equal(error.code, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT);
        if (!strstr(error.text, part))
                fail_msg("'%s' does not say '%s'", error.text, part);
}

static void test_unknown_priority(void **state) {
        struct fixture *f = *state;

        assert_true(sd_bus_message_append(f->m, "a{sv}", 1, "priority", "s", "Normal") >= 0);
        expect_refused(f, "'priority' must be");
}

static void test_unknown_option(void **state) {
        struct fixture *f = *state;

        /* what came before it is freed */
        assert_true(sd_bus_message_append(f->m, "a{sv}", 2, "stop", "as", 1, "x", "Top_k", "u", 1) >= 0);
        expect_refused(f, "'Top_k'");
}

static void test_unprintable_name(void **state) {
        struct fixture *f = *state;

        assert_true(sd_bus_message_append(f->m, "a{sv}", 1, "a\nb", "u", 1) >= 0);
        expect_refused(f, "'?'");
}

static void test_wrong_type(void **state) {
        struct fixture *f = *state;

        assert_true(sd_bus_message_append(f->m, "a{sv}", 1, "top_k", "i", 1) >= 0);
        expect_refused(f, "'top_k' must be of type u; it came as i");
}

static void test_twice(void **state) {
        struct fixture *f = *state;

        assert_true(sd_bus_message_append(f->m, "a{sv}", 2, "stop", "as", 1, "x", "stop", "as", 1, "y") >= 0);
        expect_refused(f, "'stop' is given twice");
}

static void test_import_options(void **state) {
        struct fixture *f = *state;
        struct request_error error;
        struct bus_import_options o;

        assert_true(sd_bus_message_append(f->m, "a{sv}", 3, "pin", "b", 1, "file", "s", "x.gguf", "replace", "b", 1) >= 0);
        seal(f);
        assert_int_equal(bus_import_options_read(&o, f->m, &error), 0);
        assert_true(o.pin && o.replace);
        assert_string_equal(o.file, "x.gguf");
}

static void test_import_knows_no_other_options(void **state) {
        struct fixture *f = *state;
        struct request_error error;
        struct bus_import_options o;

        assert_true(sd_bus_message_append(f->m, "a{sv}", 1, "model", "s", "m") >= 0);
        seal(f);
        assert_int_equal(bus_import_options_read(&o, f->m, &error), REQUEST_E_REFUSED);
        assert_non_null(strstr(error.text, "unknown option 'model'"));
        assert_true(!o.pin && !o.replace && !o.file);
}

static void test_methods_without_options(void **state) {
        struct fixture *f = *state;
        struct request_error error;

        assert_true(sd_bus_message_append(f->m, "a{sv}a{sv}", 0, 1, "model", "s", "x") >= 0);
        seal(f);
        assert_int_equal(bus_options_read_none(f->m, &error), 0);
        assert_int_equal(bus_options_read_none(f->m, &error), REQUEST_E_REFUSED);
        assert_non_null(strstr(error.text, "'model'"));
}

static void test_not_a_dictionary(void **state) {
        struct fixture *f = *state;
        struct request_error error;
        struct bus_options o;

        assert_true(sd_bus_message_append(f->m, "s", "x") >= 0);
        seal(f);
        assert_true(bus_options_init(&o, f->m, &error) < 0);
}

/* ---- properties ---- */

struct view {
        char *s;
        uint64_t t;
        uint32_t u;
        protobuf_c_boolean b;
        float d;
};

static const struct bus_property view_properties[] = {
        { "S", 's', true, offsetof(struct view, s) }, { "T", 't', true, offsetof(struct view, t) },
        { "U", 'u', true, offsetof(struct view, u) }, { "B", 'b', true, offsetof(struct view, b) },
        { "D", 'd', false, offsetof(struct view, d) },
};
static const struct bus_class view_class = { "a.b.C", view_properties, ARRAY_SIZE(view_properties) };

static void test_properties_are_written(void **state) {
        const struct view v = { .s = (char *)"x\xff", .t = UINT64_MAX, .u = 7, .b = 1, .d = 0.5f };
        struct fixture *f = *state;
        const char *name, *text;
        uint64_t t;
        uint32_t u;
        double d;
        int b;

        assert_true(bus_properties_append(f->m, &view_class, &v) >= 0);
        seal(f);
        assert_string_equal(sd_bus_message_get_signature(f->m, true), "a{sv}");
        assert_true(sd_bus_message_enter_container(f->m, 'a', "{sv}") > 0);
        assert_true(sd_bus_message_read(f->m, "{sv}", &name, "s", &text) > 0);
        assert_string_equal(name, "S");
        assert_string_equal(text, "x\xef\xbf\xbd");
        assert_true(sd_bus_message_read(f->m, "{sv}", &name, "t", &t) > 0);
        assert_true(t == UINT64_MAX);
        assert_true(sd_bus_message_read(f->m, "{sv}", &name, "u", &u) > 0);
        assert_int_equal(u, 7);
        assert_true(sd_bus_message_read(f->m, "{sv}", &name, "b", &b) > 0);
        assert_int_equal(b, 1);
        assert_true(sd_bus_message_read(f->m, "{sv}", &name, "d", &d) > 0);
        assert_true(d == 0.5);
        assert_string_equal(name, "D");
        assert_ptr_equal(bus_property_find(&view_class, "B"), &view_properties[3]);
        assert_null(bus_property_find(&view_class, "b"));
}

static void test_changes_of_properties(void **state) {
        struct view v = { .s = (char *)"one", .t = 1 };
        uint64_t told[ARRAY_SIZE(view_properties)] = { 0 };
        char *names[ARRAY_SIZE(view_properties) + 1];

        assert_int_equal(bus_properties_changed(&view_class, &v, told, names), 2);
        assert_null(names[2]);
        assert_int_equal(bus_properties_changed(&view_class, &v, told, names), 0);
        assert_null(names[0]);
        v.d = 3; /* nobody is told of that one */
        assert_int_equal(bus_properties_changed(&view_class, &v, told, names), 0);
        v.s = (char *)"two";
        v.b = 1;
        assert_int_equal(bus_properties_changed(&view_class, &v, told, names), 2);
        assert_string_equal(names[0], "S");
        assert_string_equal(names[1], "B");
}

/* ---- text ---- */

static struct user *user_with(struct users *users, uint64_t bytes) {
        struct user *user;

        users_init(users);
        users->limits[USER_BYTES] = bytes;
        user = users_get(users, 1000);
        assert_non_null(user);
        return user;
}

static void test_text_is_charged(void **state) {
        struct users users;
        struct user *user = user_with(&users, 1 << 20);
        struct bus_text t;

        bus_text_init(&t, user, 10000);
        for (int i = 0; i < 1000; i++) {
                assert_int_equal(bus_text_append(&t, "0123456789", 10), 0);
                assert_true(user->charged[USER_BYTES] >= t.buf.len);
        }
        assert_int_equal(bus_text_append(&t, "x", 1), BUS_TEXT_E_LIMIT);
        assert_int_equal(t.buf.len, 10000);
        bus_text_consume(&t, 9995);
        assert_string_equal(t.buf.data, "56789");
        bus_text_consume(&t, 5);
        assert_int_equal(user->charged[USER_BYTES], 0);
        assert_int_equal(bus_text_append(&t, "y", 1), 0);
        assert_string_equal(t.buf.data, "y");
        bus_text_deinit(&t);
        assert_int_equal(user->charged[USER_BYTES], 0);
        (void)user_unref(user);
}

static void test_text_quota(void **state) {
        struct users users;
        struct user *user = user_with(&users, 1000);
        struct bus_text t;
        int r = 0;

        bus_text_init(&t, user, 100000);
        for (int i = 0; i < 200 && r == 0; i++)
                r = bus_text_append(&t, "0123456789", 10);
        assert_int_equal(r, BUS_TEXT_E_QUOTA);
        assert_true(t.buf.len > 0 && t.buf.len < 1000);
        assert_true(user->charged[USER_BYTES] <= 1000);
        bus_text_deinit(&t);
        assert_int_equal(user->charged[USER_BYTES], 0);
        (void)user_unref(user);
}

static void test_text_becomes_a_string(void **state) {
        static const struct {
                const char *in;
                size_t n;
                const char *out;
        } cases[] = {
                { "", 0, "" },
                { "abc", 3, "abc" },
                { "a\0b", 3, "a\xef\xbf\xbd" "b" },
                { "\0", 1, "\xef\xbf\xbd" },
                { "\xc3\xa4", 2, "\xc3\xa4" },
                { "\xc3", 1, "\xef\xbf\xbd" },
                { "x\xff\xfey", 4, "x\xef\xbf\xbd\xef\xbf\xbdy" },
                { "\xed\xa0\x80", 3, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
        };
        struct users users;
        struct user *user = user_with(&users, 1 << 20);

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct bus_text t;

                bus_text_init(&t, user, 1000);
                assert_int_equal(bus_text_append_string(&t, cases[i].in, cases[i].n), 0);
                assert_int_equal(t.buf.len, strlen(cases[i].out));
                assert_memory_equal(t.buf.data ? t.buf.data : "", cases[i].out, t.buf.len);
                bus_text_deinit(&t);
        }
        (void)user_unref(user);
}

static void test_string_at_the_limit(void **state) {
        struct users users;
        struct user *user = user_with(&users, 1 << 20);
        struct bus_text t;

        bus_text_init(&t, user, 4);
        assert_int_equal(bus_text_append_string(&t, "ab", 2), 0);
        /* a byte that becomes three, or nothing of it */
        assert_int_equal(bus_text_append_string(&t, "\xff", 1), BUS_TEXT_E_LIMIT);
        assert_string_equal(t.buf.data, "ab");
        assert_int_equal(bus_text_append_string(&t, "cd", 2), 0);
        bus_text_deinit(&t);
        (void)user_unref(user);
}

static void test_clean(void **state) {
        char *clean = bus_text_clean("a\xff\xc3");

        assert_string_equal(clean, "a\xef\xbf\xbd\xef\xbf\xbd");
        free(clean);
        clean = bus_text_clean("");
        assert_string_equal(clean, "");
        free(clean);
}

/* ---- errors ---- */

/* "INVALID_ARGUMENT" -> "InvalidArgument" */
static void camel_case(const char *in, char *out) {
        bool upper = true;

        for (; *in; in++) {
                if (*in == '_') {
                        upper = true;
                        continue;
                }
                *out++ = (char)(upper || *in < 'A' ? *in : *in + ('a' - 'A'));
                upper = false;
        }
        *out = 0;
}

static void test_every_code_has_its_name(void **state) {
        const ProtobufCEnumDescriptor *codes = &spark__v1__error_code__descriptor;

        for (unsigned i = 0; i < codes->n_values; i++) {
                char want[128] = "org.sparkd.Spark1.Error.";

                if (codes->values[i].value == 0)
                        continue;
                camel_case(codes->values[i].name, want + strlen(want));
                assert_string_equal(bus_error_name((Spark__V1__ErrorCode)codes->values[i].value), want);
        }
        assert_string_equal(bus_error_name((Spark__V1__ErrorCode)0), "org.sparkd.Spark1.Error.Internal");
        assert_string_equal(bus_error_name((Spark__V1__ErrorCode)9999), "org.sparkd.Spark1.Error.Internal");
}

static void test_error_is_a_string(void **state) {
        sd_bus_error e = SD_BUS_ERROR_NULL;

        assert_true(bus_error_set(&e, SPARK__V1__ERROR_CODE__BUSY, "cut: \xc3") < 0);
        assert_string_equal(e.name, "org.sparkd.Spark1.Error.Busy");
        assert_true(utf8_valid(e.message, strlen(e.message), NULL));
        sd_bus_error_free(&e);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_no_options, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_all_options, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_unknown_priority, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_numbers_that_do_not_fit, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_unknown_option, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_unprintable_name, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_wrong_type, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_twice, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_import_options, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_import_knows_no_other_options, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_methods_without_options, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_not_a_dictionary, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_properties_are_written, set_up, tear_down),
                cmocka_unit_test(test_changes_of_properties),
                cmocka_unit_test(test_text_is_charged),
                cmocka_unit_test(test_text_quota),
                cmocka_unit_test(test_text_becomes_a_string),
                cmocka_unit_test(test_string_at_the_limit),
                cmocka_unit_test(test_clean),
                cmocka_unit_test(test_every_code_has_its_name),
                cmocka_unit_test(test_error_is_a_string),
        };

        return cmocka_run_group_tests_name("bus", tests, NULL, NULL);
}
