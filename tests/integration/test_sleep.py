#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The machine sleeps: logind, a mock on a private bus, says so and is given its inhibitor back in time, whatever hangs; streams go
on afterwards, engine killed or not. Who keeps the machine awake. Null backend; that gives the same tokens after a replay as
without."""

import contextlib
import os
import pathlib
import signal
import socket
import sqlite3
import threading
import time
import unittest

from harness import ROOT, SLOW, Closed, fill_disk
from power_harness import *

DELAY = ("sleep", "delay")
LIMIT_S = 3  # promised, whatever the machine
PERSON, SERVICE = 1000, 999


class SleepTestCase(PowerTestCase):
    def begin(self, **settings):
        logind = self.logind()
        daemon = self.serve(**settings)
        self.wait_power(daemon, inhibitor="held", sleep="awake")
        self.assertEqual(logind.inhibitors(), [DELAY])
        return logind, daemon

    def fall_asleep(self, logind, daemon):
        """Gives how long it took until the inhibitor was given back."""
        logind.sleep(True)  # the mock is a slow one: what is measured begins with its signal
        began = time.monotonic()
        self.measure(lambda: not logind.inhibitors(), LIMIT_S, "the inhibitor is still held")
        took = time.monotonic() - began
        self.wait_power(daemon, sleep="asleep", inhibitor="released")
        return took

    def wake_up(self, logind, daemon, timeout=10):
        logind.sleep(False)
        self.wait_power(daemon, timeout, sleep="awake", inhibitor="held")
        self.assertEqual(logind.inhibitors(), [DELAY])

    def sessions(self, client):
        """Those that there are; after a start a slow disk has them read only then."""
        return until(lambda: client.ask(sessions=pb.Sessions()).done.sessions.sessions, 10, "sessions that were read")

    def model_state(self, daemon):
        with daemon.connect() as client:
            return client.ask(models=pb.Models()).done.models.models[0].state


class Cycle(SleepTestCase):
    def test_idle(self):
        logind, daemon = self.begin()
        for cycle in range(1, 4):
            self.assertLess(self.fall_asleep(logind, daemon), min(2 * SLOW, LIMIT_S))  # it has 2.5 seconds where something hangs
            self.assertEqual(self.model_state(daemon), "sleeping")
            self.wake_up(logind, daemon)
            self.assertEqual(self.model_state(daemon), "ready")
            power = self.power(daemon)
            self.assertEqual(power.sleeps, cycle)
            self.assertLess(power.sleep_ms, LIMIT_S * 1000)
        self.assertServes(daemon)
        self.assertIn("ready for the machine's sleep after", daemon.log())
        self.assertNotIn("ended with", daemon.log())  # no engine was lost

    def test_requests_wait(self):
        """What comes meanwhile is neither refused nor served."""
        logind, daemon = self.begin()
        self.fall_asleep(logind, daemon)
        with daemon.connect() as client:
            ids = [self.ask(client, priority) for priority in (BACKGROUND, NORMAL, INTERACTIVE)]
            ids.append(client.request(tokenize=pb.Tokenize(text=b"Once upon")))
            self.assertTrue(client.nothing_comes(0.7))
            self.wake_up(logind, daemon)
            for id in ids:
                self.assertDone(client.answer(id)[2])

    def streams(self, daemon, n, tokens):
        """(client, id, tokens so far) of n streams. They are granted too few tokens to end, however late the machine sleeps."""
        running = []
        for i in range(n):
            client = daemon.connect()
            self.addCleanup(client.close)
            id = client.request(generate=pb.Generate(prompt=b"Once", credit=tokens - 20,
                                                     sampling=pb.Sampling(max_tokens=tokens, seed=100 + i)))
            running.append([client, id, client.tokens(id, 3)])
        return running

    def expect(self, daemon, n, tokens):
        """What streams() say undisturbed."""
        running = self.streams(daemon, n, tokens)
        for client, id, _ in running:
            client.credit(id, tokens)
        return [ids + client.answer(id, seen=len(ids))[0] for client, id, ids in running]

    def check_streams(self, running, wanted):
        for client, id, _ in running:
            client.credit(id, 100000)
        for (client, id, ids), want in zip(running, wanted):
            rest, _, end = client.answer(id, seen=len(ids))
            self.assertDone(end)
            self.assertEqual(ids + rest, want)

    def assertSilent(self, running):
        """Tokens that were under way may come; then none does."""
        for stream in running:
            client, id, _ = stream
            while not client.nothing_comes(0.1):
                pass
            while client.waiting[id]:
                frame = client.waiting[id].popleft()
                self.assertEqual(frame.WhichOneof("body"), "token")
                stream[2] += frame.token.ids
        for client, _, _ in running:
            self.assertTrue(client.nothing_comes(0.1))

    def test_streams(self):
        """They stop, and go on with the tokens that are due, without an engine's having been replaced."""
        logind, daemon = self.begin(null={"step_us": 5000})
        wanted = self.expect(daemon, 8, 600)
        engine = daemon.wait_engine()
        running = self.streams(daemon, 8, 600)
        self.fall_asleep(logind, daemon)
        self.assertSilent(running)
        self.wake_up(logind, daemon)
        self.check_streams(running, wanted)
        self.assertEqual(daemon.wait_engine(), engine)

    def test_engine_killed_asleep(self):
        logind, daemon = self.begin(null={"step_us": 5000})
        wanted = self.expect(daemon, 8, 600)
        engine = daemon.wait_engine()
        running = self.streams(daemon, 8, 600)
        self.fall_asleep(logind, daemon)
        self.assertSilent(running)
        os.kill(engine, signal.SIGKILL)
        until(lambda: engine not in daemon.children(), 10, "the engine's end")
        self.assertSilent(running)
        self.wake_up(logind, daemon)
        self.check_streams(running, wanted)
        self.assertNotEqual(daemon.wait_engine(), engine)

    def test_no_loss_of_the_requests(self):
        """An engine that is lost with each sleep is not counted against what it ran: else a stream would end after some nights."""
        logind, daemon = self.begin(null={"step_us": 5000}, limits={"engine_losses": 1})
        wanted = self.expect(daemon, 2, 300)
        running = self.streams(daemon, 2, 300)
        for _ in range(2):
            self.fall_asleep(logind, daemon)
            engine, = daemon.children()
            os.kill(engine, signal.SIGKILL)
            until(lambda: engine not in daemon.children(), 10, "the engine's end")
            self.wake_up(logind, daemon)
            daemon.wait_engine()
        self.check_streams(running, wanted)

    def test_engine_killed_asleep_real(self):
        """The same with a model that computes."""
        model = {"name": "tiny", "path": str(ROOT / "share/models/spark-tiny.gguf"), "default": True}
        logind, daemon = self.begin(backend="cpu", models=[model])
        engine = daemon.wait_engine()
        wanted = self.expect(daemon, 3, 120)
        running = self.streams(daemon, 3, 120)
        self.fall_asleep(logind, daemon)
        os.kill(engine, signal.SIGKILL)
        until(lambda: engine not in daemon.children(), 10, "the engine's end")
        self.wake_up(logind, daemon)
        self.check_streams(running, wanted)
        self.assertNotEqual(daemon.wait_engine(), engine)

    def test_engine_killed_while_waking(self):
        logind, daemon = self.begin(null={"step_us": 5000})
        wanted = self.expect(daemon, 4, 400)
        running = self.streams(daemon, 4, 400)
        self.fall_asleep(logind, daemon)
        engine = daemon.children()[0]
        os.kill(engine, signal.SIGSTOP)  # it does not answer the test
        logind.sleep(False)
        self.wait_power(daemon, sleep="resuming", inhibitor="held")
        self.assertEqual(self.model_state(daemon), "resuming")
        os.kill(engine, signal.SIGKILL)
        self.wait_power(daemon, sleep="awake")
        self.check_streams(running, wanted)

    def test_sleep_given_up(self):
        """Announced, and taken back at once; and once more while it wakes."""
        logind, daemon = self.begin(null={"step_us": 5000})
        wanted = self.expect(daemon, 4, 400)
        running = self.streams(daemon, 4, 400)
        for begins in (True, False, True, False, True, False):
            logind.sleep(begins)
        self.wait_power(daemon, sleep="awake", inhibitor="held")
        self.check_streams(running, wanted)
        until(lambda: logind.inhibitors() == [DELAY], 10, "one inhibitor")

    def test_sessions_and_usage(self):
        """What was said before is on disk when the machine sleeps."""
        logind, daemon = self.begin()
        with daemon.connect() as client:
            session = client.ask(session_create=pb.SessionCreate(persistent=True)).done.session.id
            for _ in range(3):
                self.assertDone(client.answer(client.generate(n=5, session=session))[2])
            self.fall_asleep(logind, daemon)
            files = list(pathlib.Path(daemon.folder).rglob(f"*{session}*"))
            self.assertTrue(files, list(pathlib.Path(daemon.folder).rglob("*")))
            daemon.process.kill()  # the battery is empty
            daemon.process.wait()
        daemon.start()
        with daemon.connect() as client:
            info, = self.sessions(client)
            self.assertEqual(info.id, session)
            self.assertGreaterEqual(info.tokens, 15)
            rows = client.ask(usage_query=pb.UsageQuery()).done.usage_report.rows
            self.assertEqual(sum(r.completion_tokens for r in rows), 15)


