# SPDX-License-Identifier: Apache-2.0
"""Coded and packed models, end to end: the same tokens as plain ones, and what plans and the store say of them."""

import contextlib
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
from test_store import StoreCase

STORIES = TESTDATA / "models/stories260K-bf16.gguf"
RANDOM = TESTDATA / "models/rand-llama-bf16.gguf"
GREEDY = dict(sampling=pb.Sampling(temperature=0, max_tokens=24))
GIB = 1 << 30


class Plans(StoreCase):
    def plan(self, client, **fields):
        end = client.ask(load=pb.Load(dry_run=True, **fields))
        self.assertDone(end)
        return end.done.load

    def test_llama_70b(self):
        """What it was all made for: 70B in 16 bits, on 121.7 GiB, with 32k tokens of KV and 10 GB to spare."""
        machine = int(121.7 * GIB)
        with self.store_daemon(memory={"floor": machine // 20}).connect() as client:
            coded = self.plan(client, shape="llama-70b", format="bf16", lossless=True, memory=machine, context=32768)
            self.assertTrue(coded.fits)
            self.assertTrue(coded.weights.estimated)
            self.assertEqual((coded.format, coded.memory_bytes, coded.available_bytes), ("BF16_LL", machine, machine))
            self.assertLessEqual(coded.image_bytes, 99 * 10**9)
            self.assertGreaterEqual(coded.left_bytes, 10 * 10**9)
            self.assertEqual(coded.kv_tokens, 32768)
            self.assertEqual(coded.floor_bytes, machine // 20)
            self.assertEqual(coded.left_bytes, machine - coded.floor_bytes - coded.image_bytes - coded.kv_bytes -
                             coded.engine_bytes)
            self.assertLessEqual(coded.weights.bytes * 8 / coded.weights.parameters, 11.4)
            self.assertEqual(coded.parameters, coded.weights.parameters)
            plain = client.ask(load=pb.Load(dry_run=True, shape="llama-70b", format="bf16", memory=machine, context=32768))
            self.assertError(plain, "NO_MEMORY")
            self.assertGreater(plain.error.load.image_bytes, 140 * 10**9)

    def test_fields(self):
        with self.store_daemon().connect() as client:
            for fields in (dict(shape="llama-1b", format="q4_k", lossless=True), dict(shape="llama-1b", format="bf16", memory=1),
                           dict(shape="llama-1b", format="bf16", memory=1 << 60)):
                self.assertError(client.ask(load=pb.Load(dry_run=True, **fields)), "INVALID_ARGUMENT")
            self.assertError(client.ask(load=pb.Load(model="x", memory=GIB)), "INVALID_ARGUMENT")

    def test_command_line(self):
        daemon = self.store_daemon()
        def run(*arguments):
            return subprocess.run([BUILD / "bin/sparkctl", "-S", daemon.socket, *arguments], capture_output=True, text=True,
                                  timeout=60)
        shape = ("load", "--dry-run", "--shape", "llama-70b", "--format", "bf16", "--lossless", "--context", "32768")
        done = run(*shape, "--memory", "121.7G", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        said = json.loads(done.stdout)
        self.assertEqual((said["memory_bytes"], said["estimated"], said["lossless"]), (int(121.7 * GIB), True, True))
        self.assertGreaterEqual(said["left_bytes"], 10 * 10**9)
        self.assertAlmostEqual(sum(k["share"] for k in said["kinds"]), 1, places=6)
        for nonsense in ("0", "-1", "12.3.4G", "G", "1.5", "1X", "1GB", "99999999T", ""):
            self.assertEqual(run(*shape, "--memory", nonsense).returncode, 64, nonsense)
        self.assertEqual(run("load", "--memory", "1G", "x").returncode, 64)
        self.assertEqual(run("pack", "x").returncode, 64)


@unittest.skipUnless(STORIES.exists(), f"{STORIES} is not there")
class Coded(StoreCase):
    def tokens(self, client, model):
        ids, text, end = client.answer(client.generate(b"Once upon a time", model=model, **GREEDY))
        self.assertDone(end)
        return ids, text

    def pack(self, client, name, source=None, **fields):
        if source is None:
            return client.ask(model_pack=pb.ModelPack(name=name, **fields))
        fd = os.open(source, os.O_RDONLY)
        try:
            files = [pb.ModelFile(name=pathlib.Path(source).name)]
            return client.answer(client.request([fd], model_pack=pb.ModelPack(name=name, files=files, input_fd=True,
                                                                             **fields)))[2]
        finally:
            os.close(fd)

    def test_load_coded(self):
        daemon = self.store_daemon(models=[{"name": "mine", "path": str(STORIES), "lossless": True}])
        with daemon.connect() as client:
            end = client.ask(load=pb.Load(path=str(STORIES), model="plain"))
            self.assertDone(end)
            self.assertEqual(end.done.load.weights.coded_parameters, 0)
            refused = client.ask(load=pb.Load(model="plain", lossless=True))
            self.assertError(refused, "BUSY")
            self.assertIn("unload", refused.error.message)
            end = client.ask(load=pb.Load(model="mine"))  # coded as it is configured
            self.assertDone(end)
            self.assertGreater(end.done.load.weights.coded_parameters, 0)
            self.assertDone(client.ask(load=pb.Load(model="mine", lossless=True)))
            self.assertEqual(self.tokens(client, "mine"), self.tokens(client, "plain"))
            models = self.models(client)
            self.assertEqual([(models[n].lossless, models[n].packed) for n in ("mine", "plain")], [(True, False), (False, False)])
            self.assertLess(models["mine"].bits_per_weight, models["plain"].bits_per_weight)
            self.assertLess(models["mine"].image_bytes, models["plain"].image_bytes)
            planned = client.ask(load=pb.Load(path=str(STORIES), model="other", dry_run=True, lossless=True)).done.load
            self.assertEqual(planned.image_bytes, models["mine"].image_bytes)  # exact, behind a survey
            self.assertFalse(planned.weights.estimated)

    def test_pack_and_restart(self):
        daemon = self.store_daemon()
        with daemon.connect() as client:
            self.assertDone(client.ask(load=pb.Load(path=str(STORIES), model="plain")))
            expected = self.tokens(client, "plain")
            end = self.pack(client, "coded", STORIES, lossless=True)
            self.assertDone(end)
            stored = end.done.stored
            self.assertEqual((stored.method, list(stored.names), stored.weights.packed), ("pack", ["coded"], True))
            self.assertGreater(stored.weights.coded_parameters, 0)
            self.assertEqual(sum(k.bytes for k in stored.weights.kinds), stored.weights.bytes)
            self.assertEqual(self.blobs(daemon), [stored.digest])
            self.assertEqual(os.listdir(daemon.folder / "store/incoming"), [])
            blob = daemon.folder / "store/blobs" / stored.digest
            self.assertEqual((blob.stat().st_mode & 0o777, blob.stat().st_size), (0o400, stored.bytes))
            self.assertDone(client.ask(model_verify=pb.ModelVerify(model="coded")))
            self.assertEqual(self.tokens(client, "coded"), expected)
            self.assertDone(self.pack(client, "again", model="plain"))  # of a model that the service knows
            self.assertEqual(self.tokens(client, "again"), expected)
            end = self.pack(client, "coded", model="plain")
            self.assertError(end, "INVALID_ARGUMENT")
            self.assertIn("another model", end.error.message)
            self.assertError(self.pack(client, "twice", model="again"), "MODEL_INVALID")
        daemon.stop()
        daemon.start()
        with daemon.connect() as client:
            models = self.models(client)
            self.assertEqual((models["coded"].lossless, models["coded"].packed), (True, True))
            self.assertEqual((models["again"].lossless, models["again"].packed), (False, True))
            self.assertEqual(self.tokens(client, "coded"), expected)
            self.assertDone(self.pack(client, "again", STORIES, lossless=True, replace=True, pin=True))
            until(lambda: len(self.blobs(daemon)) == 1, what="the end of what was replaced")

    def test_damage(self):
        daemon = self.store_daemon()
        with daemon.connect() as client:
            digest = self.pack(client, "coded", RANDOM, lossless=True).done.stored.digest
            blob = daemon.folder / "store/blobs" / digest
            data = bytearray(blob.read_bytes())
            data[len(data) * 3 // 4] ^= 0x10
            blob.chmod(0o600)
            blob.write_bytes(data)
            end = client.ask(load=pb.Load(model="coded"))
            self.assertError(end, "MODEL_INVALID")
            self.assertRegex(end.error.message, "blk|weight|tensor")
            self.assertError(client.ask(model_verify=pb.ModelVerify(model="coded")), "MODEL_INVALID")
            self.assertTrue(self.models(client)["coded"].damaged)
            self.assertDone(self.pack(client, "coded", RANDOM, lossless=True))
            self.assertDone(client.ask(model_verify=pb.ModelVerify(model="coded")))

    def test_no_room(self):
        for limit, key in ((65536, "max_bytes"), (1 << 50, "reserve")):
            daemon = self.store_daemon(store={key: limit})
            with daemon.connect() as client:
                end = self.pack(client, "coded", RANDOM, lossless=True)
                self.assertError(end, "QUOTA_EXCEEDED")
                self.assertIn("store." + key, end.error.message)
                until(lambda: os.listdir(daemon.folder / "store/incoming") == [], what="no file that is left")
                self.assertEqual(self.models(client), {})

    def coarse_disk(self, kib):
        """A file system that can't reserve room for a file (ext2)."""
        folder = pathlib.Path(tempfile.mkdtemp(prefix="sparkd-disk-"))
        self.addCleanup(shutil.rmtree, folder)
        image, disk = folder / "image", folder / "disk"
        disk.mkdir()
        image.touch()
        os.truncate(image, kib << 10)
        env = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
        for command in (["mkfs.ext2", "-q", "-b", "1024", "-m", "0", image], ["mount", "-o", "loop", image, disk]):
            try:
                made = subprocess.run(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
            except FileNotFoundError:
                made = False
            if not made:
                self.skipTest(f"no file system here: {command[0]}")
        self.addCleanup(subprocess.run, ["umount", "-l", disk], check=True)
        return disk

    def hold_writing(self, daemon, store):
        """Stops the loader when it has got its file, and has not come far with it; None where it was too quick."""
        end, pids = time.monotonic() + 2 * SLOW, []
        while not pids and time.monotonic() < end:
            pids = daemon.children("spark-loader")
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            while pids:
                os.kill(pids[0], 0)  # it is there
                for path in (store / "incoming").iterdir():
                    if path.stat().st_size == 0:
                        continue
                    os.kill(pids[0], signal.SIGSTOP)
                    found = path.stat()
                    if found.st_blocks * 512 < found.st_size // 2:
                        return pids[0]
                    os.kill(pids[0], signal.SIGCONT)
                    return None
        return None

    @unittest.skipIf(SLOW > 1, "a sanitizer catches the signal that tells of it")
    def test_disk_full_on_the_way(self):
        """Somebody else takes the room that could not be reserved."""
        disk = self.coarse_disk(32 << 10)
        daemon = self.store_daemon(state_dir=str(disk), store={"reserve": 0})
        store, model = disk / "store", daemon.folder / "m.gguf"
        self.make_model(model, "--shape", "tiny", "--vocab", "30000", "--format", "bf16", "--untied")
        with daemon.connect() as client, open(model, "rb") as file:
            def begin():
                return client.request([file.fileno()], model_pack=pb.ModelPack(name="coded", input_fd=True, lossless=True,
                                                                              files=[pb.ModelFile(name="m.gguf")]))

            def begin_and_hold():
                for _ in range(20):
                    id = begin()
                    loader = self.hold_writing(daemon, store)
                    if loader:
                        return id, loader
                    self.assertDone(client.answer(id)[2])
                    self.assertDone(client.ask(model_remove=pb.ModelRemove(model="coded")))
                self.fail("no loader can be held while it writes")
            for _ in range(2):
                id, loader = begin_and_hold()
                fill_disk(disk)
                os.kill(loader, signal.SIGCONT)
                end = client.answer(id)[2]
                self.assertError(end, "QUOTA_EXCEEDED")
                self.assertIn("no room left where the store is", end.error.message)
                until(lambda: not os.listdir(store / "incoming"), what="no file that is left")
                self.assertEqual((os.listdir(store / "blobs"), self.models(client)), ([], {}))
                (disk / "full").unlink()
            self.assertDone(client.answer(begin())[2])
            self.assertDone(client.ask(model_verify=pb.ModelVerify(model="coded")))

    def test_cancel(self):
        daemon = self.store_daemon()
        large = daemon.folder / "large.gguf"
        self.make_model(large, "--shape", "llama-1b", "--format", "bf16", "--sparse")
        fds = daemon.fd_count()
        with daemon.connect() as client:
            fd = os.open(large, os.O_RDONLY)
            id = client.request([fd], model_pack=pb.ModelPack(name="x", files=[pb.ModelFile(name="large.gguf")], input_fd=True))
            os.close(fd)
            until(lambda: os.listdir(daemon.folder / "store/incoming") != [], what="a file under way")
            client.cancel(id)
            self.assertError(client.answer(id)[2], "CANCELLED")
            until(lambda: os.listdir(daemon.folder / "store/incoming") == [], what="no file that is left")
            self.assertEqual(self.blobs(daemon), [])
            until(lambda: daemon.children("spark-loader") == [], what="the loader's end")
        self.wait_fds(daemon, fds)


class CommandLine(StoreCase):
    """Split models and directories, as sparkctl finds their files."""

    def ctl(self, daemon, *arguments):
        done = subprocess.run([BUILD / "bin/sparkctl", "-S", daemon.socket, *map(str, arguments)], capture_output=True, text=True,
                              errors="replace", timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def packed(self, path, parts):
        """Packs it coded and as it is: what it says, and that both answer as the model itself does."""
        daemon = self.store_daemon()
        said = json.loads(self.ctl(daemon, "--json", "pack", "--lossless", "--name", "coded", path))
        self.assertEqual((said["method"], [f["name"] for f in said["files"]]), ("pack", ["coded.packed"]))
        self.assertIn("packed into the store as", self.ctl(daemon, "pack", "--name", "plain", path))
        self.ctl(daemon, "models", "import", "--name", "mine", path)
        shown = json.loads(self.ctl(daemon, "--json", "models", "show", "mine"))
        self.assertEqual(len(shown["files"]), parts)
        answers = {self.ctl(daemon, "generate", "-m", name, "--raw", "-n", "12", "-t", "0", "Once") for name in ("coded", "plain", "mine")}
        self.assertEqual(len(answers), 1)
        self.assertTrue(answers.pop().strip())
        return said

    @unittest.skipUnless((TESTDATA / "models/split").exists(), "no split model is there")
    def test_split(self):
        self.packed(next((TESTDATA / "models/split").glob("*-00001-of-*.gguf")), 3)

    def test_directory(self):
        self.packed(f"{ROOT}/tests/reference/hf-models/llama", 5)

    def test_part_missing(self):
        daemon = self.store_daemon()
        folder = pathlib.Path(shutil.copytree(ROOT / "tests/reference/hf-models/llama", daemon.folder / "m"))
        (folder / "model-00002-of-00002.safetensors").unlink()
        done = subprocess.run([BUILD / "bin/sparkctl", "-S", daemon.socket, "pack", "--name", "x", folder], capture_output=True,
                              text=True, timeout=60)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("the directory has 1 of 2 files model-*-of-00002.safetensors", done.stderr)
        self.assertEqual((self.blobs(daemon), os.listdir(daemon.folder / "store/incoming")), ([], []))


if __name__ == "__main__":
    unittest.main()
