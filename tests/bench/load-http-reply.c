/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "base/macro.h"
#include "load-http-reply.h"

void http_reply_init(struct http_reply *r, int (*on_event)(void *userdata, const char *data, size_t n), void *userdata) {
        *r = (struct http_reply){ .on_event = on_event, .userdata = userdata };
        r->line = BUF_NULL(HTTP_BODY_MAX);
        r->body = BUF_NULL(HTTP_BODY_MAX);
}

void http_reply_reset(struct http_reply *r) {
        struct buf line = r->line, body = r->body;

        buf_clear(&line);
        buf_clear(&body);
        *r = (struct http_reply){ .line = line, .body = body, .on_event = r->on_event, .userdata = r->userdata };
}

void http_reply_deinit(struct http_reply *r) {
        buf_deinit(&r->line);
        buf_deinit(&r->body);
}

/* Collects a line of at most `max` bytes and advances *data. 1: complete in r->line, without its end; 0: not yet; -E2BIG
 * or -ENOMEM. */
static int take_line(struct http_reply *r, const char **data, const char *end, size_t max) {
        const char *newline = memchr(*data, '\n', (size_t)(end - *data));
        size_t n = (size_t)((newline ? newline : end) - *data);

        if (n > max || r->line.len > max - n)
                return -E2BIG;
        if (buf_append(&r->line, *data, n) != 0)
                return -ENOMEM;
        *data += n;
        if (!newline)
                return 0;
        (*data)++;
        if (r->line.len > 0 && r->line.data[r->line.len - 1] == '\r')
                r->line.data[--r->line.len] = 0;
        return 1;
}

/* ---- the head ---- */

static int take_status(struct http_reply *r) {
        const char *s = r->line.data;
        int status = 0;

        if (r->line.len < 12 || strncmp(s, "HTTP/1.", 7) != 0 || (s[7] != '0' && s[7] != '1') || s[8] != ' ')
                return HTTP_E_MALFORMED;
        for (unsigned i = 9; i < 12; i++) {
                if (s[i] < '0' || s[i] > '9')
                        return HTTP_E_MALFORMED;
                status = status * 10 + (s[i] - '0');
        }
        if (status < 100 || status > 599 || (s[12] != 0 && s[12] != ' '))
                return HTTP_E_MALFORMED;
        r->status = status;
        r->keep_alive = s[7] == '1';
        r->state = HTTP_HEADERS;
        return 0;
}

static bool parse_number(const char *s, unsigned base, uint64_t *ret) {
        uint64_t v = 0;
        size_t n = 0;

        for (;; s++, n++) {
                int c = *s | 0x20, digit = -1;

                if (*s >= '0' && *s <= '9')
                        digit = *s - '0';
                else if (base == 16 && c >= 'a' && c <= 'f')
                        digit = c - 'a' + 10;
                if (digit < 0)
                        break;
                if (v > UINT64_MAX / 32)
                        return false;
                v = v * base + (uint64_t)digit;
        }
        *ret = v;
        /* chunk sizes may have extensions behind them */
        return n > 0 && (*s == 0 || (base == 16 && (*s == ';' || *s == ' ')));
}

static int take_header(struct http_reply *r) {
        char *name = r->line.data, *value = memchr(name, ':', r->line.len);

        if (!value || value == name || memchr(name, 0, r->line.len))
                return HTTP_E_MALFORMED;
        *value++ = 0;
        value += strspn(value, " \t");
        if (strcasecmp(name, "content-length") == 0) {
                if (r->has_length || !parse_number(value, 10, &r->left))
                        return HTTP_E_MALFORMED;
                r->has_length = true;
        } else if (strcasecmp(name, "transfer-encoding") == 0) {
                if (strcasecmp(value, "chunked") != 0)
                        return HTTP_E_MALFORMED;
                r->chunked = true;
        } else if (strcasecmp(name, "content-type") == 0) {
                r->event_stream = strncasecmp(value, "text/event-stream", 17) == 0;
        } else if (strcasecmp(name, "connection") == 0) {
                r->keep_alive = strcasecmp(value, "close") != 0;
        }
        return 0;
}

