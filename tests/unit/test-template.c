/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "daemon/text/jinja/json.h"
#include "daemon/text/template.h"

#define CASES "tests/reference/template-cases.jsonl"

static int render_with(const char *source, size_t n, const char *json, size_t json_n,
                       const struct template_limits *limits, struct buf *out, struct template_error *e) {
        struct template *t = NULL;
        char *copy = malloc(n ? n : 1);
        int r;

        assert_non_null(copy);
        memcpy(copy, source, n);
        r = template_parse(&t, copy, n, e);
        free(copy); /* the template keeps nothing of it */
        if (!r)
                r = template_render(t, json, json_n, 0, limits, out, e);
        if (r > 0)
                assert_true(e->text[0]);
        t = template_free(t);
        return r;
}

static int render(const char *source, const char *json, struct buf *out) {
        struct template_error e;

        return render_with(source, strlen(source), json, strlen(json), NULL, out, &e);
}

static void assert_renders(const char *source, const char *json, const char *want) {
        struct buf out = BUF_NULL(1 << 20);

        assert_int_equal(render(source, json, &out), 0);
        assert_string_equal(out.data ? out.data : "", want);
        buf_deinit(&out);
}

/* The context's own text, cut out of the line: the reader needs no writer. */
static void read_header(const char *line, struct buf *context) {
        const char *brace = strstr(line, "\"context\": {");
        size_t n;

        assert_non_null(brace);
        brace += strlen("\"context\": {");
        n = strlen(brace);
        while (n && brace[n - 1] != '}')
                n--;
        assert_true(n > 1);
        assert_int_equal(buf_append_str(context, "{\"now\": \"2026-11-23T09:15:56.429790\", "), 0);
        assert_int_equal(buf_append(context, brace, n - 1), 0);
}

static bool check_case(const char *line, const struct buf *context) {
        struct arena a = ARENA_NULL(1 << 20);
        struct buf out = BUF_NULL(1 << 20);
        const struct json *source, *want;
        struct template_error te = { 0 };
        struct json_error je;
        struct json c;
        bool good;
        int r;

        assert_int_equal(json_parse(&a, line, strlen(line), 0, &c, &je), 0);
        source = json_get(&c, "template");
        want = json_get(&c, "ok");
        assert_non_null(source);
        assert_true(want || json_get(&c, "error"));
        r = render_with(source->text, source->n, context->data, context->len, NULL, &out, &te);
        if (want)
                good = r == 0 && out.len == want->n && memcmp(out.data ? out.data : "", want->text, want->n) == 0;
        else
                good = r > 0 && out.len == 0;
        if (!good)
                print_message("%.*s\n  gave %d '%s' (%s)\n", (int)source->n, source->text, r, out.data ? out.data : "",
                              te.text);
        buf_deinit(&out);
        arena_deinit(&a);
        return good;
}

/* Snippets and what jinja2 made of them. */
static void test_like_jinja2(void **state) {
        struct buf context = BUF_NULL(1 << 20);
        size_t size = 0, n = 0, bad = 0;
        char *line = NULL;
        FILE *f = fopen(CASES, "re");

        if (!f) {
                print_message(CASES ": run from the project's root\n");
                skip();
        }
        while (getline(&line, &size, f) > 0) {
                line[strcspn(line, "\n")] = 0;
                if (context.len == 0)
                        read_header(line, &context);
                else
                        bad += !check_case(line, &context);
                n++;
        }
        (void)fclose(f);
        free(line);
        buf_deinit(&context);
        assert_true(n > 1000);
        assert_int_equal(bad, 0);
}

/* The variables of one reference conversation, as text: `key` of the reference says whether thinking is switched on. */
static void write_value(struct buf *b, const struct json *v) {
        switch (v->kind) {
        case JSON_STRING:
                assert_int_equal(json_append_string(b, v->text, v->n), 0);
                break;
        case JSON_INT:
                assert_int_equal(buf_printf(b, "%lld", (long long)v->integer), 0);
                break;
        case JSON_ARRAY:
        case JSON_OBJECT:
                assert_int_equal(buf_append_str(b, v->kind == JSON_ARRAY ? "[" : "{"), 0);
                for (size_t i = 0; i < v->n; i++) {
                        assert_int_equal(buf_append_str(b, i ? "," : ""), 0);
                        if (v->kind == JSON_OBJECT) {
                                assert_int_equal(json_append_string(b, v->members[i].name, v->members[i].name_len), 0);
                                assert_int_equal(buf_append_str(b, ":"), 0);
                        }
                        write_value(b, v->kind == JSON_ARRAY ? &v->items[i] : &v->members[i].value);
                }
                assert_int_equal(buf_append_str(b, v->kind == JSON_ARRAY ? "]" : "}"), 0);
                break;
        default:
                assert_int_equal(buf_append_str(b, v->kind == JSON_NULL ? "null" : v->boolean ? "true" : "false"), 0);
                break;
        }
}

