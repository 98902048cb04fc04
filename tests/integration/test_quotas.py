# SPDX-License-Identifier: Apache-2.0
"""What users may have: each limit with its error and how it ends, priorities, usage over restarts and crashes, reload of
all that. Null backend. Other users are played by connecting with another effective uid, which needs root."""

import contextlib
import os
import signal
import sqlite3
import time
import unittest

from harness import *
from harness import pb

ALICE, BOB = 40001, 40002  # uids that nobody has
DAY_MS = 86400 * 1000
needs_root = unittest.skipIf(os.geteuid() != 0, "connecting as another user needs root")


class QuotaTest(TestCase):
    def connect(self, daemon, uid=None, **options):
        client = daemon.connect(uid, **options)
        self.addCleanup(client.close)
        return client

    def status(self, client):
        return client.ask(status=pb.Status()).done.status

    def user(self, client, uid):
        return next((u for u in self.status(client).users if u.uid == uid), None)

    def usage(self, client, **fields):
        end = client.ask(usage_query=pb.UsageQuery(**fields))
        self.assertDone(end)
        return end.done.usage_report

    def hold(self, client, **fields):
        """A request that stays, for want of credit; it holds no slot."""
        id = client.generate(n=1000, credit=1, **fields)
        client.tokens(id, 1)
        return id

    def wait_queued(self, client, n, uid=None):
        """So many wait, and the daemon has heard it from the engine, which tells once a second."""
        def queued():
            return self.user(client, os.getuid() if uid is None else uid).queued == n
        until(queued, 10, f"{n} waiting")
        time.sleep(1.5)  # one that is not sent yet waits, too, and one of which the engine has not told does not
        until(queued, 10, f"{n} waiting in the engine")

    def occupy(self, client):
        """A request that holds its slot: steps take long, and it wants very many."""
        id = client.generate(n=1 << 19, credit=1 << 20)
        client.tokens(id, 1)
        return id

    def reload(self, daemon, **settings):
        # each reload says one or the other
        def count():
            return daemon.log().count("configuration reloaded") + daemon.log().count("configuration stays")
        before = count()
        if settings:
            daemon.configure(**settings)
        daemon.signal(signal.SIGHUP)
        until(lambda: count() > before, 10, "a reload")


class Priorities(QuotaTest):
    def test_default(self):
        daemon = self.daemon()
        client = self.connect(daemon)
        self.assertEqual(client.hello.max_priority, pb.INTERACTIVE)
        for priority in (pb.PRIORITY_UNSPECIFIED, pb.BACKGROUND, pb.NORMAL, pb.INTERACTIVE):
            id = self.hold(client, priority=priority)
            shown, = self.status(client).requests
            self.assertEqual(shown.priority, priority or pb.NORMAL)
            client.cancel(id)
            self.assertError(client.answer(id, seen=1)[2], "CANCELLED")
            until(lambda: not self.status(client).requests)

    def test_every_kind_of_request(self):
        daemon = self.daemon(limits={"max_priority": "background"})
        client = self.connect(daemon)
        self.assertEqual(client.hello.max_priority, pb.BACKGROUND)
        chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="x")], priority=pb.NORMAL)
        for body in ({"generate": pb.Generate(prompt=b"x", priority=pb.INTERACTIVE)}, {"chat": chat},
                     {"score": pb.Score(text=b"x y z", priority=pb.NORMAL)}):
            end = client.ask(**body)
            self.assertError(end, "PERMISSION_DENIED")
            self.assertIn("priority", end.error.message)
            self.assertIn("background", end.error.message)
            self.assertEqual(end.error.retry_after_ms, 0)
        id = self.hold(client)
        self.assertEqual(self.status(client).requests[0].priority, pb.BACKGROUND)
        client.cancel(id)

    def test_unknown_number(self):
        daemon = self.daemon()
        client = self.connect(daemon)
        # as a later version might send it: an open enum, which Python's module lets through
        for number in (4, 77, -1, 0x7fffffff):
            end = client.ask(generate=pb.Generate(prompt=b"x", priority=number))
            self.assertError(end, "INVALID_ARGUMENT")
            self.assertIn("priority", end.error.message)
        self.assertServes(daemon)

    @needs_root
    def test_single_users(self):
        daemon = self.daemon(limits={"max_priority": "normal"},
                             users=[{"uid": ALICE, "max_priority": "interactive"}, {"uid": BOB, "max_priority": "background"}])
        highest = {ALICE: pb.INTERACTIVE, BOB: pb.BACKGROUND, 0: pb.NORMAL}
        for uid, most in highest.items():
            client = self.connect(daemon, uid)
            self.assertEqual(client.hello.max_priority, most)
            for priority in (pb.BACKGROUND, pb.NORMAL, pb.INTERACTIVE):
                end = client.answer(client.generate(n=2, priority=priority))[2]
                if priority > most:
                    self.assertError(end, "PERMISSION_DENIED")
                else:
                    self.assertDone(end)

    def test_reload(self):
        daemon = self.daemon()
        client = self.connect(daemon)
        self.assertDone(client.answer(client.generate(n=2, priority=pb.INTERACTIVE))[2])
        running = self.hold(client, priority=pb.INTERACTIVE)
        self.reload(daemon, limits={"max_priority": "normal"})
        self.assertError(client.answer(client.generate(n=2, priority=pb.INTERACTIVE))[2], "PERMISSION_DENIED")
        self.assertEqual(self.connect(daemon).hello.max_priority, pb.NORMAL)
        client.credit(running, 2000)  # what runs keeps what it had
        self.assertDone(client.answer(running, seen=1)[2])


