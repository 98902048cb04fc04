/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Every key stands in one table with its type, range and place in struct config; reading, range checks, the hunt for
 * unknown keys and --check all go by that table.
 */

#include <ctype.h>
#include <errno.h>
#include <libconfig.h>
#include <limits.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/log.h"
#include "config.h"

enum key_type {
        KEY_STRING, /* any text without control characters */
        KEY_PATH,   /* made absolute */
        KEY_ENUM,   /* one of `words`, kept as the string */
        KEY_INDEX,  /* one of `words`, kept as its number + min */
        KEY_NUMBER,
        KEY_SIZE,   /* bytes: a number or a string such as "6G" */
        KEY_MODE,   /* octal in a string */
};

struct key {
        const char *group; /* NULL = top level */
        const char *name;
        enum key_type type;
        size_t offset;
        uint64_t min, max;
        uint64_t initial;
        const char *initial_text;
        const char *words; /* separated by one space */
};

#define AT(member) offsetof(struct config, member)
#define LIMIT(key, lowest, highest, value) \
        { "limits", #key, KEY_NUMBER, AT(limits.key), lowest, highest, value, NULL, NULL }
#define LIMIT_SIZE(key, lowest, highest, value) \
        { "limits", #key, KEY_SIZE, AT(limits.key), lowest, highest, value, NULL, NULL }
#define KIB (1ull << 10)
#define MIB (1ull << 20)
#define GIB (1ull << 30)

static const struct key keys[] = {
        { NULL, "socket", KEY_PATH, AT(socket), 0, 0, 0, "/run/sparkd/sparkd.sock", NULL },
        { NULL, "socket_mode", KEY_MODE, AT(socket_mode), 0, 0777, 0666, NULL, NULL },
        { NULL, "state_dir", KEY_PATH, AT(state_dir), 0, 0, 0, "/var/lib/sparkd", NULL },
        { NULL, "bus", KEY_INDEX, AT(bus), 0, 0, CONFIG_BUS_SYSTEM, NULL, "none session system" },
        { NULL, "backend", KEY_ENUM, AT(backend), 0, 0, 0, "auto", "auto cpu cuda null" },
        { NULL, "threads", KEY_NUMBER, AT(threads), 0, 1024, 0, NULL, NULL },
        { NULL, "log_level", KEY_INDEX, AT(log_level), LOG_LEVEL_ERROR, 0, LOG_LEVEL_INFO, NULL,
          "error warning notice info debug" },
        { "memory", "floor", KEY_SIZE, AT(memory_floor), 0, 1ull << 50, CONFIG_FLOOR_AUTO, NULL, NULL },
        { "memory", "kv", KEY_SIZE, AT(memory_kv), 0, 1ull << 50, 0, NULL, NULL },
        { "memory", "kv_format", KEY_ENUM, AT(kv_format), 0, 0, 0, "f16", "f16 f32" },
        LIMIT(connections, 1, 1u << 20, 4096),
        LIMIT(connections_per_user, 1, 1u << 20, 2048),
        LIMIT(requests, 1, 60000, 4096),
        LIMIT(requests_per_user, 1, 60000, 2048),
        LIMIT(requests_per_connection, 1, 60000, 256),
        LIMIT_SIZE(bytes_per_user, 64 * KIB, 1ull << 50, 512 * MIB),
        LIMIT(sessions_per_user, 0, 16384, 64),
        LIMIT_SIZE(session_bytes_per_user, 0, 1ull << 50, 4 * GIB),
        LIMIT(session_idle_seconds, 1, 1u << 30, 300),
        LIMIT(output_frames, 16, 1u << 20, 16384),
        LIMIT_SIZE(output_bytes, 64 * KIB, 1 * GIB, 16 * MIB),
        LIMIT(output_seconds, 1, 86400, 30),
        LIMIT(hello_seconds, 1, 86400, 30),
        LIMIT(engine_seconds, 1, 86400, 120),
        LIMIT(engine_losses, 1, 1000, 3),
        LIMIT(load_seconds, 1, 86400, 120),
        LIMIT(stop_seconds, 0, 86400, 10),
        LIMIT(sequences, 0, 4096, 0),
        LIMIT(rows, 0, 65536, 0),
        { "null", "step_us", KEY_NUMBER, AT(null_step_us), 0, 60000000, 0, NULL, NULL },
};

/* Groups that may be there; "power" is reserved and holds no key yet. */
static const char *const groups[] = { "memory", "limits", "power", "null" };

struct reader {
        struct config *config;
        const char *file;
        char *folder;
        struct config_error *error;
};

static _printf_(3, 4) int fault(struct reader *r, const config_setting_t *at, const char *fmt, ...) {
        char text[384];
        va_list ap;
        const char *file = at ? config_setting_source_file(at) : NULL;

        va_start(ap, fmt);
        (void)vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
        (void)snprintf(r->error->text, sizeof(r->error->text), "%.100s:%d: %s", file ? file : r->file,
                       at ? (int)config_setting_source_line(at) : 0, text);
        return CONFIG_E_INVALID;
}

static bool text_is_printable(const char *s) {
        for (; *s; s++)
                if ((unsigned char)*s < 0x20 || *s == 0x7f)
                        return false;
        return true;
}

bool config_model_name_valid(const char *name) {
        size_t n = strlen(name);

        if (n == 0 || n > CONFIG_MODEL_NAME_MAX || name[0] == '.')
                return false;
        for (; *name; name++)
                if (!isalnum((unsigned char)*name) && !strchr("._:-", *name))
                        return false;
        return true;
}

/* The place of `word` among the words of a key, -1 where it is none of them. */
static int word_index(const char *words, const char *word) {
        size_t n = strlen(word);

        for (int i = 0; *words; i++) {
                size_t len = strcspn(words, " ");

                if (len == n && memcmp(words, word, n) == 0)
                        return i;
                words += len + (words[len] == ' ');
        }
        return -1;
}

static int replace_string(char **p, char *value) {
        if (!value)
                return -ENOMEM;
        free(*p);
        *p = value;
        return 0;
}

static char *path_absolute(const char *folder, const char *path) {
        char *out = NULL;

        if (path[0] == '/')
                return strdup(path);
        if (asprintf(&out, "%s/%s", folder, path) < 0)
                return NULL;
        return out;
}

/* "6G" and the like: digits, then nothing or one of K M G T (powers of 1024). */
static bool size_parse(const char *text, uint64_t *ret) {
        static const char units[] = "KMGT";
        const char *unit;
        uint64_t v;
        char *end;

        if (!isdigit((unsigned char)text[0]))
                return false;
        errno = 0;
        v = strtoull(text, &end, 10);
        if (errno != 0)
                return false;
        if (*end) {
                unit = strchr(units, *end);
                if (!unit || end[1] || !checked_mul(v, 1ull << (10 * (unit - units + 1)), &v))
                        return false;
        }
        *ret = v;
        return true;
}

static int read_number(struct reader *r, const struct key *k, const config_setting_t *s, uint64_t *ret) {
        const char *text = config_setting_get_string(s);
        int type = config_setting_type(s);
        long long n;

        if (text && k->type == KEY_MODE) {
                char *end;

                errno = 0;
                *ret = strtoull(text, &end, 8);
                if (!isdigit((unsigned char)text[0]) || *end || errno)
                        return fault(r, s, "'%s' must be an octal mode in quotes, such as \"0660\"", k->name);
                return 0;
        }
        if (text && k->type == KEY_SIZE) {
                if (!size_parse(text, ret))
                        return fault(r, s, "'%s' must be a size such as 1048576 or \"6G\" (units K, M, G, T)", k->name);
                return 0;
        }
        if (k->type == KEY_MODE || (type != CONFIG_TYPE_INT && type != CONFIG_TYPE_INT64))
                return fault(r, s, "'%s' must be %s", k->name,
                             k->type == KEY_MODE ? "an octal mode in quotes" : "a whole number");
        n = config_setting_get_int64(s);
        if (n < 0)
                return fault(r, s, "'%s' must not be negative", k->name);
        *ret = (uint64_t)n;
        return 0;
}

static int set_number(struct reader *r, const struct key *k, const config_setting_t *s, uint64_t *target) {
        uint64_t v = 0;
        int e;

        e = read_number(r, k, s, &v);
        if (e)
                return e;
        if (v < k->min || v > k->max)
                return fault(r, s, "'%s' is %llu, allowed are %llu to %llu", k->name, (unsigned long long)v,
                             (unsigned long long)k->min, (unsigned long long)k->max);
        *target = v;
        return 0;
}

static int set_text(struct reader *r, const struct key *k, const config_setting_t *s, void *target) {
        const char *text = config_setting_get_string(s);
        int index;

        if (!text || config_setting_type(s) != CONFIG_TYPE_STRING)
                return fault(r, s, "'%s' must be a string", k->name);
        if (!text_is_printable(text))
                return fault(r, s, "'%s' contains a control character", k->name);
        switch (k->type) {
        case KEY_PATH:
                if (!*text || strlen(text) >= PATH_MAX)
                        return fault(r, s, "'%s' must be a path", k->name);
                return replace_string(target, path_absolute(r->folder, text));
        case KEY_ENUM:
        case KEY_INDEX:
                index = word_index(k->words, text);
                if (index < 0)
                        return fault(r, s, "'%s' is \"%.64s\", allowed are: %s", k->name, text, k->words);
                if (k->type == KEY_ENUM)
                        return replace_string(target, strdup(text));
                *(uint64_t *)target = k->min + (uint64_t)index;
                return 0;
        default:
                return replace_string(target, strdup(text));
        }
}

static int set_key(struct reader *r, const struct key *k, const config_setting_t *s) {
        void *target = (char *)r->config + k->offset;

        switch (k->type) {
        case KEY_NUMBER:
        case KEY_SIZE:
        case KEY_MODE:
                return set_number(r, k, s, target);
        default:
                return set_text(r, k, s, target);
        }
}

static const struct key *key_find(const char *group, const char *name) {
        for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
                bool same = group ? keys[i].group && strcmp(keys[i].group, group) == 0 : !keys[i].group;

                if (same && strcmp(keys[i].name, name) == 0)
                        return &keys[i];
        }
        return NULL;
}

static int read_group(struct reader *r, const char *group, config_setting_t *s) {
        int e, n;

        if (!config_setting_is_group(s))
                return fault(r, s, "'%s' must be a group: %s = { ... };", group, group);
        n = config_setting_length(s);
        for (int i = 0; i < n; i++) {
                config_setting_t *child = config_setting_get_elem(s, (unsigned)i);
                const struct key *k = key_find(group, config_setting_name(child));

                if (!k)
                        return fault(r, child, "unknown key '%.64s' in '%s'", config_setting_name(child), group);
                e = set_key(r, k, child);
                if (e)
                        return e;
        }
        return 0;
}

static int read_model_key(struct reader *r, struct config_model *m, config_setting_t *s) {
        const char *name = config_setting_name(s), *text = config_setting_get_string(s);
        static const struct key context = { NULL, "context", KEY_NUMBER, 0, 0, 1u << 30, 0, NULL, NULL };

        if (strcmp(name, "name") == 0) {
                if (!text || !config_model_name_valid(text))
                        return fault(r, s, "'name' must be 1 to %u letters, digits or \"._:-\", not beginning with a dot",
                                     CONFIG_MODEL_NAME_MAX);
                return replace_string(&m->name, strdup(text));
        }
        if (strcmp(name, "path") == 0) {
                static const struct key path = { NULL, "path", KEY_PATH, 0, 0, 0, 0, NULL, NULL };

                return set_text(r, &path, s, &m->path);
        }
        if (strcmp(name, "default") == 0) {
                if (config_setting_type(s) != CONFIG_TYPE_BOOL)
                        return fault(r, s, "'default' must be true or false");
                m->is_default = config_setting_get_bool(s);
                return 0;
        }
        if (strcmp(name, "context") == 0)
                return set_number(r, &context, s, &m->context);
        return fault(r, s, "unknown key '%.64s' in 'models'", name);
}

static int read_model(struct reader *r, struct config_model *m, config_setting_t *s) {
        int n, e;

        if (!config_setting_is_group(s))
                return fault(r, s, "each of 'models' must be a group: { name = ...; path = ...; }");
        n = config_setting_length(s);
        for (int i = 0; i < n; i++) {
                e = read_model_key(r, m, config_setting_get_elem(s, (unsigned)i));
                if (e)
                        return e;
        }
        if (!m->name)
                return fault(r, s, "a model without 'name'");
        for (const struct config_model *other = r->config->models; other < m; other++)
                if (strcmp(other->name, m->name) == 0)
                        return fault(r, s, "two models are named '%s'", m->name);
        return 0;
}

static int read_models(struct reader *r, config_setting_t *s) {
        struct config *c = r->config;
        int n, e;

        if (!config_setting_is_list(s))
                return fault(r, s, "'models' must be a list: models = ( { ... }, ... );");
        n = config_setting_length(s);
        if ((unsigned)n > CONFIG_MODELS_MAX)
                return fault(r, s, "%d models, at most %u are allowed", n, CONFIG_MODELS_MAX);
        c->models = calloc((size_t)n + 1, sizeof(*c->models)); /* one more: room for the null backend's own */
        if (!c->models)
                return -ENOMEM;
        for (int i = 0; i < n; i++) {
                c->n_models++;
                e = read_model(r, &c->models[i], config_setting_get_elem(s, (unsigned)i));
                if (e)
                        return e;
        }
        return 0;
}

/* What can be said only when everything was read. */
static int check_models(struct reader *r, const config_setting_t *s) {
        struct config *c = r->config;
        bool null_backend = config_is_null_backend(c);
        struct config_model *def = NULL;

        for (size_t i = 0; i < c->n_models; i++) {
                struct config_model *m = &c->models[i];

                if (!m->path && !null_backend)
                        return fault(r, s, "model '%s' has no 'path'", m->name);
                if (!m->path && !(m->path = strdup("")))
                        return -ENOMEM;
                if (m->is_default && def)
                        return fault(r, s, "both '%s' and '%s' are the default model", def->name, m->name);
                if (m->is_default)
                        def = m;
        }
        if (c->n_models == 0 && null_backend) {
                if (!c->models && !(c->models = calloc(1, sizeof(*c->models))))
                        return -ENOMEM;
                c->models[0] = (struct config_model){ .name = strdup("null"), .path = strdup("") };
                c->n_models = 1;
                if (!c->models[0].name || !c->models[0].path)
                        return -ENOMEM;
        }
        if (c->n_models == 1) /* the only one is what a request without a name means */
                c->models[0].is_default = true;
        return 0;
}

static int read_root(struct reader *r, config_t *file) {
        config_setting_t *root = config_root_setting(file), *models = NULL;
        int n = config_setting_length(root), e = 0;

        for (int i = 0; i < n && !e; i++) {
                config_setting_t *s = config_setting_get_elem(root, (unsigned)i);
                const char *name = config_setting_name(s), *group = NULL;
                const struct key *k = key_find(NULL, name);

                for (size_t g = 0; g < ARRAY_SIZE(groups); g++)
                        if (strcmp(groups[g], name) == 0)
                                group = groups[g];
                if (k)
                        e = set_key(r, k, s);
                else if (group)
                        e = read_group(r, group, s);
                else if (strcmp(name, "models") == 0)
                        e = read_models(r, models = s);
                else
                        e = fault(r, s, "unknown key '%.64s'", name);
        }
        return e ? e : check_models(r, models);
}

static struct config *config_new(void) {
        struct config *c = calloc(1, sizeof(*c));

        if (!c)
                return NULL;
        for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
                void *target = (char *)c + keys[i].offset;

                if (!keys[i].initial_text)
                        *(uint64_t *)target = keys[i].initial;
                else if (!(*(char **)target = strdup(keys[i].initial_text)))
                        return config_free(c);
        }
        return c;
}