static void write_variable(struct buf *b, const char *name, const struct json *v) {
        if (!v)
                return;
        assert_int_equal(buf_printf(b, "%s\"%s\":", b->len ? "," : "{", name), 0);
        write_value(b, v);
}

static void write_conversation(struct buf *b, const struct json *all, const struct json *c, bool thinking) {
        static const char *const names[] = { "now", "bos_token", "eos_token", "unk_token" };
        const struct json yes = { .kind = JSON_BOOL, .boolean = true }, *kw = json_get(c, "kw");

        for (size_t i = 0; i < 4; i++)
                write_variable(b, names[i], json_get(all, names[i]));
        write_variable(b, "messages", json_get(c, "messages"));
        write_variable(b, "tools", json_get(c, "tools"));
        write_variable(b, "add_generation_prompt", json_get(c, "gen"));
        if (thinking)
                write_variable(b, "enable_thinking", &yes);
        for (size_t i = 0; kw && i < kw->n; i++)
                write_variable(b, kw->members[i].name_len == 15 ? "enable_thinking" : "other", &kw->members[i].value);
        assert_int_equal(buf_append_str(b, "}"), 0);
}

static bool read_file(const char *folder, const char *name, const char *suffix, struct buf *b) {
        char path[1024], block[4096];
        size_t n;
        FILE *f;

        assert_in_range(snprintf(path, sizeof(path), "%s/%s%s", folder, name, suffix), 1, sizeof(path) - 1);
        f = fopen(path, "re");
        if (!f)
                return false;
        buf_clear(b);
        while ((n = fread(block, 1, sizeof(block), f)) > 0)
                assert_int_equal(buf_append(b, block, n), 0);
        (void)fclose(f);
        return true;
}

static size_t check_template(const struct buf *source, const struct json *all, const struct json *reference) {
        static const char *const keys[] = { "hf_jinja2", "hf_jinja2_enable_thinking" };
        const struct json *cases = json_get(all, "cases");
        size_t bad = 0;

        for (size_t i = 0; i < 2 * reference->n; i++) {
                const struct json_member *m = &reference->members[i / 2];
                const struct json *want = json_get(json_get(&m->value, keys[i % 2]), "ok"), *c = NULL;
                struct buf json = BUF_NULL(1 << 20), out = BUF_NULL(1 << 20);
                struct template_error e;
                int r;

                for (size_t j = 0; j < cases->n; j++)
                        if (cases->members[j].name_len == m->name_len &&
                            memcmp(cases->members[j].name, m->name, m->name_len) == 0)
                                c = &cases->members[j].value;
                assert_non_null(c);
                write_conversation(&json, all, c, i % 2);
                r = render_with(source->data, source->len, json.data, json.len, NULL, &out, &e);
                bad += want ? r != 0 || out.len != want->n || memcmp(out.data ? out.data : "", want->text, want->n) != 0
                            : r != TEMPLATE_E_RENDER && r != TEMPLATE_E_SYNTAX;
                buf_deinit(&json);
                buf_deinit(&out);
        }
        return bad;
}

