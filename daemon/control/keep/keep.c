/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/words.h"
#include "event.h"
#include "inherited.h"
#include "keep-private.h"

#define STATE_PREFIX "sparkd-state."
#define CARRY_READ "sparkd-carry-r"
#define CARRY_WRITE_END "sparkd-carry-w"
#define REWRITE_RETRY_BYTES ((size_t)4 << 20) /* more of it, where that failed */

/* The ends of the pipe, the log, and another one while it is written anew. */
#define PLACES_MIN 4u

/* Whoever is killed at random dies while it takes over now and then: a row of those has to be longer than chance makes it. */
#define ATTEMPTS_MAX 8u /* ended while they took over, in a row */
#define UNREADY_MAX 30u /* ended before the service was ready, in a row */
#define BRIEF_MAX 1000u /* did not last, in a row */
#define UNREADY_FREE 10u /* of them are followed at once by the next one */
#define AGAIN_US 1000000u    /* what was given up is tried again at once, then after so long, then after twice as long ... */
#define AGAIN_SHIFT_MAX 10u
#define AGAIN_RESET_US (600ull * 1000000u) /* what went well for so long begins a new row */

#define REST_MS 100u
#define REST_MAX_MS 2000u

struct keep {
        struct inherited *in; /* until keep_taken() */
        keep_writer snapshot;
        void *userdata;
        struct keep_store store;
        struct keep_log log;  /* to be taken over, or ours */
        struct carry carry;
        uint64_t generation;
        bool on;              /* what is appended counts */
        bool over;            /* it did, and never will again */
        bool rewriting;
        int error;            /* of what was appended since it was last looked at */
        size_t rewrite_at;    /* bytes */
        bool lost;            /* given up for want of room; to be tried again: */
        bool again;           /* that is under way */
        uint64_t again_us, began_us; /* 0 = not known yet */
        unsigned failed;      /* in a row */
};

/* ---- the start ---- */

static bool is_state(const char *name) {
        return strncmp(name, STATE_PREFIX, strlen(STATE_PREFIX)) == 0;
}

static void state_name(uint64_t generation, char *out, size_t size) {
        (void)snprintf(out, size, STATE_PREFIX "%" PRIu64, generation);
}

/* What is there of the store's. 0 or -errno. */
static int note_names(struct keep *k) {
        const char *name;
        size_t pos = 0;
        int r = 0;

        while (r == 0 && (name = inherited_next(k->in, &pos)))
                if (!inherited_is_listener(k->in, pos))
                        r = keep_store_note(&k->store, name);
        return r;
}

/* What nobody took: whoever is at the other end of it sees an end. */
static size_t drop_left(struct keep *k) {
        size_t pos = 0, n = 0;
        const char *name;

        while ((name = inherited_next(k->in, &pos))) {
                if (inherited_is_listener(k->in, pos))
                        continue;
                n++;
                (void)shutdown(inherited_fd(k->in, pos), SHUT_RDWR);
                keep_store_remove(&k->store, name);
        }
        return n;
}

/* Opens the newest of the logs that are there. NULL, or why there is none. */
static const char *open_newest(struct keep *k) {
        const char *name, *why = NULL;
        size_t pos = 0;

        while ((name = inherited_next(k->in, &pos))) {
                struct keep_log log;
                int fd = inherited_fd(k->in, pos), r;

                if (!is_state(name))
                        continue;
                fd = inherited_take(k->in, name);
                r = keep_log_open(&log, fd);
                if (r) {
                        why = r == KEEP_LOG_E_FOREIGN   ? "it is of another version"
                              : r == KEEP_LOG_E_DAMAGED ? "it is damaged"
                                                        : strerror(-r);
                        (void)fd_close(fd);
                } else if (k->log.head && k->log.head->generation > log.head->generation) {
                        keep_log_close(&log);
                } else {
                        keep_log_close(&k->log);
                        k->log = log;
                }
        }
        return k->log.head ? NULL : why;
}

static void rest(unsigned unready) {
        unsigned shift = MIN(unready - UNREADY_FREE, 10u);
        unsigned ms = MIN(REST_MS << shift, REST_MAX_MS);
        struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 };

        log_notice("%u processes in a row ended before the service was ready: waiting for %u ms", unready, ms);
        (void)nanosleep(&ts, NULL);
}

