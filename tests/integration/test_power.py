#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Power supply: what is served on mains, on battery, on a low one, with the profile power-saver; whoever says so coming and
going. Null backend; UPower and power-profiles-daemon are mocks on a private bus."""

import contextlib
import ctypes
import json
import os
import pathlib
import signal
import struct
import subprocess
import tempfile
import threading
import time
import unittest

from harness import BUILD, ROOT, SLOW
from power_harness import *
from test_cuda import CudaCase


class NobodyThere(PowerTestCase):
    def test_no_bus(self):
        """A private run: everything is served, and status says what is not there."""
        daemon = self.daemon(power={"sysfs": "/nonexistent"})
        power = self.power(daemon)
        self.assertEqual((power.supply, power.source, power.serves), ("mains", "none", "background"))
        self.assertEqual((power.sleep, power.inhibitor, power.energy_source), ("awake", "absent", "unknown"))
        self.assertEqual(power.joules_per_token, 0)
        self.assertFalse(power.temperature_known)
        self.assertTrue(any("No bus" in note for note in power.notes), power.notes)
        with daemon.connect() as client:
            self.assertServed(client, BACKGROUND)

    def test_nobody_on_the_bus(self):
        daemon = self.serve()
        power = self.power(daemon)
        self.assertEqual((power.supply, power.source, power.inhibitor), ("mains", "none", "absent"))
        self.assertTrue(any("logind is not on the bus" in note for note in power.notes), power.notes)

    def test_source_none(self):
        self.upower(OnBattery=True)
        daemon = self.serve(power={"source": "none"})
        time.sleep(1.5)
        self.assertEqual((self.power(daemon).supply, self.power(daemon).source), ("mains", "none"))

    def test_source_none_until_reload(self):
        """Nobody is believed, the profile neither; with a configuration that says otherwise both count at once."""
        upower = self.upower()
        profiles = self.mock(PROFILES, "power_profiles_daemon")
        daemon = self.serve(power={"source": "none"})
        upower.supply(True, 15)
        profiles.set("ActiveProfile", dbus.String("power-saver"))
        self.wait_power(daemon, profile="power-saver")
        self.assertNotIn("power supply: battery", daemon.log())
        daemon.configure(bus="session", power={"sysfs": "/nonexistent"})
        daemon.signal(signal.SIGHUP)
        self.wait_power(daemon, source="upower", supply="low")
        upower.supply(False, 15)
        self.wait_power(daemon, source="upower", supply="battery")  # the profile
        daemon.configure(bus="session", power={"sysfs": "/nonexistent", "source": "none"})
        daemon.signal(signal.SIGHUP)
        self.wait_power(daemon, source="none", supply="mains")


class Battery(PowerTestCase):
    def test_levels(self):
        """Down and up again, as the default table has it."""
        upower = self.upower()
        daemon = self.serve()
        self.wait_power(daemon, source="upower", supply="mains")
        with daemon.connect() as client:
            for priority in (BACKGROUND, NORMAL, INTERACTIVE):
                self.assertServed(client, priority)
            upower.supply(True, 60)
            power = self.wait_power(daemon, supply="battery", serves="normal")
            self.assertTrue(power.has_battery)
            self.assertAlmostEqual(power.percent, 60)
            self.assertDeferred(client, BACKGROUND, "the machine runs on battery (60 %)")
            self.assertServed(client, NORMAL)
            upower.supply(True, 19)
            self.wait_power(daemon, supply="low", serves="interactive")
            self.assertDeferred(client, BACKGROUND, "nearly empty (19 %)")
            self.assertDeferred(client, NORMAL, "nearly empty (19 %)")
            self.assertServed(client, INTERACTIVE)
            upower.supply(True, 4)
            self.wait_power(daemon, supply="critical", serves="none")
            self.assertDeferred(client, NORMAL, "No requests are served now")
            waiting = self.ask(client, INTERACTIVE)
            self.assertEqual(client.receive_of(waiting).progress.stage, "power")
            self.assertTrue(client.nothing_comes(0.5))  # it is said once
            self.assertEqual(client.ask(models=pb.Models()).done.models.models[0].held, "power")
            upower.supply(False, 4)
            self.assertDone(client.answer(waiting)[2])
            self.wait_power(daemon, supply="mains", serves="background")
            self.assertServed(client, BACKGROUND)
        for said in ("power supply: battery (was mains)", "power supply: low (was battery)", "power supply: critical (was low)",
                     "power supply: mains (was critical)"):
            self.assertIn(said, daemon.log())

    def test_warning_level(self):
        """UPower knows a battery better than a percentage does."""
        upower = self.upower()
        daemon = self.serve()
        upower.supply(True, 50, warning=3)
        self.wait_power(daemon, supply="low")
        upower.supply(True, 50, warning=4)
        self.wait_power(daemon, supply="critical")
        upower.supply(True, 50, warning=1)
        self.wait_power(daemon, supply="battery")

    def test_there_again(self):
        """Power that is back counts after some seconds: until then it is not said that there is none, and to come back soon."""
        upower = self.upower(OnBattery=True)
        daemon = self.serve()
        self.wait_power(daemon, supply="battery")
        with daemon.connect() as client:
            upower.supply(False)

            def settling():  # the news may be slower than the question
                end = client.answer(self.ask(client, BACKGROUND))[2]
                self.assertError(end, "DEFERRED_ON_BATTERY")
                return end if "until a moment ago" in end.error.message else None
            self.assertEqual(until(settling, 10, "power that settles").error.retry_after_ms, 3000)
            until(lambda: client.answer(self.ask(client, BACKGROUND))[2].WhichOneof("body") == "done", 10, "mains")

    def test_upower_is_slow(self):
        """It is on the bus before it has anything to say: it is asked again."""
        upower = self.mock((UPOWER[0], "/not/yet", UPOWER[2]))
        daemon = self.serve()
        self.wait_power(daemon, source="none", supply="mains")
        upower.mock("AddObject", UPOWER[1], UPOWER[2], dbus.Dictionary({"OnBattery": True}, signature="sv"),
                    dbus.Array([], signature="(ssss)"))
        self.wait_power(daemon, 20, source="upower", supply="battery")

    def test_waits(self):
        """deferred = "wait": nobody is refused, and what waited is served when the plug is in."""
        upower = self.upower(OnBattery=True)
        daemon = self.serve(power={"deferred": "wait"})
        self.wait_power(daemon, supply="battery")
        with daemon.connect() as client:
            waiting = self.ask(client, BACKGROUND)
            self.assertEqual(client.receive_of(waiting).progress.stage, "power")
            self.assertTrue(client.nothing_comes(0.5))
            self.assertEqual(client.ask(models=pb.Models()).done.models.models[0].held, "")  # others are served
            self.assertServed(client, NORMAL)
            upower.supply(False)
            self.assertDone(client.answer(waiting)[2])

    def test_load_goes_on(self):
        """A model that is being loaded for a request which power holds up is loaded all the same; where nothing is served, it is not."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        model = os.path.join(folder.name, "large.gguf")
        self.make_model(model, "--shape", "llama-1b", "--format", "q4_k_m", "--sparse")
        upower = self.upower()
        daemon = self.serve(backend="cpu", threads=1, models=[{"name": "large", "path": model, "resident": "demand"}])
        self.wait_power(daemon, source="upower")
        with daemon.connect() as client:
            self.ask(client, NORMAL)
            loader, = until(lambda: daemon.children("spark-loader"), 10, "a loader")
            os.kill(loader, signal.SIGSTOP)
            upower.supply(True, 15)
            self.wait_power(daemon, supply="low")
            self.assertEqual(daemon.children("spark-loader"), [loader])
            upower.supply(True, 3)
            until(lambda: not daemon.children("spark-loader"), 10, "the loader's end")
            self.assertIn("its load is given up", daemon.log())

    def test_running_stream(self):
        """One that runs when the plug is pulled goes on for as many tokens as it had been granted, and no further; then it goes on
        with the token that was due."""
        upower = self.upower()
        daemon = self.serve(null={"step_us": 300})
        with daemon.connect() as client:
            want = client.answer(self.ask(client, NORMAL, n=4000, seed=3), topup=True)[0]
            id = client.request(generate=pb.Generate(prompt=b"Once", priority=BACKGROUND, credit=2000,
                                                     sampling=pb.Sampling(max_tokens=4000, seed=3)))
            ids = client.tokens(id, 10)
            upower.supply(True, 60)
            self.wait_power(daemon, supply="battery")
            client.credit(id, 100000)  # however late the news came, it had not ended
            end = time.monotonic() + 20 * SLOW
            while not client.nothing_comes(1):
                ids += sum((list(f.token.ids) for f in list(client.waiting[id])), [])
                client.waiting[id].clear()
                self.assertLess(time.monotonic(), end)
            self.assertLess(len(ids), 4000)
            upower.supply(False)
            rest, _, end = client.answer(id, seen=len(ids))
            self.assertDone(end)
            self.assertEqual(ids + rest, want)

    def test_parked_stream(self):
        """A critical battery stops what runs, whoever asked for it, at once; the plug lets it go on where it was."""
        upower = self.upower()
        daemon = self.serve(null={"step_us": 2000})
        with daemon.connect() as client:
            want = client.answer(self.ask(client, INTERACTIVE, n=2000, seed=3), topup=True)[0]
            id = client.request(generate=pb.Generate(prompt=b"Once", priority=INTERACTIVE, credit=1900,
                                                     sampling=pb.Sampling(max_tokens=2000, seed=3)))
            ids = client.tokens(id, 10)
            upower.supply(True, 3)
            self.wait_power(daemon, supply="critical")
            client.credit(id, 100000)  # however late the news came, it had not ended
            while not client.nothing_comes(0.5):
                pass
            while client.waiting[id]:
                ids += client.waiting[id].popleft().token.ids
            self.assertLess(len(ids), 2000)
            upower.supply(False)
            rest, _, end = client.answer(id, seen=len(ids))
            self.assertDone(end)
            self.assertEqual(ids + rest, want)

    def test_goes_and_comes(self):
        """Without UPower the kernel's files count; with it, UPower does."""
        files = self.sys()
        files.put("power_supply/BAT0/type", "Battery")
        files.put("power_supply/BAT0/status", "Discharging")
        files.put("power_supply/BAT0/capacity", "55")
        upower = self.upower()
        daemon = self.serve(power={"sysfs": files.path})
        self.wait_power(daemon, source="upower", supply="mains")
        upower.end()
        power = self.wait_power(daemon, source="sysfs", supply="battery")
        self.assertAlmostEqual(power.percent, 55)
        files.put("power_supply/BAT0/capacity", "12")
        self.wait_power(daemon, supply="low", timeout=15)
        self.upower()
        self.wait_power(daemon, source="upower", supply="mains", timeout=15)

    def test_bus_goes_and_comes(self):
        self.upower(OnBattery=True)
        daemon = self.serve()
        self.wait_power(daemon, source="upower", supply="battery")
        self.bus.stop()
        self.wait_power(daemon, source="none", supply="mains", timeout=15)
        self.bus.start()
        self.upower(OnBattery=True)
        self.wait_power(daemon, source="upower", supply="battery", timeout=20)

    def test_reload(self):
        """A new configuration counts at once."""
        upower = self.upower()
        daemon = self.serve()
        upower.supply(True, 30)
        self.wait_power(daemon, supply="battery", serves="normal")
        daemon.configure(bus="session", power={"sysfs": "/nonexistent", "on_battery": "background", "low_percent": 35})
        daemon.signal(1)
        self.wait_power(daemon, supply="low", serves="interactive")


