#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Sleep with the real logind and the real polkit: what the sandboxed service may do there, and that it is noticed when logind
restarts. That the machine sleeps can only be played (tests/integration/test_sleep.py). Run by boot.sh as root of a container; steps
that follow each other."""

import json
import os
import pathlib
import signal
import subprocess

import inside
from inside import SERVICE, Steps, run, show, systemctl, until

CONFIG = """
backend = "null";
null = { step_us = 20000; };
memory = { floor = "64M"; };
"""
CAPS = """
backend = "cpu";
threads = 2;
models = ( { name = "tiny"; path = "/usr/share/sparkd/spark-tiny.gguf"; } );
memory = { floor = "64M"; };
power = { mains_batch = 16; mains_threads = 1; mains_clocks = 50; };
"""
USERS = 'u person 1500 "Person"\nm person spark\nu worker 900 "Worker"\nm worker spark\n'
DELAY = ("sleep", "delay")
AWAKE = sorted([DELAY, ("sleep", "block"), ("idle", "block")])


def inhibitors():
    """[(what, mode)] of the service, as logind has them."""
    done = run("busctl", "--json=short", "call", "org.freedesktop.login1", "/org/freedesktop/login1",
               "org.freedesktop.login1.Manager", "ListInhibitors")
    if done.returncode:
        return []
    return sorted((i[0], i[3]) for i in json.loads(done.stdout)["data"][0] if i[1] == "sparkd")


def power():
    return json.loads(run("sparkctl", "--json", "status").stdout)["power"]


def stream(user, priority):
    """A request that runs for a minute."""
    return subprocess.Popen(["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--reset-env", "--", "sparkctl",
                             "generate", "--raw", "-n", "3000", "--priority", priority, "Once"], stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Power(Steps):
    def end(self, process):
        process.send_signal(signal.SIGINT)
        process.wait(20)

    def assertDelays(self):
        """Both say so: logind knows of an inhibitor before its descriptor has come."""
        self.assertTrue(until(lambda: inhibitors() == [DELAY] and power()["inhibitor"] == "held"), (inhibitors(), power(), self.journal()))

    def test_01_starts(self):
        pathlib.Path("/etc/sparkd/sparkd.conf").write_text(CONFIG, encoding="ascii")
        self.make_users(USERS)
        self.assertRuns(systemctl("start", "systemd-logind.service"))
        self.assertRuns(systemctl("start", SERVICE))
        self.assertEqual(show("ActiveState"), "active")

    def test_02_delays_sleep(self):
        self.assertDelays()

    def test_03_a_person_keeps_it_awake(self):
        """By the rule that is installed: polkit's default would not have it."""
        self.assertTrue(os.path.exists("/usr/share/polkit-1/rules.d/50-sparkd-sleep.rules"))
        process = stream("person", "interactive")
        try:
            self.assertTrue(until(lambda: inhibitors() == AWAKE and power()["awake"] == "sleep:idle"), (inhibitors(), power(), self.journal()))
        finally:
            self.end(process)
        self.assertTrue(until(lambda: inhibitors() == [DELAY]), inhibitors())

    def test_04_a_service_does_not(self):
        process = stream("worker", "interactive")
        try:
            self.assertFalse(until(lambda: inhibitors() != [DELAY], timeout=3), inhibitors())
        finally:
            self.end(process)

    def test_05_logind_restarts(self):
        before = show("MainPID", "systemd-logind.service")
        self.assertRuns(systemctl("restart", "systemd-logind.service"))
        self.assertNotEqual(show("MainPID", "systemd-logind.service"), before)
        self.assertDelays()

    def test_06_logind_is_gone(self):
        """It is said, and nothing else changes. (Its bus name must not bring it back.)"""
        self.assertRuns(systemctl("mask", "--runtime", "--now", "systemd-logind.service"))
        self.assertTrue(until(lambda: power()["inhibitor"] == "absent"), power())
        self.assertServes()
        self.assertRuns(systemctl("unmask", "--runtime", "systemd-logind.service"))
        self.assertRuns(systemctl("start", "systemd-logind.service"))
        self.assertDelays()

    def test_07_without_the_rule(self):
        """Idleness alone is held off then, and status says so."""
        os.unlink("/usr/share/polkit-1/rules.d/50-sparkd-sleep.rules")
        self.assertRuns(systemctl("restart", "polkit.service"))
        process = stream("person", "interactive")
        try:
            self.assertTrue(until(lambda: ("idle", "block") in inhibitors()), (inhibitors(), self.journal()))
            self.assertTrue(until(lambda: any("forbid sleep" in note for note in power()["notes"])), power())
        finally:
            self.end(process)

    def test_08_caps(self):
        """From within the sandbox of the unit and of the engine: what is refused is for the kernel's sake, never for ours."""
        pathlib.Path("/etc/sparkd/sparkd.conf").write_text(CAPS, encoding="ascii")
        self.assertRuns(systemctl("restart", SERVICE))
        settled = [("batch threads clocks", "uclamp", ""), ("batch threads", "", "clocks: unsupported")]
        self.assertTrue(until(lambda: tuple(power()[key] for key in ("in_force", "clocks_by", "refused")) in settled), (power(), self.journal()))
        said = power()
        self.assertEqual((said["batch"], said["threads"], said["clocks"]), (16, 1, 50))
        self.assertServes()

    def test_09_stops(self):
        self.assertRuns(systemctl("stop", SERVICE))
        self.assertTrue(until(lambda: inhibitors() == []), inhibitors())
        self.assertNotIn("leaves a charge", self.journal())

    def assertServes(self):
        self.assertRuns(run("sparkctl", "generate", "--raw", "-n", "4", "Once", user="person"))


if __name__ == "__main__":
    inside.main()
