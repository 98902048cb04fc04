/* SPDX-License-Identifier: Apache-2.0 */

/*
 * One CheckAuthorization for each question. polkit says no for a caller that left the bus before it looked; one that leaves
 * later is dropped by whoever asked. What polkit does not answer, or answers with an error, is a no: only where there is no
 * polkit at all somebody else decides.
 *
 * A process is named by a pidfd, which polkit knows since version 124, and else by pid, start time and uid. Older versions look
 * some of it up by the pid alone. So the process must be there before the question and after the answer: then the pid was
 * nobody else's in between, whatever polkit looked up.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "polkit.h"

#define POLKIT_NAME "org.freedesktop.PolicyKit1"
#define POLKIT_PATH "/org/freedesktop/PolicyKit1/Authority"
#define POLKIT_IFACE "org.freedesktop.PolicyKit1.Authority"
#define FLAG_ALLOW_INTERACTION 1u
#define CHECKS_MAX 128u
#define CHECKS_PER_USER_MAX 16u
#define ANSWER_US (10u * 1000000u)       /* polkit alone */
#define PERSON_US (120u * 1000000u)      /* a person who looks for a password */

struct polkit_check {
        struct polkit *polkit;
        struct list link;
        sd_bus_slot *slot;
        uint64_t id;
        struct polkit_subject subject;
        uid_t uid;
        enum right right;
        bool interactive;
        bool by_pidfd;
        void (*told)(void *userdata, enum polkit_answer answer);
        void *userdata;
};

void polkit_init(struct polkit *p) {
        *p = (struct polkit){ .bus = NULL };
        list_init(&p->checks);
}

static void check_free(struct polkit_check *c) {
        c->slot = sd_bus_slot_unref(c->slot);
        list_remove(&c->link);
        c->polkit->n_checks--;
        free(c);
}

/* The last that is heard of it. */
static void check_answer(struct polkit_check *c, enum polkit_answer answer) {
        void (*told)(void *userdata, enum polkit_answer answer) = c->told;
        void *userdata = c->userdata;

        if (answer == POLKIT_YES && c->subject.peer && !peer_is_there(c->subject.peer))
                answer = POLKIT_NO;
        check_free(c);
        told(userdata, answer);
}

void polkit_set_bus(struct polkit *p, sd_bus *bus) {
        struct list *pos, *tmp;

        p->bus = bus;
        p->knows_no_pidfd = false;
        LIST_FOREACH(pos, tmp, &p->checks)
                check_answer(LIST_ENTRY(pos, struct polkit_check, link), POLKIT_NO);
}

static bool error_says_absent(const sd_bus_error *e) {
        static const char *const names[] = {
                "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner",
                "org.freedesktop.DBus.Error.Spawn.ServiceNotFound", "org.freedesktop.systemd1.NoSuchUnit",
                "org.freedesktop.systemd1.UnitMasked",
        };

        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                if (sd_bus_error_has_name(e, names[i]))
                        return true;
        return false;
}

static enum polkit_answer read_error(struct polkit *p, const sd_bus_error *e) {
        if (error_says_absent(e)) {
                if (!p->told_absent)
                        log_info("there is no polkit on the bus: root and the daemon's user may do what it would be asked about");
                p->told_absent = true;
                return POLKIT_ABSENT;
        }
        if (!p->told_trouble)
                log_warning("polkit does not decide (%s: %s), so the answer is no", e->name, e->message ? e->message : "");
        p->told_trouble = true;
        return POLKIT_NO;
}

static enum polkit_answer read_answer(struct polkit *p, sd_bus_message *m) {
        int authorized, challenge, r;

        if (sd_bus_message_is_method_error(m, NULL))
                return read_error(p, sd_bus_message_get_error(m));
        r = sd_bus_message_enter_container(m, 'r', "bba{ss}");
        if (r >= 0)
                r = sd_bus_message_read(m, "bb", &authorized, &challenge);
        if (r < 0) {
                log_warning("polkit's answer can't be read: %s", strerror(-r));
                return POLKIT_NO;
        }
        p->told_absent = p->told_trouble = false;
        return authorized ? POLKIT_YES : challenge ? POLKIT_CHALLENGE : POLKIT_NO;
}

static void format_id(const struct polkit_check *c, char out[32]) {
        out[0] = 0;
        if (c->interactive) /* a name for what may be called off; nothing else would be */
                (void)snprintf(out, 32, "sparkd-%" PRIu64, c->id);
}

