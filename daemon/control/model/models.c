/* SPDX-License-Identifier: Apache-2.0 */

/* The table of models: what is configured, what was loaded besides, which one a request means. */

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/splitname.h"
#include "engine.h"
#include "load.h"
#include "manager.h"
#include "model-private.h"
#include "model.h"
#include "store/store.h"

static struct model *get_from_table(struct manager *m, const char *name, bool stored) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &m->models.list) {
                struct model *model = LIST_ENTRY(pos, struct model, link);

                if ((model->stored != NULL) == stored && strcmp(model->name, name) == 0)
                        return model;
        }
        return NULL;
}

struct model *models_get_listed(struct manager *m, const char *name) {
        return get_from_table(m, name, false);
}

/* Names of the store come after those that were configured or loaded: what the administrator says counts. */
static struct model *models_get(struct manager *m, const char *name) {
        struct model *model = get_from_table(m, name, false);

        return model ? model : store_find_model(m->store, name, NULL);
}

struct model *models_find(struct manager *m, const char *name, struct request_error *error) {
        struct model *model = NULL, *only = NULL;
        struct list *pos, *tmp;
        size_t n = 0;

        if (*name) {
                model = models_get(m, name);
                if (!model)
                        *error = (struct request_error){ .code = SPARK__V1__ERROR_CODE__ERROR_CODE_UNSPECIFIED };
                if (!model && !(model = store_find_model(m->store, name, error)) &&
                    error->code == SPARK__V1__ERROR_CODE__ERROR_CODE_UNSPECIFIED)
                        request_error_set(error, SPARK__V1__ERROR_CODE__MODEL_NOT_FOUND, "There is no model '%.128s'.",
                                          name);
                return model;
        }
        LIST_FOREACH(pos, tmp, &m->models.list) {
                model = LIST_ENTRY(pos, struct model, link);
                if (model->is_default)
                        return model;
                only = model;
                n++;
        }
        if (n != 1)
                request_error_set(error, SPARK__V1__ERROR_CODE__MODEL_NOT_FOUND,
                                  n ? "There is no default model; the request must name one."
                                    : "No model is configured or loaded.");
        return n == 1 ? only : NULL;
}

/* ---- models that are not in the configuration ---- */

static void cut_suffix(char *s, const char *suffix) {
        size_t n = strlen(s), k = strlen(suffix);

        if (n > k && strcmp(s + n - k, suffix) == 0)
                s[n - k] = 0;
}

/* "/a/b/Some Model-00001-of-00002.gguf" -> "Some-Model", made unique. */
static void name_from_path(struct manager *m, const char *path, char *out, size_t size) {
        const char *base = strrchr(path, '/');
        char stem[CONFIG_MODEL_NAME_MAX - 4] = "", other[CONFIG_MODEL_NAME_MAX];

        base = base ? base + 1 : path;
        while (*base == '.')
                base++;
        (void)snprintf(stem, sizeof(stem), "%s", base);
        if (splitname_part(stem, 1, other, sizeof(other)))
                stem[strlen(stem) - strlen("-00001-of-00002.gguf")] = 0;
        cut_suffix(stem, " (deleted)");
        cut_suffix(stem, ".gguf");
        for (char *p = stem; *p; p++) {
                char one[2] = { *p, 0 };

                if (*p != '.' && !config_model_name_valid(one))
                        *p = '-';
        }
        (void)snprintf(out, size, "%s", *stem ? stem : "model");
        for (unsigned i = 2; models_get(m, out) && i < 1000; i++)
                (void)snprintf(out, size, "%s-%u", *stem ? stem : "model", i);
}

/* A descriptor has a name, too, where it is of a file. */
static void name_from_fd(struct manager *m, int fd, char *out, size_t size) {
        char link[64], path[PATH_MAX];
        ssize_t n;

        (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        n = readlink(link, path, sizeof(path) - 1);
        path[n > 0 ? n : 0] = 0;
        name_from_path(m, path, out, size);
}

static struct model *find_by_path(struct manager *m, const char *path) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &m->models.list) {
                struct model *model = LIST_ENTRY(pos, struct model, link);

                if (strcmp(model->path, path) == 0)
                        return model;
        }
        return NULL;
}

