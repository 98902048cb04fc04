/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Reads a verb's command line from a table. Options and other arguments may be mixed; "--" ends the options and "-" is
 * an argument. The global options (-S, --json, -h) are understood by every verb and need not be in its table.
 */

#include "ctl.h"

enum option_type {
        OPTION_FLAG,   /* bool */
        OPTION_STRING, /* const char * */
        OPTION_LIST,   /* struct string_list: may be given several times */
        OPTION_U32,    /* uint32_t */
        OPTION_U64,    /* uint64_t */
        OPTION_FLOAT,  /* float */
};

struct string_list {
        const char **items;
        size_t n;
};

struct option {
        const char *name;      /* without the dashes; NULL ends the table */
        char letter;           /* 0 = none */
        enum option_type type;
        void *value;
        uint32_t *set;         /* |= bit when the option is given; may be NULL */
        uint32_t bit;
        const char *argument;  /* for the help: "N" */
        const char *help;
};
#define OPTION_ALL(all) { "all", 0, OPTION_FLAG, all, NULL, 0, NULL, "of all users, where you may observe them" }
#define OPTION_END { NULL, 0, OPTION_FLAG, NULL, NULL, 0, NULL, NULL }

struct option_spec {
        const char *verb;
        const char *usage;     /* "[-m MODEL] PROMPT|-" */
        const char *text;      /* paragraphs for --help */
        const struct option *options;
        size_t min_arguments, max_arguments;
};

/* -1 = go on (*ret_arguments are the non-options, in argv's own memory), else the exit status: --help was printed, or
 * the command line is wrong (reported). argv[0] is the verb. */
int options_parse(struct ctl *ctl, const struct option_spec *spec, int argc, char **argv,
                  struct string_list *ret_arguments);
/* The same of a verb that takes options only. */
int options_parse_bare(struct ctl *ctl, const struct option_spec *spec, int argc, char **argv);
void string_list_deinit(struct string_list *list);

/* Reads the global options in front of the verb. -1 = go on (*ret_first is the verb's index), else the exit status. */
int options_parse_global(struct ctl *ctl, int argc, char **argv, int *ret_first);
/* The global options' lines of a help text. */
void options_print_global_help(void);

/* Whole decimal numbers only: no sign, no blanks. */
bool parse_u64(const char *text, uint64_t max, uint64_t *ret);
/* Bytes: a whole number, or one, with or without a fraction, followed by K, M, G or T, which are powers of 1024. More than
 * nothing, and no more than 2^50. */
bool parse_size(const char *text, uint64_t *ret);