struct config *config_free(struct config *c) {
        if (!c)
                return NULL;
        for (size_t i = 0; i < c->n_models; i++) {
                free(c->models[i].name);
                free(c->models[i].path);
        }
        free(c->models);
        free(c->file);
        free(c->socket);
        free(c->state_dir);
        free(c->backend);
        free(c->kv_format);
        free(c);
        return NULL;
}

/* One of file and text is set. */
static int parse(struct config **ret, const char *file, const char *text, const char *folder,
                 struct config_error *error) {
        _cleanup_(config_freep) struct config *c = config_new();
        struct reader r = { .config = c, .file = file ? file : "configuration", .error = error };
        config_t parsed;
        int e, ok;

        *error = (struct config_error){ 0 };
        if (!c || (file && !(c->file = strdup(file))))
                return -ENOMEM;
        r.folder = strdup(folder);
        if (!r.folder)
                return -ENOMEM;
        config_init(&parsed);
        config_set_include_dir(&parsed, r.folder);
        ok = file ? config_read_file(&parsed, file) : config_read_string(&parsed, text);
        if (!ok) {
                const char *at = config_error_file(&parsed);

                (void)snprintf(error->text, sizeof(error->text), "%.200s:%d: %s", at ? at : r.file,
                               config_error_line(&parsed), config_error_text(&parsed));
                e = CONFIG_E_INVALID;
        } else {
                e = read_root(&r, &parsed);
        }
        config_destroy(&parsed);
        free(r.folder);
        if (e)
                return e;
        *ret = steal_ptr(&c);
        return 0;
}

