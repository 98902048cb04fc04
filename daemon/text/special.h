/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Finds the special tokens of a text. Longer ones first: the longest token takes its places from left to right, then
 * the next longest where there is still room, and so on; among equally long ones the lower id goes first. An
 * Aho-Corasick automaton finds all candidates in one pass over the text.
 *
 * Or leftmost: from left to right the longest token that begins at a place, whatever longer one begins within it. One that
 * would stand within a word and may not (single_word) hides what it covers all the same. White space that a token took
 * along may hold others, which are matches of their own: the next text goes on behind the last one's end. Their start is
 * never before the end of the one before.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct special_token {
        int32_t id;
        bool strip;       /* takes the white space behind it along */
        bool strip_left;  /* takes the white space before it along */
        bool ascii;       /* what is stripped is ASCII's white space, not Unicode's */
        bool single_word; /* not right before or behind a letter, mark, number, underscore or the like */
        const char *text;
        size_t n;
};

struct special_match {
        uint32_t start;
        uint32_t end; /* of the text; stripped white space included, as in start */
        int32_t id;
};

struct special;

/* Copies `tokens` (their texts are read here and not later); tokens without text are left out. *ret is NULL where none is
 * left. 0, -E2BIG or -ENOMEM. */
int special_new(struct special **ret, const struct special_token *tokens, size_t n, bool leftmost);
struct special *special_free(struct special *s);
/* Stores the matches in the order of the text; *ret_matches is NULL or to be freed. 0 or -ENOMEM. s may be NULL. */
int special_find(const struct special *s, const char *text, uint32_t n, struct special_match **ret_matches,
                 size_t *ret_n);
