/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The driver's management library, opened at run time: which driver it is, and the events of the device. An Xid is an error that the
 * driver reports, with a number (NVIDIA's "Xid Errors"): most concern a single process, a few mean that the device is gone.
 * There is no header to include: what is used of the interface, which does not change, is written down here.
 */

#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/macro.h"
#include "cuda.h"

#define LIBRARY "libnvidia-ml.so.1"
#define EVENT_XID 8ull /* nvmlEventTypeXidCriticalError */
#define GPU_IS_LOST 15 /* NVML_ERROR_GPU_IS_LOST */
#define XID_OFF_BUS 79u
#define EVENTS_MAX 16u /* taken at a time */

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

static void watch(struct cuda_nvml *n, const char *bus_id) {
        if (n->device_by_bus(bus_id, &n->device) != 0 || n->events_new(&n->events) != 0)
                return;
        if (n->events_register(n->device, EVENT_XID, n->events) == 0)
                return;
        (void)n->events_free(n->events);
        n->events = NULL; /* not every device reports them */
}

struct cuda_nvml *cuda_nvml_new(const char *bus_id) {
        struct cuda_nvml *n = calloc(1, sizeof(*n));

        if (!n || pthread_mutex_init(&n->lock, NULL) != 0) {
                free(n);
                return NULL;
        }
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
        if (n->events)
                (void)n->events_free(n->events);
        if (n->initialized)
                (void)n->shutdown();
        if (n->library)
                (void)dlclose(n->library);
        (void)pthread_mutex_destroy(&n->lock);
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
