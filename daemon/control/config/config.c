/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Every key stands in one table with its type, range and place in struct config; reading, range checks, the hunt for
 * unknown keys and --check all go by that table.
 */

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "config-private.h"

#define AT(member) offsetof(struct config, member)
#define LIMIT(key, lowest, highest, value) \
        { "limits", #key, KEY_NUMBER, AT(limits.key), lowest, highest, value, NULL, NULL }
#define LIMIT_SIZE(key, lowest, highest, value) \
        { "limits", #key, KEY_SIZE, AT(limits.key), lowest, highest, value, NULL, NULL }
#define KIB (1ull << 10)
#define MIB (1ull << 20)
#define GIB (1ull << 30)

const struct key config_keys[] = {
        { NULL, "socket", KEY_PATH, AT(socket), 0, 0, 0, "/run/sparkd/sparkd.sock", NULL },
        { NULL, "socket_mode", KEY_MODE, AT(socket_mode), 0, 0777, 0666, NULL, NULL },
        { NULL, "state_dir", KEY_PATH, AT(state_dir), 0, 0, 0, "/var/lib/sparkd", NULL },
        { NULL, "bus", KEY_INDEX, AT(bus), 0, 0, CONFIG_BUS_SYSTEM, NULL, "none session system" },
        { NULL, "backend", KEY_ENUM, AT(backend), 0, 0, 0, "auto", "auto cpu cuda null" },
        { NULL, "threads", KEY_NUMBER, AT(threads), 0, 1024, 0, NULL, NULL },
        { NULL, "cuda_library", KEY_PATH, AT(cuda_library), 0, 0, 0, "", NULL },
        { NULL, "cuda_placement", KEY_ENUM, AT(cuda_placement), 0, 0, 0, "auto", "auto unified device" },
        { NULL, "cuda_activations", KEY_ENUM, AT(cuda_activations), 0, 0, 0, "bf16", "bf16 fp8" },
        { NULL, "log_level", KEY_INDEX, AT(log_level), LOG_LEVEL_ERROR, 0, LOG_LEVEL_INFO, NULL,
          "error warning notice info debug" },
        { "memory", "floor", KEY_SIZE, AT(memory_floor), 0, 1ull << 50, CONFIG_FLOOR_AUTO, NULL, NULL },
        { "memory", "kv", KEY_SIZE, AT(memory_kv), 0, 1ull << 50, 0, NULL, NULL },
        { "memory", "kv_format", KEY_ENUM, AT(kv_format), 0, 0, 0, "f16", "f16 q8_0 f32" },
        { "memory", "leases", KEY_INDEX, AT(leases.who), 0, 0, CONFIG_WHO_ALL, NULL, CONFIG_WHO_WORDS },
        { "memory", "leases_per_user", KEY_NUMBER, AT(leases.per_user), 1, 4096, 16, NULL, NULL },
        { "memory", "lease_bytes_per_user", KEY_SIZE, AT(leases.bytes_per_user), 0, 1ull << 50, 0, NULL, NULL },
        { "memory", "lease_policy", KEY_INDEX, AT(leases.policy), 0, 0, CONFIG_LEASE_WAIT, NULL, "wait busy" },
        { "memory", "lease_retry_seconds", KEY_NUMBER, AT(leases.retry_seconds), 1, 86400, 30, NULL, NULL },
        { "memory", "pressure", KEY_INDEX, AT(memory_pressure), 0, 0, 1, NULL, CONFIG_YES_WORDS },
        { "memory", "restore_seconds", KEY_NUMBER, AT(memory_restore_seconds), 1, 86400, 30, NULL, NULL },
        { "memory", "wait_seconds", KEY_NUMBER, AT(memory_wait_seconds), 0, 86400, 60, NULL, NULL },
        { "scheduler", "inter_token_ms", KEY_NUMBER, AT(inter_token_ms), 1, 60000, 100, NULL, NULL },
        LIMIT(connections, 1, 1u << 20, 4096),
        LIMIT(connections_per_user, 1, 1u << 20, 2048),
        LIMIT(requests, 1, 60000, 4096),
        LIMIT(requests_per_user, 1, 60000, 2048),
        LIMIT(requests_per_connection, 1, 60000, 256),
        LIMIT_SIZE(bytes_per_user, 64 * KIB, 1ull << 50, 512 * MIB),
        LIMIT(running_per_user, 0, 60000, 0),
        LIMIT(queued_per_user, 0, 60000, 1024),
        LIMIT_SIZE(kv_per_user, 0, 1ull << 50, 0),
        LIMIT(tokens_per_day, 0, 1ull << 53, 0),
        { "limits", "max_priority", KEY_INDEX, AT(limits.max_priority), 1, 0, 3, NULL, CONFIG_PRIORITY_WORDS },
        { "limits", "share_prefixes", KEY_INDEX, AT(limits.share_prefixes), 0, 0, CONFIG_SHARE_PRIVILEGED, NULL,
          "none privileged all" },
        LIMIT(sessions_per_user, 0, 16384, 64),
        LIMIT_SIZE(session_bytes_per_user, 0, 1ull << 50, 4 * GIB),
        LIMIT(session_idle_seconds, 1, 1u << 30, 300),
        LIMIT(output_frames, 16, 1u << 20, 16384),
        LIMIT_SIZE(output_bytes, 64 * KIB, 1 * GIB, 16 * MIB),
        LIMIT(output_seconds, 1, 86400, 30),
        LIMIT(hello_seconds, 1, 86400, 30),
        LIMIT(engine_seconds, 1, 86400, 120),
        LIMIT(step_timeout_ms, 0, 3600000, 2000),
        LIMIT(engine_losses, 1, 1000, 3),
        LIMIT(load_seconds, 1, 86400, 120),
        LIMIT(stop_seconds, 0, 86400, 10),
        LIMIT(sequences, 0, 4096, 0),
        LIMIT(rows, 0, 65536, 0),
        { "store", "enabled", KEY_INDEX, AT(store.enabled), 0, 0, 1, NULL, CONFIG_YES_WORDS },
        { "store", "import", KEY_INDEX, AT(store.import), 0, 0, CONFIG_IMPORT_PRIVILEGED, NULL, "none privileged all" },
        { "store", "imports", KEY_NUMBER, AT(store.imports), 1, 64, 2, NULL, NULL },
        { "store", "max_bytes", KEY_SIZE, AT(store.max_bytes), 0, 1ull << 50, 0, NULL, NULL },
        { "store", "bytes_per_user", KEY_SIZE, AT(store.bytes_per_user), 0, 1ull << 50, 0, NULL, NULL },
        { "store", "reserve", KEY_SIZE, AT(store.reserve), 0, 1ull << 50, 1 * GIB, NULL, NULL },
        { "null", "step_us", KEY_NUMBER, AT(null_step_us), 0, 60000000, 0, NULL, NULL },
};
const size_t config_n_keys = ARRAY_SIZE(config_keys);

const struct key *config_key(size_t i) {
        const struct {
                const struct key *keys;
                size_t n;
        } tables[] = { { config_keys, config_n_keys },
                       { config_power_keys, config_n_power_keys },
                       { config_residency_keys, config_n_residency_keys } };

        for (size_t t = 0; t < ARRAY_SIZE(tables); i -= tables[t++].n)
                if (i < tables[t].n)
                        return &tables[t].keys[i];
        return NULL;
}

/* Groups that may be there. */
static const char *const groups[] = { "memory", "scheduler", "limits", "power", "store", "null", "residency" };

bool config_model_name_valid(const char *name) {
        size_t n = strlen(name);

        if (n == 0 || n > CONFIG_MODEL_NAME_MAX || name[0] == '.')
                return false;
        for (; *name; name++)
                if (!isalnum((unsigned char)*name) && !strchr("._:-", *name))
                        return false;
        return true;
}

static const struct key *key_find(const char *group, const char *name) {
        const struct key *k;

        for (size_t i = 0; (k = config_key(i)); i++) {
                bool same = group ? k->group && strcmp(k->group, group) == 0 : !k->group;

                if (same && strcmp(k->name, name) == 0)
                        return k;
        }
        return NULL;
}

static int read_group(struct reader *r, const char *group, config_setting_t *s) {
        int e, n;

        if (!config_setting_is_group(s))
                return config_fault(r, s, "'%s' must be a group: %s = { ... };", group, group);
        n = config_setting_length(s);
        for (int i = 0; i < n; i++) {
                config_setting_t *child = config_setting_get_elem(s, (unsigned)i);
                const struct key *k = key_find(group, config_setting_name(child));

                if (!k)
                        return config_fault(r, child, "unknown key '%.64s' in '%s'", config_setting_name(child), group);
                e = config_set_key(r, k, child, r->config);
                if (e)
                        return e;
        }
        return 0;
}

static int read_flag(struct reader *r, config_setting_t *s, bool *ret) {
        if (config_setting_type(s) != CONFIG_TYPE_BOOL)
                return config_fault(r, s, "'%s' must be true or false", config_setting_name(s));
        *ret = config_setting_get_bool(s);
        return 0;
}

static int read_model_key(struct reader *r, struct config_model *m, config_setting_t *s) {
        const char *name = config_setting_name(s), *text = config_setting_get_string(s);
        int e;
        static const struct key context = {
                NULL, "context", KEY_NUMBER, offsetof(struct config_model, context), 0, 1u << 30, 0, NULL, NULL
        };

        if (strcmp(name, "name") == 0) {
                if (!text || !config_model_name_valid(text))
                        return config_fault(r, s, "'name' must be 1 to %u letters, digits or \"._:-\", not beginning with a dot",
                                     CONFIG_MODEL_NAME_MAX);
                return config_replace_string(&m->name, strdup(text));
        }
        if (strcmp(name, "path") == 0) {
                static const struct key path = { NULL, "path", KEY_PATH, offsetof(struct config_model, path), 0, 0, 0, NULL, NULL };

                return config_set_key(r, &path, s, m);
        }
        if (strcmp(name, "default") == 0)
                return read_flag(r, s, &m->is_default);
        if (strcmp(name, "lossless") == 0)
                return read_flag(r, s, &m->lossless);
        if (strcmp(name, "context") == 0)
                return config_set_key(r, &context, s, m);
        if (config_read_model_residency(r, m, s, &e))
                return e;
        return config_fault(r, s, "unknown key '%.64s' in 'models'", name);
}

static int read_model(struct reader *r, struct config_model *m, config_setting_t *s) {
        int n, e;

        if (!config_setting_is_group(s))
                return config_fault(r, s, "each of 'models' must be a group: { name = ...; path = ...; }");
        n = config_setting_length(s);
        m->idle_seconds = CONFIG_UNSET;
        for (int i = 0; i < n; i++) {
                e = read_model_key(r, m, config_setting_get_elem(s, (unsigned)i));
                if (e)
                        return e;
        }
        if (!m->name)
                return config_fault(r, s, "a model without 'name'");
        for (const struct config_model *other = r->config->models; other < m; other++)
                if (strcmp(other->name, m->name) == 0)
                        return config_fault(r, s, "two models are named '%s'", m->name);
        return 0;
}

static int read_models(struct reader *r, config_setting_t *s) {
        struct config *c = r->config;
        int n, e;

        if (!config_setting_is_list(s))
                return config_fault(r, s, "'models' must be a list: models = ( { ... }, ... );");
        n = config_setting_length(s);
        if ((unsigned)n > CONFIG_MODELS_MAX)
                return config_fault(r, s, "%d models, at most %u are allowed", n, CONFIG_MODELS_MAX);
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
                        return config_fault(r, s, "model '%s' has no 'path'", m->name);
                if (!m->path && !(m->path = strdup("")))
                        return -ENOMEM;
                if (m->is_default && def)
                        return config_fault(r, s, "both '%s' and '%s' are the default model", def->name, m->name);
                if (m->is_default)
                        def = m;
        }
        if (c->n_models == 0 && null_backend) {
                if (!c->models && !(c->models = calloc(1, sizeof(*c->models))))
                        return -ENOMEM;
                c->models[0] = (struct config_model){ .name = strdup("null"), .path = strdup(""), .idle_seconds = CONFIG_UNSET };
                c->n_models = 1;
                if (!c->models[0].name || !c->models[0].path)
                        return -ENOMEM;
        }
        if (c->n_models == 1) /* the only one is what a request without a name means */
                c->models[0].is_default = true;
        return 0;
}

static int read_root(struct reader *r, config_t *file) {
        config_setting_t *root = config_root_setting(file), *models = NULL, *power = NULL;
        int n = config_setting_length(root), e = 0;

        for (int i = 0; i < n && !e; i++) {
                config_setting_t *s = config_setting_get_elem(root, (unsigned)i);
                const char *name = config_setting_name(s), *group = NULL;
                const struct key *k = key_find(NULL, name);

                for (size_t g = 0; g < ARRAY_SIZE(groups); g++)
                        if (strcmp(groups[g], name) == 0)
                                group = groups[g];
                if (strcmp(name, "power") == 0)
                        power = s;
                if (k)
                        e = config_set_key(r, k, s, r->config);
                else if (group)
                        e = read_group(r, group, s);
                else if (strcmp(name, "models") == 0)
                        e = read_models(r, models = s);
                else if (strcmp(name, "users") == 0)
                        e = config_read_users(r, s);
                else
                        e = config_fault(r, s, "unknown key '%.64s'", name);
        }
        if (!e)
                e = config_check_power(r, power);
        return e ? e : check_models(r, models);
}

static struct config *config_new(void) {
        struct config *c = calloc(1, sizeof(*c));
        const struct key *k;

        if (!c)
                return NULL;
        for (size_t i = 0; (k = config_key(i)); i++) {
                void *target = (char *)c + k->offset;

                if (!k->initial_text)
                        *(uint64_t *)target = k->initial;
                else if (!(*(char **)target = strdup(k->initial_text)))
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
        config_users_deinit(c);
        free(c->file);
        free(c->socket);
        free(c->state_dir);
        free(c->backend);
        free(c->cuda_library);
        free(c->cuda_placement);
        free(c->cuda_activations);
        free(c->kv_format);
        free(c->power.sysfs);
        free(c);
        return NULL;
}

/* One of file and text is set. */
static int parse(struct config **ret, const char *file, const char *text, const char *folder,
                 struct config_error *error) {
        _cleanup_(config_freep) struct config *c = config_new();
        struct reader r = { .config = c, .file = file ? file : "configuration", .text = text, .error = error };
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
