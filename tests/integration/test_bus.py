# SPDX-License-Identifier: Apache-2.0
"""org.sparkd.Spark1 on a private bus: the interface, its methods, signals, faults and callers that go away."""

import contextlib
import json
import os
import re
import resource
import signal
import stat
import subprocess
import tempfile
import time
import unittest
import xml.etree.ElementTree as ElementTree

from bus_harness import *
from harness import *
from harness import pb

try:
    from gi.repository import Gio, GLib
except ImportError:
    Gio = None


class Interface(BusTestCase):
    def test_introspection_is_the_documented_interface(self):
        daemon = self.serve()
        bus = self.connect()
        documented = described(ElementTree.parse(ROOT / "systemd/org.sparkd.Spark1.xml").getroot())
        self.assertEqual(set(documented), {MANAGER, MODEL, SESSION, JOB, MEMORY, POWER})
        session, fd = self.call(bus, "OpenSession", "a{sv}", (dbus.Dictionary(signature="sv"),))
        fd = fd.take()
        live = {}
        job, _ = self.begin_import(daemon, self.connect())
        for path in PATH, MODEL_PATH, session, job, *FIXED:
            told = self.call(bus, "Introspect", path=path, interface="org.freedesktop.DBus.Introspectable")
            live.update(described(ElementTree.fromstring(told)))
        os.close(fd)
        self.assertIsNone(self.call(bus, "Cancel", path=job, interface=JOB))
        self.assertEqual(live, documented)

    def test_properties(self):
        daemon = self.serve()
        bus = self.connect()
        self.assertEqual(self.get(bus, "State"), "ready")
        self.assertEqual(self.get(bus, "DefaultModel"), MODEL_PATH)
        self.assertEqual(self.get(bus, "MemoryFloor"), 64 << 20)
        self.assertGreater(self.get(bus, "MemoryAvailable"), 0)
        with daemon.connect() as client:
            until(lambda: self.get(bus, "Connections") == 1, 10, "no connection but this one")
            self.assertEqual("sparkd " + self.get(bus, "Version"), client.hello.software)
            id = client.generate(n=100, credit=1)
            client.receive_of(id)
            self.assertEqual(self.get(bus, "RequestsRunning"), 1)
            self.assertEqual(self.get(bus, "RequestsQueued"), 0)
        everything = self.call(bus, "GetAll", "s", (MODEL,), MODEL_PATH, "org.freedesktop.DBus.Properties")
        self.assertEqual((everything["Name"], everything["State"], everything["Default"]), ("null", "ready", True))
        self.assertEqual(everything["Error"], "")
        self.assertGreater(everything["Context"], 0)
        self.assertIn("null", everything["Backend"])

    def test_object_manager(self):
        self.serve()
        bus = self.connect()
        objects = self.call(bus, "GetManagedObjects", interface="org.freedesktop.DBus.ObjectManager")
        self.assertEqual(set(objects), {MODEL_PATH, *FIXED})
        self.assertEqual(objects[MODEL_PATH][MODEL]["State"], "ready")
        self.assertEqual([tuple(m) for m in self.call(bus, "ListModels")], [("null", MODEL_PATH)])

    def test_names_are_escaped_in_paths(self):
        self.serve(models=[{"name": "a-model:7b.Q4", "default": True}])
        bus = self.connect()
        (name, path), = self.call(bus, "ListModels")
        self.assertEqual(name, "a-model:7b.Q4")
        self.assertEqual(path, PATH + "/model/a_2dmodel_3a7b_2eQ4")
        self.assertEqual(self.get(bus, "Name", path, MODEL), name)
        self.assertEqual(self.get(bus, "DefaultModel"), path)


