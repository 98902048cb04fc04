# SPDX-License-Identifier: Apache-2.0
"""Which models are in memory: idle ones go, those that are wanted push others out, and none that is used or pinned."""

import json
import pathlib
import signal
import subprocess
import tempfile
import time
import unittest

from harness import *
from harness import pb
from memory_harness import MIB, Group, GroupDaemon

STORIES = [TESTDATA / "models" / f"stories260K-{format}.gguf" for format in ("f32", "q8_0", "q4_0")]
GREEDY = dict(sampling=pb.Sampling(temperature=0, max_tokens=48))


def models_of(client):
    return {m.name: m for m in client.ask(models=pb.Models()).done.models.models}


def states(client):
    return {name: m.state for name, m in models_of(client).items()}


class NullBackend(TestCase):
    """Numbers and times, with models that take nothing."""

    def three(self, models=("a", "b", "c"), **residency):
        residency = {"min_seconds": 0, "idle_seconds": 0, **residency}
        daemon = self.daemon(models=[{"name": m, "resident": "demand"} if isinstance(m, str) else m for m in models],
                             residency=residency, null={"step_us": 1000})
        self.client = daemon.connect()
        self.addCleanup(self.client.close)
        return daemon

    def use(self, name, n=4):
        ids, _, end = self.client.answer(self.client.generate(model=name, n=n))
        self.assertDone(end)
        return ids

    def used(self, name):
        """The model, just used and still there: who looks late finds that it has gone for idleness, and uses it again."""
        def there():
            self.use(name)
            model = models_of(self.client)[name]
            return model if model.state == "ready" else None
        return until(there, 10, f"'{name}' in use")

    def test_idle_ones_go_and_come_back(self):
        daemon = self.three(idle_seconds=1, models=["a", {"name": "b", "resident": "always"},
                                                    {"name": "c", "idle_seconds": 0}])
        first = [self.use(name) for name in ("b", "c", "a")]
        a = self.used("a")
        self.assertEqual(a.resident, "demand")
        self.assertTrue(0 < a.unload_ms <= 1000, a)
        until(lambda: states(self.client)["a"] == "available", 10, "the unloading of an idle model")
        models = models_of(self.client)
        self.assertEqual([models[m].state for m in "bc"], ["ready", "ready"])
        self.assertEqual([models[m].resident for m in "abc"], ["", "always", "demand"])
        self.assertEqual(models["b"].unload_ms + models["c"].unload_ms, 0)
        self.assertGreaterEqual(models["b"].idle_ms, 500)
        self.assertEqual([self.use(name) for name in ("b", "c", "a")], first)
        self.assertIn("it was idle for 1 s", daemon.log())

    def test_a_default_model_on_demand(self):
        self.three(models=[{"name": "a", "default": True, "resident": "demand"}])
        self.assertEqual(states(self.client), {"a": "available"})
        self.use("")
        self.assertEqual(states(self.client), {"a": "ready"})

    def test_the_least_recently_used_goes(self):
        daemon = self.three(max_models=2)
        for name in ("a", "b", "a", "c"):
            self.use(name)
        self.assertEqual(states(self.client), {"a": "ready", "b": "available", "c": "ready"})
        self.use("b")
        self.assertEqual(states(self.client), {"a": "available", "b": "ready", "c": "ready"})
        self.assertIn("model 'a' is unloaded: 'b' needs its room", daemon.log())

    def test_none_that_is_used(self):
        self.three(max_models=1, wait_seconds=60)
        long = self.client.generate(model="a", n=2000, credit=4)
        self.client.tokens(long, 4)
        with self.client_of(self.client) as other:
            waiting = other.generate(model="b", n=4)
            frame = other.receive_of(waiting)
            self.assertEqual(frame.progress.stage, "room")
            self.assertEqual(models_of(self.client)["b"].held, "room")
            self.assertEqual(states(self.client)["a"], "ready")
            self.client.cancel(long)
            self.assertDone(other.answer(waiting)[2])
            self.assertEqual(states(self.client), {"a": "available", "b": "ready", "c": "available"})

    def client_of(self, client):
        return Client(client.sock.getpeername())

    def test_waiting_ends(self):
        self.three(max_models=1, wait_seconds=2)
        long = self.client.generate(model="a", n=2000, credit=4)
        self.client.tokens(long, 4)
        with self.client_of(self.client) as other:
            end = other.answer(other.generate(model="b", n=4))[2]
            self.assertError(end, "BUSY")
            self.assertGreaterEqual(end.error.retry_after_ms, 1000)
            self.assertEqual(states(other)["b"], "available")
            # and whoever does not want to wait so long leaves nothing behind
            gone = other.generate(model="b", n=4)
            other.receive_of(gone)
            other.cancel(gone)
            self.assertError(other.answer(gone)[2], "CANCELLED")
        self.client.credit(long, 10)
        self.client.cancel(long)

    def test_one_that_has_just_come_stays_for_a_while(self):
        self.three(max_models=1, min_seconds=2)
        since = time.monotonic()
        self.use("a")
        self.use("b")
        self.assertGreaterEqual(time.monotonic() - since, 2)

    def test_loaded_by_hand(self):
        daemon = self.three(max_models=2, idle_seconds=1, wait_seconds=1)
        self.assertDone(self.client.ask(load=pb.Load(model="a")))
        self.assertDone(self.client.ask(load=pb.Load(model="b")))
        self.assertEqual(models_of(self.client)["a"].resident, "loaded")
        end = self.client.answer(self.client.generate(model="c", n=4))[2]
        self.assertError(end, "NO_MEMORY")
        self.assertIn("max_models is 2", end.error.message)
        time.sleep(2.2)
        self.assertEqual(states(self.client), {"a": "ready", "b": "ready", "c": "available"})
        self.assertDone(self.client.ask(unload=pb.Unload(model="a")))
        self.use("c")
        until(lambda: states(self.client)["c"] == "available", 10, "an idle model's end")
        self.assertEqual(self.used("a").resident, "demand")  # it is not pinned any more
        del daemon

    def test_reload_of_the_configuration(self):
        daemon = self.three(max_models=3)
        for name in ("a", "b", "c"):
            self.use(name)
        models = [{"name": m, "resident": "demand"} for m in "abc"]
        daemon.configure(models=models, residency={"min_seconds": 0, "max_models": 1}, null={"step_us": 1000})
        daemon.signal(signal.SIGHUP)
        until(lambda: list(states(self.client).values()).count("ready") == 1, 10, "two models' end")
        self.assertEqual(states(self.client)["c"], "ready")
        models[0]["resident"] = "always"
        daemon.configure(models=models, residency={"min_seconds": 0, "max_models": 2}, null={"step_us": 1000})
        daemon.signal(signal.SIGHUP)
        until(lambda: states(self.client) == {"a": "ready", "b": "available", "c": "ready"}, 10, "a model that is always there")

    def test_lowered_beyond_what_stays(self):
        """A limit that cannot be met is met as far as it can be: what is idle goes, what stays or is used does not."""
        daemon = self.three(models=["a", "b", {"name": "c", "resident": "always"}])
        until(lambda: states(self.client)["c"] == "ready", 10, "a model that is always there")
        long = self.client.generate(model="a", n=2000, credit=4)
        self.client.tokens(long, 4)
        self.use("b")
        models = [{"name": "a", "resident": "demand"}, {"name": "b", "resident": "demand"}, {"name": "c", "resident": "always"}]
        daemon.configure(models=models, residency={"min_seconds": 0, "max_models": 1}, null={"step_us": 1000})
        daemon.signal(signal.SIGHUP)
        until(lambda: states(self.client) == {"a": "ready", "b": "available", "c": "ready"}, 10, "an idle model's end")
        self.client.cancel(long)
        until(lambda: states(self.client) == {"a": "available", "b": "available", "c": "ready"}, 10, "another idle model's end")

    def test_turns(self):
        """Three that never fit together, wanted by many at once: all are served, and with their own tokens."""
        self.three(max_models=1)
        alone = {name: self.use(name, 6) for name in "abc"}
        for _ in range(4):
            running = [(name, self.client.generate(model=name, n=6)) for name in "abcabc"]
            for name, id in running:
                ids, _, end = self.client.answer(id)
                self.assertDone(end)
                self.assertEqual(ids, alone[name])

    def test_hold(self):
        daemon = self.three(max_models=1, idle_seconds=1, wait_seconds=1)
        held = self.client.request(hold_warm=pb.HoldWarm(model="a", who="test", why="to see"))
        while self.client.receive_of(held).progress.stage != "warm":
            pass
        a = models_of(self.client)["a"]
        self.assertEqual((a.resident, a.holders, a.unload_ms), ("held", 1, 0))
        self.assertError(self.client.answer(self.client.generate(model="b"))[2], "NO_MEMORY")
        unload = self.client.ask(unload=pb.Unload(model="a"))
        self.assertError(unload, "BUSY")
        self.assertIn("held", unload.error.message)
        time.sleep(2.2)
        self.assertEqual(states(self.client)["a"], "ready")
        lease, = self.client.ask(status=pb.Status()).done.status.leases
        self.assertEqual((lease.kind, lease.state, lease.model, lease.who, lease.why, lease.own),
                         ("warm", "warm", "a", "test", "to see", True))
        self.client.cancel(held)
        self.assertError(self.client.answer(held)[2], "CANCELLED")
        self.assertEqual(len(self.client.ask(status=pb.Status()).done.status.leases), 0)
        until(lambda: states(self.client)["a"] == "available", 10, "the end of what nobody holds any more")
        self.assertError(self.client.ask(hold_warm=pb.HoldWarm(model="nobody")), "MODEL_NOT_FOUND")
        del daemon


