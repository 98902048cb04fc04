# SPDX-License-Identifier: Apache-2.0
"""A service manager, as far as sparkd needs one: it hands over a listening socket and what an earlier process put into its file
descriptor store, takes what is pushed there, and starts the service again however it ended. What ends with the service
(its engines) is gone before the next one starts, as under systemd.

Whether a SIGTERM means a restart or a stop sparkd asks org.freedesktop.systemd1: SystemdMock is one on a private bus. Without
it the system bus is unreachable, and every SIGTERM is a restart.
"""

import array
import contextlib
import fcntl
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from bus_harness import Bus
from harness import *
from harness import pb

__all__ = ["FdStore", "KeptDaemon", "KeptTestCase", "SystemdMock"]

FIRST = 500  # descriptors that are to be handed over are out of the way there


def _hung_up(fd):
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))


class FdStore:
    """What is pushed, until it is taken back or its other side hangs up."""

    def __init__(self, path, maximum=512):
        self.maximum = maximum
        self.path = path
        self.lock = threading.Lock()
        self.reading = threading.Lock()
        self.held = []  # (name, fd), oldest first
        self.messages = []  # text of each one that came
        self.ready = threading.Event()
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(path))
        self.epoll = select.epoll()
        self.epoll.register(self.sock, select.EPOLLIN)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self.sock.close()
        self.thread.join(5)
        with self.lock:
            for _, fd in self.held:
                os.close(fd)
            self.held = []

    def _serve(self):
        while self.sock.fileno() >= 0:
            for fd, events in self.epoll.poll(0.2):
                if fd != self.sock.fileno():
                    self._drop(lambda held, gone=fd: held[1] == gone and _hung_up(gone))  # no other one under its number
                elif events & select.EPOLLIN and not self._receive():
                    return

    def _receive(self):
        with self.reading:
            try:
                data, ancillary, _, _ = self.sock.recvmsg(8192, 4096, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
            except OSError:
                return False
            fds = array.array("i")
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds.frombytes(payload[:len(payload) - len(payload) % fds.itemsize])
            if not data:
                return False
            self._take(data.decode(), list(fds))
        return True

    def _take(self, text, fds):
        fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        name = fields.get("FDNAME", "stored")
        self.messages.append(text)
        if fields.get("FDSTOREREMOVE") == "1":
            self._drop(lambda held: held[0] == name)
        elif fields.get("FDSTORE") == "1":
            self._add(name, fds)
            fds = []
        if fields.get("READY") == "1":
            self.ready.set()
        for fd in fds:
            os.close(fd)

    def _add(self, name, fds):
        with self.lock:
            for fd in fds:
                if len(self.held) >= self.maximum:
                    os.close(fd)
                    continue
                high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST)
                os.close(fd)
                self.held.append((name, high))
                with contextlib.suppress(PermissionError):  # a memfd: nothing happens to it
                    self.epoll.register(high, 0)

    def _drop(self, which):
        with self.lock:
            for held in [h for h in self.held if which(h)]:
                self.held.remove(held)
                with contextlib.suppress(OSError):
                    self.epoll.unregister(held[1])
                os.close(held[1])

    @contextlib.contextmanager
    def paused(self):
        """Reads nothing meanwhile: whoever sends more than the socket's queue has room for waits. Gives that room, in messages."""
        with self.reading:
            with open("/proc/sys/net/unix/max_dgram_qlen", encoding="ascii") as file:
                yield int(file.read()) + 1

    def wait_full(self):
        """While it is paused: until whoever sends has to wait."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            probe.connect(str(self.path))
            until(lambda: not select.select([], [probe], [], 0)[1], 10, "a full queue")

    def settle(self):
        """Waits until everything that was sent has been read and acted upon."""
        until(lambda: not select.select([self.sock], [], [], 0.02)[0], 5, "the notifications that were sent")
        with self.reading:
            pass

    def names(self):
        with self.lock:
            return sorted(name for name, _ in self.held)

    def fd_of(self, prefix):
        """The descriptor under the first name that begins like this."""
        with self.lock:
            return next(fd for name, fd in self.held if name.startswith(prefix))

    def remove(self, prefix):
        self._drop(lambda held: held[0].startswith(prefix))

    def add(self, name, fd):
        self._add(name, [os.dup(fd)])


class Process:
    """One that was started with posix_spawn(), with the part of subprocess.Popen that is used."""

    def __init__(self, argv, env, actions):
        self.pid = os.posix_spawn(argv[0], argv, env, file_actions=actions, setsid=True,
                                  setsigdef=(signal.SIGPIPE, signal.SIGXFSZ))  # which Python ignores
        self.returncode = None

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout):
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("sparkd", timeout)
            time.sleep(0.002)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def _state(pid):
    """As in its stat; Z also for one that is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            stat = file.read()
        return stat[stat.rindex(")") + 2]
    except OSError:
        return "Z"