/* Templates of real models over real conversations, byte for byte. */
static void test_references(void **state) {
        const char *data = getenv("SPARK_TESTDATA") ? getenv("SPARK_TESTDATA") : "../shared/testdata";
        struct buf text = BUF_NULL(1 << 24), source = BUF_NULL(1 << 24);
        struct arena a = ARENA_NULL(64 << 20);
        struct json all, reference;
        struct json_error je;
        char folder[512], references[600];
        struct dirent *d;
        size_t n = 0;
        DIR *dir;

        assert_in_range(snprintf(folder, sizeof(folder), "%s/templates", data), 1, sizeof(folder) - 1);
        (void)snprintf(references, sizeof(references), "%s/reference/templates", data);
        dir = opendir(folder);
        if (!dir || !read_file(references, "cases", ".json", &text)) {
                print_message("%s: no test data\n", data);
                if (dir)
                        (void)closedir(dir);
                buf_deinit(&text);
                skip();
                return;
        }
        assert_int_equal(json_parse(&a, text.data, text.len, 0, &all, &je), 0);
        while ((d = readdir(dir))) {
                if (!strstr(d->d_name, ".jinja") || !read_file(references, d->d_name, ".json", &text))
                        continue;
                assert_true(read_file(folder, d->d_name, "", &source));
                assert_int_equal(json_parse(&a, text.data, text.len, 0, &reference, &je), 0);
                if (check_template(&source, &all, &reference))
                        fail_msg("%s differs", d->d_name);
                n++;
        }
        (void)closedir(dir);
        assert_true(n > 0);
        arena_deinit(&a);
        buf_deinit(&text);
        buf_deinit(&source);
}

static void test_basics(void **state) {
        assert_renders("", "{}", "");
        assert_renders("{% for m in messages %}<{{ m.role }}>{{ m['content'] }}\n{% endfor %}",
                       "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}", "<user>hi\n");
        assert_renders("{{ tools is none }}{{ x is defined }}", "{}", "TrueFalse");
        assert_renders("{{ strftime_now('%d %b %Y') }}{{ now is defined }}", "{\"now\":\"2024-02-29\"}", "29 Feb 2024False");
        assert_renders("{{ a }}", "{\"a\":\"x\\u0000y\"}", "x"); /* compared up to NUL; length below */
        assert_renders("{{ a|length }}", "{\"a\":\"x\\u0000y\"}", "3");
}

static void test_out_unchanged(void **state) {
        struct buf out = BUF_NULL(1 << 20);

        assert_int_equal(buf_append_str(&out, "kept"), 0);
        assert_int_equal(render("abc{{ raise_exception('no') }}", "{}", &out), TEMPLATE_E_RENDER);
        assert_string_equal(out.data, "kept");
        assert_int_equal(out.len, 4);
        assert_int_equal(render("-{{ 1 }}", "{}", &out), 0);
        assert_string_equal(out.data, "kept-1");
        buf_deinit(&out);
}

static void test_errors(void **state) {
        struct buf out = BUF_NULL(1 << 20);
        struct template_error e;
        static const char source[] = "a\nb\n{{ raise_exception('System role not supported') }}", broken[] = "a\n{% if %}";

        assert_int_equal(render_with(source, strlen(source), "{}", 2, NULL, &out, &e), TEMPLATE_E_RENDER);
        assert_string_equal(e.text, "System role not supported");
        assert_int_equal(e.line, 3);
        assert_int_equal(render_with(broken, strlen(broken), "{}", 2, NULL, &out, &e), TEMPLATE_E_SYNTAX);
        assert_int_equal(e.line, 2);
        assert_int_equal(render("a", "{", &out), TEMPLATE_E_INPUT);
        assert_int_equal(render("a", "[]", &out), TEMPLATE_E_INPUT);
        assert_int_equal(render("a", "{\"now\":5}", &out), TEMPLATE_E_INPUT);
        assert_int_equal(render("a", "{\"now\":\"2024-13-01\"}", &out), TEMPLATE_E_INPUT);
        assert_int_equal(out.len, 0);
        buf_deinit(&out);
}

