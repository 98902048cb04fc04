# SPDX-License-Identifier: Apache-2.0
"""Starts private daemons and speaks the protocol by hand.

Every test has a folder and a daemon of its own, so that any number of tests can run side by side. The build folder
comes from SPARK_BUILD (run.py sets it); protobuf's Python modules are made below it.
"""

import array
import collections
import contextlib
import fcntl
import functools
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("SPARK_BUILD", ROOT / "build")).resolve()
TESTDATA = pathlib.Path(os.environ.get("SPARK_TESTDATA", ROOT / "../shared/testdata")).resolve()


def _is_sanitized(program):
    return program.exists() and b"__asan_init" in program.read_bytes()


# Sanitizers and emulators are slow; what a test waits for is multiplied by this.
SLOW = float(os.environ.get("SPARK_TEST_SLOW", "5" if _is_sanitized(BUILD / "bin" / "sparkd") else "1"))
FRAME_MAX = 4 << 20
PATIENCE_S = 60 * SLOW  # for a frame; one of a hundred streams on a slow machine may have to wait


def make_modules():
    """Generates spark_pb2 and sampling_pb2 where they are missing or older than proto/."""
    folder = BUILD / "gen" / "python"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sources = sorted((ROOT / "proto").glob("*.proto"))
        newest = max(source.stat().st_mtime for source in sources)
        made = folder / "spark_pb2.py"
        if not made.exists() or made.stat().st_mtime < newest:
            subprocess.run(["protoc", f"-I{ROOT / 'proto'}", f"--python_out={folder}"] + [str(s) for s in sources],
                           check=True)
    sys.path.insert(0, str(folder))


make_modules()
import sampling_pb2  # noqa: E402  (made just now)
import spark_pb2 as pb  # noqa: E402

pb.Sampling, pb.LogitBias = sampling_pb2.Sampling, sampling_pb2.LogitBias  # one namespace, as in the package

__all__ = ["pb", "varint", "BUILD", "ROOT", "TESTDATA", "SLOW", "FRAME_MAX", "Daemon", "Client", "Closed", "TestCase",
           "error_name", "long_model", "fill_disk", "memfd", "until", "within_a_day"]


