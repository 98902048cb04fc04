/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/utf8.h"
#include "ctl.h"
#include "json.h"

#define PROGRESS_INTERVAL_MS 100

/* What a code of the service means for the exit status and for the person at the keyboard. */
static const struct {
        int code;
        int status;
        const char *hint;
} codes[] = {
        { SPARK_INVALID_ARGUMENT, EXIT_USAGE, "See the verb's --help for what it takes." },
        { SPARK_INVALID_UTF8, EXIT_BAD_DATA, "Convert the text to UTF-8, or use --raw for arbitrary bytes." },
        { SPARK_CONTEXT_OVERFLOW, EXIT_BAD_DATA, "Shorten the input, or use a model with a longer context." },
        { SPARK_MODEL_NOT_FOUND, EXIT_OTHER,
          "`sparkctl models` lists what there is; `sparkctl load FILE` loads a file." },
        { SPARK_MODEL_INVALID, EXIT_BAD_DATA, "Use another model file, or another verb for this one." },
        { SPARK_BUSY, EXIT_BUSY, "`sparkctl status` shows what is going on." }, /* when to try again: hint_when() */
        { SPARK_QUOTA_EXCEEDED, EXIT_BUSY, "`sparkctl ps` and `sparkctl usage` show what you use." },
        { SPARK_PERMISSION_DENIED, EXIT_NOT_PERMITTED, "Ask the administrator, or run it as root (sudo)." },
        { SPARK_NO_MEMORY, EXIT_OTHER,
          "Free memory: `sparkctl unload` a model, close applications, or load a smaller one." },
        { SPARK_CANCELLED, EXIT_INTERRUPTED, NULL },
        { SPARK_SLOW_READER, EXIT_OTHER, "Read the output faster, or write it to a file." },
        { SPARK_DEFERRED_ON_BATTERY, EXIT_BUSY, "Plug in the power supply, or try again later." },
        { SPARK_ENGINE_LOST, EXIT_OTHER, "The service's log says why: journalctl -u sparkd" },
        { SPARK_STOPPING, EXIT_BUSY, "The service is shutting down: try again when it is back." },
        { SPARK_UNIMPLEMENTED, EXIT_OTHER,
          "The service is older than sparkctl, or runs without this: see its log, journalctl -u sparkd" },
        { SPARK_INTERNAL, EXIT_OTHER, "The service's log says more: journalctl -u sparkd" },
        { SPARK_DISCONNECTED, EXIT_NO_DAEMON,
          "See whether it is back: sparkctl status; its log: journalctl -u sparkd" },
        { SPARK_PROTOCOL, EXIT_OTHER, "sparkctl and the service do not fit together: see `sparkctl doctor`." },
};

static void report_json(const struct call *call, const char *code, const char *message, const char *hint) {
        _cleanup_json_ struct json j = JSON_NULL;

        json_open(&j, NULL, '{');
        if (call && call->more_json)
                call->more_json(&j, call);
        json_open(&j, "error", '{');
        json_string(&j, "code", code);
        json_string(&j, "message", message);
        if (hint)
                json_string(&j, "hint", hint);
        if (call && call->retry_after_ms)
                json_u64(&j, "retry_after_ms", call->retry_after_ms);
        if (call && (call->have || call->max)) {
                json_u64(&j, "have", call->have);
                json_u64(&j, "max", call->max);
        }
        json_close(&j, '}');
        json_close(&j, '}');
        (void)json_print(&j);
}

static void report(const struct ctl *ctl, const struct call *call, const char *code, const char *message,
                   const char *hint) {
        char safe[1024];

        if (ctl->json) {
                report_json(call, code, message, hint);
                return;
        }
        (void)fflush(stdout);
        (void)fprintf(stderr, "sparkctl: %s\n", format_safe(message, safe, sizeof(safe)));
        if (hint)
                (void)fprintf(stderr, "          %s\n", hint);
}

int ctl_fail(const struct ctl *ctl, int status, const char *code, const char *hint, const char *fmt, ...) {
        char message[512];
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(message, sizeof(message), fmt, ap);
        va_end(ap);
        report(ctl, NULL, code, message, hint);
        return status;
}

