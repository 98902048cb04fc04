# SPDX-License-Identifier: Apache-2.0
"""sparkctl jobs: what is being loaded and imported, by the command line; and who is asked for a password, where."""

import json
import os
import pty
import select
import signal
import subprocess
import time
import unittest

from bus_harness import *
from harness import *
from harness import pb

TINY = ROOT / "share/models/spark-tiny.gguf"
AGENT = """#!/bin/sh
# stands for polkit's agent: says what it was started with, that it is ready, and stays until it is told to go
trap 'echo end >> "$AGENT_LOG"; exit 0' TERM
echo "start $PPID $*" >> "$AGENT_LOG"
eval "exec $2>&-"
while :; do sleep 0.02; done
"""


class Ctl:
    """sparkctl against a daemon, as root or as somebody else."""

    def ctl(self, daemon, *arguments, uid=None, check=None, env=None):
        done = subprocess.run([BUILD / "bin/sparkctl", "-S", daemon.socket, *map(str, arguments)], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, check=False, timeout=60 * SLOW, user=uid, group=uid,
                              extra_groups=None if uid is None else [], env={**os.environ, **(env or {})})
        if check is not None:
            self.assertEqual(done.returncode, check, done.stderr + done.stdout)
        return done

    def on_terminal(self, daemon, *arguments, uid=None, env=None):
        """The same with a terminal: (the process, its terminal)."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen([BUILD / "bin/sparkctl", "-S", daemon.socket, *map(str, arguments)], stdin=theirs, stdout=theirs,
                                   stderr=theirs, user=uid, group=uid, extra_groups=None if uid is None else [],
                                   start_new_session=True, env={**os.environ, "TERM": "dumb", **(env or {})})
        os.close(theirs)
        self.addCleanup(os.close, ours)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process, ours

    def read(self, terminal, process):
        """All that comes until the process has ended."""
        said = b""
        while True:
            if select.select([terminal], [], [], 0.05)[0]:
                try:
                    more = os.read(terminal, 1 << 16)
                except OSError:
                    break
                said += more
            elif process.poll() is not None:
                break
        process.wait(60 * SLOW)
        return said.decode()

    def big_file(self, daemon):
        big = daemon.folder / "big.gguf"
        big.write_bytes(TINY.read_bytes())
        os.truncate(big, 3 << 30)
        return big

    def begin_big(self, client, daemon, name="big"):
        """An import that takes its time: its request."""
        fd = os.open(self.big_file(daemon), os.O_RDONLY)
        id = client.request((fd,), model_import=pb.ModelImport(name=name, files=[pb.ModelFile(name="big.gguf")], input_fd=True))
        os.close(fd)
        until(lambda: client.ask(jobs=pb.Jobs()).done.jobs.jobs, what="the import's job")
        return id

    def jobs(self, daemon, *arguments, **options):
        return json.loads(self.ctl(daemon, "jobs", "--json", *arguments, check=0, **options).stdout)["jobs"]


class Jobs(Ctl, TestCase):
    def setUp(self):
        self.daemon_ = self.daemon(socket_mode="0666", store={"import": "all"})
        self.daemon_.folder.chmod(0o755)
        self.daemon_.wait_engine()

    def test_nothing(self):
        self.assertEqual(self.jobs(self.daemon_), [])
        self.assertIn("Nothing is being loaded", self.ctl(self.daemon_, "jobs", check=0).stdout)
        self.assertIn("Nothing is being loaded", self.ctl(self.daemon_, "jobs", "list", "--watch", check=0).stdout)  # ends by itself
        said = self.ctl(self.daemon_, "jobs", "cancel", 7, check=64).stderr
        self.assertIn("no job 7", said)
        self.assertIn("`sparkctl jobs`", said)  # where there might be one
        self.assertIn("`sparkctl session list`", self.ctl(self.daemon_, "session", "close", "nobody", check=64).stderr)
        for wrong in ("cancel",), ("cancel", "x"), ("cancel", "-1"), ("cancel", ""), ("nonsense",), ("list", "x"):
            self.ctl(self.daemon_, "jobs", *wrong, check=64)

    def offered(self):
        """What a shell offers after `jobs cancel`."""
        return subprocess.run([ROOT / "client/sparkctl/completion/complete.sh", BUILD / "bin/sparkctl", "-S", self.daemon_.socket,
                               "jobs", "cancel", ""], stdout=subprocess.PIPE, text=True, check=True).stdout

    def test_an_import(self):
        with self.daemon_.connect() as client:
            id = self.begin_big(client, self.daemon_)
            until(lambda: client.ask(jobs=pb.Jobs()).done.jobs.jobs[0].done > 0, what="progress")
            self.daemon_.freeze("spark-store")
            (job,) = self.jobs(self.daemon_)
            self.assertEqual({key: job[key] for key in ("kind", "model", "uid", "own", "state", "stage")},
                             {"kind": "import", "model": "big", "uid": os.getuid(), "own": True, "state": "running",
                              "stage": "import"})
            self.assertGreater(job["total"], 1 << 30)
            self.assertGreaterEqual(job["total"], job["done"])
            offered = until(self.offered, what="an offer")  # it waits for the service for a second, no longer
            self.assertEqual(offered.split()[:3], [str(job["id"]), "import", "big"])
            said = self.ctl(self.daemon_, "jobs", check=0).stdout
            self.assertRegex(said, rf"(?m)^ +{job['id']} +import +big +import +\d+ %")
            cancelled = self.ctl(self.daemon_, "jobs", "cancel", job["id"], "--json", check=0)
            self.assertEqual(json.loads(cancelled.stdout), {"id": job["id"], "cancelled": True})
            self.assertError(client.answer(id)[2], "CANCELLED")
        self.assertEqual(self.jobs(self.daemon_), [])
        self.ctl(self.daemon_, "jobs", "cancel", job["id"], check=64)

    def test_watching(self):
        with self.daemon_.connect() as client:
            id = self.begin_big(client, self.daemon_)
            self.daemon_.freeze("spark-store")
            began = time.monotonic()
            with subprocess.Popen([BUILD / "bin/sparkctl", "-S", self.daemon_.socket, "jobs", "--watch", "--json"],
                                  stdout=subprocess.PIPE, text=True) as watching:
                first = json.loads(watching.stdout.readline())
                # as it is printed: one in half a second, some twenty of them would fill a buffer
                self.assertLess(time.monotonic() - began, 5 * SLOW)
                self.assertEqual([job["kind"] for job in first["jobs"]], ["import"])
                client.cancel(id)
                self.assertError(client.answer(id)[2], "CANCELLED")
                rest = [json.loads(line) for line in watching.stdout]
                self.assertEqual(watching.wait(20 * SLOW), 0)
                self.assertEqual(rest[-1], {"jobs": []})

    def test_watching_on_a_terminal(self):
        """It goes on when nothing is left, until an interrupt."""
        process, terminal = self.on_terminal(self.daemon_, "jobs", "--watch", env={"TERM": "xterm"})
        said = b""
        while said.count(b"Nothing is being") < 2:
            said += os.read(terminal, 1 << 16)
        self.assertIn(b"\x1b[H", said)
        process.send_signal(signal.SIGINT)
        self.read(terminal, process)
        self.assertEqual(process.returncode, 130)

    @unittest.skipIf(os.geteuid() != 0, "becomes other users, which takes root")
    def test_a_load(self):
        """It is its first waiter's, who ends it for itself alone."""
        path = self.daemon_.folder / "slow.gguf"
        self.make_model(path, "--shape", "small", "--format", "f16", "--layers", "1", "--ff", "1024", "--experts", "256")
        daemon = self.daemon(backend="cpu", threads=1, socket_mode="0666",
                             models=[{"name": "tiny", "path": str(TINY), "default": True}, {"name": "slow", "path": str(path)}])
        daemon.wait_engine()
        daemon.folder.chmod(0o755)
        with daemon.connect(uid=4001) as one, daemon.connect(uid=4002) as two:
            ids = [(one, one.generate(model="slow", n=2))]
            loader = daemon.freeze("spark-loader")
            (job,) = until(lambda: self.jobs(daemon, uid=4001), what="the load's job")
            ids.append((two, two.generate(model="slow", n=2)))
            until(lambda: two.ask(status=pb.Status()).done.status.requests, what="the second request")
            self.assertEqual([job[key] for key in ("kind", "model", "uid", "own", "state")], ["load", "slow", 4001, True, "running"])
            self.assertEqual(self.jobs(daemon, uid=4002), [])
            self.ctl(daemon, "jobs", "cancel", job["id"], uid=4001, check=0)
            self.assertError(one.answer(ids[0][1])[2], "CANCELLED")
            os.kill(loader, signal.SIGCONT)
            self.assertDone(two.answer(ids[1][1])[2])
        self.assertEqual(self.jobs(daemon), [])

    @unittest.skipIf(os.geteuid() != 0, "becomes other users, which takes root")
    def test_other_users(self):
        with self.daemon_.connect(uid=4001) as client:
            id = self.begin_big(client, self.daemon_)
            self.daemon_.freeze("spark-store")
            (job,) = self.jobs(self.daemon_)  # root's view
            self.assertEqual((job["uid"], job["own"]), (4001, False))
            self.assertEqual([j["own"] for j in self.jobs(self.daemon_, uid=4001)], [True])
            self.assertEqual(self.jobs(self.daemon_, uid=4002), [])
            refused = self.ctl(self.daemon_, "jobs", "--all", uid=4002, check=77).stderr
            self.assertIn("org.sparkd.Spark1.observe-others", refused)
            refused = self.ctl(self.daemon_, "jobs", "cancel", job["id"], uid=4002, check=77).stderr
            self.assertIn("org.sparkd.Spark1.manage-models", refused)
            self.assertIn("sudo", refused)
            self.ctl(self.daemon_, "jobs", "cancel", job["id"], uid=4001, check=0)
            self.assertError(client.answer(id)[2], "CANCELLED")
            until(lambda: not self.daemon_.children("spark-store"), what="the worker's end")
            id = self.begin_big(client, self.daemon_)
            self.daemon_.freeze("spark-store")
            (job,) = self.jobs(self.daemon_)
            self.ctl(self.daemon_, "jobs", "cancel", job["id"], check=0)
            self.assertError(client.answer(id)[2], "CANCELLED")


