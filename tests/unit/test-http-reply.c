/* SPDX-License-Identifier: Apache-2.0 */

/* HTTP responses as the load tool reads them: however they are cut, and what is refused. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/macro.h"
#include "tests/bench/load-http-reply.h"

struct events {
        char text[4096]; /* joined with '|' */
        int answer;
};

static int on_event(void *userdata, const char *data, size_t n) {
        struct events *e = userdata;
        size_t len = strlen(e->text);

        (void)snprintf(e->text + len, sizeof(e->text) - len, "%.*s|", (int)n, data);
        return e->answer;
}

/* Feeds text in pieces of `step` bytes; the result of the last one. */
static int feed(struct http_reply *r, const char *text, size_t step) {
        size_t n = strlen(text);
        int e = 0;

        for (size_t i = 0; i < n && e == 0; i += step) {
                /* pieces of their own, so that a sanitizer sees a read beyond them */
                size_t part = MIN(step, n - i);
                char *piece = malloc(part);

                assert_non_null(piece);
                memcpy(piece, text + i, part);
                e = http_reply_feed(r, piece, part);
                free(piece);
        }
        return e;
}

static const char chunked[] = "HTTP/1.1 200 OK\r\nServer: x\r\nTransfer-Encoding: chunked\r\n"
                              "Content-Type: text/event-stream; charset=utf-8\r\n\r\n"
                              "b\r\ndata: one\n\n\r\n"
                              "6;ext=1\r\ndata: \r\n"
                              "C\r\ntwo\r\n: note\n\r\n"
                              "010\r\nevent: x\ndata:3\n\r\n"
                              "0\r\nTrailer: y\r\n\r\n";

static void test_chunked_events(void **state) {
        for (size_t step = 1; step < sizeof(chunked); step++) {
                struct events e = { 0 };
                struct http_reply r;

                http_reply_init(&r, on_event, &e);
                for (unsigned round = 0; round < 2; round++) {
                        e.text[0] = 0;
                        assert_int_equal(feed(&r, chunked, step), HTTP_E_DONE);
                        assert_string_equal(e.text, "one|two|3|");
                        assert_int_equal(r.status, 200);
                        assert_true(r.keep_alive && r.event_stream);
                        http_reply_reset(&r);
                }
                http_reply_deinit(&r);
        }
}

static void test_bodies(void **state) {
        static const struct {
                const char *text, *body;
                int status;
                bool keep_alive, eof;
        } cases[] = {
                { "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", 200, true, false },
                { "HTTP/1.1 503 No\r\ncontent-length:5\r\nconnection: Close\r\n\r\nhello", "hello", 503, false, false },
                { "HTTP/1.0 200 OK\nContent-Length: 2\n\nhi", "hi", 200, false, false },
                { "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", NULL, 200, true, false },
                { "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Gone\r\nContent-Length: 1\r\n\r\nx", "x", 404, true, false },
                { "HTTP/1.1 200 OK\r\n\r\nto the end", "to the end", 200, false, true },
                { "HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "abcde",
                  400, true, false },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
                for (size_t step = 1; step <= strlen(cases[i].text); step++) {
                        struct events e = { 0 };
                        struct http_reply r;

                        http_reply_init(&r, on_event, &e);
                        assert_int_equal(feed(&r, cases[i].text, step), cases[i].eof ? 0 : HTTP_E_DONE);
                        assert_int_equal(http_reply_eof(&r), HTTP_E_DONE);
                        assert_int_equal(r.status, cases[i].status);
                        assert_int_equal(r.keep_alive, cases[i].keep_alive);
                        if (cases[i].body)
                                assert_string_equal(r.body.data, cases[i].body);
                        assert_string_equal(e.text, "");
                        http_reply_deinit(&r);
                }
}

static void test_malformed(void **state) {
        static const char *const bad[] = {
                "HTTP/2 200 OK\r\n",
                "FTP/1.1 200 OK\r\n",
                "HTTP/1.1 2x0 OK\r\n",
                "HTTP/1.1 099 OK\r\n",
                "HTTP/1.1 2000 OK\r\n",
                "HTTP/1.1\r\n",
                "\r\n",
                "HTTP/1.1 200 OK\r\nno colon\r\n",
                "HTTP/1.1 200 OK\r\n: no name\r\n",
                "HTTP/1.1 200 OK\r\nContent-Length: x\r\n",
                "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n",
                "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n",
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        };

        for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
                for (size_t step = 1; step <= strlen(bad[i]); step++) {
                        struct events e = { 0 };
                        struct http_reply r;

                        http_reply_init(&r, on_event, &e);
                        if (feed(&r, bad[i], step) != HTTP_E_MALFORMED)
                                fail_msg("taken: %s", bad[i]);
                        http_reply_deinit(&r);
                }
}

/* An answer that stops early is no answer, wherever it stops. */
static void test_cut_off(void **state) {
        for (size_t n = 0; n + 1 < sizeof(chunked); n++) {
                struct events e = { 0 };
                struct http_reply r;

                http_reply_init(&r, on_event, &e);
                assert_int_equal(http_reply_feed(&r, chunked, n), 0);
                assert_int_equal(http_reply_eof(&r), HTTP_E_MALFORMED);
                http_reply_deinit(&r);
        }
}

static void test_limits(void **state) {
        static char block[HTTP_LINE_MAX + 2];
        struct events e = { 0 };
        struct http_reply r;
        int got = 0;

        memset(block, 'x', sizeof(block) - 1);
        http_reply_init(&r, on_event, &e);
        assert_int_equal(feed(&r, block, 1000), HTTP_E_MALFORMED); /* a line without an end */

        http_reply_reset(&r);
        assert_int_equal(feed(&r, "HTTP/1.1 200 OK\r\n", 100), 0);
        for (unsigned i = 0; i < 100000 && got == 0; i++) /* headers without an end */
                got = feed(&r, "A: b\r\n", 100);
        assert_int_equal(got, HTTP_E_MALFORMED);

        http_reply_reset(&r);
        assert_int_equal(feed(&r, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: ", 100), 0);
        for (size_t i = 0; i < HTTP_BODY_MAX / HTTP_LINE_MAX + 2 && got == HTTP_E_MALFORMED; i++) {
                int one = http_reply_feed(&r, block, HTTP_LINE_MAX);

                if (one != 0) {
                        assert_int_equal(one, HTTP_E_MALFORMED); /* an event without an end */
                        got = 0;
                }
        }
        assert_int_equal(got, 0);
        http_reply_deinit(&r);
}

/* What the receiver of events says ends it, and comes through. */
static void test_stop(void **state) {
        struct events e = { .answer = 77 };
        struct http_reply r;

        http_reply_init(&r, on_event, &e);
        assert_int_equal(feed(&r, chunked, sizeof(chunked)), 77);
        assert_string_equal(e.text, "one|");
        http_reply_deinit(&r);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_chunked_events), cmocka_unit_test(test_bodies), cmocka_unit_test(test_malformed),
                cmocka_unit_test(test_cut_off),        cmocka_unit_test(test_limits), cmocka_unit_test(test_stop),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
