/* SPDX-License-Identifier: Apache-2.0 */

/* What is in the store, in memory, and how it shows in the models table. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/fd.h"
#include "base/log.h"
#include "store-private.h"

#define MODEL_OF(pos) LIST_ENTRY(pos, struct store_model, link)
#define ALIAS_OF(pos) LIST_ENTRY(pos, struct store_alias, link)

/* ---- finding ---- */

struct store_model *store_get(const struct store *s, const char *id) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, (struct list *)&s->models)
                if (strcmp(MODEL_OF(pos)->manifest.id, id) == 0)
                        return MODEL_OF(pos);
        return NULL;
}

struct store_alias *store_get_name(const struct store *s, const char *name) {
        struct list *pos, *tmp, *npos, *ntmp;

        LIST_FOREACH(pos, tmp, (struct list *)&s->models)
                LIST_FOREACH(npos, ntmp, &MODEL_OF(pos)->names)
                        if (strcmp(ALIAS_OF(npos)->name.name, name) == 0)
                                return ALIAS_OF(npos);
        return NULL;
}

static struct store_model *find_by_digits(const struct store *s, const char *digits, struct request_error *error) {
        struct store_model *found = NULL;
        size_t n = strlen(digits);
        struct list *pos, *tmp;

        if (n < STORE_DIGEST_SHORTEST || n > STORE_DIGEST_TEXT || strspn(digits, "0123456789abcdef") != n) {
                if (error)
                        request_error_set(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                          "model: after \"" STORE_DIGEST_PREFIX "\" come %u to %u hexadecimal digits.",
                                          STORE_DIGEST_SHORTEST, STORE_DIGEST_TEXT);
                return NULL;
        }
        LIST_FOREACH(pos, tmp, (struct list *)&s->models) {
                if (strncmp(MODEL_OF(pos)->manifest.id, digits, n) != 0)
                        continue;
                if (found && error)
                        request_error_set(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                          "model: there are several whose digest begins with %.64s.", digits);
                if (found)
                        return NULL;
                found = MODEL_OF(pos);
        }
        if (!found && error)
                request_error_set(error, SPARK__V1__ERROR_CODE__MODEL_NOT_FOUND,
                                  "There is no model whose digest begins with %.64s.", digits);
        return found;
}

struct store_model *store_find(const struct store *s, const char *name, struct store_alias **ret_alias,
                               struct request_error *error) {
        struct store_alias *a;

        *ret_alias = NULL;
        if (strncmp(name, STORE_DIGEST_PREFIX, strlen(STORE_DIGEST_PREFIX)) == 0)
                return find_by_digits(s, name + strlen(STORE_DIGEST_PREFIX), error);
        a = store_get_name(s, name);
        if (!a && error)
                request_error_set(error, SPARK__V1__ERROR_CODE__MODEL_NOT_FOUND, "The store has no model '%.128s'.", name);
        *ret_alias = a;
        return a ? a->of : NULL;
}

struct model *store_find_model(const struct store *s, const char *name, struct request_error *error) {
        bool digits = strncmp(name, STORE_DIGEST_PREFIX, strlen(STORE_DIGEST_PREFIX)) == 0;
        const struct store_model *m;
        struct store_alias *alias;

        if (!s || !s->open)
                return NULL;
        m = store_find(s, name, &alias, digits ? error : NULL);
        return m ? m->model : NULL;
}

static const struct store_model *find_open(const struct store *s, const char *name, struct store_alias **ret_alias) {
        return s && s->open ? store_find(s, name, ret_alias, NULL) : NULL;
}

bool store_name_is_anothers(const struct store *s, const char *name, const struct user *user) {
        struct store_alias *alias;
        struct list *pos, *tmp;
        const struct store_model *m = find_open(s, name, &alias);

        if (!m)
                return false;
        LIST_FOREACH(pos, tmp, (struct list *)&m->names)
                if ((!alias || ALIAS_OF(pos) == alias) && ALIAS_OF(pos)->user != user)
                        return true;
        return false;
}

bool store_pin_is_anothers(const struct store *s, const char *name, const struct user *user) {
        struct store_alias *alias;
        const struct store_model *m = find_open(s, name, &alias);

        return m && m->manifest.pinned && m->manifest.pinned_by != user->uid;
}