/* The signature (sa{sv}). */
static int append_subject(const struct polkit_check *c, sd_bus_message *m) {
        const struct peer *p = c->subject.peer;

        if (!p)
                return sd_bus_message_append(m, "(sa{sv})", "system-bus-name", 1, "name", "s", c->subject.bus_name);
        if (c->by_pidfd)
                return sd_bus_message_append(m, "(sa{sv})", "unix-process", 2, "pidfd", "h", p->pidfd, "uid", "i", (int32_t)p->uid);
        return sd_bus_message_append(m, "(sa{sv})", "unix-process", 3, "pid", "u", (uint32_t)p->pid, "start-time", "t",
                                     p->start_time, "uid", "i", (int32_t)p->uid);
}

static int on_answer(sd_bus_message *m, void *userdata, sd_bus_error *error);

static int check_send(struct polkit_check *c) {
        sd_bus_message *m = NULL;
        char id[32];
        int r;

        format_id(c, id);
        r = sd_bus_message_new_method_call(c->polkit->bus, &m, POLKIT_NAME, POLKIT_PATH, POLKIT_IFACE, "CheckAuthorization");
        if (r >= 0)
                r = append_subject(c, m);
        if (r >= 0) /* no details: they are for trusted callers alone */
                r = sd_bus_message_append(m, "sa{ss}us", right_action(c->right), 0,
                                          c->interactive ? FLAG_ALLOW_INTERACTION : 0u, id);
        if (r >= 0)
                r = sd_bus_call_async(c->polkit->bus, &c->slot, m, on_answer, c, c->interactive ? PERSON_US : ANSWER_US);
        (void)sd_bus_message_unref(m);
        return r < 0 ? r : 0;
}

/* A polkit that does not know pidfds finds no pid in the subject. True where the question was put again. */
static bool check_send_pid(struct polkit_check *c, sd_bus_message *m) {
        if (!c->by_pidfd || !sd_bus_message_is_method_error(m, "org.freedesktop.PolicyKit1.Error.Failed"))
                return false;
        c->polkit->knows_no_pidfd = true;
        c->by_pidfd = false;
        c->slot = sd_bus_slot_unref(c->slot);
        return c->subject.peer->start_time && peer_is_there(c->subject.peer) && check_send(c) >= 0;
}

static int on_answer(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        struct polkit_check *c = userdata;

        if (!check_send_pid(c, m))
                check_answer(c, read_answer(c->polkit, m));
        return 0;
}

static size_t count_checks_of(const struct polkit *p, uid_t uid) {
        struct list *pos, *tmp;
        size_t n = 0;

        LIST_FOREACH(pos, tmp, (struct list *)&p->checks)
                n += LIST_ENTRY(pos, struct polkit_check, link)->uid == uid;
        return n;
}

int polkit_ask(struct polkit *p, const struct polkit_question *q, struct polkit_check **ret) {
        struct polkit_check *c;
        const struct peer *peer = q->subject.peer;
        bool by_pidfd = peer && peer->pidfd >= 0 && !p->knows_no_pidfd;
        int r;

        if (peer && (!peer_is_there(peer) || (!by_pidfd && peer->start_time == 0)))
                return POLKIT_E_GONE;
        if (p->n_checks >= CHECKS_MAX || count_checks_of(p, q->uid) >= CHECKS_PER_USER_MAX)
                return POLKIT_E_BUSY;
        c = calloc(1, sizeof(*c));
        if (!c)
                return -ENOMEM;
        *c = (struct polkit_check){ .polkit = p, .id = ++p->last_id, .subject = q->subject, .uid = q->uid, .right = q->right,
                                    .interactive = q->interactive, .by_pidfd = by_pidfd, .told = q->told,
                                    .userdata = q->userdata };
        list_append(&p->checks, &c->link);
        p->n_checks++;
        r = p->bus ? check_send(c) : -ENOTCONN;
        if (r < 0) {
                check_free(c);
                return r;
        }
        *ret = c;
        return 0;
}

struct polkit_check *polkit_drop(struct polkit_check *c) {
        sd_bus_message *m = NULL;
        char id[32];
        int r;

        if (!c)
                return NULL;
        format_id(c, id);
        if (*id && c->polkit->bus) {
                r = sd_bus_message_new_method_call(c->polkit->bus, &m, POLKIT_NAME, POLKIT_PATH, POLKIT_IFACE,
                                                   "CancelCheckAuthorization");
                if (r >= 0)
                        r = sd_bus_message_append(m, "s", id);
                if (r >= 0)
                        r = sd_bus_send(c->polkit->bus, m, NULL); /* expects no answer */
                if (r < 0)
                        log_debug("a question to polkit could not be called off: %s", strerror(-r));
                (void)sd_bus_message_unref(m);
        }
        check_free(c);
        return NULL;
}
