# SPDX-License-Identifier: Apache-2.0
"""Streams of the installed service that something is done to, and what they have to say: what they say undisturbed."""

import contextlib
import os
import pathlib
import re
import sys
import threading
import time

import inside
from inside import SERVICE, main_pid, show, systemctl, until

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "integration"))
from harness import Client, Closed, pb  # noqa: E402
from memory_group import Group  # noqa: E402

SOCKET_PATH = "/run/sparkd/sparkd.sock"
CONFIG = pathlib.Path("/etc/sparkd/sparkd.conf")
FIRST_S = 1       # promised where the machine has time: a first token after READY
LOST_BYTES = 8 << 20  # the log, which grows by half of that before it is written anew, and the journal
PATIENCE_S = 120  # an engine that is killed all the time hardly gets anything done


def meminfo(name):
    lines = pathlib.Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name + ":"))


def free_bytes():
    """What anybody could take; pages in the processors' lists are free, and are not counted as that (docs/memory.md)."""
    text = pathlib.Path("/proc/zoneinfo").read_text(encoding="ascii")
    return meminfo("MemAvailable") + 4096 * sum(map(int, re.findall(r"^\s+count:\s+(\d+)", text, re.M)))


def configure(models, **limits):
    lines = "".join(f"{key} = {value}; " for key, value in limits.items())
    CONFIG.write_text(f'models = ( {models} );\nmemory = {{ floor = "512M"; }};\nlimits = {{ {lines} }};\n', encoding="ascii")


def handed_over():
    """Names of what the store had for the process that runs."""
    words = pathlib.Path(f"/proc/{main_pid()}/environ").read_text(encoding="ascii").split("\0")
    return next((word for word in words if word.startswith("LISTEN_FDNAMES=")), "")


class SystemBus:
    address = "unix:path=/run/dbus/system_bus_socket"


class Machine(Group):
    """The control group that everything in the container is in: the machine, as far as memory goes."""

    @classmethod
    def found(cls):
        path = pathlib.Path("/sys/fs/cgroup")
        if (path / "memory.current").exists():
            return cls(path)
        path = pathlib.Path("/run/sparkd-test-memory")  # version 1 is not mounted here
        path.mkdir(exist_ok=True)
        return None if inside.run("mount", "-t", "cgroup", "-o", "memory", "none", str(path)).returncode else cls(path)

    def add(self, pid):
        pass

    def limit(self, n):
        (self.path / ("memory.max" if self.v2 else "memory.limit_in_bytes")).write_text(str(n), encoding="ascii")

    def used(self):
        return self.number("memory.current" if self.v2 else "memory.usage_in_bytes")

    def shared(self):
        """Shared memory, images among it."""
        stat = dict(line.split() for line in (self.path / "memory.stat").read_text(encoding="ascii").splitlines())
        return int(stat["shmem" if self.v2 else "total_shmem"])


def status():
    with Client(SOCKET_PATH) as client:
        return client.ask(status=pb.Status()).done.status


def ready(model):
    with contextlib.suppress(OSError, Closed), Client(SOCKET_PATH) as client:
        models = client.ask(models=pb.Models()).done.models.models
        return any(m.name == model and m.state == "ready" for m in models)
    return False


def patience(seconds):
    """What is promised of a machine that has time, on one that has as little as this one has now."""
    return seconds * max(1, os.getloadavg()[0] / os.cpu_count())


def monotonic(name):
    """A time of the unit's, in seconds."""
    return int(show(name)) / 1e6


class Stream(threading.Thread):
    """One request, alone on a connection, read as it comes: (when, token ids). pace: asks for a token so many seconds after the last
    one, until that is set to 0."""

    def __init__(self, client, number, model, tokens, pace=0.0, more=b""):
        super().__init__(daemon=True)
        self.prompt = b"%d: Once upon a time" % number + more
        self.client, self.number, self.model, self.tokens = client, number, model, tokens
        self.pace = pace
        self.came, self.end, self.wrong = [], None, None

    def run(self):
        try:
            self.ask()
        except Exception as error:  # whatever it is, the test is to say it
            self.wrong = f"stream {self.number}: {error!r} after {len(self.ids)} tokens"

    def ask(self):
        id = self.client.generate(prompt=self.prompt, model=self.model, credit=1 if self.pace else self.tokens,
                                  sampling=pb.Sampling(max_tokens=self.tokens, seed=self.number + 1, temperature=1, ignore_eos=True))
        paced = self.pace > 0
        while self.end is None:
            frame = self.client.receive_of(id)
            kind = frame.WhichOneof("body")
            if kind == "token":
                if frame.token.index != len(self.ids):
                    raise AssertionError(f"token {frame.token.index} came where {len(self.ids)} was due")
                self.came.append((time.monotonic(), list(frame.token.ids)))
                if paced:
                    time.sleep(self.pace)
                    paced = self.pace > 0
                    self.client.credit(id, len(frame.token.ids) if paced else self.tokens)
            elif kind in ("done", "error"):
                self.end = frame

    @property
    def ids(self):
        return [id for _, ids in self.came for id in ids]


