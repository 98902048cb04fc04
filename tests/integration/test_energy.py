#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What tokens cost: budgets on battery, joules by a made-up counter of the processor's, and what is said where nobody measures. Null
backend; UPower is a mock on a private bus."""

import json
import signal
import subprocess
import threading
import time
import unittest

from harness import BUILD, SLOW, within_a_day
from power_harness import *


class Budgets(PowerTestCase):
    @within_a_day
    def test_tokens_on_battery(self):
        upower = self.upower()
        daemon = self.serve(power={"battery_tokens_per_day": 40})
        with daemon.connect() as client:
            self.assertDone(client.answer(self.ask(client, NORMAL, n=100))[2])  # mains: not counted
            upower.supply(True, 60)
            self.wait_power(daemon, supply="battery")
            self.assertDone(client.answer(self.ask(client, NORMAL, n=50))[2])
            self.assertDeferred(client, NORMAL, "of the 40 that it may use")
            self.assertDeferred(client, INTERACTIVE, "of the 40 that it may use")
            me = client.ask(status=pb.Status()).done.status.users[0]
            self.assertGreaterEqual(me.battery_tokens_today, 50)
            self.assertLess(me.battery_tokens_today, 80)
            self.assertEqual(me.battery_tokens_per_day, 40)
            upower.supply(False)
            self.wait_power(daemon, supply="mains")
            self.assertServed(client, NORMAL)


class Energy(PowerTestCase):
    def rapl(self):
        """Files of a counter of 20 W, which counts until the test's end."""
        files = self.sys()
        for name, text in (("name", "package-0"), ("max_energy_range_uj", 10 ** 12), ("energy_uj", 1)):
            files.put(f"powercap/intel-rapl:0/{name}", text)
        stop = threading.Event()

        def count():
            began = time.monotonic()
            while not stop.wait(0.02):
                files.put_in_place("powercap/intel-rapl:0/energy_uj", 10 ** 9 + int((time.monotonic() - began) * 20e6))

        counter = threading.Thread(target=count)
        counter.start()
        self.addCleanup(counter.join)
        self.addCleanup(stop.set)
        return files

    @within_a_day
    def test_rapl(self):
        """A made-up counter of 20 W: joules per token come out as the time that tokens take says, and a budget in joules counts."""
        files = self.rapl()
        upower = self.upower(OnBattery=True)
        daemon = self.serve(null={"step_us": 10000}, power={"sysfs": files.path, "battery_joules_per_day": 5})
        self.wait_power(daemon, energy_source="rapl", supply="battery")
        with daemon.connect() as client:
            began = time.monotonic()
            end = client.answer(self.ask(client, NORMAL, n=400), topup=True)[2]
            self.assertDone(end)
            expected = 20 * (time.monotonic() - began) / 400
            tokens = end.done.usage.prompt_tokens + end.done.usage.completion_tokens
            # what the last of them took comes with the next look at the counter
            until(lambda: client.ask(usage_query=pb.UsageQuery()).done.usage_report.energy_tokens_today == tokens, 10,
                  "the energy of all tokens")
            power = self.power(daemon)
            self.assertTrue(expected / 2 < power.joules_per_token < expected * 2, f"{power}, about {expected} expected")
            self.assertGreater(power.energy_tokens, 100)
            for verb in ("status", "top"):
                said = subprocess.run([BUILD / "bin/sparkctl", "-S", daemon.socket, verb], stdout=subprocess.PIPE, text=True,
                                      check=True).stdout
                self.assertRegex(said, r"battery.* J per token \(rapl\)")
                self.assertRegex(said, r"\n\w+ .* >?[\d.]+ J\n")  # the last second may be missing
            me = client.ask(status=pb.Status()).done.status.users[0]
            self.assertGreater(me.battery_energy_uj_today, 5000000)
            self.assertEqual(me.battery_energy_uj_today, me.energy_uj_today)  # of one count, all of it on battery
            report = client.ask(usage_query=pb.UsageQuery()).done.usage_report
            row, = report.rows
            self.assertEqual((row.energy_uj, row.energy_tokens), (report.energy_uj_today, report.energy_tokens_today))
            self.assertGreaterEqual(row.energy_uj, me.energy_uj_today)
            if self.power(daemon).energy_tokens == tokens:  # none was in a second that took too long to be a measure
                self.assertAlmostEqual(row.energy_uj, self.power(daemon).energy_uj, delta=1000)
            said = subprocess.run([BUILD / "bin/sparkctl", "-S", daemon.socket, "usage"], stdout=subprocess.PIPE, text=True,
                                  check=True).stdout
            self.assertRegex(said, r"REFUSED +ENERGY\n.* >?[\d.]+ J\n")
            day, uid, model, *counts = self.call(self.connect(), "ListUsage", "ub", (1, False))[0]
            row, = client.ask(usage_query=pb.UsageQuery(days=1)).done.usage_report.rows
            self.assertEqual((day, uid, model), (row.day, row.uid, row.model))
            self.assertEqual(counts, [row.requests, row.prompt_tokens, row.cached_tokens, row.completion_tokens, row.refused,
                                      row.energy_uj, row.energy_tokens])
            self.assertEqual(self.call(self.connect(), "ListUsage", "ub", (0, True))[0][1], uid)
            self.assertRegex(said, r"The energy for that: >?[\d.]+ J\.\n")
            self.assertDeferred(client, NORMAL, "joules on battery today, of the 5 that it may use")
            upower.supply(False)
            self.wait_power(daemon, supply="mains")
            self.assertServed(client, NORMAL)

    @within_a_day
    def test_kept_over_a_restart(self):
        """What was spent stays spent, and counts for the budget; killed or stopped, at most the last seconds are missing."""
        files = self.rapl()
        self.upower(OnBattery=True)
        daemon = self.serve(null={"step_us": 10000}, power={"sysfs": files.path, "battery_joules_per_day": 5000})
        self.wait_power(daemon, energy_source="rapl", supply="battery")
        with daemon.connect() as client:
            self.assertDone(client.answer(self.ask(client, NORMAL, n=200), topup=True)[2])
            before = until(lambda: client.ask(usage_query=pb.UsageQuery()).done.usage_report.energy_uj_today, 5, "joules")
        daemon.signal(signal.SIGTERM)
        daemon.process.wait(20 * SLOW)
        daemon.start()
        self.wait_power(daemon, energy_source="rapl", supply="battery")
        with daemon.connect() as client:
            def today():
                report = client.ask(usage_query=pb.UsageQuery()).done.usage_report
                return report.energy_uj_today if report.energy_uj_today >= before else 0
            after = until(today, 10, "today's sums")
            row, = client.ask(usage_query=pb.UsageQuery()).done.usage_report.rows
            self.assertEqual(row.energy_uj, after)
            self.assertEqual(client.ask(status=pb.Status()).done.status.users[0].battery_energy_uj_today, after)
            budget = max(1, after // 1000000)
            daemon.configure(bus="session", null={"step_us": 10000},
                             power={"sysfs": files.path, "battery_joules_per_day": budget})
            daemon.signal(signal.SIGHUP)
            until(lambda: client.ask(status=pb.Status()).done.status.users[0].battery_joules_per_day == budget, 10,
                  "the budget")
            self.assertDeferred(client, NORMAL, "joules on battery today")

    @within_a_day
    def test_unknown(self):
        """Without a meter tokens are counted, and their energy is not known, which is what is said."""
        daemon = self.daemon(power={"sysfs": "/nonexistent"})
        with daemon.connect() as client:
            self.assertServed(client, NORMAL)
            row, = until(lambda: client.ask(usage_query=pb.UsageQuery()).done.usage_report.rows, 10, "a row")
            self.assertEqual((row.energy_uj, row.energy_tokens), (0, 0))
        said = subprocess.run([BUILD / "bin/sparkctl", "-S", daemon.socket, "usage"], stdout=subprocess.PIPE, text=True,
                              check=True).stdout
        self.assertRegex(said, r"\n\d{4}-\d\d-\d\d .* unknown\n")
        self.assertIn("The energy for that: unknown.", said)
        def of(verb):
            return json.loads(subprocess.run([BUILD / "bin/sparkctl", "-S", daemon.socket, "--json", verb],
                                             stdout=subprocess.PIPE, text=True, check=True).stdout)
        row, = of("usage")["rows"]
        self.assertEqual((row["energy_uj"], row["energy_tokens"], of("usage")["energy_uj_today"]), ("unknown", 0, "unknown"))
        status = of("status")
        self.assertEqual((status["power"]["energy_uj"], status["power"]["joules_per_token"]), ("unknown", "unknown"))
        self.assertEqual((status["users"][0]["energy_uj_today"], status["users"][0]["battery_energy_uj_today"]), ("unknown",) * 2)

    def test_temperature(self):
        files = self.sys()
        files.put("thermal/thermal_zone0/temp", 51700)
        power = self.power(self.daemon(power={"sysfs": files.path}))
        self.assertEqual((power.temperature_known, power.temperature_c, power.temperature_source), (True, 51, "sysfs"))


if __name__ == "__main__":
    unittest.main()