class Hung(SleepTestCase):
    def test_engine_hangs(self):
        """The inhibitor is given back in time all the same; the engine is replaced when it does not answer afterwards, which is not
        counted against what it ran."""
        logind, daemon = self.begin(null={"step_us": 5000}, limits={"engine_losses": 1})
        with daemon.connect() as client:
            want = client.answer(self.ask(client, NORMAL, n=100, seed=9), topup=True)[0]
            id = self.ask(client, NORMAL, n=100, seed=9)
            ids = client.tokens(id, 3)
            engine = daemon.wait_engine()
            os.kill(engine, signal.SIGSTOP)
            self.fall_asleep(logind, daemon)
            self.assertGreater(self.power(daemon).sleep_ms, 1000)
            self.assertIn("not everything is parked and written: an engine is awaited", daemon.log())
            self.assertTrue(any("in time" in note for note in self.power(daemon).notes))
            logind.sleep(False)
            self.wait_power(daemon, 40, sleep="awake", inhibitor="held")
            self.assertIn("did not answer a test", daemon.log())
            rest, _, end = client.answer(id, topup=True, seen=len(ids))
            self.assertDone(end)
            self.assertEqual(ids + rest, want)


    def test_disk_hangs(self):
        """Somebody holds the usage ledger: what is not written waits in memory, the machine does not."""
        logind, daemon = self.begin()
        with daemon.connect() as client:
            self.assertServed(client, NORMAL)
        until((daemon.folder / "usage.db").exists, 15, "the ledger")
        with contextlib.closing(sqlite3.connect(daemon.folder / "usage.db", isolation_level=None)) as ledger:
            ledger.execute("BEGIN EXCLUSIVE")
            with daemon.connect() as client:
                self.assertServed(client, NORMAL)
            self.fall_asleep(logind, daemon)
            self.assertIn("database is locked", daemon.log())
            ledger.execute("ROLLBACK")
        self.wake_up(logind, daemon)
        self.assertServes(daemon)


