# SPDX-License-Identifier: Apache-2.0
"""The model store: what comes in by descriptor is kept under its digest, survives, and serves. CPU backend."""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import unittest

from harness import *
from harness import pb

TINY = ROOT / "share/models/spark-tiny.gguf"
GREEDY = dict(sampling=pb.Sampling(temperature=0, max_tokens=12))
ANYBODY = {"import": "all"}


def digest_of(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


class StoreCase(TestCase):
    def store_daemon(self, **settings):
        return self.daemon(**{"backend": "cpu", "threads": 1, "models": [], **settings})

    def variant(self, daemon, number):
        """Another sound model: the bundled one with another context length."""
        return long_model(daemon.folder / f"variant-{number}.gguf", 256 + number)

    def send(self, client, path, name, files=None, **fields):
        paths = [path] if not isinstance(path, list) else path
        fds = [os.open(p, os.O_RDONLY) for p in paths]
        try:
            files = files or [pb.ModelFile(name=pathlib.Path(p).name) for p in paths]
            return client.request(fds, model_import=pb.ModelImport(name=name, files=files, input_fd=True, **fields))
        finally:
            for fd in fds:
                os.close(fd)

    def take(self, client, path, name, **fields):
        return client.answer(self.send(client, path, name, **fields))[2]

    def blobs(self, daemon):
        return sorted(os.listdir(daemon.folder / "store/blobs"))

    def models(self, client):
        return {m.name: m for m in client.ask(models=pb.Models()).done.models.models}


class Store(StoreCase):
    def test_import_and_serve(self):
        daemon = self.store_daemon()
        digest = digest_of(TINY)
        with daemon.connect() as client:
            end = self.take(client, TINY, "tiny:f16")
            self.assertDone(end)
            stored = end.done.stored
            self.assertEqual((stored.digest, list(stored.names)), (digest, ["tiny:f16"]))
            self.assertIn(stored.method, ("copy", "reflink"))
            self.assertEqual([(f.role, f.name, f.size, f.sha256) for f in stored.files],
                             [("model", TINY.name, TINY.stat().st_size, digest)])
            self.assertEqual(stored.architecture, "llama")
            self.assertTrue(stored.format)
            for fact in ("parameters", "context", "vocabulary", "image_bytes", "kv_bytes", "imported"):
                self.assertGreater(getattr(stored, fact), 0, fact)
            self.assertEqual(self.blobs(daemon), [digest])
            blob = daemon.folder / "store/blobs" / digest
            self.assertEqual(blob.read_bytes(), TINY.read_bytes())
            self.assertEqual((blob.stat().st_mode & 0o777, blob.parent.stat().st_mode & 0o777), (0o400, 0o700))
            self.assertEqual(os.listdir(daemon.folder / "store/incoming"), [])
            model = self.models(client)["tiny:f16"]
            self.assertEqual((model.state, model.digest, model.stored_bytes), ("available", digest, TINY.stat().st_size))
            self.assertDone(client.ask(load=pb.Load(model="tiny:f16")))
            texts = {client.answer(client.generate(b"Once", model=name, **GREEDY))[1]
                     for name in ("tiny:f16", "sha256:" + digest, "sha256:" + digest[:6])}
            self.assertEqual(len(texts), 1)
            self.assertEqual(self.models(client)["tiny:f16"].state, "ready")
            self.assertEqual(len(daemon.children()), 1)

    def test_known_content(self):
        daemon = self.store_daemon()
        with daemon.connect() as client:
            self.assertDone(self.take(client, TINY, "a"))
            inode = (daemon.folder / "store/blobs" / digest_of(TINY)).stat().st_ino
            end = self.take(client, TINY, "b")
            self.assertDone(end)
            self.assertEqual((end.done.stored.method, list(end.done.stored.names)), ("known", ["a", "b"]))
            self.assertEqual((daemon.folder / "store/blobs" / digest_of(TINY)).stat().st_ino, inode)
            again = self.take(client, TINY, "b")
            self.assertEqual(list(again.done.stored.names), ["a", "b"])
            self.assertEqual(list(self.models(client)), ["a"])
            self.assertEqual(list(self.models(client)["a"].aliases), ["b"])
            self.assertDone(client.ask(load=pb.Load(model="b")))  # one image for both
            for name in ("a", "b"):
                self.assertDone(client.answer(client.generate(b"Once", model=name, **GREEDY))[2])
            self.assertEqual(len(daemon.children()), 1)

    def test_restart_keeps_it(self):
        daemon = self.store_daemon()
        with daemon.connect() as client:
            self.assertDone(self.take(client, TINY, "a", pin=True))
            self.assertDone(client.ask(model_alias=pb.ModelAlias(model="a", alias="b")))
            before = client.ask(model_show=pb.ModelShow(model="b")).done.stored
            text = client.answer(client.generate(b"Once", model="b", **GREEDY))[1]
        for number in (signal.SIGTERM, signal.SIGKILL):
            daemon.signal(number)
            daemon.process.wait()
            daemon.start()
            with daemon.connect() as client:
                after = client.ask(model_show=pb.ModelShow(model="a")).done.stored
                for field in ("digest", "names", "imported", "pinned", "architecture", "format", "parameters", "files"):
                    self.assertEqual(getattr(after, field), getattr(before, field), field)
                self.assertEqual(client.answer(client.generate(b"Once", model="a", **GREEDY))[1], text)

    def test_names(self):
        daemon = self.store_daemon()
        other = self.variant(daemon, 1)
        with daemon.connect() as client:
            self.assertDone(self.take(client, TINY, "a"))
            for name in ("", ".a", "a/b", "sha256:abcd", "x" * 65, "a b", "\u00e4"):
                self.assertError(self.take(client, TINY, name), "INVALID_ARGUMENT")
            end = self.take(client, other, "a")
            self.assertError(end, "INVALID_ARGUMENT")
            self.assertIn("another model", end.error.message)
            self.assertEqual(len(self.blobs(daemon)), 1)
            self.assertDone(self.take(client, other, "a", replace=True))
            until(lambda: self.blobs(daemon) == [digest_of(other)], what="the older content's end")
            def ask():  # memory follows the disk: a little later
                return client.ask(model_show=pb.ModelShow(model="sha256:" + digest_of(TINY)))
            until(lambda: ask().WhichOneof("body") == "error", what="the older model's end")
            self.assertError(ask(), "MODEL_NOT_FOUND")
            self.assertError(client.ask(model_show=pb.ModelShow(model="sha256:zz")), "INVALID_ARGUMENT")
            self.assertError(client.ask(model_show=pb.ModelShow(model="none")), "MODEL_NOT_FOUND")

    def test_name_of_a_configured_model(self):
        daemon = self.store_daemon(models=[{"name": "mine", "path": str(TINY)}])
        with daemon.connect() as client:
            self.assertError(self.take(client, self.variant(daemon, 1), "mine"), "INVALID_ARGUMENT")
            self.assertEqual(self.blobs(daemon), [])

    def test_remove_and_pin(self):
        daemon = self.store_daemon()
        with daemon.connect() as client:
            self.assertDone(self.take(client, TINY, "a"))
            self.assertDone(client.ask(model_alias=pb.ModelAlias(model="a", alias="b")))
            end = client.ask(model_remove=pb.ModelRemove(model="a"))
            self.assertDone(end)
            self.assertEqual((list(end.done.stored.names), end.done.stored.freed_bytes), (["b"], 0))
            self.assertEqual(list(self.models(client)), ["b"])
            self.assertDone(client.ask(model_pin=pb.ModelPin(model="b", pinned=True)))
            self.assertTrue(self.models(client)["b"].pinned)
            self.assertError(client.ask(model_remove=pb.ModelRemove(model="b")), "INVALID_ARGUMENT")
            self.assertDone(client.ask(model_pin=pb.ModelPin(model="b")))
            self.assertDone(client.ask(load=pb.Load(model="b")))
            end = client.ask(model_remove=pb.ModelRemove(model="b"))
            self.assertError(end, "BUSY")
            self.assertIn("unload", end.error.message)
            self.assertDone(client.ask(unload=pb.Unload(model="b")))
            end = client.ask(model_remove=pb.ModelRemove(model="b"))
            self.assertDone(end)
            self.assertEqual(end.done.stored.freed_bytes, TINY.stat().st_size)
            self.assertEqual((self.models(client), self.blobs(daemon)), ({}, []))
            self.assertError(client.answer(client.generate(b"x", model="b"))[2], "MODEL_NOT_FOUND")

    def test_remove_by_digest(self):
        daemon = self.store_daemon()
        with daemon.connect() as client:
            for name in ("a", "b", "c"):
                self.assertDone(self.take(client, TINY, name))
            self.assertDone(client.ask(model_remove=pb.ModelRemove(model="sha256:" + digest_of(TINY)[:8])))
            self.assertEqual((self.models(client), self.blobs(daemon), os.listdir(daemon.folder / "store/names")),
                             ({}, [], []))

    def test_verify(self):
        daemon = self.store_daemon()
        with daemon.connect() as client:
            self.assertDone(self.take(client, TINY, "a"))
            self.assertDone(client.ask(model_verify=pb.ModelVerify(model="a")))
            blob = daemon.folder / "store/blobs" / digest_of(TINY)
            data = bytearray(blob.read_bytes())
            data[len(data) // 2] ^= 1
            blob.chmod(0o600)
            blob.write_bytes(data)
            end = client.ask(model_verify=pb.ModelVerify(model="a"))
            self.assertError(end, "MODEL_INVALID")
            self.assertIn(TINY.name, end.error.message)
            self.assertEqual((self.blobs(daemon), os.listdir(daemon.folder / "store/quarantine")), ([], [blob.name]))
            self.assertTrue(self.models(client)["a"].damaged)
            self.assertError(client.ask(load=pb.Load(model="a")), "MODEL_INVALID")
            self.assertDone(self.take(client, TINY, "a"))  # heals it
            self.assertDone(client.ask(model_verify=pb.ModelVerify(model="a")))
            self.assertDone(client.ask(load=pb.Load(model="a")))
            self.assertFalse(self.models(client)["a"].damaged)

    def test_damage_found_at_start(self):
        daemon = self.store_daemon()
        with daemon.connect() as client:
            self.assertDone(self.take(client, TINY, "a"))
        daemon.stop()
        blob = daemon.folder / "store/blobs" / digest_of(TINY)
        blob.chmod(0o600)
        os.truncate(blob, 100)
        (daemon.folder / "store/models/rubbish").write_text("x")
        (daemon.folder / "store/names/b").write_text("sparkd-name 1\nmodel 12\n")
        daemon.start()
        with daemon.connect() as client:
            self.assertTrue(self.models(client)["a"].damaged)
            self.assertNotIn("b", self.models(client))
            self.assertDone(self.take(client, TINY, "a"))
            self.assertDone(client.ask(load=pb.Load(model="a")))

    def test_bad_models(self):
        daemon = self.store_daemon()
        data = TINY.read_bytes()
        cases = {"empty": b"", "text": b"hello world" * 100, "cut": data[:5000], "half": data[:len(data) // 2]}
        with daemon.connect() as client:
            fds = daemon.fd_count()
            for name, content in cases.items():
                with self.subTest(name):
                    path = daemon.folder / f"{name}.gguf"
                    path.write_bytes(content)
                    self.assertError(self.take(client, path, name), "INVALID_ARGUMENT" if name == "empty" else "MODEL_INVALID")
            self.assertEqual((self.models(client), self.blobs(daemon)), ({}, []))
            until(lambda: os.listdir(daemon.folder / "store/incoming") == [], what="incoming files' end")
            self.wait_fds(daemon, fds)

    def test_wrong_descriptors(self):
        daemon = self.store_daemon()
        with daemon.connect() as client:
            r, w = os.pipe()
            one = [pb.ModelFile(name="x")]
            end = client.ask([r], model_import=pb.ModelImport(name="a", files=one, input_fd=True))
            self.assertError(end, "INVALID_ARGUMENT")
            os.close(r)
            os.close(w)
            self.assertError(client.ask(model_import=pb.ModelImport(name="a", files=one)), "INVALID_ARGUMENT")
            self.assertError(client.ask(model_import=pb.ModelImport(name="a", input_fd=True)), "INVALID_ARGUMENT")
            for name in ("", "../x", "/x", "a/../b", "a\nb"):
                self.assertError(self.take(client, TINY, "a", files=[pb.ModelFile(name=name)]), "INVALID_ARGUMENT")
            self.assertError(self.take(client, TINY, "a", files=[pb.ModelFile(name="x", role="A B")]), "INVALID_ARGUMENT")

    def test_space(self):
        for store, words in (({"max_bytes": 1000}, "max_bytes"), ({"reserve": "1000T"}, "reserve")):
            with self.subTest(words):
                daemon = self.store_daemon(store=store)
                with daemon.connect() as client:
                    end = self.take(client, TINY, "a")
                    self.assertError(end, "QUOTA_EXCEEDED")
                    self.assertIn(words, end.error.message)
                    self.assertRegex(end.error.message, r"[1-9][0-9.]* [KMGT]?i?B")
                    self.assertEqual(self.blobs(daemon), [])

    def test_switched_off(self):
        daemon = self.store_daemon(store={"enabled": "no"})
        with daemon.connect() as client:
            self.assertError(self.take(client, TINY, "a"), "UNIMPLEMENTED")
            self.assertFalse((daemon.folder / "store").exists())

    def test_same_content_at_once(self):
        daemon = self.store_daemon(store={"imports": 4})
        with daemon.connect() as client:
            ids = [self.send(client, TINY, f"n{i}") for i in range(6)]
            for id in ids:
                self.assertDone(client.answer(id)[2])
            self.assertEqual(self.blobs(daemon), [digest_of(TINY)])
            self.assertEqual(len(client.ask(model_show=pb.ModelShow(model="n0")).done.stored.names), 6)


    def test_remove_cut_short(self):
        """The disk refuses one of several names: what is in memory is what is on disk."""
        daemon = self.store_daemon()
        names = daemon.folder / "store/names"
        with daemon.connect() as client:
            for name in ("a", "b", "c"):
                self.assertDone(self.take(client, TINY, name))
            (names / "b").unlink()
            (names / "b").mkdir()  # which unlink() refuses
            self.assertError(client.ask(model_remove=pb.ModelRemove(model="sha256:" + digest_of(TINY))), "INTERNAL")
            shown = client.ask(model_show=pb.ModelShow(model="sha256:" + digest_of(TINY))).done.stored
            self.assertEqual((list(shown.names), sorted(os.listdir(names))), (["b", "c"], ["b", "c"]))
            self.assertError(client.answer(client.generate(b"x", model="a"))[2], "MODEL_NOT_FOUND")
            self.assertDone(client.answer(client.generate(b"Once", model="c", **GREEDY))[2])
            self.assertDone(client.ask(unload=pb.Unload(model="c")))
            self.assertDone(self.take(client, TINY, "a"))
            (names / "b").rmdir()
            self.assertDone(client.ask(model_remove=pb.ModelRemove(model="sha256:" + digest_of(TINY))))
            self.assertEqual((self.models(client), self.blobs(daemon), os.listdir(names)), ({}, [], []))


class Reload(StoreCase):
    """The configuration gets a name that the store has."""

    def reload(self, daemon, models):
        before = daemon.log().count("configuration reloaded")
        daemon.configure(backend="cpu", threads=1, models=models)
        daemon.signal(signal.SIGHUP)
        until(lambda: daemon.log().count("configuration reloaded") > before, what="a reload")

    def start(self):
        daemon = self.store_daemon()
        configured = self.variant(daemon, 1)
        with daemon.connect() as client:
            self.assertDone(self.take(client, TINY, "a"))
            self.assertDone(client.ask(model_alias=pb.ModelAlias(model="a", alias="b")))
        return daemon, [{"name": "a", "path": str(configured)}]

    def context_of(self, client, name):
        self.assertDone(client.ask(load=pb.Load(model=name)))
        return {m.name: m.context for m in client.ask(models=pb.Models()).done.models.models}[name]

    def test_idle(self):
        daemon, models = self.start()
        with daemon.connect() as client:
            self.reload(daemon, models)
            self.assertEqual({n: m.digest for n, m in self.models(client).items()}, {"a": "", "b": digest_of(TINY)})
            self.assertEqual(self.context_of(client, "a"), 257)
            self.assertNotEqual(self.context_of(client, "b"), 257)
            self.reload(daemon, [])
            self.assertDone(client.ask(unload=pb.Unload(model="a")))
            until(lambda: self.models(client).get("a") is None, what="the end of the model that was configured")
            self.assertDone(client.answer(client.generate(b"Once", model="a", **GREEDY))[2])  # the store's again
            self.assertEqual(client.ask(model_show=pb.ModelShow(model="a")).done.stored.digest, digest_of(TINY))

    def test_loaded(self):
        daemon, models = self.start()
        with daemon.connect() as client:
            self.assertDone(client.ask(load=pb.Load(model="a")))
            self.reload(daemon, models)
            self.assertIn("is there when the store's of that name is unloaded", daemon.log())
            self.assertEqual({n: m.digest for n, m in self.models(client).items()}, {"a": digest_of(TINY)})
            self.assertDone(client.answer(client.generate(b"Once", model="a", **GREEDY))[2])
            self.assertDone(client.ask(unload=pb.Unload(model="a")))
            until(lambda: {n: m.digest for n, m in self.models(client).items()} == {"a": "", "b": digest_of(TINY)},
                  what="the configured model")
            self.assertEqual(self.context_of(client, "a"), 257)

    def test_only_name(self):
        daemon, models = self.start()
        with daemon.connect() as client:
            self.assertDone(client.ask(model_remove=pb.ModelRemove(model="b")))
            self.reload(daemon, models)
            self.assertEqual(sorted(self.models(client)), ["a", "sha256:" + digest_of(TINY)[:16]])
            self.assertEqual(self.context_of(client, "a"), 257)
            self.assertDone(client.answer(client.generate(b"Once", model="sha256:" + digest_of(TINY), **GREEDY))[2])


class Interrupted(StoreCase):
    """A file that takes a while, and something happens meanwhile. Sparse, so that it costs nothing but time."""

    def big(self, daemon, size=3 << 30):
        path = daemon.folder / "big.gguf"
        path.write_bytes(TINY.read_bytes())
        os.truncate(path, size)
        return path

    def wait_incoming(self, daemon):
        return until(lambda: daemon.children("spark-store") and os.listdir(daemon.folder / "store/incoming"),
                     what="an import that runs")

    def test_client_gone(self):
        daemon = self.store_daemon()
        fds = daemon.fd_count()
        client = daemon.connect()
        self.send(client, self.big(daemon), "big")
        self.wait_incoming(daemon)
        client.close()
        until(lambda: not daemon.children("spark-store") and not os.listdir(daemon.folder / "store/incoming"),
              what="the import's end")
        self.wait_fds(daemon, fds)
        with daemon.connect() as client:
            self.assertEqual((self.models(client), self.blobs(daemon)), ({}, []))
            self.assertDone(self.take(client, TINY, "a"))

    def test_cancel_and_worker_killed(self):
        daemon = self.store_daemon()
        path = self.big(daemon)
        with daemon.connect() as client:
            id = self.send(client, path, "big")
            self.wait_incoming(daemon)
            client.cancel(id)
            self.assertError(client.answer(id)[2], "CANCELLED")
            until(lambda: not daemon.children("spark-store"), what="the worker's end")
            id = self.send(client, path, "big")
            self.wait_incoming(daemon)
            os.kill(daemon.children("spark-store")[0], signal.SIGKILL)
            self.assertError(client.answer(id)[2], "INTERNAL")
            until(lambda: not os.listdir(daemon.folder / "store/incoming"), what="the end of incoming files")

    def test_daemon_killed(self):
        daemon = self.store_daemon()
        with daemon.connect() as client:
            self.assertDone(self.take(client, TINY, "a"))
            self.send(client, self.big(daemon), "big")
            self.wait_incoming(daemon)
            daemon.signal(signal.SIGKILL)
            daemon.process.wait()
        self.assertEqual(len(os.listdir(daemon.folder / "store/incoming")), 1)
        daemon.start()
        self.assertEqual(os.listdir(daemon.folder / "store/incoming"), [])
        self.assertEqual(self.blobs(daemon), [digest_of(TINY)])
        with daemon.connect() as client:
            self.assertEqual(list(self.models(client)), ["a"])
            self.assertDone(client.ask(model_verify=pb.ModelVerify(model="a")))

    def test_stop_meanwhile(self):
        daemon = self.store_daemon(limits={"stop_seconds": 0})
        with daemon.connect() as client:
            id = self.send(client, self.big(daemon), "big")
            self.wait_incoming(daemon)
            daemon.process.terminate()
            self.assertError(client.answer(id)[2], "STOPPING")
        self.assertEqual(daemon.stop(), 0)
        self.assertEqual(os.listdir(daemon.folder / "store/incoming"), [])

    def test_changed_meanwhile(self):
        daemon = self.store_daemon()
        path = self.big(daemon)
        with daemon.connect() as client:
            id = self.send(client, path, "big")
            while client.receive_of(id).progress.done == 0:  # what it looks like is noted before the first byte is read
                pass
            with open(path, "r+b") as file:
                file.seek(1 << 20)
                file.write(b"changed")
            end = client.answer(id)[2]
            self.assertError(end, "INVALID_ARGUMENT")
            self.assertIn("changed", end.error.message)

    def test_progress(self):
        daemon = self.store_daemon()
        with daemon.connect() as client:
            id = self.send(client, self.big(daemon), "big")
            frame = client.receive_of(id)
            self.assertEqual((frame.progress.stage, frame.progress.total), ("import", 3 << 30))
            client.cancel(id)


class Command(StoreCase):
    """sparkctl models."""

    def ctl(self, daemon, *arguments):
        done = subprocess.run([BUILD / "bin/sparkctl", "-S", daemon.socket, *arguments], capture_output=True, text=True,
                              check=False)
        return done.returncode, done.stdout, done.stderr

    def test_verbs(self):
        daemon = self.store_daemon()
        status, out, _ = self.ctl(daemon, "models", "import", str(TINY), "--json")
        self.assertEqual(status, 0)
        stored = json.loads(out)
        self.assertEqual((stored["digest"], stored["names"]), (digest_of(TINY), ["spark-tiny"]))
        self.assertEqual(self.ctl(daemon, "models", "alias", "spark-tiny", "t:1")[0], 0)
        self.assertEqual(self.ctl(daemon, "models", "pin", "t:1")[0], 0)
        for list_verb in (["models"], ["models", "ls"]):
            models = json.loads(self.ctl(daemon, *list_verb, "--json")[1])["models"]
            self.assertEqual([(m["name"], m["aliases"], m["pinned"]) for m in models], [("spark-tiny", ["t:1"], True)])
        shown = json.loads(self.ctl(daemon, "models", "show", "t:1", "--json")[1])
        self.assertEqual((shown["digest"], shown["names"], shown["files"][0]["sha256"]),
                         (stored["digest"], ["spark-tiny", "t:1"], stored["digest"]))
        self.assertIn("sha256:" + stored["digest"], self.ctl(daemon, "models", "show", "t:1")[1])
        self.assertEqual(self.ctl(daemon, "models", "rm", "t:1", "spark-tiny")[0], 64)
        self.assertEqual(self.ctl(daemon, "models", "pin", "--remove", "spark-tiny")[0], 0)
        self.assertEqual(self.ctl(daemon, "models", "verify", "spark-tiny")[0], 0)
        status, out, _ = self.ctl(daemon, "generate", "-m", "sha256:" + stored["digest"][:10], "-n", "4", "Once")
        self.assertEqual(status, 0)
        self.assertEqual(self.ctl(daemon, "models", "rm", "spark-tiny")[0], 75)
        self.assertEqual(self.ctl(daemon, "unload", "spark-tiny")[0], 0)
        self.assertEqual(json.loads(self.ctl(daemon, "models", "rm", "spark-tiny", "--json")[1])["freed_bytes"],
                         TINY.stat().st_size)
        self.assertIn("No models", self.ctl(daemon, "models")[1])

    def test_faults(self):
        daemon = self.store_daemon()
        self.assertEqual(self.ctl(daemon, "models", "import", str(ROOT / "Makefile"))[0], 65)
        self.assertEqual(self.ctl(daemon, "models", "import", "/nonesuch")[0], 65)
        self.assertEqual(self.ctl(daemon, "models", "show", "x")[0], 1)
        self.assertEqual(self.ctl(daemon, "models", "bla")[0], 64)
        self.assertEqual(self.ctl(daemon, "models", "rm")[0], 64)

    def test_help_with_arguments(self):
        """Help is asked for among arguments: nothing is done with them."""
        daemon = self.store_daemon()
        verbs = [("models", v) for v in ("ls", "show", "import", "verify", "rm", "pin", "alias")]
        verbs += [("session", v) for v in ("create", "append", "fork", "rewind", "close", "list")]
        for verb in verbs:
            for arguments in (("--help", "x"), ("x", "y", "--help"), ("--json", "--help", "x", "y")):
                with self.subTest(verb=verb, arguments=arguments):
                    status, out, err = self.ctl(daemon, *verb, *arguments)
                    self.assertEqual((status, err), (0, ""))
                    self.assertTrue(out.startswith("Usage: sparkctl " + " ".join(verb)))
                    self.assertNotIn("{}", out)

    def test_missing_part(self):
        daemon = self.store_daemon()
        first = daemon.folder / "m-00001-of-00002.gguf"
        first.write_bytes(TINY.read_bytes())
        status, _, err = self.ctl(daemon, "models", "import", str(first))
        self.assertEqual(status, 65)
        self.assertIn("m-00002-of-00002.gguf", err)


@unittest.skipIf(os.geteuid() != 0, "becomes other users, which takes root")
class Users(StoreCase):
    def test_who_may(self):
        daemon = self.store_daemon()
        with daemon.connect(uid=4001) as client:
            self.assertError(self.take(client, TINY, "a"), "PERMISSION_DENIED")
        daemon = self.store_daemon(store={"import": "none"}, users=[{"uid": 4001, "import": "yes"}])
        with daemon.connect(uid=4001) as one, daemon.connect() as root:
            self.assertDone(self.take(one, TINY, "a"))
            self.assertError(self.take(root, TINY, "b"), "PERMISSION_DENIED")

    def test_two_users(self):
        daemon = self.store_daemon(store=ANYBODY)
        with daemon.connect(uid=4001) as one, daemon.connect(uid=4002) as two, daemon.connect() as root:
            self.assertDone(self.take(one, TINY, "a"))
            end = self.take(two, TINY, "b")
            self.assertDone(end)
            self.assertEqual((end.done.stored.uid, end.done.stored.method), (4001, "known"))
            self.assertError(two.ask(model_remove=pb.ModelRemove(model="a")), "PERMISSION_DENIED")
            self.assertError(two.ask(model_remove=pb.ModelRemove(model="sha256:" + digest_of(TINY))), "PERMISSION_DENIED")
            self.assertError(self.take(two, self.variant(daemon, 1), "a", replace=True), "PERMISSION_DENIED")
            self.assertDone(one.ask(model_pin=pb.ModelPin(model="a", pinned=True)))
            self.assertError(two.ask(model_pin=pb.ModelPin(model="a")), "PERMISSION_DENIED")
            self.assertDone(one.ask(model_remove=pb.ModelRemove(model="a")))  # two has a name for it still
            self.assertEqual(list(self.models(root)), ["b"])
            self.assertDone(two.answer(two.generate(b"Once", model="b", **GREEDY))[2])
            self.assertEqual(self.blobs(daemon), [digest_of(TINY)])

    def test_quota(self):
        size = TINY.stat().st_size
        daemon = self.store_daemon(store={**ANYBODY, "bytes_per_user": size + 100})
        other = self.variant(daemon, 1)
        with daemon.connect(uid=4001) as one, daemon.connect(uid=4002) as two:
            self.assertDone(self.take(one, TINY, "a"))
            self.assertDone(self.take(one, TINY, "a2"))  # a second name costs nothing
            end = self.take(one, other, "b")
            self.assertError(end, "QUOTA_EXCEEDED")
            self.assertIn("your user has", end.error.message)
            self.assertDone(self.take(two, other, "b"))
            self.assertError(one.ask(model_alias=pb.ModelAlias(model="b", alias="c")), "QUOTA_EXCEEDED")
            for name in ("a", "a2"):
                self.assertDone(one.ask(model_remove=pb.ModelRemove(model=name)))
            self.assertDone(one.ask(model_alias=pb.ModelAlias(model="b", alias="c")))
        daemon.stop()
        daemon.start()
        with daemon.connect(uid=4001) as one:
            self.assertError(self.take(one, TINY, "d"), "QUOTA_EXCEEDED")

    def test_private_files(self):
        """The daemon stores what the client could open, not what it could open itself; and nobody else can read it."""
        daemon = self.store_daemon(store=ANYBODY)
        with daemon.connect(uid=4001) as one:
            self.assertDone(self.take(one, TINY, "a"))
        pid = os.fork()
        if pid == 0:
            os.setuid(4002)
            try:
                os.listdir(daemon.folder / "store/blobs")
            except PermissionError:
                os._exit(0)
            os._exit(1)
        self.assertEqual(os.waitpid(pid, 0)[1], 0)


if __name__ == "__main__":
    unittest.main()
