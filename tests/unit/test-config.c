/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "daemon/control/config.h"

static struct config *parse_ok(const char *text) {
        struct config_error error;
        struct config *c = NULL;
        int r = config_parse(&c, text, "/conf", &error);

        if (r != 0)
                print_error("%s\n", error.text);
        assert_int_equal(r, 0);
        return c;
}

static void parse_bad(const char *text, const char *expected) {
        struct config_error error;
        struct config *c = NULL;

        assert_int_equal(config_parse(&c, text, "/conf", &error), CONFIG_E_INVALID);
        assert_null(c);
        if (!strstr(error.text, expected))
                print_error("'%s' does not contain '%s'\n", error.text, expected);
        assert_non_null(strstr(error.text, expected));
}

static void test_defaults(void **state) {
        _cleanup_(config_freep) struct config *c = parse_ok("");

        assert_string_equal(c->socket, "/run/sparkd/sparkd.sock");
        assert_int_equal(c->socket_mode, 0666);
        assert_string_equal(c->backend, "auto");
        assert_int_equal(c->bus, CONFIG_BUS_SYSTEM);
        assert_int_equal(c->log_level, LOG_LEVEL_INFO);
        assert_true(c->memory_floor == CONFIG_FLOOR_AUTO);
        assert_int_equal(c->n_models, 0);
        assert_int_equal(c->limits.engine_losses, 3);
}

static void test_everything(void **state) {
        _cleanup_(config_freep) struct config *c = parse_ok(
                "socket = \"run/s.sock\"; socket_mode = \"0660\"; state_dir = \"/var/x\"; bus = \"none\";\n"
                "backend = \"cpu\"; threads = 3; log_level = \"debug\";\n"
                "memory = { floor = \"6G\"; kv = 1048576; kv_format = \"f32\"; };\n"
                "limits = { connections = 10; output_bytes = \"1M\"; stop_seconds = 0; };\n"
                "power = { };\n"
                "models = ( { name = \"a\"; path = \"m/a.gguf\"; }, { name = \"b.1\"; path = \"/b\"; default = true; "
                "context = 512; } );\n");

        assert_string_equal(c->socket, "/conf/run/s.sock");
        assert_int_equal(c->socket_mode, 0660);
        assert_string_equal(c->state_dir, "/var/x");
        assert_int_equal(c->bus, CONFIG_BUS_NONE);
        assert_int_equal(c->threads, 3);
        assert_int_equal(c->log_level, LOG_LEVEL_DEBUG);
        assert_true(c->memory_floor == 6ull << 30);
        assert_int_equal(c->memory_kv, 1048576);
        assert_string_equal(c->kv_format, "f32");
        assert_int_equal(c->limits.output_bytes, 1 << 20);
        assert_int_equal(c->limits.stop_seconds, 0);
        assert_int_equal(c->n_models, 2);
        assert_string_equal(c->models[0].path, "/conf/m/a.gguf");
        assert_false(c->models[0].is_default);
        assert_true(c->models[1].is_default);
        assert_int_equal(c->models[1].context, 512);
}

static void test_null_backend(void **state) {
        _cleanup_(config_freep) struct config *own = parse_ok("backend = \"null\";");
        _cleanup_(config_freep) struct config *two =
                parse_ok("backend = \"null\"; models = ( { name = \"x\"; }, { name = \"y\"; } );");

        assert_int_equal(own->n_models, 1);
        assert_string_equal(own->models[0].name, "null");
        assert_true(own->models[0].is_default);
        assert_int_equal(two->n_models, 2);
        assert_string_equal(two->models[1].path, "");
}