def varint(value):
    out = bytearray()
    while value > 0x7f:
        out.append(value & 0x7f | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def error_name(error):
    return pb.ErrorCode.Name(error.code)


def until(condition, timeout=10.0, what="condition"):
    """Waits for a condition to hold and returns its value; polls, since it is about other processes."""
    end = time.monotonic() + timeout * SLOW
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come about in {timeout * SLOW:.0f} s")
        time.sleep(0.01)


DAY_S = 86400


def within_a_day(test):
    """For a test that counts by the day (UTC): one that might not end before midnight begins after it, when daemons have seen it."""
    @functools.wraps(test)
    def begin(*args):
        left = DAY_S - time.time() % DAY_S
        if left < 40 * SLOW:
            time.sleep(left + 2)
        return test(*args)
    return begin


def memfd(data, sealed=True):
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(data)
    if sealed:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return fd


def long_model(path, context):
    """Writes the bundled model with another context length: beyond what it was trained for it babbles, but it computes."""
    data = bytearray((ROOT / "share/models/spark-tiny.gguf").read_bytes())
    key = b"llama.context_length" + struct.pack("<I", 4)  # GGUF's type for a u32
    at = data.index(key) + len(key)
    data[at:at + 4] = struct.pack("<I", context)
    path.write_bytes(data)
    return str(path)


def fill_disk(folder):
    """Writes a file there until there is no room. Gives it."""
    path = pathlib.Path(folder) / "full"
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return path


class Closed(Exception):
    """The daemon closed the connection."""


class Client:
    """One connection. Frames that nobody waited for yet are kept per request."""

    def __init__(self, path, hello=True, features=()):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(str(path))
        except OSError:
            sock.close()
            raise
        self._begin(sock, hello, features)

    @classmethod
    def of_fd(cls, fd, hello=True):
        """A connection that was handed over."""
        client = cls.__new__(cls)
        client._begin(socket.socket(fileno=fd), hello, ())
        return client

    def _begin(self, sock, hello, features):
        self.sock = sock
        self.sock.settimeout(PATIENCE_S)
        self.received = bytearray()
        self.waiting = collections.defaultdict(collections.deque)
        self.next_id = 1
        self.hello = None
        if hello:
            self.send(pb.ClientFrame(hello=pb.Hello(protocol_version=1, software="test", features=features)))
            self.hello = self.receive().hello

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def send_raw(self, data, fds=()):
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sent = self.sock.sendmsg([data], ancillary)
        if sent < len(data):
            self.sock.sendall(data[sent:])

    def send(self, frame, fds=()):
        data = frame.SerializeToString()
        self.send_raw(struct.pack("<I", len(data)) + data, fds)

    def request(self, fds=(), id=None, **body):
        """Sends a request and returns its id: client.request(generate=pb.Generate(...))"""
        if id is None:
            id, self.next_id = self.next_id, self.next_id + 1
        self.send(pb.ClientFrame(id=id, **body), fds)
        return id

    def cancel(self, id):
        self.send(pb.ClientFrame(id=id, cancel=pb.Cancel()))

    def credit(self, id, tokens):
        self.send(pb.ClientFrame(id=id, credit=pb.Credit(tokens=tokens)))

    def _fill(self, size):
        while len(self.received) < size:
            try:
                data = self.sock.recv(1 << 16)
            except ConnectionResetError as error:
                raise Closed from error
            if not data:
                raise Closed
            self.received += data

    def receive(self):
        """The next frame, whatever it is."""
        self._fill(4)
        size, = struct.unpack_from("<I", self.received)
        self._fill(4 + size)
        frame = pb.ServerFrame.FromString(bytes(self.received[4:4 + size]))
        del self.received[:4 + size]
        return frame

    def receive_of(self, id):
        """The next frame of this request."""
        while not self.waiting[id]:
            frame = self.receive()
            self.waiting[frame.id].append(frame)
        return self.waiting[id].popleft()

    def nothing_comes(self, seconds):
        """True when no frame comes for so long."""
        self.sock.settimeout(seconds)
        try:
            frame = self.receive()
            self.waiting[frame.id].append(frame)
            return False
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(PATIENCE_S)

    def answer(self, id, topup=False, seen=0):
        """The rest of a request up to its end: (tokens, text, terminal frame). topup: grants credit as tokens come;
        seen: so many tokens were received before."""
        ids, text = [], b""
        while True:
            frame = self.receive_of(id)
            kind = frame.WhichOneof("body")
            if kind == "token":
                if frame.token.index != seen + len(ids):
                    raise AssertionError(f"token {frame.token.index} came where {seen + len(ids)} was due")
                ids += frame.token.ids
                text += frame.token.text
                if topup:
                    self.credit(id, len(frame.token.ids))
            elif kind in ("done", "error"):
                return ids, text, frame

    def ask(self, fds=(), **body):
        """Asks and gives the terminal frame."""
        return self.answer(self.request(fds, **body))[2]

    def tokens(self, id, count):
        """Tokens of a request until there are at least so many."""
        ids = []
        while len(ids) < count:
            frame = self.receive_of(id)
            if frame.WhichOneof("body") == "token":
                ids += frame.token.ids
            elif frame.WhichOneof("body") != "progress":
                raise AssertionError(f"after {len(ids)} tokens: {frame}")
        return ids

    def generate(self, prompt=b"Once", n=16, seed=1, **fields):
        sampling = fields.pop("sampling", None) or pb.Sampling(max_tokens=n, seed=seed)
        return self.request(generate=pb.Generate(prompt=prompt, sampling=sampling, **fields))

    def expect_closed(self):
        """Reads to the end of the connection and gives what came before it."""
        frames = []
        try:
            while True:
                frames.append(self.receive())
        except Closed:
            return frames


def _quote(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value}L"
    if isinstance(value, dict):
        return "{ " + " ".join(f"{k} = {_quote(v)};" for k, v in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "( " + ", ".join(map(_quote, value)) + " )"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


class Daemon:
    """A private sparkd. Settings are the configuration's: Daemon(limits={"connections": 3}, backend="null")"""

    def __init__(self, start=True, env=None, program=BUILD / "bin" / "sparkd", **settings):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sparkd-"))
        self.socket = self.folder / "s"
        self.config = self.folder / "sparkd.conf"
        self.log_path = self.folder / "log"
        self.process = None
        self.env = env
        self.program = program
        self.configure(**settings)
        if start:
            self.start()

    def configure(self, **settings):
        settings = {"socket": str(self.socket), "state_dir": str(self.folder), "bus": "none", "backend": "null",
                    "log_level": "debug", **settings}
        memory = settings.get("memory", {})
        if "floor" not in memory:  # a test that is not about that does not depend on how short of memory the machine is
            settings["memory"] = {"floor": "64M", "pressure": "no", **memory}
        self.state_dir = settings["state_dir"]
        self.config.write_text("".join(f"{k} = {_quote(v)};\n" for k, v in settings.items()), encoding="utf-8")

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen([self.program, "--config", self.config],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env={**os.environ, **(self.env or {})})
        until(self._answers, 20, "an answer of the daemon")

    def _answers(self):
        if self.process.poll() is not None:
            raise AssertionError(f"sparkd ended with {self.process.returncode}:\n{self.log()}")
        try:
            Client(self.socket).close()
            return True
        except (FileNotFoundError, ConnectionRefusedError):
            return False

    def connect(self, uid=None, **options):
        """A client; as another user (which takes root): its identity is what it has when it connects."""
        if uid is None:
            return Client(self.socket, **options)
        self.folder.chmod(0o755)
        os.seteuid(uid)
        try:
            return Client(self.socket, **options)
        finally:
            os.seteuid(0)

    def log(self):
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    @property
    def pid(self):
        return self.process.pid

    def children(self, name="spark-engine"):
        """Pids of living children of this name."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError, ValueError):
                stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
                comm, rest = stat[stat.index("(") + 1:stat.rindex(")")], stat[stat.rindex(")") + 2:].split()
                if int(rest[1]) == self.pid and comm == name[:15] and rest[0] != "Z":
                    found.append(int(entry.name))
        return found

    def freeze(self, name):
        """Stops the child of this name: what it works at does not end before it goes on (SIGCONT) or is killed. Gives its pid."""
        pid = until(lambda: self.children(name), what=f"a {name} at work")[0]
        os.kill(pid, signal.SIGSTOP)
        return pid

    def wait_engine(self, other_than=()):
        """The pid of an engine that is ready."""
        def ready():
            with self.connect() as client:
                models = client.ask(models=pb.Models()).done.models.models
            if any(m.state == "ready" for m in models):
                return [pid for pid in self.children() if pid not in other_than]
            return None
        return until(ready, 20, "a ready engine")[0]

    def fd_count(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self):
        """Bytes of anonymous memory that control has touched."""
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no RssAnon")

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self, timeout=20):
        """Ends it in order and returns its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(timeout * SLOW)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"sparkd did not end:\n{self.log()}") from None

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)