/* Programs without end or measure. */
static const char *const hostile[] = {
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% for a in range(100000) %}{% for b in range(1000) %}{{ 'x' }}{% endfor %}{% endfor %}",
        "{{ 'x' * 10000000000 }}",
        "{{ range(10000000000) }}",
        "{{ [0] * 10000000000 }}",
        "{% set n = namespace(s='x') %}{% for i in range(100) %}{% set n.s = n.s + n.s %}{% endfor %}",
        "{% set n = namespace(s=[1]) %}{% for i in range(100) %}{% set n.s = n.s + n.s %}{% endfor %}",
        "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}",
        "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s|tojson }}",
        ("{% set n = namespace(s=[1], t=[1]) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}"
         "{% set n.t = [n.t, n.t] %}{% endfor %}{{ n.s == n.t }}"),
        "{% set n = namespace(s=[1]) %}{% for i in range(5000) %}{% set n.s = [n.s] %}{% endfor %}{{ n.s }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m(x) %}{% if x %}{{ m(x - 1) }}{{ m(x - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% set s = 'x' * 100000 %}{{ s|replace('x', s) }}",
        "{% set s = 'x' * 1000000 %}{{ range(100000)|join(s) }}",
        "{{ 'x'|center(10000000000) }}",
        "{{ 'x'.ljust(10000000000) }}",
        "{{ '%99999999999d' % 5 }}",
        "{{ '{:>9999999999}'.format('a') }}",
        "{% set s = '\\n' * 1000000 %}{{ s|indent(100000) }}",
        "{{ [[[1]]]|tojson(indent=100000000000) }}",
        "{{ 2 ** 10000000000 }}",
        "{{ 9223372036854775807 + 1 }}",
        "{% for i in range(100000) %}{% for j in range(100) %}{% set q = 1e300|round(300) %}{% endfor %}{% endfor %}",
        "{% set s = '\\u00e9' * 1000000 %}{% for i in range(100000) %}{% set q = s[500000] %}{% endfor %}",
        "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{% set q = s.rfind('b' ~ 'a' * 1000) %}{% endfor %}",
        "{% for i in range(1000) %}{% set q = range(100000)|sort %}{% endfor %}",
        "{% set s = 'a' * 1000000 %}{% for i in range(1000) %}{% set q = s|wordcount %}{% endfor %}",
        "{% set l = range(100000)|list %}{% for i in range(100000) %}{% set q = l == l %}{% endfor %}",
        "{% for i in range(1000) %}{% set q = range(100000)|select('odd')|list %}{% endfor %}",
        "{% set s = '\\u00e9' * 300000 %}{% for i in range(100000) %}{% set q = s|urlencode %}{% endfor %}",
        "{% set s = 'a' * 300000 %}{% for i in range(100000) %}{% set q = ('a' * 1000 ~ 'b') in s %}{% endfor %}",
        "{% set s = 'a' * 300000 %}{% for i in range(100000) %}{% set q = s.replace('a' * 1000 ~ 'b', '') %}{% endfor %}",
        "{% set s = 'a' * 300000 %}{% for i in range(100000) %}{% set q = s.partition('a' * 1000 ~ 'b') %}{% endfor %}",
        "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{% set q = s.startswith(s) %}{% endfor %}",
        "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{% set q = s.removesuffix(s) %}{% endfor %}",
        "{% set n = namespace(s='xx') %}{% for i in range(60) %}{% set n.s = [n.s, n.s]|join(n.s) %}{% endfor %}",
        "{% set n = namespace(s='xx') %}{% for i in range(60) %}{% set n.s = n.s|replace('x', n.s) %}{% endfor %}",
        "{% set n = namespace(s='xx') %}{% for i in range(60) %}{% set n.s = '{0}{0}'.format(n.s) %}{% endfor %}",
        "{% set n = namespace(s='xx') %}{% for i in range(60) %}{% set n.s = '%s%s' % (n.s, n.s) %}{% endfor %}",
        "{% set n = namespace(s='xx') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{% set n = namespace(s='\"') %}{% for i in range(60) %}{% set n.s = n.s|tojson %}{% endfor %}",
        "{% set n = namespace(s='\\\\') %}{% for i in range(60) %}{% set n.s = [n.s]|string %}{% endfor %}",
        "{% set n = namespace(s='%') %}{% for i in range(200) %}{% set n.s = n.s|urlencode|urlencode ~ n.s %}{% endfor %}",
        "{% set n = namespace(s='a\n') %}{% for i in range(60) %}{% set n.s = (n.s ~ n.s)|indent(100) %}{% endfor %}",
        "{% set n = namespace(l=[]) %}{% for i in range(100000) %}{% set n.l = n.l + [i] %}{% endfor %}",
        "{% set n = namespace(l={}) %}{% for i in range(100000) %}{% set n.l = dict(n.l, a=n.l) %}{{ n.l|tojson }}{% endfor %}",
        "{{ ('\t' * 1000000).expandtabs(100000) }}", "{{ '\t\t'.expandtabs(9223372036854775807) }}",
        "{{ [1, 2] * 9223372036854775807 }}", "{{ 'x'.zfill(9223372036854775807) }}",
        "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{% macro a() %}{% call a() %}{{ caller() }}{% endcall %}{% endmacro %}{% call a() %}x{% endcall %}",
        "{% macro m() %}{{ varargs|length }}{% endmacro %}{% for i in range(100000) %}{% set q = m(*range(100000)) %}{% endfor %}",
        "{% set l = range(100000)|list %}{% for i in range(100000) %}{% set q = loop.changed(l) %}{% endfor %}",
        "{{ range(100000)|batch(1000000000, 'x')|list|length }}", "{{ range(100000)|slice(1000000000)|list|length }}",
        "{% for i in range(100000) %}{% for j in range(1000) %}{% macro m() %}{% endmacro %}{% endfor %}{% endfor %}",
};

