# SPDX-License-Identifier: Apache-2.0
"""Mocks of those who know about power (python3-dbusmock: logind, UPower, power-profiles-daemon) on a private bus, and made-up
files of the kernel."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

from bus_harness import BusTestCase, dbus
from harness import *
from harness import pb

try:
    import dbusmock
except ImportError:
    dbusmock = None

__all__ = ["dbus", "dbusmock", "pb", "until", "LOGIND", "UPOWER", "PROFILES", "Mock", "PowerTestCase", "Sys", "BACKGROUND",
           "NORMAL", "INTERACTIVE", "needs_root", "switches"]

LOGIND = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
UPOWER = ("org.freedesktop.UPower", "/org/freedesktop/UPower", "org.freedesktop.UPower")
DISPLAY = "/org/freedesktop/UPower/devices/DisplayDevice"
PROFILES = ("net.hadess.PowerProfiles", "/net/hadess/PowerProfiles", "net.hadess.PowerProfiles")
MOCK = "org.freedesktop.DBus.Mock"
BACKGROUND, NORMAL, INTERACTIVE = pb.BACKGROUND, pb.NORMAL, pb.INTERACTIVE

needs_root = unittest.skipIf(os.geteuid() != 0, "connecting as another user needs root")


def switches(pids):
    """By thread: (process, thread, its name) -> how often it slept and woke."""
    found = {}
    for pid in pids:
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
                status = (task / "status").read_text(encoding="ascii", errors="replace")
                name = (task / "comm").read_text(encoding="ascii", errors="replace").strip()
                found[pid, task.name, name] = int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])
    return found


class Mock:
    """A process that plays one service: from a template, or empty under a name."""

    def __init__(self, bus, names, template=None, parameters=None):
        self.names, self.bus = names, bus
        arguments = ["--template", template, "--session"] if template else list(names)
        if parameters:
            arguments += ["--parameters", json.dumps(parameters)]
        env = {**os.environ, "DBUS_SESSION_BUS_ADDRESS": bus.address, "DBUS_SYSTEM_BUS_ADDRESS": bus.address}
        self.process = subprocess.Popen([sys.executable, "-m", "dbusmock", *arguments], env=env, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.connection = until(self._connect, 10, "the bus")
        until(lambda: self.connection.name_has_owner(names[0]), 20, f"{names[0]} on the bus")

    def _connect(self):
        try:
            return dbus.bus.BusConnection(self.bus.address)
        except dbus.DBusException:  # its socket is there before it listens
            return None

    def call(self, method, *args, path=None, interface=None):
        node = self.connection.get_object(self.names[0], path or self.names[1], introspect=False)
        return node.get_dbus_method(method, interface or self.names[2])(*args)

    def mock(self, method, *args, path=None):
        return self.call(method, *args, path=path, interface=MOCK)

    def set(self, name, value, path=None, interface=None):
        """Sets a property; PropertiesChanged goes out."""
        self.call("Set", interface or self.names[2], name, value, path=path, interface="org.freedesktop.DBus.Properties")

    def sleep(self, begins):
        self.mock("EmitSignal", self.names[2], "PrepareForSleep", "b", [dbus.Boolean(begins)])

    def inhibitors(self):
        """[(what, mode)] of ours."""
        return sorted((str(i[0]), str(i[3])) for i in self.call("ListInhibitors") if i[1] == "sparkd")

    def supply(self, on_battery, percent=None, warning=1):
        """What UPower says; the charge behind what is said about it, and last whether it counts."""
        device = self.names[2] + ".Device"
        if percent is not None:
            self.set("IsPresent", dbus.Boolean(True), DISPLAY, device)
            self.set("WarningLevel", dbus.UInt32(warning), DISPLAY, device)
            self.set("Percentage", dbus.Double(percent), DISPLAY, device)
        self.set("OnBattery", dbus.Boolean(on_battery))

    def end(self):
        with contextlib.suppress(Exception):
            self.connection.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Sys:
    """A folder that looks like /sys."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="sparkd-sys-")
        self.path = self.folder.name

    def put(self, path, text):
        file = pathlib.Path(self.path, "class", path)
        file.parent.mkdir(parents=True, exist_ok=True)
        other = file.with_name("." + file.name)
        other.write_text(f"{text}\n", encoding="ascii")
        other.rename(file)

    def put_in_place(self, path, text):
        """For files that are held open."""
        with open(pathlib.Path(self.path, "class", path), "r+", encoding="ascii") as file:
            file.write(f"{text}\n")


@unittest.skipUnless(dbusmock, "python3-dbusmock is not installed")
class PowerTestCase(BusTestCase):
    def mock(self, names, template=None, parameters=None):
        mock = Mock(self.bus, names, template, parameters)
        self.addCleanup(mock.end)
        return mock

    def logind(self):
        return self.mock(LOGIND, "logind")

    def upower(self, **parameters):
        return self.mock(UPOWER, "upower", parameters)

    def sys(self):
        sys_folder = Sys()
        self.addCleanup(sys_folder.folder.cleanup)
        return sys_folder

    def serve(self, bus=None, env=None, **settings):
        power = {"sysfs": "/nonexistent", **settings.pop("power", {})}
        return super().serve(bus, env, power=power, **settings)

    def power(self, daemon):
        with daemon.connect() as client:
            return client.ask(status=pb.Status()).done.status.power

    def wait_power(self, daemon, timeout=10, **fields):
        """Status until the fields have these values."""
        def reached():
            power = self.power(daemon)
            return power if all(getattr(power, k) == v for k, v in fields.items()) else None
        try:
            return until(reached, timeout, f"{fields}")
        except AssertionError:
            raise AssertionError(f"{fields} expected: {self.power(daemon)}\n{daemon.log()}") from None

    def ask(self, client, priority=NORMAL, n=4, seed=1):
        return client.request(generate=pb.Generate(prompt=b"Once", priority=priority,
                                                   sampling=pb.Sampling(max_tokens=n, seed=seed)))

    def assertServed(self, client, priority):
        self.assertDone(client.answer(self.ask(client, priority))[2])

    def assertDeferred(self, client, priority, says=""):
        end = client.answer(self.ask(client, priority))[2]
        self.assertError(end, "DEFERRED_ON_BATTERY")
        self.assertGreater(end.error.retry_after_ms, 0)
        self.assertIn(says, end.error.message)

    def measure(self, condition, limit, what):
        """Seconds until the condition holds; fails beyond the limit, slow machine or not."""
        began = time.monotonic()
        while not condition():
            self.assertLess(time.monotonic() - began, limit, what)
            time.sleep(0.005)
        return time.monotonic() - began