class Complete(BusTestCase):
    def test_complete(self):
        daemon = self.serve()
        bus = self.connect()
        answer, result = self.complete(bus, max_tokens=u32(20), seed=u64(1), raw=dbus.Boolean(True, variant_level=1))
        self.assertEqual(dict(result), {"finish_reason": "length", "prompt_tokens": result["prompt_tokens"],
                                        "completion_tokens": 20, "seed": 1, "model": "null"})
        self.assertGreater(result["prompt_tokens"], 0)
        with daemon.connect() as client:
            _, same, _ = client.answer(client.generate(n=20))
        self.assertEqual(answer.encode(), same)

    def test_stop_strings(self):
        self.serve()
        bus = self.connect()
        whole, _ = self.complete(bus, max_tokens=u32(40), seed=u64(1))
        stop = whole[10:13]
        cut, result = self.complete(bus, max_tokens=u32(40), seed=u64(1),
                                    stop=dbus.Array([stop, "never"], signature="s", variant_level=1))
        self.assertEqual(result["finish_reason"], "stop_string")
        self.assertEqual(cut, whole[:whole.index(stop)])

    def test_bad_options(self):
        daemon = self.serve()
        bus = self.connect()
        double = lambda value: dbus.Double(value, variant_level=1)
        table = [("foo", u32(1), "foo"), ("temperature", u32(1), "temperature"), ("temperature", text("1"), "type d"),
                 ("top_k", double(1), "top_k"), ("max_tokens", dbus.Int32(1, variant_level=1), "max_tokens"),
                 ("seed", u32(1), "type t"), ("stop", text("x"), "stop"), ("raw", u32(1), "raw"),
                 ("model", u32(1), "model"), ("temperature", double(float("nan")), "temperature"),
                 ("priority", u32(2), "priority"), ("priority", text("urgent"), "priority"),
                 ("temperature", double(1e300), "temperature"), ("temperature", double(-1), "temperature"),
                 ("top_p", double(2), "top_p"), ("min_p", double(-0.5), "min_p"),
                 ("repetition_penalty", double(0), "repetition_penalty"),
                 ("presence_penalty", double(1000), "presence_penalty"),
                 ("frequency_penalty", double(float("inf")), "frequency_penalty"),
                 ("", u32(1), "unknown option"), ("x" * 5000, u32(1), "unknown option"),
                 ("Temp\n'erature", double(1), "unknown option"),
                 ("stop", dbus.Array(["x"] * 17, signature="s", variant_level=1), "stop"),
                 ("stop", dbus.Array([""], signature="s", variant_level=1), "stop"),
                 ("temperature", dbus.Struct((dbus.Double(1),), variant_level=1), "temperature")]
        for option, value, named in table:
            with self.subTest(option=option[:20], value=str(value)[:20]):
                message = self.assertRefused("InvalidArgument", self.complete, bus, **{option: value})
                self.assertIn(named, message)
                self.assertLess(len(message), 400)
        self.assertRefused("ModelNotFound", self.complete, bus, model=text("nobody"))
        self.assertIn("foo", self.assertRefused("InvalidArgument", self.generate, bus, foo=u32(1)))
        one = dbus.Dictionary({"x": u32(1)}, signature="sv")
        self.assertIn("x", self.assertRefused("InvalidArgument", self.call, bus, "Load", "sa{sv}", ("null", one)))
        self.assertIn("x", self.assertRefused("InvalidArgument", self.call, bus, "OpenSession", "a{sv}", (one,)))
        self.assertServes(daemon)
        self.assertFalse(self.requests(daemon))

    def test_option_twice(self):
        self.serve()
        said = self.busctl("call", NAME, PATH, MANAGER, "Complete", "sa{sv}", "x", "2", "top_k", "u", "1", "top_k", "u",
                           "2").communicate()[1].decode()
        self.assertIn("'top_k' is given twice", said)

    def test_large_prompts_have_a_limit(self):
        daemon = self.serve()
        bus = self.connect()
        self.assertIn("prompt", self.assertRefused("InvalidArgument", self.complete, bus, "x" * (5 << 20)))
        self.complete(bus, "word " * 10000, max_tokens=u32(1))
        self.assertServes(daemon)

    def test_wrong_signature(self):
        self.serve()
        bus = self.connect()
        with self.assertRaises(dbus.DBusException) as caught:
            self.call(bus, "Complete", "u", (1,))
        self.assertEqual(caught.exception.get_dbus_name(), "org.freedesktop.DBus.Error.InvalidArgs")

    def test_a_killed_caller_frees_its_request(self):
        daemon = self.serve(null={"step_us": 5000})
        before = daemon.fd_count()
        callers = [self.busctl("call", "--timeout=60", NAME, PATH, MANAGER, "Complete", "sa{sv}", "x", "1",
                               "max_tokens", "u", "100000") for _ in range(3)]
        until(lambda: len(self.requests(daemon)) == 3, 10, "three requests")
        self.assertEqual({r.pid for r in self.requests(daemon)}, {c.pid for c in callers})
        self.assertEqual({r.uid for r in self.requests(daemon)}, {os.getuid()})
        for caller in callers:
            caller.kill()
            caller.communicate()
        until(lambda: not self.requests(daemon), 10, "no request")
        self.assertServes(daemon)
        self.wait_fds(daemon, before)

    def test_many_at_once(self):
        daemon = self.serve()
        bus = self.connect()
        alone = str(self.complete(bus, max_tokens=u32(50), seed=u64(3))[0])
        callers = [self.busctl("--json=short", "call", NAME, PATH, MANAGER, "Complete", "sa{sv}", "Once", "2",
                               "max_tokens", "u", "50", "seed", "t", "3") for _ in range(12)]
        for caller in callers:
            out, said = caller.communicate()
            self.assertEqual(caller.returncode, 0, said)
            self.assertEqual(json.loads(out)["data"][0], alone)
        self.assertFalse(self.requests(daemon))

    def test_requests_per_user(self):
        daemon = self.serve(limits={"requests_per_user": 1}, null={"step_us": 5000})
        bus = self.connect()
        fd = self.generate(bus, max_tokens=u32(100000))
        until(lambda: self.requests(daemon), 10, "a request")
        self.assertRefused("Busy", self.complete, bus, max_tokens=u32(1))
        os.close(fd)

        def taken():  # the charge goes when the engine has confirmed
            with contextlib.suppress(dbus.DBusException):
                return self.complete(bus, max_tokens=u32(1))
        until(taken, 10, "room for a request")


    def test_priority(self):
        daemon = self.serve(limits={"max_priority": "normal"}, null={"step_us": 5000})
        bus = self.connect()
        message = self.assertRefused("PermissionDenied", self.complete, bus, max_tokens=u32(1), priority=text("interactive"))
        self.assertIn("priority", message)
        self.assertRefused("PermissionDenied", self.generate, bus, max_tokens=u32(1), priority=text("interactive"))
        for word, number in (("background", pb.BACKGROUND), ("normal", pb.NORMAL)):
            fd = self.generate(bus, max_tokens=u32(100000), priority=text(word))
            until(lambda: self.requests(daemon), 10, "a request")
            self.assertEqual(self.requests(daemon)[0].priority, number)
            os.close(fd)
            until(lambda: not self.requests(daemon), 10, "its end")

    def test_bytes_per_user(self):
        daemon = self.serve(limits={"bytes_per_user": "256K"})
        bus = self.connect()
        self.assertRefused("QuotaExceeded", self.complete, bus, "x" * 300000)
        self.assertRefused("QuotaExceeded", self.complete, bus, "x" * 150000)  # kept twice
        self.assertRefused("QuotaExceeded", self.generate, bus, "x" * 300000)
        # an answer that grows past it
        self.assertRefused("QuotaExceeded", self.complete, bus, "x", max_tokens=u32(200000))
        self.assertServes(daemon)
        self.complete(bus, "x" * 20000, max_tokens=u32(10))

    def test_an_answer_ends_at_its_limit(self):
        daemon = self.serve(models=[{"name": "null", "context": 4000000}])
        bus = self.connect()
        options = dbus.Dictionary({"max_tokens": u32(3000000)}, signature="sv")
        answer, result = self.call(bus, "Complete", "sa{sv}", ("Once", options), timeout=90)  # a million tokens
        size = len(answer.encode())
        self.assertGreater(size, (1 << 20) - 100)
        self.assertLessEqual(size, 1 << 20)
        self.assertEqual(result["finish_reason"], "length")
        self.assertLess(result["completion_tokens"], 3000000)
        until(lambda: not self.requests(daemon), 10, "no request")


