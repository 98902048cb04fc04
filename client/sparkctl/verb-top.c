/* SPDX-License-Identifier: Apache-2.0 */

/*
 * top: who is using the service, refreshed. On a terminal it takes the screen until q is pressed; elsewhere, with --json
 * or with -n it prints one answer after the other. The answer is kept until the next one has come, so that keys work at
 * once.
 */

#include <errno.h>
#include <locale.h>
#include <ncurses.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "status.h"
#include "top.h"

#define DELAY_DEFAULT_S 2
#define DELAY_MIN_S 0.1f
#define DELAY_MAX_S 3600
#define DELAY_STEP 1.5f /* of the keys + and - */
#define KEY_REDRAW ('L' & 0x1f)

struct top {
        struct ctl *ctl;
        float delay_s;
        uint32_t count; /* 0 = until told to end */
        bool all;
        enum top_sort sort;
        uint64_t asked; /* the question under way; 0 = none */
        int64_t due_ms; /* when to ask next */
        struct spark_result *shown;
        struct top_lines lines;
        struct user_names names;
        SCREEN *screen;
        size_t first; /* line at the top, below the heading */
        bool quit;
};

/* ---- asking ---- */

static int fail_asking(const struct top *t, int r) {
        if (r == -ENOTCONN)
                return ctl_fail(t->ctl, EXIT_NO_DAEMON, "DISCONNECTED", "See whether it is back: sparkctl status",
                                "The service closed the connection.");
        return ctl_fail(t->ctl, EXIT_OTHER, "INTERNAL", NULL, "Asking the service failed: %s.", strerror(-r));
}

static int fail_answer(const struct top *t, const struct spark_error *error) {
        struct call call = { .code = error->code, .retry_after_ms = error->retry_after_ms };

        (void)snprintf(call.message, sizeof(call.message), "%s", error->message);
        return ctl_fail_call(t->ctl, &call);
}

static void screen_end(struct top *t) {
        if (!t->screen)
                return;
        (void)endwin();
        delscreen(t->screen);
        t->screen = NULL;
}

/* Takes the answer where it has come. 1 = there is a new one, 0 = not yet, -status. */
static int take_answer(struct top *t) {
        struct spark_result *result = NULL;
        int r, status;

        if (t->asked == 0)
                return 0;
        r = spark_wait(t->ctl->spark, t->asked, 0, &result);
        if (r == -ETIMEDOUT || r == -EINTR)
                return 0;
        t->asked = 0;
        if (r < 0) {
                screen_end(t);
                return -fail_asking(t, r);
        }
        if (r > 0 || !result->done->status) {
                static const struct spark_error none = { .code = SPARK_PROTOCOL, .message = "The answer is empty." };

                screen_end(t);
                status = fail_answer(t, result->error ? result->error : &none);
                (void)spark_result_free(result);
                return -status;
        }
        (void)spark_result_free(t->shown);
        t->shown = result;
        t->due_ms = clock_now_ms() + (int64_t)(t->delay_s * 1000);
        return 1;
}

static int ask(struct top *t) {
        struct spark_status_request request = SPARK_STATUS_INIT;
        int r;

        if (t->asked || clock_now_ms() < t->due_ms)
                return 0;
        request.all_users = t->all;
        r = spark_status_query(t->ctl->spark, &request, NULL, NULL, &t->asked);
        if (r == 0)
                return 0;
        t->asked = 0;
        screen_end(t);
        return fail_asking(t, r);
}

/* ---- the screen ---- */

/* Bytes of the first `columns` characters. */
static int bytes_shown(const char *text, int columns) {
        int n = 0;

        for (; text[n]; n++) {
                if (((unsigned char)text[n] & 0xc0) == 0x80)
                        continue;
                if (columns-- == 0)
                        break;
        }
        return n;
}

static void draw_line(int y, const struct top_line *line) {
        static const attr_t attributes[] = {
                [TOP_PLAIN] = A_NORMAL, [TOP_STRONG] = A_BOLD, [TOP_HEADING] = A_REVERSE, [TOP_ALERT] = A_BOLD | A_STANDOUT
        };
        int n = bytes_shown(line->text, COLS);

        (void)attrset((int)attributes[line->style]);
        (void)mvaddnstr(y, 0, line->text, n);
        if (line->style == TOP_HEADING)
                for (int x = getcurx(stdscr); getcury(stdscr) == y && x < COLS; x++)
                        (void)mvaddch(y, x, ' ');
        (void)attrset(A_NORMAL);
}