class FullDisk(SleepTestCase):
    def test_sessions(self):
        """What finds no room on the disk stays in memory and is written later; the machine does not wait for it."""
        disk = self.small_disk()
        logind, daemon = self.begin(state_dir=str(disk))
        with daemon.connect() as client:
            def turn():
                end = client.answer(client.generate(n=5, session=session))[2]
                self.assertDone(end)
                return end.done.session.tokens

            session = client.ask(session_create=pb.SessionCreate(persistent=True)).done.session.id
            turn()
            full = fill_disk(disk)
            said = turn()
            self.fall_asleep(logind, daemon)
            self.assertIn("could not be written: No space left on device; it is kept in memory", daemon.log())
            self.assertRegex(daemon.log(), "ready for the machine's sleep after [0-9]+ ms, but 1 session could not be written")
            self.wake_up(logind, daemon)
            info, = client.ask(sessions=pb.Sessions()).done.sessions.sessions
            self.assertEqual((info.id, info.tokens), (session, said))
            said = turn()
            full.unlink()
            until(lambda: "sessions can be written again" in daemon.log(), 20, "a session that is written")
            self.assertLess(self.fall_asleep(logind, daemon), min(2 * SLOW, LIMIT_S))
            daemon.process.kill()  # the battery is empty
            daemon.process.wait()
        daemon.start()
        with daemon.connect() as client:
            info, = self.sessions(client)
            self.assertEqual((info.id, info.tokens), (session, said))