int config_parse(struct config **ret, const char *text, const char *folder, struct config_error *error) {
        return parse(ret, NULL, text, folder, error);
}

int config_load(struct config **ret, const char *file, struct config_error *error) {
        _cleanup_free_ char *full = realpath(file, NULL);
        struct stat st;
        char *slash;

        if (!full || stat(full, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
        if (access(full, R_OK) < 0)
                return -errno;
        _cleanup_free_ char *folder = strdup(full);
        if (!folder)
                return -ENOMEM;
        slash = strrchr(folder, '/');
        slash[slash == folder] = 0;
        return parse(ret, full, NULL, folder, error);
}

bool config_is_null_backend(const struct config *c) {
        return strcmp(c->backend, "null") == 0;
}

static void print_string(FILE *out, const char *s) {
        (void)fputc('"', out);
        for (; *s; s++) {
                if (*s == '"' || *s == '\\')
                        (void)fputc('\\', out);
                (void)fputc(*s, out);
        }
        (void)fputc('"', out);
}

static void print_key(const struct config *c, const struct key *k, FILE *out) {
        const void *source = (const char *)c + k->offset;
        uint64_t v = k->initial_text ? 0 : *(const uint64_t *)source;

        if (k->type == KEY_SIZE && v == CONFIG_FLOOR_AUTO) {
                (void)fprintf(out, "%s# %s: chosen from the machine's memory\n", k->group ? "  " : "", k->name);
                return;
        }
        (void)fprintf(out, "%s%s = ", k->group ? "  " : "", k->name);
        if (k->initial_text) {
                print_string(out, *(char *const *)source);
        } else if (k->type == KEY_INDEX) {
                const char *word = k->words;

                for (uint64_t i = k->min; i < v; i++)
                        word = strchr(word, ' ') + 1;
                (void)fprintf(out, "\"%.*s\"", (int)strcspn(word, " "), word);
        } else if (k->type == KEY_MODE) {
                (void)fprintf(out, "\"%04llo\"", (unsigned long long)v);
        } else {
                (void)fprintf(out, "%llu%s", (unsigned long long)v, v > INT_MAX ? "L" : "");
        }
        (void)fputs(";\n", out);
}

void config_print(const struct config *c, FILE *out) {
        for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
                const char *group = keys[i].group;

                if (group && (i == 0 || !keys[i - 1].group || strcmp(keys[i - 1].group, group) != 0))
                        (void)fprintf(out, "%s = {\n", group);
                print_key(c, &keys[i], out);
                if (group && (i + 1 == ARRAY_SIZE(keys) || strcmp(keys[i + 1].group, group) != 0))
                        (void)fputs("};\n", out);
        }
        (void)fputs("models = (", out);
        for (size_t i = 0; i < c->n_models; i++) {
                const struct config_model *m = &c->models[i];

                (void)fputs(i ? ",\n  { name = " : "\n  { name = ", out);
                print_string(out, m->name);
                if (*m->path) {
                        (void)fputs("; path = ", out);
                        print_string(out, m->path);
                }
                (void)fprintf(out, "; default = %s; context = %llu; }", m->is_default ? "true" : "false",
                              (unsigned long long)m->context);
        }
        (void)fputs("\n);\n", out);
}