/* Each ends at a limit, also at far narrower ones: what it may cost follows from the limits and from nothing else. */
static void test_hostile(void **state) {
        const struct template_limits narrow = { .steps = 100000, .output = 1 << 16, .memory = 1 << 20 };
        /* the wide limits take minutes under an emulator */
        const struct template_limits *limits[] = { getenv("SPARK_TEST_EMULATED") ? &narrow : NULL, &narrow };

        for (size_t i = 0; i < 2 * sizeof(hostile) / sizeof(hostile[0]); i++) {
                const char *source = hostile[i / 2];
                struct buf out = BUF_NULL((size_t)64 << 20);
                struct template_error e;

                if (render_with(source, strlen(source), "{}", 2, limits[i % 2], &out, &e) != TEMPLATE_E_LIMIT)
                        fail_msg("no limit: %s (%s)", source, e.text);
                assert_int_equal(out.len, 0);
                assert_true(!limits[i % 2] || out.cap <= 4 * narrow.output);
                buf_deinit(&out);
        }
}

/* `piece` n times, between head and tail: nested or chained beyond all measure */
static int render_repeated(const char *head, const char *piece, const char *tail, size_t n) {
        struct buf b = BUF_NULL(1 << 22), out = BUF_NULL(1 << 20);
        struct template_error e;
        int r;

        assert_int_equal(buf_append_str(&b, head), 0);
        for (size_t i = 0; i < n; i++)
                assert_int_equal(buf_append_str(&b, piece), 0);
        assert_int_equal(buf_append_str(&b, tail), 0);
        r = render_with(b.data, b.len, "{}", 2, NULL, &out, &e);
        buf_deinit(&b);
        buf_deinit(&out);
        return r;
}

static void test_deep_source(void **state) {
        static const char *const pieces[][3] = {
                { "{{ ", "-", "1 }}" }, { "{{ ", "not ", "1 }}" },
                { "{{ 1", "+1", " }}" }, { "{{ a", ".b", " }}" }, { "{{ a", "|e", " }}" }, { "{{ a", "()", " }}" },
                { "{{ 1", " if 1 else 1", " }}" }, { "", "{% if 1 %}", "" }, { "", "{% for a in [1] %}", "" },
                { "", "{% if 1 %}{% else %}", "" }, { "{{ 1", "**1", " }}" },
        };

        for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++)
                if (render_repeated(pieces[i][0], pieces[i][1], pieces[i][2], 5000) != TEMPLATE_E_LIMIT)
                        fail_msg("no limit: %s%s...", pieces[i][0], pieces[i][1]);
        /* brackets without end are noticed before their depth */
        assert_int_equal(render_repeated("{{ ", "(", "", 5000), TEMPLATE_E_SYNTAX);
        assert_int_equal(render_repeated("{{ ", "{1:", "", 5000), TEMPLATE_E_SYNTAX);
        {
                char source[2 * 5000 + 8];

                (void)snprintf(source, sizeof(source), "{{ %*s }}", 2 * 5000, "");
                memset(source + 3, '[', 5000);
                memset(source + 5003, ']', 5000);
                assert_int_equal(render(source, "{}", &(struct buf){ .limit = 100 }), TEMPLATE_E_LIMIT);
        }
        assert_int_equal(render_repeated("", "x", "", 600 << 10), TEMPLATE_E_LIMIT);
        assert_int_equal(render_repeated("{{ ", "(", "1", 50), TEMPLATE_E_SYNTAX);
        assert_int_equal(render_repeated("{{ '", "a", "' }}", 5000), 0);
}

