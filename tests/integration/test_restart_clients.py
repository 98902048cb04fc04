#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Clients over restarts: whatever ends the service, and whenever, they notice nothing but a pause. Streams go on with the token that
was due, no byte is lost and none comes twice; idle connections answer their next request.

SPARK_TEST_KILLS: how often the service is killed in a row (default: 200, and 60 with a real model; a
third of that under a sanitizer, where each takes several times as long)."""

import os
import random
import select
import signal
import struct
import time
import unittest

from fdstore_harness import *
from harness import *
from harness import pb

KILLS = int(os.environ.get("SPARK_TEST_KILLS", "0"))
SHARE = 1 if SLOW <= 1 else 3
MODEL = ROOT / "share/models/spark-tiny.gguf"


def sampled(seed, n):
    return pb.Sampling(max_tokens=n, seed=seed, temperature=0.9, top_p=0.95)


class Reader:
    """Asks for the same again and again, reads what is there in pieces of any size, and compares every answer with the one that
    was given undisturbed."""

    def __init__(self, daemon, random, number, n):
        self.client = daemon.connect()
        self.random, self.number, self.n = random, number, n
        self.expected = None
        self.rounds = -1
        self.begin()

    def begin(self):
        self.rounds += 1
        self.ids, self.text = [], b""
        self.id = self.client.request(generate=pb.Generate(prompt=f"Stream {self.number}".encode(), credit=30,
                                                           sampling=sampled(self.number + 1, self.n)))

    def read(self):
        client = self.client
        data = client.sock.recv(self.random.choice((1, 7, 200, 1 << 16)))
        if not data:
            raise Closed
        client.received += data
        while len(client.received) >= 4:
            size, = struct.unpack_from("<I", client.received)
            if len(client.received) < 4 + size:
                return
            self.take(pb.ServerFrame.FromString(bytes(client.received[4:4 + size])))
            del client.received[:4 + size]

    def take(self, frame):
        kind = frame.WhichOneof("body")
        if kind == "progress":
            return
        if frame.id != self.id or kind not in ("token", "done"):
            raise AssertionError(f"in round {self.rounds} of stream {self.number}: {frame}")
        if kind == "token":
            if frame.token.index != len(self.ids):
                raise AssertionError(f"token {frame.token.index} came where {len(self.ids)} was due")
            self.ids += frame.token.ids
            self.text += frame.token.text
            self.client.credit(self.id, len(frame.token.ids))
            return
        answer = self.ids, self.text, frame.done.finish_reason, frame.done.usage.completion_tokens
        if self.expected is None:
            self.expected = answer
        if answer != self.expected:
            raise AssertionError(f"in round {self.rounds} of stream {self.number}: {answer} instead of {self.expected}")
        self.begin()


def read_for(readers, seconds):
    """Serves the readers for so long."""
    end = time.monotonic() + seconds
    while True:
        ready = select.select([r.client.sock for r in readers], [], [], max(0, end - time.monotonic()))[0]
        for reader in readers:
            if reader.client.sock in ready:
                reader.read()
        if time.monotonic() >= end:
            return


def read_rounds(readers, rounds):
    """Until every one of them has had so many more answers."""
    end = time.monotonic() + 60 * SLOW
    goals = [r.rounds + rounds for r in readers]
    while any(r.rounds < goal for r, goal in zip(readers, goals)):
        read_for(readers, 0.05)
        if time.monotonic() > end:
            raise AssertionError(f"rounds: {[r.rounds for r in readers]}")


class Clients(KeptTestCase):
    def clients_held(self, daemon):
        return [n for n in daemon.store.names() if not n.startswith(("sparkd-", "image."))]

    def assertNothingHeld(self, daemon):
        until(lambda: not self.clients_held(daemon), 10, f"an empty store (now {daemon.store.names()})")

    def wait_kept(self, daemon, count):
        """So many clients are in the store, and it counts."""
        until(lambda: len([n for n in daemon.store.names() if n.startswith("client.")]) >= count, 10, f"{count} kept clients")
        self.pass_turn(daemon)

    def test_streams_and_idle_connections(self):
        daemon = self.kept(null={"step_us": 3000})
        idle = [daemon.connect() for _ in range(100)]
        streams = [daemon.connect() for _ in range(20)]
        fds = []
        for how in (None, signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
            ids = [c.generate(f"S{k}".encode(), n=150, seed=k + 1, credit=1000) for k, c in enumerate(streams)]
            seen = [c.tokens(id, 20) for c, id in zip(streams, ids)]
            if how:
                daemon.restart(how)
            answers = []
            for client, id, first in zip(streams, ids, seen):
                more, _, end = client.answer(id, seen=len(first))
                self.assertDone(end)
                self.assertEqual(end.done.usage.completion_tokens, 150)
                answers.append(first + more)
            if not how:
                expected = answers
                self.wait_kept(daemon, 120)
            self.assertEqual(answers, expected)
            for client in idle:
                self.assertEqual(client.ask(models=pb.Models()).done.models.models[0].name, "null")
            fds.append(daemon.fd_count())
            self.wait_fds(daemon, min(fds))  # the ledger's files are open now and then, beside all others
        for client in idle + streams:
            client.close()
        self.assertNothingHeld(daemon)

    def kill_often(self, daemon, kills, tokens, steps):
        """Kills it at random moments while 20 streams run; steps: how long it may live, at most."""
        chance = random.Random(os.environ.get("SPARK_TEST_SEED", "7"))
        readers = [Reader(daemon, chance, k, tokens) for k in range(20)]
        idle = [daemon.connect() for _ in range(10)]
        read_rounds(readers, 1)
        self.wait_kept(daemon, 30)
        memory = []
        for i in range(kills):
            read_for(readers, chance.random() * chance.choice(steps) * SLOW)
            if daemon.store.ready.is_set():
                memory.append(daemon.memory())
            daemon.crash()
            daemon.start(wait=False)
            if i % 7 == 6:  # what eight in a row had no time to take over is given up: which a busy machine makes of any moment
                daemon.wait_ready()
                self.assertTrue(chance.choice(idle).ask(models=pb.Models()).done.models.models)
        read_rounds(readers, 2)
        for client in idle:
            self.assertTrue(client.ask(models=pb.Models()).done.models.models)
        if SLOW == 1:  # no sanitizer that keeps what was freed
            late, early = memory[-5:], memory[5:10]
            self.assertLess(min(late), max(early) + (2 << 20), memory)
        for client in idle + [r.client for r in readers]:
            client.close()
        self.assertNothingHeld(daemon)
        self.assertLess(len(daemon.store.names()), 12)

    def test_killed_over_and_over(self):
        daemon = self.kept(null={"step_us": 2000}, log_level="info")
        self.kill_often(daemon, KILLS or 200 // SHARE, 120, (0.005, 0.03, 0.1, 0.4))

    def test_killed_over_and_over_with_a_model(self):
        daemon = self.kept(backend="cpu", threads=1, log_level="info",
                           models=[{"name": "tiny", "path": str(MODEL), "default": True}])
        self.kill_often(daemon, KILLS or 60 // SHARE, 40, (0.02, 0.2, 0.8))

    def test_credit_is_used_up(self):
        daemon = self.kept()
        client = daemon.connect()
        expected = client.answer(client.generate(n=60, seed=5, credit=100))[0]
        for how in (signal.SIGKILL, signal.SIGTERM):
            id = client.generate(n=60, seed=5, credit=10)
            ids = client.tokens(id, 10)
            daemon.restart(how)
            self.assertTrue(client.nothing_comes(0.3))
            client.credit(id, 15)
            ids += client.tokens(id, 15)
            daemon.restart(how)
            self.assertTrue(client.nothing_comes(0.3))
            client.credit(id, 100)
            self.assertEqual(ids + client.answer(id, seen=25)[0], expected)

    def test_what_comes_meanwhile(self):
        """Frames that were sent while nobody was there."""
        daemon = self.kept(null={"step_us": 3000})
        client = daemon.connect()
        id = client.generate(n=100000, credit=100000)
        client.tokens(id, 5)
        daemon.crash()
        client.cancel(id)
        other = client.generate(n=5, seed=3)
        daemon.start()
        self.assertError(self.end_of(client, id), "CANCELLED")
        ids, _, end = client.answer(other)
        self.assertDone(end)
        self.assertEqual(len(ids), 5)
        with daemon.connect() as watcher:
            until(lambda: not watcher.ask(status=pb.Status()).done.status.requests, 5, "no request")

    def end_of(self, client, id):
        while True:
            frame = client.receive_of(id)
            if frame.WhichOneof("body") in ("done", "error"):
                return frame

    def test_long_frame_in_pieces(self):
        daemon = self.kept()
        client = daemon.connect()
        text = bytes(random.Random(3).choices(b"abcdefgh ", k=1 << 20))
        expected = client.ask(tokenize=pb.Tokenize(text=text)).done.tokenize.ids
        self.assertGreater(len(expected), 1000)
        self.wait_kept(daemon, 1)
        data = pb.ClientFrame(id=9, tokenize=pb.Tokenize(text=text)).SerializeToString()
        data = struct.pack("<I", len(data)) + data
        pieces = [data[i:i + 150000] for i in range(0, len(data), 150000)]
        for i, piece in enumerate(pieces):
            client.send_raw(piece)
            if i % 2:
                time.sleep(0.05)
            daemon.restart(signal.SIGKILL if i % 3 else signal.SIGTERM)
        self.assertEqual(client.receive_of(9).done.tokenize.ids, expected)

    def test_unread_output(self):
        """A client that reads nothing for a while finds everything, in order."""
        daemon = self.kept()
        client = daemon.connect()
        count = 60
        for i in range(count):
            client.request(id=i + 1, tokenize=pb.Tokenize(text=b"word " * 4000 + str(i).encode()))
        self.wait_kept(daemon, 1)
        for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            self.pass_turn(daemon)
            daemon.restart(how)
            time.sleep(0.1)
        lengths = {len(self.end_of(client, i + 1).done.tokenize.ids) for i in range(count)}
        self.assertLessEqual(len(lengths), 3)
        self.assertGreater(min(lengths), 3000)

    def test_input_that_was_sent_along(self):
        """The same open file with two requests: the store takes one only once."""
        daemon = self.kept(backend="cpu", threads=1, models=[{"name": "tiny", "path": str(MODEL), "default": True}])
        client = daemon.connect()
        fd = memfd(b"Once upon a time there was a machine that " * 3)

        def ask(n):
            return client.request((fd,), generate=pb.Generate(input_fd=True, credit=200, sampling=sampled(n, 60)))

        expected = [client.answer(ask(n))[0] for n in (1, 2)]
        for _ in range(3):
            ids = [ask(n) for n in (1, 2)]
            time.sleep(0.01)
            daemon.restart(signal.SIGKILL)
            self.assertEqual([client.answer(id)[0] for id in ids], expected)
        os.close(fd)
        until(lambda: not [n for n in daemon.store.names() if n.startswith("input.")], 10, "no input in the store")

    def session_turns(self, persistent):
        """Three turns of a session; in the second one the service is killed now and then. Gives what each gave."""
        daemon = self.kept(backend="cpu", threads=1, models=[{"name": "tiny", "path": str(MODEL), "default": True}])
        turns, others = [], []
        for kills, into in ((0, others), (4, turns)):
            client = daemon.connect()
            session = client.ask(session_create=pb.SessionCreate(persistent=persistent)).done.session.id
            self.wait_kept(daemon, 1)
            for i in range(4):
                sampling = pb.Sampling(max_tokens=40, seed=i, temperature=0.9, ignore_eos=True)
                id = client.request(generate=pb.Generate(prompt=f" and {i}".encode(), session=session, credit=100,
                                                         sampling=sampling))
                ids = []
                for _ in range(kills):
                    if len(ids) < 30:
                        ids += client.tokens(id, 1)
                    daemon.restart(signal.SIGKILL)
                more, _, end = client.answer(id, seen=len(ids))
                self.assertDone(end)
                into.append((ids + more, end.done.session.tokens, end.done.usage.completion_tokens))
            info, = [s for s in client.ask(sessions=pb.Sessions()).done.sessions.sessions if s.id == session]
            into.append(info.tokens)
        self.assertEqual(turns, others)

    def test_turns_of_a_stored_session(self):
        self.session_turns(True)

    def test_turns_of_a_session_of_the_connection(self):
        self.session_turns(False)

    def test_ends_reach_the_client(self):
        """What the store holds does not keep a client from seeing that its connection ended, nor from what it was sent before."""
        daemon = self.kept()
        client = daemon.connect()
        client.generate(n=3)
        self.wait_kept(daemon, 1)
        client.send_raw(b"\0\0\0\0")
        frames = client.expect_closed()
        self.assertError(frames[-1], "INVALID_ARGUMENT")
        self.assertNothingHeld(daemon)

    def test_stop_ends_them(self):
        """A stop is no restart."""
        systemd = self.systemd(job="stop")
        daemon = self.kept(env=systemd.env)
        client = daemon.connect()
        client.ask(models=pb.Models())
        client.generate(n=3)
        self.wait_kept(daemon, 1)
        self.assertEqual(daemon.stop(), 0)
        self.assertError(client.expect_closed()[-1], "STOPPING")
        daemon.store.settle()
        self.assertEqual(daemon.store.names(), [])

    def test_what_can_not_go_on(self):
        """What could be done twice, or is nobody's to be asked again, ends with a sentence."""
        daemon = self.kept(backend="cpu", threads=1, models=[{"name": "tiny", "path": str(MODEL)}],
                           program=self.haltable("spark-loader"))
        client = daemon.connect()
        self.wait_kept(daemon, 1)
        self.halt("spark-loader")
        id = client.request(load=pb.Load(path=str(MODEL), dry_run=True))
        self.wait_halted(daemon, "spark-loader")
        daemon.restart(signal.SIGKILL)
        end = self.end_of(client, id)
        self.assertError(end, "BUSY")
        self.assertIn("restarted", end.error.message)
        self.assertGreater(end.error.retry_after_ms, 0)
        self.assertDone(client.ask(load=pb.Load(path=str(MODEL), dry_run=True)))

    def test_leases_of_requests(self):
        daemon = self.kept()
        client = daemon.connect()
        id = client.request(hold_warm=pb.HoldWarm(model="null", who="a test"))

        def leases():
            with daemon.connect() as watcher:
                return [(lease.kind, lease.who) for lease in watcher.ask(status=pb.Status()).done.status.leases]

        self.wait_kept(daemon, 1)
        until(leases, 5, "a lease")
        for how in (signal.SIGKILL, signal.SIGTERM):
            daemon.restart(how)
            self.assertEqual(leases(), [("warm", "a test")])
        client.cancel(id)
        self.assertError(self.end_of(client, id), "CANCELLED")
        self.assertEqual(leases(), [])

    def test_short_visits_cost_nothing(self):
        daemon = self.kept()

        def visits():
            """What they cost. None where somebody may have been there for a second, which is no short visit."""
            daemon.store.settle()
            before, began = len(daemon.store.messages), time.monotonic()
            for _ in range(10):
                with daemon.connect() as client:
                    client.ask(status=pb.Status())
            with daemon.connect() as client:
                until(lambda: client.ask(status=pb.Status()).done.status.connections == 1, 10, "the end of the visits")
                if time.monotonic() - began > 0.9:
                    return None
            daemon.store.settle()
            return [[m for m in daemon.store.messages[before:] if "FDSTORE" in m]]

        self.assertEqual(until(visits, 60, "short visits"), [[]])


if __name__ == "__main__":
    unittest.main()
