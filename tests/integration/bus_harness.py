# SPDX-License-Identifier: Apache-2.0
"""A private bus, daemons that serve on it, and clients of it (python3-dbus, busctl, gdbus)."""

import contextlib
import errno
import fcntl
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

from harness import *
from harness import pb

try:
    import dbus
    import dbus.bus
    import dbus.lowlevel
except ImportError:
    dbus = None

__all__ = ["dbus", "NAME", "PATH", "MANAGER", "MODEL", "SESSION", "JOB", "MEMORY", "POWER", "FIXED", "MODEL_PATH", "NOBODY",
           "Bus", "BusTestCase", "MockedPolkit", "described", "text", "u32", "u64"]

NAME, PATH = "org.sparkd.Spark1", "/org/sparkd/Spark1"
MANAGER, MODEL, SESSION, JOB, MEMORY, POWER = (f"{NAME}.{interface}" for interface in
                                               ("Manager", "Model", "Session", "Job", "Memory", "Power"))
FIXED = [PATH + "/memory", PATH + "/power"]  # objects that are always there
ERROR = NAME + ".Error."
MODEL_PATH = PATH + "/model/null"
NOBODY = 65534

BUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={folder}/bus</listen>
  <policy context="default">
    <allow user="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    {own}
  </policy>
</busconfig>
"""


class Bus:
    """A private dbus-daemon that can go away and come back."""

    def __init__(self, own=True):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sparkd-bus-"))
        self.folder.chmod(0o755)
        self.address = f"unix:path={self.folder}/bus"
        self.process = None
        rule = '<allow own="*"/>' if own else '<deny own="*"/>'
        (self.folder / "conf").write_text(BUS_CONFIG.format(folder=self.folder, own=rule), encoding="ascii")

    def start(self):
        with contextlib.suppress(FileNotFoundError):
            (self.folder / "bus").unlink()
        self.process = subprocess.Popen(["dbus-daemon", f"--config-file={self.folder}/conf", "--nofork",
                                         "--nopidfile"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._listens, 10, "the bus's socket")

    def _listens(self):
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(self.folder / "bus"))
            return True
        return False

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def remove(self):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def text(value):
    return dbus.String(value, variant_level=1)


def u32(value):
    return dbus.UInt32(value, variant_level=1)


def u64(value):
    return dbus.UInt64(value, variant_level=1)


def described(node):
    """What introspection says of our interfaces, in a form that compares."""
    interfaces = {}
    for interface in node.iter("interface"):
        if not interface.get("name").startswith(NAME):
            continue
        methods = {m.get("name"): [(a.get("direction"), a.get("type"), a.get("name")) for a in m.findall("arg")]
                   for m in interface.findall("method")}
        signals = {m.get("name"): [(a.get("type"), a.get("name")) for a in m.findall("arg")]
                   for m in interface.findall("signal")}
        properties = {}
        for item in interface.findall("property"):
            emits = [a.get("value") for a in item.findall("annotation")
                     if a.get("name") == "org.freedesktop.DBus.Property.EmitsChangedSignal"]
            properties[item.get("name")] = (item.get("type"), item.get("access"), (emits or ["true"])[0])
        interfaces[interface.get("name")] = (methods, signals, properties)
    return interfaces


@unittest.skipUnless(dbus, "python3-dbus is not installed")
@unittest.skipUnless(shutil.which("dbus-daemon"), "dbus-daemon is not installed")
class BusTestCase(TestCase):
    def setUp(self):
        self.bus = self.new_bus()
        self.bus.start()

    def new_bus(self, **options):
        bus = Bus(**options)
        self.addCleanup(bus.remove)
        return bus

    def serve(self, bus=None, env=None, **settings):
        bus = bus or self.bus
        daemon = self.daemon(bus="session", env={"DBUS_SESSION_BUS_ADDRESS": bus.address, **(env or {})}, **settings)
        until(lambda: "on the bus as" in daemon.log(), 10, "the name on the bus")
        if settings.get("backend", "null") == "null":
            daemon.wait_engine()
        return daemon

    def connect(self, uid=None):
        """A connection; as another user, which takes root."""
        if uid is not None:
            os.seteuid(uid)
        try:
            connection = dbus.bus.BusConnection(self.bus.address)
        finally:
            if uid is not None:
                os.seteuid(0)
        self.addCleanup(connection.close)
        return connection

    def begin_import(self, daemon, connection, name="big", frozen=True):
        """An import of a large file: (the path of its job, its call). It takes its time, or (frozen) does not end by itself."""
        big = daemon.folder / "big.gguf"
        big.write_bytes((ROOT / "share/models/spark-tiny.gguf").read_bytes())
        os.truncate(big, 3 << 30)
        before = {job[1] for job in self.call(self.connect(), "ListJobs")}
        fd = os.open(big, os.O_RDONLY)
        message = dbus.lowlevel.MethodCallMessage(NAME, PATH, MANAGER, "ImportModel")
        message.append(dbus.types.UnixFd(fd), name, dbus.Dictionary({}, signature="sv"), signature="hsa{sv}")
        os.close(fd)
        ended = []
        call = connection.send_message_with_reply(message, ended.append)
        connection.flush()
        (path,) = until(lambda: {job[1] for job in self.call(self.connect(), "ListJobs")} - before, what="the import's job")
        if frozen:
            daemon.freeze("spark-store")
        return path, call

    def call(self, connection, method, signature="", args=(), path=PATH, interface=MANAGER, timeout=60):
        return connection.call_blocking(NAME, path, interface, method, signature, args, timeout=timeout * SLOW)

    def get(self, connection, name, path=PATH, interface=MANAGER):
        return self.call(connection, "Get", "ss", (interface, name), path, "org.freedesktop.DBus.Properties")

    def complete(self, connection, prompt="Once", **options):
        return self.call(connection, "Complete", "sa{sv}", (prompt, dbus.Dictionary(options, signature="sv")))

    def generate(self, connection, prompt="Once", **options):
        fd = self.call(connection, "Generate", "sa{sv}", (prompt, dbus.Dictionary(options, signature="sv"))).take()
        self.addCleanup(self.close_quietly, fd)
        return fd

    @staticmethod
    def shrink(fd):
        """Makes a pipe one of one page; what was in the way is returned."""
        data = b""
        while True:
            try:
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 4096)
                return data
            except OSError as error:  # it has more than that by now
                if error.errno != errno.EBUSY:
                    raise
                data += os.read(fd, 1 << 16)

    @staticmethod
    def close_quietly(fd):
        with contextlib.suppress(OSError):
            os.close(fd)

    def assertRefused(self, code, function, *args, **options):
        """Gives the sentence."""
        with self.assertRaises(dbus.DBusException) as caught:
            function(*args, **options)
        self.assertEqual(caught.exception.get_dbus_name(), ERROR + code)
        message = caught.exception.get_dbus_message()
        self.assertTrue(message)
        return message

    def requests(self, daemon):
        with daemon.connect() as client:
            return list(client.ask(status=pb.Status()).done.status.requests)

    def monitor(self):
        """Lines of `gdbus monitor`, as a list that grows; it listens to the daemon when this returns."""
        before = self.monitors()
        process = subprocess.Popen(["gdbus", "monitor", "--address", self.bus.address, "--dest", NAME],
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        lines = []

        def read():
            for line in process.stdout:
                lines.append(line)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()

        def end():
            process.kill()
            process.wait()
            reader.join()
            process.stdout.close()
        self.addCleanup(end)
        until(lambda: self.monitors() > before, 10, "the monitor")
        return lines

    def monitors(self):
        """How many monitors the bus sends the daemon's signals to. A monitor says who owns the name before it asks for
        its signals, so what it prints does not tell."""
        bus = self.connect()
        owner = bus.get_name_owner(NAME)
        rules = bus.call_blocking("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus.Debug.Stats",
                                  "GetAllMatchRules", "", ())
        bus.close()
        return sum(rule == f"type='signal',sender='{owner}'" for of_one in rules.values() for rule in of_one)

    def busctl(self, *args, **options):
        return subprocess.Popen(["busctl", f"--address={self.bus.address}", *args], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, **options)


@unittest.skipIf(os.geteuid() != 0, "becomes another user, which takes root")
class MockedPolkit(BusTestCase):
    """A daemon on a "system" bus of its own, with a polkit that says what it is told to."""

    def setUp(self):
        super().setUp()
        self.bus.folder.chmod(0o755)
        self.env = {"DBUS_SYSTEM_BUS_ADDRESS": self.bus.address}
        self.admin = self.connect()
        self.caller = self.connect(uid=NOBODY)

    def polkit(self, **answers):
        if subprocess.run([sys.executable, "-c", "import dbusmock"], stderr=subprocess.DEVNULL, check=False).returncode:
            self.skipTest("python3-dbusmock is not installed")
        mock = subprocess.Popen([sys.executable, "-m", "dbusmock", "--system", "--template",
                                 str(pathlib.Path(__file__).parent / "polkit_template.py")],
                                env={**os.environ, **self.env}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)
        self.addCleanup(mock.wait)
        self.addCleanup(mock.kill)
        until(lambda: self.admin.name_has_owner("org.freedesktop.PolicyKit1"), 10, "the mocked polkit")
        self.answer(**answers)
        return mock

    def mock_call(self, method, signature="", args=()):
        return self.admin.call_blocking("org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority",
                                        "org.freedesktop.DBus.Mock", method, signature, args)

    def answer(self, **answers):
        self.mock_call("Answer", "a{ss}", (dbus.Dictionary({f"{NAME}.{action.replace('_', '-')}": word
                                                            for action, word in answers.items()}, signature="ss"),))

    def asked(self):
        """Actions since the last time."""
        return [line.split()[2].removeprefix(NAME + ".") if line != "cancel" else line for line in self.mock_call("Questions")]

    def serve_system(self, socket_mode="0600", **settings):
        daemon = self.daemon(bus="system", env=self.env, socket_mode=socket_mode, **settings)
        until(lambda: "on the bus as" in daemon.log(), 10, "the name on the bus")
        if settings.get("backend", "null") == "null":
            daemon.wait_engine()
        return daemon
