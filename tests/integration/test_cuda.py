#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The CUDA backend in the real programs, on an emulated device (build/lib/libspark-cuda-emu.so): what it answers, what it
shows, and what becomes of streams when the device fails. A dozen tokens each: the emulator is slow."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

from harness import *
from harness import pb

LIBRARY = BUILD / "lib" / "libspark-cuda-emu.so"
MODELS = TESTDATA / "models"
PROMPT = b"Once upon a time, there was"
TOKENS = 12

WRAPPER = """#!/bin/sh
# one of the engines, counted from 0, has a device as told; those before and after it have a sound one
n=0
while ! mkdir {folder}/started-$n 2>/dev/null; do n=$((n + 1)); done
if [ $n = {which} ]; then SPARK_CUDA_EMU='{words}'; export SPARK_CUDA_EMU; {first}; fi
exec {engine} "$@"
"""


LOADER = """#!/bin/sh
# all of the image is in place, and the load goes on until it is let go
{loader} "$@"
status=$?
while [ ! -e {folder}/go ]; do sleep 0.05; done
exit $status
"""


class CudaCase(TestCase):
    """Daemons with the emulated device."""

    def setUp(self):
        if not LIBRARY.exists():
            self.skipTest(f"no {LIBRARY}")
        if not MODELS.is_dir():
            self.skipTest(f"no test data at {TESTDATA}")

    def cuda(self, model="mini-llama-f32", **settings):
        limits = {"sequences": 4, "step_timeout_ms": 60000, **settings.pop("limits", {})}
        return self.daemon(**{"backend": "cuda", "cuda_library": str(LIBRARY), "limits": limits,
                              "memory": {"kv_format": "f32", "kv": "1M"},
                              "models": [{"name": "m", "path": str(MODELS / f"{model}.gguf"), "default": True,
                                          "context": 256}], **settings})

    def broken(self, words, which=0, first=":", slow=False, **settings):
        """A daemon one of whose engines has a device as told, and does something first. slow: loads end when `go` is made in the
        program's folder."""
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="sparkd-")))
        for name in ("sparkd", "spark-loader"):
            shutil.copy(BUILD / "bin" / name, folder / name)
        scripts = {"spark-engine": WRAPPER.format(folder=folder, which=which, words=words, first=first,
                                                  engine=BUILD / "bin" / "spark-engine")}
        if slow:
            scripts["spark-loader"] = LOADER.format(folder=folder, loader=BUILD / "bin" / "spark-loader")
        for name, text in scripts.items():
            (folder / name).unlink(missing_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
            (folder / name).chmod(0o755)
        return self.cuda(program=folder / "sparkd", **settings)

    def ask(self, daemon, prompt=PROMPT, n=TOKENS, **sampling):
        """Tokens and log-probabilities."""
        sampling = {"temperature": 0, "logprobs": 1, **sampling}
        with daemon.connect() as client:
            id = client.generate(prompt, sampling=pb.Sampling(max_tokens=n, **sampling))
            ids, logprobs = [], []
            while True:
                frame = client.receive_of(id)
                kind = frame.WhichOneof("body")
                if kind == "token":
                    ids += frame.token.ids
                    logprobs += frame.token.logprobs
                elif kind != "progress":
                    self.assertDone(frame)
                    return ids, logprobs

    def cpu_tokens(self, prompt=PROMPT, n=TOKENS):
        daemon = self.cuda(backend="cpu")
        return self.ask(daemon, prompt, n)[0]


class Answers(CudaCase):
    def test_greedy_as_on_the_processor(self):
        self.assertEqual(self.ask(self.cuda())[0], self.cpu_tokens())

    def test_copies_begin_before_the_load_ends(self):
        """Where weights are copied to the device; elsewhere there is nothing to gain. The loader's first word of what is in place
        comes before its end, whatever the speed."""
        for placement, early in (("device", True), ("auto", False)):
            daemon = self.cuda(cuda_placement=placement)
            daemon.wait_engine()
            log = daemon.log()
            self.assertEqual(log.index("engine of model 'm': process") < log.index("model 'm' is starting"), early, placement)
            self.assertEqual(len(daemon.children()), 1)
            self.assertEqual(self.ask(daemon)[0], self.cpu_tokens())

    def test_early_engine_ends(self):
        """One that is gone before it has seen the whole image: another one follows."""
        daemon = self.broken("", first="exit 70", cuda_placement="device")
        daemon.wait_engine()
        self.assertEqual(len(daemon.children()), 1)
        self.assertEqual(self.ask(daemon)[0], self.cpu_tokens())

    def state(self, daemon):
        with daemon.connect() as client:
            return client.ask(models=pb.Models()).done.models.models[0].state

    def loading(self, first=":"):
        """A daemon that is loading, with an early engine that has all there is."""
        daemon = self.broken("unified=0", first=first, slow=True, cuda_placement="device")
        until(daemon.children, 20, "an early engine")
        self.assertEqual(self.state(daemon), "loading")
        return daemon, daemon.program.parent / "go"

    def test_early_engine_waits_for_the_whole_image(self):
        daemon, go = self.loading()
        time.sleep(0.5)
        self.assertEqual(self.state(daemon), "loading")  # it has every tensor, and yet the image is not sealed
        early, = daemon.children()
        go.touch()
        self.assertEqual(daemon.wait_engine(), early)
        self.assertEqual(self.ask(daemon)[0], self.cpu_tokens())

    def test_early_engine_is_killed(self):
        daemon, go = self.loading()
        early, = daemon.children()
        os.kill(early, signal.SIGKILL)
        until(lambda: "another one follows it" in daemon.log(), 20, "notice of its end")
        self.assertEqual((daemon.children(), self.state(daemon)), ([], "loading"))
        go.touch()
        self.assertNotEqual(daemon.wait_engine(), early)
        self.assertEqual(self.ask(daemon)[0], self.cpu_tokens())

    def test_stop_with_an_early_engine(self):
        """One that hears of it, and one that does not."""
        for first in (":", "kill -STOP $$"):
            daemon, _ = self.loading(first)
            self.assertEqual(daemon.stop(), 0)

    def test_early_engine_goes_with_its_load(self):
        daemon, _ = self.loading()
        loader, = daemon.children("spark-loader")
        os.kill(loader, signal.SIGKILL)
        until(lambda: self.state(daemon) == "failed", 20, "the load's failure")
        until(lambda: not daemon.children(), 20, "the engine's end")

    def test_early_engine_goes_with_its_client(self):
        """Nobody waits for the load any more."""
        path = str(MODELS / "mini-llama-f32.gguf")
        daemon = self.broken("unified=0", slow=True, cuda_placement="device", models=[])
        with daemon.connect() as client:
            client.request(load=pb.Load(path=path))
            until(daemon.children, 20, "an early engine")
        until(lambda: not daemon.children() and not daemon.children("spark-loader"), 20, "the end of both")
        with daemon.connect() as client:
            self.assertFalse(client.ask(models=pb.Models()).done.models.models)

    def test_load_fails_behind_an_early_engine(self):
        """Its file ends too early: the engine goes with the load."""
        whole = (MODELS / "mini-llama-f32.gguf").read_bytes()
        daemon = self.cuda(cuda_placement="device")
        cut = daemon.folder / "cut.gguf"
        cut.write_bytes(whole)
        with daemon.connect() as client:
            for _ in range(20):  # it is planned as whole, and shorter when it is read, now and then
                id = client.request(load=pb.Load(path=str(cut)))
                os.truncate(cut, len(whole) - 65536)
                end = client.answer(id)[2]
                os.truncate(cut, 0)
                cut.write_bytes(whole)
                if end.WhichOneof("body") == "done":
                    self.assertDone(client.ask(unload=pb.Unload(model="cut")))
            until(lambda: len(daemon.children()) == 1, 20, "no engine but that of the other model")
            until(lambda: not daemon.children("spark-loader"), 20, "the last loader's end")
        self.assertEqual(self.ask(daemon)[0], self.cpu_tokens())

    def test_device_placement(self):
        daemon = self.cuda(cuda_placement="device")
        with daemon.connect() as client:
            until(lambda: client.ask(models=pb.Models()).done.models.models[0].state == "ready", 60)
            model, = client.ask(models=pb.Models()).done.models.models
            status = client.ask(status=pb.Status()).done.status
        self.assertEqual(model.placement, "device")
        if model.kv_memory == "device":  # else it is pinned memory of the host
            self.assertEqual(status.memory_kv, 0)
        self.assertGreater(model.device_bytes, 1 << 20)
        self.assertIn("sm_", model.device)
        self.assertTrue(model.backend.startswith("cuda ("), model.backend)
        self.assertEqual(self.ask(daemon)[0], self.cpu_tokens())
        self.assertNotIn("thread for uploading", daemon.log())  # the sandbox lets them be made

    def test_ledger(self):
        """What the backend takes for itself is charged: with unified memory more than the two pinned buffers of 8 MiB that it
        always has, and activations; else those and what is pinned beside them."""
        def engine(**settings):
            daemon = self.cuda(**settings)
            with daemon.connect() as client:
                until(lambda: client.ask(models=pb.Models()).done.models.models[0].state == "ready", 60)
                return client.ask(status=pb.Status()).done.status.memory_engine
        cpu, unified, device = engine(backend="cpu"), engine(), engine(cuda_placement="device")
        self.assertGreater(unified, cpu + (16 << 20))
        self.assertGreater(device, 16 << 20)
        self.assertLess(device, unified)

    def test_same_in_company(self):
        """Bit for bit: tokens and log-probabilities, greedy, cut, and of whole rows."""
        daemon = self.cuda()
        kinds = [{"temperature": 0}, {"temperature": 0.9, "seed": 5, "top_k": 20}, {"temperature": 1, "seed": 6, "top_p": 0.9, "top_k": 0},
                 {"temperature": 0.8, "seed": 7, "repetition_penalty": 1.3, "top_k": 0}]
        alone = [self.ask(daemon, logprobs=3, n=8, **kind) for kind in kinds]
        with daemon.connect() as client:
            ids = [client.generate(PROMPT, sampling=pb.Sampling(max_tokens=8, **{"logprobs": 3, **kind})) for kind in kinds]
            together = [([], []) for _ in ids]
            left = set(ids)
            while left:
                frame = client.receive()
                if frame.WhichOneof("body") == "token":
                    together[ids.index(frame.id)][0].extend(frame.token.ids)
                    together[ids.index(frame.id)][1].extend(frame.token.logprobs)
                elif frame.WhichOneof("body") != "progress":
                    self.assertDone(frame)
                    left.discard(frame.id)
        self.assertEqual(together, alone)

    def test_prefix_is_kept(self):
        """What the prefix cache has is what would be computed: in the middle of a page, too."""
        daemon, other = self.cuda(), self.cuda()
        long, branch = PROMPT * 9, PROMPT * 5 + b" a cat"
        whole = self.ask(daemon, long, n=4)
        self.assertEqual(self.ask(daemon, long, n=4), whole)
        with daemon.connect() as client:
            ids, _, end = client.answer(client.generate(branch, sampling=pb.Sampling(max_tokens=6, temperature=0)))
        cached = end.done.usage.cached_tokens
        self.assertGreater(cached, 32)
        self.assertNotEqual(cached % 32, 0)
        self.assertEqual(ids, self.ask(other, branch, n=6)[0])

    def test_perplexity_as_on_the_processor(self):
        def nll(daemon):
            with daemon.connect() as client:
                end = client.ask(score=pb.Score(text=PROMPT * 3, context=48))
            self.assertDone(end)
            return end.done.score.tokens, end.done.score.nll
        cuda, cpu = nll(self.cuda()), nll(self.cuda(backend="cpu"))
        self.assertEqual(cuda[0], cpu[0])
        self.assertAlmostEqual(cuda[1], cpu[1], delta=1e-5)

    def test_quantized(self):
        """Formats that the two backends compute in their own ways agree in what they would say."""
        cpu = self.ask(self.cuda(backend="cpu", model="rand-llama-q8_0"), n=4)
        cuda = self.ask(self.cuda(model="rand-llama-q8_0"), n=4)
        self.assertEqual(cuda[0], cpu[0])
        self.assertEqual(len(cuda[1]), 4)
        for a, b in zip(cuda[1], cpu[1]):
            self.assertAlmostEqual(a, b, delta=0.2)


class Status(CudaCase):
    def test_shown(self):
        daemon = self.cuda()
        daemon.wait_engine()
        done = subprocess.run([BUILD / "bin/sparkctl", "-S", daemon.socket, "--json", "status"], stdout=subprocess.PIPE, check=True)
        model, = json.loads(done.stdout)["models"]
        self.assertIn("sm_121", model["device"])
        self.assertEqual(model["placement"], "unified")
        self.assertIn(model["kv_memory"], ("host", "device"))
        text = subprocess.run([BUILD / "bin/sparkctl", "-S", daemon.socket, "status"], stdout=subprocess.PIPE, text=True,
                              check=True).stdout
        self.assertRegex(text, r"sm_121\): weights in unified memory, KV cache in the (host|device)'s")

    def test_cpu(self):
        daemon = self.cuda(backend="cpu")
        daemon.wait_engine()
        with daemon.connect() as client:
            model, = client.ask(models=pb.Models()).done.models.models
        self.assertEqual((model.device, model.placement, model.kv_memory, model.device_bytes), ("", "host", "host", 0))


class Refused(CudaCase):
    def fails(self, **settings):
        daemon = self.cuda(**settings)
        with daemon.connect() as client:
            end = client.answer(client.generate(n=1))[2]
        return daemon, end

    def test_no_library(self):
        daemon, end = self.fails(cuda_library="/nowhere/libspark-cuda.so")
        self.assertEqual(end.WhichOneof("body"), "error", end)
        self.assertIn("there is no /nowhere/libspark-cuda.so", end.error.message)
        with daemon.connect() as client:
            self.assertEqual(client.ask(models=pb.Models()).done.models.models[0].state, "failed")

    def test_something_else(self):
        end = self.fails(cuda_library=str(BUILD / "lib" / "libspark.so"))[1]
        self.assertIn("is something else", end.error.message)

    def test_no_device(self):
        end = self.fails(env={"SPARK_CUDA_EMU": "count=0"})[1]
        self.assertIn("no NVIDIA GPU", end.error.message)

    def test_auto_without_device(self):
        """Where nothing was asked for, the processor is taken, and the log says why."""
        daemon = self.cuda(backend="auto", env={"SPARK_CUDA_EMU": "count=0"})
        self.assertEqual(len(self.ask(daemon)[0]), TOKENS)
        self.assertIn("the cuda backend is not used", daemon.log())

    def test_heads_that_it_has_no_kernels_for(self):
        path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="sparkd-"))) / "odd.gguf"
        self.make_model(path, "--shape", "tiny", "--format", "f32", "--head-dim", "12", "--embd", "64", "--ff", "64", "--layers", "1")
        end = self.fails(models=[{"name": "m", "path": str(path), "default": True}])[1]
        self.assertError(end, "MODEL_INVALID")
        self.assertIn("heads of 12 elements", end.error.message)

    def test_heads_of_8(self):
        self.assertEqual(len(self.ask(self.cuda(model="stories260K-f32"))[0]), TOKENS)

    def test_no_memory(self):
        """A device whose memory is short: an error with the sums, and no engine that is started again and again."""
        began = time.monotonic()
        daemon, end = self.fails(cuda_placement="device", env={"SPARK_CUDA_EMU": "unified=0,memory=300000"})
        self.assertError(end, "NO_MEMORY")
        self.assertRegex(end.error.message, r"[0-9]+ ")
        print(f"(refused after {time.monotonic() - began:.0f} s) ", end="", flush=True)
        self.assertNotIn("ended with signal", daemon.log())