class Logind(SleepTestCase):
    def test_restarts(self):
        logind, daemon = self.begin()
        logind.end()
        self.wait_power(daemon, inhibitor="absent", sleep="awake")
        again = self.logind()
        self.wait_power(daemon, inhibitor="held")
        self.assertEqual(again.inhibitors(), [DELAY])
        self.fall_asleep(again, daemon)
        self.wake_up(again, daemon)
        self.assertServes(daemon)

    def test_gone_while_asleep(self):
        """Nobody can say any more that the machine is awake: whoever takes its place says it does not sleep."""
        logind, daemon = self.begin()
        self.fall_asleep(logind, daemon)
        logind.end()
        again = self.logind()
        self.wait_power(daemon, sleep="awake", inhibitor="held")
        self.assertEqual(again.inhibitors(), [DELAY])
        self.assertServes(daemon)

    def test_found_preparing(self):
        """We start, or find the bus again, in the middle of it."""
        logind = self.mock(LOGIND, "logind", {"PreparingForSleep": True})
        daemon = self.daemon(bus="session", env={"DBUS_SESSION_BUS_ADDRESS": self.bus.address}, power={"sysfs": "/nonexistent"})
        self.wait_power(daemon, sleep="asleep")
        self.wake_up(logind, daemon)
        self.assertServes(daemon)

    def test_refuses(self):
        logind = self.mock(LOGIND)
        logind.mock("AddMethod", LOGIND[2], "Inhibit", "ssss", "h", "raise dbus.exceptions.DBusException('no', name='a.b.AccessDenied')")
        daemon = self.serve()
        power = self.wait_power(daemon, inhibitor="refused")
        self.assertTrue(any("does not let" in note for note in power.notes), power.notes)
        logind.sleep(True)  # it parks all the same
        self.wait_power(daemon, sleep="asleep")
        logind.sleep(False)
        self.wait_power(daemon, sleep="awake")
        self.assertServes(daemon)

    def test_refuses_for_a_while(self):
        """What is no policy passes, as when polkit is slow while the machine starts: it is asked again."""
        answer = "import os\nret = dbus.types.UnixFd(os.pipe()[1])"
        logind = self.mock(LOGIND)
        logind.mock("AddMethod", LOGIND[2], "Inhibit", "ssss", "h",
                    "raise dbus.exceptions.DBusException('later', name='org.freedesktop.DBus.Error.NoReply')")
        daemon = self.serve(null={"step_us": 5000})
        self.wait_power(daemon, inhibitor="refused")
        logind.mock("AddMethod", LOGIND[2], "Inhibit", "ssss", "h", answer)
        power = self.wait_power(daemon, 15, inhibitor="held")
        self.assertFalse(any("does not let" in note for note in power.notes), power.notes)

    def test_policy_refuses(self):
        """Who is not permitted to is told so once, and does not ask again and again."""
        logind = self.mock(LOGIND)
        logind.mock("AddMethod", LOGIND[2], "Inhibit", "ssss", "h",
                    "raise dbus.exceptions.DBusException('no', name='org.freedesktop.DBus.Error.AccessDenied')")
        daemon = self.serve()
        self.wait_power(daemon, inhibitor="refused")
        time.sleep(7)
        self.assertEqual(len(logind.mock("GetMethodCalls", "Inhibit")), 1)

    def test_waits_for_less(self):
        """InhibitDelayMaxSec=2: whatever hangs, the inhibitor is given back before logind does without it."""
        logind = self.logind()
        logind.mock("AddProperties", LOGIND[2], dbus.Dictionary({"InhibitDelayMaxUSec": dbus.UInt64(2000000)}, signature="sv"))
        daemon = self.serve(null={"step_us": 5000})
        self.wait_power(daemon, inhibitor="held")
        with daemon.connect() as client:
            client.tokens(self.ask(client, NORMAL, n=1000), 3)
            engine = daemon.wait_engine()
            os.kill(engine, signal.SIGSTOP)
            self.fall_asleep(logind, daemon)
            self.assertLess(self.power(daemon).sleep_ms, 2000)
            self.assertIn("not everything is parked and written: an engine is awaited", daemon.log())
            os.kill(engine, signal.SIGCONT)
            self.wake_up(logind, daemon)

    def test_not_wanted(self):
        logind = self.logind()
        daemon = self.serve(power={"sleep": "no"})
        self.wait_power(daemon, inhibitor="off")
        time.sleep(0.5)
        self.assertEqual(logind.inhibitors(), [])
        logind.sleep(True)
        self.assertServes(daemon)
        daemon.configure(bus="session", power={"sysfs": "/nonexistent"})
        daemon.signal(signal.SIGHUP)
        self.wait_power(daemon, inhibitor="held")
        daemon.configure(bus="session", power={"sysfs": "/nonexistent", "sleep": "no"})
        daemon.signal(signal.SIGHUP)
        self.wait_power(daemon, inhibitor="off")
        until(lambda: logind.inhibitors() == [], 10, "no inhibitor")

    def test_end(self):
        logind, daemon = self.begin()
        self.assertEqual(daemon.stop(), 0)
        until(lambda: logind.inhibitors() == [], 10, "no inhibitor")