class Requests(QuotaTest):
    @within_a_day
    def test_queued(self):
        """One runs, two wait, which is all that this user may have: BUSY, until one is gone."""
        daemon = self.daemon(limits={"sequences": 1, "queued_per_user": 2}, null={"step_us": 20000})
        client = self.connect(daemon)
        self.occupy(client)
        waiting = [client.generate(n=3) for _ in range(2)]
        self.wait_queued(client, 2)
        for _ in range(3):
            end = client.answer(client.generate(n=3))[2]
            self.assertError(end, "BUSY")
            self.assertGreaterEqual(end.error.retry_after_ms, 100)
        client.cancel(waiting[0])
        self.assertError(client.answer(waiting[0])[2], "CANCELLED")
        until(lambda: self.status(client).requests_queued < 2)
        waiting[0] = client.generate(n=3)
        self.wait_queued(client, 2)
        client.cancel(1)  # and what waits gets its turn
        for id in waiting:
            self.assertDone(client.answer(id)[2])
        row, = self.usage(client).rows
        self.assertEqual(row.refused, 3)

    @needs_root
    def test_queued_of_others(self):
        daemon = self.daemon(limits={"sequences": 1, "queued_per_user": 2}, users=[{"uid": BOB, "queued": 3}],
                             null={"step_us": 20000})
        root, alice, bob = self.connect(daemon), self.connect(daemon, ALICE), self.connect(daemon, BOB)
        held = self.occupy(root)
        for client, uid, most in ((alice, ALICE, 2), (bob, BOB, 3)):
            ids = [client.generate(n=3) for _ in range(most)]
            self.wait_queued(root, most, uid)
            self.assertError(client.answer(client.generate(n=3))[2], "BUSY")
            client.waiting_ids = ids
        root.cancel(held)
        for client in (alice, bob):
            for id in client.waiting_ids:
                self.assertDone(client.answer(id)[2])

    def test_queued_survives_an_engine(self):
        """Those that were admitted are not turned away because their engine was lost."""
        daemon = self.daemon(limits={"sequences": 1, "queued_per_user": 2}, null={"step_us": 2000})
        engine = daemon.wait_engine()
        client = self.connect(daemon)
        ids = [client.generate(n=3500, credit=4000)]
        seen = len(client.tokens(ids[0], 1))
        ids += [client.generate(n=5) for _ in range(2)]
        self.wait_queued(client, 2)
        os.kill(engine, signal.SIGKILL)
        ends = [client.answer(id, seen=seen if id == ids[0] else 0)[2] for id in ids]
        for end in ends:
            self.assertDone(end)

    def test_kv_lowered_survives_an_engine(self):
        """Nor because a lower limit holds by the time its engine is lost: what was admitted goes on."""
        model = {"name": "tiny", "path": str(ROOT / "share/models/spark-tiny.gguf"), "default": True}
        settings = {"backend": "cpu", "models": [model]}
        daemon = self.daemon(limits={"kv_per_user": "8M"}, **settings)
        engine = daemon.wait_engine()
        client = self.connect(daemon)
        sampling = pb.Sampling(max_tokens=250, seed=1, ignore_eos=True)
        id = client.generate(n=0, sampling=sampling)
        seen = len(client.tokens(id, 3))
        self.reload(daemon, limits={"kv_per_user": "300K"}, **settings)
        os.kill(engine, signal.SIGKILL)
        ids, _, end = client.answer(id, seen=seen)
        self.assertDone(end)
        self.assertEqual((seen + len(ids), end.done.usage.completion_tokens), (250, 250))
        self.assertError(client.answer(client.generate(n=0, sampling=sampling))[2], "QUOTA_EXCEEDED")

    def test_reload(self):
        daemon = self.daemon(limits={"requests_per_user": 2})
        client = self.connect(daemon)
        for _ in range(2):
            self.hold(client)
        self.assertError(client.answer(client.generate(n=2))[2], "BUSY")
        self.reload(daemon, limits={"requests_per_user": 3})
        self.assertDone(client.answer(client.generate(n=2))[2])
        self.reload(daemon, limits={"requests_per_user": 1})
        self.assertError(client.answer(client.generate(n=2))[2], "BUSY")
        self.assertEqual(self.status(client).requests_running, 2)  # nothing is taken away

    def test_faulty_reload(self):
        daemon = self.daemon(limits={"requests_per_user": 1})
        client = self.connect(daemon)
        self.hold(client)
        daemon.config.write_text('socket = "x";\nusers = ( { user = "nobody at all"; } );\n', encoding="utf-8")
        self.reload(daemon)
        self.assertIn(":2: 'user': there is no user 'nobody at all'", daemon.log())
        self.assertError(client.answer(client.generate(n=2))[2], "BUSY")

    def test_log_level(self):
        daemon = self.daemon(log_level="error")
        client = self.connect(daemon)
        self.assertNotIn("listening", daemon.log())
        self.reload_quietly(daemon, log_level="debug")
        client.ask(status=pb.Status())
        self.assertIn("configuration reloaded", daemon.log())
        self.reload_quietly(daemon, log_level="error", limits={"max_priority": "normal"})
        with self.connect(daemon, hello=False) as other:
            other.request(status=pb.Status())  # a fault that debug would log
            other.expect_closed()
        self.assertNotIn("first frame", daemon.log())

    def reload_quietly(self, daemon, **settings):
        daemon.configure(**settings)
        daemon.signal(signal.SIGHUP)
        until(lambda: self.reloaded(daemon, settings), 10, "a reload")

    def reloaded(self, daemon, settings):
        if settings["log_level"] == "debug":
            return "configuration reloaded" in daemon.log()
        with daemon.connect() as client:  # by what else it changes
            return client.hello.max_priority == pb.NORMAL