class Pipes(BusTestCase):
    @staticmethod
    def read_all(fd):
        with os.fdopen(os.dup(fd), "rb") as file:
            return file.read()

    def test_generate(self):
        daemon = self.serve()
        bus = self.connect()
        before = daemon.fd_count()
        whole, _ = self.complete(bus, max_tokens=u32(3000), seed=u64(1))
        fd = self.generate(bus, max_tokens=u32(3000), seed=u64(1))
        self.assertTrue(stat.S_ISFIFO(os.fstat(fd).st_mode))
        self.assertEqual(self.read_all(fd).decode(), whole)
        os.close(fd)
        self.wait_fds(daemon, before)

    def test_text_comes_as_it_is_made(self):
        daemon = self.serve(null={"step_us": 20000})
        bus = self.connect()
        fd = self.generate(bus, max_tokens=u32(100000), seed=u64(1))
        # more comes together where we were not looking
        until(lambda: 0 < len(os.read(fd, 65536)) < 20, 20, "a small piece")
        self.assertEqual(len(self.requests(daemon)), 1)

    def test_slow_reader_pauses_its_own_generation_only(self):
        # What is freed counts as kept where a sanitizer holds it back for a while; so it holds back little.
        options = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=1:thread_local_quarantine_size_kb=64"
        daemon = self.serve(env={"ASAN_OPTIONS": options})
        bus = self.connect()
        whole, _ = self.complete(bus, max_tokens=u32(30000), seed=u64(1))
        fd = self.generate(bus, max_tokens=u32(30000), seed=u64(1))
        begun = self.shrink(fd)

        def progress():
            (request,) = self.requests(daemon)
            return request.state, request.completion_tokens
        last = [None]

        def stands():
            """For as long as the engine takes to tell of it, and longer: it pauses between pieces as well."""
            now, then = progress(), last[0]
            last[0] = now
            time.sleep(1.2)
            return now == then and now[0] == "paused"
        until(stands, 20, "a pause")
        self.assertLess(last[0][1], 30000)
        memory = daemon.memory()
        other, _ = self.complete(bus, max_tokens=u32(2000), seed=u64(1))
        self.assertEqual(other, whole[:len(other)])
        self.assertEqual(progress(), last[0])
        self.assertLess(daemon.memory() - memory, 4 << 20)
        self.assertEqual((begun + self.read_all(fd)).decode(), whole)
        until(lambda: not self.requests(daemon), 10, "no request")

    def test_a_closed_pipe_cancels(self):
        daemon = self.serve(null={"step_us": 2000})
        bus = self.connect()
        before = daemon.fd_count()
        for read_first in (False, True):
            fd = self.generate(bus, max_tokens=u32(1000000))
            until(lambda: self.requests(daemon), 10, "a request")
            if read_first:
                self.assertTrue(os.read(fd, 10))
            os.close(fd)
            until(lambda: not self.requests(daemon), 10, "no request")
        self.wait_fds(daemon, before)
        self.assertServes(daemon)

    def test_a_pipe_outlives_its_caller(self):
        self.serve(null={"step_us": 2000})
        bus = dbus.bus.BusConnection(self.bus.address)
        whole, _ = self.complete(bus, max_tokens=u32(300), seed=u64(1))
        fd = self.generate(bus, max_tokens=u32(300), seed=u64(1))
        bus.close()
        self.assertEqual(self.read_all(fd).decode(), whole)

    def test_stopping_lets_a_short_answer_end(self):
        daemon = self.serve(null={"step_us": 2000})
        bus = self.connect()
        whole, _ = self.complete(bus, max_tokens=u32(300), seed=u64(1))
        fd = self.generate(bus, max_tokens=u32(300), seed=u64(1))
        begun = os.read(fd, 1)
        daemon.signal(signal.SIGTERM)
        self.assertEqual((begun + self.read_all(fd)).decode(), whole)
        self.assertEqual(daemon.stop(), 0)


