/* SPDX-License-Identifier: Apache-2.0 */

/* The model store on the bus: ImportModel, PackModel, RemoveModel, ListStored. Who may is checked as for the socket. */

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "bus-internal.h"
#include "store/store-manifest.h"
#include "store/store.h"

static void stored_done(void *userdata, struct request *r, const Spark__V1__Done *done) {
        struct bus_call *c = userdata;
        sd_bus_message *reply = NULL;
        int e;

        c->request = NULL;
        e = sd_bus_message_new_method_return(c->message, &reply);
        if (e >= 0 && c->operation != bus_operation_remove_model)
                e = sd_bus_message_append(reply, "s", done->stored->digest);
        else if (e >= 0)
                e = sd_bus_message_append(reply, "t", done->stored->freed_bytes);
        bus_call_reply(c, e < 0 ? sd_bus_message_unref(reply) : reply);
}

static const struct request_sink sink = { .token = bus_call_ignore_token, .progress = bus_call_ignore_progress,
                                          .done = stored_done, .error = bus_call_error };

void bus_operation_import_model(struct bus_call *c) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__ModelImport import = SPARK__V1__MODEL_IMPORT__INIT;
        Spark__V1__ModelFile file = SPARK__V1__MODEL_FILE__INIT, *files = &file;
        struct bus_import_options o;
        struct request_error error;
        int fd, r;

        r = sd_bus_message_read(c->message, "hs", &fd, &import.name);
        if (r >= 0)
                r = bus_import_options_read(&o, c->message, &error);
        if (r == 0) {
                fd = fcntl(fd, F_DUPFD_CLOEXEC, 0); /* the message keeps its own */
                r = fd < 0 ? -errno : 0;
        }
        if (r) {
                bus_call_refuse(c, r, &error);
                return;
        }
        file.name = (char *)(o.file ? o.file : import.name);
        import.files = &files;
        import.n_files = 1;
        import.input_fd = 1;
        import.replace = o.replace;
        import.pin = o.pin;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_MODEL_IMPORT;
        frame.model_import = &import;
        bus_call_submit(c, &frame, &fd, 1, &sink);
}

void bus_operation_pack_model(struct bus_call *c) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__ModelPack pack = SPARK__V1__MODEL_PACK__INIT;
        struct bus_pack_options o;
        struct request_error error;
        int r = sd_bus_message_read(c->message, "ss", &pack.model, &pack.name);

        if (r >= 0)
                r = bus_pack_options_read(&o, c->message, &error);
        if (r) {
                bus_call_refuse(c, r, &error);
                return;
        }
        pack.lossless = o.lossless;
        pack.replace = o.replace;
        pack.pin = o.pin;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_MODEL_PACK;
        frame.model_pack = &pack;
        bus_call_submit(c, &frame, NULL, 0, &sink);
}

void bus_operation_remove_model(struct bus_call *c) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__ModelRemove remove = SPARK__V1__MODEL_REMOVE__INIT;
        struct request_error error;
        int r = sd_bus_message_read_basic(c->message, 's', &remove.model);

        if (r < 0) {
                bus_call_refuse(c, r, &error);
                return;
        }
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_MODEL_REMOVE;
        frame.model_remove = &remove;
        bus_call_submit(c, &frame, NULL, 0, &sink);
}

static int list_one(const struct model *model, sd_bus_message *reply) {
        Spark__V1__ModelInfo info = SPARK__V1__MODEL_INFO__INIT;
        int r;

        store_fill_info(model->stored, &info);
        r = sd_bus_message_open_container(reply, 'r', "sastbb");
        if (r >= 0)
                r = sd_bus_message_append(reply, "s", info.digest);
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "s");
        if (r >= 0 && strncmp(model->name, STORE_DIGEST_PREFIX, strlen(STORE_DIGEST_PREFIX)) != 0) /* or it has no name */
                r = sd_bus_message_append(reply, "s", model->name);
        for (size_t i = 0; i < info.n_aliases && r >= 0; i++)
                r = sd_bus_message_append(reply, "s", info.aliases[i]);
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        if (r >= 0)
                r = sd_bus_message_append(reply, "tbb", info.stored_bytes, (int)info.pinned, (int)info.damaged);
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        return r;
}

int bus_store_list(struct bus *b, sd_bus_message *reply) {
        struct list *pos, *tmp;
        int r = sd_bus_message_open_container(reply, 'a', "(sastbb)");

        LIST_FOREACH(pos, tmp, &b->manager->models.list) {
                const struct model *model = LIST_ENTRY(pos, struct model, link);

                if (r >= 0 && model->stored)
                        r = list_one(model, reply);
        }
        return r < 0 ? r : sd_bus_message_close_container(reply);
}
