/* SPDX-License-Identifier: Apache-2.0 */


#include "bus-error.h"
#include "bus-text.h"

#define PREFIX "org.sparkd.Spark1.Error."

const char *bus_error_name(Spark__V1__ErrorCode code) {
        static const char *const names[] = {
                [SPARK__V1__ERROR_CODE__INVALID_ARGUMENT] = PREFIX "InvalidArgument",
                [SPARK__V1__ERROR_CODE__INVALID_UTF8] = PREFIX "InvalidUtf8",
                [SPARK__V1__ERROR_CODE__CONTEXT_OVERFLOW] = PREFIX "ContextOverflow",
                [SPARK__V1__ERROR_CODE__MODEL_NOT_FOUND] = PREFIX "ModelNotFound",
                [SPARK__V1__ERROR_CODE__MODEL_INVALID] = PREFIX "ModelInvalid",
                [SPARK__V1__ERROR_CODE__BUSY] = PREFIX "Busy",
                [SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED] = PREFIX "QuotaExceeded",
                [SPARK__V1__ERROR_CODE__PERMISSION_DENIED] = PREFIX "PermissionDenied",
                [SPARK__V1__ERROR_CODE__NO_MEMORY] = PREFIX "NoMemory",
                [SPARK__V1__ERROR_CODE__CANCELLED] = PREFIX "Cancelled",
                [SPARK__V1__ERROR_CODE__SLOW_READER] = PREFIX "SlowReader",
                [SPARK__V1__ERROR_CODE__DEFERRED_ON_BATTERY] = PREFIX "DeferredOnBattery",
                [SPARK__V1__ERROR_CODE__ENGINE_LOST] = PREFIX "EngineLost",
                [SPARK__V1__ERROR_CODE__STOPPING] = PREFIX "Stopping",
                [SPARK__V1__ERROR_CODE__UNIMPLEMENTED] = PREFIX "Unimplemented",
                [SPARK__V1__ERROR_CODE__INTERNAL] = PREFIX "Internal",
        };

        if ((size_t)code < ARRAY_SIZE(names) && names[code])
                return names[code];
        return names[SPARK__V1__ERROR_CODE__INTERNAL];
}

int bus_error_set(sd_bus_error *e, Spark__V1__ErrorCode code, const char *text) {
        _cleanup_free_ char *clean = bus_text_clean(text);

        return sd_bus_error_set(e, bus_error_name(code), clean ? clean : "Out of memory.");
}

int bus_error_set_request(sd_bus_error *e, const struct request_error *error) {
        return bus_error_set(e, error->code, error->text);
}