static void test_own_limits(void **state) {
        const struct template_limits steps = { .steps = 100 }, output = { .output = 10 }, memory = { .memory = 4096 };
        static const char source[] = "{% for i in range(5) %}{{ i }}{% endfor %}{{ 'y' * 8 }}";
        struct buf out = BUF_NULL(1 << 20), narrow = BUF_NULL(12);
        struct template_error e;

        assert_int_equal(render_with(source, strlen(source), "{}", 2, NULL, &out, &e), 0);
        assert_string_equal(out.data, "01234yyyyyyyy");
        buf_clear(&out);
        assert_int_equal(render_with(source, strlen(source), "{}", 2, &steps, &out, &e), TEMPLATE_E_LIMIT);
        assert_int_equal(render_with(source, strlen(source), "{}", 2, &output, &out, &e), TEMPLATE_E_LIMIT);
        assert_int_equal(render_with("{{ range(500)|list }}", 21, "{}", 2, &memory, &out, &e), TEMPLATE_E_LIMIT);
        assert_int_equal(render_with(source, strlen(source), "{}", 2, NULL, &narrow, &e), TEMPLATE_E_LIMIT);
        assert_int_equal(out.len, 0);
        buf_deinit(&out);
        buf_deinit(&narrow);
}

/* Collecting a long prompt in a variable stays linear. */
static void test_collects(void **state) {
        struct buf out = BUF_NULL((size_t)16 << 20);

        assert_int_equal(render("{% set n = namespace(s='') %}{% set p = 'x' * 1000 %}{% for i in range(3000) %}"
                                "{% set n.s = n.s + p + '\\n' %}{% endfor %}{{ n.s }}", "{}", &out), 0);
        assert_int_equal(out.len, 3000 * 1001);
        buf_deinit(&out);
}

/* Every cut of a template is read or refused. */
static void test_cut(void **state) {
        static const char source[] = "a {%- for k, v in {'a': [1, 2.5]}.items() if k is not none -%} {{ k ~ v[0:1]|tojson }}{# c #}"
                                     "{% else %}x{% endfor %}{% macro m(a, b='\\u00e9') %}{{ a if b else caller() }}{% endmacro %}"
                                     "{% raw %}{{{% endraw %}{% set n = namespace(x=1) %}{% set n.x = m(*[1]) %}{{- n.x -}} z";
        struct buf out = BUF_NULL(1 << 20);
        struct template_error e;

        for (size_t n = 0; n < sizeof(source); n++) {
                assert_true(render_with(source, n, "{}", 2, NULL, &out, &e) >= 0);
                buf_clear(&out);
        }
        assert_int_equal(render_with(source, sizeof(source) - 1, "{}", 2, NULL, &out, &e), 0);
        assert_string_equal(out.data, "aa[1]{{1z");
        buf_deinit(&out);
}

struct shared {
        const struct template *t;
        int failures;
};

static void *render_often(void *p) {
        struct shared *s = p;

        for (int i = 0; i < 100; i++) {
                struct buf out = BUF_NULL(1 << 20);
                struct template_error e;
                char json[64];
                int n = snprintf(json, sizeof(json), "{\"a\":%d}", i);

                if (template_render(s->t, json, (size_t)n, 0, NULL, &out, &e) || !out.data || atoi(out.data) != i * 3)
                        s->failures++;
                buf_deinit(&out);
        }
        return NULL;
}

static void test_threads(void **state) {
        static const char source[] = "{% set n = namespace(x=0) %}{% for i in range(3) %}{% set n.x = n.x + a %}{% endfor %}{{ n.x }}";
        struct template_error e;
        struct template *t = NULL;
        struct shared s[2];
        pthread_t threads[2];

        assert_int_equal(template_parse(&t, source, strlen(source), &e), 0);
        for (int i = 0; i < 2; i++) {
                s[i] = (struct shared){ .t = t };
                assert_int_equal(pthread_create(&threads[i], NULL, render_often, &s[i]), 0);
        }
        for (int i = 0; i < 2; i++) {
                assert_int_equal(pthread_join(threads[i], NULL), 0);
                assert_int_equal(s[i].failures, 0);
        }
        t = template_free(t);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_basics),     cmocka_unit_test(test_like_jinja2), cmocka_unit_test(test_out_unchanged),
                cmocka_unit_test(test_errors),     cmocka_unit_test(test_hostile),     cmocka_unit_test(test_deep_source),
                cmocka_unit_test(test_own_limits), cmocka_unit_test(test_collects),    cmocka_unit_test(test_cut),
                cmocka_unit_test(test_threads),    cmocka_unit_test(test_references),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
