#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Restarts in the middle of work of the store and of loads, and models of the store over restarts. The program that works is held
still (SIGSTOP), so that the restart is certain to come before its end."""

import os
import shutil
import signal
import unittest

from fdstore_harness import *
from harness import *
from harness import pb
from test_store import GREEDY, TINY, StoreCase, digest_of

HOWS = (signal.SIGKILL, signal.SIGTERM)


class StoreRestart(KeptTestCase, StoreCase):
    def begin(self, **settings):
        program = self.haltable("spark-loader", "spark-store")
        daemon = self.kept(**{"backend": "cpu", "threads": 1, "models": [], "program": program, **settings})
        return daemon, daemon.connect()

    def model(self, daemon):
        """One that every step takes a moment for."""
        path = daemon.folder / "model.gguf"
        if not path.exists():
            self.make_model(path, "--shape", "tiny", "--vocab", "30000", "--format", "bf16", "--untied")
        return path

    def tree(self, daemon):
        return sorted(str(p.relative_to(daemon.folder)) for p in (daemon.folder / "store").rglob("*") if p.is_file())

    def room(self, daemon):
        """Bytes of disk that the store takes."""
        return sum(p.stat().st_blocks for p in (daemon.folder / "store").rglob("*") if p.is_file()) * 512

    def text(self, client, name):
        ids, _, end = client.answer(client.generate(b"Once", model=name, **GREEDY))
        self.assertDone(end)
        return ids


class CutOff(StoreRestart):
    """Changes of the store end with a sentence, and nothing of them stays; a load goes on."""

    def cut(self, begin, program):
        daemon, client = self.begin()
        self.assertDone(self.take(client, self.model(daemon), "here"))
        self.assertDone(self.take(client, TINY, "tiny"))
        expected = self.text(client, "tiny")
        before, room = self.tree(daemon), self.room(daemon)
        big = daemon.folder / "big.gguf"
        shutil.copy(TINY, big)
        os.truncate(big, 1 << 30)
        for how in HOWS:
            with self.subTest(how):
                self.halt(program)
                id = begin(client, big)
                self.wait_halted(daemon, program)
                daemon.restart(how)
                end = client.answer(id)[2]
                self.assertError(end, "BUSY")
                self.assertIn("restarted", end.error.message)
                self.assertGreater(end.error.retry_after_ms, 0)
                self.assertEqual((self.tree(daemon), self.room(daemon)), (before, room))
                self.assertEqual(self.text(client, "tiny"), expected)
        self.assertEqual(sorted(self.models(client)), ["here", "tiny"])
        daemon.store.settle()
        self.assertFalse([n for n in daemon.store.names() if n.startswith("input.")])
        return daemon, client

    def test_import(self):
        daemon, client = self.cut(lambda client, big: self.send(client, big, "big"), "spark-store")
        self.assertDone(self.take(client, self.variant(daemon, 1), "other"))

    def test_verify(self):
        def begin(client, big):
            return client.request(model_verify=pb.ModelVerify(model="here"))
        self.cut(begin, "spark-store")

    def test_pack(self):
        def begin(client, big):
            with open(big.parent / "model.gguf", "rb") as file:
                return client.request([file.fileno()], model_pack=pb.ModelPack(name="packed", input_fd=True, lossless=True,
                                                                              files=[pb.ModelFile(name="model.gguf")]))
        daemon, client = self.cut(begin, "spark-loader")
        self.assertDone(client.answer(begin(client, daemon.folder / "x"))[2])
        self.assertEqual(sorted(self.models(client)), ["here", "packed", "tiny"])

    def test_pack_that_is_hashed(self):
        """The image is there, whole, but it has no name yet."""
        def begin(client, big):
            return client.request(model_pack=pb.ModelPack(name="packed", model="here"))
        self.cut(begin, "spark-store")

    def test_load(self):
        daemon, client = self.begin()
        path = self.model(daemon)
        for how in HOWS:
            with self.subTest(how):
                self.halt("spark-loader")
                with open(path, "rb") as file:
                    id = client.request([file.fileno()], load=pb.Load(model="mine", input_fd=True))
                self.wait_halted(daemon, "spark-loader")
                path.rename(path.with_suffix(".away"))  # the descriptor is what counts
                daemon.restart(how)
                self.assertDone(client.answer(id)[2])
                self.assertEqual(len(self.text(client, "mine")), 12)
                self.assertDone(client.ask(unload=pb.Unload(model="mine")))
                path.with_suffix(".away").rename(path)
                until(lambda: not [n for n in daemon.store.names() if n.startswith(("image.", "input."))], 10, "the store without it")

    def test_load_of_a_client_that_left(self):
        """Nobody waits for it any more when the next process comes: it is not begun again."""
        daemon, client = self.begin()
        self.halt("spark-loader")
        with open(self.model(daemon), "rb") as file:
            client.request([file.fileno()], load=pb.Load(model="mine", input_fd=True))
        self.wait_halted(daemon, "spark-loader")
        daemon.crash()
        client.close()
        daemon.start()
        with daemon.connect() as client:
            until(lambda: not self.models(client), 5, "no model")
        self.assertEqual(daemon.children("spark-loader") + daemon.children(), [])
        until(lambda: not [n for n in daemon.store.names() if n.startswith(("client.", "input.", "image."))], 5, "an empty store")


class Adopted(StoreRestart):
    """A loaded model of the store is found again by its digest."""

    def loaded(self):
        daemon, client = self.begin()
        self.assertDone(self.take(client, TINY, "first"))
        self.assertDone(client.ask(load=pb.Load(model="first")))
        return daemon, client, self.text(client, "first")

    def ready(self, client, name):
        return until(lambda: [m for m in self.models(client).values() if m.name == name and m.state == "ready"], 10,
                     f"{name} to be ready")[0]

    def test_under_another_name(self):
        daemon, client, expected = self.loaded()
        self.assertDone(client.ask(model_alias=pb.ModelAlias(model="first", alias="second")))
        daemon.crash()
        blob = daemon.folder / "store/blobs" / digest_of(TINY)
        (daemon.folder / "store/names/first").unlink()
        data = blob.read_bytes()
        daemon.start()
        self.assertEqual(self.ready(client, "second").digest, digest_of(TINY))
        self.assertEqual(list(self.models(client)), ["second"])
        self.assertEqual(self.text(client, "second"), expected)
        self.assertEqual(self.text(client, "sha256:" + digest_of(TINY)), expected)
        self.assertError(client.ask(model_remove=pb.ModelRemove(model="second")), "BUSY")  # it is loaded
        self.assertDone(client.ask(unload=pb.Unload(model="second")))
        self.assertEqual(blob.read_bytes(), data)
        self.assertEqual(self.text(client, "second"), expected)  # from disk

    def test_manifest_gone(self):
        """What is loaded stays until it is unloaded; then there is nothing to load it from."""
        daemon, client, expected = self.loaded()
        daemon.crash()
        for manifest in (daemon.folder / "store/models").iterdir():
            manifest.unlink()
        daemon.start()
        self.assertEqual(self.ready(client, "first").digest, "")
        self.assertEqual(self.text(client, "first"), expected)
        daemon.restart(signal.SIGKILL)  # and once more, now without a digest
        self.assertEqual(self.text(client, "first"), expected)
        self.assertDone(client.ask(unload=pb.Unload(model="first")))
        self.assertError(client.answer(client.generate(b"Once", model="first", **GREEDY))[2], "MODEL_NOT_FOUND")
        self.assertFalse([n for n in daemon.store.names() if n.startswith("image.")])
        self.assertDone(self.take(client, TINY, "first"))
        self.assertEqual(self.text(client, "first"), expected)

    def test_name_is_another_models(self):
        """The name means something else by now: the image is not taken for that."""
        daemon, client, expected = self.loaded()
        other = self.variant(daemon, 1)
        self.assertDone(self.take(client, other, "other"))
        daemon.crash()
        names = daemon.folder / "store/names"
        (names / "first").rename(names / "second")
        (names / "other").rename(names / "first")
        daemon.start()
        (model,) = [m for m in self.models(client).values() if m.state != "available"]
        self.assertEqual((model.name, model.digest), ("second", digest_of(TINY)))
        self.assertEqual(self.text(client, "second"), expected)
        self.assertDone(client.ask(load=pb.Load(model="first")))
        self.assertEqual({m.name: m.context for m in self.models(client).values()}, {"first": 257, "second": model.context})


if __name__ == "__main__":
    unittest.main()
