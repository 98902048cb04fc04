#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The machine sleeps, as a logind on the system bus says that plays it (python3-dbusmock): the installed service gives its inhibitor
back in time and is still; its engine dies meanwhile; streams of a model that computes go on with the tokens that are due. Run by
boot.sh as root of a container (run.py --script sleep.py)."""

import contextlib
import os
import signal
import time

import inside
from inside import main_pid, run, systemctl, until
from streams import CONFIG, StreamSteps, SystemBus, patience, status
from power_harness import LOGIND, Mock  # (streams.py has told where it is)

DELAY = ("sleep", "delay")
LIMIT_S = 3  # promised where the machine has time
CYCLES = 5
STILL_S, STOPS_S = 1, 10
PACE_S = 0.1  # between a stream's tokens, so that all of them last until the machine sleeps


class Sleep(StreamSteps):
    STREAMS, TOKENS = 8, 200
    logind = None

    def test_01_starts(self):
        self.make_users()
        self.assertRuns(systemctl("mask", "--runtime", "--now", "systemd-logind.service"))
        self.assertRuns(systemctl("start", "dbus.service"))
        type(self).logind = Mock(SystemBus, LOGIND, "logind")
        self.addClassCleanup(self.logind.end)
        CONFIG.write_text('models = ( { name = "m"; path = "/usr/share/sparkd/spark-tiny.gguf"; default = true; context = 512; } );\n'
                          'threads = 1;\nmemory = { floor = "64M"; };\n', encoding="ascii")
        self.start("m")
        self.assertTrue(until(lambda: self.logind.inhibitors() == [DELAY]), (self.logind.inhibitors(), self.journal()))
        self.undisturbed()

    def fall_asleep(self):
        """How long it took until the inhibitor was given back."""
        self.logind.sleep(True)  # the mock is a slow one: what is measured begins with its signal
        began = time.monotonic()
        self.assertTrue(until(lambda: not self.logind.inhibitors(), timeout=10), self.journal("-n", "20"))
        took = time.monotonic() - began
        self.assertLess(took, patience(LIMIT_S))
        self.assertTrue(until(lambda: status().power.sleep == "asleep"))
        return took

    def wake_up(self, streams):
        for stream in streams:
            stream.pace = 0
        self.logind.sleep(False)
        self.assertTrue(until(lambda: status().power.sleep == "awake"), self.journal("-n", "20"))
        self.assertTrue(until(lambda: self.logind.inhibitors() == [DELAY]), self.logind.inhibitors())

    def assertStill(self, streams):
        """What was under way may come; then nothing does."""
        began = time.monotonic()
        came = inside.settled(lambda: [len(stream.ids) for stream in streams], STILL_S)
        self.assertLess(time.monotonic() - began, STOPS_S, came)
        self.assertLess(min(came), self.TOKENS)

    def cycle(self, meanwhile):
        """One sleep under running streams; (until the inhibitor was back, from waking to the first token)."""
        streams = self.streams(PACE_S)
        took = self.fall_asleep()
        self.assertStill(streams)
        meanwhile()
        self.assertStill(streams)
        began = time.monotonic()
        self.wake_up(streams)
        self.assertRight(streams)
        first = min(when for s in streams for when, _ in s.came if when > began) - began
        return took, first

    def cycles(self, meanwhile, what):
        control = main_pid()
        took, first = zip(*(self.cycle(meanwhile) for _ in range(CYCLES)))
        self.assertEqual(main_pid(), control)
        self.note(f"{what}, {CYCLES} times, {self.STREAMS} streams: the inhibitor was back after {sum(took) / CYCLES:.2f} s (worst "
                  f"{max(took):.2f} s), the first token {sum(first) / CYCLES:.2f} s after waking (worst {max(first):.2f} s)")

    def test_02_streams(self):
        engine = inside.children(main_pid())["spark-engine"]
        self.cycles(lambda: None, "slept")
        self.assertEqual(inside.children(main_pid())["spark-engine"], engine)

    def kill_engine(self):
        engine = inside.children(main_pid())["spark-engine"]
        os.kill(engine, signal.SIGKILL)
        self.assertTrue(until(lambda: inside.children(main_pid()).get("spark-engine") != engine))

    def test_03_engine_killed(self):
        self.cycles(self.kill_engine, "slept, the engine killed")

    def test_04_engine_hangs(self):
        """The inhibitor is back in time all the same."""
        streams = self.streams(PACE_S)
        engine = inside.children(main_pid())["spark-engine"]
        os.kill(engine, signal.SIGSTOP)
        took = self.fall_asleep()
        self.assertTrue(until(lambda: "not everything is parked" in self.journal()), self.journal("-n", "20"))
        with contextlib.suppress(ProcessLookupError):  # control may have lost its patience
            os.kill(engine, signal.SIGKILL)
        self.wake_up(streams)
        self.assertRight(streams)
        self.note(f"slept, the engine stopped: the inhibitor was back after {took:.2f} s")

    def test_05_control_killed(self):
        """Whoever starts while the machine is about to sleep is still; its streams, and what a person asks meanwhile, wait."""
        self.logind.mock("UpdateProperties", LOGIND[2], {"PreparingForSleep": True})
        streams = self.streams_until_asleep()
        pid = main_pid()
        os.kill(pid, signal.SIGKILL)
        self.assertTrue(until(lambda: main_pid() not in (0, pid) and run("sparkctl", "status").returncode == 0))
        self.assertTrue(until(lambda: status().power.sleep == "asleep"), self.journal("-n", "20"))
        self.logind.mock("UpdateProperties", LOGIND[2], {"PreparingForSleep": False})
        self.wake_up(streams)
        self.assertRight(streams)

    def streams_until_asleep(self):
        streams = self.streams(PACE_S)
        self.fall_asleep()
        return streams

    def test_06_ends(self):
        self.assertRuns(systemctl("stop", inside.SERVICE))
        self.assertTrue(until(lambda: not self.logind.inhibitors()), self.logind.inhibitors())
        self.assertNotIn("leaves a charge", self.journal())


if __name__ == "__main__":
    inside.main()