static void test_faults(void **state) {
        static const struct {
                const char *text, *expected;
        } bad[] = {
                { "sockt = \"x\";", ":1: unknown key 'sockt'" },
                { "\n\nlimits = {\n conections = 1; };", ":4: unknown key 'conections' in 'limits'" },
                { "power = { a = 1; };", "unknown key 'a' in 'power'" },
                { "models = ( { name = \"a\"; path = \"/a\"; pth = 1; } );", "unknown key 'pth' in 'models'" },
                { "socket = 5;", "'socket' must be a string" },
                { "socket = \"\";", "'socket' must be a path" },
                { "socket = \"a\x01\";", "control character" },
                { "threads = \"2\";", "'threads' must be a whole number" },
                { "threads = 1.5;", "'threads' must be a whole number" },
                { "threads = -1;", "must not be negative" },
                { "threads = 1025;", "allowed are 0 to 1024" },
                { "backend = \"gpu\";", "allowed are: auto cpu cuda null" },
                { "backend = \"auto cpu\";", "allowed are: auto cpu cuda null" },
                { "bus = \"\";", "allowed are: none session system" },
                { "socket_mode = 438;", "octal mode" },
                { "socket_mode = \"999\";", "octal mode" },
                { "socket_mode = \"7777\";", "allowed are 0 to 511" },
                { "memory = { floor = \"6Q\"; };", "must be a size" },
                { "memory = { floor = \"6GB\"; };", "must be a size" },
                { "memory = { floor = \"-6G\"; };", "must be a size" },
                { "memory = { floor = \"99999999999T\"; };", "must be a size" },
                { "memory = { floor = \"99999999999999999999999\"; };", "must be a size" },
                { "memory = { floor = 9223372036854775807L; };", "allowed are" },
                { "memory = 5;", "must be a group" },
                { "models = { };", "must be a list" },
                { "models = ( 5 );", "must be a group" },
                { "models = ( { path = \"/a\"; } );", "without 'name'" },
                { "models = ( { name = \"a\"; } );", "has no 'path'" },
                { "models = ( { name = \"a/b\"; path = \"/a\"; } );", "'name' must be" },
                { "models = ( { name = \"\"; path = \"/a\"; } );", "'name' must be" },
                { "models = ( { name = \".a\"; path = \"/a\"; } );", "'name' must be" },
                { "models = ( { name = \"a\"; path = \"/a\"; }, { name = \"a\"; path = \"/b\"; } );", "two models" },
                { "models = ( { name = \"a\"; path = \"/a\"; default = 1; } );", "true or false" },
                { "models = ( { name = \"a\"; path = \"/a\"; default = true; }, "
                  "{ name = \"b\"; path = \"/b\"; default = true; } );", "default model" },
                { "limits = { connections = 0; };", "allowed are 1" },
                { "threads = ;", "syntax error" },
                { "threads = 1; threads = 2;", "duplicate" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
                parse_bad(bad[i].text, bad[i].expected);
}

static void test_file(void **state) {
        char dir[] = "/tmp/test-config-XXXXXX", path[64];
        struct config_error error;
        struct config *c = NULL;
        FILE *f;

        assert_non_null(mkdtemp(dir));
        (void)snprintf(path, sizeof(path), "%s/c.conf", dir);
        assert_int_equal(config_load(&c, path, &error), -ENOENT);
        assert_int_equal(config_load(&c, dir, &error), -EISDIR);
        f = fopen(path, "w");
        assert_non_null(f);
        (void)fputs("socket = \"s\";\nthreads = oops;\n", f);
        (void)fclose(f);
        assert_int_equal(config_load(&c, path, &error), CONFIG_E_INVALID);
        assert_non_null(strstr(error.text, "c.conf:2:"));
        f = fopen(path, "w");
        (void)fputs("socket = \"s\";\n", f);
        (void)fclose(f);
        assert_int_equal(config_load(&c, path, &error), 0);
        assert_true(strncmp(c->socket, dir, strlen(dir)) == 0);
        c = config_free(c);
        (void)unlink(path);
        (void)rmdir(dir);
}

/* What --check prints is a configuration that means the same. */
static void test_print_reads_back(void **state) {
        _cleanup_(config_freep) struct config *c = parse_ok(
                "socket = \"/s\\\"q\\\\\"; socket_mode = \"0600\"; bus = \"session\"; memory = { floor = \"8G\"; };"
                "limits = { bytes_per_user = \"3G\"; };"
                "models = ( { name = \"a\"; path = \"/a\"; }, { name = \"b\"; path = \"/b\"; default = true; } );");
        _cleanup_(config_freep) struct config *back = NULL;
        char *text = NULL, *again = NULL;
        size_t size = 0;
        FILE *f;

        f = open_memstream(&text, &size);
        config_print(c, f);
        (void)fclose(f);
        back = parse_ok(text);
        f = open_memstream(&again, &size);
        config_print(back, f);
        (void)fclose(f);
        assert_string_equal(text, again);
        assert_string_equal(back->socket, c->socket);
        assert_true(back->limits.bytes_per_user == 3ull << 30);
        free(text);
        free(again);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_defaults),     cmocka_unit_test(test_everything),
                cmocka_unit_test(test_null_backend), cmocka_unit_test(test_faults),
                cmocka_unit_test(test_file),         cmocka_unit_test(test_print_reads_back),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
