#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Models stay resident while the service is started again, however it ended: told to, killed, or over and over."""

import os
import shutil
import signal
import struct
import unittest

from fdstore_harness import *
from harness import *
from harness import pb

MODEL = ROOT / "share/models/spark-tiny.gguf"
VERSION_AT, COMMITTED_AT = 8, 24  # of the head of the log


def loaded(daemon):
    with daemon.connect() as client:
        return {m.name: m for m in client.ask(models=pb.Models()).done.models.models}


def text_of(daemon, model=""):
    with daemon.connect() as client:
        id = client.generate(prompt=b"Once upon a time", model=model, sampling=pb.Sampling(temperature=0, max_tokens=20))
        ids, _, end = client.answer(id, topup=True)
        assert end.WhichOneof("body") == "done", end
        return ids


class Restart(KeptTestCase):
    def with_model(self, **options):
        """A daemon with a model whose file can be removed."""
        daemon = KeptDaemon(start=False, backend="cpu", **options)
        self.addCleanup(self._end_kept, daemon)
        self.path = daemon.folder / "model.gguf"
        shutil.copy(MODEL, self.path)
        self.settings = {"backend": "cpu", "models": [{"name": "tiny", "path": str(self.path), "default": True}]}
        daemon.configure(**self.settings)
        daemon.start()
        return daemon

    def test_model_stays(self):
        daemon = self.with_model()
        expected = text_of(daemon)
        os.unlink(self.path)
        for number, status in ((signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 0)):
            before = loaded(daemon)["tiny"]
            self.assertEqual(daemon.restart(number), status)
            after = loaded(daemon)["tiny"]
            self.assertEqual(after.state, "ready")
            for field in ("image_bytes", "kv_bytes", "architecture", "parameters", "context"):
                self.assertEqual(getattr(after, field), getattr(before, field), field)
            self.assertEqual(text_of(daemon), expected)
        self.assertEqual(daemon.log().count("model 'tiny': its image of"), 3)
        self.assertEqual([n for n in daemon.store.names() if n.startswith("image.")],
                         [f"image.1.{i}" for i in range(len([n for n in daemon.store.names() if n.startswith("image.")]))])

    def test_engine_dies_afterwards(self):
        daemon = self.with_model()
        os.unlink(self.path)
        daemon.restart()
        engine = daemon.wait_engine()
        os.kill(engine, signal.SIGKILL)
        daemon.wait_engine(other_than=[engine])
        self.assertEqual(len(text_of(daemon)), 20)
        daemon.restart(signal.SIGKILL)
        self.assertEqual(len(text_of(daemon)), 20)

    def test_engine_has_its_own_only(self):
        """Nothing of what is kept is an engine's to see but the image."""
        daemon = self.with_model()
        with daemon.connect() as client:
            self.assertDone(client.ask(session_create=pb.SessionCreate()))
            daemon.restart(signal.SIGKILL)
            pid = daemon.wait_engine()
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        self.assertFalse([link for link in links if "sparkd-state" in link or link.startswith(("pipe:", str(daemon.folder)))
                          and link != str(daemon.log_path)], links)
        self.assertEqual(len([link for link in links if link.startswith("socket:")]), 1, links)

    def test_unloaded_is_gone(self):
        daemon = self.with_model()
        with daemon.connect() as client:
            self.assertDone(client.ask(unload=pb.Unload(model="tiny")))
        until(lambda: not any(n.startswith("image.") for n in daemon.store.names()), 5, "an image taken back")
        os.unlink(self.path)
        daemon.restart()
        self.assertNotEqual(loaded(daemon)["tiny"].state, "ready")
        shutil.copy(MODEL, self.path)
        with daemon.connect() as client:
            self.assertDone(client.ask(load=pb.Load(model="tiny")))
        os.unlink(self.path)
        daemon.restart(signal.SIGKILL)
        self.assertEqual(loaded(daemon)["tiny"].state, "ready")

    def test_other_models_stay(self):
        """What was loaded besides, and what the configuration has no more."""
        daemon = self.with_model()
        other = daemon.folder / "other.gguf"
        shutil.copy(MODEL, other)
        with daemon.connect() as client:
            self.assertDone(client.ask(load=pb.Load(model="other", path=str(other))))
        os.unlink(other)
        os.unlink(self.path)
        daemon.configure(backend="cpu", models=[])
        daemon.restart()
        self.assertEqual({n: m.state for n, m in loaded(daemon).items()}, {"tiny": "ready", "other": "ready"})
        self.assertEqual(text_of(daemon, "tiny"), text_of(daemon, "other"))
        with daemon.connect() as client:
            self.assertDone(client.ask(unload=pb.Unload(model="tiny")))
            self.assertDone(client.ask(unload=pb.Unload(model="other")))
        daemon.restart()
        self.assertEqual(loaded(daemon), {})

    def test_null_backend(self):
        daemon = self.kept()
        daemon.wait_engine()
        daemon.restart()
        self.assertServes(daemon)
        self.assertIn("took over", daemon.log())

    def test_backend_changes(self):
        daemon = self.with_model()
        daemon.configure(backend="null")
        daemon.restart()
        self.assertServes(daemon)
        self.assertIn("the backend is another one", daemon.log())
        self.assertFalse(any(n.startswith("image.1.") for n in daemon.store.names()))

    def test_sessions_stay(self):
        """Those without files, too, as long as their connection: what they come to is what they come to without restarts."""
        def life(daemon, between):
            with daemon.connect() as client:
                id = client.ask(session_create=pb.SessionCreate(persistent=False)).done.session.id
                ids = []
                for prompt in (b"Once upon a time", b" and then", b" but"):
                    request = client.request(generate=pb.Generate(prompt=prompt, session=id, sampling=pb.Sampling(
                        temperature=0, max_tokens=12, ignore_eos=True)))
                    got, _, end = client.answer(request, topup=True)
                    self.assertDone(end)
                    ids.append(got)
                    between()
                fork = client.ask(session_fork=pb.SessionFork(session=id)).done.session
                self.assertEqual(fork.tokens, end.done.session.tokens)
                between()
                self.assertDone(client.ask(session_rewind=pb.SessionRewind(session=id, tokens=10)))
                between()
                listed = sorted(s.tokens for s in client.ask(sessions=pb.Sessions()).done.sessions.sessions)
            return ids, listed

        daemon = self.with_model()
        expected = life(daemon, lambda: None)
        self.assertEqual(expected[1][0], 10)
        os.unlink(self.path)
        self.assertEqual(life(daemon, lambda: daemon.restart(signal.SIGKILL)), expected)
        self.assertEqual(life(daemon, daemon.restart), expected)
        with daemon.connect() as client:  # they went with their connection
            until(lambda: not client.ask(sessions=pb.Sessions()).done.sessions.sessions, 5, "the end of the sessions")

    def test_session_of_a_client_that_left(self):
        """Nobody is there any more when the service comes back."""
        daemon = self.with_model()
        client = daemon.connect()
        self.assertDone(client.ask(session_create=pb.SessionCreate(persistent=False)))
        daemon.crash()
        client.close()
        daemon.start()
        with daemon.connect() as client:
            until(lambda: not client.ask(sessions=pb.Sessions()).done.sessions.sessions, 5, "the end of the session")

    # ---- what can't be read ----

    def spoil(self, daemon, offset, data):
        with open(f"/proc/self/fd/{daemon.store.fd_of('sparkd-state.')}", "r+b", buffering=0) as file:
            file.seek(offset)
            file.write(data)

    def assertCold(self, daemon, why):
        daemon.start()
        self.assertIn("is not taken over: " + why, daemon.log())
        self.assertEqual(loaded(daemon)["tiny"].state, "ready")  # loaded anew
        self.assertEqual(len(text_of(daemon)), 20)
        daemon.store.settle()
        self.assertEqual(len([n for n in daemon.store.names() if n.startswith("sparkd-state.")]), 1)
        until(lambda: all(n.startswith(("sparkd-", "image.1.")) for n in daemon.store.names()), 5, "a store without clients")

    def test_damaged_state(self):
        daemon = self.with_model()
        daemon.crash()
        self.spoil(daemon, 4096 + 20, b"\xff\xff")
        self.assertCold(daemon, "it is damaged")
        os.unlink(self.path)
        daemon.restart(signal.SIGKILL)  # and from here on all is well
        self.assertEqual(loaded(daemon)["tiny"].state, "ready")

    def test_other_version(self):
        daemon = self.with_model()
        daemon.crash()
        self.spoil(daemon, VERSION_AT, struct.pack("<I", 4711))
        self.assertCold(daemon, "it is of another version")

    def test_lost_log(self):
        daemon = self.with_model()
        daemon.crash()
        daemon.store.remove("sparkd-state.")
        self.assertCold(daemon, "there is no log of it")

    def test_segment_missing(self):
        daemon = self.with_model()
        daemon.crash()
        daemon.store.remove("image.1.0")
        daemon.start()
        self.assertIn("model 'tiny' is not taken over: a segment is missing", daemon.log())
        self.assertEqual(len(text_of(daemon)), 20)

    def test_segment_exchanged(self):
        """A segment that anybody could write to is none."""
        daemon = self.with_model()
        daemon.crash()
        fd = daemon.store.fd_of("image.1.0")
        size = os.fstat(fd).st_size
        copy = os.memfd_create("copy", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(copy, size)
        daemon.store.remove("image.1.0")
        daemon.store.add("image.1.0", copy)
        os.close(copy)
        daemon.start()
        self.assertIn("model 'tiny' is not taken over: a segment is not sealed", daemon.log())
        self.assertEqual(len(text_of(daemon)), 20)

    # ---- ends ----

    def test_stop_and_restart(self):
        """systemd says which of both it is."""
        for job, kept in (("restart", True), ("try-restart", True), ("stop", False), (None, False)):
            with self.subTest(job=job):
                daemon = self.kept(env=self.systemd(job=job).env)
                daemon.wait_engine()
                daemon.process.terminate()
                self.assertEqual(daemon.process.wait(20 * SLOW), 0)
                daemon.store.settle()
                self.assertEqual(bool(daemon.store.names()), kept, daemon.store.names())
                daemon.start()
                self.assertEqual("took over" in daemon.log(), kept)

    def test_interrupt_is_a_stop(self):
        daemon = self.kept()
        daemon.wait_engine()
        daemon.signal(signal.SIGINT)
        self.assertEqual(daemon.process.wait(20 * SLOW), 0)
        daemon.store.settle()
        self.assertEqual(daemon.store.names(), [])

    def test_store_is_asked_about(self):
        """systemd 252 says nothing in the environment."""
        for maximum, kept in ((100, True), (0, False)):
            with self.subTest(maximum=maximum):
                env = {**self.systemd(store_max=maximum, job="restart").env, "FDSTORE": ""}
                daemon = self.kept(env=env)
                daemon.wait_engine()
                daemon.store.settle()
                self.assertEqual(bool(daemon.store.names()), kept)
                daemon.restart()
                self.assertEqual("took over" in daemon.log(), kept)

    def test_full_store(self):
        """An image that finds no room there is loaded again."""
        daemon = self.with_model(store_max=4)
        daemon.restart(signal.SIGKILL)
        self.assertIn("its store is full", daemon.log())
        self.assertEqual(len(text_of(daemon)), 20)
        until(lambda: len(daemon.store.names()) == 3, 5, "a store with what found room")  # a client may just be going

    def test_killed_again_and_again(self):
        daemon = self.with_model()
        expected = text_of(daemon)
        os.unlink(self.path)
        for i in range(25):
            daemon.restart(signal.SIGKILL, wait=i % 3 == 0)
        daemon.wait_ready()
        self.assertEqual(text_of(daemon), expected)
        daemon.store.settle()
        self.assertEqual(len([n for n in daemon.store.names() if n.startswith("sparkd-state.")]), 1)
        self.assertNotIn("is not taken over", daemon.log())


if __name__ == "__main__":
    unittest.main()
