/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * From tokens to what is sent: detokenizer, stop strings, chunks of one token each.
 *
 * A token whose text leaves something held back (part of a character, the possible beginning of a stop string) waits
 * for the next one, so that there is always a token left to carry that text should the answer end here. Which text goes
 * with which token depends on the tokens alone, never on time or credit: a replay that pushes the same tokens gets the
 * same chunks, and knows from a chunk's index whether it was delivered before.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/text/tokenizer.h"
#include "sampler.h"
#include "stop.h"

#define OUTPUT_CHUNKS_MAX 2u /* that one call gives */

struct output_chunk {
        struct sampler_choice choice;
        uint32_t index; /* of the token in the output */
        const char *text; /* valid until the next call */
        size_t size;
};

struct output {
        struct detokenizer detokenizer;
        struct stop stop;
        struct sampler_choice pending; /* the last token, where it waits */
        bool has_pending;
        bool stopped; /* a stop string was found: the answer ends */
        uint32_t n;   /* tokens pushed */
        size_t n_text, n_taken; /* text that came out; of it, what the last call's chunks carry */
        char text[3 * (DETOKENIZER_PIECE_MAX + STOP_BYTES_MAX)];
};

int output_init(struct output *o, const struct tokenizer *t, bool raw, const struct stop_string *stop, size_t n_stop);
void output_deinit(struct output *o);
/* Takes the next token; `last`: nothing comes after it. Returns the number of chunks, or negative on an id that is no
 * token. */
int output_push(struct output *o, const struct sampler_choice *choice, bool last,
                struct output_chunk chunks[OUTPUT_CHUNKS_MAX]);
/* The answer ended behind the last token. Returns the number of chunks. */
int output_finish(struct output *o, struct output_chunk chunks[OUTPUT_CHUNKS_MAX]);
