# SPDX-License-Identifier: Apache-2.0
"""A polkit for tests, as a template of python3-dbusmock: says what it is told to say, and remembers what it was asked."""

import os

import dbus
from dbusmock import MOCK_IFACE

BUS_NAME = "org.freedesktop.PolicyKit1"
MAIN_OBJ = "/org/freedesktop/PolicyKit1/Authority"
MAIN_IFACE = "org.freedesktop.PolicyKit1.Authority"
SYSTEM_BUS = True


def load(mock, _parameters):
    mock.answers = {}       # action -> "yes", "person" (yes where a person may be asked), "hang", "error"; else no
    mock.questions = []
    mock.subjects = []
    mock.knows_pidfd = True # as version 124 and later
    mock.waiting = {}


def pid_of(pidfd):
    """Whose it is; -1: it has ended."""
    try:
        with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Pid:"))
    finally:
        os.close(pidfd)


def decide(self, action, flags, reply, fail):
    word = self.answers.get(action, "no")
    if word == "error":
        fail(dbus.DBusException("broken", name="org.freedesktop.PolicyKit1.Error.Failed"))
    elif word == "person" and not flags & 1:
        reply((False, True, {}))
    else:
        reply((word in ("yes", "person"), False, {}))


@dbus.service.method(MAIN_IFACE, in_signature="(sa{sv})sa{ss}us", out_signature="(bba{ss})", async_callbacks=("reply", "fail"))
def CheckAuthorization(self, subject, action, details, flags, cancellation, reply, fail):
    about = {str(key): int(value.take()) if key == "pidfd" else value for key, value in subject[1].items()}
    if "pidfd" in about:
        about["pidfd"] = pid_of(about["pidfd"])
    if "pidfd" in about and not self.knows_pidfd:
        fail(dbus.DBusException("no pid", name="org.freedesktop.PolicyKit1.Error.Failed"))
        return
    who = about["name"] if "name" in about else ",".join(sorted(about))
    self.questions.append(f"{subject[0]} {who} {action} {len(details)} {flags} {bool(cancellation)}")
    self.subjects.append(" ".join(f"{key}={about[key]}" for key in sorted(about)))
    if self.answers.get(action) == "hang":
        self.waiting[len(self.waiting)] = (cancellation, action, flags, reply, fail)
    else:
        decide(self, action, flags, reply, fail)


@dbus.service.method(MAIN_IFACE, in_signature="s")
def CancelCheckAuthorization(self, cancellation):
    self.questions.append("cancel")
    for key, (known, *_) in list(self.waiting.items()):
        if known == cancellation:
            del self.waiting[key]


@dbus.service.method(MOCK_IFACE, in_signature="a{ss}")
def Answer(self, answers):
    """What is said from now on, to those who still wait, too."""
    self.answers = dict(answers)
    waiting, self.waiting = self.waiting, {}
    for _, action, flags, reply, fail in waiting.values():
        decide(self, action, flags, reply, fail)


@dbus.service.method(MOCK_IFACE, out_signature="as")
def Questions(self):
    """Since the last time."""
    asked, self.questions = self.questions, []
    return dbus.Array(asked, signature="s")


@dbus.service.method(MOCK_IFACE, out_signature="as")
def Subjects(self):
    """What the questions since the last time said of who asks."""
    subjects, self.subjects = self.subjects, []
    return dbus.Array(subjects, signature="s")


@dbus.service.method(MOCK_IFACE, in_signature="b")
def KnowsPidfd(self, yes):
    self.knows_pidfd = bool(yes)


@dbus.service.method(MOCK_IFACE, out_signature="u")
def Waiting(self):
    return len(self.waiting)