class Faults(CudaCase):
    """The first engine fails in the middle of a stream; the next one goes on with the token that was due."""

    def check_replay(self, words, expected, **settings):
        whole = self.ask(self.cuda(), n=TOKENS)
        daemon = self.broken(words, **settings)
        got = self.ask(daemon, n=TOKENS)
        self.assertEqual(got, whole)
        with daemon.connect() as client:
            model, = client.ask(models=pb.Models()).done.models.models
        self.assertGreaterEqual(model.engine_restarts, 1)
        self.assertIn("ended with exit status 70", daemon.log())
        self.assertIn(expected, daemon.log())

    def test_kernel_that_fails(self):
        self.check_replay(f"fail=kernel:{self.kernels(6)}", "waiting for a step: launch failure")

    def test_launch_that_fails(self):
        self.check_replay("fail=cudaGraphLaunch:5", "launching a step's graph: launch failure")

    def test_step_that_hangs(self):
        began = time.monotonic()
        self.check_replay(f"hang=launch:{self.kernels(6)}", "does not come to an end with a step",
                          limits={"step_timeout_ms": int(2000 * SLOW)})
        print(f"({time.monotonic() - began:.1f} s) ", end="", flush=True)

    def test_memory_that_comes_back_late(self):
        """An engine behind another one waits for device memory, and says so."""
        daemon = self.broken("unified=0,memory=300000", which=1, cuda_placement="device")
        engine = daemon.wait_engine()
        os.kill(engine, signal.SIGKILL)
        until(lambda: "waiting for the memory of the engine before" in daemon.log(), 20)
        with daemon.connect() as client:
            self.assertEqual(client.ask(models=pb.Models()).done.models.models[0].state, "starting")

    def test_lost_while_it_starts(self):
        """A device that fails in the self-test is tried again."""
        daemon = self.broken(f"fail=kernel:{self.kernels(1) // 2}")
        self.assertEqual(len(self.ask(daemon, n=4)[0]), 4)
        self.assertIn("ended with exit status 70", daemon.log())

    def test_killed(self):
        daemon = self.cuda()
        whole = self.ask(daemon, n=TOKENS)[0]
        engine = daemon.wait_engine()
        with daemon.connect() as client:
            id = client.generate(PROMPT, sampling=pb.Sampling(max_tokens=TOKENS, temperature=0))
            got = client.tokens(id, 3)
            os.kill(engine, signal.SIGKILL)
            rest, _, end = client.answer(id, seen=len(got))
            self.assertDone(end)
            self.assertEqual(got + rest, whole)

    @staticmethod
    def kernels(steps):
        """About so many kernels run in steps of the small model, self-test included: five layers of about a dozen."""
        return 50 * steps


if __name__ == "__main__":
    unittest.main()
