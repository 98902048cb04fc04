# SPDX-License-Identifier: Apache-2.0
"""Sessions and jobs on the bus: whose they are, what is told of them, how they end."""

import contextlib
import os
import re
import signal
import subprocess
import time
import unittest

from bus_harness import *
from harness import *
from harness import pb

TINY = ROOT / "share/models/spark-tiny.gguf"
PROPERTIES, OBJECTS = "org.freedesktop.DBus.Properties", "org.freedesktop.DBus.ObjectManager"


class Sessions(BusTestCase):
    def objects(self, connection):
        found = self.call(connection, "GetManagedObjects", interface=OBJECTS)
        return {path: interfaces[SESSION] for path, interfaces in found.items() if SESSION in interfaces}

    def test_a_conversation(self):
        daemon = self.serve()
        bus = self.connect()
        signals = self.monitor()
        with daemon.connect() as client:
            made = client.ask(session_create=pb.SessionCreate(persistent=True, name="notes")).done.session
            path = f"{PATH}/session/{made.id}"
            self.assertDone(client.ask(session_append=pb.SessionAppend(session=made.id, text=b"Once upon a time")))
            self.assertEqual(list(self.objects(bus)), [path])
            got = self.call(bus, "GetAll", "s", (SESSION,), path, PROPERTIES)
            self.assertEqual((got["Id"], got["Kind"], got["Name"], got["State"], got["Uid"], bool(got["Persistent"])),
                             (made.id, "conversation", "notes", "idle", os.getuid(), True))
            self.assertGreater(got["Tokens"], 2)
            self.assertEqual(self.get(bus, "Tokens", path, SESSION), got["Tokens"])
        until(lambda: self.get(bus, "StoredBytes", path, SESSION) > 0, what="its file")
        self.assertIsNone(self.call(bus, "Close", path=path, interface=SESSION))
        self.assertEqual(self.objects(bus), {})
        self.assertFalse(list(daemon.folder.glob(f"sessions/**/*{made.id}*")))
        until(lambda: any("InterfacesRemoved" in line and path in line for line in signals), what="the signals")
        added = [line for line in signals if "InterfacesAdded" in line and path in line]
        self.assertEqual(len(added), 1)
        self.assertNotIn("notes", "".join(signals))  # everybody hears them

    def test_what_is_not_there(self):
        self.serve()
        bus = self.connect()
        for path in "0", "999", "../x", "a" * 32, "x" * 300:
            for method, signature, args in (("Get", "ss", (SESSION, "Id")), ("GetAll", "s", (SESSION,))):
                with self.assertRaises(dbus.DBusException) as caught:
                    self.call(bus, method, signature, args, f"{PATH}/session/{path}".replace("../", "__"), PROPERTIES)
                self.assertEqual(caught.exception.get_dbus_name(), "org.freedesktop.DBus.Error.UnknownObject")
        path, fd = self.call(bus, "OpenSession", "a{sv}", (dbus.Dictionary(signature="sv"),))
        os.close(fd.take())
        until(lambda: not self.objects(bus), what="its end")

    def test_wrong_properties(self):
        self.serve()
        bus = self.connect()
        path, fd = self.call(bus, "OpenSession", "a{sv}", (dbus.Dictionary(signature="sv"),))
        fd = fd.take()
        errors = "org.freedesktop.DBus.Error."
        for error, method, signature, args in (
                ("UnknownProperty", "Get", "ss", (SESSION, "Nonsense")), ("UnknownProperty", "Get", "ss", (JOB, "Id")),
                ("InvalidArgs", "Get", "s", ("x",)), ("InvalidArgs", "GetAll", "u", (1,)),
                ("UnknownInterface", "GetAll", "s", (JOB,)),
                ("PropertyReadOnly", "Set", "ssv", (SESSION, "Name", text("x")))):
            with self.assertRaises(dbus.DBusException) as caught:
                self.call(bus, method, signature, args, path, PROPERTIES)
            self.assertEqual(caught.exception.get_dbus_name(), errors + error, (method, args))
        self.assertEqual(self.call(bus, "GetAll", "s", ("",), path, PROPERTIES)["Kind"], "connection")
        os.close(fd)

    @unittest.skipIf(os.geteuid() != 0, "becomes another user, which takes root")
    def test_others_do_not_see_it(self):
        daemon = self.serve()
        stranger = self.connect(uid=NOBODY)
        with daemon.connect() as client, daemon.connect(uid=NOBODY) as other:
            ours = f"{PATH}/session/" + client.ask(session_create=pb.SessionCreate(name="ours")).done.session.id
            theirs = f"{PATH}/session/" + other.ask(session_create=pb.SessionCreate(name="theirs")).done.session.id
            self.assertEqual(list(self.objects(stranger)), [theirs])
            self.assertEqual(set(self.objects(self.connect())), {ours, theirs})
            self.assertIn("observe-others", self.assertRefused("PermissionDenied", self.get, stranger, "Name", ours, SESSION))
            self.assertEqual(self.get(stranger, "Name", theirs, SESSION), "theirs")
            self.assertRefused("PermissionDenied", self.call, stranger, "Close", path=ours, interface=SESSION)
            self.assertIsNone(self.call(stranger, "Close", path=theirs, interface=SESSION))
            self.assertIsNone(self.call(self.connect(), "Close", path=ours, interface=SESSION))