/* When it makes sense to try again, where the service says so. */
static const char *hint_when(const struct call *call, char *out, size_t size) {
        char duration[32];

        if (call->retry_after_ms == 0)
                return NULL;
        if (call->code == SPARK_BUSY) {
                (void)snprintf(out, size, "Try again in %.1f s; `sparkctl status` shows what is going on.",
                               (double)call->retry_after_ms / 1000);
                return out;
        }
        if (call->code == SPARK_QUOTA_EXCEEDED) {
                (void)snprintf(out, size, "Try again in %s; `sparkctl usage` shows what you have used.",
                               format_duration((double)call->retry_after_ms / 1000, duration));
                return out;
        }
        return NULL;
}

/* An argument that names something which is not there: where what is there is listed. */
static const char *hint_list(const struct call *call) {
        static const struct {
                const char *field, *hint;
        } lists[] = {
                { "session: there is no ", "`sparkctl session list` lists yours." },
                { "job: there is no ", "`sparkctl jobs` lists what is under way." },
                { "The store has no ", "`sparkctl models` lists what there is; `sparkctl models import FILE` takes a model into the store." },
        };

        for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
                if (strncmp(call->message, lists[i].field, strlen(lists[i].field)) == 0)
                        return lists[i].hint;
        return NULL;
}

int ctl_fail_call(const struct ctl *ctl, const struct call *call) {
        char text[160];
        const char *hint = hint_when(call, text, sizeof(text));

        if (!hint && call->code == SPARK_MODEL_NOT_FOUND)
                hint = call->hint_not_found;
        if (!hint)
                hint = hint_list(call);
        for (size_t i = 0; i < ARRAY_SIZE(codes); i++) {
                if (codes[i].code != call->code)
                        continue;
                report(ctl, call, spark_code_name(call->code), call->message,
                       hint ? hint : strstr(call->message, "(sudo)") ? NULL /* it was said */ : codes[i].hint);
                return codes[i].status;
        }
        report(ctl, call, spark_code_name(call->code), call->message, NULL);
        return EXIT_OTHER;
}

int ctl_fail_usage(const struct ctl *ctl, const char *verb, const char *fmt, ...) {
        char message[512], hint[64];
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(message, sizeof(message), fmt, ap);
        va_end(ap);
        (void)snprintf(hint, sizeof(hint), "Try: sparkctl %s%s--help", verb ? verb : "", verb ? " " : "");
        report(ctl, NULL, "USAGE", message, hint);
        return EXIT_USAGE;
}

int ctl_finish(const struct ctl *ctl, int status) {
        if (fflush(stdout) == 0 && !ferror(stdout))
                return status;
        (void)fprintf(stderr, "sparkctl: Standard output can't be written: %s.\n", strerror(errno));
        return status ? status : EXIT_OTHER;
}

void ctl_progress(struct ctl *ctl, const char *fmt, ...) {
        int64_t now = clock_now_ms();
        va_list ap;

        if (!ctl->tty_err || ctl->dumb || (ctl->progress_shown && now - ctl->progress_ms < PROGRESS_INTERVAL_MS))
                return;
        (void)fprintf(stderr, "\r\033[K");
        va_start(ap, fmt);
        (void)vfprintf(stderr, fmt, ap);
        va_end(ap);
        (void)fflush(stderr);
        ctl->progress_shown = true;
        ctl->progress_ms = now;
}

void ctl_progress_clear(struct ctl *ctl) {
        if (ctl->progress_shown)
                (void)fprintf(stderr, "\r\033[K");
        ctl->progress_shown = false;
}

const char *format_duration(double seconds, char out[32]) {
        unsigned long s = seconds > 0 && seconds < 1e9 ? (unsigned long)seconds : 0;

        if (s >= 86400)
                (void)snprintf(out, 32, "%lu d %lu h", s / 86400, s / 3600 % 24);
        else if (s >= 3600)
                (void)snprintf(out, 32, "%lu h %lu min", s / 3600, s / 60 % 60);
        else if (s >= 60)
                (void)snprintf(out, 32, "%lu min %lu s", s / 60, s % 60);
        else
                (void)snprintf(out, 32, "%.1f s", seconds > 0 ? seconds : 0);
        return out;
}

/* Those with two bytes (U+0080 to U+009F) are control characters for some terminals as much as those with one. */
static bool is_control(const unsigned char *p) {
        return *p < 0x20 || *p == 0x7f || (p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0);
}

const char *format_safe(const char *text, char *out, size_t size) {
        (void)snprintf(out, size, "%s", text);
        utf8_mend(out); /* it may have been cut within a character, or be none */
        for (char *p = out; *p; p++) {
                if (!is_control((const unsigned char *)p))
                        continue;
                if ((unsigned char)*p == 0xc2)
                        *p++ = '?';
                *p = '?';
        }
        return out;
}
