# SPDX-License-Identifier: Apache-2.0
"""Random calls on the bus: arguments right, wrong and absurd, and connections whose answers are looked at when they come."""

import os
import random
import socket
import time

from bus_harness import *
from bus_harness import dbus
from harness import *

__all__ = ["STANDARD", "FORBIDDEN", "USE", "Draw", "Caller", "call_at_random", "pump", "leave"]

STANDARD = {"org.freedesktop.DBus.Properties": {"Get": "ss", "GetAll": "s", "Set": "ssv"},
            "org.freedesktop.DBus.ObjectManager": {"GetManagedObjects": ""},
            "org.freedesktop.DBus.Introspectable": {"Introspect": ""},
            "org.freedesktop.DBus.Peer": {"Ping": "", "GetMachineId": ""}}
# what needs rights that nobody here has; and what needs nothing but to be let in
FORBIDDEN = {(MANAGER, m) for m in ("Load", "Unload", "ImportModel", "PackModel", "Reload")} | {(MODEL, "Load"), (MODEL, "Unload")}
USE = {(MANAGER, m) for m in ("Complete", "Generate", "OpenSession", "ReserveMemory", "HoldWarm", "ListUsage")}
OPTIONS = ("model", "temperature", "top_p", "min_p", "top_k", "seed", "max_tokens", "stop", "raw", "priority", "pin", "replace",
           "lossless", "file", "wait", "missing_only", "policy", "repetition_penalty", "nonsense", "")
TYPES = "ybnqiuxtdsog"


