# SPDX-License-Identifier: Apache-2.0
"""Streams of the installed service that something is done to, and what they have to say: what they say undisturbed."""

import contextlib
import pathlib
import sys
import threading
import time

import inside
from inside import SERVICE, show, systemctl, until

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "integration"))
from harness import Client, Closed, pb  # noqa: E402

SOCKET_PATH = "/run/sparkd/sparkd.sock"
CONFIG = pathlib.Path("/etc/sparkd/sparkd.conf")
PATIENCE_S = 120  # an engine that is killed all the time hardly gets anything done


def meminfo(name):
    lines = pathlib.Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name + ":"))


def status():
    with Client(SOCKET_PATH) as client:
        return client.ask(status=pb.Status()).done.status


def ready(model):
    with contextlib.suppress(OSError, Closed), Client(SOCKET_PATH) as client:
        models = client.ask(models=pb.Models()).done.models.models
        return any(m.name == model and m.state == "ready" for m in models)
    return False


class Stream(threading.Thread):
    """One request, alone on a connection, read as it comes: (when, token ids)."""

    def __init__(self, client, number, model, tokens):
        super().__init__(daemon=True)
        self.client, self.number, self.model, self.tokens = client, number, model, tokens
        self.came, self.end, self.wrong = [], None, None

    def run(self):
        try:
            self.ask()
        except Exception as error:  # whatever it is, the test is to say it
            self.wrong = f"stream {self.number}: {error!r} after {len(self.ids)} tokens"

    def ask(self):
        id = self.client.generate(prompt=b"%d: Once upon a time" % self.number, model=self.model,
                                  sampling=pb.Sampling(max_tokens=self.tokens, seed=self.number + 1, temperature=1, ignore_eos=True))
        while self.end is None:
            frame = self.client.receive_of(id)
            kind = frame.WhichOneof("body")
            if kind == "token":
                if frame.token.index != len(self.ids):
                    raise AssertionError(f"token {frame.token.index} came where {len(self.ids)} was due")
                self.came.append((time.monotonic(), list(frame.token.ids)))
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

    def streams(self):
        """Streams that have begun."""
        streams = [Stream(self.connect(), number, self.model, self.TOKENS) for number in range(self.STREAMS)]
        for stream in streams:
            stream.start()
        self.assertTrue(until(lambda: all(len(s.ids) >= 4 or s.wrong for s in streams), timeout=60),
                        [(len(s.ids), s.wrong) for s in streams])
        return streams

    def assertRight(self, streams):
        for stream in streams:
            stream.join(PATIENCE_S)
            self.assertIsNone(stream.wrong, self.journal("-n", "40"))
            self.assertIsNotNone(stream.end, f"stream {stream.number} hangs after {len(stream.ids)} tokens")
            self.assertEqual(stream.end.WhichOneof("body"), "done", stream.end)
            self.assertEqual(stream.ids, self.right[self.model][stream.number], f"stream {stream.number}")
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