static void draw_foot(const struct top *t) {
        char text[TOP_LINE_MAX + 1];

        (void)snprintf(text, sizeof(text),
                       "every %.1f s, by %s   q quit  t tokens/s  p priority  n tokens  a age  u user  +- interval  arrows scroll",
                       (double)t->delay_s, top_sort_name(t->sort));
        (void)attrset(A_DIM);
        (void)mvaddnstr(LINES - 1, 0, text, bytes_shown(text, COLS - 1));
        (void)attrset(A_NORMAL);
}

static void draw(struct top *t) {
        size_t room = LINES > 1 ? (size_t)LINES - 1 : 0, last;

        (void)erase();
        if (t->shown) {
                top_lines_fill(&t->lines, t->shown->done->status, t->sort, &t->names);
                last = t->lines.n > room ? t->lines.n - room : 0;
                t->first = MIN(t->first, last);
                for (size_t i = 0; i < room && t->first + i < t->lines.n; i++)
                        draw_line((int)i, &t->lines.lines[t->first + i]);
        }
        draw_foot(t);
        (void)refresh();
}

static void set_delay(struct top *t, float delay_s) {
        t->delay_s = MIN(MAX(delay_s, DELAY_MIN_S), (float)DELAY_MAX_S);
        t->due_ms = MIN(t->due_ms, clock_now_ms() + (int64_t)(t->delay_s * 1000));
}

static void handle_key(struct top *t, int key) {
        static const char sort_keys[] = { [TOP_SORT_RATE] = 't', [TOP_SORT_PRIORITY] = 'p', [TOP_SORT_TOKENS] = 'n',
                                          [TOP_SORT_AGE] = 'a', [TOP_SORT_USER] = 'u' };
        const size_t page = LINES > 2 ? (size_t)LINES / 2 : 1;

        for (size_t i = 0; i < ARRAY_SIZE(sort_keys); i++)
                if (key == sort_keys[i])
                        t->sort = (enum top_sort)i;
        switch (key) {
        case 'q':
                t->quit = true;
                break;
        case ' ':
                t->due_ms = 0;
                break;
        case '+':
                set_delay(t, t->delay_s * DELAY_STEP);
                break;
        case '-':
                set_delay(t, t->delay_s / DELAY_STEP);
                break;
        case KEY_REDRAW:
                (void)clearok(curscr, TRUE);
                break;
        case KEY_DOWN:
                t->first++; /* drawing keeps it within bounds */
                break;
        case KEY_UP:
                t->first -= t->first > 0;
                break;
        case KEY_NPAGE:
                t->first += page;
                break;
        case KEY_PPAGE:
                t->first -= MIN(t->first, page);
                break;
        default:
                break;
        }
}

static int screen_begin(struct top *t) {
        (void)setlocale(LC_CTYPE, "");
        t->screen = newterm(NULL, stdout, stdin);
        if (!t->screen)
                return ctl_fail(t->ctl, EXIT_OTHER, "TERMINAL", "Set TERM, or print once: sparkctl top -n 1",
                                "This terminal is not known to ncurses.");
        (void)cbreak();
        (void)noecho();
        (void)nodelay(stdscr, TRUE);
        (void)keypad(stdscr, TRUE);
        (void)curs_set(0);
        return 0;
}

/* ---- waiting ---- */

/* Sleeps until there is something to do. 0 or the exit status. */
static int wait_for_something(struct top *t) {
        int64_t left = t->asked ? -1 : MAX(t->due_ms - clock_now_ms(), (int64_t)0);
        struct pollfd fds[] = { { .fd = spark_fd(t->ctl->spark), .events = POLLIN },
                                { .fd = t->ctl->signal_fd, .events = POLLIN },
                                { .fd = t->screen ? STDIN_FILENO : -1, .events = POLLIN } };
        int r;

        if (poll(fds, ARRAY_SIZE(fds), (int)left) < 0 && errno != EINTR) {
                screen_end(t);
                return ctl_fail(t->ctl, EXIT_OTHER, "INTERNAL", NULL, "Waiting failed: %s.", strerror(errno));
        }
        if (fds[1].revents) {
                ctl_signals_take(t->ctl);
                return EXIT_INTERRUPTED;
        }
        if (fds[2].revents & (POLLHUP | POLLERR | POLLNVAL))
                t->quit = true; /* the terminal has gone */
        r = spark_process(t->ctl->spark);
        if (r < 0 && t->asked == 0) {
                screen_end(t);
                return fail_asking(t, r);
        }
        return 0;
}

static int run_screen(struct top *t) {
        int status = screen_begin(t), key, r;

        while (status == 0 && !t->quit) {
                status = ask(t);
                if (status == 0) {
                        draw(t);
                        status = wait_for_something(t);
                }
                while (status == 0 && (key = getch()) != ERR)
                        handle_key(t, key);
                r = status == 0 ? take_answer(t) : 0;
                if (r < 0)
                        status = -r;
        }
        screen_end(t);
        return status;
}