static int end_head(struct http_reply *r) {
        if (r->status < 200) { /* an interim response: the real one follows */
                r->chunked = r->has_length = r->event_stream = false;
                r->state = HTTP_STATUS;
                return 0;
        }
        if (r->chunked && r->has_length)
                return HTTP_E_MALFORMED;
        if (!r->chunked && !r->has_length) {
                r->keep_alive = false;
                r->left = UINT64_MAX;
        }
        r->state = r->chunked ? HTTP_CHUNK_SIZE : HTTP_BODY;
        if (r->has_length && r->left == 0)
                r->state = HTTP_ENDED;
        return 0;
}

/* A line of the head or between chunks is complete. */
static int take_head_line(struct http_reply *r) {
        switch (r->state) {
        case HTTP_STATUS:
                return take_status(r);
        case HTTP_HEADERS:
                return r->line.len == 0 ? end_head(r) : take_header(r);
        case HTTP_CHUNK_SIZE:
                if (!parse_number(r->line.data ? r->line.data : "", 16, &r->left))
                        return HTTP_E_MALFORMED;
                r->state = r->left > 0 ? HTTP_CHUNK : HTTP_TRAILERS;
                return 0;
        case HTTP_CHUNK_END:
                r->state = HTTP_CHUNK_SIZE;
                return r->line.len == 0 ? 0 : HTTP_E_MALFORMED;
        case HTTP_TRAILERS:
                if (r->line.len == 0)
                        r->state = HTTP_ENDED;
                return 0;
        default:
                return HTTP_E_MALFORMED;
        }
}

/* ---- the body ---- */

/* Lines of an event stream collect in `body`, since `line` is the head's and the chunks'. */
static int take_events(struct http_reply *r, const char *data, size_t n) {
        const char *end = data + n;

        while (data < end) {
                const char *newline = memchr(data, '\n', (size_t)(end - data));
                size_t part = (size_t)((newline ? newline : end) - data);
                int e = buf_append(&r->body, data, part);

                if (e != 0)
                        return e < 0 ? e : HTTP_E_MALFORMED;
                data += part;
                if (!newline)
                        break;
                data++;
                if (r->body.len > 0 && r->body.data[r->body.len - 1] == '\r')
                        r->body.data[--r->body.len] = 0;
                if (r->body.len >= 5 && memcmp(r->body.data, "data:", 5) == 0) {
                        size_t skip = r->body.len > 5 && r->body.data[5] == ' ' ? 6 : 5;

                        e = r->on_event(r->userdata, r->body.data + skip, r->body.len - skip);
                }
                buf_clear(&r->body);
                if (e != 0)
                        return e;
        }
        return 0;
}

static int take_body(struct http_reply *r, const char **data, const char *end) {
        size_t n = (size_t)MIN((uint64_t)(end - *data), r->left);
        int e;

        if (r->event_stream) {
                e = take_events(r, *data, n);
        } else {
                e = buf_append(&r->body, *data, n);
                if (e == BUF_E_LIMIT)
                        e = HTTP_E_MALFORMED;
        }
        *data += n;
        if (r->left != UINT64_MAX)
                r->left -= n;
        if (r->left == 0)
                r->state = r->chunked ? HTTP_CHUNK_END : HTTP_ENDED;
        return e;
}

int http_reply_feed(struct http_reply *r, const char *data, size_t n) {
        const char *end = data + n;
        int e = 0;

        while (data < end && e == 0 && r->state != HTTP_ENDED) {
                const char *before = data;

                if (r->state == HTTP_BODY || r->state == HTTP_CHUNK) {
                        e = take_body(r, &data, end);
                        continue;
                }
                e = take_line(r, &data, end, HTTP_LINE_MAX);
                r->header_bytes = r->state == HTTP_CHUNK_SIZE ? 0 : r->header_bytes + (size_t)(data - before);
                if (e == 1) {
                        e = take_head_line(r);
                        buf_clear(&r->line);
                } else if (e == -E2BIG) {
                        e = HTTP_E_MALFORMED;
                }
                if (e == 0 && r->header_bytes > HTTP_HEADERS_MAX)
                        e = HTTP_E_MALFORMED;
        }
        return e != 0 ? e : r->state == HTTP_ENDED ? HTTP_E_DONE : 0;
}

int http_reply_eof(struct http_reply *r) {
        if (r->state == HTTP_BODY && !r->has_length)
                r->state = HTTP_ENDED;
        return r->state == HTTP_ENDED ? HTTP_E_DONE : HTTP_E_MALFORMED;
}
