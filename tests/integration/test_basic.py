# SPDX-License-Identifier: Apache-2.0
"""Null backend: hello, requests of every kind, many at once, cancel, credit."""

import subprocess
import time
import unittest

from harness import *
from harness import pb


class Basic(TestCase):
    def test_hello(self):
        daemon = self.daemon()
        with daemon.connect() as client:
            self.assertEqual(client.hello.protocol_version, 1)
            self.assertTrue(client.hello.software.startswith("sparkd "))

    def test_second_daemon_is_refused(self):
        daemon = self.daemon()
        second = subprocess.run([daemon.program, "--config", daemon.config], stdin=subprocess.DEVNULL, capture_output=True,
                                text=True, timeout=30, check=False)
        self.assertEqual(second.returncode, 1)
        self.assertIn("somebody listens at", second.stderr)
        self.assertNotIn("ended:", second.stderr)
        with daemon.connect() as client:
            self.assertDone(client.answer(client.generate(n=1))[2])

    def test_generate(self):
        daemon = self.daemon()
        with daemon.connect() as client:
            ids, text, end = client.answer(client.generate(n=20))
            self.assertDone(end)
            self.assertEqual(len(ids), 20)
            self.assertTrue(text)
            self.assertEqual(end.done.finish_reason, pb.LENGTH)
            self.assertEqual(end.done.usage.completion_tokens, 20)
            self.assertGreater(end.done.usage.prompt_tokens, 0)
            self.assertEqual(end.done.seed, 1)
            again = client.answer(client.generate(n=20))
            self.assertEqual((ids, text), again[:2])

    def test_status_and_models(self):
        daemon = self.daemon()
        daemon.wait_engine()
        with daemon.connect() as client:
            id = client.generate(n=100, credit=1)
            client.receive_of(id)
            end = client.ask(status=pb.Status())
            self.assertDone(end)
            status = end.done.status
            self.assertEqual(status.state, "ready")
            self.assertEqual(status.requests_running, 1)
            self.assertGreater(status.memory_total, status.memory_available)
            self.assertGreater(status.memory_available, 0)
            self.assertEqual(status.memory_floor, 64 << 20)
            self.assertEqual(len(status.requests), 1)
            self.assertEqual(status.requests[0].kind, "generate")
            self.assertEqual(status.requests[0].completion_tokens, 1)
            model, = client.ask(models=pb.Models()).done.models.models
            self.assertEqual((model.name, model.state, model.is_default), ("null", "ready", True))
            self.assertEqual(model.running, 1)
            self.assertGreaterEqual(model.generated_tokens, 1)
            until(lambda: client.ask(status=pb.Status()).done.status.connections == 1, 10, "no connection but this one")

    def test_tokenize_there_and_back(self):
        daemon = self.daemon()
        with daemon.connect() as client:
            end = client.ask(tokenize=pb.Tokenize(text="Häuser am See".encode()))
            self.assertDone(end)
            ids = list(end.done.tokenize.ids)
            self.assertTrue(ids)
            end = client.ask(detokenize=pb.Detokenize(tokens=ids))
            self.assertEqual(end.done.detokenize.text.decode(), "Häuser am See")

    def test_tokenize_from_memfd(self):
        daemon = self.daemon()
        daemon.wait_engine()
        with daemon.connect() as client:
            before = daemon.fd_count()
            text = b"word " * 2000
            small = client.ask(tokenize=pb.Tokenize(text=text))
            large = client.ask(fds=[memfd(text)], tokenize=pb.Tokenize(input_fd=True))
            self.assertDone(large)
            self.assertEqual(small.done.tokenize.ids, large.done.tokenize.ids)
            self.wait_fds(daemon, before)

    def test_32_streams_equal_one_alone(self):
        daemon = self.daemon()
        prompts = [f"Prompt number {i}".encode() for i in range(32)]
        with daemon.connect() as client:
            alone = [client.answer(client.generate(p, n=40, seed=i))[:2] for i, p in enumerate(prompts)]
        clients = [daemon.connect() for _ in prompts]
        running = [c.generate(p, n=40, seed=i) for i, (c, p) in enumerate(zip(clients, prompts))]
        together = [c.answer(id)[:2] for c, id in zip(clients, running)]
        for client in clients:
            client.close()
        self.assertEqual(alone, together)
        with daemon.connect() as client:  # and all of them on one connection
            running = [client.generate(p, n=40, seed=i) for i, p in enumerate(prompts)]
            self.assertEqual(alone, [client.answer(id)[:2] for id in running])

    def test_cancel(self):
        daemon = self.daemon(null={"step_us": 5000})
        with daemon.connect() as client:
            id = client.generate(n=2000)
            other = client.generate(n=30)
            seen = len(client.tokens(id, 1))
            client.cancel(id)
            _, _, end = client.answer(id, seen=seen)
            self.assertError(end, "CANCELLED")
            self.assertDone(client.answer(other)[2])
            client.cancel(id)  # not running any more: ignored
            client.cancel(77)
            self.assertTrue(client.nothing_comes(0.3))
            again = client.request(id=id, generate=pb.Generate(prompt=b"x", sampling=pb.Sampling(max_tokens=3)))
            self.assertDone(client.answer(again)[2])  # the id is free

    def test_cancel_frees_the_request(self):
        daemon = self.daemon(null={"step_us": 2000})
        with daemon.connect() as client:
            for _ in range(20):
                id = client.generate(n=5000)
                client.cancel(id)
                self.assertError(client.answer(id)[2], "CANCELLED")
            until(lambda: client.ask(status=pb.Status()).done.status.requests_running == 0)

    def test_credit_pauses_and_resumes(self):
        daemon = self.daemon()
        with daemon.connect() as client:
            whole = client.answer(client.generate(n=50))
            id = client.generate(n=50, credit=5)
            got = client.tokens(id, 5)
            self.assertEqual(len(got), 5)
            self.assertTrue(client.nothing_comes(0.4))
            client.credit(id, 3)
            got += client.tokens(id, 3)
            self.assertEqual(len(got), 8)
            self.assertTrue(client.nothing_comes(0.3))
            other, _, end = client.answer(client.generate(n=50))  # nobody else is held up
            self.assertEqual(other, whole[0])
            client.credit(id, 0xffffffff)
            client.credit(id, 0xffffffff)  # more than fits in 32 bits
            rest, _, end = client.answer(id, seen=len(got))
            self.assertDone(end)
            self.assertEqual(got + rest, whole[0])

    def test_default_credit_is_256(self):
        daemon = self.daemon()
        with daemon.connect() as client:
            id = client.generate(n=1000)
            self.assertEqual(len(client.tokens(id, 256)), 256)
            self.assertTrue(client.nothing_comes(0.4))

    def test_long_answer_with_topup(self):
        daemon = self.daemon()
        with daemon.connect() as client:
            ids, _, end = client.answer(client.generate(n=1500), topup=True)
            self.assertDone(end)
            self.assertEqual(len(ids), 1500)

    def test_several_models(self):
        daemon = self.daemon(models=[{"name": "a"}, {"name": "b", "default": True}])
        daemon.wait_engine()
        with daemon.connect() as client:
            states = {m.name: m.state for m in client.ask(models=pb.Models()).done.models.models}
            self.assertEqual(states, {"a": "available", "b": "ready"})
            self.assertDone(client.answer(client.generate(n=3))[2])
            self.assertDone(client.answer(client.generate(n=3, model="a"))[2])  # loaded on demand
            self.assertEqual(len(daemon.children()), 2)
            self.assertError(client.answer(client.generate(n=3, model="c"))[2], "MODEL_NOT_FOUND")
            end = client.ask(unload=pb.Unload(model="a"))
            self.assertDone(end)
            self.assertEqual(len(daemon.children()), 1)
            end = client.ask(load=pb.Load(model="a"))
            self.assertDone(end)
            self.assertEqual(end.done.load.model, "a")
            self.assertEqual(len(daemon.children()), 2)

    def test_unload_of_a_model_in_use(self):
        daemon = self.daemon()
        with daemon.connect() as client:
            id = client.generate(n=100, credit=1)
            client.tokens(id, 1)
            end = client.ask(unload=pb.Unload(model="null"))
            self.assertError(end, "BUSY")
            self.assertGreater(end.error.retry_after_ms, 0)
            client.credit(id, 1000)
            self.assertDone(client.answer(id, seen=1)[2])
            self.assertDone(client.ask(unload=pb.Unload(model="null")))
            self.assertEqual(daemon.children(), [])
            self.assertServes(daemon)  # and it comes back when somebody asks

    def test_time_of_a_request_is_told(self):
        daemon = self.daemon(null={"step_us": 2000})
        with daemon.connect() as client:
            began = time.monotonic()
            _, _, end = client.answer(client.generate(n=50))
            took = (time.monotonic() - began) * 1000
            timing = end.done.timing
            self.assertGreater(timing.decode_ms, 50)
            self.assertLess(timing.queue_ms + timing.prefill_ms + timing.decode_ms, took + 50)

    def test_prefill_progress(self):
        """Only who says that it knows them hears of prompts on their way; what was cached is there at once."""
        daemon = self.daemon(limits={"rows": 16, "sequences": 4})
        kinds = {}
        for features in ((), ("prefill-progress", "something-else")):
            with daemon.connect(features=features) as client:
                frames = []
                id = client.generate(prompt=b"x" * 200 + str(len(features)).encode(), n=2)
                while not frames or frames[-1].WhichOneof("body") not in ("done", "error"):
                    frames.append(client.receive_of(id))
                kinds[features] = [f.WhichOneof("body") for f in frames]
                self.assertEqual(kinds[features][-1], "done")
                done = [f.progress.done for f in frames if f.WhichOneof("body") == "progress"]
                self.assertEqual(done, sorted(done))
                self.assertTrue(all(f.progress.stage == "prefill" and f.progress.total > 200 for f in frames
                                    if f.WhichOneof("body") == "progress"))
        without, with_it = kinds.values()
        self.assertNotIn("progress", without)
        self.assertEqual(with_it[0], "progress")


if __name__ == "__main__":
    unittest.main()