/* NULL, or why it is not taken over. */
static const char *check_found(struct keep *k) {
        struct keep_head *head = k->log.head;
        int r, fds[2] = { inherited_take(k->in, CARRY_READ), inherited_take(k->in, CARRY_WRITE_END) };

        k->generation = head->generation;
        k->store.max = MAX(k->store.max, (size_t)head->places);
        r = fds[0] >= 0 && fds[1] >= 0 ? carry_init_fds(&k->carry, fds[0], fds[1]) : -ENOENT;
        if (r < 0) {
                (void)fd_close(fds[0]);
                (void)fd_close(fds[1]);
                return "the pipe that belongs to it is not there";
        }
        k->carry.op = &head->op;
        k->carry.committed = &head->committed;
        if (head->attempts >= ATTEMPTS_MAX)
                return "every process that began to take it over ended there";
        if (head->unready >= UNREADY_MAX)
                return "no process that took it over came to be ready";
        if (head->brief >= BRIEF_MAX)
                return "no process that took it over lasted for a minute";
        if (head->unready >= UNREADY_FREE)
                rest(head->unready);
        head->attempts++;
        head->unready++;
        head->brief++;
        r = keep_log_read(&k->log, NULL, NULL);
        return r > 0 ? "it is damaged" : r < 0 ? strerror(-r) : NULL;
}

static void close_found(struct keep *k) {
        keep_log_close(&k->log);
        carry_deinit(&k->carry);
}

static void start_cold(struct keep *k, const char *why) {
        event_log(EVENT_COLD_START, NULL, "what an earlier process left is not taken over: %s", why);
        close_found(k);
        (void)drop_left(k);
        keep_store_remove_all(&k->store);
}

int keep_new(struct keep **ret, struct inherited *in, keep_writer snapshot, void *userdata) {
        _cleanup_(keep_freep) struct keep *k = calloc(1, sizeof(*k));
        const char *why;
        int r;

        if (!k)
                return -ENOMEM;
        k->in = in;
        k->snapshot = snapshot;
        k->userdata = userdata;
        k->log = KEEP_LOG_NULL;
        k->carry = CARRY_NULL;
        keep_store_init(&k->store);
        r = note_names(k);
        if (r < 0)
                return r;
        why = open_newest(k);
        if (k->log.head)
                why = check_found(k);
        else if (!why && k->store.n)
                why = "there is no log of it";
        if (why)
                start_cold(k, why);
        *ret = steal_ptr(&k);
        return 0;
}

struct keep *keep_free(struct keep *k) {
        if (!k)
                return NULL;
        close_found(k);
        keep_store_deinit(&k->store);
        free(k);
        return NULL;
}

int keep_read(struct keep *k, keep_reader reader, void *userdata) {
        int r = k && k->log.head ? keep_log_read(&k->log, reader, userdata) : 0;

        return r > 0 ? -EBADMSG : r;
}

/* ---- writing it anew ---- */

/* Ends keeping: a later process finds nothing. */
static void forget(struct keep *k) {
        k->on = false;
        k->over = true;
        k->lost = false;
        keep_log_void(&k->log);
        keep_store_remove_all(&k->store);
}

static const char *failure(int r) {
        return r == KEEP_LOG_E_FULL ? "there is too much of it" :
               r == -EXFULL         ? "the service manager does not take it" :
                                      strerror(-r);
}

/* Until there is room again (keep_begin_again()). */
static void give_up(struct keep *k, int r) {
        if (!k->again)
                event_log(EVENT_KEEP_LOST, NULL, "nothing is kept over a restart any more: %s", failure(r));
        forget(k);
        k->lost = true;
        k->again_us = 0;
}

static int push_log(struct keep *k, const struct keep_log *log) {
        char name[64];

        state_name(log->head->generation, name, sizeof(name));
        return keep_store_push(&k->store, name, log->fd, 0) ? 0 : -EXFULL;
}

/* All but the one that counts. */
static void remove_old_logs(struct keep *k) {
        char name[64];

        state_name(k->generation, name, sizeof(name));
        for (size_t i = k->store.n; i > 0; i--)
                if (is_state(k->store.names[i - 1]) && strcmp(k->store.names[i - 1], name) != 0)
                        keep_store_remove(&k->store, k->store.names[i - 1]);
}

/* What was announced to be taken may still be under way; what was sent stands in the snapshot. */
static void hand_op_on(const struct keep_log *from, struct keep_log *to) {
        if (!from->head || (from->head->op.phase != CARRY_TAKE && from->head->op.phase != CARRY_DRAIN))
                return;
        to->head->op = from->head->op;
}

/* The new log is the one that counts as soon as the service manager has it; until then the old one is. 0, KEEP_LOG_E_FULL or
 * -errno. */
static int keep_rewrite(struct keep *k) {
        struct keep_log old = k->log, log = KEEP_LOG_NULL;
        int r = keep_log_new(&log, k->generation + 1);

        if (r < 0)
                return r;
        k->log = log;
        k->rewriting = true;
        k->error = 0;
        k->snapshot(k->userdata, k);
        k->rewriting = false;
        log = k->log;
        r = k->error;
        if (r == 0) {
                keep_log_commit(&log);
                hand_op_on(&old, &log);
                log.head->unready = old.head ? old.head->unready : 0;
                log.head->brief = old.head ? old.head->brief : 0;
                log.head->places = k->store.max;
                log.head->complete = 1;
                r = push_log(k, &log);
        }
        if (r) {
                k->log = old;
                k->error = 0;
                keep_log_close(&log);
                return r;
        }
        k->log = log;
        k->generation++;
        k->carry.op = &log.head->op;
        k->carry.committed = &log.head->committed;
        k->rewrite_at = keep_log_rewrite_at(log.end);
        remove_old_logs(k);
        keep_log_close(&old);
        return 0;
}