class Connections(QuotaTest):
    @needs_root
    def test_of_a_user(self):
        daemon = self.daemon(users=[{"uid": ALICE, "connections": 2}])
        held = [self.connect(daemon, ALICE) for _ in range(2)]
        frames = self.connect(daemon, ALICE, hello=False).expect_closed()
        self.assertError(frames[-1], "QUOTA_EXCEEDED")
        self.assertIn("2 connections", frames[-1].error.message)
        self.connect(daemon, BOB)
        self.connect(daemon)
        held[0].close()
        until(lambda: self.can_connect(daemon), 10, "room for a connection")

    def can_connect(self, daemon):
        try:
            return self.connect(daemon, ALICE).hello.protocol_version == 1  # else it is an error's frame
        except (Closed, OSError):
            return False

    def test_of_the_daemon(self):
        daemon = self.daemon(limits={"connections": 2})
        held = [self.connect(daemon) for _ in range(2)]
        frames = self.connect(daemon, hello=False).expect_closed()
        self.assertError(frames[-1], "BUSY")
        self.assertGreater(frames[-1].error.retry_after_ms, 0)
        self.assertServes_with(held[0])

    def assertServes_with(self, client):
        self.assertDone(client.answer(client.generate(n=2))[2])

    @needs_root
    def test_bytes(self):
        daemon = self.daemon(users=[{"uid": ALICE, "bytes": "256K"}])
        alice, bob = self.connect(daemon, ALICE), self.connect(daemon, BOB)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            alice.request(generate=pb.Generate(prompt=b"x" * (1 << 20)))
        self.assertError(alice.expect_closed()[-1], "QUOTA_EXCEEDED")
        self.assertDone(bob.ask(tokenize=pb.Tokenize(text=b"x " * (1 << 16))))