/* ---- printing ---- */

static int print(struct top *t) {
        if (t->ctl->json) {
                _cleanup_json_ struct json j = JSON_NULL;

                status_json(&j, t->shown->done->status);
                if (json_print(&j) < 0)
                        return EXIT_OTHER;
        } else {
                top_lines_fill(&t->lines, t->shown->done->status, t->sort, &t->names);
                for (size_t i = 0; i < t->lines.n; i++)
                        (void)printf("%s\n", t->lines.lines[i].text);
        }
        return fflush(stdout) == 0 ? 0 : EXIT_OTHER;
}

static int run_printing(struct top *t) {
        uint32_t left = t->count ? t->count : 1;
        int status = 0, r;

        while (status == 0 && left > 0) {
                status = ask(t);
                if (status == 0)
                        status = wait_for_something(t);
                r = status == 0 ? take_answer(t) : 0;
                if (r < 0)
                        return -r;
                if (r == 0)
                        continue;
                status = print(t);
                if (--left > 0 && !t->ctl->json)
                        (void)printf("\n");
        }
        return status;
}

/* ---- the verb ---- */

static int find_sort(struct top *t, const char *word) {
        for (int i = 0; word && i < TOP_SORTS; i++)
                if (strcmp(top_sort_name((enum top_sort)i), word) == 0) {
                        t->sort = (enum top_sort)i;
                        return 0;
                }
        return word ? ctl_fail_usage(t->ctl, "top", "--sort takes tokens/s, priority, tokens, age or user, not '%.100s'.",
                                     word)
                    : 0;
}

/* A password is asked for before the screen is taken, and not every time: polkit remembers the answer for a while. */
static int first_answer(struct top *t) {
        struct spark_status_request request = SPARK_STATUS_INIT;
        struct call call = { .ctl = t->ctl };
        int status;

        if (!t->all)
                return 0;
        request.all_users = 1;
        status = call_wait(&call, spark_status_query(t->ctl->spark, &request, call_event, &call, &call.id));
        (void)spark_set_interactive_authorization(t->ctl->spark, 0);
        ctl_agent_end(t->ctl);
        return status;
}

static int run(struct top *t, const char *sort) {
        bool printing = t->ctl->json || t->count > 0 || !t->ctl->tty_out || !t->ctl->tty_in;
        int status = find_sort(t, sort);

        if (status)
                return status;
        if (!(t->delay_s >= DELAY_MIN_S && t->delay_s <= DELAY_MAX_S))
                return ctl_fail_usage(t->ctl, "top", "--delay takes %.1f to %u seconds.", (double)DELAY_MIN_S, DELAY_MAX_S);
        status = ctl_connect_asking(t->ctl, t->all) ?: first_answer(t) ?: ctl_signals_block(t->ctl);
        if (status == 0)
                status = printing ? run_printing(t) : run_screen(t);
        (void)spark_result_free(t->shown);
        top_lines_deinit(&t->lines);
        return status;
}

int verb_top(struct ctl *ctl, int argc, char **argv) {
        struct top t = { .ctl = ctl, .delay_s = DELAY_DEFAULT_S };
        const char *sort = NULL;
        const struct option options[] = {
                { "delay", 'd', OPTION_FLOAT, &t.delay_s, NULL, 0, "S", "seconds between refreshes (default 2)" },
                { "count", 'n', OPTION_U32, &t.count, NULL, 0, "N", "print N times and end" },
                OPTION_ALL(&t.all),
                { "sort", 0, OPTION_STRING, &sort, NULL, 0, "KEY", "tokens/s (default), priority, tokens, age or user" },
                OPTION_END,
        };
        const struct option_spec spec = {
                .verb = "top",
                .usage = "[--all] [-d S] [-n N] [--sort KEY]",
                .text = "Shows models, users and requests as they go: who, what, with which priority, tokens a second,\n"
                        "what waits, and the memory with the KV cache's share for running requests (#) and prefixes (=).\n"
                        "Keys: q quits; t, p, n, a, u sort by tokens/s, priority, tokens, age, user; + and - change the\n"
                        "interval; the space bar asks at once; arrows scroll; Ctrl-L draws all anew. Other users' requests are shown to\n"
                        "root, to the service's own user and, with --all, to who may observe others.\n\n"
                        "Where standard output is no terminal it prints once, with -n several times. With --json: as\n"
                        "`status --json`, one object a line.\n",
                .options = options,
        };
        int status = options_parse_bare(ctl, &spec, argc, argv);

        return status < 0 ? run(&t, sort) : status;
}
