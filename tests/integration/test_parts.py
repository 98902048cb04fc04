# SPDX-License-Identifier: Apache-2.0
"""Models that give back a part of their image, and read that again alone: for leases, over restarts, whatever happens to the file."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

from fdstore_harness import *
from harness import *
from harness import pb, ROOT

TINY = ROOT / "share/models/spark-tiny.gguf"
SEGMENT = 300000  # bytes: a small model has many
CTL = BUILD / "bin/sparkctl"


@unittest.skipUnless(TINY.exists(), f"{TINY} is not there")
class Parts(KeptTestCase):
    def programs(self):
        """A folder with the programs, in which the loader makes small segments."""
        folder = pathlib.Path(tempfile.mkdtemp(prefix="sparkd-parts-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        shutil.copy2(BUILD / "bin/sparkd", folder)
        (folder / "spark-engine").symlink_to(BUILD / "bin/spark-engine")
        loader = folder / "spark-loader"
        loader.write_text(f'#!/bin/sh\nexec {BUILD}/bin/spark-loader --segment-bytes {SEGMENT} "$@"\n', encoding="utf-8")
        loader.chmod(0o755)
        self.path = folder / "model.gguf"
        shutil.copy2(TINY, self.path)
        return {"program": folder / "sparkd", "backend": "cpu", "threads": 1, "memory": {"kv": "8M"}}

    def served(self, kept=False, model=None, **settings):
        settings = {**self.programs(), **settings}
        settings["models"] = [{"name": "m", "path": str(self.path), "default": True, **(model or {})}]
        self.service = (self.kept if kept else self.daemon)(**settings)
        self.client = self.service.connect()
        self.addCleanup(lambda: self.client.close())
        self.wait("ready")
        self.image, self.engine = self.model().image_bytes, self.status().memory_engine
        return self.service

    def status(self):
        return self.client.ask(status=pb.Status()).done.status

    def model(self):
        return self.status().models[0]

    def wait(self, state, **more):
        def there():
            m = self.model()
            return m if m.state == state and all(getattr(m, k) == v for k, v in more.items()) else None
        return until(there, 20, f"a model that is {state} {more}")

    def lease(self, part, client=None, **fields):
        """One for the engine and this part of the image; less of it where there is KV, which counts, and engines tell of once a second."""
        client = client or self.client
        id = client.request(reserve_memory=pb.ReserveMemory(bytes=int(self.engine + self.image * part), who="test", **fields))
        while client.receive_of(id).progress.stage != "granted":
            pass
        return id

    def end(self, id, client=None):
        client = client or self.client
        client.cancel(id)
        self.assertError(client.answer(id)[2], "CANCELLED")

    def stream(self, client, seed=1, tokens=300):
        return client.request(generate=pb.Generate(prompt=b"Once there was", credit=8, sampling=pb.Sampling(
            max_tokens=tokens, seed=seed, temperature=0.9, ignore_eos=True)))

    def finish(self, client, id, first=()):
        client.credit(id, 1000)
        ids, _, end = client.answer(id, seen=len(first))
        self.assertDone(end)
        return list(first) + ids

    def assertPart(self, at_least, below=1.0):
        """A part of it is missing, and every figure says the same."""
        s, m = self.status(), self.model()
        self.assertEqual(m.state, "available")
        self.assertGreaterEqual(m.missing_bytes, self.image * at_least)
        self.assertLess(m.missing_bytes, self.image * below)
        self.assertEqual(m.image_bytes + m.missing_bytes, self.image)
        self.assertEqual((s.memory_images, s.memory_engine, s.memory_kv), (m.image_bytes, 0, 0))
        return m.missing_bytes

    def assertWhole(self):
        m = self.wait("ready", image_bytes=self.image, missing_bytes=0)
        s = self.status()
        self.assertEqual((s.memory_images, s.memory_engine), (self.image, self.engine))
        self.assertEqual((s.memory.given, s.memory.shed, s.memory.step), (0, 0, "nothing"))
        return m

    def events(self, what):
        return self.service.log().count(what)

    def test_streams_go_on(self):
        daemon = self.served()
        with daemon.connect() as client:
            alone = self.finish(client, self.stream(client))
            id = self.stream(client)
            first = client.tokens(id, 4)
            held = self.lease(0.42)  # of which KV may be a part that the engine has told of by then
            missing = self.assertPart(0.1, 0.5)
            told = json.loads(subprocess.check_output([CTL, "-S", daemon.socket, "--json", "models"], text=True))["models"][0]
            self.assertEqual((told["missing_bytes"], told["image_bytes"]), (missing, self.image - missing))
            for verb in (["models"], ["status"], ["top", "-n", "1"]):
                self.assertIn("given back", subprocess.run([CTL, "-S", daemon.socket, *verb], capture_output=True, text=True).stdout, verb)
            self.end(held)
            self.assertEqual(self.finish(client, id, first), alone)
        self.assertWhole()
        load = self.client.ask(load=pb.Load(model="m")).done.load
        self.assertLess(load.read_bytes, 0.6 * self.path.stat().st_size)  # that part, and no more

    def test_more_and_less(self):
        """A second lease that needs more of the same model; it is back when both have ended."""
        self.served()
        for first in (0, 1):
            held = [self.lease(0.25)]
            before = self.assertPart(0.2, 0.4)
            id = self.client.request(reserve_memory=pb.ReserveMemory(bytes=int(self.image * 0.25), who="more"))
            while self.client.receive_of(id).progress.stage != "granted":
                pass
            held.append(id)
            after = self.assertPart(0.45, 0.8)
            self.assertGreater(after, before)
            self.end(held.pop(first))
            time.sleep(0.2)
            self.assertEqual(self.assertPart(0.45, 0.8), after)
            self.end(held.pop())
            self.assertWhole()

    def test_all_of_it(self):
        self.served()
        held = self.lease(0.4)
        self.assertPart(0.1)
        other = self.lease(5)
        self.wait("available", image_bytes=0, missing_bytes=0)
        self.end(held)
        self.end(other)
        self.assertWhole()

    def test_nobody_wants_it(self):
        """What was left of it is of no use then: it goes whole."""
        self.served(residency={"min_seconds": 0})
        held = self.lease(0.4)
        self.assertPart(0.1)
        self.assertDone(self.client.ask(unload=pb.Unload(model="m")))
        self.wait("available", image_bytes=0, missing_bytes=0)
        self.assertEqual(self.status().memory_images, 0)
        self.end(held)
        time.sleep(0.3)
        self.assertEqual(self.model().state, "available")
        self.assertServes(self.service)
        self.assertWhole()

    def test_idle(self):
        settings = {**self.programs(), "residency": {"min_seconds": 0}}
        model = {"name": "m", "path": str(self.path), "default": True, "resident": "demand", "idle_seconds": 0}  # never
        self.service = self.daemon(models=[model], **settings)
        self.client = self.service.connect()
        self.addCleanup(lambda: self.client.close())
        self.assertServes(self.service)
        self.wait("ready")
        self.image, self.engine = self.model().image_bytes, self.status().memory_engine
        held = self.lease(0.4)
        self.assertPart(0.1)
        del settings["program"]
        self.service.configure(models=[{**model, "idle_seconds": 1}], **settings)
        self.service.signal(signal.SIGHUP)
        self.wait("available", image_bytes=0, missing_bytes=0)
        self.assertIn("it was idle for", self.service.log())
        self.end(held)

    def test_file_changed(self):
        """When a part is to be given: whole. When it is to be read: an error, and whole with the next load."""
        self.served()
        os.utime(self.path, ns=(1, 1))
        held = self.lease(0.4)
        self.wait("available", image_bytes=0, missing_bytes=0)
        self.assertIn("gone or changed since they were loaded", self.service.log())
        self.end(held)
        self.assertWhole()
        held = self.lease(0.4)
        self.assertPart(0.1)
        os.utime(self.path, ns=(2, 2))
        self.end(held)
        m = self.wait("failed")
        self.assertIn("have changed", m.error)
        self.assertEqual((m.image_bytes, m.missing_bytes), (0, 0))
        until(lambda: self.client.answer(self.client.generate(n=4))[2].WhichOneof("body") == "done", 20, "an answer")
        self.assertWhole()

    def test_file_gone(self):
        daemon = self.served()
        away = self.path.with_suffix(".away")
        with daemon.connect() as client:
            id = self.stream(client)
            first = client.tokens(id, 4)
            held = self.lease(0.4)
            self.assertPart(0.1)
            self.path.rename(away)
            self.end(held)
            m = self.wait("failed")
            self.assertIn("No such file", m.error)
            self.assertEqual((m.image_bytes, m.missing_bytes, self.status().memory_images), (0, 0, 0))
            self.assertError(client.answer(id, seen=len(first))[2], "MODEL_NOT_FOUND")
        away.rename(self.path)
        until(lambda: self.client.answer(self.client.generate(n=4))[2].WhichOneof("body") == "done", 20, "an answer")
        self.assertWhole()

    def test_at_random(self):
        """Leases that come and go at any moment, also while a part is being read."""
        daemon = self.served()
        dice = random.Random(3)
        with daemon.connect() as other, daemon.connect() as reader:
            alone = self.finish(reader, self.stream(reader))
            fds, held = daemon.fd_count(), []
            id = self.stream(reader)
            first = reader.tokens(id, 4)
            for _ in range(40):
                if held and dice.random() < 0.5:
                    other.cancel(held.pop(dice.randrange(len(held))))
                else:
                    bytes_ = int(dice.random() * 1.2 * self.image) + (self.engine if dice.random() < 0.5 else 0) + 1
                    held.append(other.request(reserve_memory=pb.ReserveMemory(bytes=bytes_)))
                time.sleep(dice.random() * 0.05)
                self.assertLessEqual(self.model().image_bytes, self.image)
                if dice.random() < 0.3:  # while its engine ends it still has what was given back
                    until(self.adds_up, 10, "an image that is whole with what is missing of it")
            for lease in held:
                other.cancel(lease)
            self.assertEqual(self.finish(reader, id, first), alone)
            self.assertWhole()
            until(lambda: daemon.fd_count() <= fds, 10, "no descriptor more than before")

    def adds_up(self):
        m = self.model()
        return m.image_bytes + m.missing_bytes in (0, self.image)

    # ---- over restarts ----

    def segments(self):
        self.service.store.settle()
        return [name for name in self.service.store.names() if name.startswith("image.")]

    def test_killed_while_a_part_is_missing(self):
        """The next process has what stayed, knows what is missing, and reads that alone when the lease has ended."""
        daemon = self.served(kept=True)
        all_of_it = self.segments()
        self.assertGreater(len(all_of_it), 4)
        reader = daemon.connect()
        alone = self.finish(reader, self.stream(reader))
        id = self.stream(reader)
        first = reader.tokens(id, 4)
        holder = daemon.connect()
        held = self.lease(0.42, holder)
        missing = self.assertPart(0.1, 0.5)
        kept = self.segments()
        self.assertLess(len(kept), len(all_of_it))
        loads = self.events("model 'm': loading")
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            daemon.restart(number)
            self.client.close()
            self.client = daemon.connect()
            self.assertEqual(self.assertPart(0.1, 0.5), missing)
            self.assertEqual(self.segments(), kept)
        time.sleep(0.3)
        self.assertEqual(self.assertPart(0.1, 0.5), missing)
        self.assertEqual(self.events("model 'm': loading"), loads)
        self.assertEqual(len(self.status().leases), 1)
        self.end(held, holder)
        self.assertEqual(self.finish(reader, id, first), alone)
        self.assertWhole()
        self.assertEqual(self.segments(), all_of_it)
        self.assertLess(self.client.ask(load=pb.Load(model="m")).done.load.read_bytes, 0.6 * self.path.stat().st_size)
        daemon.restart(signal.SIGKILL)  # and whole again
        self.client.close()
        self.client = daemon.connect()
        self.assertWhole()
        reader.close()
        holder.close()

    def test_killed_and_nobody_has_it(self):
        """The lease ends with the process that held it: the part is read at once. Afterwards an image that was taken over gives parts."""
        daemon = self.served(kept=True)
        holder = daemon.connect()
        self.lease(0.4, holder)
        missing = self.assertPart(0.1, 0.5)
        loads = self.events("model 'm': loading")
        daemon.crash()
        holder.close()
        daemon.start()
        self.client.close()
        self.client = daemon.connect()
        self.assertWhole()
        self.assertEqual(self.events("model 'm': loading"), loads + 1)
        self.assertLess(self.client.ask(load=pb.Load(model="m")).done.load.read_bytes, 0.6 * self.path.stat().st_size)
        daemon.restart(signal.SIGKILL)
        self.client.close()
        self.client = daemon.connect()
        self.assertWhole()
        held = self.lease(0.4)
        self.assertEqual(self.assertPart(0.1, 0.5), missing)
        self.end(held)
        self.assertWhole()

    def test_killed_and_the_file_is_gone(self):
        daemon = self.served(kept=True)
        holder = daemon.connect()
        self.lease(0.4, holder)
        self.assertPart(0.1)
        daemon.crash()
        holder.close()
        away = self.path.with_suffix(".away")
        self.path.rename(away)
        daemon.start()
        self.client.close()
        self.client = daemon.connect()
        self.assertIn("No such file", self.wait("failed").error)
        self.assertEqual(self.segments(), [])
        away.rename(self.path)
        until(lambda: self.client.answer(self.client.generate(n=4))[2].WhichOneof("body") == "done", 20, "an answer")
        self.assertWhole()


if __name__ == "__main__":
    unittest.main()
