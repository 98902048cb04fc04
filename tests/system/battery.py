#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What the installed service serves on which power supply, as a table; UPower and power-profiles-daemon are mocks on the system bus.
And how often it wakes the processor while nobody asks it anything. Run by boot.sh as root of a container (run.py --script
battery.py)."""

import os
import pathlib
import time

import inside
from inside import main_pid, systemctl, until
from streams import CONFIG, SOCKET_PATH, Client, StreamSteps, SystemBus, pb, status
from power_harness import BACKGROUND, INTERACTIVE, LOGIND, NORMAL, PROFILES, UPOWER, Mock, switches

POLICY = pathlib.Path("/etc/dbus-1/system.d/zz-test.conf")
POLICY_TEXT = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><policy user="root"><allow own="org.freedesktop.UPower"/><allow own="net.hadess.PowerProfiles"/></policy>
<policy context="default"><allow send_destination="org.freedesktop.UPower"/><allow send_destination="net.hadess.PowerProfiles"/></policy>
</busconfig>
"""
SERVED, DEFERRED, WAITS = "served", "deferred", "waits"
ALL = {BACKGROUND: SERVED, NORMAL: SERVED, INTERACTIVE: SERVED}
ON_BATTERY = {BACKGROUND: DEFERRED, NORMAL: SERVED, INTERACTIVE: SERVED}
ON_LOW = {BACKGROUND: DEFERRED, NORMAL: DEFERRED, INTERACTIVE: SERVED}
ON_CRITICAL = {BACKGROUND: DEFERRED, NORMAL: DEFERRED, INTERACTIVE: WAITS}
# (on battery, per cent, UPower's warning level, profile): the level, what becomes of each priority; in this order, since a fuller level
# counts with some per cent more than what the emptier one asks for
TABLE = (((False, 100, 1, "balanced"), "mains", ALL),
         ((True, 90, 1, "balanced"), "battery", ON_BATTERY),
         ((True, 60, 1, "power-saver"), "battery", ON_BATTERY),
         ((True, 21, 1, "performance"), "battery", ON_BATTERY),
         ((True, 20, 1, "balanced"), "low", ON_LOW),
         ((True, 60, 3, "balanced"), "low", ON_LOW),
         ((True, 60, 1, "balanced"), "battery", ON_BATTERY),
         ((True, 5, 1, "balanced"), "critical", ON_CRITICAL),
         ((True, 60, 4, "balanced"), "critical", ON_CRITICAL),
         ((True, 15, 1, "balanced"), "low", ON_LOW),
         ((False, 15, 1, "power-saver"), "battery", ON_BATTERY),
         ((False, 15, 1, "balanced"), "mains", ALL))
SETTLE_S, MEASURE_S, INTERVALS = 14, 15, 2
MOST_PER_SECOND = 1.0
SILENT_S = 0.4


class Battery(StreamSteps):
    upower = profiles = None

    def test_01_starts(self):
        self.make_users()
        POLICY.write_text(POLICY_TEXT, encoding="ascii")
        self.assertRuns(systemctl("mask", "--runtime", "--now", "systemd-logind.service"))
        self.assertRuns(systemctl("start", "dbus.service"))
        self.assertRuns(systemctl("reload", "dbus.service"))
        for name, names, template in (("logind", LOGIND, "logind"), ("upower", UPOWER, "upower"),
                                      ("profiles", PROFILES, "power_profiles_daemon")):
            mock = Mock(SystemBus, names, template, {} if template == "upower" else None)
            setattr(type(self), name, mock)
            self.addClassCleanup(mock.end)
        CONFIG.write_text('models = ( { name = "m"; path = "/usr/share/sparkd/spark-tiny.gguf"; default = true; context = 256; } );\n'
                          'threads = 1;\nmemory = { floor = "64M"; };\n', encoding="ascii")
        self.start("m")
        self.assertTrue(until(lambda: status().power.source == "upower"), self.journal())

    def becomes(self, client, priority):
        """Of a new request, now: (what, its id)."""
        id = client.request(generate=pb.Generate(prompt=b"Once", priority=priority, sampling=pb.Sampling(max_tokens=2, seed=1)))
        if status().power.serves == "none" and priority == INTERACTIVE:
            self.assertEqual(client.receive_of(id).progress.stage, "power")
            return (WAITS if client.nothing_comes(SILENT_S) else SERVED), id
        end = client.answer(id)[2]
        if end.WhichOneof("body") == "done":
            return SERVED, id
        self.assertEqual(pb.ErrorCode.Name(end.error.code), "DEFERRED_ON_BATTERY", end)
        self.assertGreater(end.error.retry_after_ms, 0)
        return DEFERRED, id

    @staticmethod
    def reached(supply, percent, profile):
        """A supply that is as it was may be another one until all that has changed is known; the charge is told of late."""
        power = status().power
        return (power.supply, power.profile, power.percent) == (supply, profile, percent)

    def test_02_table(self):
        waiting = []
        with Client(SOCKET_PATH) as client:
            for (on_battery, percent, warning, profile), supply, expected in TABLE:
                row = (on_battery, percent, warning, profile)
                self.profiles.set("ActiveProfile", profile)
                self.upower.supply(on_battery, percent, warning)
                self.assertTrue(until(lambda: self.reached(supply, percent, profile)), (row, status().power))
                found = {}
                for priority in expected:
                    found[priority], id = self.becomes(client, priority)
                    waiting += [id] if found[priority] == WAITS else []
                self.assertEqual(found, expected, row)
            for id in waiting:  # an interactive one is never refused
                self.assertEqual(client.answer(id)[2].WhichOneof("body"), "done")
        self.assertEqual(len(waiting), 2)
        self.note(f"{len(TABLE)} rows of the table of power supplies, {len(TABLE) * 3} requests; {len(waiting)} waited and were served")

    def test_03_idle(self):
        """At most one wakeup a second, with logind, UPower and power-profiles-daemon on the bus, a model on the CPU and a silent client.
        (A thread that waits for a lock of the kernel's, since others keep the machine busy, counts as one that woke.)"""
        with Client(SOCKET_PATH) as client:
            client.ask(models=pb.Models())
            pids = [main_pid(), inside.children(main_pid())["spark-engine"]]
            time.sleep(SETTLE_S)
            rates = []
            while len(rates) < INTERVALS and not (rates and rates[-1] <= MOST_PER_SECOND):
                before = switches(pids)
                time.sleep(MEASURE_S)
                rates.append(sum(n - before.get(thread, 0) for thread, n in switches(pids).items()) / MEASURE_S)
        busy = os.getloadavg()[0]
        self.note(f"idle: {min(rates):.2f} wakeups a second of control and engine (load {busy:.1f})")
        self.assertLessEqual(min(rates), MOST_PER_SECOND * max(1, busy / os.cpu_count()))

    def test_04_ends(self):
        self.assertRuns(systemctl("stop", inside.SERVICE))
        self.assertNotIn("leaves a charge", self.journal())


if __name__ == "__main__":
    inside.main()
