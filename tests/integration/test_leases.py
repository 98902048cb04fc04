# SPDX-License-Identifier: Apache-2.0
"""Leases: memory that is given back for somebody and taken again, whoever ends how."""

import json
import os
import pathlib
import random
import signal
import subprocess
import time
import unittest

from harness import *
from harness import pb

CTL = BUILD / "bin/sparkctl"
STORIES = [TESTDATA / "models" / f"stories260K-{format}.gguf" for format in ("f32", "q8_0")]


class Leases(TestCase):
    def null(self, **settings):
        daemon = self.daemon(models=[{"name": "a", "default": True}], null={"step_us": 2000}, **settings)
        daemon.wait_engine()
        self.client = daemon.connect()
        self.addCleanup(self.client.close)
        return daemon

    def status(self):
        return self.client.ask(status=pb.Status()).done.status

    def granted(self, client, **fields):
        """A lease, when it has got what there is: its id, and what was given back."""
        id = client.request(reserve_memory=pb.ReserveMemory(**fields))
        stages = []
        while not stages or stages[-1] != "granted":
            frame = client.receive_of(id)
            self.assertEqual(frame.WhichOneof("body"), "progress", frame)
            stages.append(frame.progress.stage)
        self.assertLessEqual(set(stages), {"yield", "granted"})
        return id, frame.progress.done

    def ledger(self):
        """What must be as it was: leases, and what the service has promised itself."""
        s = self.status()
        return (len(s.leases), s.leased_bytes, s.memory_images, s.memory_kv, s.memory_engine, [(m.name, m.state) for m in s.models])

    def ctl(self, daemon, *arguments, **more):
        return subprocess.Popen([CTL, "-S", daemon.socket, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                start_new_session=True, **more)

    def end(self, process):
        out, err = process.communicate(timeout=30 * SLOW)
        return process.returncode, out, err

    def test_until_it_is_cancelled(self):
        daemon = self.null()
        before = self.ledger()
        id, given = self.granted(self.client, bytes=64 << 20, who="blender", why="a film")
        self.assertGreaterEqual(given, 64 << 20)
        lease, = self.status().leases
        self.assertEqual((lease.kind, lease.state, lease.bytes, lease.who, lease.why, lease.own, lease.pid, lease.policy),
                         ("memory", "granted", 64 << 20, "blender", "a film", True, os.getpid(), "wait"))
        self.client.cancel(id)
        self.assertError(self.client.answer(id)[2], "CANCELLED")
        until(lambda: self.ledger() == before, 10, "the ledger as it was")
        self.assertServes(daemon)
        self.assertIn("lease 1: the memory of 'blender'", daemon.log())

    def test_with_its_connection(self):
        self.null()
        before = self.ledger()
        other = Client(self.client.sock.getpeername())
        self.granted(other, bytes=1 << 20)
        other.close()
        until(lambda: self.ledger() == before, 10, "the ledger as it was")

    def test_refusals(self):
        self.null(memory={"leases_per_user": 2})
        for fields, code, text in (
                ({"bytes": 0}, "INVALID_ARGUMENT", "bytes"),
                ({"bytes": 1 << 60}, "INVALID_ARGUMENT", "bytes"),
                ({"bytes": 1, "policy": "maybe"}, "INVALID_ARGUMENT", "policy"),
                ({"bytes": 1, "who": "x" * 129}, "INVALID_ARGUMENT", "who"),
                ({"bytes": 1, "why": "x" * 257}, "INVALID_ARGUMENT", "why"),
                ({"bytes": 1, "why": "\x1b[2J"}, "INVALID_ARGUMENT", "why"),
                ({"bytes": 1, "why": "\u009b2J"}, "INVALID_ARGUMENT", "why")):
            end = self.client.ask(reserve_memory=pb.ReserveMemory(**fields))
            self.assertError(end, code)
            self.assertIn(text, end.error.message)
        self.assertEqual(len(self.status().leases), 0)

    @unittest.skipUnless(os.geteuid() == 0, "not root")
    def test_other_users(self):
        daemon = self.null(memory={"leases_per_user": 2, "lease_bytes_per_user": "8M"})
        self.granted(self.client, bytes=1 << 20, who="secret", why="secret")
        with daemon.connect(uid=12345) as stranger:
            lease, = stranger.ask(status=pb.Status()).done.status.leases
            self.assertEqual((lease.kind, lease.bytes, lease.own), ("memory", 1 << 20, False))
            self.assertEqual((lease.uid, lease.pid, lease.who, lease.why, lease.unit), (0, 0, "", "", ""))
            self.assertError(stranger.ask(reserve_memory=pb.ReserveMemory(bytes=9 << 20)), "QUOTA_EXCEEDED")
            self.granted(stranger, bytes=1 << 20, who="stranger")
            self.granted(stranger, bytes=1 << 20)
            self.assertError(stranger.ask(reserve_memory=pb.ReserveMemory(bytes=1)), "QUOTA_EXCEEDED")
            self.assertEqual([l.who for l in self.status().leases], ["secret", "stranger", ""])
            self.assertEqual([l.uid for l in self.status().leases], [0, 12345, 12345])
        until(lambda: len(self.status().leases) == 1, 10, "the end of the stranger's leases")
        settings = {"models": [{"name": "a", "default": True}], "null": {"step_us": 2000}}
        daemon.configure(memory={"leases": "privileged"}, residency={"holds": "none"}, **settings)
        daemon.signal(signal.SIGHUP)
        until(lambda: "configuration reloaded" in daemon.log(), 10, "the reload")
        with daemon.connect(uid=12345) as stranger:
            end = stranger.ask(reserve_memory=pb.ReserveMemory(bytes=1))
            self.assertError(end, "PERMISSION_DENIED")
            self.assertIn("memory.leases", end.error.message)
        self.assertError(self.client.ask(hold_warm=pb.HoldWarm(model="a")), "PERMISSION_DENIED")

    def test_missing_only(self):
        self.null()
        before = self.ledger()
        id, given = self.granted(self.client, bytes=1 << 20, missing_only=True)
        self.assertEqual(given, 0)  # the machine has that much
        self.assertEqual(self.ledger()[2:], before[2:])
        self.client.cancel(id)

    def test_a_hundred_in_any_order(self):
        """The ledger ends where it began, exactly."""
        daemon = self.null(memory={"leases_per_user": 100})
        before, fds = self.ledger(), daemon.fd_count()
        dice = random.Random(7)
        clients = [Client(daemon.socket) for _ in range(10)]
        leases = []
        for i in range(100):
            client = dice.choice(clients)
            if i % 4 == 3:
                leases.append((client, client.request(hold_warm=pb.HoldWarm(model="a"))))
            else:
                size = dice.randrange(1, 32 << 20)
                leases.append((client, client.request(reserve_memory=pb.ReserveMemory(bytes=size, missing_only=i % 5 == 0))))
        until(lambda: len(self.status().leases) == 100, 10, "a hundred leases")
        dice.shuffle(leases)
        for i, (client, id) in enumerate(leases):
            if client.sock.fileno() < 0:
                continue
            if i % 17 == 0:
                client.close()
            else:
                client.cancel(id)
                self.assertError(client.answer(id)[2], "CANCELLED")
        for client in clients:
            client.close()
        until(lambda: self.ledger() == before and daemon.fd_count() <= fds, 20, "the ledger as it was")
        self.assertServes(daemon)

    def test_stopping(self):
        """A lease does not keep the service from stopping."""
        daemon = self.null()
        id, _ = self.granted(self.client, bytes=1 << 20)
        since = time.monotonic()
        daemon.signal(signal.SIGTERM)
        self.assertError(self.client.answer(id)[2], "STOPPING")
        self.assertEqual(daemon.stop(), 0)
        self.assertLess(time.monotonic() - since, 5 * SLOW)

    # ---- the command line ----

    def test_a_command(self):
        daemon = self.null()
        before = self.ledger()
        yielded = self.ctl(daemon, "yield", "1.5M", "--why", "to see", "--", "sh", "-c", f"{CTL} -S {daemon.socket} --json leases; exit 7")
        code, out, err = self.end(yielded)
        self.assertEqual(code, 7, err)
        lease, = json.loads(out)["leases"]
        self.assertEqual((lease["bytes"], lease["who"], lease["why"], lease["state"], lease["pid"]),
                         (3 << 19, "sh", "to see", "granted", yielded.pid))
        self.assertIn("given back", err)
        until(lambda: self.ledger() == before, 10, "the ledger as it was")
        self.assertEqual(self.end(self.ctl(daemon, "yield", "1M", "--", "/no/such/program"))[0], 127)
        self.assertEqual(self.end(self.ctl(daemon, "yield", "1M", "--", "/etc/passwd"))[0], 126)
        self.assertEqual(self.end(self.ctl(daemon, "yield", "1M", "--", "sh", "-c", "kill -9 $$"))[0], 128 + 9)
        for name in ("x" * 200, "\u00e4" * 100, "a\x1b\u009bb", "bad\udcff"):  # of a program may be anything
            program = pathlib.Path(daemon.state_dir, name)
            program.symlink_to("/bin/true")
            self.assertEqual(self.end(self.ctl(daemon, "yield", "1M", "--", program))[0], 0, name)
        for unwritten in ("2>/dev/full", "2>&-", "0<&- 1>&- 2>&-"):
            done = subprocess.run(["sh", "-c", f"{CTL} -S {daemon.socket} yield 1M -- /no/such/program {unwritten}"], check=False)
            self.assertEqual(done.returncode, 127, unwritten)
        for wrong in (["yield", "1M", "--"], ["hold", "a", "--"], ["yield"], ["yield", "0"], ["yield", "40Q"], ["yield", "1M", "2M"], ["yield", "--policy", "x", "1M"], ["hold"]):
            self.assertEqual(self.end(self.ctl(daemon, *wrong))[0], 64, wrong)
        until(lambda: self.ledger() == before, 10, "the ledger as it was")

    def test_signals_go_to_the_command(self):
        daemon = self.null()
        script = "trap 'echo got; exit 3' TERM; echo there; while :; do sleep 0.05; done"
        process = self.ctl(daemon, "yield", "1M", "--", "sh", "-c", script)
        self.assertEqual(process.stdout.readline(), "there\n")
        process.send_signal(signal.SIGTERM)
        code, out, _ = self.end(process)
        self.assertEqual((code, out), (3, "got\n"))
        until(lambda: not self.status().leases, 10, "the end of the lease")

    def test_without_a_command(self):
        daemon = self.null()
        for json_wanted in ([], ["--json"]):
            process = self.ctl(daemon, *json_wanted, "yield", "1M")
            line = process.stdout.readline()
            if json_wanted:
                told = json.loads(line)
                self.assertEqual((told["granted"], told["wanted_bytes"]), (True, 1 << 20))
            else:
                self.assertIn("given back", line)
            self.assertEqual(len(self.status().leases), 1)
            process.send_signal(signal.SIGINT)
            self.assertEqual(self.end(process)[0], 0)
            until(lambda: not self.status().leases, 10, "the end of the lease")

    def test_killed(self):
        """Nothing is left of a lease whose holder was killed."""
        daemon = self.null()
        before = self.ledger()
        process = self.ctl(daemon, "yield", "1M")
        process.stdout.readline()
        process.kill()
        self.end(process)
        until(lambda: self.ledger() == before, 10, "the ledger as it was")

    def test_list(self):
        daemon = self.null()
        self.assertIn("Nobody holds", self.end(self.ctl(daemon, "leases"))[1])
        self.granted(self.client, bytes=3 << 20, who="blender", why="a film")
        code, out, _ = self.end(self.ctl(daemon, "leases"))
        self.assertEqual(code, 0)
        self.assertIn("blender: a film", out)
        self.assertIn("3.0 MiB", out)
        self.assertIn("sparkctl leases", self.end(self.ctl(daemon, "status"))[1])


@unittest.skipUnless(all(s.exists() for s in STORIES), f"{STORIES[0].parent} is not there")
class WithModels(TestCase):
    """Real ones: what runs on them goes on afterwards."""

    def real(self, policy="wait", **memory):
        daemon = self.daemon(backend="cpu", threads=1, memory={"kv": "32M", "lease_policy": policy, **memory},
                             models=[{"name": "a", "path": str(STORIES[0]), "default": True},
                                     {"name": "b", "path": str(STORIES[1]), "resident": "always"}])
        self.client = daemon.connect()
        self.addCleanup(self.client.close)
        until(lambda: all(m.state == "ready" for m in self.status().models), 20, "two models")
        return daemon

    def status(self):
        return self.client.ask(status=pb.Status()).done.status

    def states(self):
        return {m.name: m.state for m in self.status().models}

    def taken(self):
        s = self.status()
        return s.memory_images + s.memory_kv + s.memory_engine

    def lease(self, client, **fields):
        id = client.request(reserve_memory=pb.ReserveMemory(**fields))
        while client.receive_of(id).progress.stage != "granted":
            pass
        return id

    def streams(self, client, n=8, tokens=400, **fields):
        return [client.request(generate=pb.Generate(model="ab"[i % 2], prompt=f"Once there was a dog number {i}".encode(), credit=8,
                                                    sampling=pb.Sampling(max_tokens=tokens, seed=i, temperature=0.9, ignore_eos=True)))
                for i in range(n)]

    def test_streams_go_on(self):
        """Everything is given away while streams run: they wait, and end with the tokens that were due."""
        daemon = self.real()
        with daemon.connect() as client:
            alone = []
            for id in self.streams(client):
                client.credit(id, 1000)
                alone.append(client.answer(id)[0])
            ids = self.streams(client)
            begun = [client.tokens(id, 4) for id in ids]
            before = self.taken()
            held = self.lease(self.client, bytes=8 << 30)
            self.assertEqual(self.states(), {"a": "available", "b": "available"})
            self.assertEqual(self.taken(), 0)
            self.assertGreater(before, 0)
            late = client.generate(b"Once", model="a", n=4)
            while not client.nothing_comes(0.3):  # what was under way
                pass
            for id in ids:
                client.credit(id, 1000)
            self.assertTrue(client.nothing_comes(0.5))
            self.client.cancel(held)
            for id, first, whole in zip(ids, begun, alone):
                ids_, _, end = client.answer(id, seen=len(first))
                self.assertDone(end)
                self.assertEqual(first + ids_, whole)
            self.assertDone(client.answer(late)[2])
            until(lambda: self.states() == {"a": "ready", "b": "ready"}, 20, "both models again")
            self.assertEqual(self.taken(), before)

    def test_busy(self):
        """New requests are refused with a time; those that had begun wait and go on."""
        daemon = self.real("busy", lease_retry_seconds=7)
        with daemon.connect() as client:
            alone = []
            for id in self.streams(client, 2):
                client.credit(id, 1000)
                alone.append(client.answer(id)[0])
            ids = self.streams(client, 2)
            begun = [client.tokens(id, 4) for id in ids]
            held = self.lease(self.client, bytes=8 << 30)
            end = client.answer(client.generate(b"Once", model="a", n=4))[2]
            self.assertError(end, "BUSY")
            self.assertEqual(end.error.retry_after_ms, 7000)
            for id in ids:
                client.credit(id, 1000)
            self.client.cancel(held)
            for id, first, whole in zip(ids, begun, alone):
                ids_, _, end = client.answer(id, seen=len(first))
                self.assertDone(end)
                self.assertEqual(first + ids_, whole)

    def test_a_hundred_while_streams_run(self):
        """Random leases come and go under running streams: each stream ends with its tokens, and the ledger as it began."""
        daemon = self.real(leases_per_user=100)
        dice = random.Random(11)
        with daemon.connect() as client:
            alone = []
            for id in self.streams(client, 4, 1500):
                client.credit(id, 2000)
                alone.append(client.answer(id)[0])
            before = self.taken()
            ids = self.streams(client, 4, 1500)
            for id in ids:
                client.credit(id, 2000)
            with daemon.connect() as other:
                held = []
                for _ in range(100):
                    held.append(other.request(reserve_memory=pb.ReserveMemory(bytes=dice.choice((1 << 12, 1 << 20, 8 << 20, 1 << 30)),
                                                                              missing_only=dice.random() < 0.2)))
                    while len(held) > dice.randrange(4):
                        other.cancel(held.pop(dice.randrange(len(held))))
                    time.sleep(dice.random() / 20)
                for id in held:
                    other.cancel(id)
            for id, whole in zip(ids, alone):
                tokens, _, end = client.answer(id)
                self.assertDone(end)
                self.assertEqual(tokens, whole)
        until(lambda: self.states() == {"a": "ready", "b": "ready"} and self.taken() == before, 30, "the ledger as it was")
        status = self.status()
        self.assertEqual((len(status.leases), status.leased_bytes, status.memory.given), (0, 0, 0))
        self.assertEqual(status.memory.step, "nothing")

    def test_what_is_held_comes_back(self):
        """A model that somebody holds warm is given away like any other, and is loaded again by itself."""
        self.real()
        hold = self.client.request(hold_warm=pb.HoldWarm(model="a"))
        while self.client.receive_of(hold).progress.stage != "warm":
            pass
        memory = self.lease(self.client, bytes=8 << 30)
        self.assertEqual({l.kind: l.state for l in self.status().leases}, {"warm": "load", "memory": "granted"})
        self.client.cancel(memory)
        while self.client.receive_of(hold).progress.stage != "warm":
            pass
        self.assertEqual(self.states()["a"], "ready")

    def test_no_more_than_asked(self):
        """One model is enough: the other one, which is what requests without a name mean, serves on."""
        daemon = self.real()
        with daemon.connect() as client:
            self.assertDone(client.answer(client.generate(b"Once", model="a", n=4))[2])
            held = self.lease(self.client, bytes=2 << 20)
            self.assertEqual(self.states(), {"a": "ready", "b": "available"})
            self.assertDone(client.answer(client.generate(b"Once", model="a", n=4))[2])
            waiting = client.generate(b"Once", model="b", n=4)
            self.assertTrue(client.nothing_comes(0.3))
            self.client.cancel(held)
            self.assertDone(client.answer(waiting)[2])


if __name__ == "__main__":
    unittest.main()
