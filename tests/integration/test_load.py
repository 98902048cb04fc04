# SPDX-License-Identifier: Apache-2.0
"""Models from files: good ones, bad ones, too large ones. CPU backend; the files are outside the repository."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
import unittest

from harness import *
from harness import pb

MODELS = TESTDATA / "models"
STORIES = MODELS / "stories260K-f32.gguf"
GREEDY = dict(sampling=pb.Sampling(temperature=0, max_tokens=48))


@unittest.skipUnless(STORIES.exists(), f"{STORIES} is not there")
class Load(TestCase):
    def stories(self, **settings):
        settings = {"backend": "cpu", "threads": 1,
                    "models": [{"name": "stories", "path": str(STORIES), "default": True}], **settings}
        return self.daemon(**settings)

    def make_sparse(self, path, shape, *more):
        """A model whose weights are a hole."""
        self.make_model(path, "--shape", shape, "--format", "q4_k_m", "--sparse", *more)

    def test_configured_model(self):
        daemon = self.stories()
        with daemon.connect() as client:  # asked before it is loaded: waits
            _, text, end = client.answer(client.generate(b"Once upon a time", **GREEDY))
            self.assertDone(end)
            self.assertIn(b"there was a little girl", text)
            status = client.ask(status=pb.Status()).done.status
            self.assertGreater(status.memory_images, 1 << 20)
            self.assertGreater(status.memory_kv, 0)
            self.assertEqual(status.models[0].architecture, "llama")
            self.assertIn("cpu", status.models[0].backend)

    def test_killed_engine(self):
        daemon = self.stories()
        engine = daemon.wait_engine()
        prompts = [f"Once there was a dog number {i}".encode() for i in range(8)]
        sampling = [pb.Sampling(max_tokens=120, seed=i, temperature=0.9) for i in range(8)]
        with daemon.connect() as client:
            alone = [client.answer(client.generate(p, sampling=s))[:2] for p, s in zip(prompts, sampling)]
            ids = [client.generate(p, sampling=s, credit=8) for p, s in zip(prompts, sampling)]  # none ends before it is killed
            begun = [client.tokens(id, 2) for id in ids]
            os.kill(engine, signal.SIGKILL)
            for id in ids:
                client.credit(id, 200)
            ends = [client.answer(id, seen=len(b)) for id, b in zip(ids, begun)]
            self.assertEqual([b + e[0] for b, e in zip(begun, ends)], [a[0] for a in alone])
            for end, a in zip(ends, alone):
                self.assertDone(end[2])
                self.assertTrue(a[1].endswith(end[1]))
            self.assertEqual(client.ask(models=pb.Models()).done.models.models[0].engine_restarts, 1)

    def test_load_by_path_and_by_descriptor(self):
        daemon = self.stories()
        daemon.wait_engine()
        other = MODELS / "stories260K-q8_0.gguf"
        with daemon.connect() as client:
            end = client.ask(load=pb.Load(path=str(other)))
            self.assertDone(end)
            self.assertEqual(end.done.load.model, "stories260K-q8_0")
            self.assertGreater(end.done.load.image_bytes, 0)
            fd = os.open(other, os.O_RDONLY)
            end = client.ask([fd], load=pb.Load(input_fd=True, model="mine"))
            os.close(fd)
            self.assertDone(end)
            a, b = (client.answer(client.generate(b"Once", model=m, **GREEDY))[:2] for m in ("stories260K-q8_0", "mine"))
            self.assertEqual(a, b)
            again = client.ask(load=pb.Load(path=str(other)))
            self.assertEqual(again.done.load.model, "stories260K-q8_0")  # the same one
            for name in ("mine", "stories260K-q8_0"):
                self.assertDone(client.ask(unload=pb.Unload(model=name)))
            self.assertEqual([m.name for m in client.ask(models=pb.Models()).done.models.models], ["stories"])
            self.assertEqual(len(daemon.children()), 1)

    def test_split_files(self):
        parts = sorted((MODELS / "split").glob("stories260K-*.gguf"))
        if not parts:
            self.skipTest("no model in several files there")
        daemon = self.stories()
        with daemon.connect() as client, tempfile.TemporaryDirectory() as folder:
            end = client.ask(load=pb.Load(path=str(parts[0])))
            self.assertDone(end)
            split = client.answer(client.generate(b"Once upon a time", model=end.done.load.model, **GREEDY))
            self.assertDone(split[2])
            self.assertEqual(split[:2], client.answer(client.generate(b"Once upon a time", **GREEDY))[:2])
            for part in parts[:-1]:
                os.symlink(part, f"{folder}/{part.name}")
            first, last = f"{folder}/{parts[0].name}", f"{folder}/{parts[-1].name}"
            self.assertError(client.ask(load=pb.Load(path=first, dry_run=True)), "MODEL_NOT_FOUND")
            os.symlink(parts[1], last)
            end = client.ask(load=pb.Load(path=first, dry_run=True))
            self.assertError(end, "MODEL_INVALID")
            self.assertIn("'split.no'", end.error.message)

    def test_spark_bench_load(self):
        part = MODELS / "split" / "stories260K-00001-of-00003.gguf"
        if not part.exists():
            self.skipTest("no model in several files there")
        done = subprocess.run([BUILD / "bin/spark-bench", "load", "-m", part, "-r", "2", "--json"], capture_output=True,
                              text=True, timeout=60)
        if "Invalid argument" in done.stderr:
            self.skipTest("no O_DIRECT on that file system")
        self.assertEqual(done.returncode, 0, done.stderr)
        figures = json.loads(done.stdout)
        self.assertEqual(figures["bytes"], sum(p.stat().st_size for p in part.parent.glob("stories260K-*.gguf")))
        self.assertAlmostEqual(figures["ratio"], figures["load_s"] / figures["read_s"], delta=figures["ratio"] * 0.01 + 0.01)
        self.assertLess(figures["anon_peak_bytes"], 256 << 20)
        done = subprocess.run([BUILD / "bin/spark-bench", "load", "-m", "/nonexistent.gguf"], capture_output=True, text=True)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("No such file", done.stderr)

    def test_descriptors_and_memory_come_back(self):
        daemon = self.stories()
        daemon.wait_engine()
        other = str(MODELS / "stories260K-q8_0.gguf")
        with daemon.connect() as client:
            def images():
                return client.ask(status=pb.Status()).done.status.memory_images

            def round_trip():
                self.assertDone(client.ask(load=pb.Load(path=other)))
                self.assertDone(client.ask(unload=pb.Unload(model="stories260K-q8_0")))
                until(lambda: images() == before and len(daemon.children()) == 1, what="the end of the other model's engine")
            before = images()
            round_trip()
            fds = daemon.fd_count()
            for _ in range(3):
                round_trip()
            self.wait_fds(daemon, fds)

    def test_dry_run(self):
        daemon = self.stories()
        daemon.wait_engine()
        with daemon.connect() as client:
            end = client.ask(load=pb.Load(path=str(MODELS / "stories260K-f16.gguf"), dry_run=True))
            self.assertDone(end)
            plan = end.done.load
            self.assertGreater(plan.image_bytes, 400000)
            self.assertGreater(plan.kv_bytes, 0)
            self.assertGreater(plan.available_bytes, plan.floor_bytes)
            self.assertTrue(plan.fits)
            self.assertEqual(plan.left_bytes, plan.available_bytes - plan.floor_bytes - plan.promised_bytes -
                             plan.image_bytes - plan.kv_bytes - plan.engine_bytes)
            self.assertEqual(plan.kv_bytes_per_1000_tokens * plan.kv_tokens // 1000, plan.kv_bytes)
            self.assertEqual((plan.kv_format, plan.context, plan.context_max, plan.architecture), ("f16", 512, 512, "llama"))
            self.assertEqual(len(client.ask(models=pb.Models()).done.models.models), 1)
            self.assertEqual(len(daemon.children()), 1)

    def test_dry_run_is_what_a_load_takes(self):
        for kv_format in ("f16", "q8_0", "f32"):
            with self.subTest(kv_format):
                daemon = self.stories(models=[], memory={"kv_format": kv_format, "kv": "32M"},
                                      limits={"rows": 77, "sequences": 3})
                with daemon.connect() as client:
                    plan = client.ask(load=pb.Load(path=str(STORIES), dry_run=True)).done.load
                    end = client.ask(load=pb.Load(path=str(STORIES)))
                    self.assertDone(end)
                    status = client.ask(status=pb.Status()).done.status
                    self.assertEqual(plan.image_bytes, status.memory_images)
                    self.assertEqual(plan.kv_format, kv_format)
                    # of the cache, only what sequences can use is made, in whole pages
                    self.assertLessEqual(status.memory_kv, plan.kv_bytes)
                    self.assertAlmostEqual(plan.engine_bytes, status.memory_engine, delta=256 << 10)
                    self.assertGreater(end.done.load.read_bytes, 900000)
                    self.assertGreater(end.done.load.bytes_per_second, 0)
                    self.assertLess(end.done.load.read_ms, end.done.load.load_ms)

    def test_dry_run_of_a_context(self):
        daemon = self.stories(models=[])
        with daemon.connect() as client:
            plan = client.ask(load=pb.Load(path=str(STORIES), dry_run=True, context=1000)).done.load
            self.assertEqual((plan.kv_tokens, plan.kv_bytes), (1000, plan.kv_bytes_per_1000_tokens))
            end = client.ask(load=pb.Load(path=str(STORIES), dry_run=True, context=1 << 30))
            self.assertError(end, "NO_MEMORY")
            self.assertEqual(end.error.load.kv_tokens, 1 << 30)
            self.assertEqual(end.error.load.left_bytes, end.error.max - end.error.have)
            self.assertFalse(end.error.load.fits)
            for load in (pb.Load(path=str(STORIES), context=1000), pb.Load(path=str(STORIES), dry_run=True, context=(1 << 30) + 1)):
                self.assertError(client.ask(load=load), "INVALID_ARGUMENT")

    def test_progress_has_rate_and_time_left(self):
        daemon = self.stories()
        daemon.wait_engine()
        with tempfile.TemporaryDirectory() as folder, daemon.connect() as client:
            path = f"{folder}/large.gguf"
            self.make_sparse(path, "llama-1b")
            status = client.ask(status=pb.Status()).done.status
            if status.memory_available - status.memory_floor < 4 << 30:
                self.skipTest("too little memory")
            id = client.request(load=pb.Load(path=path))
            start, told = time.monotonic(), []
            while (frame := client.receive_of(id)).WhichOneof("body") == "progress":
                told.append((time.monotonic() - start, frame.progress))
            if frame.WhichOneof("body") == "error":
                self.assertError(frame, "MODEL_INVALID")  # the file has no tokenizer
            else:
                self.assertGreater(frame.done.load.bytes_per_second, 0)
            told = [(t, p) for t, p in told if p.stage == "load"]
            self.assertTrue(told)
            known = [(t, p) for t, p in told if p.bytes_per_second]
            if told[-1][0] - told[0][0] > 1:  # it goes by what came in a while
                self.assertTrue(known)
            for t, p in known:
                self.assertLess(p.bytes_per_second, 1e12)
                self.assertAlmostEqual(p.eta_ms, (p.total - p.done) * 1000 / p.bytes_per_second, delta=2)

    def test_floor(self):
        daemon = self.stories(models=[], memory={"floor": "1023T"})
        with daemon.connect() as client:
            for dry_run in (True, False):
                end = client.ask(load=pb.Load(path=str(STORIES), dry_run=dry_run))
                self.assertError(end, "NO_MEMORY")
                self.assertGreater(end.error.have, 1 << 20)
                self.assertEqual(end.error.max, 0)
                self.assertIn("kept free", end.error.message)
            status = client.ask(status=pb.Status()).done.status
            self.assertEqual((status.memory_images, len(status.models)), (0, 0))

    def test_too_large_while_serving(self):
        """A 70B model is refused by its header alone, at once and with the sums; who is served notices nothing."""
        daemon = self.stories()
        prompts = [f"Once there was a dog number {i}".encode() for i in range(8)]
        sampling = [pb.Sampling(max_tokens=120, seed=i, temperature=0.9) for i in range(8)]
        with tempfile.TemporaryDirectory() as folder, daemon.connect() as client, daemon.connect() as other:
            path = f"{folder}/llama-70b.gguf"
            self.make_sparse(path, "llama-70b", "--untied")
            size = os.stat(path).st_size
            self.assertGreater(size, 42e9)
            if size < client.ask(status=pb.Status()).done.status.memory_total:
                self.skipTest("this machine has room for it")
            alone = [client.answer(client.generate(p, sampling=s))[:2] for p, s in zip(prompts, sampling)]
            ids = [client.generate(p, sampling=s) for p, s in zip(prompts, sampling)]
            begun = [client.tokens(id, 2) for id in ids]
            took, small = [], []
            for dry_run in (False, True) * 3:
                start = time.monotonic()
                self.assertDone(other.ask(load=pb.Load(path=str(STORIES), dry_run=True)))
                small.append(time.monotonic() - start)
                start = time.monotonic()
                end = other.ask(load=pb.Load(path=path, dry_run=dry_run))
                took.append(time.monotonic() - start)
                self.assertError(end, "NO_MEMORY")
                self.assertGreater(end.error.have, size)
                self.assertLess(end.error.max, size)
                self.assertIn("kept free", end.error.message)
            ends = [client.answer(id, seen=len(b)) for id, b in zip(ids, begun)]
            for end, b, a in zip(ends, begun, alone):
                self.assertDone(end[2])
                self.assertEqual(b + end[0], a[0])
            print(f"a model of {size >> 30} GiB was refused in {min(took) * 1000:.0f} to {max(took) * 1000:.0f} ms, one of 1 MiB looked at "
                  f"in {min(small) * 1000:.0f}")
            self.assertLess(min(took), 0.1 * SLOW + 2 * min(small))  # the machine may be busy with others
            self.assertEqual(client.ask(models=pb.Models()).done.models.models[0].engine_restarts, 0)

    def test_load_that_is_given_up(self):
        """Cancelled, or its client gone: the loader ends at once and the memory is back. Others cannot end it."""
        daemon = self.stories()
        daemon.wait_engine()
        with tempfile.TemporaryDirectory() as folder, daemon.connect() as watcher:
            path = f"{folder}/large.gguf"
            self.make_sparse(path, "llama-8b")
            def memfds():
                """Of control: without a descriptor and a process nothing is left of an image's memory."""
                found = 0
                for fd in os.listdir(f"/proc/{daemon.pid}/fd"):
                    with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                        found += "memfd:" in os.readlink(f"/proc/{daemon.pid}/fd/{fd}")
                return found

            before, held = watcher.ask(status=pb.Status()).done.status, memfds()
            if before.memory_available - before.memory_floor < 10 << 30:
                self.skipTest("too little memory")
            for how in ("cancel", "gone"):
                with self.subTest(how), daemon.connect() as client:
                    id = client.request(load=pb.Load(path=path))
                    while client.receive_of(id).WhichOneof("body") != "progress":
                        pass
                    self.assertEqual(len(daemon.children("spark-loader")), 1)
                    self.assertError(watcher.ask(unload=pb.Unload(model="large")), "BUSY")
                    start = time.monotonic()
                    client.cancel(id) if how == "cancel" else client.close()
                    while daemon.children("spark-loader"):
                        self.assertLess(time.monotonic() - start, 2 * SLOW)
                        time.sleep(0.01)
                    if how == "cancel":
                        self.assertError(client.answer(id)[2], "CANCELLED")
                    until(lambda: memfds() == held, what="the end of the image's memory")

                    def rest():
                        status = watcher.ask(status=pb.Status()).done.status
                        return status.memory_images, [m.name for m in status.models]
                    until(lambda: rest() == (before.memory_images, ["stories"]), what="the model's end")

    def test_kv_that_does_not_fit(self):
        daemon = self.stories(models=[], memory={"kv": "1000T", "floor": "64M"})
        with daemon.connect() as client:
            self.assertError(client.ask(load=pb.Load(path=str(STORIES))), "NO_MEMORY")

    def test_bad_files(self):
        daemon = self.stories()
        daemon.wait_engine()
        fds = daemon.fd_count()
        data = STORIES.read_bytes()
        cases = {"empty": b"", "text": b"hello world" * 100, "cut": data[:5000], "half": data[:len(data) // 2],
                 "magic": b"GGUF", "counts": data[:8] + b"\xff" * 16 + data[24:]}
        with tempfile.TemporaryDirectory() as folder, daemon.connect() as client:
            for name, content in cases.items():
                with self.subTest(name):
                    path = f"{folder}/{name}.gguf"
                    with open(path, "wb") as file:
                        file.write(content)
                    for load in (pb.Load(path=path), pb.Load(path=path, dry_run=True)):
                        self.assertError(client.ask(load=load), "MODEL_INVALID")
            self.assertEqual(len(client.ask(models=pb.Models()).done.models.models), 1)
            self.assertDone(client.answer(client.generate(b"Once", n=3))[2])
        self.wait_fds(daemon, fds)
        until(lambda: daemon.children("spark-loader") == [], what="the loaders' end")

    def test_no_such_file(self):
        daemon = self.stories(models=[{"name": "gone", "path": "/nonexistent/x.gguf", "default": True}])
        with daemon.connect() as client:
            self.assertError(client.answer(client.generate(b"x"))[2], "MODEL_NOT_FOUND")
            end = client.ask(load=pb.Load(path="/nonexistent/y.gguf"))
            self.assertError(end, "MODEL_NOT_FOUND")
            self.assertError(client.ask(load=pb.Load(path="relative.gguf")), "INVALID_ARGUMENT")
            self.assertError(client.ask(load=pb.Load(path="/")), "MODEL_INVALID")
            self.assertError(client.ask(load=pb.Load(path="/dev/zero")), "MODEL_INVALID")
            self.assertError(client.ask(load=pb.Load(model="a/b", path=str(STORIES))), "INVALID_ARGUMENT")
            models = {m.name: m for m in client.ask(models=pb.Models()).done.models.models}
            self.assertEqual(models["gone"].state, "failed")
            self.assertIn("No such file", models["gone"].error)

    def test_bad_descriptors(self):
        daemon = self.stories()
        daemon.wait_engine()
        read_end, write_end = os.pipe()
        write_only = os.open("/tmp", os.O_WRONLY | os.O_TMPFILE)
        folder = os.open("/tmp", os.O_RDONLY)
        path_only = os.open(STORIES, os.O_PATH)
        with daemon.connect() as client:
            for fd in (read_end, write_only, folder, path_only):
                self.assertError(client.ask([fd], load=pb.Load(input_fd=True)), "INVALID_ARGUMENT")
        for fd in (read_end, write_end, write_only, folder, path_only):
            os.close(fd)

    def test_vocabulary_only(self):
        path = TESTDATA / "vocab" / "gpt-2.gguf"
        candidates = sorted((TESTDATA / "vocab").glob("*gpt-2*.gguf")) or [path]
        daemon = self.stories(models=[{"name": "v", "path": str(candidates[0]), "default": True}])
        with daemon.connect() as client:
            end = client.ask(tokenize=pb.Tokenize(text=b"Hello world"))
            self.assertDone(end)
            self.assertEqual(list(end.done.tokenize.ids), [15496, 995])
            self.assertError(client.answer(client.generate(b"Hello"))[2], "MODEL_INVALID")


class DryRunOfShapes(TestCase):
    """No file and no model is needed, so they work with the null backend as well."""

    def ctl(self, daemon, *arguments):
        return subprocess.run([BUILD / "bin" / "sparkctl", "-S", daemon.socket, "load", "--dry-run", *arguments],
                              capture_output=True, text=True, timeout=60 * SLOW, check=False)

    def test_shapes(self):
        daemon = self.daemon(memory={"floor": "1M"})
        with daemon.connect() as client:
            plans = {}
            for shape, format in (("llama-1b", "q4_0"), ("llama-1b", "q8_0"), ("llama-1b", "bf16")):
                end = client.ask(load=pb.Load(shape=shape, format=format, dry_run=True, context=4096))
                plan = end.done.load if end.WhichOneof("body") == "done" else end.error.load
                plans[format] = plan
                self.assertEqual((plan.kv_tokens, plan.kv_bytes), (4096, 4096 * 32768))
                self.assertEqual(plan.parameters, 1235814400)
            self.assertTrue(2 * 1235814400 <= plans["bf16"].image_bytes < 2.01 * 1235814400)
            self.assertTrue(34 / 32 * 1235814400 <= plans["q8_0"].image_bytes < 1.07 * 1235814400)
            self.assertTrue(18 / 32 * 1235814400 <= plans["q4_0"].image_bytes < 0.57 * 1235814400)
            self.assertEqual([m.name for m in client.ask(models=pb.Models()).done.models.models], ["null"])
        self.assertEqual(daemon.children("spark-loader"), [])

    def test_too_large(self):
        daemon = self.daemon(memory={"floor": "1023T"})
        with daemon.connect() as client:
            end = client.ask(load=pb.Load(shape="llama-70b", format="bf16", dry_run=True))
            self.assertError(end, "NO_MEMORY")
            plan = end.error.load
            self.assertGreater(plan.image_bytes, 141e9)
            self.assertEqual(end.error.have, plan.image_bytes + plan.kv_bytes + plan.engine_bytes)
            self.assertEqual((plan.left_bytes, plan.context_max, plan.fits), (-end.error.have, 0, False))
            for part in ("weights", "KV cache", "engine", "available", "kept free", "missing"):
                self.assertIn(part, end.error.message)

    def test_refusals(self):
        daemon = self.daemon()
        fds = daemon.fd_count()
        cases = [dict(shape="llama-70b"), dict(format="q4_k"), dict(shape="llama-70b", format="q4_k", path="/x"),
                 dict(shape="llama-70b", format="q4_k", model="m"), dict(shape="llama-9b", format="q4_k"),
                 dict(shape="llama-8b", format="q4_k_q"), dict(shape="gpt-oss-20b", format="q4_k"),
                 dict(shape="x" * 5000, format="q4_k"), dict(shape="--link", format="--input"), dict(shape="\n", format="\x1b")]
        with daemon.connect() as client:
            for case in cases:
                with self.subTest(case):
                    self.assertError(client.ask(load=pb.Load(dry_run=True, **case)), "INVALID_ARGUMENT")
            self.assertError(client.ask(load=pb.Load(shape="llama-1b", format="q4_0")), "INVALID_ARGUMENT")
            end = client.ask(load=pb.Load(shape="llama-9b", format="q4_k", dry_run=True))
            self.assertIn("llama-70b", end.error.message)
            self.assertDone(client.answer(client.generate(n=3))[2])
        self.wait_fds(daemon, fds)

    def test_sparkctl(self):
        keys = ["model", "dry_run", "image_bytes", "kv_bytes", "available_bytes", "floor_bytes", "load_ms", "fits", "architecture",
                "format", "parameters", "engine_bytes", "total_bytes", "kv_format", "kv_bytes_per_1000_tokens", "kv_tokens",
                "context", "context_max", "promised_bytes", "left_bytes", "memory_bytes", "lossless", "bits_per_weight",
                "coded_parameters", "coded_bytes", "packed", "estimated", "kinds"]
        small, none = self.daemon(memory={"floor": "1M"}), self.daemon(memory={"floor": "1023T"})
        shape = ["--shape", "llama-1b", "--format", "q4_0"]
        fits, refused = self.ctl(small, *shape, "--context", "512", "--json"), self.ctl(none, *shape, "--context", "512", "--json")
        self.assertEqual((fits.returncode, refused.returncode), (0, 1), fits.stdout)
        fits, refused = json.loads(fits.stdout), json.loads(refused.stdout)
        self.assertEqual(list(fits), keys)
        self.assertEqual(list(refused), keys + ["error"])
        self.assertEqual((fits["fits"], refused["fits"], refused["error"]["code"]), (True, False, "NO_MEMORY"))
        for key in ("image_bytes", "kv_bytes", "engine_bytes", "total_bytes", "kv_tokens", "kv_bytes_per_1000_tokens"):
            self.assertEqual(fits[key], refused[key])
        self.assertEqual(refused["left_bytes"], -refused["total_bytes"])
        for daemon, status, end in ((small, 0, "It fits, with a context of 512 tokens"), (none, 1, "It does not fit, with any context")):
            done = self.ctl(daemon, *shape, "--context", "512")
            self.assertEqual(done.returncode, status, done.stderr)
            self.assertRegex(done.stdout, r"(?m)^  weights +0\.648 GiB$")
            self.assertRegex(done.stdout, r"(?m)^  KV cache for 512 tokens, f16 +0\.016 GiB$")
            self.assertIn(end, done.stdout)
            self.assertEqual("kept free" in done.stderr, status == 1)
        for wrong in (["--shape", "llama-1b"], ["--format", "q4_0"], [*shape, "model"], []):
            self.assertEqual(self.ctl(small, *wrong).returncode, 64, wrong)
        self.assertEqual(self.ctl(small, "--shape", "llama-9b", "--format", "q4_0").returncode, 64)

    @unittest.skipUnless(STORIES.exists(), f"{STORIES} is not there")
    def test_sparkctl_load(self):
        daemon = self.daemon(backend="cpu", threads=1, models=[])
        done = self.ctl(daemon, STORIES)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("stories260K-f32: llama, 0.3 million parameters, F32", done.stdout)
        done = subprocess.run([BUILD / "bin" / "sparkctl", "-S", daemon.socket, "load", "--json", STORIES], capture_output=True,
                              text=True, timeout=60 * SLOW, check=False)
        self.assertEqual(done.returncode, 0, done.stdout)
        load = json.loads(done.stdout)
        self.assertFalse(load["dry_run"])
        self.assertGreater(load["bytes"], 900000)
        self.assertAlmostEqual(load["bytes_per_second"], load["bytes"] * 1000 / load["ms"], delta=load["bytes_per_second"] * 0.01)


class Permission(TestCase):
    @unittest.skipUnless(os.geteuid() == 0, "needs root to become somebody else")
    def test_strangers_may_not_load(self):
        daemon = self.daemon()
        daemon.wait_engine()
        daemon.folder.chmod(0o755)
        with daemon.connect() as mine:
            id = mine.generate(n=10, credit=1)
            mine.tokens(id, 1)
            script = f"""
import os, sys
sys.path.insert(0, {str(ROOT / 'tests/integration')!r})
from harness import *
from harness import pb
os.setgroups([]); os.setgid(65534); os.setuid(65534)
with Client({str(daemon.socket)!r}) as client:
    for body in ({{"load": pb.Load(model="null")}}, {{"unload": pb.Unload(model="null")}},
                 {{"load": pb.Load(path="/etc/passwd", dry_run=True)}}):
        print(error_name(client.ask(**body).error))
    print(len(client.ask(status=pb.Status()).done.status.requests))
    print(client.answer(client.generate(n=3))[2].WhichOneof("body"))
"""
            done = subprocess.run(["/usr/bin/python3", "-c", script], capture_output=True, text=True, check=False,
                                  env={**os.environ, "SPARK_BUILD": str(BUILD)})
            self.assertEqual(done.stdout.split(), ["PERMISSION_DENIED"] * 3 + ["0", "done"], done.stderr)
            self.assertEqual(len(mine.ask(status=pb.Status()).done.status.requests), 1)


class Command(TestCase):
    def run_it(self, *arguments):
        return subprocess.run([BUILD / "bin" / "sparkd", *arguments], capture_output=True, text=True, timeout=20 * SLOW,
                              check=False)

    def test_options(self):
        self.assertIn("--config", self.run_it("--help").stdout)
        self.assertRegex(self.run_it("--version").stdout, r"^sparkd \d")
        self.assertEqual(self.run_it("--nonsense").returncode, 64)
        self.assertEqual(self.run_it("extra").returncode, 64)

    def test_check(self):
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write('backend = "null";\nlimits = { connections = 7; };\n')
            file.flush()
            done = self.run_it("--config", file.name, "--check")
            self.assertEqual(done.returncode, 0)
            self.assertIn("connections = 7;", done.stdout)
            self.assertIn('backend = "null";', done.stdout)
            file.write("nonsense = 1;\n")
            file.flush()
            done = self.run_it("--config", file.name, "--check")
            self.assertEqual(done.returncode, 78)
            self.assertIn(f"{file.name}:3: unknown key 'nonsense'", done.stderr)

    def test_no_configuration(self):
        done = self.run_it("--config", "/nonexistent.conf")
        self.assertEqual(done.returncode, 78)
        self.assertIn("/nonexistent.conf", done.stderr)

    def test_no_folder_for_the_socket(self):
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write('backend = "null"; bus = "none"; socket = "/nonexistent/folder/s";\n')
            file.flush()
            done = self.run_it("--config", file.name)
            self.assertEqual(done.returncode, 1)
            self.assertIn("folder of the socket /nonexistent/folder/s", done.stderr)


if __name__ == "__main__":
    unittest.main()