def kernel_clamps():
    """Whether this kernel knows of uclamp: tried on this process, which is capped at all that there is."""
    attributes = struct.pack("IIQiIQQQII", 56, 0, 0x58, 0, 0, 0, 0, 0, 0, 1024)
    number = {"x86_64": 314, "aarch64": 274}[os.uname().machine]
    return ctypes.CDLL(None).syscall(number, 0, attributes, 0) == 0


class Caps(PowerTestCase):
    """Rows, threads and clocks by power supply, with a model that computes."""

    MODELS = [{"name": "tiny", "path": str(ROOT / "share/models/spark-tiny.gguf"), "default": True}]
    POWER = {"battery_batch": 8, "battery_threads": 1, "battery_clocks": 50}

    def serve_cpu(self, **power):
        daemon = self.serve(backend="cpu", threads=3, models=self.MODELS, power={**self.POWER, **power})
        daemon.wait_engine()
        return daemon

    def wait_capped(self, daemon, **fields):
        """All that was asked for is in force, or, of the clocks, known not to be possible here."""
        clocks = kernel_clamps()
        return self.wait_power(daemon, in_force="batch threads clocks" if clocks else "batch threads",
                               clocks_by="uclamp" if clocks else "", refused="" if clocks else "clocks: unsupported", **fields)

    def test_levels(self):
        upower = self.upower()
        daemon = self.serve_cpu(low_batch=4, low_threads=2, mains_batch=0)
        self.wait_power(daemon, supply="mains", batch=0, threads=0, clocks=0, in_force="", refused="")
        upower.supply(True, 60)
        power = self.wait_capped(daemon, supply="battery", batch=8, threads=1, clocks=50)
        if not kernel_clamps():
            self.assertIn("Clocks are not capped: neither the kernel nor a driver does it here.", power.notes)
            self.assertEqual(daemon.log().count("clocks are not capped"), 1)
        said = subprocess.run([BUILD / "bin/sparkctl", "-S", daemon.socket, "status"], stdout=subprocess.PIPE, text=True,
                              check=True).stdout
        self.assertRegex(said, r"\nCaps:  batch 8, threads 1, clocks 50 %; in force: batch threads")
        said = subprocess.run([BUILD / "bin/sparkctl", "-S", daemon.socket, "--json", "status"], stdout=subprocess.PIPE,
                              text=True, check=True).stdout
        said = json.loads(said)["power"]
        self.assertEqual((said["batch"], said["threads"], said["clocks"]), (8, 1, 50))
        self.assertEqual((said["in_force"], said["clocks_by"], said["refused"]), (power.in_force, power.clocks_by, power.refused))
        upower.supply(True, 10)
        self.wait_power(daemon, supply="low", batch=4, threads=2, clocks=0, in_force="batch threads", refused="")
        upower.supply(True, 60)
        self.wait_capped(daemon, supply="battery")
        upower.supply(False)
        self.wait_power(daemon, supply="mains", batch=0, threads=0, clocks=0, in_force="", refused="")
        self.assertLessEqual(daemon.log().count("clocks are not capped"), 1)  # said once, whatever happens since

    def test_defaults(self):
        """On battery a step has 128 rows, on a low one 32; nothing else is capped, and on mains nothing at all."""
        upower = self.upower()
        daemon = self.serve()
        self.wait_power(daemon, supply="mains", batch=0, threads=0, clocks=0, in_force="")
        upower.supply(True, 60)
        self.wait_power(daemon, batch=128, threads=0, clocks=0, in_force="batch", refused="")
        upower.supply(True, 10)
        self.wait_power(daemon, batch=32, threads=0, clocks=0, in_force="batch", refused="")

    def test_check(self):
        """sparkd --check prints what is in effect, and names what is wrong."""
        daemon = self.daemon(power={"hot_clocks": 80})
        check = [BUILD / "bin/sparkd", "--check", "--config", daemon.config]
        said = subprocess.run(check, stdout=subprocess.PIPE, text=True, check=True).stdout
        for line in ("mains_batch = 0;", "battery_batch = 128;", "low_batch = 32;", "hot_clocks = 80;", "low_threads = 0;"):
            self.assertIn(f"\n  {line}\n", said)
        daemon.configure(power={"battery_clocks": 101})
        said = subprocess.run(check, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        self.assertNotEqual(said.returncode, 0)
        self.assertIn("'battery_clocks' is 101, allowed are 0 to 100", said.stdout)

    def streams(self, client):
        return [client.request(generate=pb.Generate(prompt=b"Once upon a time " * (3 * i + 1), credit=100000,
                                                    sampling=pb.Sampling(max_tokens=150, seed=i))) for i in range(12)]

    def test_bits(self):
        """Twelve streams, and the plug in and out all the time: each gives the tokens that it gives without."""
        upower = self.upower()
        daemon = self.serve_cpu(on_battery="background", on_low="background")
        with daemon.connect() as client:
            want = [client.answer(id)[0] for id in self.streams(client)]
            changes, stop = [], threading.Event()

            def plug():
                while not stop.wait(0.05):
                    upower.supply(len(changes) % 3 > 0, (60, 60, 10)[len(changes) % 3])
                    changes.append(1)

            plugger = threading.Thread(target=plug)
            plugger.start()
            try:
                rounds, limit = 0, time.monotonic() + 60 * SLOW
                while rounds < 3 or (len(changes) <= 5 and time.monotonic() < limit):  # the mock may be slow
                    rounds += 1
                    got = []
                    for id in self.streams(client):
                        ids, _, end = client.answer(id)
                        self.assertDone(end)
                        got.append(ids)
                    self.assertEqual(got, want)
            finally:
                stop.set()
                plugger.join()
            self.assertGreater(len(changes), 5)

    def workers(self, engine):
        """Nanoseconds on a processor of the engine's workers, the thread that makes steps not counted."""
        return {task.name: int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in self.tasks(engine)}

    @staticmethod
    def tasks(engine):
        tasks = pathlib.Path(f"/proc/{engine}/task").iterdir()
        return [task for task in tasks if (task / "comm").read_text(encoding="ascii").strip() == "kernels"]

    def asleep(self, engine):
        """None of them is on its way to where it sleeps."""
        return all((task / "stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] == "S" for task in self.tasks(engine))

    def test_threads(self):
        """Those that are not to take part sleep; with the plug in they are back."""
        upower = self.upower(OnBattery=True)
        daemon = self.serve_cpu(battery_batch=0)
        self.wait_power(daemon, supply="battery", threads=1)
        until(lambda: "threads" in self.power(daemon).in_force, 10, "the cap")
        engine, = daemon.children()
        until(lambda: self.asleep(engine), 10, "workers that sleep")
        with daemon.connect() as client:
            before = self.workers(engine)
            self.assertEqual(len(before), 2)
            for id in self.streams(client):
                self.assertDone(client.answer(id)[2])
            self.assertEqual(self.workers(engine), before)
            upower.supply(False)
            self.wait_power(daemon, supply="mains", in_force="")
            for id in self.streams(client):
                self.assertDone(client.answer(id)[2])
            after = self.workers(engine)
            self.assertTrue(all(after[task] > before[task] for task in before), (before, after))

    def test_later_engines(self):
        """One that is started on battery is told, and so is the one in the place of one that was killed; what it replays is right."""
        self.upower(OnBattery=True)
        daemon = self.serve_cpu()
        self.wait_capped(daemon, supply="battery")
        with daemon.connect() as client:
            want = client.answer(self.ask(client, NORMAL, n=300, seed=3), topup=True)[0]
            id = client.request(generate=pb.Generate(prompt=b"Once", credit=100000, sampling=pb.Sampling(max_tokens=300, seed=3)))
            ids = client.tokens(id, 10)
            before, = daemon.children()
            os.kill(before, signal.SIGKILL)
            rest, _, end = client.answer(id, seen=len(ids))
            self.assertDone(end)
            self.assertEqual(ids + rest, want)
        self.wait_capped(daemon)
        self.assertNotEqual(daemon.children(), [before])

    def test_reload(self):
        self.upower(OnBattery=True)
        daemon = self.serve_cpu(battery_clocks=0)
        self.wait_power(daemon, batch=8, in_force="batch threads")
        daemon.configure(bus="session", backend="cpu", threads=3, models=self.MODELS,
                         power={"sysfs": "/nonexistent", "battery_batch": 6, "battery_threads": 2})
        daemon.signal(signal.SIGHUP)
        self.wait_power(daemon, batch=6, threads=2, in_force="batch threads")

    def test_bus(self):
        """On the bus, and told when it changes."""
        upower = self.upower()
        daemon = self.serve_cpu(battery_clocks=0)
        bus, heard = self.connect(), self.monitor()
        upower.supply(True, 60)
        self.wait_power(daemon, batch=8, in_force="batch threads")

        def told():
            said = "".join(heard)
            return "'Batch': <uint32 8>" in said and "'InForce': <'batch threads'>" in said and "'Threads': <uint32 1>" in said
        with contextlib.suppress(AssertionError):
            until(told, 10, "the signals")
        self.assertTrue(told(), heard)
        got = self.call(bus, "GetAll", "s", ("org.sparkd.Spark1.Power",), "/org/sparkd/Spark1/power",
                        "org.freedesktop.DBus.Properties")
        self.assertEqual([got[name] for name in ("Batch", "Threads", "Clocks", "InForce", "ClocksBy", "Refused")],
                         [8, 1, 0, "batch threads", "", ""])


class CapsOfADevice(CudaCase):
    def test_refused(self):
        """A device computes with no thread of the host's; without the driver's library nobody caps its clocks. It serves as ever."""
        daemon = self.cuda(power={"sysfs": "/nonexistent", "mains_batch": 4, "mains_threads": 2, "mains_clocks": 60})
        daemon.wait_engine()

        def power():
            with daemon.connect() as client:
                return client.ask(status=pb.Status()).done.status.power
        until(lambda: power().refused, 10, "the engine's answer")
        said = power()
        self.assertEqual((said.in_force, said.clocks_by, said.refused), ("batch", "", "threads: unsupported, clocks: unsupported"))
        self.assertEqual(len([note for note in said.notes if "not capped" in note]), 2)
        self.assertEqual(daemon.log().count("clocks are not capped"), 1)
        with daemon.connect() as client:
            self.assertDone(client.ask(generate=pb.Generate(prompt=b"Once", sampling=pb.Sampling(max_tokens=4))))


class Profiles(PowerTestCase):
    def test_power_saver(self):
        profiles = self.mock(PROFILES, "power_profiles_daemon")
        daemon = self.serve()
        self.wait_power(daemon, profile="balanced", supply="mains")
        profiles.set("ActiveProfile", dbus.String("power-saver"))
        self.wait_power(daemon, profile="power-saver", supply="battery", serves="normal")
        with daemon.connect() as client:
            self.assertDeferred(client, BACKGROUND, "the power profile is 'power-saver'")
        profiles.set("ActiveProfile", dbus.String("performance"))
        self.wait_power(daemon, profile="performance", supply="mains")
        profiles.set("ActiveProfile", dbus.String("power-saver"))
        self.wait_power(daemon, supply="battery")
        profiles.end()
        self.wait_power(daemon, profile="", supply="mains")

    def test_new_name(self):
        names = ("org.freedesktop.UPower.PowerProfiles", "/org/freedesktop/UPower/PowerProfiles",
                 "org.freedesktop.UPower.PowerProfiles")
        profiles = self.mock(names)
        profiles.mock("AddProperties", names[2], dbus.Dictionary({"ActiveProfile": "power-saver"}, signature="sv"))
        daemon = self.serve()
        self.wait_power(daemon, profile="power-saver", supply="battery")

    def test_not_wanted(self):
        self.mock(PROFILES, "power_profiles_daemon", {"ActiveProfile": "power-saver"})
        daemon = self.serve(power={"power_saver": "no"})
        self.wait_power(daemon, profile="power-saver", supply="mains")


if __name__ == "__main__":
    unittest.main()