class Tokens(QuotaTest):
    @within_a_day
    def test_per_day(self):
        daemon = self.daemon(limits={"tokens_per_day": 100})
        client = self.connect(daemon)
        end = client.answer(client.generate(prompt=b"", n=150))[2]  # began with an allowance: may go beyond it
        self.assertDone(end)
        prompt = end.done.usage.prompt_tokens - end.done.usage.cached_tokens
        end = client.answer(client.generate(n=2))[2]
        self.assertError(end, "QUOTA_EXCEEDED")
        self.assertIn(f"{150 + prompt} tokens", end.error.message)
        self.assertGreater(end.error.retry_after_ms, 0)
        self.assertLessEqual(end.error.retry_after_ms, DAY_MS)
        self.assertError(client.ask(score=pb.Score(text=b"one two three")), "QUOTA_EXCEEDED")
        self.assertDone(client.ask(tokenize=pb.Tokenize(text=b"x")))  # costs nothing
        report = self.usage(client)
        self.assertEqual((report.tokens_today, report.tokens_per_day), (150 + prompt, 100))
        self.assertEqual(self.user(client, os.getuid()).tokens_today, 150 + prompt)
        self.assertEqual(self.user(client, os.getuid()).tokens_per_day, 100)
        row, = report.rows
        self.assertEqual((row.requests, row.completion_tokens, row.refused), (1, 150, 2))

        daemon.stop()  # what is spent is spent
        daemon.start()
        client = self.connect(daemon)
        until(lambda: self.user(client, os.getuid()).tokens_today, 10, "what was spent before")
        self.assertError(client.answer(client.generate(n=2))[2], "QUOTA_EXCEEDED")
        self.reload(daemon, limits={"tokens_per_day": 1000})
        self.assertDone(client.answer(client.generate(n=2))[2])
        self.reload(daemon, limits={"tokens_per_day": 0})
        self.assertDone(client.answer(client.generate(n=2))[2])

    @needs_root
    @within_a_day
    def test_of_a_user(self):
        daemon = self.daemon(users=[{"uid": ALICE, "tokens_per_day": 10}])
        alice, bob = self.connect(daemon, ALICE), self.connect(daemon, BOB)
        for client in (alice, bob):
            self.assertDone(client.answer(client.generate(n=20))[2])
        self.assertError(alice.answer(alice.generate(n=20))[2], "QUOTA_EXCEEDED")
        self.assertDone(bob.answer(bob.generate(n=20))[2])

    @within_a_day
    def test_cancelled_ones_count(self):
        daemon = self.daemon(null={"step_us": 1000})
        client = self.connect(daemon)
        id = client.generate(n=5000)
        seen = len(client.tokens(id, 50))
        client.cancel(id)
        end = client.answer(id, seen=seen)
        self.assertError(end[2], "CANCELLED")
        seen += len(end[0])
        # the prompt counts with the end, of which the engine tells later than the client hears of it
        until(lambda: self.usage(client).rows[0].prompt_tokens > 0, 10, "the cancelled one's prompt")
        row, = self.usage(client).rows
        self.assertEqual(row.requests, 1)
        self.assertGreaterEqual(row.completion_tokens, seen)

    @within_a_day
    def test_replay_counts_once(self):
        daemon = self.daemon(null={"step_us": 2000})
        engine = daemon.wait_engine()
        client = self.connect(daemon)
        whole = client.answer(client.generate(prompt=b"Once upon", n=60))[2].done.usage
        before, = self.usage(client).rows
        id = client.generate(prompt=b"Once upon", n=60)
        seen = len(client.tokens(id, 20))
        os.kill(engine, signal.SIGKILL)
        self.assertDone(client.answer(id, seen=seen)[2])
        row, = self.usage(client).rows
        self.assertEqual(row.completion_tokens, before.completion_tokens + 60)
        self.assertEqual(row.prompt_tokens, before.prompt_tokens + whole.prompt_tokens)
        self.assertEqual(row.requests, 2)


