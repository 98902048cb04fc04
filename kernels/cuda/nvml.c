/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The driver's management library, opened at run time: which driver it is, the events of the device, and its power. An Xid is an
 * error that the driver reports, with a number (NVIDIA's "Xid Errors"): most concern a single process, a few mean that the device
 * is gone. There is no header to include: what is used of the interface, which does not change, is written down here.
 *
 * Not every device knows what it takes: those that are one with the host often say nothing. Asking takes up to some
 * milliseconds, so it is done now and then, and not by who makes steps.
 */

#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/macro.h"
#include "nvml.h"

#define LIBRARY "libnvidia-ml.so.1"
#define EVENT_XID 8ull /* nvmlEventTypeXidCriticalError */
#define NO_PERMISSION 4 /* NVML_ERROR_NO_PERMISSION */
#define GPU_IS_LOST 15  /* NVML_ERROR_GPU_IS_LOST */
#define CLOCK_SM 1u     /* NVML_CLOCK_SM */
#define XID_OFF_BUS 79u
#define EVENTS_MAX 16u /* taken at a time */
#define TEMPERATURE_GPU 0u /* NVML_TEMPERATURE_GPU */
/* nvmlClocksEventReason*: a power cap, slowed down by the hardware, by software for heat, by hardware for heat, by the power
 * brake */
#define REASONS_SLOW (0x4ull | 0x8ull | 0x20ull | 0x40ull | 0x80ull)
#define SAMPLE_US 1000000u
#define OLD_US 4000000u

typedef struct nvml_device *nvml_device_t;
typedef struct nvml_events *nvml_events_t;

struct nvml_event {
        nvml_device_t device;
        unsigned long long type, data;
        unsigned gpu_instance, compute_instance;
};

struct cuda_nvml {
        void *library;
        pthread_mutex_t lock; /* of the events */
        bool initialized;
        nvml_device_t device;
        nvml_events_t events; /* NULL: none are known of this device */
        pthread_mutex_t sample_lock;
        uint64_t sampled_us;  /* under sample_lock, as this: */
        struct backend_power sample;
        uint64_t energy_start; /* mJ, when it was opened */
        bool has_energy;
        bool locked; /* its clocks, by us */
        /* These may be missing. */
        int (*energy)(nvml_device_t device, unsigned long long *ret_mj);
        int (*power)(nvml_device_t device, unsigned *ret_mw);
        int (*temperature)(nvml_device_t device, unsigned sensor, unsigned *ret);
        int (*reasons)(nvml_device_t device, unsigned long long *ret);
        int (*highest)(nvml_device_t device, unsigned clock, unsigned *ret_mhz);
        int (*lock_clocks)(nvml_device_t device, unsigned min_mhz, unsigned max_mhz);
        int (*unlock_clocks)(nvml_device_t device);
        /* These may not. */
        int (*init)(void);
        int (*shutdown)(void);
        int (*driver)(char *ret, unsigned size);
        int (*device_by_bus)(const char *bus_id, nvml_device_t *ret);
        int (*events_new)(nvml_events_t *ret);
        int (*events_free)(nvml_events_t events);
        int (*events_register)(nvml_device_t device, unsigned long long types, nvml_events_t events);
        int (*events_wait)(nvml_events_t events, struct nvml_event *ret, unsigned timeout_ms);
};

static bool find_functions(struct cuda_nvml *n) {
        const struct {
                const char *name;
                void *to;
        } functions[] = {
                { "nvmlInit_v2", &n->init },
                { "nvmlShutdown", &n->shutdown },
                { "nvmlSystemGetDriverVersion", &n->driver },
                { "nvmlDeviceGetHandleByPciBusId_v2", &n->device_by_bus },
                { "nvmlEventSetCreate", &n->events_new },
                { "nvmlEventSetFree", &n->events_free },
                { "nvmlDeviceRegisterEvents", &n->events_register },
                { "nvmlEventSetWait_v2", &n->events_wait },
        };

        for (size_t i = 0; i < ARRAY_SIZE(functions); i++) {
                void *symbol = dlsym(n->library, functions[i].name);

                if (!symbol)
                        return false;
                memcpy(functions[i].to, &symbol, sizeof(symbol)); /* POSIX says that it fits */
        }
        return true;
}

static void find_optional(struct cuda_nvml *n) {
        const struct {
                const char *name;
                void *to;
        } functions[] = {
                { "nvmlDeviceGetTotalEnergyConsumption", &n->energy },
                { "nvmlDeviceGetPowerUsage", &n->power },
                { "nvmlDeviceGetTemperature", &n->temperature },
                { "nvmlDeviceGetCurrentClocksThrottleReasons", &n->reasons }, /* its name until driver 535; stays */
                { "nvmlDeviceGetCurrentClocksEventReasons", &n->reasons },
                { "nvmlDeviceGetMaxClockInfo", &n->highest },
                { "nvmlDeviceSetGpuLockedClocks", &n->lock_clocks },
                { "nvmlDeviceResetGpuLockedClocks", &n->unlock_clocks },
        };

        for (size_t i = 0; i < ARRAY_SIZE(functions); i++) {
                void *symbol = dlsym(n->library, functions[i].name);

                if (symbol)
                        memcpy(functions[i].to, &symbol, sizeof(symbol));
        }
}

static void watch(struct cuda_nvml *n, const char *bus_id) {
        unsigned long long mj;

        if (n->device_by_bus(bus_id, &n->device) != 0) {
                n->device = NULL;
                return;
        }
        find_optional(n);
        n->has_energy = n->energy && n->energy(n->device, &mj) == 0;
        n->energy_start = n->has_energy ? mj : 0;
        if (n->events_new(&n->events) != 0)
                return;
        if (n->events_register(n->device, EVENT_XID, n->events) == 0)
                return;
        (void)n->events_free(n->events);
        n->events = NULL; /* not every device reports them */
}

struct cuda_nvml *cuda_nvml_new(const char *bus_id) {
        struct cuda_nvml *n = calloc(1, sizeof(*n));

        if (!n)
                return NULL;
        (void)pthread_mutex_init(&n->lock, NULL);
        (void)pthread_mutex_init(&n->sample_lock, NULL);
        n->library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
        if (!n->library || !find_functions(n) || n->init() != 0)
                return cuda_nvml_free(n);
        n->initialized = true;
        if (bus_id)
                watch(n, bus_id);
        return n;
}

struct cuda_nvml *cuda_nvml_free(struct cuda_nvml *n) {
        if (!n)
                return NULL;
        if (n->locked)
                (void)n->unlock_clocks(n->device);
        if (n->events)
                (void)n->events_free(n->events);
        if (n->initialized)
                (void)n->shutdown();
        if (n->library)
                (void)dlclose(n->library);
        (void)pthread_mutex_destroy(&n->lock);
        (void)pthread_mutex_destroy(&n->sample_lock);
        free(n);
        return NULL;
}

bool cuda_nvml_driver(struct cuda_nvml *n, char *ret, size_t size) {
        return n && n->driver(ret, (unsigned)size) == 0;
}

/* Fallen off the bus, its microcontrollers or its memory given up; others are some process's own, perhaps not ours. */
static bool is_fatal(uint64_t xid) {
        static const uint64_t fatal[] = { 62, XID_OFF_BUS, 95, 119, 120 };

        for (size_t i = 0; i < ARRAY_SIZE(fatal); i++)
                if (xid == fatal[i])
                        return true;
        return false;
}

uint64_t cuda_nvml_poll(struct cuda_nvml *n) {
        struct nvml_event event;
        uint64_t fatal = 0;
        int r;

        if (!n || !n->events || pthread_mutex_trylock(&n->lock) != 0)
                return 0; /* nobody to ask, or somebody does */
        for (unsigned i = 0; i < EVENTS_MAX && fatal == 0; i++) {
                r = n->events_wait(n->events, &event, 0);
                if (r == GPU_IS_LOST)
                        fatal = XID_OFF_BUS;
                if (r != 0)
                        break;
                if (event.type != EVENT_XID)
                        continue;
                if (is_fatal(event.data))
                        fatal = event.data;
                else
                        log_warning("The CUDA driver reports Xid %llu, of this process or another one", event.data);
        }
        (void)pthread_mutex_unlock(&n->lock);
        return fatal;
}

/* --- power -------------------------------------------------------------------------------------------------------- */

static void ask(struct cuda_nvml *n, struct backend_power *ret) {
        unsigned long long mj, reasons;
        unsigned mw, degrees;

        *ret = (struct backend_power){};
        /* A counter that fell was reset by somebody: it says nothing of us any more. */
        if (n->has_energy && n->energy(n->device, &mj) == 0 && mj >= n->energy_start) {
                ret->energy_known = true;
                ret->energy_uj = (mj - n->energy_start) * 1000;
        }
        if (n->power && n->power(n->device, &mw) == 0) {
                ret->power_known = true;
                ret->power_mw = mw;
        }
        if (n->temperature && n->temperature(n->device, TEMPERATURE_GPU, &degrees) == 0) {
                ret->temperature_known = true;
                ret->temperature_c = (int32_t)degrees;
        }
        ret->throttled = n->reasons && n->reasons(n->device, &reasons) == 0 && (reasons & REASONS_SLOW) != 0;
}

/* Whether the last answer is older than that. Whoever is told so asks: the next ones are told that it is new. */
static bool take_turn(struct cuda_nvml *n, uint64_t old_us) {
        uint64_t now = clock_now_us();
        bool old;

        (void)pthread_mutex_lock(&n->sample_lock);
        old = n->sampled_us == 0 || now - n->sampled_us >= old_us;
        if (old)
                n->sampled_us = now;
        (void)pthread_mutex_unlock(&n->sample_lock);
        return old;
}

static void sample(struct cuda_nvml *n, uint64_t old_us) {
        struct backend_power power;

        if (!n || !n->device || !take_turn(n, old_us))
                return;
        ask(n, &power);
        (void)pthread_mutex_lock(&n->sample_lock);
        n->sample = power;
        (void)pthread_mutex_unlock(&n->sample_lock);
}

void cuda_nvml_sample(struct cuda_nvml *n) {
        sample(n, SAMPLE_US);
}

void cuda_nvml_power(struct cuda_nvml *n, struct backend_power *ret) {
        *ret = (struct backend_power){};
        if (!n)
                return;
        sample(n, OLD_US);
        (void)pthread_mutex_lock(&n->sample_lock);
        *ret = n->sample;
        (void)pthread_mutex_unlock(&n->sample_lock);
}

/* --- clocks ------------------------------------------------------------------------------------------------------- */

static enum backend_clocks clocks_refused(int r) {
        return r == NO_PERMISSION ? BACKEND_CLOCKS_FORBIDDEN : BACKEND_CLOCKS_UNSUPPORTED;
}

static enum backend_clocks free_clocks(struct cuda_nvml *n, bool undo) {
        int r = n->locked || undo ? n->unlock_clocks(n->device) : 0;

        if (r != 0 && n->locked)
                return clocks_refused(r);
        n->locked = false;
        return BACKEND_CLOCKS_FREE;
}

enum backend_clocks cuda_nvml_cap_clocks(struct cuda_nvml *n, uint32_t percent, bool undo) {
        bool wanted = percent > 0 && percent < 100;
        unsigned mhz;
        int r;

        if (!n || !n->device || !n->highest || !n->lock_clocks || !n->unlock_clocks)
                return wanted ? BACKEND_CLOCKS_UNSUPPORTED : BACKEND_CLOCKS_FREE;
        if (!wanted)
                return free_clocks(n, undo);
        r = n->highest(n->device, CLOCK_SM, &mhz);
        if (r == 0)
                r = n->lock_clocks(n->device, 0, (unsigned)((uint64_t)mhz * percent / 100));
        if (r != 0)
                return clocks_refused(r);
        n->locked = true;
        return BACKEND_CLOCKS_NVML;
}
