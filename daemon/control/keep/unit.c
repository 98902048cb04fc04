/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <systemd/sd-bus.h>

#include "base/clock.h"
#include "unit.h"

#define SYSTEMD "org.freedesktop.systemd1"

struct question {
        sd_bus *bus;
        uint64_t until_us;
        char *unit; /* object path */
};

static uint64_t left_us(const struct question *q) {
        uint64_t now = clock_now_us();

        return now < q->until_us ? q->until_us - now : 0;
}

/* A call waits for the connection without an end: so that one is waited for here. */
static int wait_for_bus(struct question *q) {
        while (sd_bus_is_ready(q->bus) == 0) {
                int r = sd_bus_process(q->bus, NULL);

                if (r == 0)
                        r = left_us(q) == 0 ? -ETIMEDOUT : sd_bus_wait(q->bus, left_us(q));
                if (r < 0)
                        return r;
        }
        return sd_bus_is_ready(q->bus) > 0 ? 0 : -ENOTCONN;
}

static int ask_property(struct question *q, const char *path, const char *interface, const char *property, const char *signature,
                        sd_bus_message **ret) {
        uint64_t left = left_us(q);

        if (left == 0)
                return -ETIMEDOUT;
        (void)sd_bus_set_method_call_timeout(q->bus, left);
        return sd_bus_get_property(q->bus, SYSTEMD, path, interface, property, NULL, ret, signature);
}

static int ask_for_unit(struct question *q) {
        sd_bus_message *reply = NULL;
        const char *path;
        int r;

        (void)sd_bus_set_method_call_timeout(q->bus, left_us(q) + 1); /* 0 would be the default */
        r = sd_bus_call_method(q->bus, SYSTEMD, "/org/freedesktop/systemd1", SYSTEMD ".Manager", "GetUnitByPID", NULL, &reply,
                               "u", (uint32_t)getpid());
        if (r >= 0)
                r = sd_bus_message_read(reply, "o", &path);
        if (r >= 0) {
                q->unit = strdup(path);
                r = q->unit ? 0 : -ENOMEM;
        }
        (void)sd_bus_message_unref(reply);
        return r;
}

static int question_begin(struct question *q, uint64_t timeout_us) {
        int r = sd_bus_open_system(&q->bus);

        q->until_us = clock_now_us() + timeout_us;
        if (r >= 0)
                r = wait_for_bus(q);
        return r < 0 ? r : ask_for_unit(q);
}

static void question_end(struct question *q) {
        (void)sd_bus_close_unref(q->bus);
        free(q->unit);
}

int unit_ask_fdstore_max(uint64_t timeout_us, uint32_t *ret) {
        struct question q = { 0 };
        sd_bus_message *reply = NULL;
        uint32_t max = 0;
        int r = question_begin(&q, timeout_us);

        if (r >= 0)
                r = ask_property(&q, q.unit, SYSTEMD ".Service", "FileDescriptorStoreMax", "u", &reply);
        if (r >= 0)
                r = sd_bus_message_read(reply, "u", &max);
        (void)sd_bus_message_unref(reply);
        question_end(&q);
        if (r < 0)
                return r;
        *ret = max;
        return 0;
}

static int ask_job_type(struct question *q, const char *job) {
        sd_bus_message *reply = NULL;
        const char *type;
        int r = ask_property(q, job, SYSTEMD ".Job", "JobType", "s", &reply);

        if (r >= 0)
                r = sd_bus_message_read(reply, "s", &type);
        if (r >= 0)
                r = strcmp(type, "restart") == 0 || strcmp(type, "try-restart") == 0;
        (void)sd_bus_message_unref(reply);
        return r;
}

int unit_ask_restarts(uint64_t timeout_us) {
        struct question q = { 0 };
        sd_bus_message *reply = NULL;
        const char *path = NULL;
        uint32_t id = 0;
        int r = question_begin(&q, timeout_us);

        if (r >= 0)
                r = ask_property(&q, q.unit, SYSTEMD ".Unit", "Job", "(uo)", &reply);
        if (r >= 0)
                r = sd_bus_message_read(reply, "(uo)", &id, &path);
        if (r >= 0)
                r = id ? ask_job_type(&q, path) : 0;
        (void)sd_bus_message_unref(reply);
        question_end(&q);
        return r;
}