class Sessions(BusTestCase):
    def open_session(self, bus):
        path, fd = self.call(bus, "OpenSession", "a{sv}", (dbus.Dictionary(signature="sv"),))
        return path, fd.take()

    def test_session_speaks_the_protocol(self):
        daemon = self.serve()
        bus = self.connect()
        before = daemon.fd_count()
        signals = self.monitor()
        path, fd = self.open_session(bus)
        self.assertEqual(self.get(bus, "Uid", path, SESSION), os.getuid())
        with Client.of_fd(fd) as client:
            ids, _, end = client.answer(client.generate(n=10))
            self.assertDone(end)
            self.assertEqual(len(ids), 10)
            id = client.generate(n=100, credit=1)
            client.receive_of(id)
            request, = client.ask(status=pb.Status()).done.status.requests
            self.assertEqual((request.pid, request.uid), (os.getpid(), os.getuid()))
        until(lambda: any("InterfacesRemoved" in line and path in line for line in signals), 10, "InterfacesRemoved")
        self.assertTrue(any("InterfacesAdded" in line and path in line for line in signals))
        self.wait_fds(daemon, before)
        self.assertEqual(set(self.call(bus, "GetManagedObjects", interface="org.freedesktop.DBus.ObjectManager")),
                         {MODEL_PATH, *FIXED})

    def test_close(self):
        daemon = self.serve()
        bus = self.connect()
        before = daemon.fd_count()
        path, fd = self.open_session(bus)
        with Client.of_fd(fd) as client:
            self.call(bus, "Close", path=path, interface=SESSION)
            frames = client.expect_closed()
            self.assertEqual([error_name(f.error) for f in frames], ["CANCELLED"])
        self.wait_fds(daemon, before)

    def test_another_users_session(self):
        if os.getuid() != 0:
            self.skipTest("needs root")
        self.serve()
        bus = self.connect()
        path, fd = self.open_session(bus)
        with Client.of_fd(fd) as client:
            said = self.busctl("call", NAME, path, SESSION, "Close", user=NOBODY).communicate()[1].decode()
            self.assertIn("manage-models", said)
            self.assertDone(client.ask(models=pb.Models()))


