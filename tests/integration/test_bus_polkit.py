# SPDX-License-Identifier: Apache-2.0
"""Who may do what on the bus: the socket's mode, polkit's answers, callers that leave before it answers."""

import time
import unittest

from bus_harness import *
from harness import *
from harness import pb

DENIED = "PermissionDenied"
INTERACTION = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"


def options(**values):
    return dbus.Dictionary(values, signature="sv")


class WithPolkit(MockedPolkit):
    @within_a_day
    def setUp(self):
        super().setUp()
        self.polkit_process = self.polkit()
        self.daemon_ = self.serve_system()
        self.name = self.caller.get_unique_name()

    def ask(self, method, signature="", args=(), path=PATH, interface=MANAGER):
        """As somebody who may nothing by itself."""
        return self.call(self.caller, method, signature, args, path, interface)

    def test_every_method_asks_for_its_action(self):
        none = options()
        table = [("use", "Complete", "sa{sv}", ("x", none)), ("use", "Generate", "sa{sv}", ("x", none)),
                 ("use-interactive", "Complete", "sa{sv}", ("x", options(priority=text("interactive")))),
                 ("use-interactive", "Generate", "sa{sv}", ("x", options(priority=text("interactive")))),
                 ("use", "Complete", "sa{sv}", ("x", options(priority=text("background")))),
                 ("use", "Complete", "sa{sv}", ("x", options(nonsense=text("interactive")))),
                 ("use", "OpenSession", "a{sv}", (none,)),
                 ("manage-models", "Load", "sa{sv}", ("null", none)), ("manage-models", "Unload", "s", ("null",)),
                 ("manage-models", "PackModel", "ssa{sv}", ("null", "x", none)),
                 ("reserve-memory", "ReserveMemory", "tssa{sv}", (1 << 20, "x", "y", none)),
                 ("use", "HoldWarm", "sssa{sv}", ("null", "x", "y", none)), ("configure", "Reload")]
        for action, *call in table:
            with self.subTest(call=call[0]):
                said = self.assertRefused(DENIED, self.ask, *call)
                self.assertIn(action, said)
                self.assertEqual(self.asked()[:1], [action])
        for method in "Load", "Unload":
            self.assertRefused(DENIED, self.ask, method, path=MODEL_PATH, interface=MODEL)
            self.assertEqual(self.asked(), ["manage-models"])
        self.assertServes(self.daemon_)

    def test_what_polkit_permits(self):
        self.answer(use="yes", manage_models="yes", configure="yes")
        self.assertTrue(self.complete(self.caller, max_tokens=u32(3))[0])
        self.assertRefused(DENIED, self.complete, self.caller, max_tokens=u32(3), priority=text("interactive"))
        self.assertIsNone(self.ask("Unload", "s", ("null",)))
        self.assertEqual(self.ask("Load", "sa{sv}", ("null", options())), MODEL_PATH)
        self.assertIsNone(self.ask("Unload", path=MODEL_PATH, interface=MODEL))
        self.assertIsNone(self.ask("Reload"))
        self.assertIn("configuration reloaded", self.daemon_.log())
        self.asked()
        self.answer(use_interactive="yes")
        self.assertTrue(self.complete(self.caller, max_tokens=u32(3), priority=text("interactive"))[0])
        self.assertEqual(self.asked(), ["use-interactive"])

    def test_the_question(self):
        self.answer(use="yes")
        self.complete(self.caller, max_tokens=u32(1))
        (question,) = self.mock_call("Questions")
        self.assertEqual(question, f"system-bus-name {self.name} {NAME}.use 0 0 False")

    def test_root_and_readers_are_not_asked_about(self):
        self.assertTrue(self.complete(self.admin, max_tokens=u32(1), priority=text("interactive"))[0])
        self.assertIsNone(self.call(self.admin, "Unload", "s", ("null",)))
        self.assertEqual(self.get(self.caller, "State"), "ready")
        self.assertEqual(self.get(self.caller, "Name", MODEL_PATH, MODEL), "null")
        self.assertEqual(len(self.ask("ListModels")), 1)
        self.assertEqual(set(self.ask("GetManagedObjects", interface="org.freedesktop.DBus.ObjectManager")), {MODEL_PATH, *FIXED})
        self.assertEqual(self.asked(), [])

    def test_priority_of_a_session(self):
        """A connection that was handed out without the right may not ask for what it is about."""
        self.answer(use="yes")
        path, fd = self.ask("OpenSession", "a{sv}", (options(),))
        self.assertEqual(self.asked(), ["use", "use-interactive"])
        with Client.of_fd(fd.take()) as client:
            self.assertEqual(client.hello.max_priority, pb.NORMAL)
            self.assertDone(client.answer(client.generate(n=2))[2])
            self.assertError(client.answer(client.generate(n=2, priority=pb.INTERACTIVE))[2], "PERMISSION_DENIED")
        self.answer(use="yes", use_interactive="yes")
        path, fd = self.ask("OpenSession", "a{sv}", (options(),))
        with Client.of_fd(fd.take()) as client:
            self.assertEqual(client.hello.max_priority, pb.INTERACTIVE)
            self.assertDone(client.answer(client.generate(n=2, priority=pb.INTERACTIVE))[2])

    def test_a_person_is_asked_where_the_call_says_so(self):
        self.answer(manage_models="person")
        with self.assertRaises(dbus.DBusException) as caught:
            self.ask("Unload", "s", ("null",))
        self.assertEqual(caught.exception.get_dbus_name(), INTERACTION)
        self.assertTrue(caught.exception.get_dbus_message())
        self.asked()
        call = ("call", NAME, PATH, MANAGER, "Unload", "s", "null")
        refused = self.busctl("--allow-interactive-authorization=no", *call, user=NOBODY)
        self.assertIn("manage", refused.communicate()[1].decode())
        allowed = self.busctl("--allow-interactive-authorization=yes", *call, user=NOBODY)
        self.assertEqual(allowed.communicate() and allowed.returncode, 0)
        questions = [line.split()[4:] for line in self.mock_call("Questions")]
        self.assertEqual(questions, [["0", "False"], ["1", "True"]])

    def test_a_caller_that_leaves_is_denied(self):
        """Its question, too, is called off."""
        before = self.daemon_.fd_count()
        self.answer(manage_models="hang")
        caller = self.busctl("--allow-interactive-authorization=yes", "call", "--timeout=60", NAME, PATH, MANAGER, "Unload",
                             "s", "null", user=NOBODY)
        until(lambda: self.mock_call("Waiting") == 1, 10, "the question")
        caller.kill()
        caller.communicate()
        until(lambda: "cancel" in self.asked(), 10, "its being called off")
        self.answer(manage_models="yes")
        self.assertEqual(self.get(self.admin, "State", MODEL_PATH, MODEL), "ready")
        self.assertServes(self.daemon_)
        self.wait_fds(self.daemon_, before)

    def test_questions_are_bounded(self):
        self.answer(use="hang")
        # at once and from one connection: the first are answered after ten seconds, whatever polkit does
        calls = [self.begin_complete() for _ in range(18)]
        for call, ended in calls[16:]:
            call.block()
            self.assertEqual(ended[0].get_error_name(), f"{NAME}.Error.Busy")
        self.assertEqual(self.mock_call("Waiting"), 16)
        self.assertRefused("Busy", self.complete, self.caller)
        self.assertTrue(self.complete(self.admin, max_tokens=u32(1))[0])
        self.answer(use="yes")
        for call, ended in calls[:16]:
            call.block()
            self.assertEqual(ended[0].get_type(), dbus.lowlevel.MESSAGE_TYPE_METHOD_RETURN, ended[0].get_args_list())

    def begin_complete(self):
        """A call, and what its answer is put into."""
        message = dbus.lowlevel.MethodCallMessage(NAME, PATH, MANAGER, "Complete")
        message.append("x", options(max_tokens=u32(2)), signature="sa{sv}")
        ended = []
        return self.caller.send_message_with_reply(message, ended.append, timeout_s=60 * SLOW), ended

    def test_polkit_that_errs_or_goes(self):
        self.answer(use="error", manage_models="hang")
        self.assertRefused(DENIED, self.complete, self.caller)
        self.assertIn("polkit does not decide", self.daemon_.log())
        caller = self.busctl("call", NAME, PATH, MANAGER, "Unload", "s", "null", user=NOBODY)
        until(lambda: self.mock_call("Waiting") == 1, 10, "the question")
        self.polkit_process.kill()
        self.assertIn("manage-models", caller.communicate()[1].decode())
        self.assertEqual(self.get(self.admin, "State", MODEL_PATH, MODEL), "ready")

    def test_polkit_that_is_silent(self):
        self.answer(use="hang")
        began = time.monotonic()
        self.assertRefused(DENIED, self.complete, self.caller)
        self.assertGreater(time.monotonic() - began, 5)
        self.assertServes(self.daemon_)

    def test_usage_of_others(self):
        """One's own with `use`; everybody's is a right of its own."""
        self.call(self.admin, "Complete", "sa{sv}", ("Once", options(max_tokens=dbus.UInt32(3))))
        self.assertRefused(DENIED, self.ask, "ListUsage", "ub", (1, False))
        self.assertRefused(DENIED, self.ask, "ListUsage", "ub", (1, True))
        self.assertEqual(set(self.asked()), {"use", "observe-others"})
        self.answer(use="yes")
        self.assertEqual(list(self.ask("ListUsage", "ub", (1, False))), [])
        self.assertRefused(DENIED, self.ask, "ListUsage", "ub", (1, True))
        self.answer(observe_others="yes")
        self.assertEqual([int(row[1]) for row in self.ask("ListUsage", "ub", (1, True))], [0])

    def test_sessions_and_jobs_of_others(self):
        path, fd = self.call(self.admin, "OpenSession", "a{sv}", (options(),))
        job, _ = self.begin_import(self.daemon_, self.connect())
        properties = "org.freedesktop.DBus.Properties"
        for object, interface, name in (path, SESSION, "Uid"), (job, JOB, "Kind"):
            self.assertRefused(DENIED, self.ask, "Get", "ss", (interface, name), object, properties)
            self.assertRefused(DENIED, self.ask, "GetAll", "s", (interface,), object, properties)
        self.assertEqual(set(self.asked()), {"observe-others"})
        manager = "org.freedesktop.DBus.ObjectManager"
        self.assertEqual(set(self.ask("GetManagedObjects", interface=manager)), {MODEL_PATH, *FIXED})
        self.assertEqual(list(self.ask("ListJobs")), [])
        self.assertRefused(DENIED, self.ask, "Close", path=path, interface=SESSION)
        self.assertRefused(DENIED, self.ask, "Cancel", path=job, interface=JOB)
        self.answer(observe_others="yes")
        self.assertEqual(self.get(self.caller, "Uid", path, SESSION), 0)
        self.assertEqual(self.get(self.caller, "Kind", job, JOB), "import")
        self.assertEqual(set(self.ask("GetManagedObjects", interface=manager)), {MODEL_PATH, *FIXED, path, job})
        self.assertEqual([entry[1] for entry in self.ask("ListJobs")], [job])
        self.assertRefused(DENIED, self.ask, "Close", path=path, interface=SESSION)
        self.answer(manage_models="yes")
        self.assertIsNone(self.ask("Cancel", path=job, interface=JOB))
        self.assertIsNone(self.ask("Close", path=path, interface=SESSION))
        with Client.of_fd(fd.take(), hello=False) as client:
            self.assertError(client.expect_closed()[-1], "CANCELLED")
        until(lambda: not self.call(self.admin, "ListJobs"), what="the job's end")


