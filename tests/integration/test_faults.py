# SPDX-License-Identifier: Apache-2.0
"""Engines that die, clients that vanish or do not read, signals. Null backend."""

import contextlib
import os
import pathlib
import signal
import socket
import time
import unittest

from harness import *
from harness import pb


class EngineLoss(TestCase):
    def test_eight_streams_survive_a_killed_engine(self):
        daemon = self.daemon(null={"step_us": 4000})
        engine = daemon.wait_engine()
        fds = daemon.fd_count()
        seeds = [i + 1 for i in range(8)]

        def start():
            clients = [daemon.connect() for _ in seeds]
            # none ends before its engine does: more is granted then
            return clients, [c.generate(f"Stream {s}".encode(), n=150, seed=s, credit=60) for c, s in zip(clients, seeds)]

        def grant():
            for client, id in zip(clients, ids):
                client.credit(id, 90)

        clients, ids = start()
        grant()
        undisturbed = [c.answer(id)[:2] for c, id in zip(clients, ids)]
        for client in clients:
            client.close()

        clients, ids = start()
        got = [[] for _ in ids]
        texts = [b"" for _ in ids]
        for k, (client, id) in enumerate(zip(clients, ids)):
            while len(got[k]) < 20 + 3 * k:
                token = client.receive_of(id).token
                got[k] += token.ids
                texts[k] += token.text
        os.kill(engine, signal.SIGKILL)
        grant()
        for k, (client, id) in enumerate(zip(clients, ids)):
            while True:
                frame = client.receive_of(id)
                kind = frame.WhichOneof("body")
                if kind == "done":
                    self.assertEqual(frame.done.usage.completion_tokens, 150)
                    self.assertEqual(frame.done.seed, seeds[k])
                    break
                self.assertEqual(kind, "token", frame)  # no error, no progress anew
                self.assertEqual(frame.token.index, len(got[k]))
                got[k] += frame.token.ids
                texts[k] += frame.token.text
            client.close()
        self.assertEqual([(g, t) for g, t in zip(got, texts)], undisturbed)
        self.assertNotIn(engine, daemon.children())
        with daemon.connect() as client:
            model, = client.ask(models=pb.Models()).done.models.models
            self.assertEqual(model.engine_restarts, 1)
            self.assertEqual(model.state, "ready")
        self.wait_fds(daemon, fds)

    def test_next_token_comes_in_a_second(self):
        """The best of three: the machine may be busy with others."""
        daemon = self.daemon(null={"step_us": 4000})
        waited = []
        while len(waited) < 3 and not (waited and min(waited) < 1.0 * SLOW):
            engine = daemon.wait_engine()
            with daemon.connect() as client:
                id = client.generate(n=100000, credit=100000)
                client.tokens(id, 10)
                os.kill(engine, signal.SIGKILL)
                killed = time.monotonic()
                until(lambda: engine not in daemon.children())
                # what the engine had still said fits in a few steps; the token after that is the new engine's
                client.tokens(id, 50)
                waited.append(time.monotonic() - killed)
                client.cancel(id)
        self.assertLess(min(waited), 1.0 * SLOW, waited)

    def test_drawn_seed_is_kept(self):
        """Without a seed the daemon draws one; the replay must go on with it."""
        daemon = self.daemon(null={"step_us": 4000})
        engine = daemon.wait_engine()
        with daemon.connect() as client:
            id = client.generate(sampling=pb.Sampling(max_tokens=100))
            got = client.tokens(id, 1)
            os.kill(engine, signal.SIGKILL)
            rest, _, end = client.answer(id, seen=len(got))
            self.assertDone(end)
            again = client.answer(client.generate(n=100, seed=end.done.seed))
            self.assertEqual(again[0], got + rest)

    def test_credit_survives(self):
        daemon = self.daemon()
        engine = daemon.wait_engine()
        with daemon.connect() as client:
            whole = client.answer(client.generate(n=40))[0]
            id = client.generate(n=40, credit=10)
            got = client.tokens(id, 10)
            os.kill(engine, signal.SIGKILL)
            daemon.wait_engine(other_than=[engine])
            self.assertTrue(client.nothing_comes(0.3))
            client.credit(id, 100)
            rest, _, end = client.answer(id, seen=len(got))
            self.assertDone(end)
            self.assertEqual(got + rest, whole)

    def test_cancel_while_the_engine_is_away(self):
        daemon = self.daemon(null={"step_us": 4000})
        engine = daemon.wait_engine()
        with daemon.connect() as client:
            id = client.generate(n=1000)
            seen = len(client.tokens(id, 1))
            os.kill(engine, signal.SIGKILL)
            client.cancel(id)
            self.assertError(client.answer(id, seen=seen)[2], "CANCELLED")
            daemon.wait_engine(other_than=[engine])
            self.assertServes(daemon)
            until(lambda: client.ask(status=pb.Status()).done.status.requests_running == 0)

    def test_lost_again_and_again(self):
        daemon = self.daemon(null={"step_us": 4000}, limits={"engine_losses": 3})
        engines = [daemon.wait_engine()]
        with daemon.connect() as client:
            id = client.generate(n=1000, credit=1)
            client.tokens(id, 1)
            for _ in range(3):
                os.kill(engines[-1], signal.SIGKILL)
                if len(engines) < 3:
                    engines.append(daemon.wait_engine(other_than=engines))
                    until(lambda: client.ask(status=pb.Status()).done.status.requests[0].state != "queued", what="the request at its engine")
            self.assertError(client.answer(id, seen=1)[2], "ENGINE_LOST")
            daemon.wait_engine(other_than=engines)
            self.assertDone(client.answer(client.generate(n=3))[2])

    def test_stuck_engine_counts_as_dead(self):
        daemon = self.daemon(null={"step_us": 4000}, limits={"engine_seconds": 2})
        engine = daemon.wait_engine()
        with daemon.connect() as client:
            whole = client.answer(client.generate(n=60))[0]
            id = client.generate(n=60, credit=5)  # it does not end before its engine is stuck
            got = client.tokens(id, 5)
            os.kill(engine, signal.SIGSTOP)
            client.credit(id, 60)
            rest, _, end = client.answer(id, seen=len(got))
            self.assertDone(end)
            self.assertEqual(got + rest, whole)
            self.assertNotIn(engine, daemon.children())

    def test_other_requests_are_asked_again(self):
        daemon = self.daemon()
        engine = daemon.wait_engine()
        os.kill(engine, signal.SIGSTOP)
        with daemon.connect() as client:
            text = b"hello world " * 100
            tokenize = client.request(tokenize=pb.Tokenize(text=text))
            large = client.request(tokenize=pb.Tokenize(input_fd=True), fds=[memfd(text)])
            generate = client.generate(n=5)
            time.sleep(0.2)
            os.kill(engine, signal.SIGKILL)
            first = client.answer(tokenize)[2]
            self.assertDone(first)
            self.assertEqual(client.answer(large)[2].done.tokenize.ids, first.done.tokenize.ids)
            self.assertDone(client.answer(generate)[2])

    def test_death_while_idle(self):
        daemon = self.daemon()
        engine = daemon.wait_engine()
        os.kill(engine, signal.SIGKILL)
        other = daemon.wait_engine(other_than=[engine])
        self.assertNotEqual(engine, other)
        self.assertServes(daemon)


