/* SPDX-License-Identifier: Apache-2.0 */

#include <string.h>

#include "output.h"

int output_init(struct output *o, const struct tokenizer *t, bool raw, const struct stop_string *stop, size_t n_stop) {
        memset(o, 0, sizeof(*o));
        detokenizer_init(&o->detokenizer, t, false, raw);
        o->detokenizer.at_start = false; /* what is generated continues the prompt: a first space belongs to it */
        return stop_init(&o->stop, stop, n_stop);
}

void output_deinit(struct output *o) {
        stop_deinit(&o->stop);
}

static void drop_taken(struct output *o) {
        o->n_text -= o->n_taken;
        memmove(o->text, o->text + o->n_taken, o->n_text);
        o->n_taken = 0;
}

/* A chunk with all text that came out and is in no chunk yet. */
static void take_chunk(struct output *o, const struct sampler_choice *choice, uint32_t index,
                       struct output_chunk *ret) {
        *ret = (struct output_chunk){
                .choice = *choice,
                .index = index,
                .text = o->text + o->n_taken,
                .size = o->n_text - o->n_taken,
        };
        o->n_taken = o->n_text;
}

static void flush_held(struct output *o) {
        char piece[DETOKENIZER_PIECE_MAX];
        int n = detokenizer_finish(&o->detokenizer, piece);

        if (n > 0)
                o->n_text += stop_push(&o->stop, piece, (size_t)n, o->text + o->n_text);
        if (!o->stop.matched)
                o->n_text += stop_finish(&o->stop, o->text + o->n_text);
        o->stopped = o->stop.matched;
}

int output_push(struct output *o, const struct sampler_choice *choice, bool last,
                struct output_chunk chunks[OUTPUT_CHUNKS_MAX]) {
        char piece[DETOKENIZER_PIECE_MAX];
        int n_piece, n = 0;

        drop_taken(o);
        n_piece = detokenizer_push(&o->detokenizer, choice->token, piece);
        if (n_piece < 0)
                return n_piece;
        o->n_text += stop_push(&o->stop, piece, (size_t)n_piece, o->text + o->n_text);
        o->stopped = o->stop.matched;
        if (o->has_pending)
                take_chunk(o, &o->pending, o->n - 1, &chunks[n++]);
        o->has_pending = false;
        if (last && !o->stopped)
                flush_held(o);
        if (!last && !o->stopped && (o->stop.n_held > 0 || o->detokenizer.n_held > 0)) {
                o->pending = *choice;
                o->has_pending = true;
        } else {
                take_chunk(o, choice, o->n, &chunks[n++]);
        }
        o->n++;
        return n;
}

int output_finish(struct output *o, struct output_chunk chunks[OUTPUT_CHUNKS_MAX]) {
        drop_taken(o);
        if (!o->has_pending)
                return 0;
        flush_held(o);
        take_chunk(o, &o->pending, o->n - 1, &chunks[0]);
        o->has_pending = false;
        return 1;
}
