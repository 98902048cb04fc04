# SPDX-License-Identifier: Apache-2.0
"""Who may do what on the socket: what a connection has by itself, polkit's answers, clients that leave before it answers."""

import os
import signal
import subprocess
import sys
import time
import unittest

from bus_harness import *
from harness import *
from harness import pb

TINY = ROOT / "share/models/spark-tiny.gguf"
OTHERS = dict(memory={"leases": "privileged"}, residency={"holds": "privileged"})


class SocketPolkit(MockedPolkit):
    def setUp(self):
        super().setUp()
        self.polkit_process = self.polkit()
        self.daemon_ = self.serve_system(socket_mode="0666", **OTHERS)
        self.mine = self.client()

    def client(self, uid=NOBODY, **options):
        client = self.daemon_.connect(uid=uid, **options)
        self.addCleanup(client.close)
        return client

    def ask(self, client=None, interactive=False, fds=(), **body):
        return (client or self.mine).ask(fds, interactive_authorization=interactive, **body)

    def begin(self, client=None, interactive=False, fds=(), **body):
        return (client or self.mine).request(fds, interactive_authorization=interactive, **body)

    def waiting(self):
        return self.mock_call("Waiting")

    def assertServed(self, client=None):
        client = client or self.mine
        self.assertDone(client.answer(client.generate(n=2))[2])

    def assertRefusedFor(self, action, frame):
        self.assertError(frame, "PERMISSION_DENIED")
        self.assertIn(f"{NAME}.{action}", frame.error.message)
        self.assertIn("sudo", frame.error.message)