class Models(BusTestCase):
    def test_load_and_unload_with_signals(self):
        daemon = self.serve()
        bus = self.connect()
        signals = self.monitor()
        self.call(bus, "Unload", "s", ("null",))
        self.assertEqual(self.get(bus, "State", MODEL_PATH, MODEL), "available")
        self.assertEqual(self.call(bus, "Load", "sa{sv}", ("null", dbus.Dictionary(signature="sv"))), MODEL_PATH)
        self.assertEqual(self.get(bus, "State", MODEL_PATH, MODEL), "ready")
        self.assertIsNone(self.call(bus, "Unload", path=MODEL_PATH, interface=MODEL))
        self.assertEqual(self.get(bus, "State", MODEL_PATH, MODEL), "available")
        self.assertIsNone(self.call(bus, "Load", path=MODEL_PATH, interface=MODEL))

        def states():
            return re.findall(r"PropertiesChanged \('org.sparkd.Spark1.Model', \{[^}]*'State': <'(\w+)'>",
                              "".join(signals))
        until(lambda: states()[-1:] == ["ready"] and states().count("ready") == 2, 10, "the signals")
        self.assertEqual(states().count("available"), 2)
        self.assertRefused("ModelNotFound", self.call, bus, "Unload", "s", ("nobody",))
        self.assertServes(daemon)

    def test_only_privileged_users_load(self):
        if os.getuid() != 0:
            self.skipTest("needs root")
        self.serve()
        for call in (["call", NAME, PATH, MANAGER, "Load", "sa{sv}", "null", "0"],
                     ["call", NAME, PATH, MANAGER, "Unload", "s", "null"],
                     ["call", NAME, MODEL_PATH, MODEL, "Load"], ["call", NAME, MODEL_PATH, MODEL, "Unload"]):
            said = self.busctl(*call, user=NOBODY).communicate()[1].decode()
            self.assertIn("Only root", said)
        done = self.busctl("call", NAME, PATH, MANAGER, "Complete", "sa{sv}", "x", "1", "max_tokens", "u", "3",
                           user=NOBODY)
        said = done.communicate()[1]
        self.assertEqual(done.returncode, 0, said)

    def test_reload_brings_and_takes_models(self):
        one = {"name": "one", "default": True}
        daemon = self.serve(models=[one])
        bus = self.connect()
        signals = self.monitor()
        daemon.configure(bus="session", models=[one, {"name": "two"}], memory={"floor": "65M"})
        daemon.signal(signal.SIGHUP)
        until(lambda: len(self.call(bus, "ListModels")) == 2, 10, "the second model")
        self.assertEqual(self.get(bus, "State", PATH + "/model/two", MODEL), "available")
        until(lambda: any("'MemoryFloor': <uint64 68157440>" in line for line in signals), 10, "the floor's signal")
        daemon.configure(bus="session", models=[one])
        daemon.signal(signal.SIGHUP)
        until(lambda: len(self.call(bus, "ListModels")) == 1, 10, "one model")
        until(lambda: any("InterfacesRemoved" in line and "model/two" in line for line in signals), 10, "its signal")
        self.assertTrue(any("InterfacesAdded" in line and "model/two" in line for line in signals))

    def test_engine_restarts_are_told(self):
        daemon = self.serve()
        bus = self.connect()
        signals = self.monitor()
        os.kill(daemon.children()[0], signal.SIGKILL)
        until(lambda: any("'EngineRestarts': <uint32 1>" in line for line in signals), 10, "the signal")
        until(lambda: self.get(bus, "State", MODEL_PATH, MODEL) == "ready", 10, "a ready model")

    def test_real_model(self):
        path = TESTDATA / "models/stories260K-f32.gguf"
        if not path.exists():
            path = next(iter(sorted((TESTDATA / "models").glob("stories260K-*32.gguf"))), None)
        if not path:
            self.skipTest("no test data")
        self.serve(backend="cpu", models=[{"name": "stories", "path": str(path), "default": True}])
        bus = self.connect()
        # asked before it is known whether the model has a chat template, and after
        first, result = self.complete(bus, "Once upon a time", max_tokens=u32(20),
                                      temperature=dbus.Double(0, variant_level=1))
        self.assertEqual(result["model"], "stories")
        self.assertTrue(first)
        again, _ = self.complete(bus, "Once upon a time", max_tokens=u32(20),
                                 temperature=dbus.Double(0, variant_level=1))
        raw, _ = self.complete(bus, "Once upon a time", max_tokens=u32(20), raw=dbus.Boolean(True, variant_level=1),
                               temperature=dbus.Double(0, variant_level=1))
        self.assertEqual({first, again}, {raw})
        model = PATH + "/model/stories"
        self.assertEqual(self.get(bus, "Architecture", model, MODEL), "llama")
        self.assertGreater(self.get(bus, "ImageBytes", model, MODEL), 0)
        self.assertGreater(self.get(bus, "KVBytes", model, MODEL), 0)
        self.call(bus, "Unload", "s", ("stories",))
        fd = self.generate(bus, "Once upon a time", max_tokens=u32(20), temperature=dbus.Double(0, variant_level=1))
        self.assertEqual(Pipes.read_all(fd).decode(), raw)
        over = self.assertRefused("ContextOverflow", self.complete, bus, "word " * 4000)
        self.assertTrue(over)