class Leases(BusTestCase):
    def setUp(self):
        super().setUp()
        self.daemon_ = self.serve()
        self.bus_ = self.connect()

    def reserve(self, connection, size=64 << 20, who="blender", why="a film", **options):
        fd = self.call(connection, "ReserveMemory", "tssa{sv}", (size, who, why, dbus.Dictionary(options, signature="sv"))).take()
        self.addCleanup(self.close_quietly, fd)
        return fd

    def hold(self, connection, model="null", **options):
        options = dbus.Dictionary(options, signature="sv")
        fd = self.call(connection, "HoldWarm", "sssa{sv}", (model, "editor", "a person types", options)).take()
        self.addCleanup(self.close_quietly, fd)
        return fd

    def leases(self, connection=None):
        return [tuple(lease) for lease in self.call(connection or self.bus_, "ListLeases")]

    def test_memory(self):
        before = self.daemon_.fd_count()
        signals = self.monitor()
        fd = self.reserve(self.bus_, policy=text("busy"))
        (id, kind, state, size, given, model, who, why, uid, pid), = self.leases()
        self.assertEqual((kind, state, size, model, who, why, uid, pid),
                         ("memory", "granted", 64 << 20, "", "blender", "a film", os.getuid(), os.getpid()))
        self.assertGreaterEqual(given, 64 << 20)
        self.assertEqual(self.get(self.bus_, "LeasedBytes", FIXED[0], MEMORY), 64 << 20)
        until(lambda: any("'LeasedBytes': <uint64 67108864>" in line for line in signals), 10, "the signal")
        other = os.dup(fd)  # as a child has it
        os.close(fd)
        self.assertEqual(len(self.leases()), 1)
        os.close(other)
        until(lambda: not self.leases(), 10, "the lease's end")
        self.assertEqual(self.get(self.bus_, "LeasedBytes", FIXED[0], MEMORY), 0)
        self.wait_fds(self.daemon_, before)
        self.assertServes(self.daemon_)

    def test_a_model_that_is_held(self):
        self.call(self.bus_, "Unload", "s", ("null",))
        fd = self.hold(self.bus_)
        self.assertEqual(self.get(self.bus_, "State", MODEL_PATH, MODEL), "ready")
        (_, kind, state, _, _, model, who, *_), = self.leases()
        self.assertEqual((kind, state, model, who), ("warm", "warm", "null", "editor"))
        os.close(fd)
        until(lambda: not self.leases(), 10, "the lease's end")
        fd = self.hold(self.bus_, model="", wait=dbus.Boolean(False, variant_level=1))
        self.assertEqual(len(self.leases()), 1)
        os.close(fd)

    def test_refused(self):
        for args in ((0, "x", "y"), (1 << 60, "x", "y"), (1 << 20, "x" * 129, "y"), (1 << 20, "x", "y" * 257)):
            with self.subTest(args=args[0]):
                self.assertRefused("InvalidArgument", self.reserve, self.bus_, *args)
        self.assertIn("policy", self.assertRefused("InvalidArgument", self.reserve, self.bus_, policy=text("never")))
        self.assertIn("foo", self.assertRefused("InvalidArgument", self.reserve, self.bus_, foo=u32(1)))
        self.assertIn("policy", self.assertRefused("InvalidArgument", self.hold, self.bus_, policy=text("busy")))
        self.assertRefused("ModelNotFound", self.hold, self.bus_, "nobody")
        self.assertEqual(self.leases(), [])

    def test_a_holder_that_is_killed(self):
        before = self.daemon_.fd_count()
        fd = self.reserve(self.bus_)
        holder = subprocess.Popen(["sleep", "1000"], pass_fds=[fd])
        os.close(fd)
        time.sleep(0.3)
        self.assertEqual(len(self.leases()), 1)
        holder.kill()
        holder.wait()
        until(lambda: not self.leases(), 10, "the lease's end")
        self.wait_fds(self.daemon_, before)

    def test_a_caller_that_leaves_while_it_waits(self):
        """For a model that does not come; its lease goes with it."""
        engine = self.daemon_.wait_engine()
        os.kill(engine, signal.SIGSTOP)
        caller = self.busctl("call", "--timeout=60", NAME, PATH, MANAGER, "ReserveMemory", "tssa{sv}", str(1 << 33), "x", "y", "0")
        until(lambda: self.leases() or caller.poll() is not None, 10, "a lease")
        caller.kill()
        caller.communicate()
        until(lambda: not self.leases(), 10, "its end")
        with contextlib.suppress(ProcessLookupError):  # that hangs is killed in the end
            os.kill(engine, signal.SIGCONT)
        self.assertServes(self.daemon_)

    @unittest.skipIf(os.geteuid() != 0, "becomes another user, which takes root")
    def test_others_see_what_is_held_and_not_by_whom(self):
        fd = self.reserve(self.bus_)
        stranger = self.connect(uid=NOBODY)
        (_, kind, state, size, _, _, who, why, uid, pid), = self.leases(stranger)
        self.assertEqual((kind, state, size, who, why, uid, pid), ("memory", "granted", 64 << 20, "", "", 0xffffffff, 0))
        own = self.reserve(stranger, who="mine")
        self.assertEqual({lease[6] for lease in self.leases(stranger)}, {"", "mine"})
        self.assertEqual({lease[6] for lease in self.leases()}, {"blender", "mine"})
        os.close(own)
        os.close(fd)


