/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A group of clients that behave alike, as a command line describes it: `NAME:KEY=VALUE,...`. Pure: no I/O, no
 * state. docs/load-testing.md explains the keys to people; load_group_help() prints them.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "load-random.h"

#define LOAD_GROUPS_MAX 64u
#define LOAD_GROUP_NAME_MAX 32u /* bytes, with the NUL */

enum load_mode {
        LOAD_CLOSED, /* a client asks again when it has its answer and has thought */
        LOAD_OPEN,   /* requests arrive by the clock, whatever the answers do */
};

struct load_group {
        char name[LOAD_GROUP_NAME_MAX]; /* letters, digits, "._-" */
        uint32_t mode;                  /* enum load_mode */
        uint32_t clients;               /* each with a connection of its own */
        uint32_t requests;              /* of each client; 0 = as long as the other groups run */
        uint32_t depth;                 /* closed: requests that a client has under way at once */
        struct load_range prompt;       /* tokens; 0 = the text of the command line */
        uint32_t shared;                /* the prompt's first so many tokens are the same throughout the group */
        uint32_t text;                  /* which text that is; 0 = the group's own */
        struct load_range tokens;       /* of an answer */
        uint32_t turns;                 /* requests of a conversation; each repeats all before it */
        struct load_range think_ms;     /* closed: between an answer and the next request */
        uint32_t delay_ms;              /* before the first request */
        double rate;                    /* open: requests per second of the whole group */
        uint32_t burst;                 /* open: requests that arrive together */
        uint32_t read;                  /* tokens per second that a client takes; 0 = all at once */
        uint32_t window;                /* tokens that may be under way unread; 0 = the library's default */
        uint32_t cancel;                /* percent of the requests that are cancelled */
        uint32_t cancel_after;          /* ... after 0 to so many tokens; 0 tokens = before the first one */
        uint32_t priority;              /* 0 = unspecified, 1 background, 2 normal, 3 interactive */
        bool has_uid;
        struct load_range uid;          /* the connections are made by these users in turn */
};

/* 8 clients, 4 requests each, the text of the command line, 64 tokens. */
#define LOAD_GROUP_DEFAULT                                                                                       \
        ((struct load_group){ .name = "all", .clients = 8, .requests = 4, .depth = 1, .tokens = { 64, 64 },      \
                              .turns = 1, .burst = 1, .cancel_after = 64 })

/* Lays a mix's behaviour ("chat", "long", "burst", "slow" or "cancel") over a group; clients and requests stay. False
 * when there is none of that name. */
bool load_group_set_mix(struct load_group *g, const char *mix);
/* Sets one key; false with a sentence in `error` that names it. */
bool load_group_set(struct load_group *g, const char *key, const char *value, char *error, size_t error_size);
/* Reads `NAME:KEY=VALUE,...` (NAME alone is fine) over what *g holds, and checks it. The same, and nothing of *g changes
 * on failure. */
bool load_group_parse(struct load_group *g, const char *text, char *error, size_t error_size);
/* Whether the values fit together. */
bool load_group_check(const struct load_group *g, char *error, size_t error_size);
/* Fills the groups of "mixed": every behaviour side by side, with base's clients shared out among them (each gets at
 * least one). Returns their number; `ret` has room for LOAD_GROUPS_MAX. */
size_t load_group_mixed(struct load_group *ret, const struct load_group *base);
void load_group_help(FILE *f);
