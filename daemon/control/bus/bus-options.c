/* SPDX-License-Identifier: Apache-2.0 */

#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "bus-options.h"

#define NAME_SHOWN_MAX 64u
#define ENTRIES_MAX 64u

struct option {
        const char *name;
        const char *type;
        size_t offset; /* in what is filled: struct bus_options or struct bus_import_options */
        size_t has;    /* of the sampling's presence flag; 0 = it has none */
};

#define SAMPLING(field, type) \
        { #field, type, offsetof(struct bus_options, sampling.field), offsetof(struct bus_options, sampling.has_##field) }

static const struct option options[] = {
        { "model", "s", offsetof(struct bus_options, model), 0 },
        { "raw", "b", offsetof(struct bus_options, raw), 0 },
        { "priority", "s", offsetof(struct bus_options, priority_word), 0 },
        { "stop", "as", offsetof(struct bus_options, stop), 0 },
        SAMPLING(temperature, "d"),
        SAMPLING(top_p, "d"),
        SAMPLING(min_p, "d"),
        SAMPLING(top_k, "u"),
        SAMPLING(seed, "t"),
        SAMPLING(max_tokens, "u"),
        SAMPLING(repetition_penalty, "d"),
        SAMPLING(presence_penalty, "d"),
        SAMPLING(frequency_penalty, "d"),
};

static const struct option import_options[] = {
        { "file", "s", offsetof(struct bus_import_options, file), 0 },
        { "replace", "b", offsetof(struct bus_import_options, replace), 0 },
        { "pin", "b", offsetof(struct bus_import_options, pin), 0 },
};

static const struct option pack_options[] = {
        { "lossless", "b", offsetof(struct bus_pack_options, lossless), 0 }, /* the first one is Load's, too */
        { "replace", "b", offsetof(struct bus_pack_options, replace), 0 },
        { "pin", "b", offsetof(struct bus_pack_options, pin), 0 },
};

static const struct option lease_options[] = {
        { "wait", "b", offsetof(struct bus_lease_options, wait), 0 }, /* the first one is HoldWarm's, too */
        { "missing_only", "b", offsetof(struct bus_lease_options, missing_only), 0 },
        { "policy", "s", offsetof(struct bus_lease_options, policy), 0 },
};

/* A dictionary that is read, and what takes its values. */
struct reader {
        const struct option *table;
        size_t n;
        void *target;
        uint32_t seen; /* bits by index */
};

/* Names go into the sentence as they are only where that harms nobody. */
static const char *name_shown(const char *name) {
        size_t n = strlen(name);

        for (size_t i = 0; i < n; i++)
                if (!isgraph((unsigned char)name[i]) || name[i] == '\'')
                        return "?";
        return n > 0 && n <= NAME_SHOWN_MAX ? name : "?";
}

static int refuse_unknown(const char *name, struct request_error *error) {
        request_error_set(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "options: unknown option '%s'.",
                          name_shown(name));
        return REQUEST_E_REFUSED;
}

static const struct option *option_find(const struct reader *reader, const char *name) {
        for (size_t i = 0; i < reader->n; i++)
                if (strcmp(reader->table[i].name, name) == 0)
                        return &reader->table[i];
        return NULL;
}

static int read_strings(sd_bus_message *m, struct bus_options *o) {
        int r = sd_bus_message_read_strv(m, &o->stop);

        if (r < 0)
                return r;
        o->sampling.stop = o->stop;
        for (char **s = o->stop; s && *s; s++)
                o->sampling.n_stop++;
        return 0;
}

static int read_value(sd_bus_message *m, const struct option *option, void *o) {
        void *target = (char *)o + option->offset;
        double number;
        int flag, r;

        switch (option->type[0]) {
        case 'a':
                return read_strings(m, o);
        case 'd':
                r = sd_bus_message_read_basic(m, 'd', &number);
                *(float *)target = (float)number; /* what does not fit becomes infinite, which the engine refuses */
                break;
        case 'b':
                r = sd_bus_message_read_basic(m, 'b', &flag);
                *(bool *)target = flag;
                break;
        default: /* s, u, t: stored as the message has them */
                r = sd_bus_message_read_basic(m, option->type[0], target);
        }
        if (r >= 0 && option->has)
                *(protobuf_c_boolean *)((char *)o + option->has) = true;
        return r < 0 ? r : 0;
}

static int read_entry(sd_bus_message *m, struct reader *reader, struct request_error *error) {
        const struct option *option;
        const char *name, *type;
        uint32_t bit;
        int r;

        r = sd_bus_message_read_basic(m, 's', &name);
        if (r >= 0)
                r = sd_bus_message_peek_type(m, NULL, &type);
        if (r < 0)
                return r;
        option = option_find(reader, name);
        if (!option)
                return refuse_unknown(name, error);
        if (strcmp(type, option->type) != 0) {
                request_error_set(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                  "options: '%s' must be of type %s; it came as %.16s.", option->name, option->type,
                                  type);
                return REQUEST_E_REFUSED;
        }
        bit = 1u << (unsigned)(option - reader->table);
        if (reader->seen & bit) {
                request_error_set(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "options: '%s' is given twice.",
                                  option->name);
                return REQUEST_E_REFUSED;
        }
        reader->seen |= bit;
        r = sd_bus_message_enter_container(m, 'v', option->type);
        if (r >= 0)
                r = read_value(m, option, reader->target);
        if (r >= 0)
                r = sd_bus_message_exit_container(m);
        return r < 0 ? r : 0;
}

static int read_options(sd_bus_message *m, struct reader *reader, struct request_error *error) {
        int r = sd_bus_message_enter_container(m, 'a', "{sv}");

        for (unsigned i = 0; r >= 0 && i <= ENTRIES_MAX; i++) {
                r = sd_bus_message_enter_container(m, 'e', "sv");
                if (r <= 0)
                        break;
                r = read_entry(m, reader, error);
                if (r)
                        return r;
                r = sd_bus_message_exit_container(m);
        }
        if (r < 0)
                return r;
        r = sd_bus_message_exit_container(m);
        return r < 0 ? r : 0;
}

static int read_priority(struct bus_options *o, struct request_error *error) {
        if (!o->priority_word || policy_priority_parse(o->priority_word, &o->priority))
                return 0;
        request_error_set(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                          "options: 'priority' must be \"background\", \"normal\" or \"interactive\".");
        return REQUEST_E_REFUSED;
}

int bus_options_init(struct bus_options *o, sd_bus_message *m, struct request_error *error) {
        struct reader reader = { .table = options, .n = ARRAY_SIZE(options), .target = o };
        int r;

        *o = (struct bus_options){ .model = "", .sampling = SPARK__V1__SAMPLING__INIT };
        r = read_options(m, &reader, error);
        if (!r)
                r = read_priority(o, error);
        if (r)
                bus_options_deinit(o);
        return r;
}

void bus_options_deinit(struct bus_options *o) {
        for (char **s = o->stop; s && *s; s++)
                free(*s);
        free(o->stop);
        *o = (struct bus_options){ .model = "" };
}

int bus_import_options_read(struct bus_import_options *o, sd_bus_message *m, struct request_error *error) {
        struct reader reader = { .table = import_options, .n = ARRAY_SIZE(import_options), .target = o };

        *o = (struct bus_import_options){ .file = NULL };
        return read_options(m, &reader, error);
}

int bus_pack_options_read(struct bus_pack_options *o, sd_bus_message *m, struct request_error *error) {
        struct reader reader = { .table = pack_options, .n = ARRAY_SIZE(pack_options), .target = o };

        *o = (struct bus_pack_options){ .lossless = false };
        return read_options(m, &reader, error);
}

int bus_load_options_read(struct bus_pack_options *o, sd_bus_message *m, struct request_error *error) {
        struct reader reader = { .table = pack_options, .n = 1, .target = o };

        *o = (struct bus_pack_options){ .lossless = false };
        return read_options(m, &reader, error);
}

static int read_lease_options(struct bus_lease_options *o, size_t n, sd_bus_message *m, struct request_error *error) {
        struct reader reader = { .table = lease_options, .n = n, .target = o };

        *o = (struct bus_lease_options){ .wait = true, .policy = "" };
        return read_options(m, &reader, error);
}

int bus_reserve_options_read(struct bus_lease_options *o, sd_bus_message *m, struct request_error *error) {
        return read_lease_options(o, ARRAY_SIZE(lease_options), m, error);
}

int bus_hold_options_read(struct bus_lease_options *o, sd_bus_message *m, struct request_error *error) {
        return read_lease_options(o, 1, m, error);
}

int bus_options_read_none(sd_bus_message *m, struct request_error *error) {
        struct reader reader = { .n = 0 };

        return read_options(m, &reader, error);
}