class Machine(BusTestCase):
    def test_memory(self):
        daemon = self.serve()
        bus = self.connect()
        signals = self.monitor()

        def read():  # until both are of the same moment, as far as others let the machine's memory rest
            with daemon.connect() as client:
                status = client.ask(status=pb.Status()).done.status
            got = self.call(bus, "GetAll", "s", (MEMORY,), FIXED[0], PROPERTIES)
            return abs(got["Available"] - status.memory_available) < 256 << 20 and (status, got)
        status, got = until(read, what="the same memory on the bus and the socket")
        self.assertEqual((got["Total"], got["Floor"], got["KV"]), (status.memory_total, 64 << 20, status.memory_kv))
        self.assertEqual(self.call(bus, "GetManagedObjects", interface=OBJECTS)[FIXED[0]][MEMORY]["Total"], got["Total"])
        daemon.configure(bus="session", memory={"floor": "65M"})
        self.call(bus, "Reload")
        until(lambda: any("/memory: " in line and "'Floor': <uint64 68157440>" in line for line in signals), 10, "the signal")
        self.assertFalse([line for line in signals if "Available" in line])

    def test_power(self):
        daemon = self.serve()
        with daemon.connect() as client:
            power = client.ask(status=pb.Status()).done.status.power
        got = self.call(self.connect(), "GetAll", "s", (POWER,), FIXED[1], PROPERTIES)
        self.assertEqual((got["Supply"], got["Source"], got["Sleep"], got["Inhibitor"], got["EnergySource"]),
                         (power.supply, power.source, power.sleep, power.inhibitor, power.energy_source))