class Usage(QuotaTest):
    def stored(self, daemon, what="completion"):
        """So many in the database: completion tokens, or another column's sum."""
        if not (daemon.folder / "usage.db").exists():
            return 0
        with contextlib.closing(sqlite3.connect(f"file:{daemon.folder}/usage.db?mode=ro", uri=True)) as db:
            with contextlib.suppress(sqlite3.OperationalError):
                return db.execute(f"SELECT total({what}) FROM usage").fetchone()[0]
        return 0

    @within_a_day
    def test_rows(self):
        daemon = self.daemon(models=[{"name": "a", "default": True}, {"name": "b"}])
        client = self.connect(daemon)
        self.assertFalse(self.usage(client).rows)
        used = {}
        for model, n in (("a", 10), ("b", 20), ("a", 30)):
            usage = client.answer(client.generate(model=model, n=n))[2].done.usage
            used.setdefault(model, []).append(usage)
        self.assertDone(client.ask(score=pb.Score(model="b", text=b"some words of text")))
        self.assertError(client.answer(client.generate(model="c"))[2], "MODEL_NOT_FOUND")
        rows = self.usage(client, days=1).rows
        self.assertEqual([(r.model, r.requests, r.completion_tokens, r.refused) for r in rows],
                         [("a", 2, 40, 0), ("b", 2, 20, 0)])
        for row in rows:
            self.assertIn(row.day, (time.strftime("%Y-%m-%d", time.gmtime()),
                                    time.strftime("%Y-%m-%d", time.gmtime(time.time() - 5))))
            self.assertEqual(row.uid, os.getuid())
        self.assertEqual(rows[0].prompt_tokens, sum(u.prompt_tokens for u in used["a"]))
        self.assertGreater(rows[1].prompt_tokens, used["b"][0].prompt_tokens)  # the scored text
        self.assertEqual(rows[0].cached_tokens, sum(u.cached_tokens for u in used["a"]))

    @within_a_day
    def test_over_restarts(self):
        daemon = self.daemon()
        for turn in range(1, 4):
            client = self.connect(daemon)
            self.assertDone(client.answer(client.generate(n=10))[2])
            row, = self.usage(client).rows
            self.assertEqual((row.requests, row.completion_tokens), (turn, 10 * turn))
            client.close()
            self.assertEqual(daemon.stop(), 0)
            self.assertEqual(self.stored(daemon), 10 * turn)
            daemon.start()
        self.assertEqual((daemon.folder / "usage.db").stat().st_mode & 0o7777, 0o600)

    @within_a_day
    def test_over_a_crash(self):
        daemon = self.daemon()
        client = self.connect(daemon)
        self.assertDone(client.answer(client.generate(n=25))[2])
        # the prompt is counted with the request's end, and tokens might have been written before that
        until(lambda: self.stored(daemon) == 25 and self.stored(daemon, "prompt") > 0, 20, "what was used in the database")
        daemon.process.kill()
        daemon.process.wait()
        daemon.start()
        client = self.connect(daemon)
        row, = self.usage(client).rows
        self.assertEqual((row.requests, row.completion_tokens), (1, 25))
        spent = until(lambda: self.user(client, os.getuid()).tokens_today, 10, "what was spent before")
        self.assertEqual(spent, 25 + row.prompt_tokens - row.cached_tokens)
        self.assertNotIn("damaged", daemon.log())

    @needs_root
    @within_a_day
    def test_of_others(self):
        daemon = self.daemon()
        alice, bob, root = self.connect(daemon, ALICE), self.connect(daemon, BOB), self.connect(daemon)
        for client, n in ((alice, 3), (bob, 5), (root, 7)):
            self.assertDone(client.answer(client.generate(n=n))[2])
        for client, uid, n in ((alice, ALICE, 3), (bob, BOB, 5), (root, 0, 7)):
            self.assertEqual([(r.uid, r.completion_tokens) for r in self.usage(client).rows], [(uid, n)])
        end = alice.ask(usage_query=pb.UsageQuery(all_users=True))
        self.assertError(end, "PERMISSION_DENIED")
        self.assertIn("all_users", end.error.message)
        rows = self.usage(root, all_users=True).rows
        self.assertEqual([(r.uid, r.completion_tokens) for r in rows], [(0, 7), (ALICE, 3), (BOB, 5)])
        self.assertEqual([u.uid for u in self.status(alice).users], [ALICE])
        self.assertEqual({u.uid for u in self.status(root).users}, {0, ALICE, BOB})
        alice.close()
        until(lambda: self.user(root, ALICE) is None)

    @within_a_day
    def test_days(self):
        daemon = self.daemon()
        client = self.connect(daemon)
        end = client.ask(usage_query=pb.UsageQuery(days=401))
        self.assertError(end, "INVALID_ARGUMENT")
        self.assertIn("days", end.error.message)
        self.usage(client, days=400)
        self.assertDone(client.answer(client.generate(n=4))[2])
        daemon.stop()
        with contextlib.closing(sqlite3.connect(daemon.folder / "usage.db")) as db, db:
            for days, n in ((3, 100), (399, 200), (400, 300)):
                db.execute("INSERT INTO usage (day, uid, model, requests, prompt, cached, completion, refused) "
                           "SELECT day - ?, uid, model, 1, 0, 0, ?, 0 FROM usage WHERE completion = 4",
                           (days, n))
        daemon.start()
        client = self.connect(daemon)
        for days, expected in ((1, [4]), (0, [100, 4]), (399, [100, 4]), (400, [200, 100, 4])):
            self.assertEqual([r.completion_tokens for r in self.usage(client, days=days).rows], expected)
        until(lambda: self.stored(daemon) == 304, 10, "an end of what is older")

    @within_a_day
    def test_no_folder(self):
        daemon = self.daemon(state_dir="/nonexistent/sparkd")
        client = self.connect(daemon)
        until(lambda: "usage is counted, but not kept" in daemon.log(), 10, "the warning")
        self.assertTrue(any("/nonexistent" in w for w in self.status(client).warnings))
        self.assertDone(client.answer(client.generate(n=9))[2])
        row, = self.usage(client).rows
        self.assertEqual(row.completion_tokens, 9)

    def test_folder_is_made(self):
        daemon = self.daemon(state_dir="new")
        self.assertFalse(self.status(self.connect(daemon)).warnings)
        self.assertEqual((daemon.folder / "new").stat().st_mode & 0o777, 0o700)
        until((daemon.folder / "new" / "store").is_dir, 10, "the store's folder")

    def test_folder_comes_later(self):
        daemon = self.daemon(state_dir="not/yet")
        client = self.connect(daemon)
        self.assertDone(client.answer(client.generate(n=9))[2])
        self.assertTrue(self.status(client).warnings)
        (daemon.folder / "not" / "yet").mkdir(parents=True)
        until(lambda: not self.status(client).warnings, 40, "a ledger on disk")
        self.assertEqual(daemon.log().count("usage is counted, but not kept"), 1)  # said once
        self.assertIn("kept over a restart again", daemon.log())

    def test_damaged(self):
        daemon = self.daemon()
        client = self.connect(daemon)
        self.assertDone(client.answer(client.generate(n=9))[2])
        client.close()
        daemon.stop()
        (daemon.folder / "usage.db").write_bytes(b"this is no database" * 1000)
        daemon.start()
        until(lambda: "the usage ledger was damaged" in daemon.log(), 10, "the warning")
        aside, = daemon.folder.glob("usage.db.damaged-*")
        client = self.connect(daemon)
        self.assertFalse(self.usage(client).rows)
        self.assertFalse(self.status(client).warnings)
        self.assertDone(client.answer(client.generate(n=3))[2])
        client.close()
        daemon.stop()
        self.assertEqual(self.stored(daemon), 3)
        self.assertTrue(aside.read_bytes().startswith(b"this is no"))

    def test_a_client_that_goes_while_it_asks(self):
        daemon = self.daemon()
        for _ in range(50):
            client = self.connect(daemon)
            for _ in range(10):
                client.request(usage_query=pb.UsageQuery())
            client.cancel(3)
            client.close()
        self.assertServes(daemon)
        client = self.connect(daemon)
        until(lambda: client.ask(usage_query=pb.UsageQuery()).WhichOneof("body") == "done", 10, "an answer")
        until(lambda: not self.status(client).requests)

    def test_figures_of_requests(self):
        daemon = self.daemon(null={"step_us": 2000})
        client = self.connect(daemon)
        id = self.occupy(client)  # it goes on for as long as anybody looks
        client.tokens(id, 30)
        # 500: more where the first ones came together, fewer where the engine had to wait
        until(lambda: 0 < self.status(client).requests[0].tokens_per_second < 1000, 3, "a rate of its own")
        until(lambda: self.user(client, os.getuid()).tokens_per_second > 0, 10, "a user's rate")
        user = self.user(client, os.getuid())
        self.assertEqual((user.running, user.queued, user.connections, user.weight), (1, 0, 1, 1))
        self.assertGreater(user.bytes, 0)
        client.cancel(id)


if __name__ == "__main__":
    unittest.main()
