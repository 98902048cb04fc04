# SPDX-License-Identifier: Apache-2.0
"""The shells' completions of sparkctl: all verbs and options of its help and nothing else, names from the service, never a
message or a long wait; and that bash, zsh and fish make of it what they should."""

import contextlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
import unittest

from harness import *

FOLDER = ROOT / "client/sparkctl/completion"
CTL = str(BUILD / "bin/sparkctl")


def help_of(*verb):
    return subprocess.run([CTL, *verb, "--help"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30 * SLOW,
                          check=True).stdout


def verbs_of(text):
    return {line.split()[0] for line in text.splitlines() if re.match(r"  [a-z]", line)}


def options_of(text):
    """Whatever stands in the help's column of options, however it is written."""
    return {word.strip(",") for line in text.splitlines() if re.match(r" +(-., )?--?[a-z]", line)
            for word in line[:line.index("  ", 6)].split() if word.startswith("--")}


class Completion(TestCase):
    def complete(self, *words, sock="/nonexistent/socket"):
        """{value: description}, and what else was said is a failure."""
        done = subprocess.run([FOLDER / "complete.sh", CTL, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=60 * SLOW, env={**os.environ, "SPARK_SOCKET": str(sock)}, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return dict(line.partition("\t")[::2] for line in done.stdout.splitlines())

    def every_verb(self):
        """(words, help) of all verbs and subverbs."""
        for verb in sorted(verbs_of(help_of())):
            text = help_of(verb)
            subverbs = verbs_of(text) if "SUBVERB" in text else ()
            yield (verb,), text
            for subverb in sorted(subverbs):
                yield (verb, subverb), help_of(verb, subverb)

    def test_verbs(self):
        verbs = verbs_of(help_of())
        self.assertGreaterEqual(len(verbs), 16)
        found = self.complete("")
        self.assertEqual(set(found), verbs)
        self.assertTrue(all(found.values()))
        self.assertEqual(self.complete("-S", "/nonexistent/x", "--json", "unl"), {"unload": found["unload"]})
        self.assertEqual(self.complete("nothing-like-it"), {})
        for verb in "models", "session":
            subverbs = verbs_of(help_of(verb))
            self.assertGreaterEqual(len(subverbs), 6)
            self.assertEqual(set(self.complete(verb, "")), subverbs)
        self.assertEqual(set(self.complete("session", "rew")), {"rewind"})
        self.assertLessEqual({"list", "cancel"}, set(self.complete("jobs", "")))
        self.assertLessEqual({"--all", "--watch"}, set(self.complete("jobs", "--")))

    def test_options(self):
        n = 0
        for words, text in self.every_verb():
            with self.subTest(words=words):
                wanted = options_of(text)
                found = self.complete(*words, "--")
                self.assertEqual(set(found), wanted)
                self.assertTrue(all(found.values()), found)
                n += len(wanted)
        self.assertGreater(n, 100)
        self.assertEqual(set(self.complete("-")), options_of(help_of()))

    def test_fixed_values(self):
        """They are those that the help names."""
        for verb, option in ("generate", "priority"), ("chat", "priority"), ("top", "sort"), ("yield", "policy"):
            line = next(line for line in help_of(verb).splitlines() if re.match(f" +--{option} ", line))
            named = set(re.findall(r"[a-z/]+", line.split(maxsplit=2)[2])) - {"or", "default", "requests", "meanwhile", "as", "configured"}
            self.assertEqual(set(self.complete(verb, f"--{option}", "")), named, line)
        self.assertEqual(set(self.complete("generate", "--priority=b")), {"--priority=background"})

    def test_files(self):
        for words in (("models", "import"), ("perplexity",), ("load",), ("chat", "--tools"), ("-S",), ("generate", "--tools"),
                      ("yield", "1G", "--"), ("hold", "a", "--", "sh", "-c")):
            self.assertIn("@files", self.complete(*words, ""), words)
        for words in ("generate",), ("models", "show"), ("generate", "--seed"), ("doctor",), ("detokenize",), ("yield",), ("leases",):
            self.assertEqual(self.complete(*words, ""), {}, words)

    def test_names_from_the_service(self):
        daemon = self.daemon()
        daemon.wait_engine()
        names = set(re.findall(r"(?m)^[* ] (\S+)", subprocess.run([CTL, "-S", daemon.socket, "models"], capture_output=True,
                                                                 text=True, timeout=30 * SLOW, check=True).stdout))
        self.assertTrue(names)
        for words in (("unload",), ("generate", "-m"), ("generate", "--model"), ("models", "show"), ("-S", daemon.socket, "load")):
            # it waits for a second, no longer: who is not answered by then presses the key again
            until(lambda: names <= set(self.complete(*words, "", sock=daemon.socket)), what=f"names after {words}")
        name = sorted(names)[0]
        until(lambda: f"--model={name}" in self.complete("chat", f"--model={name[:2]}", sock=daemon.socket), what="a name after =")
        made = subprocess.run([CTL, "-S", daemon.socket, "session", "create"], capture_output=True, text=True,
                              timeout=30 * SLOW, check=True).stdout.strip()
        for words in ("session", "close"), ("session", "append"), ("generate", "--session"):
            until(lambda: made in self.complete(*words, made[:3], sock=daemon.socket), what=f"the session after {words}")

    def test_a_service_that_does_not_answer(self):
        with tempfile.TemporaryDirectory() as folder, contextlib.closing(socket.socket(socket.AF_UNIX)) as deaf:
            path = f"{folder}/s"
            deaf.bind(path)
            deaf.listen(1)
            began = time.monotonic()
            self.assertEqual(self.complete("unload", "", sock=path), {})
            self.assertLess(time.monotonic() - began, 5 * SLOW)


class Shells(TestCase):
    """Each with the script that is installed for it; `sparkctl` is the one of this build."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        (self.folder / "sparkctl-complete").symlink_to(FOLDER / "complete.sh")
        (self.folder / "sparkctl").symlink_to(CTL)
        (self.folder / "a-file.gguf").touch()
        for script in FOLDER.glob("sparkctl.*"):
            text = script.read_text(encoding="ascii").replace("@LIBEXECDIR@", str(self.folder))
            (self.folder / script.name).write_text(text, encoding="ascii")

    def run_shell(self, shell, *command):
        if not shutil.which(shell):
            self.skipTest(f"{shell} is not installed")
        env = {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}", "HOME": str(self.folder), "TERM": "dumb",
               "SPARK_SOCKET": "/nonexistent/socket"}
        done = subprocess.run([shell, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=60 * SLOW, env=env, cwd=self.folder, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout.splitlines()

    def check_shell(self, complete):
        self.assertEqual(complete("sparkctl", "unl"), ["unload"])
        self.assertEqual(set(complete("sparkctl", "")), verbs_of(help_of()))
        self.assertEqual(set(complete("sparkctl", "session", "rew")), {"rewind"})
        self.assertEqual(set(complete("sparkctl", "load", "--")), options_of(help_of("load")))
        self.assertIn("a-file.gguf", complete("sparkctl", "models", "import", "a-"))
        self.assertEqual(complete("sparkctl", "doctor", ""), [])

    def test_bash(self):
        def complete(*words):
            return self.run_shell("bash", "--norc", "-c", 'source ./sparkctl.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1));'
                                  '_sparkctl; for word in "${COMPREPLY[@]}"; do echo "$word"; done', "bash", *words)
        self.check_shell(complete)
        self.assertEqual(complete("sparkctl", "generate", "--priority", "=", "b"), ["background"])
        self.assertEqual(self.run_shell("bash", "--norc", "-c", "source ./sparkctl.bash; complete -p sparkctl"),
                         ["complete -F _sparkctl sparkctl"])

    def test_zsh(self):
        def complete(*words):
            """Run as a completer, but for zsh's own functions: they want a terminal."""
            lines = self.run_shell("zsh", "-f", "-c", "_files() { print -l -- $words[CURRENT]*(N) };"
                                   "_describe() { [[ $1 != -V ]] || shift; print -l -- ${(P)2} };"
                                   'words=("$@") CURRENT=$#; _sparkctl() { source ./sparkctl.zsh }; _sparkctl', "zsh", *words)
            return [line.split(":")[0] for line in lines]
        self.check_shell(complete)

    def test_fish(self):
        def complete(*words):
            line = " ".join(words)
            return [found.split("\t")[0] for found in
                    self.run_shell("fish", "--no-config", "-c", f"source ./sparkctl.fish; complete -C '{line}'")]
        self.check_shell(complete)


if __name__ == "__main__":
    unittest.main()