static struct model *model_for_file(struct manager *m, const Spark__V1__Load *load, int fd,
                                    struct request_error *error) {
        _cleanup_fd_ int input_fd = fd;
        char name[CONFIG_MODEL_NAME_MAX + 1];
        struct model *model;

        if (*load->model && !config_model_name_valid(load->model)) {
                request_error_set(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                  "model: a name has 1 to %u letters, digits or \"._:-\" and does not begin with a dot.",
                                  CONFIG_MODEL_NAME_MAX);
                return NULL;
        }
        if (*load->model && models_get(m, load->model)) {
                request_error_set(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                  "model: there is a model '%s' already.", load->model);
                return NULL;
        }
        model = input_fd < 0 && !*load->model ? find_by_path(m, load->path) : NULL;
        if (model)
                return model;
        if (*load->model)
                (void)snprintf(name, sizeof(name), "%s", load->model);
        else if (input_fd >= 0)
                name_from_fd(m, input_fd, name, sizeof(name));
        else
                name_from_path(m, load->path, name, sizeof(name));
        model = model_new(m, name, input_fd < 0 ? load->path : "");
        if (!model) {
                request_error_set(error, SPARK__V1__ERROR_CODE__INTERNAL, "Out of memory.");
                return NULL;
        }
        model->input_fd = fd_steal(&input_fd);
        return model;
}

/* What is wrong with the fields by themselves, or NULL. */
static const char *load_fault(const Spark__V1__Load *load) {
        if (!!load->input_fd + !!*load->path + !!*load->shape > 1)
                return "path, input_fd and shape: more than one is set; a model has one source.";
        if ((load->context || load->memory || *load->shape) && !load->dry_run)
                return "context, memory and shape are for dry runs.";
        if (load->memory && (load->memory < LOAD_MACHINE_MIN || load->memory > LOAD_MACHINE_MAX))
                return "memory: a machine has 64 MiB to 1024 TiB.";
        if (load->lossless && *load->shape && strcasecmp(load->format, "bf16") != 0 && strcasecmp(load->format, "bf16_ll") != 0)
                return "lossless: it is BF16 weights that are coded; the shape's format must be bf16.";
        if (!*load->shape != !*load->format)
                return "shape and format go together.";
        if (*load->shape && *load->model)
                return "model: a shape has its own name.";
        if (strlen(load->shape) > CONFIG_MODEL_NAME_MAX || strlen(load->format) > CONFIG_MODEL_NAME_MAX)
                return "shape, format: the name is too long.";
        if (load->context > LOAD_CONTEXT_MAX)
                return "context: so many tokens have no room anywhere.";
        return NULL;
}

/* It lives as long as the dry run. */
static struct model *model_for_shape(struct manager *m, const Spark__V1__Load *load, struct request_error *error) {
        char name[CONFIG_MODEL_NAME_MAX + 1];
        struct model *model;

        name_from_path(m, load->shape, name, sizeof(name));
        model = model_new(m, name, "");
        if (!model)
                request_error_set(error, SPARK__V1__ERROR_CODE__INTERNAL, "Out of memory.");
        return model;
}

struct model *models_find_for_load(struct manager *m, const Spark__V1__Load *load, int fd,
                                   struct request_error *error) {
        const char *fault = load_fault(load);

        if (fault) {
                (void)fd_close(fd);
                request_error_set(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "%s", fault);
                return NULL;
        }
        if (*load->shape)
                return model_for_shape(m, load, error);
        if (load->lossless && config_is_null_backend(m->config)) {
                (void)fd_close(fd);
                request_error_set(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "lossless: the null backend has no weights.");
                return NULL;
        }
        if (!load->input_fd && !*load->path)
                return models_find(m, load->model, error);
        if (*load->path && *load->path != '/') {
                request_error_set(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "path: it must be absolute.");
                return NULL;
        }
        if (config_is_null_backend(m->config)) {
                (void)fd_close(fd);
                request_error_set(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                  "The null backend loads no files.");
                return NULL;
        }
        return model_for_file(m, load, fd, error);
}

/* ---- configuration ---- */

