/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Pre-tokenizers: how byte-level BPE cuts text into words before it merges anything. A pre-tokenizer is a description:
 * stages, each of which cuts further what the stage before it made. A stage tries its rules in turn at a position;
 * where none matches, everything up to the next match is a word of its own. A rule is a few parts in a row.
 *
 * The descriptions stand for the regular expressions that the models were trained with. They need no backtracking
 * but a prefix given up, so that cutting takes time linear in the text's length. Bytes that are no UTF-8 count as
 * U+FFFD, one each.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct char_range {
        uint32_t first;
        uint32_t last;
};

/* Characters of any class of `any` or in a range of `in` (of every kind where both are empty), except those of a class
 * of `none` or in a range of `out`. Ranges ascend. */
struct char_set {
        uint8_t any;
        uint8_t none;
        const struct char_range *in;
        const struct char_range *out;
        size_t n_in;
        size_t n_out;
};

enum pretoken_part_kind {
        PRETOKEN_END,              /* no further parts */
        PRETOKEN_SET,              /* min to max characters of `set`, as many as there are */
        PRETOKEN_CONTRACTION,      /* 's 't 're 've 'm 'll 'd; nothing at all where min is 0 */
        PRETOKEN_CONTRACTION_FOLD, /* the same, in either case */
        PRETOKEN_CONTRACTION_WIDE, /* the same, and the long s (U+017F) is an s as in Unicode's case folding */
        PRETOKEN_SPACES_BUT_LAST,  /* \s+(?!\S): white space, but for the character before a word */
        PRETOKEN_SPACES_TO_BREAK,  /* \s*[\r\n]+: white space up to its last line break */
        PRETOKEN_CASED,            /* set* then also+, as a backtracking matcher has it */
        PRETOKEN_THOUSANDS,        /* one to three numbers, so that the rest of their run is threes */
        PRETOKEN_PHRASE,           /* set also*, again and again, with at most one blank between */
};

struct pretoken_part {
        enum pretoken_part_kind kind;
        size_t min;
        size_t max;
        const struct char_set *set;
        const struct char_set *also;
};

#define PRETOKEN_PARTS_MAX 5

struct pretoken_rule {
        struct pretoken_part parts[PRETOKEN_PARTS_MAX];
};

struct pretoken_stage {
        const struct pretoken_rule *rules; /* NULL: cuts the white space off the end (\s+$) */
        size_t n_rules;
};

#define PRETOKENIZER_STAGES_MAX 6

struct pretokenizer {
        const struct pretoken_stage *stages;
        size_t n_stages;
};

enum {
        PRETOKENIZER_WHOLE_WORDS = 1u << 0, /* a word that is a token is that token, whatever the merges would make of it */
        PRETOKENIZER_BOS = 1u << 1,         /* BOS is added where the model does not say */
        PRETOKENIZER_CLEANS = 1u << 2,      /* the reference's whole-text detokenizer tidies spaces */
        PRETOKENIZER_RAW = 1u << 3,         /* merges characters, not bytes; spaces are U+2581, bytes fall back to <0xNN> */
        PRETOKENIZER_LINES = 1u << 4,       /* line breaks in a row that are a token are that token */
};

/* A name that models give (tokenizer.ggml.pre), what it stands for and the habits that go with it. */
struct pretokenizer_entry {
        const char *name;
        const struct pretokenizer *pretokenizer;
        unsigned habits;
};

/* NULL where the name is not known; "" is "default". */
const struct pretokenizer_entry *pretokenizer_find(const char *name);

/* Which rules of each stage may match where a byte stands (bit i: rule i), so that most places are passed at a glance.
 * Bytes that no character begins with count as U+FFFD. */
#define PRETOKEN_RULES_MAX 8u

struct pretokenizer_index {
        uint8_t rules[PRETOKENIZER_STAGES_MAX][256];
};

void pretokenizer_index_init(struct pretokenizer_index *index, const struct pretokenizer *pretokenizer);

/* A walk over the words of a text. */
struct pretokenize {
        const struct pretokenizer_index *index;
        const struct pretokenizer *pretokenizer;
        const char *text;
        struct {
                size_t pos;
                size_t end;
        } region[PRETOKENIZER_STAGES_MAX];
};

void pretokenize_begin(struct pretokenize *p, const struct pretokenizer *pretokenizer,
                       const struct pretokenizer_index *index, const char *text, size_t n);
/* Stores the next word, [*ret_start, *ret_end); words follow each other without a gap. False at the end. */
bool pretokenize_next(struct pretokenize *p, size_t *ret_start, size_t *ret_end);
