/* SPDX-License-Identifier: Apache-2.0 */

/* The part of NVIDIA's management library that the CUDA backend uses, with types written down from its documentation. */

#include "nvml.h"

#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define NOT_FOUND 6
#define TIMEOUT 10

typedef struct {
        void *device;
        unsigned long long eventType, eventData;
        unsigned int gpuInstanceId, computeInstanceId;
} nvmlEventData_t;

EXPORT int nvmlInit_v2(void);
EXPORT int nvmlShutdown(void);
EXPORT int nvmlSystemGetDriverVersion(char *version, unsigned int length);
EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, void **device);
EXPORT int nvmlEventSetCreate(void **set);
EXPORT int nvmlEventSetFree(void *set);
EXPORT int nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set);
EXPORT int nvmlEventSetWait_v2(void *set, nvmlEventData_t *data, unsigned int timeout_ms);
EXPORT int nvmlDeviceGetTotalEnergyConsumption(void *of, unsigned long long *energy);
EXPORT int nvmlDeviceGetPowerUsage(void *of, unsigned int *power);
EXPORT int nvmlDeviceGetTemperature(void *of, unsigned int sensor, unsigned int *temperature);
EXPORT int nvmlDeviceGetCurrentClocksEventReasons(void *of, unsigned long long *reasons);

EXPORT int nvmlDeviceGetMaxClockInfo(void *of, unsigned int type, unsigned int *clock);
EXPORT int nvmlDeviceSetGpuLockedClocks(void *of, unsigned int min, unsigned int max);
EXPORT int nvmlDeviceResetGpuLockedClocks(void *of);

struct fake_nvml fake_nvml = { .dry = TIMEOUT };

static char device, events;

int nvmlInit_v2(void) {
        fake_nvml.users++;
        return 0;
}

int nvmlShutdown(void) {
        fake_nvml.users--;
        return 0;
}

int nvmlSystemGetDriverVersion(char *version, unsigned int length) {
        (void)snprintf(version, length, "580.95.05");
        return 0;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, void **ret) {
        if (strcmp(bus_id, "0000:01:00.0") != 0)
                return NOT_FOUND;
        *ret = &device;
        return 0;
}

int nvmlEventSetCreate(void **set) {
        fake_nvml.sets++;
        *set = &events;
        return 0;
}

int nvmlEventSetFree(void *set) {
        fake_nvml.sets--;
        return set == &events ? 0 : INVALID_ARGUMENT;
}

int nvmlDeviceRegisterEvents(void *of, unsigned long long types, void *set) {
        if (of != &device || set != &events || types != 8)
                return INVALID_ARGUMENT;
        return fake_nvml.no_events ? NOT_SUPPORTED : 0;
}

int nvmlEventSetWait_v2(void *set, nvmlEventData_t *data, unsigned int timeout_ms) {
        const struct fake_event *first = fake_nvml.events;

        fake_nvml.n_waits++;
        if (set != &events || timeout_ms != 0)
                return INVALID_ARGUMENT;
        if (fake_nvml.n_events == 0)
                return fake_nvml.dry;
        *data = (nvmlEventData_t){ .device = &device, .eventType = first->type, .eventData = first->data,
                                   .gpuInstanceId = 0xffffffff, .computeInstanceId = 0xffffffff };
        fake_nvml.n_events--;
        memmove(fake_nvml.events, first + 1, fake_nvml.n_events * sizeof(*first));
        return 0;
}

static int answer(const void *of) {
        return of == &device ? fake_nvml.power_result : INVALID_ARGUMENT;
}

int nvmlDeviceGetTotalEnergyConsumption(void *of, unsigned long long *energy) {
        fake_nvml.n_asked++;
        *energy = fake_nvml.energy_mj;
        return answer(of);
}

int nvmlDeviceGetPowerUsage(void *of, unsigned int *power) {
        *power = fake_nvml.power_mw;
        return answer(of);
}

int nvmlDeviceGetTemperature(void *of, unsigned int sensor, unsigned int *temperature) {
        *temperature = fake_nvml.temperature;
        return sensor == 0 ? answer(of) : INVALID_ARGUMENT;
}

int nvmlDeviceGetCurrentClocksEventReasons(void *of, unsigned long long *reasons) {
        *reasons = fake_nvml.reasons;
        return answer(of);
}

int nvmlDeviceGetMaxClockInfo(void *of, unsigned int type, unsigned int *clock) {
        *clock = fake_nvml.highest_mhz;
        return of != &device || type != 1 ? INVALID_ARGUMENT : fake_nvml.highest_mhz ? 0 : NOT_SUPPORTED;
}

int nvmlDeviceSetGpuLockedClocks(void *of, unsigned int min, unsigned int max) {
        fake_nvml.n_locks++;
        if (of != &device || min > max || max > fake_nvml.highest_mhz)
                return INVALID_ARGUMENT;
        if (fake_nvml.clocks_result)
                return fake_nvml.clocks_result;
        fake_nvml.locked_min = min;
        fake_nvml.locked_max = max;
        return 0;
}

int nvmlDeviceResetGpuLockedClocks(void *of) {
        fake_nvml.n_unlocks++;
        if (of != &device)
                return INVALID_ARGUMENT;
        if (!fake_nvml.clocks_result)
                fake_nvml.locked_min = fake_nvml.locked_max = 0;
        return fake_nvml.clocks_result;
}