class WithoutPolkit(MockedPolkit):
    def test_only_root(self):
        daemon = self.serve_system()
        self.assertRefused(DENIED, self.complete, self.caller)
        self.assertRefused(DENIED, self.call, self.caller, "Unload", "s", ("null",))
        self.assertRefused(DENIED, self.call, self.caller, "Reload")
        self.assertTrue(self.complete(self.admin, max_tokens=u32(1))[0])
        self.assertIsNone(self.call(self.admin, "Reload"))
        self.assertEqual(daemon.log().count("no polkit on the bus"), 1)

    def test_who_may_connect_may_use(self):
        daemon = self.serve_system(socket_mode="0666")
        self.assertTrue(self.complete(self.caller, max_tokens=u32(1), priority=text("interactive"))[0])
        self.assertRefused(DENIED, self.call, self.caller, "Unload", "s", ("null",))
        daemon.socket.chmod(0o600)
        self.assertRefused(DENIED, self.complete, self.caller)

    def test_groups(self):
        """The socket's group, among the caller's further ones."""
        import os
        daemon = self.serve_system(socket_mode="0660")
        os.chown(daemon.socket, 0, 4711)
        call = ("call", NAME, PATH, MANAGER, "Complete", "sa{sv}", "x", "1", "max_tokens", "u", "2")
        inside = self.busctl(*call, user=NOBODY, group=NOBODY, extra_groups=[4712, 4711])
        said = inside.communicate()
        self.assertEqual(inside.returncode, 0, said)
        outside = self.busctl(*call, user=NOBODY, group=NOBODY, extra_groups=[4712])
        self.assertIn("Access denied", outside.communicate()[1].decode())

    def test_reload_says_what_is_wrong(self):
        daemon = self.serve_system()
        daemon.config.write_text("socket = 7;\n", encoding="ascii")
        self.assertIn("socket", self.assertRefused("InvalidArgument", self.call, self.admin, "Reload"))
        self.assertServes(daemon)


if __name__ == "__main__":
    unittest.main()