class Verbs(SocketPolkit):
    def frames(self):
        """(what it takes, the frame's body, descriptors) of everything that takes more than to be let in."""
        fd = os.open(long_model(self.daemon_.folder / "x.gguf", 500), os.O_RDONLY)  # not what root imported
        self.addCleanup(os.close, fd)
        files = [pb.ModelFile(name="x.gguf")]
        return [("manage-models", {"load": pb.Load(model="null")}, ()),
                ("manage-models", {"load": pb.Load(model="x", input_fd=True)}, (fd,)),
                ("manage-models", {"load": pb.Load(path="/etc/passwd", dry_run=True)}, ()),
                ("manage-models", {"unload": pb.Unload(model="null")}, ()),
                ("manage-models", {"model_import": pb.ModelImport(name="x", files=files, input_fd=True)}, (fd,)),
                ("manage-models", {"model_pack": pb.ModelPack(name="y", files=files, input_fd=True)}, (fd,)),
                ("manage-models", {"model_pack": pb.ModelPack(name="y", model="null")}, ()),
                ("manage-models", {"model_pin": pb.ModelPin(model="theirs", pinned=True)}, ()),
                ("manage-models", {"model_pin": pb.ModelPin(model="theirs")}, ()),
                ("manage-models", {"model_verify": pb.ModelVerify(model="theirs")}, ()),
                ("manage-models", {"model_alias": pb.ModelAlias(model="theirs", alias="theirs", replace=True)}, ()),
                ("manage-models", {"model_remove": pb.ModelRemove(model="theirs")}, ()),
                ("manage-models", {"model_alias": pb.ModelAlias(model="other", alias="z")}, ()),
                ("manage-models", {"prewarm": pb.Prewarm(text=b"x", share=True)}, ()),
                ("manage-models", {"forget": pb.Forget(all_users=True)}, ()),
                ("manage-models", {"reserve_memory": pb.ReserveMemory(bytes=1 << 20)}, ()),
                ("manage-models", {"hold_warm": pb.HoldWarm(model="null")}, ()),
                ("observe-others", {"status": pb.Status(all_users=True)}, ()),
                ("observe-others", {"jobs": pb.Jobs(all_users=True)}, ()),
                ("observe-others", {"sessions": pb.Sessions(all_users=True)}, ()),
                ("observe-others", {"usage_query": pb.UsageQuery(all_users=True)}, ())]

    def import_theirs(self):
        fd = os.open(TINY, os.O_RDONLY)
        with self.daemon_.connect() as root:
            self.assertDone(root.ask((fd,), model_import=pb.ModelImport(name="theirs", files=[pb.ModelFile(name="t.gguf")],
                                                                        input_fd=True)))
        os.close(fd)

    def test_what_everything_asks_for(self):
        self.import_theirs()
        before = self.daemon_.fd_count()
        for action, body, fds in self.frames():
            with self.subTest(body=body):
                self.assertRefusedFor(action, self.ask(fds=fds, **body))
                self.assertEqual(self.asked(), [action])
        self.assertServed()
        self.wait_fds(self.daemon_, before)

    def test_what_polkit_permits(self):
        """Each does what it does for root, as far as it is for a user's own."""
        self.import_theirs()
        self.answer(manage_models="yes", observe_others="yes")
        ends = {"load": "done", "unload": "done", "model_import": "done", "model_pack": "done", "model_alias": "done",
                "model_pin": "done", "model_verify": "done", "model_remove": "done", "status": "done", "jobs": "done",
                "sessions": "done", "usage_query": "done", "forget": "done"}
        for action, body, fds in self.frames():
            (verb,) = body
            if verb not in ends:
                continue
            with self.subTest(body=body):
                with self.client() as client:
                    end = self.ask(client, fds=fds, **body)
                if verb in ("model_pack", "model_remove", "load") or "passwd" in str(body) or "other" in str(body):
                    # what it is about may be refused, but not for whom
                    self.assertNotEqual(error_name(end.error), "PERMISSION_DENIED", end)
                else:
                    self.assertDone(end)
                self.assertEqual(self.asked(), [action])
        for body in {"reserve_memory": pb.ReserveMemory(bytes=1 << 20)}, {"hold_warm": pb.HoldWarm(model="null")}:
            id = self.begin(**body)
            stages = []
            while not {"granted", "warm"} & set(stages):
                stages.append(self.mine.receive_of(id).progress.stage)
            self.mine.cancel(id)
            self.assertError(self.mine.answer(id)[2], "CANCELLED")

    def test_what_nobody_is_asked_about(self):
        for body in ({"models": pb.Models()}, {"status": pb.Status()}, {"jobs": pb.Jobs()}, {"sessions": pb.Sessions()},
                     {"usage_query": pb.UsageQuery()}, {"tokenize": pb.Tokenize(text=b"x")}, {"forget": pb.Forget()},
                     {"session_create": pb.SessionCreate()}):
            self.assertDone(self.ask(**body))
        self.assertServed()
        with self.daemon_.connect() as root:
            for body in {"unload": pb.Unload(model="null")}, {"load": pb.Load(model="null")}, {"status": pb.Status(all_users=True)}:
                self.assertDone(root.ask(**body))
        self.assertEqual(self.asked(), [])

    def test_others(self):
        """Their requests, sessions and jobs are seen with the right, and with that alone."""
        with self.daemon_.connect() as root:
            session = root.ask(session_create=pb.SessionCreate()).done.session.id
            running = root.generate(n=10, credit=1)
            root.tokens(running, 1)
            job, _ = self.begin_import(self.daemon_, self.connect())
            number = int(job.rsplit("/", 1)[1])
            self.assertEqual(list(self.ask(jobs=pb.Jobs()).done.jobs.jobs), [])
            self.assertEqual(list(self.ask(sessions=pb.Sessions()).done.sessions.sessions), [])
            self.assertEqual([r.uid for r in self.ask(status=pb.Status()).done.status.requests], [])
            self.assertRefusedFor("manage-models", self.ask(job_cancel=pb.JobCancel(job=number)))
            none = self.ask(session_close=pb.SessionClose(session=session))
            self.assertError(none, "INVALID_ARGUMENT")  # nobody learns that there is one
            self.assertIn("there is no session", none.error.message)
            self.answer(observe_others="yes")
            (seen,) = self.ask(jobs=pb.Jobs(all_users=True)).done.jobs.jobs
            self.assertEqual((seen.id, seen.kind, seen.uid, seen.own), (number, "import", 0, False))
            self.assertEqual([s.id for s in self.ask(sessions=pb.Sessions(all_users=True)).done.sessions.sessions], [session])
            self.answer()  # who looked once may look again, on this connection
            self.asked()
            status = self.ask(status=pb.Status(all_users=True)).done.status
            self.assertEqual(self.asked(), [])
            with self.client() as another:
                self.assertRefusedFor("observe-others", self.ask(another, status=pb.Status(all_users=True)))
            self.assertIn(0, [r.uid for r in status.requests])
            self.assertEqual({u.uid for u in status.users}, {0, NOBODY})
            self.assertRefusedFor("manage-models", self.ask(job_cancel=pb.JobCancel(job=number)))
            self.answer(manage_models="yes")
            self.assertDone(self.ask(job_cancel=pb.JobCancel(job=number)))
            until(lambda: not root.ask(jobs=pb.Jobs()).done.jobs.jobs, what="the job's end")
            self.assertError(self.ask(job_cancel=pb.JobCancel(job=number)), "INVALID_ARGUMENT")
            self.assertDone(self.ask(session_close=pb.SessionClose(session=session)))
            root.cancel(running)