class Failed(TestCase):
    """What is always to be there and could not be loaded."""

    TINY = ROOT / "share/models/spark-tiny.gguf"

    def begin(self, path):
        daemon = self.daemon(**self.settings(path))
        with daemon.connect() as client:
            until(lambda: states(client) == {"a": "failed"}, 10 * SLOW, "a load that fails")
        return daemon

    def settings(self, path):
        return dict(backend="cpu", threads=1, models=[{"name": "a", "path": str(path), "default": True}])

    def wait_ready(self, daemon):
        with daemon.connect() as client:
            until(lambda: states(client) == {"a": "ready"}, 20 * SLOW, "a model that is always there")

    def test_another_file(self):
        """A mended configuration is tried at once, without anybody asking for the model."""
        daemon = self.begin(ROOT / "Makefile")
        self.assertNotIn("is tried again", daemon.log())
        daemon.configure(**self.settings(self.TINY))
        daemon.signal(signal.SIGHUP)
        self.wait_ready(daemon)
        self.assertServes(daemon)

    def test_tried_again(self):
        """A file that comes late, as that of a folder that is mounted after the start, is found."""
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "a.gguf"
            daemon = self.begin(path)
            path.symlink_to(self.TINY)
            self.wait_ready(daemon)
            self.assertIn("is tried again in 5 s", daemon.log())

    def test_not_wanted(self):
        """One that was unloaded stays away until it is asked for."""
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "a.gguf"
            daemon = self.begin(path)
            with daemon.connect() as client:
                self.assertDone(client.ask(unload=pb.Unload(model="a")))
                path.symlink_to(self.TINY)
                time.sleep(7)
                self.assertEqual(states(client), {"a": "failed"})
            self.assertServes(daemon)