@unittest.skipUnless(Gio, "python3-gi is not installed")
class Descriptors(BusTestCase):
    def test_that_nobody_asked_for(self):
        """A message may bring some in any case. They leave connections theirs, and go with their calls."""
        daemon = self.serve(null={"step_us": 20000}, limits={"connections": 100})
        before = daemon.fd_count()
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (600, 600))
        flags = Gio.DBusConnectionFlags
        connection = Gio.DBusConnection.new_for_address_sync(
            self.bus.address, flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION, None, None)
        refused = []

        def ended(_, result):
            with contextlib.suppress(GLib.Error):
                refused.append(connection.send_message_with_reply_finish(result).get_error_name())
        for _ in range(60):
            message = Gio.DBusMessage.new_method_call(NAME, PATH, MANAGER, "Complete")
            message.set_body(GLib.Variant("(sa{sv})", ("x", {"max_tokens": GLib.Variant("u", 100000)})))
            fds = Gio.UnixFDList.new()
            for _ in range(16):
                fds.append(0)
            message.set_unix_fd_list(fds)
            connection.send_message_with_reply(message, Gio.DBusSendMessageFlags.NONE, -1, None, ended)

        def some_refused():
            GLib.MainContext.default().iteration(False)
            return len(refused) + len(self.requests(daemon)) == 60
        until(some_refused, 20, "an answer, or a request, for each")
        self.assertEqual(set(refused), {NAME + ".Error.Busy"})
        self.assertGreater(len(self.requests(daemon)), 10)
        with contextlib.ExitStack() as stack:
            for _ in range(90):
                stack.enter_context(daemon.connect())
        connection.close_sync(None)
        until(lambda: not self.requests(daemon), 10, "their end")
        self.wait_fds(daemon, before)
        self.assertNotIn("is lost", daemon.log())


