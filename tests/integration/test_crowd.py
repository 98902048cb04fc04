#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A thousand clients of eight users, and nothing of them left when they are gone: no KV, no charge, no descriptor. Each
user's clients live in a process (or three) of that user's own."""

import multiprocessing
import os
import random
import signal
import traceback
import unittest

from harness import *
from harness import pb

BUNDLED = {"backend": "cpu", "models": [{"name": "tiny", "path": str(ROOT / "share/models/spark-tiny.gguf"),
                                         "default": True}]}
UIDS = range(60001, 60009)  # that nobody has
CLIENTS = 1000
COMPUTED = CLIENTS if SLOW <= 1 else 160  # where answers are computed: a sanitizer's kernels are very slow
WORDS = "the a cat dog big little tree house ran saw and then she he was happy why not river stone under over once".split()
needs_root = unittest.skipIf(os.geteuid() != 0, "clients of other users need root")


class Job:
    """What the client of this number asks for: prompts and answers are of many lengths, most of them short. An endless one
    is paused after its first tokens, for want of credit, and is there until it is cancelled."""

    def __init__(self, number, endless=False):
        rng = random.Random(number)
        words = min(int(rng.lognormvariate(2.8, 0.9)) + 1, 90)
        self.prompt = " ".join(rng.choices(WORDS, k=words)).capitalize()
        self.n = 1 << 16 if endless else min(int(rng.lognormvariate(2.5, 0.8)) + 1, 80)
        self.credit = 24 if endless else 0
        self.sampling = pb.Sampling(max_tokens=self.n, seed=number, temperature=0.9 if number % 3 else 0, top_k=0,
                                    ignore_eos=endless or number % 2 == 1)

    def ask(self, client):
        return client.request(generate=pb.Generate(prompt=self.prompt.encode(), sampling=self.sampling,
                                                   credit=self.credit))


# What the clients of a process do once all of them are there. Each has sent its request; the answer goes through the pipe.

def finish(clients, ids, pipe):
    """All read to the end."""
    answers = [client.answer(id, topup=True) for client, id in zip(clients, ids)]
    pipe.send([(tokens, text, end.SerializeToString()) for tokens, text, end in answers])


def cancel(clients, ids, pipe):
    """Every second one as soon as it has a token, the others wherever they are."""
    seen = [len(client.tokens(id, 1)) if i % 2 else 0 for i, (client, id) in enumerate(zip(clients, ids))]
    for client, id in zip(clients, ids):
        client.cancel(id)
    ends = [client.answer(id, seen=n)[2] for client, id, n in zip(clients, ids, seen)]
    pipe.send([error_name(end.error) if end.WhichOneof("body") == "error" else "done" for end in ends])


def vanish(clients, ids, pipe):
    """The process is killed as soon as every second client has a token."""
    for client, id in list(zip(clients, ids))[::2]:
        client.tokens(id, 1)
    pipe.send("begun")
    signal.pause()


class Group:
    """Clients of one user in a process of their own."""

    def __init__(self, daemon, uid, jobs, act):
        self.uid, self.jobs = uid, jobs
        self.pipe, theirs = multiprocessing.Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._live(daemon.socket, act, theirs)
            except BaseException:
                theirs.send(traceback.format_exc())
            finally:
                os._exit(0)
        theirs.close()

    def _live(self, path, act, pipe):
        os.setgroups([])
        os.setresgid(self.uid, self.uid, self.uid)
        os.setresuid(self.uid, self.uid, self.uid)
        clients = [Client(path) for _ in self.jobs]
        for client in clients:  # many answers come before the last one's begins: hear() knows how long that may take
            client.sock.settimeout(None)
        pipe.send("connected")
        pipe.recv()
        act(clients, [job.ask(client) for job, client in zip(self.jobs, clients)], pipe)
        pipe.recv()
        for client in clients:
            client.close()

    def tell(self):
        self.pipe.send("go on")

    def hear(self):
        if not self.pipe.poll(300 * SLOW):
            raise AssertionError(f"nothing comes from the clients of {self.uid}")
        try:
            said = self.pipe.recv()
        except EOFError:
            raise AssertionError(f"the clients of {self.uid} are gone") from None
        if isinstance(said, str) and said.startswith("Traceback"):
            raise AssertionError(f"a client of {self.uid}: {said}")
        return said

    def leave(self):
        """The clients close their connections and the process ends."""
        if self.pid:
            self.tell()
            os.waitpid(self.pid, 0)
            self.pid = 0
            self.pipe.close()

    def kill(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
            self.pipe.close()


@needs_root
class Crowd(TestCase):
    def setUp(self):
        self.groups = []
        self.addCleanup(lambda: [group.kill() for group in self.groups])

    def gather(self, daemon, sets):
        """Groups out of (uid, jobs, act); all clients are connected."""
        daemon.folder.chmod(0o755)
        self.groups = [Group(daemon, *each) for each in sets]
        for group in self.groups:
            self.assertEqual(group.hear(), "connected")
        return self.groups

    def open(self, **settings):
        """A daemon, root's client, and what there is before anybody came."""
        daemon = self.daemon(**settings)
        engine = daemon.wait_engine()
        root = daemon.connect()
        self.addCleanup(root.close)
        # One of each kind first: what the daemon opens once stays open.
        self.assertDone(root.answer(root.generate(n=2))[2])
        self.assertDone(root.ask(usage_query=pb.UsageQuery()))
        self.forget(root)
        empty = [(0, 0)]
        until(lambda: self.kv(root) == empty, 30, "an empty cache")  # an engine tells of it once a second
        return daemon, root, (empty, daemon.fd_count(), len(os.listdir(f"/proc/{engine}/fd")), engine)

    def forget(self, root):
        self.assertDone(root.ask(forget=pb.Forget(all_users=True)))

    @staticmethod
    def status(root):
        return root.ask(status=pb.Status()).done.status

    def kv(self, root):
        return [(m.kv_used_bytes, m.kv_cached_bytes) for m in self.status(root).models]

    def assertNothingLeft(self, daemon, root, before, cached):
        """Requests have ended. cached: the engine counts bytes of KV, and these are in its prefix cache now."""
        kv, fds, engine_fds, engine = before
        if cached:  # said after they came: so what it says next is not of before
            until(lambda: self.kv(root)[0][1] > 0, 30, "something in the prefix cache")
        self.forget(root)
        until(lambda: self.kv(root) == kv, 30, "the KV cache as it was")
        until(lambda: {u.uid for u in self.status(root).users} == {0}, 30, "no user but root")
        status = self.status(root)
        self.assertEqual((len(status.requests), status.requests_running, status.requests_queued, status.connections),
                         (0, 0, 0, 1))
        self.assertEqual([m.engine_restarts for m in status.models], [0])
        mine, = status.users
        self.assertEqual((mine.connections, mine.running, mine.queued, mine.bytes, mine.kv_used_bytes,
                          mine.kv_cached_bytes), (1, 0, 0, 0, 0, 0))
        self.wait_fds(daemon, fds)
        until(lambda: len(os.listdir(f"/proc/{engine}/fd")) <= engine_fds, 10, "no descriptor more in the engine")

    def all_served(self, count, cached, **settings):
        daemon, root, before = self.open(**settings)
        each = count // len(UIDS)
        jobs = [Job(number) for number in range(count)]
        groups = self.gather(daemon, [(uid, jobs[i * each:(i + 1) * each], finish) for i, uid in enumerate(UIDS)])
        here = {u.uid: u.connections for u in self.status(root).users}
        self.assertEqual(here, {0: 1, **{uid: each for uid in UIDS}})
        for group in groups:
            group.tell()
        answers = [answer for group in groups for answer in group.hear()]
        for group in groups:
            group.leave()
        self.assertEqual(len(answers), count)
        ends = [pb.ServerFrame.FromString(end) for _, _, end in answers]
        for job, (tokens, _, _), end in zip(jobs, answers, ends):
            self.assertDone(end)
            self.assertEqual(end.done.usage.completion_tokens, len(tokens))
            if job.sampling.ignore_eos:
                self.assertEqual((len(tokens), end.done.finish_reason), (job.n, pb.LENGTH))
        self.assertNothingLeft(daemon, root, before, cached)
        self.assertUsage(root, answers, ends, each)
        for number in random.Random(1).sample(range(count), 40):
            with self.subTest(number=number):
                tokens, text, end = root.answer(jobs[number].ask(root), topup=True)
                self.assertEqual((tokens, text, end.done.finish_reason),
                                 (answers[number][0], answers[number][1], ends[number].done.finish_reason))

    def assertUsage(self, root, answers, ends, each):
        end = root.ask(usage_query=pb.UsageQuery(all_users=True))
        self.assertDone(end)
        rows = {}
        for row in end.done.usage_report.rows:  # a day may have ended in between
            have = rows.get(row.uid, (0, 0, 0, 0))
            rows[row.uid] = tuple(a + b for a, b in zip(have, (row.requests, row.prompt_tokens, row.completion_tokens,
                                                               row.refused)))
        for i, uid in enumerate(UIDS):
            mine = slice(i * each, (i + 1) * each)
            self.assertEqual(rows[uid], (each, sum(e.done.usage.prompt_tokens for e in ends[mine]),
                                         sum(len(tokens) for tokens, _, _ in answers[mine]), 0))

    def test_null(self):
        self.all_served(CLIENTS, False)

    def test_bundled(self):
        self.all_served(COMPUTED, True, **BUNDLED)

    def test_bundled_without_room(self):
        """KV for two contexts: whoever is in the way is parked, and goes on later as if nothing had been."""
        self.all_served(COMPUTED, True, memory={"kv": "6M"}, **BUNDLED)

    def mixture(self, count, cached, **settings):
        """A third finish, a third cancel, a third are killed, of every user."""
        daemon, root, before = self.open(**settings)
        each = max(count // len(UIDS) // 3, 2)
        sets = []
        for i, uid in enumerate(UIDS):
            for k, act in enumerate((finish, cancel, vanish)):
                first = (i * 3 + k) * each
                sets.append((uid, [Job(n, endless=act is not finish) for n in range(first, first + each)], act))
        groups = self.gather(daemon, sets)
        for group in groups:
            group.tell()
        for group in groups[2::3]:
            self.assertEqual(group.hear(), "begun")
            group.kill()
        for group in groups[1::3]:
            self.assertEqual(group.hear(), ["CANCELLED"] * each)
        finished = [(job, answer) for group in groups[0::3] for job, answer in zip(group.jobs, group.hear())]
        for group in groups:
            group.leave()
        for job, (tokens, _, packed) in finished:
            end = pb.ServerFrame.FromString(packed)
            self.assertDone(end)
            self.assertEqual(end.done.usage.completion_tokens, len(tokens))
        self.assertNothingLeft(daemon, root, before, cached)
        for job, (tokens, text, _) in random.Random(2).sample(finished, min(len(finished), 16)):
            self.assertEqual(root.answer(job.ask(root), topup=True)[:2], (tokens, text))

    def test_mixture_null(self):
        self.mixture(480, False, null={"step_us": 1000})

    def test_mixture_bundled(self):
        self.mixture(COMPUTED // 2, True, **BUNDLED)

    def test_mixture_without_room(self):
        self.mixture(COMPUTED // 2, True, memory={"kv": "6M"}, **BUNDLED)


class Prefill(TestCase):
    """Requests that end while their prompt is being read."""

    def open(self):
        daemon = self.daemon(start=False)
        model = long_model(daemon.folder / "long.gguf", 8192)
        daemon.configure(backend="cpu", models=[{"name": "long", "path": model, "default": True}],
                         memory={"kv": "128M"}, limits={"rows": 16})
        daemon.start()
        daemon.wait_engine()
        client = daemon.connect()
        self.addCleanup(client.close)
        end = client.ask(tokenize=pb.Tokenize(text=" ".join(WORDS * 300).encode(), add_bos_eos=True))
        self.tokens = list(end.done.tokenize.ids)[:7000]  # they take far longer than this test
        self.assertEqual(len(self.tokens), 7000)
        return daemon, client

    def daemon(self, start=True, **settings):
        if start:
            return super().daemon(**settings)
        daemon = Daemon(start=False, **settings)
        self.addCleanup(self._end, daemon)
        return daemon

    def begin(self, client, shift):
        """A long prompt of its own, and how far it was when this returns: some way, not to the end."""
        prompt = self.tokens[:1] + self.tokens[1 + shift:] + self.tokens[1:1 + shift]
        id = client.request(generate=pb.Generate(prompt_tokens=prompt, sampling=pb.Sampling(max_tokens=8, seed=1)))
        while True:
            frame = client.receive_of(id)
            self.assertEqual(frame.WhichOneof("body"), "progress", frame)
            if frame.progress.stage == "prefill" and frame.progress.done > 0:
                self.assertLess(frame.progress.done, len(self.tokens))
                return id

    def assertStops(self, client, clients):
        """None of the prompts was read to its end, and nobody reads on: without pages there is nothing to read into."""
        # What was complete is in the cache: so it is not the emptiness of before.
        model = until(lambda: next((m for m in client.ask(models=pb.Models()).done.models.models if m.kv_cached_bytes > 0
                                    and m.kv_used_bytes == 0 and m.running + m.queued == 0), None), 30, "KV given back")
        self.assertEqual(model.engine_restarts, 0)
        end = client.ask(usage_query=pb.UsageQuery())
        row, = end.done.usage_report.rows
        self.assertEqual((row.requests, row.completion_tokens), (clients, 0))
        self.assertLess(row.prompt_tokens, clients * len(self.tokens))
        # The engine is as it was for whoever comes next.
        self.assertDone(client.answer(client.generate(n=4))[2])
        after = client.ask(usage_query=pb.UsageQuery()).done.usage_report.rows[0]
        self.assertEqual(after.requests, clients + 1)
        self.assertLess(after.prompt_tokens - row.prompt_tokens, 100)

    @within_a_day
    def test_cancel(self):
        daemon, client = self.open()
        others = [daemon.connect(features=("prefill-progress",)) for _ in range(4)]
        ids = [self.begin(other, 100 * i) for i, other in enumerate(others)]
        for other, id in zip(others, ids):
            other.cancel(id)
        for other, id in zip(others, ids):
            self.assertError(other.answer(id)[2], "CANCELLED")
            other.close()
        self.assertStops(client, 4)

    @within_a_day
    def test_vanish(self):
        daemon, client = self.open()
        others = [daemon.connect(features=("prefill-progress",)) for _ in range(4)]
        for i, other in enumerate(others):
            self.begin(other, 100 * i)
        for other in others:
            other.close()
        self.assertStops(client, 4)


if __name__ == "__main__":
    unittest.main()