class TestCase(unittest.TestCase):
    """Gives tests daemons that end with them, in order and without a complaint in the log."""

    def daemon(self, **settings):
        daemon = Daemon(start=False, **settings)
        self.addCleanup(self._end, daemon)
        daemon.start()
        return daemon

    def make_model(self, path, *arguments):
        """A model of random weights; arguments of tests/reference/make-gguf.py."""
        made = subprocess.run([sys.executable, ROOT / "tests/reference/make-gguf.py", *arguments, path],
                              stderr=subprocess.PIPE, text=True)
        if made.returncode and "numpy" in made.stderr:
            self.skipTest("no numpy")
        self.assertEqual(made.returncode, 0, made.stderr)

    def small_disk(self, options="size=2m"):
        """A tmpfs of its own, for a state directory that is soon full."""
        folder = pathlib.Path(tempfile.mkdtemp(prefix="sparkd-disk-"))
        self.addCleanup(folder.rmdir)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "sparkd-test", folder], stderr=subprocess.DEVNULL).returncode:
            self.skipTest("no file system can be mounted here")
        self.addCleanup(subprocess.run, ["umount", "-l", folder], check=True)
        return folder

    def _end(self, daemon):
        status = daemon.stop() if daemon.process else 0
        log = daemon.log() if daemon.log_path.exists() else ""
        daemon.remove()
        self.assertEqual(status, 0, log)
        self.assertNotIn("Sanitizer", log)
        self.assertNotIn("leaves a charge", log)

    def assertError(self, frame, code):
        self.assertEqual(frame.WhichOneof("body"), "error", frame)
        self.assertEqual(error_name(frame.error), code, frame)
        self.assertTrue(frame.error.message, "an error without a sentence")

    def assertDone(self, frame):
        self.assertEqual(frame.WhichOneof("body"), "done", frame)

    def assertServes(self, daemon):
        """A stranger is served as if nothing had happened."""
        with daemon.connect() as client:
            ids, _, end = client.answer(client.generate(n=4))
            self.assertDone(end)
            self.assertEqual(len(ids), 4)

    def wait_fds(self, daemon, count):
        until(lambda: daemon.fd_count() <= count, 10, f"at most {count} descriptors (now {daemon.fd_count()})")