class SampleConfiguration(unittest.TestCase):
    def check(self, text):
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write(text)
            file.flush()
            return subprocess.run([BUILD / "bin/sparkd", "--check", "--config", file.name], check=True,
                                  stdout=subprocess.PIPE, text=True).stdout

    def test_comments_are_the_defaults(self):
        sample = (ROOT / "systemd/sparkd.conf").read_text().replace("@DATADIR@", "/usr/share")
        said = re.sub(r"^(\s*)# (\w+ = [^=]*;)", r"\1\2", sample, flags=re.M)
        said = re.sub(r"^.*floor = .*$", "", said, flags=re.M)  # depends on the machine
        keys = [len(re.findall(pattern, body, re.M)) for pattern, body in
                ((r"^\s*#? ?\w+ = .*;", sample), (r"^\s*\w+ = .*;", said))]
        self.assertEqual(keys[0], keys[1] + 1)
        self.assertGreater(keys[1], 20)
        self.assertEqual(self.check(said), self.check(sample))


class Loss(BusTestCase):
    def test_without_a_bus_and_when_it_comes_and_goes(self):
        bus = self.new_bus()
        daemon = self.daemon(bus="session", env={"DBUS_SESSION_BUS_ADDRESS": bus.address}, null={"step_us": 2000})
        until(lambda: "cannot be reached" in daemon.log(), 10, "the warning")
        daemon.wait_engine()
        self.assertServes(daemon)
        before = daemon.fd_count()
        self.bus = bus
        bus.start()
        until(lambda: "on the bus as" in daemon.log(), 20, "the name on the bus")
        connection = dbus.bus.BusConnection(bus.address)
        connection.set_exit_on_disconnect(False)
        fd = self.generate(connection, max_tokens=u32(2000), seed=u64(1))
        caller = self.busctl("call", "--timeout=60", NAME, PATH, MANAGER, "Complete", "sa{sv}", "x", "1",
                             "max_tokens", "u", "100000")
        until(lambda: len(self.requests(daemon)) == 2, 10, "both requests")
        bus.stop()
        caller.communicate()
        until(lambda: "connection to the bus is lost" in daemon.log(), 10, "the warning")
        until(lambda: len(self.requests(daemon)) <= 1, 10, "the call's end")
        self.assertTrue(Pipes.read_all(fd))  # to its end
        os.close(fd)
        self.assertServes(daemon)
        self.wait_fds(daemon, before)
        bus.start()
        until(lambda: daemon.log().count("on the bus as") == 2, 20, "the name on the bus again")
        again = self.connect()
        self.assertTrue(self.complete(again, max_tokens=u32(3))[0])

    def test_a_bus_that_hangs(self):
        self.bus.process.send_signal(signal.SIGSTOP)
        daemon = self.daemon(bus="session", env={"DBUS_SESSION_BUS_ADDRESS": self.bus.address})
        daemon.wait_engine()
        self.assertServes(daemon)
        self.bus.process.send_signal(signal.SIGCONT)
        until(lambda: "on the bus as" in daemon.log(), 10, "the name on the bus")
        caller = self.busctl("call", NAME, PATH, MANAGER, "Complete", "sa{sv}", "x", "1", "max_tokens", "u", "3")
        self.assertEqual(caller.communicate() and caller.returncode, 0)
        self.bus.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        self.assertServes(daemon)
        self.assertEqual(daemon.stop(), 0)
        self.assertLess(time.monotonic() - began, 5 * SLOW)
        self.bus.process.send_signal(signal.SIGCONT)

    def test_name_refused(self):
        bus = self.new_bus(own=False)
        bus.start()
        daemon = self.daemon(bus="session", env={"DBUS_SESSION_BUS_ADDRESS": bus.address})
        until(lambda: "does not let us have the name" in daemon.log(), 10, "the warning")
        self.assertServes(daemon)

    def test_somebody_else_has_the_name(self):
        first = self.serve()
        second = self.daemon(bus="session", env={"DBUS_SESSION_BUS_ADDRESS": self.bus.address})
        until(lambda: "somebody else has the name" in second.log(), 10, "the warning")
        self.assertServes(second)
        self.assertNotIn("on the bus as", second.log())
        first.stop()
        until(lambda: "on the bus as" in second.log(), 10, "the name")
        bus = self.connect()
        self.assertTrue(self.complete(bus, max_tokens=u32(3))[0])


if __name__ == "__main__":
    unittest.main()
