/* SPDX-License-Identifier: Apache-2.0 */

/* What goes out, too: the model store. */

#include <errno.h>
#include <stdlib.h>

#include "internal.h"

#define FILES_MAX 64u

/* False where the caller's files make no sense. */
static bool list_files(const int *fds, const char *const *names, size_t n, Spark__V1__ModelFile files[FILES_MAX],
                       Spark__V1__ModelFile *list[FILES_MAX]) {
        if (n > FILES_MAX || (n > 0 && (!fds || !names)))
                return false;
        for (size_t i = 0; i < n; i++) {
                if (fds[i] < 0)
                        return false;
                files[i] = (Spark__V1__ModelFile)SPARK__V1__MODEL_FILE__INIT;
                files[i].name = string_or_empty(names[i]);
                list[i] = &files[i];
        }
        return true;
}

int spark_model_import(struct spark *s, const struct spark_import_request *request, spark_event_fn fn, void *userdata,
                       uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__ModelImport m = SPARK__V1__MODEL_IMPORT__INIT;
        Spark__V1__ModelFile files[FILES_MAX], *list[FILES_MAX];
        const struct request_spec spec = { .fn = fn, .userdata = userdata };
        struct spark_import_request a;
        int r;

        r = arguments_copy(&a, sizeof(a), request);
        if (r < 0)
                return r;
        if (!a.name || a.n_files == 0 || !list_files(a.fds, a.files, a.n_files, files, list))
                return -EINVAL;
        m.name = string_or_empty(a.name);
        m.files = list;
        m.n_files = a.n_files;
        m.input_fd = 1;
        m.replace = a.replace != 0;
        m.pin = a.pin != 0;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_MODEL_IMPORT;
        frame.model_import = &m;
        return request_start_fds(s, &frame, a.fds, a.n_files, &spec, ret_id);
}

int spark_model_pack(struct spark *s, const struct spark_pack_request *request, spark_event_fn fn, void *userdata,
                     uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__ModelPack m = SPARK__V1__MODEL_PACK__INIT;
        Spark__V1__ModelFile files[FILES_MAX], *list[FILES_MAX];
        const struct request_spec spec = { .fn = fn, .userdata = userdata };
        struct spark_pack_request a;
        int r;

        r = arguments_copy(&a, sizeof(a), request);
        if (r < 0)
                return r;
        if (!a.name || !a.model == (a.n_files == 0) || !list_files(a.fds, a.files, a.n_files, files, list))
                return -EINVAL;
        m.name = string_or_empty(a.name);
        m.model = string_or_empty(a.model);
        m.files = list;
        m.n_files = a.n_files;
        m.input_fd = a.n_files > 0;
        m.lossless = a.lossless != 0;
        m.replace = a.replace != 0;
        m.pin = a.pin != 0;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_MODEL_PACK;
        frame.model_pack = &m;
        return request_start_fds(s, &frame, a.fds, a.n_files, &spec, ret_id);
}

int spark_model_show(struct spark *s, const char *model, spark_event_fn fn, void *userdata, uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__ModelShow m = SPARK__V1__MODEL_SHOW__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };

        m.model = string_or_empty(model);
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_MODEL_SHOW;
        frame.model_show = &m;
        return request_start(s, &frame, -1, &spec, ret_id);
}

int spark_model_verify(struct spark *s, const char *model, spark_event_fn fn, void *userdata, uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__ModelVerify m = SPARK__V1__MODEL_VERIFY__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };

        m.model = string_or_empty(model);
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_MODEL_VERIFY;
        frame.model_verify = &m;
        return request_start(s, &frame, -1, &spec, ret_id);
}

int spark_model_remove(struct spark *s, const char *model, spark_event_fn fn, void *userdata, uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__ModelRemove m = SPARK__V1__MODEL_REMOVE__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };

        m.model = string_or_empty(model);
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_MODEL_REMOVE;
        frame.model_remove = &m;
        return request_start(s, &frame, -1, &spec, ret_id);
}

int spark_model_pin(struct spark *s, const char *model, int pinned, spark_event_fn fn, void *userdata, uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__ModelPin m = SPARK__V1__MODEL_PIN__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };

        m.model = string_or_empty(model);
        m.pinned = pinned != 0;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_MODEL_PIN;
        frame.model_pin = &m;
        return request_start(s, &frame, -1, &spec, ret_id);
}

int spark_model_alias(struct spark *s, const char *model, const char *alias, int replace, spark_event_fn fn,
                      void *userdata, uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__ModelAlias m = SPARK__V1__MODEL_ALIAS__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };

        m.model = string_or_empty(model);
        m.alias = string_or_empty(alias);
        m.replace = replace != 0;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_MODEL_ALIAS;
        frame.model_alias = &m;
        return request_start(s, &frame, -1, &spec, ret_id);
}