bool store_is_anothers(const struct store *s, const char *name, const struct user *user) {
        struct store_alias *alias;
        struct list *pos, *tmp;
        const struct store_model *m = find_open(s, name, &alias);

        if (!m)
                return false;
        LIST_FOREACH(pos, tmp, (struct list *)&m->names)
                if (ALIAS_OF(pos)->user == user)
                        return false;
        return true;
}

bool store_has_blob(const struct store *s, const char *digest) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, (struct list *)&s->models)
                for (size_t i = 0; i < MODEL_OF(pos)->manifest.n_files; i++)
                        if (strcmp(MODEL_OF(pos)->manifest.files[i].digest, digest) == 0)
                                return true;
        return false;
}

bool store_has_blob_of_size(const struct store *s, uint64_t size) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, (struct list *)&s->models)
                for (size_t i = 0; i < MODEL_OF(pos)->manifest.n_files; i++)
                        if (MODEL_OF(pos)->manifest.files[i].size == size && !MODEL_OF(pos)->damaged)
                                return true;
        return false;
}

/* ---- the models table ---- */

bool store_is_idle(const struct store_model *m) {
        return !m->model || model_is_idle(m->model);
}

/* True where another model has that name, or is going to: configured or loaded from a file. */
static bool name_is_taken(const struct store_model *m, const char *name) {
        const struct config *config = m->store->manager->config;
        struct list *pos, *tmp;

        for (size_t i = 0; i < config->n_models; i++)
                if (strcmp(config->models[i].name, name) == 0)
                        return true;
        LIST_FOREACH(pos, tmp, &m->store->manager->models.list) {
                const struct model *other = LIST_ENTRY(pos, struct model, link);

                if (other != m->model && (other->configured || other->stored || !model_is_idle(other)) &&
                    strcmp(other->name, name) == 0)
                        return true;
        }
        return false;
}

/* The name under which it stands in the table: the oldest one that is free. */
static void choose_name(const struct store_model *m, char out[CONFIG_MODEL_NAME_MAX + 1]) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, (struct list *)&m->names)
                if (!name_is_taken(m, ALIAS_OF(pos)->name.name)) {
                        (void)snprintf(out, CONFIG_MODEL_NAME_MAX + 1, "%s", ALIAS_OF(pos)->name.name);
                        return;
                }
        (void)snprintf(out, CONFIG_MODEL_NAME_MAX + 1, STORE_DIGEST_PREFIX "%.16s", m->manifest.id);
}

static void release_model(struct store_model *m) {
        if (!m->model)
                return;
        m->model->stored = NULL;
        model_kick(m->model); /* which goes now, unless it is loaded */
        m->model = NULL;
}

static int list_aliases(struct store_model *m) {
        struct list *pos, *tmp;
        char **list;
        size_t n = 0;

        LIST_FOREACH(pos, tmp, &m->names)
                n++;
        list = reallocarray(m->aliases, n + 1, sizeof(*list));
        if (!list)
                return -ENOMEM;
        m->aliases = list;
        m->n_aliases = 0;
        LIST_FOREACH(pos, tmp, &m->names)
                if (strcmp(ALIAS_OF(pos)->name.name, m->model->name) != 0)
                        list[m->n_aliases++] = ALIAS_OF(pos)->name.name;
        return 0;
}

int store_sync(struct store_model *m) {
        char name[CONFIG_MODEL_NAME_MAX + 1];

        choose_name(m, name);
        if (m->model && strcmp(m->model->name, name) != 0 && store_is_idle(m))
                release_model(m);
        if (!m->model) {
                m->model = model_new(m->store->manager, name, "");
                if (!m->model)
                        return -ENOMEM;
                m->model->stored = m;
        }
        if (list_aliases(m) < 0)
                return -ENOMEM;
        manager_model_changed(m->store->manager, m->model, false);
        return 0;
}

void store_yield_names(struct store *s) {
        struct list *pos, *tmp;

        if (!s || !s->open)
                return;
        LIST_FOREACH(pos, tmp, &s->models)
                if (store_sync(MODEL_OF(pos)) < 0)
                        log_warning("store: out of memory");
}