static int make_pipe(struct keep *k) {
        int r = k->carry.pipe[0] < 0 ? carry_init(&k->carry) : 0;

        if (r < 0)
                return r;
        if (!keep_store_push(&k->store, CARRY_READ, k->carry.pipe[0], 1) ||
            !keep_store_push(&k->store, CARRY_WRITE_END, k->carry.pipe[1], 1))
                return -EXFULL;
        return 0;
}

void keep_taken(struct keep *k) {
        bool found = k && k->log.head;
        char state[WORDS_BYTES];
        size_t left;
        int r = 0;

        if (!k)
                return;
        left = drop_left(k);
        k->in = NULL;
        if (left)
                log_info("%zu descriptor%s that an earlier process left: of no use, closed", left, words_s(left));
        if (k->store.max < PLACES_MIN) {
                forget(k);
                return;
        }
        if (k->carry.pipe[0] < 0)
                r = make_pipe(k);
        if (r == 0)
                r = keep_rewrite(k);
        if (r) {
                give_up(k, r);
                return;
        }
        k->on = true;
        if (found)
                event_log(EVENT_ADOPTED, NULL, "took over what an earlier process left: %zu descriptor%s, %s of state", k->store.n,
                          words_s(k->store.n), words_bytes(k->log.end, state));
}

void keep_ready(struct keep *k) {
        if (keep_is_on(k))
                k->log.head->unready = 0;
}

void keep_lasts(struct keep *k) {
        if (keep_is_on(k))
                k->log.head->brief = 0;
}

/* ---- while it runs ---- */

bool keep_is_on(const struct keep *k) {
        return k && k->on;
}

void keep_append(struct keep *k, const Spark__State__V1__Record *record) {
        int r;

        if (!k || (!k->on && !k->rewriting) || k->error)
                return;
        r = keep_log_append(&k->log, record);
        if (r && k->rewriting)
                k->error = r;
        else if (r)
                give_up(k, r);
}

void keep_commit(struct keep *k) {
        if (keep_is_on(k))
                keep_log_commit(&k->log);
}

void keep_turn(struct keep *k) {
        int r;

        if (!keep_is_on(k) || k->log.end < k->rewrite_at || k->carry.op->phase != CARRY_IDLE)
                return;
        keep_commit(k);
        r = keep_rewrite(k);
        if (!r)
                return;
        log_warning("what is kept over a restart could not be written anew: %s", failure(r));
        k->rewrite_at = k->log.end + REWRITE_RETRY_BYTES; /* the old log is as good, and longer */
}

/* ---- beginning again ---- */

bool keep_is_due(struct keep *k, uint64_t now_us) {
        if (!k || !k->lost || (k->carry.op && k->carry.op->phase != CARRY_IDLE))
                return false;
        if (!k->again_us) {
                if (k->began_us && now_us > k->began_us + AGAIN_RESET_US)
                        k->failed = 0;
                k->again_us = now_us + (k->failed ? AGAIN_US << MIN(k->failed - 1, AGAIN_SHIFT_MAX) : 0);
                k->failed++;
        }
        return now_us >= k->again_us;
}

/* True where it goes on. */
static bool end_again(struct keep *k, int r) {
        if (r == 0)
                return true;
        log_debug("nothing is kept over a restart still: %s", failure(r));
        give_up(k, r);
        k->again = false;
        return false;
}

bool keep_begin_again(struct keep *k, uint64_t now_us) {
        k->again = true;
        k->over = k->lost = false;
        k->began_us = now_us;
        return end_again(k, make_pipe(k));
}

void keep_end_again(struct keep *k) {
        char state[WORDS_BYTES];

        if (!end_again(k, keep_rewrite(k)))
                return;
        k->on = true;
        k->again = false;
        event_log(EVENT_KEEP_AGAIN, NULL, "what runs is kept over a restart again: %zu descriptor%s, %s of state", k->store.n,
                  words_s(k->store.n), words_bytes(k->log.end, state));
}

struct carry *keep_carry(struct keep *k) {
        return k && k->carry.op && !k->over ? &k->carry : NULL;
}

uint64_t keep_bytes(const struct keep *k) {
        return k ? k->log.size : 0;
}

bool keep_push_fd(struct keep *k, const char *name, int fd) {
        return k && k->store.max >= PLACES_MIN && !k->over && keep_store_push(&k->store, name, fd, 1);
}

void keep_remove_fd(struct keep *k, const char *name) {
        if (k)
                keep_store_remove(&k->store, name);
}

void keep_forget(struct keep *k) {
        if (k)
                forget(k);
}