@needs_root
class Awake(SleepTestCase):
    """A person waits for an answer: the machine does not fall asleep meanwhile."""

    HELD = sorted([DELAY, ("sleep", "block"), ("idle", "block")])

    def stream(self, daemon, uid, priority=INTERACTIVE):
        client = daemon.connect(uid)
        self.addCleanup(client.close)
        id = client.request(generate=pb.Generate(prompt=b"Once", priority=priority, credit=100000,
                                                 sampling=pb.Sampling(max_tokens=10000, seed=1)))
        client.tokens(id, 1)
        reader = threading.Thread(target=self.read_on, args=(client,))
        reader.start()
        self.addCleanup(reader.join)
        self.addCleanup(lambda: client.sock.shutdown(socket.SHUT_RDWR))
        return client, id

    @staticmethod
    def read_on(client):
        with contextlib.suppress(Closed, OSError):
            while True:
                client.receive()

    def test_person(self):
        logind, daemon = self.begin(null={"step_us": 5000})
        client, id = self.stream(daemon, PERSON)
        self.wait_power(daemon, awake="sleep:idle")
        self.assertEqual(logind.inhibitors(), self.HELD)
        client.cancel(id)
        self.wait_power(daemon, awake="")
        until(lambda: logind.inhibitors() == [DELAY], 10, "the delay alone")

    def test_nobody_else(self):
        logind, daemon = self.begin(null={"step_us": 5000})
        self.stream(daemon, SERVICE)
        self.stream(daemon, 0)
        self.stream(daemon, PERSON, NORMAL)
        time.sleep(2.5)
        self.assertEqual(logind.inhibitors(), [DELAY])

    def test_all(self):
        logind, daemon = self.begin(null={"step_us": 5000}, power={"stay_awake": "all"})
        self.stream(daemon, SERVICE)
        until(lambda: logind.inhibitors() == self.HELD, 10, "the blocks")

    def test_no(self):
        logind, daemon = self.begin(null={"step_us": 5000}, power={"stay_awake": "no"})
        self.stream(daemon, PERSON)
        time.sleep(2.5)
        self.assertEqual(logind.inhibitors(), [DELAY])

    def test_a_reader_that_rests(self):
        """Who does not read keeps nobody awake."""
        logind, daemon = self.begin(null={"step_us": 1000})
        client = daemon.connect(PERSON)
        self.addCleanup(client.close)
        id = client.request(generate=pb.Generate(prompt=b"Once", priority=INTERACTIVE, credit=10,
                                                 sampling=pb.Sampling(max_tokens=10000, seed=1)))
        client.tokens(id, 10)
        time.sleep(3)
        until(lambda: logind.inhibitors() == [DELAY], 10, "the delay alone")  # that it rests is news of the engine's
        time.sleep(1.5)
        self.assertEqual(logind.inhibitors(), [DELAY])

    def test_low_battery(self):
        """Never then; and what was held is let go."""
        upower = self.upower()
        logind, daemon = self.begin(null={"step_us": 5000})
        self.stream(daemon, PERSON)
        upower.supply(True, 60)
        self.wait_power(daemon, supply="battery", awake="sleep:idle")
        upower.supply(True, 15)
        self.wait_power(daemon, supply="low", awake="")
        until(lambda: logind.inhibitors() == [DELAY], 10, "the delay alone")
        upower.supply(False, 15)
        self.wait_power(daemon, supply="mains", awake="sleep:idle")

    def test_idle_only(self):
        """Where polkit does not let us forbid sleep, idleness is held off, and status says so."""
        logind = self.mock(LOGIND)
        logind.mock("AddMethod", LOGIND[2], "Inhibit", "ssss", "h",
                    "import os\n"
                    "if 'sleep' in args[0] and args[3] == 'block': raise dbus.exceptions.DBusException('no', name='a.b.No')\n"
                    "ret = dbus.types.UnixFd(os.pipe()[1])")
        daemon = self.serve(null={"step_us": 5000})
        self.wait_power(daemon, inhibitor="held")
        self.stream(daemon, PERSON)
        power = self.wait_power(daemon, awake="idle")
        self.assertTrue(any("forbid sleep" in note for note in power.notes), power.notes)

    def test_sleep_all_the_same(self):
        """Who has the right to it lets the machine sleep; the block is given back with the delay."""
        logind, daemon = self.begin(null={"step_us": 5000})
        self.stream(daemon, PERSON)
        self.wait_power(daemon, awake="sleep:idle")
        self.fall_asleep(logind, daemon)


if __name__ == "__main__":
    unittest.main()