void store_fill_info(struct store_model *m, Spark__V1__ModelInfo *info) {
        const struct store_facts *f = &m->manifest.facts;

        info->digest = m->manifest.id;
        info->aliases = m->aliases;
        info->n_aliases = m->n_aliases;
        info->stored_bytes = store_manifest_bytes(&m->manifest);
        info->pinned = m->manifest.pinned;
        info->damaged = m->damaged;
        if (*info->architecture) /* loaded: the engine knows better */
                return;
        info->architecture = (char *)f->architecture;
        info->format = (char *)f->format;
        info->parameters = f->parameters;
        info->context = f->context;
        info->vocabulary = f->vocabulary;
        info->has_chat_template = f->has_chat_template;
}

const struct weights *store_weights(const struct store_model *m) {
        return &m->manifest.facts.weights;
}

bool store_is_directory(const struct store_model *m) {
        return store_manifest_is_directory(&m->manifest);
}

int store_open_files(const struct store_model *m, int *ret_fds, char (*ret_names)[MODELDIR_NAME_MAX], size_t max,
                     size_t *ret_n, struct request_error *error) {
        size_t n = 0;

        if (m->damaged || m->manifest.n_files > max) {
                request_error_set(error, SPARK__V1__ERROR_CODE__MODEL_INVALID,
                                  m->damaged ? "Files of the stored model %.12s are missing or damaged; import it again."
                                             : "The stored model %.12s has more files than can be loaded.",
                                  m->manifest.id);
                return REQUEST_E_REFUSED;
        }
        for (; n < m->manifest.n_files; n++) {
                ret_fds[n] = openat(m->store->dirs.blobs, m->manifest.files[n].digest,
                                    O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
                if (ret_fds[n] < 0)
                        break;
                if (ret_names)
                        (void)snprintf(ret_names[n], sizeof(*ret_names), "%.39s", m->manifest.files[n].name);
        }
        if (n == m->manifest.n_files) {
                *ret_n = n;
                return 0;
        }
        request_error_set(error, SPARK__V1__ERROR_CODE__MODEL_INVALID, "File '%.200s' of the stored model %.12s: %s.",
                          m->manifest.files[n].name, m->manifest.id, strerror(errno));
        while (n > 0)
                (void)fd_close(ret_fds[--n]);
        return REQUEST_E_REFUSED;
}

/* ---- adding, dropping ---- */

struct store_model *store_add_model(struct store *s, struct store_manifest *manifest) {
        struct store_model *m = calloc(1, sizeof(*m));

        if (!m)
                return NULL;
        for (size_t i = 0; i < manifest->n_files; i++) {
                bool known = store_has_blob(s, manifest->files[i].digest);

                for (size_t k = 0; k < i; k++)
                        known = known || strcmp(manifest->files[k].digest, manifest->files[i].digest) == 0;
                if (!known)
                        s->bytes += manifest->files[i].size;
        }
        m->store = s;
        m->manifest = *manifest;
        *manifest = (struct store_manifest){ .n_files = 0 };
        list_init(&m->names);
        list_append(&s->models, &m->link);
        return m;
}

uint64_t store_charge(const struct store_model *m, uid_t uid, uint64_t bytes) {
        struct list *pos, *tmp;

        if (m)
                LIST_FOREACH(pos, tmp, (struct list *)&m->names)
                        if (ALIAS_OF(pos)->user->uid == uid)
                                return 0;
        return bytes;
}

int store_add_alias(struct store_model *m, const struct store_name *name) {
        struct store_alias *a = calloc(1, sizeof(*a));
        uint64_t bytes = store_charge(m, name->uid, store_manifest_bytes(&m->manifest));

        if (a)
                a->user = users_get(&m->store->manager->users, name->uid);
        if (!a || !a->user) {
                free(a);
                return -ENOMEM;
        }
        a->of = m;
        a->name = *name;
        user_charge_found(a->user, USER_STORE, bytes);
        list_append(&m->names, &a->link);
        return 0;
}

void store_drop_alias(struct store_alias *a) {
        struct store_model *m = a->of;

        list_remove(&a->link);
        user_release(a->user, USER_STORE, store_charge(m, a->user->uid, store_manifest_bytes(&m->manifest)));
        a->user = user_unref(a->user);
        free(a);
}

void store_drop_model(struct store_model *m) {
        struct store *s = m->store;
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &m->names)
                store_drop_alias(ALIAS_OF(pos));
        release_model(m);
        list_remove(&m->link);
        for (size_t i = 0; i < m->manifest.n_files; i++) {
                bool twice = false;

                for (size_t k = 0; k < i; k++)
                        twice = twice || strcmp(m->manifest.files[k].digest, m->manifest.files[i].digest) == 0;
                if (!twice && !store_has_blob(s, m->manifest.files[i].digest))
                        s->bytes -= m->manifest.files[i].size;
        }
        store_manifest_deinit(&m->manifest);
        free(m->aliases);
        free(m);
}

