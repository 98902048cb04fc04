#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The installed service with the real polkit: who may what by default, what an administrator's rules change, and what is left
when polkit is away. Run by boot.sh as root of a container (run.py --script polkit.py)."""

import json
import os
import pathlib
import pty
import re
import select
import shutil
import subprocess
import termios
import time
import xml.etree.ElementTree as ElementTree

import inside
from inside import MANAGER, NAME, PATH, SERVICE, call, run, systemctl, until

RULES = pathlib.Path("/etc/polkit-1/rules.d/50-sparkd-test.rules")
POLKIT = "polkit.service"
MODEL = PATH + "/model/spark_2dtiny"
PASSWORD = "Xylophonkatze"
AGENT = pathlib.Path("/opt/agent/pkttyagent")
LFLAG = 3  # of what tcgetattr() gives
INTERACTION = "Only root"  # the sentence that comes with InteractiveAuthorizationRequired, too


def complete(user, *options):
    return call("Complete", "sa{sv}", f"{inside.MARK} hums", str(len(options) // 3 + 1), "max_tokens", "u", "4", *options, user=user)


def rules(**granted):
    """{user: actions}, as an administrator writes them."""
    lines = "".join(f"if (subject.user == '{user}' && {[NAME + '.' + action for action in actions]}.indexOf(action.id) >= 0)"
                    " return polkit.Result.YES;\n" for user, actions in granted.items())
    RULES.write_text(f"polkit.addRule(function(action, subject) {{\n{lines}}});\n", encoding="ascii")
    RULES.chmod(0o644)
    systemctl("reset-failed", POLKIT)  # it is not started too often
    systemctl("restart", POLKIT)


class Polkit(inside.Steps):
    def test_01_users(self):
        self.make_users()
        # the bus and polkit were there before the users and the files were
        for unit in "start:dbus.service", "reload:dbus.service", "restart:" + POLKIT, "start:sparkd.socket", \
                "start:" + SERVICE:
            self.assertRuns(systemctl(*unit.split(":")))
        self.assertTrue(until(lambda: run("busctl", "status", NAME).returncode == 0))

    def test_02_actions_are_known(self):
        installed = ElementTree.parse("/usr/share/polkit-1/actions/org.sparkd.Spark1.policy").getroot()
        ids = [action.get("id") for action in installed.iter("action")]
        self.assertEqual(len(ids), 6)
        for id in ids:
            said = self.assertRuns(run("pkaction", "--verbose", "--action-id", id))
            self.assertIn("unix-user:sparkd", said)
            self.assertRegex(said, r"implicit active: +(yes|auth_admin_keep)")
            self.assertRegex(said, r"implicit any: +(no|auth_admin)\n")

    def test_03_members_are_not_asked_about(self):
        answer = json.loads(self.assertRuns(complete("member")))
        self.assertEqual(answer["data"][1]["completion_tokens"]["data"], 4)
        self.assertRuns(complete("member", "priority", "s", "interactive"))

    def test_04_strangers(self):
        """polkit says no: they sit nowhere."""
        self.assertIn("Access denied", complete("stranger").stderr)
        self.assertIn("use-interactive", complete("stranger", "priority", "s", "interactive").stderr)
        self.assertRuns(call("ListModels", user="stranger"))
        self.assertIn("ready", self.assertRuns(run("busctl", "get-property", NAME, MODEL, NAME + ".Model", "State", user="stranger")))

    def test_05_models_and_configuration_are_an_administrators(self):
        for user in "member", "stranger":
            for call_ in (("Unload", "s", "spark-tiny"), ("Load", "sa{sv}", "spark-tiny", "0"), ("Reload",)):
                self.assertIn(INTERACTION, call(*call_, user=user).stderr, (user, call_))
        refused = run("gdbus", "call", "--system", "--dest", NAME, "--object-path", PATH, "--method", MANAGER + ".Unload",
                      "spark-tiny", user="member").stderr
        self.assertIn("InteractiveAuthorizationRequired", refused)
        self.assertRuns(call("Reload"))
        self.assertRuns(call("Unload", "s", "spark-tiny"))
        self.assertRuns(call("Load", "sa{sv}", "spark-tiny", "0"))

    def test_06_rules(self):
        rules(stranger=["use"], member=["manage-models", "configure"])
        self.assertRuns(complete("stranger"))
        self.assertIn("use-interactive", complete("stranger", "priority", "s", "interactive").stderr)
        self.assertIn(INTERACTION, call("Unload", "s", "spark-tiny", user="stranger").stderr)
        self.assertRuns(call("Unload", "s", "spark-tiny", user="member"))
        self.assertRuns(call("Load", "sa{sv}", "spark-tiny", "0", user="member"))
        self.assertRuns(call("Reload", user="member"))

    def test_07_others(self):
        held = run("sparkctl", "session", "create", "--name", "ours")
        self.assertRuns(held)
        path = PATH + "/session/" + held.stdout.split()[0]
        get = ("busctl", "get-property", NAME, path, NAME + ".Session", "Name")
        self.assertIn("observe-others", run(*get, user="member").stderr)
        self.assertNotIn(path, json.dumps(run("busctl", "call", "--json=short", NAME, PATH, "org.freedesktop.DBus.ObjectManager",
                                              "GetManagedObjects", user="member").stdout))
        rules(member=["observe-others"])
        self.assertIn("ours", self.assertRuns(run(*get, user="member")))
        self.assertIn(INTERACTION, run("busctl", "call", NAME, path, NAME + ".Session", "Close", user="member").stderr)
        self.assertRuns(run("busctl", "call", NAME, path, NAME + ".Session", "Close"))

    def ctl(self, *arguments, user="member"):
        return run("sparkctl", *arguments, user=user)

    def assertDenied(self, done, action):
        self.assertEqual(done.returncode, 77, (done.args, done.stdout, done.stderr))
        self.assertIn(f"{NAME}.{action}", done.stderr)
        self.assertIn("sudo", done.stderr)

    def test_07b_the_socket(self):
        """It asks as the bus does: about the process that connected, by whatever this version of polkit understands."""
        held = self.assertRuns(run("sparkctl", "session", "create", "--name", "theirs")).split()[0]
        rules(member=["configure"])
        for arguments in ("unload", "spark-tiny"), ("load", "spark-tiny"), ("forget", "--all"):
            self.assertDenied(self.ctl(*arguments), "manage-models")
        for arguments in ("ps", "--all"), ("jobs", "--all"), ("session", "list", "--all"), ("usage", "--all"):
            self.assertDenied(self.ctl(*arguments), "observe-others")
        rules(member=["manage-models", "observe-others"])
        for arguments in (("unload", "spark-tiny"), ("load", "spark-tiny"), ("forget", "--all"), ("ps", "--all"), ("jobs", "--all"),
                          ("session", "list", "--all"), ("usage", "--all"), ("top", "--all", "-n", "2", "-d", "0.1")):
            self.assertRuns(self.ctl(*arguments))
        self.assertIn("theirs", self.assertRuns(self.ctl("session", "list", "--all")))
        self.assertNotIn("theirs", self.assertRuns(self.ctl("session", "list")))
        self.assertRuns(self.ctl("session", "close", held))
        self.assertNotIn("polkit does not decide", self.journal())
        rules()
        self.assertDenied(self.ctl("unload", "spark-tiny"), "manage-models")

    def test_07c_a_password(self):
        """On a terminal polkit's own agent asks for an administrator's, for the time of the request."""
        if not shutil.which("pkttyagent"):
            self.skipTest("pkttyagent is not installed")
        # polkit looks for one that is a fallback by the session of who asks, and nobody has a session here
        AGENT.parent.mkdir(parents=True)
        AGENT.write_text('#!/bin/sh\nexec /usr/bin/pkttyagent "$1" "$2"\n', encoding="ascii")
        AGENT.chmod(0o755)
        subprocess.run(["chpasswd"], input=f"root:{PASSWORD}\n", text=True, check=True)
        said, status = self.type_into(PASSWORD, "unload", "spark-tiny")
        self.assertEqual(status, 0, said)
        self.assertIn("is unloaded", said)
        self.assertTrue(until(lambda: run("pidof", "pkttyagent").returncode == 1))
        said, status = self.type_into("wrong", "load", "spark-tiny")
        self.assertEqual(status, 77, said)
        said, status = self.type_into(PASSWORD, "load", "spark-tiny")
        self.assertEqual(status, 0, said)
        said, status = self.type_into(None, "--no-ask-password", "unload", "spark-tiny")
        self.assertEqual(status, 77, said)
        self.assertIn("--ask-password", said)

    def type_into(self, password, *arguments):
        """What sparkctl says to a member at a terminal who types this where it is asked for, and its exit status."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.execvp("setpriv", ["setpriv", "--reuid=member", "--regid=member", "--init-groups", "--reset-env", "--", "env",
                                  f"PATH={AGENT.parent}:/usr/local/bin:/usr/bin:/bin", "sparkctl", *arguments])
        said, end = "", time.monotonic() + 60
        while time.monotonic() < end:
            if not select.select([terminal], [], [], 0.1)[0]:
                continue
            try:
                said += os.read(terminal, 4096).decode(errors="replace")
            except OSError:
                break
            if password and re.search("password: ?$", said, re.I):
                # what is typed before the echo is off is dropped
                self.assertTrue(until(lambda: not termios.tcgetattr(terminal)[LFLAG] & termios.ECHO), said)
                os.write(terminal, password.encode() + b"\n")
                said += "\n"
        os.close(terminal)
        return said, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def test_08_without_polkit(self):
        rules(stranger=["use", "manage-models"], member=["manage-models"])
        self.assertRuns(complete("stranger"))
        self.assertRuns(self.ctl("load", "spark-tiny"))
        self.assertRuns(systemctl("mask", "--runtime", "--now", POLKIT))
        try:
            self.assertIn("Access denied", complete("stranger").stderr)
            self.assertIn(INTERACTION, call("Unload", "s", "spark-tiny", user="stranger").stderr)
            self.assertRuns(complete("member"))
            self.assertDenied(self.ctl("unload", "spark-tiny"), "manage-models")
            self.assertRuns(call("Reload"))
            self.assertEqual(self.journal().count("no polkit on the bus"), 1)
        finally:
            self.assertRuns(systemctl("unmask", "--runtime", POLKIT))
        self.assertRuns(complete("stranger"))

    def test_09_polkit_that_hangs(self):
        pid = inside.show("MainPID", POLKIT)
        self.assertRuns(run("kill", "-STOP", pid))
        try:
            began = time.monotonic()
            # a call that lets polkit ask a person would have to give that person time
            asked = run("busctl", "--allow-interactive-authorization=no", "call", NAME, PATH, MANAGER, "Complete", "sa{sv}", "x",
                        "0", user="stranger")
            self.assertIn("Access denied", asked.stderr)
            self.assertLess(time.monotonic() - began, 20)
            began = time.monotonic()
            self.assertDenied(self.ctl("unload", "spark-tiny"), "manage-models")
            self.assertLess(time.monotonic() - began, 20)
            self.assertRuns(complete("member"))
        finally:
            self.assertRuns(run("kill", "-CONT", pid))
        self.assertRuns(complete("stranger"))
        self.assertNotIn("leaves a charge", self.journal())


if __name__ == "__main__":
    inside.main()