class StreamSteps(inside.Steps):
    STREAMS, TOKENS = 20, 96
    right = {}  # what the streams say undisturbed, by model
    model = ""  # that they ask

    def start(self, model):
        systemctl("stop", SERVICE)
        systemctl("reset-failed", SERVICE)
        self.assertRuns(systemctl("start", SERVICE))
        self.assertTrue(until(lambda: ready(model), timeout=120), self.journal("-n", "30"))
        type(self).model = model

    def connect(self):
        client = Client(SOCKET_PATH)
        client.sock.settimeout(PATIENCE_S)
        self.addCleanup(client.close)
        return client

    def streams(self, pace=0.0, more=b""):
        """Streams that have begun."""
        streams = [Stream(self.connect(), number, self.model, self.TOKENS, pace, more) for number in range(self.STREAMS)]
        for stream in streams:
            stream.start()
        self.assertTrue(until(lambda: all(len(s.ids) >= 4 or s.wrong for s in streams), timeout=60),
                        [(len(s.ids), s.wrong) for s in streams])
        return streams

    def assertRight(self, streams, right=None):
        right = right or self.right[self.model]
        for stream in streams:
            stream.join(PATIENCE_S)
            self.assertIsNone(stream.wrong, self.journal("-n", "40"))
            self.assertIsNotNone(stream.end, f"stream {stream.number} hangs after {len(stream.ids)} tokens")
            self.assertEqual(stream.end.WhichOneof("body"), "done", stream.end)
            self.assertEqual(stream.ids, right[stream.number], f"stream {stream.number}")
            self.assertEqual(stream.end.done.usage.completion_tokens, len(stream.ids))
            stream.client.close()

    def undisturbed(self):
        streams = self.streams()
        for stream in streams:
            stream.join(PATIENCE_S)
            stream.client.close()
            self.assertIsNone(stream.wrong)
        self.right[self.model] = {stream.number: stream.ids for stream in streams}
        self.assertEqual({len(ids) for ids in self.right[self.model].values()}, {self.TOKENS})

    def assertGoesOn(self, streams, what):
        """Over a restart: tokens came before and after it, and soon after it."""
        started, active = monotonic("ExecMainStartTimestampMonotonic"), monotonic("ActiveEnterTimestampMonotonic")
        ended = max(when for s in streams for when, _ in s.came if when < started)
        first = min(when for s in streams for when, _ in s.came if when > started)
        self.note(f"{what}: READY {active - started:.2f} s after the new process began, the first token {first - active:.2f} s after "
                  f"READY; no token for {first - ended:.2f} s")
        self.assertLess(first - active, patience(FIRST_S))


class HeldSteps(StreamSteps):
    """With what the service holds, which must not grow."""
    machine = None

    def find_machine(self):
        type(self).machine = Machine.found()

    def held(self):
        """Descriptors in the store and of control, memory that is shared."""
        return (*inside.descriptors(), self.shared())

    def used(self):
        """What others can't take, of the container or of the machine."""
        return self.machine.used() if self.machine else -free_bytes()

    def shared(self):
        """Of the container, or of the machine where the container has no figure of its own."""
        return self.machine.shared() if self.machine else meminfo("Shmem")

    def assertAsBefore(self, before, what):
        began = time.monotonic()
        after = self.held()

        def is_so():
            nonlocal after
            after = self.held()
            return after[:2] == before[:2] and after[2] - before[2] < LOST_BYTES
        self.assertTrue(until(is_so), (before, after, handed_over()))
        self.note(f"{what}: descriptors in the store, of control, and shared memory: {before}, afterwards {after}, "
                  f"{time.monotonic() - began:.1f} s after clients had gone")