static int configure_one(struct manager *m, const struct config_model *c) {
        struct model *model = get_from_table(m, c->name, false);
        char *path;

        if (!model && get_from_table(m, c->name, true)) {
                log_warning("model '%s' of the configuration is there when the store's of that name is unloaded", c->name);
                m->models.overdue = true;
                return 0;
        }
        if (!model) {
                model = model_new(m, c->name, c->path);
                if (!model)
                        return -ENOMEM;
        } else if (strcmp(model->path, c->path) != 0) {
                path = strdup(c->path); /* what is loaded stays until it is unloaded */
                if (!path)
                        return -ENOMEM;
                free(model->path);
                model->path = path;
        }
        model->configured = true;
        model->context = c->context;
        model->lossless_configured = c->lossless;
        model->is_default = c->is_default;
        residency_configure(model, c);
        if (model->state == MODEL_FAILED) /* with another configuration, or another file, it may not */
                model_set_state(model, MODEL_AVAILABLE);
        model->residency.again = model->residency.resident == CONFIG_RESIDENT_ALWAYS && model->state == MODEL_UNLOADING;
        if (model->residency.resident == CONFIG_RESIDENT_ALWAYS && model->state == MODEL_AVAILABLE)
                model->load_wanted = true;
        manager_model_changed(m, model, false);
        model_kick(model);
        return 0;
}

int models_configure(struct manager *m) {
        struct list *pos, *tmp;
        int r;

        LIST_FOREACH(pos, tmp, &m->models.list) {
                struct model *model = LIST_ENTRY(pos, struct model, link);

                model->configured = model->is_default = model->lossless_configured = false;
                residency_configure(model, NULL);
                model_kick(model); /* goes, where it is not loaded and does not come back below */
        }
        m->models.overdue = false;
        store_yield_names(m->store);
        for (size_t i = 0; i < m->config->n_models; i++) {
                r = configure_one(m, &m->config->models[i]);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* The models whose names the store had to give up first. */
static void configure_overdue(struct manager *m) {
        m->models.overdue = false;
        store_yield_names(m->store);
        for (size_t i = 0; i < m->config->n_models; i++) {
                const struct config_model *c = &m->config->models[i];
                const struct model *model = get_from_table(m, c->name, false);

                if (model && model->configured)
                        continue;
                if (get_from_table(m, c->name, true) || configure_one(m, c) < 0)
                        m->models.overdue = true; /* still in use, or no memory: the next time */
        }
}

void models_deinit(struct manager *m) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &m->models.list) {
                struct model *model = LIST_ENTRY(pos, struct model, link);

                model->engine = engine_discard(model->engine); /* so that ending requests tell nobody */
                for (int k = 0; k < 2; k++) {
                        struct list *rpos, *rtmp;

                        LIST_FOREACH(rpos, rtmp, k ? &model->active : &model->waiting)
                                request_fail_with(LIST_ENTRY(rpos, struct request, model_link),
                                                  SPARK__V1__ERROR_CODE__STOPPING, "The daemon is shutting down.");
                }
                (void)model_free(model);
        }
}

/* ---- all of them ---- */

bool models_stop(struct manager *m) {
        struct list *pos, *tmp;
        bool gone = true;

        LIST_FOREACH(pos, tmp, &m->models.list) {
                struct model *model = LIST_ENTRY(pos, struct model, link);

                model->load = load_free(model->load);
                model->restart_timer = sd_event_source_disable_unref(model->restart_timer);
                if (model->engine) {
                        engine_stop(model->engine);
                        gone = false;
                }
        }
        return gone;
}

void models_tick(struct manager *m, uint64_t now_us) {
        struct list *pos, *tmp;

        if (m->models.overdue)
                configure_overdue(m);
        LIST_FOREACH(pos, tmp, &m->models.list) {
                struct model *model = LIST_ENTRY(pos, struct model, link);

                rate_tick(&model->generated);
                if (model->load)
                        load_tick(model->load, now_us);
                if (model->engine)
                        engine_tick(model->engine, now_us);
        }
}

bool model_kv_is_away(const struct model *model) {
        return strcmp(model->facts.placement, "device") == 0 && strcmp(model->facts.kv_memory, "device") == 0;
}
