#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A log that this program did not write like this: another version's, or one with an error. Its checksums are right, so each record is
taken for what it says. Whatever that is, the service starts, serves, and in the end the store has nothing that nobody knows."""

import os
import random
import signal
import struct
import unittest

from fdstore_harness import *
from harness import *
from harness import pb

import state_pb2  # noqa: E402  (harness made it)

HEAD = 4096
COMMITTED = struct.Struct("<8sIIQQ")  # magic, version, complete, generation, committed
ROUNDS = int(os.environ.get("SPARK_SKEW_ROUNDS") or 25)
NUMBERS = (0, 1, 2, 3, 63, 64, 65, 255, 2**31, 2**32 - 1)
LARGE = (2**32, 2**40, 2**63, 2**64 - 1)
TEXTS = ("", "a", "m", "null", "memory", "warm", "../x", "x" * 5000, "\u00e4" * 100, "%s%n")


def make_table():
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
        table.append(crc)
    return table


TABLE = make_table()


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xff] ^ crc >> 8
    return crc ^ 0xffffffff


def read_log(fd):
    """Its head, and its records."""
    head = bytearray(os.pread(fd, HEAD, 0))
    end = COMMITTED.unpack_from(head)[4]
    data, at, records = os.pread(fd, end - HEAD, HEAD), 0, []
    while at < len(data):
        size, crc = struct.unpack_from("<II", data, at)
        payload = data[at + 8:at + 8 + size]
        assert crc32c(payload) == crc
        records.append(payload)
        at += 8 + size
    return head, records


def write_log(head, records):
    """A memfd with these."""
    body = b"".join(struct.pack("<II", len(record), crc32c(record)) + record for record in records)
    head = bytearray(head)
    magic, version, complete, generation, _ = COMMITTED.unpack_from(head)
    COMMITTED.pack_into(head, 0, magic, version, complete, generation, HEAD + len(body))
    return memfd(bytes(head) + body, sealed=False)


class Skew(KeptTestCase):
    def change_field(self, dice, message):
        """One field of it, or of one within it."""
        fields = [field for field, _ in message.ListFields()] if dice.random() < 0.7 else []
        fields = fields or list(message.DESCRIPTOR.fields)
        field = dice.choice(fields)
        if field.label == field.LABEL_REPEATED:
            values = getattr(message, field.name)
            if dice.random() < 0.5:
                del values[:]
            else:
                values.extend(dice.choice(NUMBERS) for _ in range(dice.randrange(1, 70)))
        elif field.type in (field.TYPE_UINT64, field.TYPE_UINT32):
            setattr(message, field.name, dice.choice(NUMBERS + (LARGE if field.type == field.TYPE_UINT64 else ())))
        elif field.type == field.TYPE_BOOL:
            setattr(message, field.name, not getattr(message, field.name))
        elif field.type == field.TYPE_STRING:
            setattr(message, field.name, dice.choice(TEXTS))
        elif field.type == field.TYPE_BYTES:
            old = getattr(message, field.name)
            setattr(message, field.name, dice.choice((b"", old[:len(old) // 2], old + old, dice.randbytes(40), b"\xff" * 9)))

    def changed(self, dice, records):
        """The same log, nearly."""
        records = list(records)
        for _ in range(dice.randrange(1, 5)):
            at, how = dice.randrange(len(records)), dice.randrange(6)
            if how == 0 and len(records) > 1:
                del records[at]
            elif how == 1:
                records.insert(dice.randrange(len(records)), records[at])
            elif how == 2:
                records.insert(at, b"\xa2\x06\x03abc")  # of a type that nobody knows
            else:
                record = state_pb2.Record.FromString(records[at])
                kind = record.WhichOneof("body")
                if kind:
                    self.change_field(dice, getattr(record, kind))
                records[at] = record.SerializeToString()
        return records

    def hand_over(self, daemon, held, log):
        """As the store was, with another log."""
        daemon.store.remove("")
        for name, fd in held:
            daemon.store.add(name, log if name.startswith("sparkd-state.") else fd)

    def settled(self, daemon):
        """Names that are of nobody who is there."""
        daemon.store.settle()
        return [name for name in daemon.store.names() if not name.startswith(("sparkd-state.", "sparkd-carry-", "image."))]

    def test_at_random(self):
        daemon = self.kept(models=[{"name": "null", "default": True}, {"name": "other", "resident": "demand"}],
                           null={"step_us": 20000})
        daemon.wait_engine()
        clients = [daemon.connect() for _ in range(4)]
        clients[0].generate(n=2000, credit=2000)
        clients[1].request(reserve_memory=pb.ReserveMemory(bytes=1, missing_only=True, who="x"))
        clients[1].request(hold_warm=pb.HoldWarm(model="other"))
        session = clients[2].ask(session_create=pb.SessionCreate()).done.session.id
        clients[2].answer(clients[2].generate(n=4, session=session))
        clients[2].generate(n=2000, credit=3, session=session)
        clients[3].send_raw(b"\x20\x00\x00\x00abc")  # the beginning of a frame
        until(lambda: len([n for n in daemon.store.names() if n.startswith("client.")]) >= 4, 10, "all that is kept")
        clients[0].tokens(1, 5)
        daemon.crash()
        daemon.store.settle()
        with daemon.store.lock:
            held = [(name, os.dup(fd)) for name, fd in daemon.store.held]
        head, records = read_log(next(fd for name, fd in held if name.startswith("sparkd-state.")))
        self.assertGreater(len(records), 8)
        dice = random.Random(11)
        for number in range(ROUNDS):
            log = write_log(head, self.changed(dice, records) if number else records)
            self.hand_over(daemon, held, log)
            os.close(log)
            with self.subTest(number):
                daemon.start()
                self.assertServes(daemon)
                daemon.restart(signal.SIGKILL)  # what was written anew of it can be read
                self.assertServes(daemon)
                daemon.crash()
        for client in clients:
            client.close()
        self.hand_over(daemon, held, held[[name[:13] for name, _ in held].index("sparkd-state.")][1])
        for _, fd in held:
            os.close(fd)
        daemon.start()
        until(lambda: not self.settled(daemon), 10, "a store without what has gone")
        self.assertServes(daemon)


if __name__ == "__main__":
    unittest.main()