class Jobs(BusTestCase):
    def setUp(self):
        super().setUp()
        self.daemon_ = self.serve(backend="cpu", threads=1, models=[{"name": "tiny", "path": str(TINY)}])
        self.bus_ = self.connect()
        self.daemon_.wait_engine()  # the only model is the default one, and loaded at the start
        self.call(self.bus_, "Unload", "s", ("tiny",))
        self.signals = self.monitor()

    def jobs(self):
        return [tuple(job) for job in self.call(self.bus_, "ListJobs")]

    def results(self):
        return re.findall(r"JobRemoved \(uint64 \d+, objectpath '([^']*)', '(\w+)'\)", "".join(self.signals))

    def test_a_load(self):
        self.assertEqual(self.jobs(), [])
        self.assertEqual(self.get(self.bus_, "Jobs"), 0)
        self.call(self.bus_, "Load", "sa{sv}", ("tiny", dbus.Dictionary({}, signature="sv")))
        until(lambda: self.results(), what="the signal")
        (path, result), = self.results()
        self.assertEqual(result, "done")
        self.assertRegex("".join(self.signals), rf"JobNew \(uint64 \d+, objectpath '{path}'\)")
        self.assertIn(f"InterfacesAdded (objectpath '{path}', {{'{JOB}'", "".join(self.signals))
        self.assertEqual(self.jobs(), [])

    def test_a_load_that_fails(self):
        self.daemon_.configure(bus="session", backend="cpu", models=[{"name": "none", "path": str(ROOT / "Makefile")}])
        self.call(self.bus_, "Reload")
        self.assertRefused("ModelInvalid", self.call, self.bus_, "Load", "sa{sv}", ("none", dbus.Dictionary({}, signature="sv")))
        # it is the only model, and so the default one: it may have been tried before
        until(lambda: {result for _, result in self.results()} == {"failed"}, what="the signal")

    def test_dry_runs_packs_and_verifications(self):
        with self.daemon_.connect() as client:
            self.assertDone(client.ask(load=pb.Load(shape="llama-8b", format="q4_k", dry_run=True, memory=64 << 30)))
            self.assertDone(client.ask(model_pack=pb.ModelPack(model="tiny", name="packed")))
            self.assertDone(client.ask(model_verify=pb.ModelVerify(model="packed")))
            self.assertError(client.ask(model_verify=pb.ModelVerify(model="nobody")), "MODEL_NOT_FOUND")
        until(lambda: len(self.results()) == 4, what="the signals")
        self.assertEqual([result for _, result in self.results()], ["done", "done", "done", "failed"])

    def test_an_import_gets_on_and_is_cancelled(self):
        path, _ = self.begin_import(self.daemon_, self.connect(), frozen=False)
        got = self.call(self.bus_, "GetAll", "s", (JOB,), path, PROPERTIES)
        self.assertEqual((got["Kind"], got["Model"], got["Uid"]), ("import", "big", os.getuid()))
        self.assertIn(self.jobs()[0][2:], [("import", "waiting", "big", os.getuid()), ("import", "running", "big", os.getuid())])
        until(lambda: self.get(self.bus_, "Progress", path, JOB) > 0, what="progress")
        self.assertEqual(self.get(self.bus_, "State", path, JOB), "running")
        self.assertGreater(self.get(self.bus_, "Total", path, JOB), 1 << 30)
        changed = lambda: [line for line in self.signals if path + ": org.freedesktop.DBus.Properties.PropertiesChanged" in line]
        until(changed, what="a signal about it")
        before, began = len(changed()), time.monotonic()
        time.sleep(1)
        self.assertLessEqual(len(changed()) - before, 4 * (time.monotonic() - began) + 1)
        self.assertTrue(all("{}" in line for line in changed()), changed()[:1])  # names, no values
        self.assertIn("Progress", changed()[0])
        self.assertIsNone(self.call(self.bus_, "Cancel", path=path, interface=JOB))
        until(lambda: (path, "cancelled") in self.results(), what="its end")
        with self.assertRaises(dbus.DBusException) as caught:
            self.call(self.bus_, "Cancel", path=path, interface=JOB)
        self.assertEqual(caught.exception.get_dbus_name(), "org.freedesktop.DBus.Error.UnknownObject")
        self.assertFalse(self.jobs())
        until(lambda: not self.daemon_.children("spark-store"), what="its worker's end")

    def large_model(self):
        path = self.daemon_.folder / "large.gguf"
        self.make_model(path, "--shape", "llama-1b", "--sparse")
        self.daemon_.configure(bus="session", backend="cpu", models=[{"name": "tiny", "path": str(TINY), "default": True},
                                                                     {"name": "large", "path": str(path)}])
        self.call(self.bus_, "Reload")
        self.daemon_.wait_engine()
        until(lambda: not self.jobs(), what="the default model's load")

    @unittest.skipIf(os.geteuid() != 0, "becomes another user, which takes root")
    def test_a_load_for_several(self):
        """Its owner's cancelling is its own; who may manage models ends it for all."""
        self.large_model()
        stranger = self.connect(uid=NOBODY)
        with self.daemon_.connect(uid=NOBODY) as other, self.daemon_.connect() as client:
            first = other.generate(n=2, model="large")
            self.daemon_.freeze("spark-loader")
            second = client.generate(n=2, model="large")
            until(lambda: len(self.requests(self.daemon_)) == 2, what="both requests")
            (id, path, kind, state, model, uid), = self.call(stranger, "ListJobs")
            self.assertEqual((kind, state, model, uid), ("load", "running", "large", NOBODY))
            self.assertIsNone(self.call(stranger, "Cancel", path=path, interface=JOB))
            self.assertError(other.answer(first)[2], "CANCELLED")
            self.assertEqual([job[1] for job in self.jobs()], [path])
            self.assertIsNone(self.call(self.bus_, "Cancel", path=path, interface=JOB))
            self.assertError(client.answer(second)[2], "CANCELLED")
        until(lambda: (path, "cancelled") in self.results(), what="its end")
        until(lambda: not self.daemon_.children("spark-loader"), what="the loader's end")
        self.assertEqual(self.get(self.bus_, "State", PATH + "/model/large", MODEL), "available")

    def test_nothing_is_told_when_nothing_happens(self):
        self.call(self.bus_, "Load", "sa{sv}", ("tiny", dbus.Dictionary({}, signature="sv")))
        self.complete(self.bus_, max_tokens=u32(3))
        time.sleep(1.5)
        before = len(self.signals)
        time.sleep(3)
        self.assertEqual(self.signals[before:], [])


if __name__ == "__main__":
    unittest.main()