@unittest.skipUnless(all(s.exists() for s in STORIES), f"{STORIES[0].parent} is not there")
class Budget(TestCase):
    """Real models, of which not all fit."""

    def budget(self, residency=None, kv="64M", **memory):
        daemon = self.daemon(backend="cpu", threads=1, memory={"kv": kv, **memory},
                             models=[{"name": f"m{i}", "path": str(path), "resident": "demand"} for i, path in enumerate(STORIES)],
                             residency={"min_seconds": 0, "idle_seconds": 0, **(residency or {})})
        self.client = daemon.connect()
        self.addCleanup(self.client.close)
        return daemon

    def use(self, name):
        ids, text, end = self.client.answer(self.client.generate(b"Once upon a time", model=name, **GREEDY))
        self.assertDone(end)
        return ids, text

    def test_within_what_is_allowed(self):
        """One or the other: each comes back, bit for bit the same."""
        daemon = self.budget({"max_bytes": "30M"}, kv="16M")
        first = {}
        for name in ("m0", "m1", "m0", "m2", "m1", "m0"):
            answer = self.use(name)
            self.assertEqual(first.setdefault(name, answer), answer)
            self.assertEqual([n for n, s in states(self.client).items() if s == "ready"], [name])
        self.assertIn(b"there was a little girl", first["m0"][1])
        status = self.client.ask(status=pb.Status()).done.status
        self.assertLess(status.memory_kv, 17 << 20)
        del daemon

    def test_above_the_floor(self):
        """The floor leaves room for one: the other one goes before anybody hears that there is no memory. In a control group, of which
        nobody else takes anything meanwhile; nothing of the pools is touched."""
        group = Group.make(1600 * MIB)
        if not group:
            self.skipTest("no control group with a memory limit can be made here")
        self.addCleanup(group.remove)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "long.gguf"
            long_model(path, 1 << 20)
            daemon = GroupDaemon(group, start=False, backend="cpu", threads=1, memory={"kv": "1G", "floor": "64M"},
                                 models=[{"name": f"m{i}", "path": str(path), "resident": "demand"} for i in range(2)],
                                 residency={"min_seconds": 0, "idle_seconds": 0})
            self.addCleanup(self._end, daemon)
            daemon.start()
            self.client = daemon.connect()
            self.addCleanup(self.client.close)
            first = self.use("m0")
            self.use("m1")
            self.assertEqual(states(self.client), {"m0": "available", "m1": "ready"})
            self.assertEqual(self.use("m0"), first)
            # one that stays leaves no room, and the sums say so
            self.assertDone(self.client.ask(load=pb.Load(model="m0")))
            end = self.client.answer(self.client.generate(model="m1"))[2]
            self.assertError(end, "NO_MEMORY")
            self.assertIn("missing", end.error.message)
            self.assertEqual(end.error.load.kv_bytes, 1 << 30)
            self.assertEqual(states(self.client)["m0"], "ready")

    def test_one_that_never_fits(self):
        """Nothing is unloaded for what would not fit all the same."""
        self.budget({"max_bytes": "60M"}, kv="16M")
        self.use("m0")
        self.use("m1")
        end = self.client.ask(load=pb.Load(path=self.large()))
        self.assertError(end, "NO_MEMORY")
        self.assertIn("residency.max_bytes", end.error.message)
        self.assertEqual(sorted(n for n, s in states(self.client).items() if s == "ready"), ["m0", "m1"])

    def large(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = pathlib.Path(folder.name) / "large.gguf"
        self.make_model(path, "--shape", "llama-1b", "--format", "q4_k_m", "--sparse")
        return str(path)

    def test_command_line(self):
        daemon = self.budget()
        self.use("m0")
        out = subprocess.run([BUILD / "bin/sparkctl", "-S", daemon.socket, "--json", "hold", "m1", "--", "sh", "-c",
                              f"{BUILD / 'bin/sparkctl'} -S {daemon.socket} --json models; exit 5"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60 * SLOW)
        self.assertEqual(out.returncode, 5, out)
        first, second = out.stdout.splitlines()
        self.assertEqual(json.loads(first), {"warm": True, "model": "m1"})
        found = {m["name"]: m for m in json.loads(second)["models"]}
        self.assertEqual((found["m1"]["state"], found["m1"]["resident"], found["m1"]["holders"]), ("ready", "held", 1))
        self.assertEqual(found["m0"]["resident"], "demand")
        text = subprocess.run([BUILD / "bin/sparkctl", "-S", daemon.socket, "models"], stdout=subprocess.PIPE, text=True,
                              timeout=60 * SLOW).stdout
        self.assertIn("resident (demand)", text)


if __name__ == "__main__":
    unittest.main()
