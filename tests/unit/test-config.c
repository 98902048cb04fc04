/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "daemon/control/config/config.h"

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
        assert_int_equal(c->limits.step_timeout_ms, 2000);
        assert_string_equal(c->cuda_library, "");
        assert_string_equal(c->cuda_placement, "auto");
        assert_string_equal(c->cuda_activations, "bf16");
}

static void test_everything(void **state) {
        _cleanup_(config_freep) struct config *c = parse_ok(
                "socket = \"run/s.sock\"; socket_mode = \"0660\"; state_dir = \"/var/x\"; bus = \"none\";\n"
                "backend = \"cpu\"; threads = 3; cuda_library = \"lib/x.so\"; cuda_placement = \"device\"; cuda_activations = \"fp8\"; log_level = \"debug\";\n"
                "memory = { floor = \"6G\"; kv = 1048576; kv_format = \"f32\"; };\n"
                "limits = { connections = 10; output_bytes = \"1M\"; stop_seconds = 0; step_timeout_ms = 500; };\n"
                "power = { };\n"
                "models = ( { name = \"a\"; path = \"m/a.gguf\"; }, { name = \"b.1\"; path = \"/b\"; default = true; "
                "context = 512; } );\n");

        assert_string_equal(c->socket, "/conf/run/s.sock");
        assert_int_equal(c->socket_mode, 0660);
        assert_string_equal(c->state_dir, "/var/x");
        assert_int_equal(c->bus, CONFIG_BUS_NONE);
        assert_int_equal(c->threads, 3);
        assert_string_equal(c->cuda_library, "/conf/lib/x.so");
        assert_string_equal(c->cuda_placement, "device");
        assert_string_equal(c->cuda_activations, "fp8");
        assert_int_equal(c->limits.step_timeout_ms, 500);
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

static void test_limits_of_users(void **state) {
        _cleanup_(config_freep) struct config *none = parse_ok("");
        _cleanup_(config_freep) struct config *c = parse_ok(
                "memory = { kv_format = \"q8_0\"; }; scheduler = { inter_token_ms = 40; };"
                "limits = { running_per_user = 4; queued_per_user = 0; kv_per_user = \"2G\"; tokens_per_day = 5000000000L;"
                "  max_priority = \"normal\"; share_prefixes = \"all\"; };");

        assert_int_equal(none->inter_token_ms, 100);
        assert_int_equal(none->limits.running_per_user, 0);
        assert_int_equal(none->limits.queued_per_user, 1024);
        assert_int_equal(none->limits.kv_per_user, 0);
        assert_int_equal(none->limits.tokens_per_day, 0);
        assert_int_equal(none->limits.max_priority, 3);
        assert_int_equal(none->limits.share_prefixes, CONFIG_SHARE_PRIVILEGED);
        assert_int_equal(none->n_users, 0);
        assert_string_equal(c->kv_format, "q8_0");
        assert_int_equal(c->inter_token_ms, 40);
        assert_int_equal(c->limits.running_per_user, 4);
        assert_int_equal(c->limits.queued_per_user, 0);
        assert_true(c->limits.kv_per_user == 2ull << 30);
        assert_true(c->limits.tokens_per_day == 5000000000u);
        assert_int_equal(c->limits.max_priority, 2);
        assert_int_equal(c->limits.share_prefixes, CONFIG_SHARE_ALL);
}

static void test_store(void **state) {
        _cleanup_(config_freep) struct config *none = parse_ok("");
        _cleanup_(config_freep) struct config *c = parse_ok(
                "store = { enabled = \"no\"; import = \"all\"; imports = 7; max_bytes = \"500G\"; bytes_per_user = \"1G\";"
                "  reserve = 0; };"
                "users = ( { uid = 5; import = \"no\"; store_bytes = \"2G\"; } );");
        const struct config_user *u = config_find_user(c, 5);

        assert_int_equal(none->store.enabled, 1);
        assert_int_equal(none->store.import, CONFIG_IMPORT_PRIVILEGED);
        assert_int_equal(none->store.imports, 2);
        assert_true(none->store.max_bytes == 0 && none->store.bytes_per_user == 0 && none->store.reserve == 1u << 30);
        assert_int_equal(c->store.enabled, 0);
        assert_int_equal(c->store.import, CONFIG_IMPORT_ALL);
        assert_int_equal(c->store.imports, 7);
        assert_true(c->store.max_bytes == 500ull << 30 && c->store.bytes_per_user == 1u << 30 && c->store.reserve == 0);
        assert_non_null(u);
        assert_true(u->import == 0 && u->store_bytes == 2ull << 30);
}

static void test_users(void **state) {
        _cleanup_(config_freep) struct config *c = parse_ok(
                "users = (\n"
                "  { user = \"root\"; weight = 3; },\n"
                "  { uid = 4000000000L; max_priority = \"background\"; connections = 1; requests = 2; bytes = \"1M\";\n"
                "    running = 3; queued = 4; kv = \"5M\"; tokens_per_day = 0; },\n"
                "  { group = \"root\"; weight = 7; },\n"
                "  { uid = 1234; }\n"
                ");\n");
        const struct config_user *u;

        assert_int_equal(c->n_users, 4);
        u = config_find_user(c, 0); /* root is in group root, too: the first that fits counts */
        assert_ptr_equal(u, &c->users[0]);
        assert_int_equal(u->weight, 3);
        assert_true(u->queued == CONFIG_UNSET);
        assert_int_equal(c->users[2].uids[0], 0);
        u = config_find_user(c, 4000000000u);
        assert_ptr_equal(u, &c->users[1]);
        assert_true(u->weight == CONFIG_UNSET);
        assert_int_equal(u->max_priority, 1);
        assert_int_equal(u->connections, 1);
        assert_int_equal(u->requests, 2);
        assert_int_equal(u->bytes, 1 << 20);
        assert_int_equal(u->running, 3);
        assert_int_equal(u->queued, 4);
        assert_int_equal(u->kv, 5 << 20);
        assert_int_equal(u->tokens_per_day, 0);
        assert_ptr_equal(config_find_user(c, 1234), &c->users[3]);
        assert_null(config_find_user(c, 1235));
}

/* Everybody in the group: those that it names and those whose first group it is. */
static void test_group(void **state) {
        const struct group *gr;
        const struct passwd *pw;
        char name[64], text[128];
        size_t n = 0;

        pw = getpwnam("nobody");
        if (!pw) {
                print_message("skipped: there is no user 'nobody' here\n");
                skip();
                return;
        }
        gr = getgrgid(pw->pw_gid);
        assert_non_null(gr);
        (void)snprintf(name, sizeof(name), "%s", gr->gr_name);
        (void)snprintf(text, sizeof(text), "users = ( { group = \"%s\"; weight = 9; } );", name);
        _cleanup_(config_freep) struct config *c = parse_ok(text);
        pw = getpwnam("nobody");
        assert_ptr_equal(config_find_user(c, pw->pw_uid), &c->users[0]);
        for (size_t i = 0; i < c->users[0].n_uids; i++)
                n += c->users[0].uids[i] == pw->pw_uid;
        assert_int_equal(n, 1);
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

struct fault {
        const char *text, *expected;
};

static void parse_all_bad(const struct fault *faults, size_t n) {
        for (size_t i = 0; i < n; i++)
                parse_bad(faults[i].text, faults[i].expected);
}

static void test_faults(void **state) {
        static const struct fault faults[] = {
                { "sockt = \"x\";", ":1: unknown key 'sockt'" },
                { "\n\nlimits = {\n conections = 1; };", ":4: unknown key 'conections' in 'limits'" },
                { "power = { a = 1; };", "unknown key 'a' in 'power'" },
                { "power = { battery_batch = -1; };", "'battery_batch' must not be negative" },
                { "power = { battery_batch = \"all\"; };", "'battery_batch' must be a whole number" },
                { "power = { mains_batch = 70000; };", "'mains_batch' is 70000, allowed are 0 to 65536" },
                { "power = { low_threads = 1025; };", "'low_threads' is 1025, allowed are 0 to 1024" },
                { "power = { hot_clocks = 101; };", "'hot_clocks' is 101, allowed are 0 to 100" },
                { "power = { hot_clocks = 0.5; };", "'hot_clocks' must be a whole number" },
                { "power = { hot_rows = 5; };", "unknown key 'hot_rows' in 'power'" },
                { "socket = 5;", "'socket' must be a string" },
                { "socket = \"\";", "'socket' must be a path" },
                { "socket = \"a\x01\";", "control character" },
                { "threads = \"2\";", "'threads' must be a whole number" },
                { "threads = 1.5;", "'threads' must be a whole number" },
                { "threads = -1;", "must not be negative" },
                { "threads = 1025;", "allowed are 0 to 1024" },
                { "backend = \"gpu\";", "allowed are: auto cpu cuda null" },
                { "backend = \"auto cpu\";", "allowed are: auto cpu cuda null" },
                { "cuda_library = \"\";", "'cuda_library' must be a path" },
                { "cuda_placement = \"host\";", "allowed are: auto unified device" },
                { "cuda_activations = \"int8\";", "allowed are: bf16 fp8" },
                { "limits = { step_timeout_ms = 3600001; };", "allowed are 0 to 3600000" },
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
                { "limits = { connections = 0; };", "allowed are 1" },
                { "memory = { kv_format = \"q4_0\"; };", "allowed are: f16 q8_0 f32" },
                { "memory = { pressure = \"maybe\"; };", "allowed are: no yes" },
                { "memory = { restore_seconds = 0; };", "restore_seconds" },
                { "memory = { wait_seconds = 86401; };", "wait_seconds" },
                { "scheduler = { inter_token_ms = 0; };", "allowed are 1" },
                { "scheduler = { rows = 5; };", "unknown key 'rows' in 'scheduler'" },
                { "limits = { max_priority = \"high\"; };", "allowed are: background normal interactive" },
                { "limits = { share_prefixes = true; };", "'share_prefixes' must be a string" },
                { "store = 1;", "'store' must be a group" },
                { "store = { path = 1; };", "unknown key 'path' in 'store'" },
                { "store = { enabled = true; };", "'enabled' must be a string" },
                { "store = { enabled = \"maybe\"; };", "allowed are: no yes" },
                { "store = { import = \"some\"; };", "allowed are: none privileged all" },
                { "store = { imports = 0; };", "allowed are 1" },
                { "store = { max_bytes = \"x\"; };", "'max_bytes'" },
                { "limits = { queued_per_user = 60001; };", "allowed are 0 to 60000" },
                { "threads = ;", "syntax error" },
                { "threads = 1; threads = 2;", "duplicate" },
        };

        parse_all_bad(faults, ARRAY_SIZE(faults));
}

static void test_faults_of_users_and_models(void **state) {
        static const struct fault faults[] = {
                { "models = ( { name = \"a\"; path = \"/a\"; pth = 1; } );", "unknown key 'pth' in 'models'" },
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
                { "users = ( { uid = 5; import = 1; } );", "'import' must be a string" },
                { "users = { };", "'users' must be a list" },
                { "users = ( 1 );", "each of 'users' must be a group" },
                { "users = (\n { weight = 2; } );", ":2: each of 'users' must say who is meant" },
                { "users = ( { user = \"root\"; uid = 0; } );", "by one of 'user', 'uid', 'group'" },
                { "users = ( { uid = 5;\n wight = 2; } );", ":2: unknown key 'wight' in 'users'" },
                { "users = ( {\n user = \"no such user\"; } );", ":2: 'user': there is no user 'no such user'" },
                { "users = ( {\n group = \"no such group\"; } );", ":2: 'group': there is no group 'no such group'" },
                { "users = ( { user = 5; } );", "'user' must be a string" },
                { "users = ( { uid = 4294967295L; } );", "allowed are 0 to 4294967294" },
                { "users = ( { uid = \"root\"; } );", "'uid' must be a whole number" },
                { "users = ( { uid = 1; weight = 0; } );", "allowed are 1 to 1000" },
                { "users = ( { uid = 1; connections = 0; } );", "allowed are 1" },
                { "users = ( { uid = 1; max_priority = \"\"; } );", "allowed are: background" },
                { "users = ( { uid = 1; kv = \"1X\"; } );", "must be a size" },
                { "users = ( { uid = 0; }, { user = \"root\"; } );", "two of 'users' are uid 0" },
        };

        parse_all_bad(faults, ARRAY_SIZE(faults));
}

/* libconfig reads them as others, and says nothing. */
static void test_numbers_without_room(void **state) {
        static const struct fault faults[] = {
                { "threads = -2147483649;", "'threads' is -2147483649: a number of more than 32 bits needs an L" },
                { "memory = {\n kv = 1;\n floor = 2147483648; };", ":3: 'floor' is 2147483648: a number of more than 32 bits needs an L" },
                { "memory = { floor = 4294967296; };", "'floor' is 4294967296: a number of more than 32 bits needs an L" },
                { "memory = { floor = 9223372036854775807; };", "needs an L" },
                { "memory = { floor = 9223372036854775808; };", "'floor' is 9223372036854775808, which is more than any number may be" },
                { "memory = { floor = 9223372036854775808L; };", "'floor' is 9223372036854775808L, which is more than any" },
                { "memory = { floor = 0x80000000; };", "'floor' is 0x80000000: a number of more than 32 bits needs an L" },
                { "memory = { floor = 0x8000000000000000L; };", "'floor' is 0x8000000000000000L, which is more than any" },
                { "memory = { floor = -9223372036854775809L; };", "'floor' is -9223372036854775809L, which is more than any" },
                { "limits = { tokens_per_day = 18446744073709551615; };", "'tokens_per_day' is 18446744073709551615, which" },
                { "users = ( { uid = 4294967295; } );", "'uid' is 4294967295: a number of more than 32 bits needs an L" },
                { "threads = 2; models = ( { name = \"a\"; path = \"/a\"; context = 5000000000; } );", "'context' is 5000000000: a" },
        };

        parse_all_bad(faults, ARRAY_SIZE(faults));
}

/* Numbers that have room, and what looks like ones that have none. */
static void test_numbers(void **state) {
        _cleanup_(config_freep) struct config *c = parse_ok(
                "# floor = 99999999999\n// 99999999999 \"\n/* 99999999999 \" */ state_dir = \"/99999999999 \\\" 99999999999\";\n"
                "memory = { floor = 0x7fffffff; kv = 0x80000000L; lease_bytes_per_user = 8589934592LL; };\n"
                "limits = { tokens_per_day = 9007199254740992L; sessions_per_user = 16384; /* \" */ };"
                "users = ( { uid = 4294967294L; } );");

        assert_true(c->memory_floor == 0x7fffffff);
        assert_true(c->memory_kv == 1ull << 31);
        assert_true(c->leases.bytes_per_user == 8ull << 30);
        assert_true(c->limits.tokens_per_day == 1ull << 53);
        assert_string_equal(c->state_dir, "/99999999999 \" 99999999999");
}

static void put(const char *path, const char *text) {
        FILE *f = fopen(path, "we");

        assert_non_null(f);
        assert_true(fputs(text, f) >= 0);
        assert_int_equal(fclose(f), 0);
}

static void test_file(void **state) {
        char dir[] = "/tmp/test-config-XXXXXX", path[64], other[64];
        struct config_error error;
        struct config *c = NULL;

        assert_non_null(mkdtemp(dir));
        (void)snprintf(path, sizeof(path), "%s/c.conf", dir);
        (void)snprintf(other, sizeof(other), "%s/other.conf", dir);
        assert_int_equal(config_load(&c, path, &error), -ENOENT);
        assert_int_equal(config_load(&c, dir, &error), -EISDIR);
        put(path, "socket = \"s\";\nthreads = oops;\n");
        assert_int_equal(config_load(&c, path, &error), CONFIG_E_INVALID);
        assert_non_null(strstr(error.text, "c.conf:2:"));
        put(path, "socket = \"s\";\n@include \"other.conf\"\nthreads = 5;\n");
        put(other, "memory = {\n floor = 4294967296;\n};\n");
        assert_int_equal(config_load(&c, path, &error), CONFIG_E_INVALID);
        assert_non_null(strstr(error.text, "other.conf:2: 'floor' is 4294967296: a number"));
        put(other, "memory = {\n floor = 4294967296L;\n};\n");
        put(path, "socket = \"s\";\n@include \"other.conf\"\nthreads = 4294967300;\n");
        assert_int_equal(config_load(&c, path, &error), CONFIG_E_INVALID);
        assert_non_null(strstr(error.text, "c.conf:3: 'threads' is 4294967300: a number"));
        put(path, "socket = \"s\";\n");
        assert_int_equal(config_load(&c, path, &error), 0);
        assert_true(strncmp(c->socket, dir, strlen(dir)) == 0);
        c = config_free(c);
        (void)unlink(path);
        (void)unlink(other);
        assert_int_equal(rmdir(dir), 0);
}

/* What --check prints is a configuration that means the same. */
static void test_print_reads_back(void **state) {
        _cleanup_(config_freep) struct config *c = parse_ok(
                "cuda_library = \"/l/x.so\"; cuda_placement = \"unified\"; socket = \"/s\\\"q\\\\\"; socket_mode = \"0600\"; bus = \"session\"; memory = { floor = \"8G\"; };"
                "limits = { bytes_per_user = \"3G\"; max_priority = \"background\"; share_prefixes = \"none\"; };"
                "users = ( { user = \"root\"; max_priority = \"normal\"; kv = \"3G\"; }, { uid = 77; weight = 5; } );"
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
        assert_string_equal(back->cuda_library, "/l/x.so");
        assert_string_equal(back->cuda_placement, "unified");
        assert_true(back->limits.bytes_per_user == 3ull << 30);
        assert_int_equal(back->limits.max_priority, 1);
        assert_int_equal(back->limits.share_prefixes, CONFIG_SHARE_NONE);
        assert_int_equal(back->n_users, 2);
        assert_int_equal(back->users[0].max_priority, 2);
        assert_true(back->users[0].kv == 3ull << 30);
        assert_int_equal(config_find_user(back, 77)->weight, 5);
        free(text);
        free(again);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_defaults),     cmocka_unit_test(test_everything),
                cmocka_unit_test(test_null_backend), cmocka_unit_test(test_faults),
                cmocka_unit_test(test_limits_of_users), cmocka_unit_test(test_users),
                cmocka_unit_test(test_store), cmocka_unit_test(test_group),
                cmocka_unit_test(test_faults_of_users_and_models),
                cmocka_unit_test(test_numbers), cmocka_unit_test(test_numbers_without_room),
                cmocka_unit_test(test_file),         cmocka_unit_test(test_print_reads_back),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
