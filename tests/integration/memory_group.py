# SPDX-License-Identifier: Apache-2.0
"""A control group with a memory limit, and something in it that eats memory until little is left. (The eater reads this file, too, and
is to begin soon: nothing of the protocol is needed here.)"""

import contextlib
import os
import pathlib
import subprocess
import sys
import time

__all__ = ["MIB", "Group"]

MIB = 1 << 20
HOG = """
import mmap, sys, time
group, left, rate = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
import pathlib
sys.path.insert(0, sys.argv[4])
from memory_group import Group
group = Group(pathlib.Path(group))
eaten, full = [], False
print("begun", flush=True)
while not full:
    room = group.available() - left
    if room <= 0 and sys.argv[5] != "once":
        time.sleep(0.01)
        continue
    full = sys.argv[5] == "once" and room <= 64 << 20  # the last piece: what is given back while it is eaten is not for it
    n = (room if full else min(room, rate // 20 or room, 32 << 20)) & ~4095
    if n > 0:
        piece = mmap.mmap(-1, n, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for at in range(0, n, 4096):
            piece[at] = 1
        eaten.append(piece)
    if rate and n > 0:
        time.sleep(n / rate)
time.sleep(3600)
"""

READER = """
import os, sys
for path in sys.argv[1:3]:
    with open(path + "/cgroup.procs", "w", encoding="ascii") as file:
        file.write(str(os.getpid()))
fd = os.open(sys.argv[3], os.O_RDWR | os.O_CREAT)
os.unlink(sys.argv[3])
os.ftruncate(fd, 4 << 30)
while True:
    os.lseek(fd, 0, 0)
    while os.read(fd, 1 << 18):
        pass
"""


class Group:
    """A memory control group of either version."""

    def __init__(self, path):
        self.path = path
        self.v2 = (path / "memory.max").exists()

    @classmethod
    def make(cls, limit):
        """A new one with a limit, or None where none can be made."""
        for parent in (pathlib.Path("/sys/fs/cgroup"), pathlib.Path("/sys/fs/cgroup/memory"), pathlib.Path("/sys/fs/cgroup/unified")):
            if not (parent / "cgroup.procs").exists():
                continue  # a folder of no hierarchy
            path = parent / f"sparkd-test-{os.getpid()}-{time.monotonic_ns()}"
            try:
                path.mkdir()
            except OSError:
                continue
            group = cls(path)
            with contextlib.suppress(OSError):
                (path / ("memory.max" if group.v2 else "memory.limit_in_bytes")).write_text(str(limit), encoding="ascii")
                return group
            path.rmdir()
        return None

    def number(self, name):
        return int((self.path / name).read_text(encoding="ascii"))

    def available(self):
        """As the daemon reckons it; what is cached of files would go."""
        stat = dict(line.split() for line in (self.path / "memory.stat").read_text(encoding="ascii").splitlines())
        if self.v2:
            limit, used = self.number("memory.max"), self.number("memory.current")
            files = int(stat["inactive_file"]) + int(stat["active_file"]) + int(stat["slab_reclaimable"])
        else:
            limit, used = self.number("memory.limit_in_bytes"), self.number("memory.usage_in_bytes")
            files = int(stat["total_inactive_file"]) + int(stat["total_active_file"])
        return limit - used + min(files, used)

    def kills(self):
        """Processes that the kernel has ended for want of memory here."""
        name = "memory.events" if self.v2 else "memory.oom_control"
        for line in (self.path / name).read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
        return 0

    def add(self, pid):
        (self.path / "cgroup.procs").write_text(str(pid), encoding="ascii")

    def hog(self, left, rate=0, once=False):
        """Starts something that eats until so much is left, and (but once) eats what becomes free, too; rate: bytes a second. Once: the
        last piece ends it, whatever was given back meanwhile."""
        process = subprocess.Popen([sys.executable, "-c", HOG, str(self.path), str(left), str(rate), os.path.dirname(__file__),
                                    "once" if once else "greedy"],
                                   stdout=subprocess.PIPE, text=True, preexec_fn=lambda: self.add(os.getpid()))
        process.stdout.readline()
        return process

    def stall(self, where, folder):
        """Starts programs that wait for memory most of the time: they read files, which are holes, with hardly any to keep them in.
        What they wait for counts as stalls of the group `where`, of version 2."""
        return [subprocess.Popen([sys.executable, "-c", READER, str(self.path), str(where.path), f"{folder}/holes-{i}"])
                for i in range(4)]

    def remove(self):
        end = time.monotonic() + 10
        while not self._is_gone():
            assert time.monotonic() < end, "the group does not end"
            time.sleep(0.01)

    def _is_gone(self):
        try:
            self.path.rmdir()
        except OSError:
            return False
        return True