/* ---- life ---- */

static void run_scan(struct disk_job *job) {
        struct store *s = CONTAINER_OF(job, struct store, scan);

        s->scan_result = store_dirs_open(&s->dirs, s->state_dir);
        if (s->scan_result == 0)
                s->scan_result = store_file_scan(&s->dirs, &s->found);
}

static int by_age(const void *a, const void *b) {
        const struct store_name *x = a, *y = b;

        if (x->created_s != y->created_s)
                return x->created_s < y->created_s ? -1 : 1;
        return strcmp(x->name, y->name);
}

static int take_found(struct store *s) {
        struct store_found *f = &s->found;
        struct list *pos, *tmp;
        int r = 0;

        for (size_t i = 0; i < f->n_models; i++) {
                struct store_model *m = store_add_model(s, &f->models[i]);

                if (!m)
                        return -ENOMEM;
                m->damaged = f->damaged[i];
        }
        if (f->n_names > 0)
                qsort(f->names, f->n_names, sizeof(*f->names), by_age);
        for (size_t i = 0; i < f->n_names && r == 0; i++) {
                struct store_model *m = store_get(s, f->names[i].id);

                if (m)
                        r = store_add_alias(m, &f->names[i]);
        }
        LIST_FOREACH(pos, tmp, &s->models)
                if (r == 0)
                        r = store_sync(MODEL_OF(pos));
        return r;
}

static void on_scanned(struct disk_job *job) {
        struct store *s = CONTAINER_OF(job, struct store, scan);
        int r = job->dropped ? -ECANCELED : s->scan_result;

        s->ready = true;
        if (r == 0 && !job->dropped)
                r = take_found(s);
        store_found_deinit(&s->found);
        s->open = r == 0;
        if (r < 0) {
                (void)snprintf(s->why, sizeof(s->why), "%.80s can't be used: %s", "state_dir/store", strerror(-r));
                log_warning("the model store in %s can't be used: %s", s->manager->config->state_dir, strerror(-r));
        } else if (!list_empty(&s->models)) {
                log_info("the model store has %llu bytes", (unsigned long long)s->bytes);
        }
        manager_kick(s->manager);
}

int store_new(struct store **ret, struct manager *m) {
        struct store *s = calloc(1, sizeof(*s));

        if (!s)
                return -ENOMEM;
        s->manager = m;
        s->state_dir = strdup(m->config->state_dir);
        if (!s->state_dir) {
                free(s);
                return -ENOMEM;
        }
        s->dirs = STORE_DIRS_NULL;
        list_init(&s->models);
        list_init(&s->waiting);
        list_init(&s->running);
        list_init(&s->changes);
        s->scan.run = run_scan;
        s->scan.done = on_scanned;
        *ret = s;
        if (!m->config->store.enabled) {
                s->ready = true;
                (void)snprintf(s->why, sizeof(s->why), "it is switched off in the configuration (store.enabled)");
                return 0;
        }
        return disk_submit(m->disk, &s->scan) ? -EAGAIN : 0;
}

struct store *store_free(struct store *s) {
        struct list *pos, *tmp;

        if (!s)
                return NULL;
        store_ops_drop(s);
        LIST_FOREACH(pos, tmp, &s->models) {
                MODEL_OF(pos)->model = NULL; /* the table has gone before */
                store_drop_model(MODEL_OF(pos));
        }
        store_dirs_close(&s->dirs);
        free(s->state_dir);
        free(s);
        return NULL;
}
