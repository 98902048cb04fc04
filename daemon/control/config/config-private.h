/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the files of the configuration share: the table of keys (config.c), reading values by it (config-value.c), numbers that
 * have no room (config-numbers.c), users (config-users.c), power (config-power.c), which models are resident
 * (config-residency.c), printing (config-print.c).
 */

#include <libconfig.h>

#include "config.h"

enum key_type {
        KEY_STRING, /* any text without control characters */
        KEY_PATH,   /* made absolute */
        KEY_ENUM,   /* one of `words`, kept as the string */
        KEY_INDEX,  /* one of `words`, kept as its number + min */
        KEY_NUMBER,
        KEY_SIZE,   /* bytes: a number or a string such as "6G" */
        KEY_MODE,   /* octal in a string */
};

struct key {
        const char *group; /* NULL = top level */
        const char *name;
        enum key_type type;
        size_t offset; /* in struct config, or whatever the table is about */
        uint64_t min, max;
        uint64_t initial;
        const char *initial_text;
        const char *words; /* separated by one space */
};

#define CONFIG_YES_WORDS "no yes"
#define CONFIG_WHO_WORDS "none privileged all"
#define CONFIG_PRIORITY_WORDS "background normal interactive" /* the protocol's numbers, from 1 on */

/* Tables of keys: each is about groups of its own. */
extern const struct key config_keys[];
extern const size_t config_n_keys;
extern const struct key config_residency_keys[]; /* config-residency.c */
extern const size_t config_n_residency_keys;
extern const struct key config_power_keys[]; /* config-power.c */
extern const size_t config_n_power_keys;

/* The i-th key of all tables, one after the other; NULL behind the last one. */
const struct key *config_key(size_t i);

struct reader {
        struct config *config;
        const char *file;
        const char *text;    /* where there is no file */
        const char *checked; /* the file or text whose numbers were looked at last */
        char *folder;
        struct config_error *error;
};

/* Fills the reader's error and returns CONFIG_E_INVALID. */
int config_fault(struct reader *r, const config_setting_t *at, const char *fmt, ...) _printf_(3, 4);
int config_fault_at(struct reader *r, const char *file, unsigned line, const char *fmt, ...) _printf_(4, 5);
/* Takes over value (NULL: out of memory). 0 or -ENOMEM. */
int config_replace_string(char **p, char *value);
/* Checks a setting and stores it at `base` + the key's offset. 0, CONFIG_E_INVALID, or -ENOMEM. */
int config_set_key(struct reader *r, const struct key *k, const config_setting_t *s, void *base);
/* Whether the numbers of the file that s was read from are what is written there. 0, CONFIG_E_INVALID, or -errno. */
int config_check_numbers(struct reader *r, const config_setting_t *s);

/* 'resident' and 'idle_seconds' of a model; *ret as config_set_key(). False: it is neither. */
bool config_read_model_residency(struct reader *r, struct config_model *m, const config_setting_t *s, int *ret);
void config_print_model_residency(const struct config_model *m, FILE *out);
/* 'power', when all of it was read. 0 or CONFIG_E_INVALID. */
int config_check_power(struct reader *r, const config_setting_t *s);
/* 'users'. */
int config_read_users(struct reader *r, config_setting_t *s);
void config_users_deinit(struct config *config);
void config_print_users(const struct config *config, FILE *out);

/* A value of `base` as the file would have it; strings in quotes. */
void config_print_value(const void *base, const struct key *k, FILE *out);
