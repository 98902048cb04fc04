/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Sessions that are stored: one of five tokens, and how it becomes idle. */

#include "session-fixture.h"

static const uint32_t text[] = { 1, 10, 11, 12, 13, 14, 15, 16, 17, 18 };

static int set_up(void **state) {
        return fixture_set_up(state, "session_idle_seconds = 300;");
}

static int set_up_small_disk(void **state) {
        return fixture_set_up(state, "session_bytes_per_user = 900;");
}

/* A persistent session with five tokens. */
static void make(struct fixture *f, char id[SESSION_ID_TEXT + 1], struct heard *h) {
        create(f, f->a, 1, true, h);
        assert_int_equal(h->done, 1);
        memcpy(id, h->id, SESSION_ID_TEXT + 1);
        turn_of(f, f->a, id, text, 0, 3, text + 3, 2, h);
        assert_int_equal(h->n, 5);
}

/* So long has nobody used it. */
static void age(struct session *s, uint64_t seconds) {
        assert_true(s->used_us > 0);
        s->used_us -= seconds * 1000000u;
}

static void tick(struct fixture *f) {
        sessions_tick(f->t, manager_now_us());
        turn_once(f);
}