class Passwords(Ctl, MockedPolkit):
    """Who is asked, and who does the asking."""

    def setUp(self):
        super().setUp()
        self.polkit()
        self.daemon_ = self.serve_system(socket_mode="0666")
        self.daemon_.folder.chmod(0o755)
        self.programs = self.daemon_.folder / "programs"
        self.programs.mkdir()
        (self.programs / "pkttyagent").write_text(AGENT, encoding="ascii")
        (self.programs / "pkttyagent").chmod(0o755)
        self.log = self.daemon_.folder / "agent"
        self.log.touch()
        self.log.chmod(0o666)
        self.agent = {"PATH": f"{self.programs}:/usr/bin:/bin", "AGENT_LOG": str(self.log)}

    def agent_said(self):
        lines = self.log.read_text(encoding="ascii").splitlines()
        self.log.write_text("", encoding="ascii")
        return lines

    def flags(self):
        return [line.split()[4] for line in self.mock_call("Questions")]

    def test_without_a_terminal(self):
        self.answer(manage_models="person")
        said = self.ctl(self.daemon_, "unload", "null", uid=NOBODY, env=self.agent, check=77).stderr
        self.assertIn("--ask-password", said)
        self.assertEqual(self.flags(), ["0"])
        self.ctl(self.daemon_, "--ask-password", "unload", "null", uid=NOBODY, env=self.agent, check=0)  # by a desktop's agent
        self.ctl(self.daemon_, "load", "null", "--ask-password", uid=NOBODY, env=self.agent, check=0)
        self.ctl(self.daemon_, "unload", "--ask-password", "null", "--no-ask-password", uid=NOBODY, env=self.agent, check=77)
        self.assertEqual(self.flags(), ["1", "1", "0"])
        self.assertEqual(self.agent_said(), [])

    def test_on_a_terminal(self):
        """The agent is started for the time of the request."""
        self.answer(manage_models="person", observe_others="person")
        for arguments in (("unload", "null"), ("load", "null"), ("jobs", "--all"), ("ps", "--all"), ("session", "list", "--all"),
                          ("usage", "--all"), ("leases", "--all"), ("top", "--all", "-n", "2", "-d", "0.1"), ("forget", "--all")):
            process, terminal = self.on_terminal(self.daemon_, *arguments, uid=NOBODY, env=self.agent)
            said = self.read(terminal, process)
            self.assertEqual(process.returncode, 0, (arguments, said))
            begin, end = self.agent_said()
            self.assertRegex(begin, rf"^start {process.pid} --notify-fd \d+ --fallback$", arguments)
            self.assertEqual(end, "end")
            self.assertEqual(self.flags()[0], "1", arguments)
        process, terminal = self.on_terminal(self.daemon_, "unload", "null", "--no-ask-password", uid=NOBODY, env=self.agent)
        self.assertIn("--ask-password", self.read(terminal, process))
        self.assertEqual((process.returncode, self.flags(), self.agent_said()), (77, ["0"], []))

    def test_what_needs_nobody(self):
        for arguments, uid in ((("status",), NOBODY), (("jobs",), NOBODY), (("ps",), NOBODY), (("unload", "null"), None)):
            process, terminal = self.on_terminal(self.daemon_, *arguments, uid=uid, env=self.agent)
            self.read(terminal, process)
            self.assertEqual((process.returncode, self.agent_said(), self.flags()), (0, [], []), arguments)

    def test_no_agent_is_installed(self):
        self.answer(manage_models="person")
        process, terminal = self.on_terminal(self.daemon_, "unload", "null", uid=NOBODY, env={"PATH": "/nonexistent"})
        said = self.read(terminal, process)
        self.assertEqual(process.returncode, 0, said)
        self.assertEqual(self.flags(), ["1"])

    def test_an_interrupt_while_somebody_is_asked(self):
        """The question is called off, and the agent goes."""
        self.answer(manage_models="hang")
        process, terminal = self.on_terminal(self.daemon_, "unload", "null", uid=NOBODY, env=self.agent)
        until(lambda: self.mock_call("Waiting") == 1, 10, "the question")
        process.send_signal(signal.SIGINT)
        self.read(terminal, process)
        self.assertEqual(process.returncode, 130)
        until(lambda: "cancel" in self.asked(), 10, "its being called off")
        self.assertEqual(self.agent_said()[1:], ["end"])
        process, terminal = self.on_terminal(self.daemon_, "unload", "null", uid=NOBODY, env=self.agent)
        until(lambda: self.mock_call("Waiting") == 1, 10, "the question")
        process.kill()  # who is killed takes it along
        process.wait()
        until(lambda: "cancel" in self.asked(), 10, "its being called off")
        until(lambda: self.log.read_text(encoding="ascii").endswith("end\n"), 10, "the agent's end")

    def test_a_command_has_the_terminal_to_itself(self):
        """The agent is gone before it starts."""
        process, terminal = self.on_terminal(self.daemon_, "hold", "null", "--", "cat", str(self.log), uid=NOBODY, env=self.agent)
        said = self.read(terminal, process)
        self.assertEqual(process.returncode, 0, said)
        self.assertRegex(said, r"start \d+ --notify-fd \d+ --fallback\s+end\s")


if __name__ == "__main__":
    unittest.main()
