# SPDX-License-Identifier: Apache-2.0
"""Models of several files in the store: parts of a split one, and directories. CPU backend."""

import json
import os
import shutil
import subprocess
import unittest

from harness import *
from harness import pb
from test_store import GREEDY, TINY, StoreCase, digest_of

SPLIT = TESTDATA / "models/split"
PARTS = [SPLIT / f"stories260K-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
MODELS = ROOT / "tests/reference/hf-models"
READ = ("config.json", "generation_config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "tokenizer.json")


class LayoutCase(StoreCase):
    def ctl(self, daemon, *arguments, status=0, cwd=None):
        done = subprocess.run([BUILD / "bin/sparkctl", "-S", daemon.socket, *map(str, arguments)], capture_output=True,
                              text=True, check=False, cwd=cwd)
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stderr if status else done.stdout

    def text(self, daemon, name):
        with daemon.connect() as client:
            _, text, end = client.answer(client.generate(b"The quick", model=name, **GREEDY))
            self.assertDone(end)
            self.assertTrue(text)
            return text

    def direct(self, path):
        """What the model says where it is loaded by its path."""
        return self.text(self.store_daemon(models=[{"name": "direct", "path": str(path), "default": True}]), "direct")

    def life(self, daemon, name, stored, expected):
        """Loaded, shown, verified, kept over a restart, removed."""
        digests = sorted({f["sha256"] for f in stored["files"]})
        self.assertEqual(self.blobs(daemon), digests)
        self.assertEqual(os.listdir(daemon.folder / "store/incoming"), [])
        self.ctl(daemon, "load", name)
        self.assertEqual(self.text(daemon, name), expected)
        shown = json.loads(self.ctl(daemon, "models", "show", "sha256:" + stored["digest"][:12], "--json"))
        self.assertEqual((shown["state"], shown["files"], shown["names"]), ("ready", stored["files"], [name]))
        self.assertIn(stored["files"][1]["name"], self.ctl(daemon, "models", "show", name))
        self.ctl(daemon, "models", "verify", name)
        daemon.stop()
        daemon.start()
        self.assertEqual(self.text(daemon, name), expected)
        self.ctl(daemon, "unload", name)
        removed = json.loads(self.ctl(daemon, "models", "rm", name, "--json"))
        self.assertEqual(removed["freed_bytes"], sum({f["sha256"]: f["bytes"] for f in stored["files"]}.values()))
        self.assertEqual(self.blobs(daemon), [])


@unittest.skipUnless(all(p.exists() for p in PARTS), f"{SPLIT} has no split model")
class Split(LayoutCase):
    def test_life(self):
        daemon = self.store_daemon()
        stored = json.loads(self.ctl(daemon, "models", "import", PARTS[0], "--json"))
        self.assertEqual([(f["role"], f["name"], f["sha256"]) for f in stored["files"]],
                         [("model" if i == 0 else "part", p.name, digest_of(p)) for i, p in enumerate(PARTS)])
        self.assertEqual((stored["names"], stored["architecture"]), (["stories260K"], "llama"))
        self.life(daemon, "stories260K", stored, self.direct(PARTS[0]))

    def test_wrong_parts(self):
        daemon = self.store_daemon()
        with daemon.connect() as client:
            for parts, says in (([PARTS[0], PARTS[1]], "split.count"), ([PARTS[0], PARTS[1], PARTS[1]], "split.no"),
                                ([PARTS[0], PARTS[1], TINY], "part 3: 'split.count' is missing")):
                end = self.take(client, parts, "a")
                self.assertError(end, "MODEL_INVALID")
                self.assertIn(says, end.error.message)
            self.assertEqual(self.models(client), {})
        until(lambda: not os.listdir(daemon.folder / "store/incoming"), what="the end of incoming files")
        self.assertEqual(self.blobs(daemon), [])

    def test_damaged_part(self):
        daemon = self.store_daemon()
        self.ctl(daemon, "models", "import", PARTS[0], "--name", "s")
        blob = daemon.folder / "store/blobs" / digest_of(PARTS[2])
        blob.chmod(0o600)
        with open(blob, "r+b") as file:
            file.seek(100)
            file.write(b"damage")
        self.assertIn(PARTS[2].name, self.ctl(daemon, "models", "verify", "s", status=65))
        self.ctl(daemon, "load", "s", status=65)
        healed = json.loads(self.ctl(daemon, "models", "import", PARTS[0], "--name", "s", "--json"))
        self.assertFalse(healed["damaged"])
        self.ctl(daemon, "load", "s")


class Directory(LayoutCase):
    def copy(self, daemon, name, **changes):
        """A copy of the small model, with files that are changed (None: that are not there)."""
        folder = daemon.folder / name
        shutil.copytree(MODELS / "llama", folder)
        for file, content in changes.items():
            (folder / file).unlink(missing_ok=True)
            if content is not None:
                (folder / file).write_bytes(content)
        return folder

    def test_life(self):
        daemon = self.store_daemon()
        expected = self.direct(MODELS / "llama")
        folder = self.copy(daemon, "Tiny-2.5 B")
        stored = json.loads(self.ctl(daemon, "models", "import", ".", "--json", cwd=folder))
        self.assertEqual([(f["role"], f["name"], f["sha256"]) for f in stored["files"]],
                         [("file", name, digest_of(folder / name)) for name in READ])
        self.assertEqual((stored["names"], stored["architecture"]), (["Tiny-2.5-B"], "llama"))
        shutil.rmtree(folder)
        self.assertFalse([fd for fd in os.scandir(f"/proc/{daemon.process.pid}/fd") if str(folder) in os.readlink(fd.path)])
        self.life(daemon, "Tiny-2.5-B", stored, expected)

    def test_experts(self):
        daemon = self.store_daemon()
        self.ctl(daemon, "models", "import", MODELS / "qwen3-moe/", "--name", "moe")
        self.assertEqual(self.text(daemon, "moe"), self.direct(MODELS / "qwen3-moe"))

    def test_order_does_not_matter(self):
        daemon = self.store_daemon()
        paths = [MODELS / "llama" / name for name in READ]
        with daemon.connect() as client:
            one = self.take(client, paths, "one")
            self.assertDone(one)
            two = self.take(client, paths[::-1], "two")
            self.assertDone(two)
            self.assertEqual((two.done.stored.digest, two.done.stored.method), (one.done.stored.digest, "known"))
            self.assertDone(client.ask(load=pb.Load(model="two")))

    def test_shared_files(self):
        daemon = self.store_daemon()
        other = self.copy(daemon, "other", **{"generation_config.json": b'{"eos_token_id": 3}'})
        self.ctl(daemon, "models", "import", MODELS / "llama", "--name", "a")
        self.ctl(daemon, "models", "import", other, "--name", "b")
        self.assertEqual(len(self.blobs(daemon)), len(READ) + 1)
        self.assertEqual(json.loads(self.ctl(daemon, "models", "rm", "b", "--json"))["freed_bytes"],
                         (other / "generation_config.json").stat().st_size)
        self.assertEqual(self.text(daemon, "a"), self.direct(MODELS / "llama"))

    def test_refused(self):
        daemon = self.store_daemon()
        config = json.loads((MODELS / "llama/config.json").read_text())
        odd = json.dumps({**config, "model_type": "nonesuch"}).encode()
        empty = daemon.folder / "empty"
        empty.mkdir()
        cases = ((self.copy(daemon, "odd", **{"config.json": odd}), "nonesuch"),
                 (self.copy(daemon, "lost", **{"model-00002-of-00002.safetensors": None}), "model-*-of-"),
                 (self.copy(daemon, "bare", **{"config.json": None}), "config.json"),
                 (self.copy(daemon, "mute", **{"tokenizer.json": None}), "tokenizer.json"), (empty, "without files"))
        for folder, says in cases:
            with self.subTest(folder.name):
                self.assertIn(says, self.ctl(daemon, "models", "import", folder, status=65))
        until(lambda: not os.listdir(daemon.folder / "store/incoming"), what="the end of incoming files")
        self.assertEqual(self.blobs(daemon), [])

    def test_wrong_names(self):
        daemon = self.store_daemon()
        paths = [MODELS / "llama" / name for name in READ]
        with daemon.connect() as client:
            for names in (READ[:-1] + ("other.json",), READ[:-1] + READ[:1], ("m.gguf",) + READ[1:]):
                files = [pb.ModelFile(name=name) for name in names]
                self.assertError(self.take(client, paths, "a", files=files), "INVALID_ARGUMENT")
            self.assertEqual(self.blobs(daemon), [])

    def test_content_known_by_another_name(self):
        """A single file's digest does not tell its name: what is known stays what it is."""
        daemon = self.store_daemon()
        with daemon.connect() as client:
            self.assertDone(self.take(client, TINY, "a"))
            end = self.take(client, TINY, "b", files=[pb.ModelFile(name="config.json")])
            self.assertDone(end)
            self.assertEqual(end.done.stored.files[0].name, TINY.name)
        daemon.stop()
        daemon.start()
        self.text(daemon, "b")


if __name__ == "__main__":
    unittest.main()