def _alive(pid):
    return _state(pid) != "Z"


class KeptDaemon(Daemon):
    """A sparkd whose service manager keeps descriptors for it. start() starts a process, again and again; the listening socket
    is the service manager's."""

    def __init__(self, start=True, store_max=512, **settings):
        super().__init__(start=False, **settings)
        self.store = FdStore(self.folder / "notify", store_max)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(self.socket))
        self.listener.listen(128)
        self.starts = 0
        if start:
            self.start()

    def start(self, wait=True):
        self.store.settle()
        self.store.ready.clear()
        handed = [("sparkd.socket", self.listener.fileno())]
        with self.store.lock:
            handed += self.store.held
            copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST) for _, fd in handed]
        env = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={self.folder}/no-bus", **(self.env or {}),
               "NOTIFY_SOCKET": str(self.store.path), "LISTEN_FDS": str(len(handed)),
               "LISTEN_FDNAMES": ":".join(name for name, _ in handed)}
        env.setdefault("FDSTORE", str(self.store.maximum))
        if not env["FDSTORE"]:
            del env["FDSTORE"]
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        actions += [(os.POSIX_SPAWN_DUP2, fd, 3 + i) for i, fd in enumerate(copies)]
        self.process = Process(["/bin/sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh", str(self.program), "--config",
                                str(self.config)], env, actions)
        self.starts += 1
        for fd in [null, log, *copies]:
            os.close(fd)
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout=20):
        def ready():
            if self.process.poll() is not None:
                raise AssertionError(f"sparkd ended with {self.process.returncode}:\n{self.log()}")
            return self.store.ready.is_set()
        until(ready, timeout, "READY=1")

    def _ended(self, children):
        """Nothing of the unit is left."""
        for pid in children:
            if _alive(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        until(lambda: not any(map(_alive, children)), 20, "the end of the service's children")

    def crash(self, number=signal.SIGKILL):
        """Kills it between any two instructions; nothing runs afterwards."""
        children = self.children()
        self.process.send_signal(number)
        self.process.wait(20 * SLOW)
        self._ended(children)

    def restart(self, number=signal.SIGTERM, wait=True):
        """As `systemctl restart`, or what follows a crash."""
        children = self.children()
        self.process.send_signal(number)
        status = self.process.wait(20 * SLOW)
        self._ended(children)
        self.start(wait)
        return status

    def remove(self):
        self.store.close()
        self.listener.close()
        super().remove()


class SystemdMock:
    """org.freedesktop.systemd1 on a private bus, which says what the unit's job is (None: it has none)."""

    SYSTEMD = "org.freedesktop.systemd1"
    ROOT = "/org/freedesktop/systemd1"

    def __init__(self, job=None, store_max=512):
        self.bus = Bus()
        self.bus.start()
        self.env = {"DBUS_SYSTEM_BUS_ADDRESS": self.bus.address}
        self.process = subprocess.Popen([sys.executable, "-m", "dbusmock", "--system", self.SYSTEMD, self.ROOT,
                                         self.SYSTEMD + ".Manager"], env={**os.environ, **self.env},
                                        stdout=subprocess.DEVNULL)
        until(lambda: self._call(self.ROOT, "org.freedesktop.DBus.Peer.Ping") == 0, 10, "the mock")
        self._mock(self.ROOT, "AddMethod", "''", "'GetUnitByPID'", "'u'", "'o'", f"'ret = \"{self.ROOT}/unit/s\"'")
        path = f"objectpath '{self.ROOT}/job/7'"
        self._mock(self.ROOT, "AddObject", f"'{self.ROOT}/unit/s'", f"'{self.SYSTEMD}.Unit'",
                   "{'Job': <(uint32 %d, %s)>}" % (7 if job else 0, path), "@a(ssss) []")
        self._mock(f"{self.ROOT}/unit/s", "AddProperties", f"'{self.SYSTEMD}.Service'",
                   "{'FileDescriptorStoreMax': <uint32 %d>}" % store_max)
        if job:
            self._mock(self.ROOT, "AddObject", f"'{self.ROOT}/job/7'", f"'{self.SYSTEMD}.Job'", "{'JobType': <'%s'>}" % job,
                       "@a(ssss) []")

    def _call(self, path, method, *arguments):
        return subprocess.run(["gdbus", "call", "--address", self.bus.address, "--dest", self.SYSTEMD, "--object-path", path,
                               "--method", method, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode

    def _mock(self, path, method, *arguments):
        if self._call(path, "org.freedesktop.DBus.Mock." + method, *arguments):
            raise AssertionError(f"{method} {arguments}")

    def remove(self):
        self.process.kill()
        self.process.wait()
        self.bus.remove()


class KeptTestCase(TestCase):
    def kept(self, **settings):
        daemon = KeptDaemon(start=False, **settings)
        self.addCleanup(self._end_kept, daemon)
        daemon.start()
        return daemon

    def haltable(self, *names):
        """A sparkd beside whom these programs stand still at their beginning after halt(), instead of running to their end in a
        moment."""
        self.programs_folder = folder = pathlib.Path(tempfile.mkdtemp(prefix="sparkd-programs-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        shutil.copy2(BUILD / "bin/sparkd", folder)
        for program in ("spark-engine", "spark-loader", "spark-store"):
            if program in names:
                (folder / program).write_text(f'#!/bin/sh\n[ -e "$0.halt" ] && kill -STOP $$\nexec {BUILD}/bin/{program} "$@"\n',
                                              encoding="utf-8")
                (folder / program).chmod(0o755)
            else:
                (folder / program).symlink_to(BUILD / "bin" / program)
        return folder / "sparkd"

    def halt(self, name):
        (self.programs_folder / f"{name}.halt").touch()

    def wait_halted(self, daemon, name):
        """Until one stands still, and what it is to work at is written down. Those after it do not."""
        until(lambda: "T" in map(_state, daemon.children(name)), what=f"a {name} at work")
        self.pass_turn(daemon)
        (self.programs_folder / f"{name}.halt").unlink()

    def pass_turn(self, daemon, **options):
        """An answer comes behind the turn in which what came before was written down."""
        with daemon.connect(**options) as client:
            client.ask(models=pb.Models())

    def _end_kept(self, daemon):
        if daemon.process and daemon.process.poll() is None:
            daemon.process.terminate()
        self._end(daemon)

    def systemd(self, **options):
        try:
            import dbusmock  # noqa: F401  (is it there?)
        except ImportError:
            self.skipTest("python3-dbusmock is not installed")
        for tool in ("dbus-daemon", "gdbus"):
            if not shutil.which(tool):
                self.skipTest(f"{tool} is not installed")
        mock = SystemdMock(**options)
        self.addCleanup(mock.remove)
        return mock