class Clients(TestCase):
    def test_client_killed_in_its_stream(self):
        daemon = self.daemon(null={"step_us": 2000})
        daemon.wait_engine()
        fds = daemon.fd_count()
        with daemon.connect() as bystander:
            for _ in range(10):
                client = daemon.connect()
                id = client.generate(n=5000)
                client.receive_of(id)
                client.close()  # as the kernel does it for a killed process
            id = bystander.generate(n=20)
            self.assertDone(bystander.answer(id)[2])
            until(lambda: bystander.ask(status=pb.Status()).done.status.requests_running == 0)
            until(lambda: bystander.ask(models=pb.Models()).done.models.models[0].running == 0)
            generated = bystander.ask(models=pb.Models()).done.models.models[0].generated_tokens
            time.sleep(0.3)  # cancelled is cancelled: nobody computes for the dead
            self.assertEqual(bystander.ask(models=pb.Models()).done.models.models[0].generated_tokens, generated)
        self.wait_fds(daemon, fds)

    def test_client_that_never_reads(self):
        daemon = self.daemon(limits={"output_seconds": 2})
        daemon.wait_engine()
        fds = daemon.fd_count()
        slow = daemon.connect()
        self.addCleanup(slow.close)
        began = time.monotonic()
        # status answers are long: enough of them fill any socket
        for i in range(60000):
            slow.sock.settimeout(1)
            try:
                slow.request(status=pb.Status())
            except (TimeoutError, BrokenPipeError):
                break  # it does not even read us any more, rightly
        with daemon.connect() as client:  # nobody else notices
            for _ in range(20):
                self.assertDone(client.answer(client.generate(n=20))[2])
        until(lambda: "unread" in daemon.log(), 20, "the slow reader's end")
        # a quick sender reaches the limit in frames before the one in seconds
        if "unread for" in daemon.log():
            self.assertGreater(time.monotonic() - began, 1.5)
        slow.sock.settimeout(20)
        frames = slow.expect_closed()
        self.assertError(frames[-1], "SLOW_READER")
        self.assertEqual(frames[-1].id, 0)
        slow.close()
        self.wait_fds(daemon, fds)

    def test_slow_reader_gets_everything_in_fewer_frames(self):
        daemon = self.daemon()
        with daemon.connect() as client:
            texts = {}
            n, count = 1200, 40
            wanted = client.answer(client.generate(n=n), topup=True)
            ids = [client.generate(n=n, credit=n) for _ in range(count)]
            with daemon.connect() as other:  # far more is there than the socket takes
                until(lambda: other.ask(models=pb.Models()).done.models.models[0].generated_tokens > n * count // 2, 30, "most tokens")
            frames = {id: 0 for id in ids}
            got = {id: [] for id in ids}
            ended = 0
            while ended < count:
                frame = client.receive()
                if frame.WhichOneof("body") == "token":
                    self.assertEqual(frame.token.index, len(got[frame.id]))
                    got[frame.id] += frame.token.ids
                    texts[frame.id] = texts.get(frame.id, b"") + frame.token.text
                    frames[frame.id] += 1
                elif frame.WhichOneof("body") == "done":
                    ended += 1
                else:
                    self.assertEqual(frame.WhichOneof("body"), "progress", frame)
            self.assertTrue(all(got[id] == wanted[0] for id in ids))
            self.assertTrue(all(texts[id] == wanted[1] for id in ids))
            self.assertLess(sum(frames.values()), n * count)

    def test_limits_of_connections(self):
        daemon = self.daemon(limits={"connections": 4, "connections_per_user": 3})
        with daemon.connect() as client:  # whoever looked whether it answers has gone
            until(lambda: client.ask(status=pb.Status()).done.status.connections == 1)
        until(lambda: self.can_connect(daemon))
        held = [daemon.connect() for _ in range(3)]
        with daemon.connect(hello=False) as client:
            frames = client.expect_closed()
            self.assertError(frames[-1], "QUOTA_EXCEEDED")
        for client in held:
            client.close()
        until(lambda: self.can_connect(daemon))

    @staticmethod
    def can_connect(daemon):
        try:
            daemon.connect().close()
            return True
        except (Closed, OSError):
            return False

    def test_limits_of_requests(self):
        daemon = self.daemon(limits={"requests": 6, "requests_per_connection": 2, "requests_per_user": 4})
        with daemon.connect() as a, daemon.connect() as b, daemon.connect() as c:
            for client in (a, b):
                for _ in range(2):
                    client.receive_of(client.generate(n=10, credit=1))
                end = client.answer(client.generate())[2]
                self.assertError(end, "BUSY")
                self.assertIn("connection", end.error.message)
                self.assertGreater(end.error.retry_after_ms, 0)
            end = c.answer(c.generate())[2]
            self.assertError(end, "BUSY")
            self.assertIn("user", end.error.message)
            self.assertGreater(end.error.retry_after_ms, 0)
            self.assertDone(c.ask(status=pb.Status()))
            a.cancel(1)
            self.assertError(a.answer(1)[2], "CANCELLED")
            until(lambda: c.answer(c.generate(n=2))[2].WhichOneof("body") == "done")

    def test_queue_full(self):
        daemon = self.daemon(limits={"requests": 2})
        with daemon.connect() as client:
            for _ in range(2):
                client.receive_of(client.generate(n=10, credit=1))
            end = client.answer(client.generate())[2]
            self.assertError(end, "BUSY")
            self.assertGreater(end.error.retry_after_ms, 0)

    def test_bytes_of_a_user(self):
        daemon = self.daemon(limits={"bytes_per_user": "1M"})
        with daemon.connect() as client:
            client.receive_of(client.generate(n=10, credit=1))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.request(generate=pb.Generate(prompt=b"x" * (2 << 20)))
            frames = client.expect_closed()
            self.assertError(frames[-1], "QUOTA_EXCEEDED")
        self.assertServes(daemon)

    def test_a_thousand_idle_connections(self):
        daemon = self.daemon()
        daemon.wait_engine()
        for client in [daemon.connect() for _ in range(50)]:
            client.close()
        before = daemon.memory()
        clients = [daemon.connect() for _ in range(1000)]
        grown = daemon.memory() - before
        with daemon.connect() as client:
            self.assertEqual(client.ask(status=pb.Status()).done.status.connections, 1001)
        for client in clients:
            client.close()
        print(f"{grown / 1000:.0f} bytes per idle connection ", end="", flush=True)
        self.assertLess(grown / 1000, 32 << 10)
        self.assertServes(daemon)


class Signals(TestCase):
    def test_term_lets_running_requests_finish(self):
        daemon = self.daemon(null={"step_us": 5000}, limits={"stop_seconds": 20})
        with daemon.connect() as client, daemon.connect() as other:
            id = client.generate(n=200, credit=1)  # it lasts until all has been looked at
            seen = len(client.tokens(id, 1))
            daemon.signal(signal.SIGTERM)
            until(lambda: not daemon.socket.exists())
            self.assertError(other.answer(other.generate(n=3))[2], "STOPPING")
            client.credit(id, 200)
            rest, _, end = client.answer(id, seen=seen)
            self.assertDone(end)
            self.assertEqual(seen + len(rest), 200)
            frames = client.expect_closed()
            self.assertError(frames[-1], "STOPPING")
        self.assertEqual(daemon.process.wait(10 * SLOW), 0)

    def test_term_ends_what_takes_too_long(self):
        daemon = self.daemon(null={"step_us": 5000}, limits={"stop_seconds": 1})
        with daemon.connect() as client:
            id = client.generate(n=1000, credit=1)
            client.receive_of(id)
            began = time.monotonic()
            daemon.signal(signal.SIGTERM)
            self.assertError(client.answer(id)[2], "STOPPING")
            self.assertLess(time.monotonic() - began, 5 * SLOW)
        self.assertEqual(daemon.process.wait(10 * SLOW), 0)
        self.assertEqual(daemon.children(), [])

    def test_quick_stop_when_idle(self):
        daemon = self.daemon()
        daemon.wait_engine()
        began = time.monotonic()
        self.assertEqual(daemon.stop(), 0)
        self.assertLess(time.monotonic() - began, 3 * SLOW)  # it has five seconds where something does not end

    def test_engine_ends_with_a_killed_daemon(self):
        daemon = self.daemon()
        engine = daemon.wait_engine()
        daemon.process.kill()
        daemon.process.wait()
        daemon.process = None

        def gone():
            try:
                stat = pathlib.Path(f"/proc/{engine}/stat").read_text(encoding="ascii")
                return stat.rsplit(")", 1)[1].split()[0] == "Z"
            except (ProcessLookupError, FileNotFoundError):
                return True
        until(gone)

    def test_hup_reloads(self):
        daemon = self.daemon(models=[{"name": "a", "default": True}])
        daemon.wait_engine()
        with daemon.connect() as client:
            running = client.generate(n=30, credit=1)
            client.tokens(running, 1)
            daemon.configure(models=[{"name": "a"}, {"name": "b", "default": True}],
                             limits={"requests_per_connection": 2})
            daemon.signal(signal.SIGHUP)
            def names():
                return {m.name: m.is_default for m in client.ask(models=pb.Models()).done.models.models}
            until(lambda: names() == {"a": False, "b": True})
            client.credit(running, 100)
            self.assertDone(client.answer(running, seen=1)[2])
            daemon.config.write_text("nonsense = 1;", encoding="ascii")  # a bad one changes nothing
            daemon.signal(signal.SIGHUP)
            until(lambda: "unknown key 'nonsense'" in daemon.log())
            self.assertEqual(names(), {"a": False, "b": True})
            daemon.configure(models=[{"name": "b"}])
            daemon.signal(signal.SIGHUP)
            until(lambda: names() == {"a": False, "b": True})  # it is loaded, so it stays until it is unloaded
            self.assertDone(client.ask(unload=pb.Unload(model="a")))
            until(lambda: names() == {"b": True})

    def test_notifications(self):
        path = f"/tmp/sparkd-notify-{os.getpid()}"
        self.addCleanup(lambda: os.path.exists(path) and os.unlink(path))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(path)
            sock.settimeout(10 * SLOW)
            daemon = self.daemon(env={"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "2000000"})
            heard = []

            def hear(what):
                while not any(what in text for text in heard):
                    heard.append(sock.recv(4096).decode())

            hear("READY=1")
            hear("WATCHDOG=1")
            heard.clear()
            daemon.signal(signal.SIGHUP)
            hear("RELOADING=1")
            hear("READY=1")
            daemon.signal(signal.SIGTERM)
            hear("STOPPING=1")
            self.assertEqual(daemon.process.wait(10 * SLOW), 0)

    def test_two_daemons_at_one_socket(self):
        daemon = self.daemon()
        other = Daemon(start=False, socket=str(daemon.socket))
        self.addCleanup(other.remove)
        with self.assertRaises(AssertionError) as raised:
            other.socket = other.folder / "none"
            other.start()
        self.assertIn("listens at", str(raised.exception))
        self.assertServes(daemon)


if __name__ == "__main__":
    unittest.main()
