#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Tries what sparkd.service forbids, run in the service's place by inside.py: prints, as JSON, what came of each try, "done" or an errno's
name. What would do harm where it is not forbidden is asked for with arguments that are no good."""

import ctypes
import errno
import json
import mmap
import os
import platform
import socket
import stat
import sys
import tempfile
import time

LIBC = ctypes.CDLL(None, use_errno=True)
AARCH64 = platform.machine() == "aarch64"
# by x86-64's number and aarch64's
NUMBERS = {"bpf": (321, 280), "perf_event_open": (298, 241), "kexec_load": (246, 104), "init_module": (175, 105),
           "finit_module": (313, 273), "pivot_root": (155, 41), "userfaultfd": (323, 282), "mount_setattr": (442, 442),
           "open_tree": (428, 428), "fsopen": (430, 430), "io_uring_setup": (425, 425), "landlock_create_ruleset": (444, 444),
           "clock_adjtime": (305, 266), "process_vm_readv": (310, 270), "kcmp": (312, 272), "migrate_pages": (256, 238),
           "keyctl": (250, 219)}
CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWNET = 0x10000000, 0x00020000, 0x40000000
PERSONALITY_LINUX32 = 8
LANDLOCK_VERSION = 1
SCHED_FIFO = 1


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def call(name, *arguments):
    return checked(LIBC.syscall(NUMBERS[name][AARCH64], *map(ctypes.c_long, arguments)))


def function(name, *arguments):
    return checked(getattr(LIBC, name)(*arguments))


def write(path):
    with open(path, "w", encoding="ascii") as file:
        file.write("x")


def change(path):
    """As it is: nothing happens where it is allowed."""
    with open(path, "r+b") as file:
        file.write(b"")


def write_and_run():
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def run_what_was_written():
    memory = mmap.mmap(-1, 4096)
    at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    function("mprotect", ctypes.c_void_p(at), 4096, mmap.PROT_READ | mmap.PROT_EXEC)


def set_user_id():
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, stat.S_ISUID | 0o700)


def connect():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.connect(("127.0.0.1", 22))


FORBIDDEN = {
    "an IPv4 socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
    "an IPv6 socket": lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close(),
    "a connection": connect,
    "a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "a packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "a vsock": lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close(),
    "a file in /usr": lambda: write("/usr/x"),
    "a file in /etc": lambda: write("/etc/x"),
    "a file in /var": lambda: write("/var/x"),
    "a file in /run": lambda: write("/run/x"),
    "its configuration": lambda: change("/etc/sparkd/sparkd.conf"),
    "its socket's folder": lambda: write("/run/sparkd/x"),
    "homes": lambda: [os.listdir("/root"), os.listdir("/home")[0]],
    "kernel settings": lambda: change("/proc/sys/kernel/domainname"),
    "another process's score": lambda: change("/proc/1/oom_score_adj"),
    "a control group": lambda: os.mkdir("/sys/fs/cgroup/x"),
    "the kernel's log": lambda: function("klogctl", 10, None, 0),
    "a device node": lambda: os.mknod("/var/lib/sparkd/node", stat.S_IFCHR | 0o600, os.makedev(1, 1)),
    "memory that is written and run": write_and_run,
    "memory that was written and is run": run_what_was_written,
    "a program that changes the user": set_user_id,
    "another user": lambda: os.setuid(0),
    "a user namespace": lambda: function("unshare", CLONE_NEWUSER),
    "a mount namespace": lambda: function("unshare", CLONE_NEWNS),
    "a network namespace": lambda: function("unshare", CLONE_NEWNET),
    "another namespace": lambda: function("setns", 0, 0),
    "mount": lambda: function("mount", b"x", b"/x", b"x", 0, None),
    "umount": lambda: function("umount2", b"/x", 0),
    "open_tree": lambda: call("open_tree", -1, 0, 0),
    "fsopen": lambda: call("fsopen", 0, 0),
    "mount_setattr": lambda: call("mount_setattr", -1, 0, 0, 0, 0),
    "another root": lambda: os.chroot("/nowhere"),
    "pivot_root": lambda: call("pivot_root", 0, 0),
    "a handle": lambda: function("open_by_handle_at", -1, None, 0),
    "ptrace": lambda: function("ptrace", ctypes.c_long(2), ctypes.c_long(1), None, None),
    "another's memory": lambda: call("process_vm_readv", 1, 0, 0, 0, 0, 0),
    "bpf": lambda: call("bpf", -1, 0, 0),
    "perf": lambda: call("perf_event_open", 0, 0, 0, 0, 0),
    "userfaultfd": lambda: call("userfaultfd", -1),
    "a key": lambda: call("keyctl", 0, -3, 0),
    "kcmp": lambda: call("kcmp", 1, 1, 0, 0, 0),
    "a module": lambda: call("init_module", 0, 0, 0),
    "a module's file": lambda: call("finit_module", -1, 0, 0),
    "another kernel": lambda: call("kexec_load", 0, 99, 0, 0),
    "reboot": lambda: function("reboot", 0),
    "swap": lambda: function("swapon", b"/x", 0),
    "the clock": lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
    "the clock's speed": lambda: call("clock_adjtime", -1, 0),
    "the host's name": lambda: function("sethostname", b"x", ctypes.c_size_t(1 << 20)),
    "another execution domain": lambda: function("personality", ctypes.c_ulong(PERSONALITY_LINUX32)),
    "a real-time schedule": lambda: os.sched_setscheduler(0, SCHED_FIFO, os.sched_param(1)),
    "a better place": lambda: os.nice(-1),
    "others' pages": lambda: call("migrate_pages", 1, 0, 0, 0),
}

# What it is there for, and the cages of what it starts are made of.
ALLOWED = {
    "a file of its own": lambda: write("/var/lib/sparkd/probe"),
    "a temporary file": lambda: write("/tmp/sparkd-probe"),
    "a unix socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).close(),
    "a memfd": lambda: os.close(os.memfd_create("x")),
    "the machine's memory": lambda: open("/proc/meminfo", "rb").close(),
    "memory pressure": lambda: open("/proc/pressure/memory", "rb").close(),
    "a peer's process": lambda: open("/proc/1/stat", "rb").close(),
    "Landlock": lambda: call("landlock_create_ruleset", 0, 0, LANDLOCK_VERSION),
}


def attempt(function_):
    try:
        function_()
        return "done"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))


if __name__ == "__main__":
    said = {part: {name: attempt(function_) for name, function_ in table.items()}
            for part, table in (("forbidden", FORBIDDEN), ("allowed", ALLOWED))}
    said["io_uring"] = attempt(lambda: call("io_uring_setup", 0, 0))
    said["umask"] = os.umask(0o077)
    said["temporary"] = os.listdir("/tmp")
    json.dump(said, sys.stdout)
