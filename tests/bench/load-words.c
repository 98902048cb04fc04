/* SPDX-License-Identifier: Apache-2.0 */

#include <string.h>

#include "load-words.h"

const char load_words_first[] = "Once";

const char *const load_words_all[LOAD_WORDS] = {
        "the",  "a",    "and",   "of",    "to",   "in",    "is",   "it",    "was",  "he",    "she",   "they",
        "on",   "at",   "with",  "for",   "had",  "not",   "but",  "his",   "her",  "all",   "one",   "two",
        "big",  "red",  "blue",  "old",   "new",  "good",  "sun",  "day",   "night", "tree", "house", "river",
        "dog",  "cat",  "bird",  "fish",  "bear", "mouse", "boy",  "girl",  "man",  "king",  "queen", "friend",
        "went", "saw",  "said",  "found", "made", "came",  "ran",  "asked", "told", "gave",  "took",  "liked",
        "home", "door", "road",  "hill",  "sea",  "boat",  "stone", "apple", "bread", "water", "fire", "snow",
        "time", "year", "name",  "word",  "song", "book",  "hand", "head",  "eye",  "heart", "light", "dark",
        "up",   "down", "under", "over",  "near", "far",   "then", "again", "soon", "never", "very",  "little",
};

bool load_words_init(struct load_words *w, uint32_t first, const uint32_t with[LOAD_WORDS]) {
        w->first = first;
        for (size_t i = 0; i < LOAD_WORDS; i++) {
                if (with[i] <= first)
                        return false;
                w->cost[i] = with[i] - first;
        }
        return first > 0;
}

/* A word of at most `left` tokens: drawn, or where that fails a few times the first that fits. */
static size_t choose(const struct load_words *w, struct load_random *random, uint32_t left) {
        for (unsigned tries = 0; tries < 8; tries++) {
                size_t i = load_random_below(random, LOAD_WORDS);

                if (w->cost[i] <= left)
                        return i;
        }
        for (size_t i = 0; i < LOAD_WORDS; i++)
                if (w->cost[i] <= left)
                        return i;
        return LOAD_WORDS;
}

uint32_t load_words_append(const struct load_words *w, struct buf *text, struct load_random *random, uint32_t tokens,
                           int *ret_error) {
        uint32_t done = 0;
        int r = 0;

        while (done < tokens && r == 0) {
                size_t i = choose(w, random, tokens - done);

                if (i == LOAD_WORDS)
                        break;
                r = buf_append(text, " ", 1);
                if (r == 0)
                        r = buf_append_str(text, load_words_all[i]);
                done += w->cost[i];
        }
        if (r != 0 && ret_error)
                *ret_error = r;
        return done;
}

int load_words_prompt(const struct load_words *w, struct buf *text, struct load_random common, struct load_random *own,
                      uint32_t shared, uint32_t tokens) {
        uint32_t done = w->first;
        int r;

        buf_clear(text);
        r = buf_append_str(text, load_words_first);
        if (r == 0 && shared > done)
                done += load_words_append(w, text, &common, shared - done, &r);
        if (r == 0 && tokens > done)
                (void)load_words_append(w, text, own, tokens - done, &r);
        return r;
}
