# SPDX-License-Identifier: Apache-2.0
"""A polkit for tests, as a template of python3-dbusmock: says what it is told to say, and remembers what it was asked."""

import dbus
from dbusmock import MOCK_IFACE

BUS_NAME = "org.freedesktop.PolicyKit1"
MAIN_OBJ = "/org/freedesktop/PolicyKit1/Authority"
MAIN_IFACE = "org.freedesktop.PolicyKit1.Authority"
SYSTEM_BUS = True


def load(mock, _parameters):
    mock.answers = {}       # action -> "yes", "person" (yes where a person may be asked), "hang", "error"; else no
    mock.questions = []
    mock.waiting = {}


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
    self.questions.append(f"{subject[0]} {subject[1]['name']} {action} {len(details)} {flags} {bool(cancellation)}")
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


@dbus.service.method(MOCK_IFACE, out_signature="u")
def Waiting(self):
    return len(self.waiting)