class Subject(SocketPolkit):
    def subject(self):
        (said,) = self.mock_call("Subjects")
        return dict(part.split("=") for part in said.split())

    def test_a_pidfd(self):
        """Where the kernel and polkit have it."""
        self.assertRefusedFor("manage-models", self.ask(unload=pb.Unload(model="null")))
        subject = self.subject()
        if "pidfd" not in subject:
            self.skipTest("the kernel has no SO_PEERPIDFD")
        self.assertEqual(subject, {"pidfd": str(os.getpid()), "uid": str(NOBODY)})
        self.assertEqual([line.split()[3:] for line in self.mock_call("Questions")], [["0", "0", "False"]])

    def test_an_older_polkit(self):
        """It is told pid, start time and uid, from the second question on at once."""
        self.mock_call("KnowsPidfd", "b", (False,))
        self.answer(manage_models="yes")
        with open("/proc/self/stat", encoding="ascii") as file:
            began = file.read().rsplit(")", 1)[1].split()[19]
        for body in {"unload": pb.Unload(model="null")}, {"load": pb.Load(model="null")}:
            self.assertDone(self.ask(**body))
            self.assertEqual(self.subject(), {"pid": str(os.getpid()), "start-time": began, "uid": str(NOBODY)})

    def test_who_has_ended_is_not_asked_about(self):
        """Its child has the connection, and nothing that its opener might have been permitted."""
        self.answer(manage_models="yes", observe_others="yes")
        script = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT / 'tests/integration')!r})
from harness import Client, error_name, pb
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
client = Client({str(self.daemon_.socket)!r})
print(client.ask(load=pb.Load(model="null")).WhichOneof("body"), client.ask(jobs=pb.Jobs(all_users=True)).WhichOneof("body"))
opener = os.getpid()
sys.stdout.flush()
if os.fork():
    os._exit(0)
while os.getppid() == opener:
    time.sleep(0.01)
end = client.ask(unload=pb.Unload(model="null"))
print(error_name(end.error), error_name(client.ask(jobs=pb.Jobs(all_users=True)).error), flush=True)
print(client.answer(client.generate(n=2))[2].WhichOneof("body"), flush=True)
"""
        done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True, timeout=60 * SLOW,
                              env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
        self.assertEqual(done.stdout.split(), ["done", "done", "PERMISSION_DENIED", "PERMISSION_DENIED", "done"])
        self.assertEqual(self.asked(), ["manage-models", "observe-others"])

    def test_who_ends_meanwhile_is_denied(self):
        """Whatever polkit says of the pid."""
        self.answer(manage_models="hang")
        script = f"""
