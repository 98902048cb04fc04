#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every method and property of every object that the installed service has on the system bus, as introspection tells of them, is
called by users without rights with arguments right, wrong and absurd, for a minute: it neither ends nor grows, nothing that is
forbidden is done (polkit and the bus's policy are the real ones), and nothing of another user's changes. Run by boot.sh as root of a
container (run.py --script fuzz.py); SPARK_BUS_FUZZ_SECONDS and SPARK_BUS_FUZZ_SEED say how long and with which draw."""

import collections
import os
import pwd
import time
import xml.etree.ElementTree as ElementTree

import inside
from inside import NAME, PATH, SERVICE, main_pid, run, show, systemctl, until
from streams import CONFIG, Client, SOCKET_PATH, StreamSteps, SystemBus, pb, status
import dbus
import dbus.bus
from dbus.mainloop.glib import DBusGMainLoop
from bus_draw import FORBIDDEN, USE, Caller, Draw, call_at_random, leave, pump  # (streams.py has told where it is)

SECONDS = float(os.environ.get("SPARK_BUS_FUZZ_SECONDS") or 60)
SEED = int(os.environ.get("SPARK_BUS_FUZZ_SEED") or time.time_ns() & 0xffffffff)
USERS = ("nobody", "member")  # the one may do next to nothing, the other is in the group
ROUNDS = 6
GROWS_BYTES = 4 << 20         # what an allocator keeps goes up and down; a leak only goes up
CALLS_OPEN = 60
INTROSPECT = "org.freedesktop.DBus.Introspectable"
GONE = "org.freedesktop.DBus.Error.UnknownObject"
DROP_IN = "[Service]\nEnvironment=MALLOC_MMAP_THRESHOLD_=16384 MALLOC_TRIM_THRESHOLD_=4096 MALLOC_TOP_PAD_=0\n"


def rss(pid):
    """Bytes of anonymous memory."""
    return int(inside.status_of(pid)["RssAnon"].split()[0]) * 1024


class Fuzz(StreamSteps):
    session = None  # root's
    methods = {}

    @classmethod
    def connect_as(cls, user, loop=None):
        """A connection to the bus as this user, with their groups."""
        entry = pwd.getpwnam(user)
        groups = os.getgroups()
        os.setgroups(os.getgrouplist(user, entry.pw_gid))
        os.setegid(entry.pw_gid)
        os.seteuid(entry.pw_uid)
        try:
            return dbus.bus.BusConnection(SystemBus.address, mainloop=loop)
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)

    def test_01_starts(self):
        self.make_users()
        folder = f"/run/systemd/system/{SERVICE}.d"
        os.makedirs(folder)
        with open(folder + "/test.conf", "w", encoding="ascii") as file:
            file.write(DROP_IN)  # the allocator gives back what it can, so that what is left is what is held
        CONFIG.write_text('models = ( { name = "m"; path = "/usr/share/sparkd/spark-tiny.gguf"; default = true; context = 256; } );\n'
                          'threads = 1;\nmemory = { floor = "64M"; };\n', encoding="ascii")
        for unit in "daemon-reload", "start:dbus.service", "start:polkit.service", "start:sparkd.socket":
            self.assertRuns(systemctl(*unit.split(":")))
        self.start("m")
        self.assertTrue(until(lambda: run("busctl", "status", NAME).returncode == 0))
        type(self).root = dbus.bus.BusConnection(SystemBus.address)
        type(self).session = self.assertRuns(run("sparkctl", "session", "create", "--name", "roots own")).split()[0]
        self.assertRuns(run("sparkctl", "generate", "-n", "4", "--session", self.session, "Once"))

    def objects(self, path="/"):
        """{path: {interface: {method: signature}}} of all there is below, by introspection."""
        try:
            said = self.root.call_blocking(NAME, path, INTROSPECT, "Introspect", "", ())
        except dbus.DBusException as error:
            if error.get_dbus_name() != GONE or path == "/":
                raise
            return {}  # a job or a session that ended since it was told of
        root = ElementTree.fromstring(said)
        found = {path: {interface.get("name"): {
            method.get("name"): "".join(a.get("type") for a in method.findall("arg") if a.get("direction", "in") == "in")
            for method in interface.findall("method")} for interface in root.findall("interface")}}
        for node in root.findall("node"):
            found |= self.objects(path.rstrip("/") + "/" + node.get("name"))
        return found

    def all_objects(self):
        """And those that only who may is told of: sessions and jobs."""
        hidden = self.root.call_blocking(NAME, PATH, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects", "", ())
        found = self.objects()
        for path in map(str, hidden):
            found |= self.objects(path)
        return found

    def test_02_everything_is_found(self):
        objects = self.all_objects()
        for interfaces in objects.values():
            for interface, methods in interfaces.items():
                self.methods.setdefault(interface, {}).update(methods)
        ours = {interface.removeprefix(NAME + ".") for interface in self.methods if interface.startswith(NAME)}
        self.assertLessEqual({"Manager", "Model", "Session", "Memory", "Power"}, ours)
        self.methods.setdefault(NAME + ".Job", {"Cancel": ""})  # one that runs is there while it runs
        self.note(f"{len(objects)} objects, {len(self.methods)} interfaces, {sum(map(len, self.methods.values()))} methods")

    def paths(self):
        return [str(path) for path in self.all_objects()]

    def held(self):
        """Of others and of the machine, what no call of these users may change."""
        with Client(SOCKET_PATH) as client:
            sessions = [(s.id, s.name, s.tokens) for s in client.ask(sessions=pb.Sessions()).done.sessions.sessions if s.uid == 0]
            models = [(m.name, m.state) for m in client.ask(models=pb.Models()).done.models.models]
        return (sessions, models, CONFIG.read_text(encoding="ascii"), main_pid(), show("NRestarts"))

    def settle(self):
        """What they asked for has ended with their connections. (sparkctl is the one that asks.)"""
        return until(lambda: self.left() == ([], [], [], 0), timeout=30)

    def left(self):
        s = status()
        jobs = self.root.call_blocking(NAME, PATH, f"{NAME}.Manager", "ListJobs", "", ())
        return (list(s.requests), list(s.leases), list(jobs),
                sum("/session/" in path for path in self.paths()) - len(self.sessions_before))

    def fuzz(self, draw, seconds, verdicts):
        loop = DBusGMainLoop()
        callers = [(user, Caller(self.connect_as(user, loop), verdicts[user])) for user in USERS * 2]
        paths, end, calls = self.paths(), time.monotonic() + seconds, 0
        while time.monotonic() < end:
            i = draw.random.randrange(len(callers))
            user, caller = callers[i]
            for _ in range(draw.random.choice((1, 1, 5, 40))):
                call_at_random(draw, caller, self.methods, paths)
                calls += 1
            if draw.random.random() < 0.05:  # leaves with what it has asked for
                caller.connection.flush()
                caller.close()
                callers[i] = user, Caller(self.connect_as(user, loop), verdicts[user])
            self.assertTrue(pump([caller for _, caller in callers], CALLS_OPEN), "answers do not come")
            if calls % 200 < 5:
                paths = self.paths()
        self.assertTrue(pump([caller for _, caller in callers], 0), "answers do not come")
        leave([caller for _, caller in callers])
        return calls

    def test_03_at_random(self):
        type(self).sessions_before = [path for path in self.paths() if "/session/" in path]
        draw, verdicts = Draw(SEED), {user: collections.Counter() for user in USERS}
        self.fuzz(draw, 2, {user: collections.Counter() for user in USERS})  # whatever is made once is there now
        self.assertTrue(self.settle(), self.left())
        pid, before, memory, calls = main_pid(), self.held(), [], 0
        places, fds = inside.descriptors()
        began = time.monotonic()
        for _ in range(ROUNDS):
            calls += self.fuzz(draw, SECONDS / ROUNDS, verdicts)
            self.assertTrue(self.settle(), self.left())
            self.assertTrue(until(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= fds), os.listdir(f"/proc/{pid}/fd"))
            memory.append(rss(pid))
        took = time.monotonic() - began
        self.assertTrue(until(lambda: int(show("NFileDescriptorStore")) <= places), (places, show("NFileDescriptorStore")))
        grown = min(memory[ROUNDS // 2:]) - min(memory[:ROUNDS // 2])
        answers = {user: sum(said.values()) for user, said in verdicts.items()}
        errors = {error for said in verdicts.values() for _, _, error in said}
        self.note(f"seed {SEED}: {calls} calls in {took:.0f} s, answers {answers}, {len(errors)} kinds of errors, {grown >> 10} KiB more "
                  f"memory, {fds} descriptors before and after")
        for user, said in verdicts.items():
            done = {(interface, member) for interface, member, error in said if error is None}
            self.assertFalse(done & FORBIDDEN, user)
        self.assertTrue(USE & {(i, m) for i, m, error in verdicts["member"] if error is None})
        self.assertEqual(self.held(), before)
        self.assertLess(grown, GROWS_BYTES)
        self.assertServes()

    def test_04_rights_of_all_calls(self):
        """Not at random: what is administrative, rightly asked, is refused to both; and what is root's stays."""
        self.assertRuns(run("sparkctl", "models", "import", "/usr/share/sparkd/spark-tiny.gguf", "--name", "theirs"))
        stored = self.assertRuns(inside.call("ListStored"))
        for user in USERS:
            for method, *arguments in (("Unload", "s", "m"), ("Load", "sa{sv}", "m", "0"), ("Reload",),
                                       ("RemoveModel", "s", "theirs"), ("PackModel", "ssa{sv}", "m", "n", "0")):
                refused = inside.call(method, *arguments, user=user)
                self.assertNotEqual(refused.returncode, 0, (user, method))
                self.assertRegex(refused.stderr, "Only root|Access denied|not allowed|may", (user, method))
            path = f"{PATH}/session/{self.session}"
            self.assertNotEqual(run("busctl", "call", NAME, path, NAME + ".Session", "Close", user=user).returncode, 0, user)
        self.assertIn(self.session, self.assertRuns(run("sparkctl", "session", "list")))
        self.assertEqual(self.assertRuns(inside.call("ListStored")), stored)

    def test_05_ends(self):
        said = self.journal()
        self.assertRuns(systemctl("stop", SERVICE))
        self.assertNotIn("leaves a charge", self.journal())
        self.assertNotIn("code=killed", said)


if __name__ == "__main__":
    inside.main()
