/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The options (a{sv}) of the bus's methods, read strictly: an unknown name, a value of another type or an option given
 * twice is INVALID_ARGUMENT and named. Whether values make sense is the engine's to say.
 */

#include <stdbool.h>

#include <systemd/sd-bus.h>

#include "request/request.h"

struct bus_options {
        const char *model; /* of the message, as the strings below; "" = the default model */
        bool raw;
        const char *priority_word; /* NULL = left out */
        Spark__V1__Priority priority;
        char **stop; /* owned */
        Spark__V1__Sampling sampling;
};

/* Reads the dictionary that the message is at. 0, REQUEST_E_REFUSED with *error filled, or -errno. */
int bus_options_init(struct bus_options *o, sd_bus_message *m, struct request_error *error);
void bus_options_deinit(struct bus_options *o);
/* ImportModel's. */
struct bus_import_options {
        const char *file; /* of the message; NULL = left out */
        bool replace, pin;
};

/* As bus_options_init(); there is nothing to free. */
int bus_import_options_read(struct bus_import_options *o, sd_bus_message *m, struct request_error *error);
/* PackModel's; of these, Load knows lossless alone. */
struct bus_pack_options {
        bool lossless, replace, pin;
};

int bus_pack_options_read(struct bus_pack_options *o, sd_bus_message *m, struct request_error *error);
int bus_load_options_read(struct bus_pack_options *o, sd_bus_message *m, struct request_error *error);
/* ReserveMemory's; HoldWarm knows wait alone. */
struct bus_lease_options {
        bool wait; /* for the memory, or the model; true where it is left out */
        bool missing_only;
        const char *policy; /* of the message; "" = left out */
};

int bus_reserve_options_read(struct bus_lease_options *o, sd_bus_message *m, struct request_error *error);
int bus_hold_options_read(struct bus_lease_options *o, sd_bus_message *m, struct request_error *error);
/* Reads a dictionary of a method that knows no options yet. */
int bus_options_read_none(sd_bus_message *m, struct request_error *error);