import os, sys
sys.path.insert(0, {str(ROOT / 'tests/integration')!r})
from harness import Client, error_name, pb
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
client = Client({str(self.daemon_.socket)!r})
id = client.request(unload=pb.Unload(model="null"))
if os.fork():
    sys.stdin.readline()
    os._exit(0)
print(error_name(client.answer(id)[2].error), flush=True)
"""
        for knows in True, False:
            self.mock_call("KnowsPidfd", "b", (knows,))
            with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                  env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}) as child:
                until(lambda: self.waiting() == 1, 10, "the question")
                child.stdin.close()
                child.wait(60 * SLOW)  # the opener has ended, its child waits
                self.answer(manage_models="yes")
                self.assertEqual(child.stdout.read().split(), ["PERMISSION_DENIED"])
            self.answer(manage_models="hang")

    def test_what_the_bus_handed_out(self):
        """It has what its caller was granted there; nobody is asked again."""
        self.daemon_.socket.chmod(0o600)
        self.answer(use="yes", manage_models="yes", reserve_memory="yes")
        _, fd = self.call(self.caller, "OpenSession", "a{sv}", (dbus.Dictionary({}, signature="sv"),))
        self.asked()
        with Client.of_fd(fd.take()) as client:
            self.assertEqual(list(client.hello.features), [])
            self.assertServed(client)
            self.assertRefusedFor("manage-models", self.ask(client, unload=pb.Unload(model="null")))
            self.assertRefusedFor("observe-others", self.ask(client, status=pb.Status(all_users=True)))
        self.assertEqual(self.asked(), [])


class Questions(SocketPolkit):
    def test_a_person_is_asked_where_the_frame_says_so(self):
        self.answer(manage_models="person")
        end = self.ask(unload=pb.Unload(model="null"))
        self.assertRefusedFor("manage-models", end)
        self.assertTrue(end.error.needs_person)
        self.assertIn("--ask-password", end.error.message)
        self.assertDone(self.ask(interactive=True, unload=pb.Unload(model="null")))
        self.assertEqual([line.split()[4:] for line in self.mock_call("Questions")], [["0", "False"], ["1", "True"]])
        self.answer()
        self.assertFalse(self.ask(interactive=True, unload=pb.Unload(model="null")).error.needs_person)

    def test_others_go_on_meanwhile(self):
        """Of the same connection, too; answers come in whatever order."""
        self.answer(manage_models="hang")
        id = self.begin(load=pb.Load(model="null"))
        until(lambda: self.waiting() == 1, 10, "the question")
        self.assertServed()
        self.assertDone(self.ask(status=pb.Status()))
        with self.client() as other:
            self.assertServed(other)
        self.assertEqual([r.kind for r in self.ask(status=pb.Status()).done.status.requests], ["load"])
        self.answer(manage_models="yes")
        self.assertDone(self.mine.answer(id)[2])

    def test_clients_that_leave_or_cancel(self):
        """Their questions are called off."""
        self.answer(manage_models="hang")
        before = self.daemon_.fd_count()
        fd = os.open(TINY, os.O_RDONLY)
        files = [pb.ModelFile(name="a.gguf"), pb.ModelFile(name="b.gguf")]
        for leave in True, False:
            client = self.client()
            id = self.begin(client, True, (fd, fd), model_import=pb.ModelImport(name="x", files=files, input_fd=True))
            until(lambda: self.waiting() == 1, 10, "the question")
            if leave:
                client.close()
            else:
                client.cancel(id)
                self.assertError(client.answer(id)[2], "CANCELLED")
                self.assertServed(client)
                client.close()
            until(lambda: "cancel" in self.asked(), 10, "its being called off")
            self.assertEqual(self.waiting(), 0)
        os.close(fd)
        self.answer(manage_models="yes")
        self.wait_fds(self.daemon_, before)
        self.assertEqual(self.get(self.admin, "State", MODEL_PATH, MODEL), "ready")

    def test_questions_are_bounded(self):
        """For a user as a whole, wherever it asks."""
        self.answer(manage_models="hang")
        clients = [self.client() for _ in range(3)]
        ids = [(clients[i % 3], self.begin(clients[i % 3], unload=pb.Unload(model="null"))) for i in range(16)]
        until(lambda: self.waiting() == 16, 30, "as many questions as may be open")
        for client in clients:
            end = self.ask(client, unload=pb.Unload(model="null"))
            self.assertError(end, "BUSY")
            self.assertGreater(end.error.retry_after_ms, 0)
        self.assertRefused("Busy", self.call, self.caller, "Unload", "s", ("null",))
        with self.daemon_.connect(uid=4711) as another:
            id = another.request(unload=pb.Unload(model="null"))
            until(lambda: self.waiting() == 17, 10, "another user's question")
            self.answer()
            self.assertRefusedFor("manage-models", another.answer(id)[2])
        for client, id in ids:
            self.assertRefusedFor("manage-models", client.answer(id)[2])

    def test_polkit_that_errs_goes_or_is_silent(self):
        self.answer(manage_models="error", observe_others="hang")
        self.assertRefusedFor("manage-models", self.ask(unload=pb.Unload(model="null")))
        self.assertIn("polkit does not decide", self.daemon_.log())
        id = self.begin(jobs=pb.Jobs(all_users=True))
        until(lambda: self.waiting() == 1, 10, "the question")
        began = time.monotonic()
        self.assertRefusedFor("observe-others", self.mine.answer(id)[2])  # after its ten seconds
        self.assertGreater(time.monotonic() - began, 5)
        id = self.begin(jobs=pb.Jobs(all_users=True))
        until(lambda: self.waiting() == 2, 10, "the question")
        self.polkit_process.kill()
        self.assertRefusedFor("observe-others", self.mine.answer(id)[2])
        self.assertRefusedFor("manage-models", self.ask(unload=pb.Unload(model="null")))  # nobody is there to be asked
        self.assertServed()

    def test_a_bus_that_goes(self):
        """Questions end with it."""
        self.answer(manage_models="hang")
        id = self.begin(interactive=True, unload=pb.Unload(model="null"))
        until(lambda: self.waiting() == 1, 10, "the question")
        self.bus.stop()
        self.assertRefusedFor("manage-models", self.mine.answer(id)[2])
        self.assertRefusedFor("manage-models", self.ask(unload=pb.Unload(model="null")))
        self.assertServed()

    def test_a_daemon_that_stops(self):
        self.answer(manage_models="hang")
        id = self.begin(unload=pb.Unload(model="null"))
        until(lambda: self.waiting() == 1, 10, "the question")
        self.daemon_.signal(signal.SIGTERM)
        self.assertIn(error_name(self.mine.answer(id)[2].error), ("PERMISSION_DENIED", "STOPPING"))


class WithoutPolkit(MockedPolkit):
    def test_as_ever(self):
        """A bus without polkit, and no bus at all."""
        for daemon in self.serve_system(socket_mode="0666"), self.daemon(socket_mode="0666"):
            with daemon.connect(uid=NOBODY) as client:
                for body in {"unload": pb.Unload(model="null")}, {"load": pb.Load(model="null")}:
                    end = client.ask(interactive_authorization=True, **body)
                    self.assertError(end, "PERMISSION_DENIED")
                    self.assertIn("manage-models", end.error.message)
                    self.assertFalse(end.error.needs_person)
                self.assertDone(client.answer(client.generate(n=2))[2])
            with daemon.connect() as root:
                self.assertDone(root.ask(unload=pb.Unload(model="null")))


if __name__ == "__main__":
    unittest.main()