class Draw:
    """Random arguments."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.fds = []

    def text(self):
        r = self.random
        return r.choice(("", "null", "tiny", "x", "../../etc/passwd", "sha256:" + "0" * 64, "\u00e4\U0001f600\ufffd", " ", "%s%n",
                         "interactive", "background", MODEL, MANAGER, "Name", "x" * r.randrange(1 << 12), "y" * 70000,
                         "z" * (r.choice((1, 1, 1, 5)) << 20) if r.random() < 0.05 else "w"))

    def path(self, known):
        r = self.random
        return r.choice(known + ["/", PATH, PATH + "/model/" + "a" * 200, PATH + f"/job/{r.randrange(99)}", PATH + "/session/0",
                                 PATH + f"/session/{r.randrange(99)}", PATH + "/session/" + "f" * 32, PATH + "/x/y/z"])

    def fd(self):
        """A descriptor of any kind."""
        r = self.random
        kind = r.randrange(7)
        if kind == 0:
            fd = os.open("/dev/null", os.O_RDONLY)
        elif kind == 1:
            fd = os.open("/", os.O_PATH)
        elif kind == 2:
            fd = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
        elif kind == 3:
            fd, other = os.pipe()
            os.close(other)
        elif kind == 4:
            a, b = socket.socketpair()
            fd = a.detach()
            b.close()
        elif kind == 5:
            fd = os.memfd_create("x")
        else:
            fd = os.open(ROOT / "share/models/spark-tiny.gguf", os.O_RDONLY)
        self.fds.append(fd)
        return fd

    def number(self, low, high):
        return self.random.choice((low, high, 0, 1, self.random.randint(low, high)))

    def basic(self, kind):
        r = self.random
        made = {"y": lambda: dbus.Byte(r.randrange(256)), "b": lambda: dbus.Boolean(r.randrange(2)),
                "n": lambda: dbus.Int16(self.number(-1 << 15, (1 << 15) - 1)), "q": lambda: dbus.UInt16(self.number(0, 0xffff)),
                "i": lambda: dbus.Int32(self.number(-1 << 31, (1 << 31) - 1)), "u": lambda: dbus.UInt32(self.number(0, 0xffffffff)),
                "x": lambda: dbus.Int64(self.number(-1 << 63, (1 << 63) - 1)), "t": lambda: dbus.UInt64(self.number(0, (1 << 64) - 1)),
                "d": lambda: dbus.Double(r.choice((0.0, 1.0, -1.0, 1e300, float("nan"), float("inf")))),
                "s": lambda: dbus.String(self.text()), "o": lambda: dbus.ObjectPath(self.path([])),
                "g": lambda: dbus.Signature(r.choice(("", "s", "a{sv}", "(ii)"))), "h": lambda: dbus.types.UnixFd(self.fd())}
        return made[kind]()

    def variant(self, value):
        return type(value)(value, variant_level=1)

    def options(self):
        r = self.random
        right = {"model": "s", "temperature": "d", "top_p": "d", "min_p": "d", "top_k": "u", "seed": "t", "max_tokens": "u",
                 "raw": "b", "priority": "s", "pin": "b", "replace": "b", "lossless": "b", "file": "s", "wait": "b",
                 "missing_only": "b", "policy": "s", "repetition_penalty": "d"}
        made = {}
        for name in r.sample(OPTIONS, r.randrange(4)):
            kind = right.get(name, "s") if r.random() < 0.7 else r.choice(TYPES)
            made[name] = self.variant(self.basic(kind))
        if r.random() < 0.6:
            made["max_tokens"] = u32(r.choice((1, 2, 5)))
        if r.random() < 0.1:
            made["stop"] = dbus.Array([self.text()[:100] for _ in range(r.randrange(20))], signature="s", variant_level=1)
        return dbus.Dictionary(made, signature="sv")

    def value(self, signature):
        """Of one complete type."""
        if signature == "a{sv}":
            return self.options()
        if signature == "v":
            return self.variant(self.basic(self.random.choice(TYPES)))
        if signature.startswith("a"):
            return dbus.Array([], signature=signature[1:])
        return self.basic(signature)

    def arguments(self, signature):
        """(signature, values): as it should be, or not."""
        types = split(signature)
        if self.random.random() < 0.25:
            types = [self.random.choice((*TYPES, "h", "a{sv}", "v")) for _ in range(self.random.randrange(5))]
        return "".join(types), [self.value(kind) for kind in types]

    def close(self):
        for fd in self.fds:
            os.close(fd)
        self.fds = []


def split(signature):
    """Complete types; as many as our methods have."""
    types, rest = [], signature
    while rest:
        size = 5 if rest.startswith("a{sv}") else 1
        types.append(rest[:size])
        rest = rest[size:]
    return types


class Caller:
    """A connection whose calls' answers are looked at when they come."""

    def __init__(self, connection, verdicts):
        self.connection = connection
        self.verdicts = verdicts
        self.open = 0

    def send(self, path, interface, member, signature, values, flags):
        message = dbus.lowlevel.MethodCallMessage(NAME, path, interface, member)
        message.append(*values, signature=signature)
        message.set_no_reply(flags & 1 > 0)
        self.open += 1
        if flags & 1:
            self.connection.send_message(message)
            self.open -= 1
            return

        def on_answer(answer):
            self.open -= 1
            error = answer.get_error_name() if isinstance(answer, dbus.lowlevel.ErrorMessage) else None
            self.verdicts[interface, member, error] += 1
            if error is None:
                for value in answer.get_args_list():
                    if isinstance(value, dbus.types.UnixFd):
                        os.close(value.take())
        self.connection.send_message_with_reply(message, on_answer, timeout_s=60 * SLOW)

    def close(self):
        self.connection.close()


def call_at_random(draw, caller, methods, paths):
    r = draw.random
    interface = r.choice((MANAGER, MANAGER, MANAGER, *methods))
    member = r.choice([*methods[interface], "Nonsense"] if r.random() < 0.95 else ["x" * 255])
    path = draw.path(paths) if r.random() < 0.5 else {MODEL: MODEL_PATH}.get(interface, PATH)
    signature, values = draw.arguments(methods[interface].get(member, ""))
    caller.send(path, interface, member, signature, values, r.random() < 0.05)
    draw.close()


def pump(callers, most):
    """Lets answers come until no caller has more than so many calls open; False where they do not come."""
    from gi.repository import GLib
    end = time.monotonic() + 60 * SLOW
    while any(caller.open > most for caller in callers):
        if time.monotonic() > end:
            return False
        GLib.MainContext.default().iteration(True)
    return True


def leave(callers):
    """Closes these; and looks at what had come for those that left before, too: a descriptor among it is held until somebody does."""
    from gi.repository import GLib
    for caller in callers:
        caller.close()
    while GLib.MainContext.default().iteration(False):
        pass
