/* SPDX-License-Identifier: Apache-2.0 */

/* What goes out, too: the model store. */

#include <errno.h>
#include <stdlib.h>

#include "internal.h"

#define FILES_MAX 64u

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
        if (!a.name || !a.fds || !a.files || a.n_files == 0 || a.n_files > FILES_MAX)
                return -EINVAL;
        for (size_t i = 0; i < a.n_files; i++) {
                if (a.fds[i] < 0)
                        return -EINVAL;
                files[i] = (Spark__V1__ModelFile)SPARK__V1__MODEL_FILE__INIT;
                files[i].name = string_or_empty(a.files[i]);
                list[i] = &files[i];
        }
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
