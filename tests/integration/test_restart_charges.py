#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a client may, and what is charged to its user, is over a restart what it was before."""

import contextlib
import os
import signal
import unittest

from bus_harness import *
from fdstore_harness import *
from harness import *
from harness import pb

TINY = {"name": "tiny", "path": str(ROOT / "share/models/spark-tiny.gguf"), "default": True}
HOWS = (signal.SIGKILL, signal.SIGTERM)


class Priority(MockedPolkit, KeptTestCase):
    def open_session(self):
        _, fd = self.call(self.caller, "OpenSession", "a{sv}", (dbus.Dictionary({}, signature="sv"),))
        fd = fd.take()
        os.set_inheritable(fd, False)  # the next process of the service would hold its own client
        client = Client.of_fd(fd)
        self.addCleanup(client.close)
        self.assertDone(client.answer(client.generate(n=2))[2])
        return client

    def test_of_connections_that_the_bus_handed_out(self):
        """One without the right to the first priority has none afterwards; one with it has it still, whatever polkit says by then."""
        self.polkit(use="yes")
        daemon = self.kept(bus="system", env=self.env, socket_mode="0600")
        until(lambda: "on the bus as" in daemon.log(), 10, "the name on the bus")
        daemon.wait_engine()
        normal = self.open_session()
        self.answer(use="yes", use_interactive="yes")
        first = self.open_session()
        self.answer(use="yes", use_interactive="no")
        expected = normal.answer(normal.generate(n=60, seed=5, credit=100))[0]
        for how in HOWS:
            id = normal.generate(n=60, seed=5, credit=10)
            ids = normal.tokens(id, 10)
            daemon.restart(how)
            self.assertError(normal.answer(normal.generate(n=2, priority=pb.INTERACTIVE))[2], "PERMISSION_DENIED")
            self.assertDone(first.answer(first.generate(n=2, priority=pb.INTERACTIVE))[2])
            normal.credit(id, 90)
            self.assertEqual(ids + normal.answer(id, seen=10)[0], expected)


class Charges(KeptTestCase):
    SAMPLING = dict(max_tokens=250, seed=1, ignore_eos=True)

    def user(self, client):
        user, = client.ask(status=pb.Status()).done.status.users
        return {f: getattr(user, f) for f in ("uid", "connections", "sessions", "kv_used_bytes", "kv_limit_bytes", "bytes",
                                              "weight", "tokens_per_day")} | {"requests": user.running + user.queued}

    def wait_user(self, client, expected):
        """Equal but for bytes: journals are no longer than they need to be, afterwards; and KV is there when there is credit for it."""
        def found():
            return {**self.user(client), "bytes": expected["bytes"], "kv_used_bytes": expected["kv_used_bytes"]}
        with contextlib.suppress(AssertionError):
            until(lambda: found() == expected, 10)
        self.assertEqual(found(), expected)
        self.assertLessEqual(self.user(client)["bytes"], expected["bytes"])

    def test_charges(self):
        daemon = self.kept(backend="cpu", threads=1, models=[TINY], limits={"kv_per_user": "8M"})
        daemon.wait_engine()
        client, watcher = daemon.connect(), daemon.connect()
        nothing = self.user(watcher)
        session = client.ask(session_create=pb.SessionCreate(persistent=False)).done.session.id
        self.assertDone(client.answer(client.generate(b"Once upon", n=5, session=session))[2])
        until(lambda: len([n for n in daemon.store.names() if n.startswith("client.")]) == 2, 10, "kept clients")
        ids = [client.generate(b"Once", sampling=pb.Sampling(**self.SAMPLING), credit=10) for _ in range(3)]
        for id in ids:
            client.tokens(id, 10)
        busy = self.user(watcher)
        self.assertEqual((busy["requests"], busy["sessions"]), (3, 1))
        for how in HOWS:
            daemon.restart(how)
            self.wait_user(watcher, busy)
            self.assertGreater(self.user(watcher)["bytes"], nothing["bytes"])
        for id in ids:
            client.credit(id, 1000)
            self.assertDone(client.answer(id, seen=10)[2])
        self.assertDone(client.ask(session_close=pb.SessionClose(session=session)))
        until(lambda: self.user(watcher) == nothing, 10, f"nothing charged (now {self.user(watcher)})")

    def test_ledger_has_the_log(self):
        """What is kept for a restart is the service's memory as any other, in the ledger and of what others can take."""
        daemon = self.kept(models=[{"name": "a", "default": True}])
        client = daemon.connect()
        self.addCleanup(client.close)
        lease = client.request(reserve_memory=pb.ReserveMemory(bytes=1 << 30))
        while client.receive_of(lease).progress.stage != "granted":
            pass
        for _ in range(6):  # they wait for the model
            client.generate(b"x" * (2 << 20))
        requests = until(lambda: self.user(client)["requests"] == 6, 10, "requests that wait")
        self.assertTrue(requests)
        for how in (None, *HOWS):
            if how:
                daemon.restart(how)

            def counted():  # of one moment: the log is written anew now and then
                log = os.fstat(daemon.store.fd_of("sparkd-state.")).st_blocks * 512
                memory = client.ask(status=pb.Status()).done.status.memory
                return log > 12 << 20 and abs(memory.control - daemon.memory() - log) < 1 << 20 and memory
            memory = until(counted, 10, "the log in the ledger")
            self.assertEqual(memory.ours, memory.control)  # there is no engine

    def test_kv_limit_lowered_over_a_restart(self):
        """What was admitted goes on; the next one is held against what holds now."""
        settings = {"backend": "cpu", "threads": 1, "models": [TINY]}
        daemon = self.kept(limits={"kv_per_user": "8M"}, **settings)
        daemon.wait_engine()
        client = daemon.connect()
        sampling = pb.Sampling(**self.SAMPLING)
        id = client.generate(sampling=sampling, credit=10)
        seen = len(client.tokens(id, 10))
        daemon.configure(limits={"kv_per_user": "300K"}, **settings)
        for how in HOWS:
            daemon.restart(how)
        client.credit(id, 1000)
        ids, _, end = client.answer(id, seen=seen)
        self.assertDone(end)
        self.assertEqual((seen + len(ids), end.done.usage.completion_tokens), (250, 250))
        self.assertError(client.answer(client.generate(sampling=sampling))[2], "QUOTA_EXCEEDED")


if __name__ == "__main__":
    unittest.main()
