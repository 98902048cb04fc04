/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Errors on the bus: org.sparkd.Spark1.Error.NAME for every error code of the protocol. */

#include <systemd/sd-bus.h>

#include "request/request.h"

/* Unknown codes are Internal. */
const char *bus_error_name(Spark__V1__ErrorCode code);
/* Fills an sd_bus_error and returns the negative errno that it stands for, as handlers of sd-bus want it. */
int bus_error_set(sd_bus_error *e, Spark__V1__ErrorCode code, const char *text);
int bus_error_set_request(sd_bus_error *e, const struct request_error *error);
