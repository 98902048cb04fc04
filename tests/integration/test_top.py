# SPDX-License-Identifier: Apache-2.0
"""sparkctl's eyes on a real daemon: top on a terminal and off it, ps, usage, status, --priority."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
import unittest

from harness import *
from harness import pb

CTL = BUILD / "bin" / "sparkctl"
ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"  # xterm's other screen


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *command, rows=40, columns=160, term="xterm", **more):
        self.master, slave = pty.openpty()
        self.resize(rows, columns)
        self.output = b""
        env = {**os.environ, "TERM": term, "LC_ALL": "C.UTF-8", **more}
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(slave)

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, seconds):
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and select.select([self.master], [], [], left)[0]:
            try:
                piece = os.read(self.master, 65536)
            except OSError:  # the other side is closed
                return False
            if not piece:
                return False
            self.output += piece
        return True

    def expect(self, text, what=""):
        """Reads until the text comes; what was read before is forgotten."""
        end = time.monotonic() + 20 * SLOW
        while text not in self.output:
            if time.monotonic() > end:
                raise AssertionError(f"{text} {what} did not come, but {self.output[-2000:]}")
            if not self.read(0.05) and text not in self.output:
                raise AssertionError(f"it ended without {text}: {self.output[-2000:]}")
        self.output = self.output[self.output.index(text) + len(text):]

    def press(self, keys):
        os.write(self.master, keys)

    def end(self):
        """Its exit status, after everything that it wrote was read."""
        while self.read(20 * SLOW):
            pass
        status = self.process.wait(20 * SLOW)
        os.close(self.master)
        return status


class CtlTest(TestCase):
    def ctl(self, daemon, *arguments, status=0, **options):
        done = subprocess.run([CTL, "-S", daemon.socket, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=60 * SLOW, check=False, **options)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done.stdout

    def ctl_json(self, daemon, *arguments, **options):
        return json.loads(self.ctl(daemon, "--json", *arguments, **options))

    def terminal(self, daemon, *arguments, **options):
        terminal = Terminal(CTL, "-S", daemon.socket, *arguments, **options)
        self.addCleanup(terminal.process.wait)
        self.addCleanup(terminal.process.kill)
        return terminal

    def running(self, daemon):
        with daemon.connect() as client:
            return list(client.ask(status=pb.Status()).done.status.requests)


class Top(CtlTest):
    def test_on_a_terminal(self):
        daemon = self.daemon()
        with daemon.connect() as client:
            client.tokens(client.generate(n=50, credit=1, priority=pb.BACKGROUND), 1)
            top = self.terminal(daemon, "top", "-d", "0.2")
            top.expect(ENTER)
            for text in (b"every 0.2 s", b"by tokens/s", b"sparkd 0.", b"memory", b"MODEL", b"null", b"USER", b"background"):
                top.expect(text)
            for key, shown in ((b"p", b"by priority"), (b"n", b"by tokens "), (b"a", b"by age"), (b"u", b"by user"),
                               (b"+", b"every 0.3 s"), (b"-", b"every 0.2 s"), (b"x", b"every 0.2 s, by user")):
                top.press(key + b"\x0c")  # and all of it anew: else only what differs is drawn
                top.expect(shown, f"after {key}")
            top.press(b"\x1b[B\x1b[A\x1b[5~\x1b[6~ ")
            client.tokens(client.generate(n=50, credit=1, priority=pb.INTERACTIVE), 1)
            top.expect(b"interactive")  # and it goes on by itself
            top.resize(5, 30)
            os.kill(top.process.pid, signal.SIGWINCH)
            top.expect(b"sparkd")
            top.press(b"q")
            self.assertEqual(top.end(), 0)
            self.assertIn(LEAVE, top.output)

    def test_interrupted(self):
        daemon = self.daemon()
        top = self.terminal(daemon, "top")
        top.expect(b"MODEL")
        top.press(b"\x03")
        self.assertEqual(top.end(), 130)
        self.assertIn(LEAVE, top.output)

    def test_a_service_that_goes(self):
        daemon = self.daemon()
        top = self.terminal(daemon, "top", "-d", "0.2")
        top.expect(b"MODEL")
        daemon.stop()
        self.assertEqual(top.end(), 69)
        self.assertLess(top.output.index(LEAVE), top.output.index(b"sparkctl:"))  # where a person can read it
        daemon.start()

    def test_unknown_terminal(self):
        daemon = self.daemon()
        top = self.terminal(daemon, "top", term="no-such-terminal")
        self.assertEqual(top.end(), 1)
        self.assertIn(b"not known", top.output)

    def test_off_a_terminal(self):
        daemon = self.daemon()
        with daemon.connect() as client:
            client.tokens(client.generate(n=50, credit=1), 1)
            once = self.ctl(daemon, "top")
            self.assertEqual(once.count("sparkd 0."), 1)
            self.assertIn("generate", once)
            self.assertNotIn("\x1b", once)
            self.assertEqual(self.ctl(daemon, "top", "-n", "3", "-d", "0.1").count("sparkd 0."), 3)
            lines = self.ctl(daemon, "top", "--json", "-n", "2", "-d", "0.1").splitlines()
            self.assertEqual(len(lines), 2)
            self.assertEqual(json.loads(lines[1]).keys(), self.ctl_json(daemon, "status").keys())
        self.ctl(daemon, "top", "-d", "0", status=64)
        self.ctl(daemon, "top", "-d", "nan", status=64)
        self.ctl(daemon, "top", "--sort", "size", status=64)
        self.ctl(daemon, "top", "more", status=64)

    def test_order(self):
        """Two that pause for want of credit, one that has the only slot, one that waits."""
        daemon = self.daemon(limits={"sequences": 1}, null={"step_us": 20000})
        with daemon.connect() as client:
            for priority, n in ((pb.BACKGROUND, 2), (pb.NORMAL, 9)):
                client.tokens(client.generate(n=50, credit=n, priority=priority), n)
            until(lambda: [r.state for r in self.running(daemon)] == ["paused"] * 2, 10, "two that pause")
            client.tokens(client.generate(n=1 << 19, credit=1 << 20, priority=pb.INTERACTIVE), 12)
            client.generate(n=50, priority=pb.BACKGROUND)
            until(lambda: sorted(r.state for r in self.running(daemon)) == ["paused", "paused", "queued", "running"], 10,
                  "one that runs and one that waits")

            def order(sort):
                return re.findall(r" (background|normal|interactive) +(\w+)", self.ctl(daemon, "top", "--sort", sort))
            background, normal, interactive = ("background", "paused"), ("normal", "paused"), ("interactive", "running")
            waiting = ("background", "queued")
            self.assertEqual(order("priority"), [interactive, normal, background, waiting])
            self.assertEqual(order("tokens"), [interactive, normal, background, waiting])
            self.assertEqual(order("age"), [background, normal, interactive, waiting])


class Verbs(CtlTest):
    @within_a_day
    def test_usage(self):
        daemon = self.daemon(limits={"tokens_per_day": 40})
        empty = self.ctl_json(daemon, "usage")
        self.assertEqual(empty, {"rows": [], "tokens_today": 0, "tokens_per_day": 40, "energy_uj_today": "unknown", "energy_tokens_today": 0})
        self.ctl(daemon, "generate", "-n", "40", "--raw", "x")
        denied = json.loads(self.ctl(daemon, "--json", "generate", "-n", "1", "--raw", "x", status=75))["error"]
        self.assertEqual(denied["code"], "QUOTA_EXCEEDED")
        self.assertGreater(denied["retry_after_ms"], 0)
        self.assertIn("sparkctl usage", denied["hint"])
        report = self.ctl_json(daemon, "usage", "--days", "1", "--all")
        row, = report["rows"]
        self.assertEqual((row["uid"], row["model"], row["requests"], row["completion_tokens"], row["refused"]),
                         (os.getuid(), "null", 1, 40, 1))
        self.assertEqual(report["tokens_today"], row["prompt_tokens"] - row["cached_tokens"] + 40)
        table = self.ctl(daemon, "usage")
        self.assertIn("GENERATED", table)
        self.assertRegex(table, r"null +1 ")
        self.ctl(daemon, "usage", "--days", "401", status=64)
        self.ctl(daemon, "usage", "--days", "x", status=64)

    def test_priority(self):
        daemon = self.daemon(limits={"max_priority": "normal"}, null={"step_us": 5000})
        generate = [CTL, "-S", daemon.socket, "generate", "-n", "100000", "--raw", "x"]
        for arguments, expected in (([], "normal"), (["--priority", "background"], "background")):
            with subprocess.Popen(generate + arguments, stdout=subprocess.DEVNULL) as running:
                until(lambda: self.running(daemon), 10, "a request")
                shown, = self.ctl_json(daemon, "ps")["requests"]
                self.assertEqual(shown["priority"], expected)
                self.assertIn(expected, self.ctl(daemon, "ps"))
                running.terminate()
                running.wait()
            until(lambda: not self.running(daemon))
        error = json.loads(self.ctl(daemon, "--json", "generate", "--priority", "interactive", "x", status=77))["error"]
        self.assertEqual(error["code"], "PERMISSION_DENIED")
        self.assertIn("priority", error["message"])
        for verb in (["generate", "x"], ["chat"], ["perplexity", "-"]):
            self.ctl(daemon, *verb, "--priority", "urgent", status=64)
        self.ctl(daemon, "perplexity", "--priority", "interactive", "/etc/hostname", status=77)

    def test_a_person_is_interactive(self):
        """Unless the service does not allow it: then it is not asked for."""
        for most, expected in (("interactive", "interactive"), ("normal", "normal")):
            daemon = self.daemon(limits={"max_priority": most}, null={"step_us": 5000})
            person = self.terminal(daemon, "generate", "-n", "100000", "--raw", "x")
            until(lambda: self.running(daemon), 10, "a request")
            self.assertEqual(self.ctl_json(daemon, "ps")["requests"][0]["priority"], expected)
            person.press(b"\x03")
            self.assertEqual(person.end(), 130)

    def test_one_name_for_one_thing(self):
        """status, models and top call what waits and what prefixes hold alike."""
        daemon = self.daemon()
        daemon.wait_engine()
        self.assertIn("0 running, 0 waiting", self.ctl(daemon, "models"))
        for verb in "status", "top":
            self.assertRegex(self.ctl(daemon, verb), r"USER .* RUNNING WAITING .* KV USED +PREFIXES +TODAY")

    def test_colours(self):
        """Where they are seen and wanted; and no control sequences where the terminal knows none."""
        daemon = self.daemon(null={"step_us": 5000})
        daemon.wait_engine()
        for settings, coloured in (({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": "", "term": "dumb"}, False)):
            person = Terminal(CTL, "-S", daemon.socket, "doctor", **settings)
            self.assertIn(person.end(), (0, 1))
            self.assertIn(b"landlock", person.output)
            self.assertEqual(b"\x1b[3" in person.output, coloured, settings)
        for term, sequences in (("xterm", True), ("dumb", False)):
            person = Terminal(CTL, "-S", daemon.socket, "perplexity", ROOT / "README.md", term=term)
            self.assertEqual(person.end(), 0)
            self.assertEqual(b"\x1b" in person.output, sequences, person.output)

    def test_warnings(self):
        daemon = self.daemon(state_dir="/nonexistent/sparkd")
        (warning,) = until(lambda: self.ctl_json(daemon, "status")["warnings"], 10, "the warning")
        self.assertIn("/nonexistent", warning)
        self.assertIn("Warning: Usage", self.ctl(daemon, "status"))
        done = subprocess.run([CTL, "-S", daemon.socket, "doctor"], stdout=subprocess.PIPE, text=True, check=False)
        self.assertRegex(done.stdout, r"warn +service +Usage is not kept")


if __name__ == "__main__":
    unittest.main()
