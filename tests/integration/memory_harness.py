# SPDX-License-Identifier: Apache-2.0
"""A daemon in a control group with a memory limit."""

import os
import subprocess

from harness import *
from harness import pb
from memory_group import MIB, Group

__all__ = ["MIB", "Group", "GroupDaemon"]


class GroupDaemon(Daemon):
    """A daemon that lives in such a group, with all that it starts."""

    def __init__(self, group, **settings):
        self.group = group
        super().__init__(**settings)

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen([self.program, "--config", self.config], stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, preexec_fn=lambda: self.group.add(os.getpid()))
        until(self._answers, 20, "an answer of the daemon")

    def ledger(self):
        with self.connect() as client:
            return client.ask(status=pb.Status()).done.status

    def steps(self):
        """The steps that the log names, in their order."""
        return [line.split("step '")[1].split("'")[0] for line in self.log().splitlines() if "memory is given back: step" in line]
